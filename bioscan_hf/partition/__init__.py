"""Partition of a metadata table into the BIOSCAN-5M splits."""
