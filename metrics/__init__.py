"""The metrics as folders for `evaluate.load`; each can be pushed to a Space of the Hub."""
