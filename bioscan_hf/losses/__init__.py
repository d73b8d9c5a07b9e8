"""Contrastive losses, gathering of rows over processes, and gradient caching."""
