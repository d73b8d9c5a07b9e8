"""The builder of BIOSCAN-5M and the card of the dataset that it makes."""
