"""Configuration of BarcodeMamba, a causal state-space model of DNA barcodes.

Uploaded to the Hub beside the weights and the configuration of BarcodeBERT: needs only transformers.
Paper: BarcodeMamba, https://arxiv.org/abs/2412.11084
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Mamba2Config

from .configuration_barcodebert import BarcodeConfigMixin
from .vocabularies import check_choice

OBJECTIVES = ("masked", "next")
BLOCKS = ("plain", "published")

#: The published model is `BarcodeMambaConfig(**PUBLISHED, k=6)`; of single nucleotides with the vocabulary
#: "barcodemamba-char" and k=1.
PUBLISHED = {"block": "published", "vocabulary": "barcodemamba", "pooling": "mean", "objective": "next"}

#: The published vocabulary is padded to a multiple of this number of tokens.
MULTIPLE = 8

#: The two published shapes: `BarcodeMambaConfig(**SIZES["large"])`. The small one is the default.
SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 2, "head_dim": 48, "state_size": 64},
    "large": {"hidden_size": 768, "num_hidden_layers": 6, "head_dim": 64, "state_size": 64},
}

#: All heads, because `AutoModel` also loads the encoder of a masked-LM checkpoint.
AUTO_MAP = {
    "AutoConfig": "configuration_barcodemamba.BarcodeMambaConfig",
    "AutoModel": "modeling_barcodemamba.BarcodeMambaModel",
    "AutoModelForMaskedLM": "modeling_barcodemamba.BarcodeMambaForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_barcodemamba.BarcodeMambaForSequenceClassification",
}


@strict
class BarcodeMambaConfig(BarcodeConfigMixin, Mamba2Config):
    """Configuration of BarcodeMamba; the defaults are the small published size with k-mers of 4 nucleotides.

    Args:
        k, vocabulary, max_nucleotides, sparse_prediction, taxa, parents, vocab_size, extra_tokens, training_data: As
            in `BarcodeBertConfig`.
        block: "plain" is Mamba-2 as in transformers: RMSNorm, mixer, residual. "published" is the published block:
            LayerNorm, mixer, residual, LayerNorm, MLP, residual. The head then predicts all tokens, and the encoder
            reads the attention mask only to find empty barcodes.
        intermediate_size: Width of the MLP of the published block; None is 4 times `hidden_size`.
        embedding_dropout: Dropout after the embeddings of the published block.
        pooling: As in `BarcodeBertConfig`; "mean" is the published one.
        objective: How `BarcodeMambaForMaskedLM` predicts a k-mer: "masked" from its own position, "next" from the
            positions before, as in the published pretraining.
        num_heads: None computes it from `hidden_size`, `expand` and `head_dim`.
        chunk_size: Tokens per block of the scan. It changes speed and memory, not the result.
        pad_token_id: None, because the attention mask marks padding.
        classifier_dropout: Dropout before the taxon classifier; None is 0.

    Raises:
        ValueError: if values contradict each other.
    """

    model_type = "barcodemamba"

    k: int = 4
    vocabulary: str = "barcodebert"
    max_nucleotides: int = 660
    block: str = "plain"
    intermediate_size: int | None = None
    embedding_dropout: float = 0.1
    pooling: str = "masked_mean"
    objective: str = "masked"
    sparse_prediction: bool = False
    taxa: dict[str, list[str]] | None = None
    parents: dict[str, list[int]] | None = None
    vocab_size: int | None = None  # type: ignore[assignment]
    extra_tokens: int = 0
    training_data: str | None = None
    classifier_dropout: float | None = None
    hidden_size: int = 384
    num_hidden_layers: int = 2
    num_heads: int | None = None  # type: ignore[assignment]
    head_dim: int = 48
    state_size: int = 64
    n_groups: int = 1
    chunk_size: int = 64
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    use_cache: bool = False

    _auto_map = AUTO_MAP

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_heads is None and self.head_dim > 0:
            self.num_heads = self.hidden_size * self.expand // self.head_dim
        if self.block == "published" and self.vocab_size is None and not self.extra_tokens:
            self.extra_tokens = -self._vocabulary_size() % MULTIPLE
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. `save_pretrained` also calls it."""
        super().validate_architecture()
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("block", self.block, BLOCKS)
        width = self.hidden_size * self.expand
        if self.num_heads is None or self.num_heads < 1 or self.num_heads * self.head_dim != width:
            raise ValueError(
                f"num_heads ({self.num_heads}) times head_dim ({self.head_dim}) must be hidden_size "
                f"({self.hidden_size}) times expand ({self.expand}), {width}. Leave num_heads out, and choose a "
                f"head_dim that divides {width}."
            )
        if self.n_groups < 1 or self.num_heads % self.n_groups or width % self.n_groups:
            raise ValueError(
                f"n_groups is {self.n_groups}, but must divide the {self.num_heads} heads and the width {width}."
            )
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size is {self.chunk_size}; give 1 token or more.")


BarcodeMambaConfig.register_for_auto_class()
