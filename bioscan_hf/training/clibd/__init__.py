"""Batches, options, data and trainers for CLIBD."""
