"""Crops of photos by bounding boxes or a detector."""
