"""Cards, pipelines, export and metrics for the Hugging Face Hub."""
