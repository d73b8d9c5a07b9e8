"""Benchmarks on embeddings: probing, retrieval, Bayesian zero-shot learning."""
