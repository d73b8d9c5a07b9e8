"""Losses: gathered rows, contrastive, gradient caching."""
