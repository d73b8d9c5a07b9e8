"""Templates of cards (Jinja). `bioscan_hf.hub.cards` and `hub.dataset_cards` fill them from results files."""
