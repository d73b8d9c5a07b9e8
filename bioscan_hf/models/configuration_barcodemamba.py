"""Configuration of BarcodeMamba, a state-space model of DNA barcodes read from the first nucleotide to the last.

Uploaded to the Hub beside the weights, with the configuration of BarcodeBERT: needs transformers alone.
Paper: BarcodeMamba, https://arxiv.org/abs/2412.11084
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Mamba2Config

from .configuration_barcodebert import (
    BarcodeConfigMixin,
    check_barcodes,
    check_choice,
    check_taxa,
    order_taxa,
    vocabulary_size,
)

OBJECTIVES = ("masked", "next")

#: The two published shapes: `BarcodeMambaConfig(**SIZES["large"])`. The small one is the default.
SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 2, "head_dim": 48, "state_size": 64},
    "large": {"hidden_size": 768, "num_hidden_layers": 6, "head_dim": 64, "state_size": 64},
}

#: Every head, whichever of them a folder holds.
AUTO_MAP = {
    "AutoConfig": "configuration_barcodemamba.BarcodeMambaConfig",
    "AutoModel": "modeling_barcodemamba.BarcodeMambaModel",
    "AutoModelForMaskedLM": "modeling_barcodemamba.BarcodeMambaForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_barcodemamba.BarcodeMambaForSequenceClassification",
}


@strict
class BarcodeMambaConfig(BarcodeConfigMixin, Mamba2Config):
    """Shape of a BarcodeMamba; by default the small published one, over k-mers of 4 nucleotides.

    Args:
        k: Nucleotides in one token; tokens do not overlap. 1 reads single nucleotides.
        vocabulary: As in `BarcodeBertConfig`.
        max_nucleotides: Nucleotides of a barcode that are read.
        pooling: As in `BarcodeBertConfig`; "mean" is the published one.
        objective: What `BarcodeMambaForMaskedLM` learns to predict: "masked" is the labelled k-mer itself, "next" the
            one after each position, as in the published pretraining.
        sparse_prediction: As in `BarcodeBertConfig`.
        taxa: As in `BarcodeBertConfig`.
        parents: As in `BarcodeBertConfig`.
        vocab_size: Follows from `k` and `vocabulary`; None fills it in.
        num_heads: Follows from `hidden_size`, `expand` and `head_dim`; None fills it in.
        chunk_size: Tokens that are computed as one block. It changes speed and memory, not the result.
        pad_token_id: None; padding is told by the attention mask, and nothing is generated.
        training_data: Name of the dataset that the weights were trained on, where it is known.
        classifier_dropout: Dropout before the taxon classifier; None is none.

    Raises:
        ValueError: if values contradict each other.
    """

    model_type = "barcodemamba"

    k: int = 4
    vocabulary: str = "barcodebert"
    max_nucleotides: int = 660
    pooling: str = "masked_mean"
    objective: str = "masked"
    sparse_prediction: bool = False
    taxa: dict[str, list[str]] | None = None
    parents: dict[str, list[int]] | None = None
    vocab_size: int | None = None  # type: ignore[assignment]
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
    use_cache: bool = False  # a barcode is read once

    def __post_init__(self, **kwargs: Any) -> None:
        expected = vocabulary_size(self.k, self.vocabulary)
        self.vocab_size = expected if self.vocab_size is None else self.vocab_size
        if self.num_heads is None and self.head_dim > 0:
            self.num_heads = self.hidden_size * self.expand // self.head_dim
        self.taxa = order_taxa(self.taxa, kwargs.pop("ranks", None))
        if self.taxa is not None and self.id2label is None:
            kwargs.setdefault("num_labels", self.num_labels)  # or transformers 5.6 would set it to 2
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. Saving calls it, too."""
        check_choice("objective", self.objective, OBJECTIVES)
        check_barcodes(self.k, self.vocabulary, self.max_nucleotides, self.vocab_size, self.pooling)
        check_taxa(self.taxa, self.parents, self.id2label)
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
            raise ValueError(f"chunk_size is {self.chunk_size}, but a block holds at least 1 token.")


BarcodeMambaConfig.register_for_auto_class()
