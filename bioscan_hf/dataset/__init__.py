"""Datasets: build, publish and load."""
