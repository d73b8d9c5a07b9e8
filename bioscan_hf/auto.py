"""Registers our models with transformers' Auto classes and our tasks with its `pipeline()`.

`import bioscan_hf.auto` does it, and so does the first use of a public name that needs transformers. After it,
`AutoModel.from_pretrained` and its siblings open our folders without trust_remote_code.
"""

from .hub.pipelines import register_pipelines
from .models import register  # noqa: F401

register_pipelines()
