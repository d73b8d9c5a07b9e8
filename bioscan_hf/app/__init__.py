"""The web page of `bioscan-hf app`: names for specimens, a collection, and clusters."""

import os

# Gradio and the Hub read these when they are imported: the page tells nobody that it runs.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
