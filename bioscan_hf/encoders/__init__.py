"""Barcode and photo encoders, and how embeddings are written."""
