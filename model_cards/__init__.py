"""Templates of model cards; `bioscan_hf.hub.model_cards` fills them from a results file."""
