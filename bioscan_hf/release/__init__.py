"""The published BIOSCAN-5M files: catalogue, download, tables, photos, checks."""
