"""The command line, `bioscan-hf`."""
