"""Data, collators and trainers."""
