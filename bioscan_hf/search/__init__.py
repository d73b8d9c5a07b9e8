"""Nearest-neighbour search: the only place where neighbours are searched."""
