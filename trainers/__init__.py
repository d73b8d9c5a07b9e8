"""Programs for `accelerate launch`: `trainers/NAME.py` in a checkout, `-m bioscan_hf.trainers.NAME` once installed."""
