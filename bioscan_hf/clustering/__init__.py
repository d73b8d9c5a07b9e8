"""Zero-shot clustering (Task II)."""
