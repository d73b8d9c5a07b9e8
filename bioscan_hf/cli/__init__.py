"""The command line `bioscan-hf`: one file of commands per topic."""
