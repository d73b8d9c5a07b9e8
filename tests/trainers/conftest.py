from training_runs import datasets_cache  # noqa: F401
