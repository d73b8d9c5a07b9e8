"""Configurations, models, tokenizer and processor. Uploaded files import only their siblings."""
