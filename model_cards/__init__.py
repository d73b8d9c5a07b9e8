"""Templates of model cards; `bioscan_hf.hub` fills them from a results file."""
