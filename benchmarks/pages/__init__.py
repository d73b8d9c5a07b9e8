"""Blocks of README and of docs/measured, rendered from benchmarks/results."""
