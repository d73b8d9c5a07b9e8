"""A simulated BIOSCAN-5M release for tests and demos."""
