"""Configuration of the aligned-barcode encoder, which compares barcodes position by position.

Uploaded to the Hub beside the weights: needs transformers alone.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig

AUTO_MAP = {
    "AutoConfig": "configuration_alignedbarcode.AlignedBarcodeConfig",
    "AutoModel": "modeling_alignedbarcode.AlignedBarcodeModel",
}


@strict
class AlignedBarcodeConfig(PretrainedConfig):
    """Shape of an aligned-barcode encoder.

    Args:
        positions: Columns of the alignment: the length of a whole barcode, 658 for the region of COI that insects are
            barcoded by.
        anchor_k: Nucleotides of the k-mers by which a barcode finds its place, 4 to 8.
        embedding_size: Width of the learned part of the embedding; 0 leaves it out.
        hidden_size: Width of the hidden layer of the learned part; 0 leaves the layer out, which makes the part a
            linear projection.
        dropout: Dropout of the hidden layer.
        profile_weight: Share of the profile itself in the cosine of two embeddings, in [0, 1]; what is left is the
            learned part's. Above 0 the embedding has 4 x `positions` numbers more.
        k: 1: the tokenizer is `KmerTokenizer(k=1)`, which reads single nucleotides.
        vocabulary: Of the tokenizer: "barcodebert".
        max_nucleotides: Nucleotides of a barcode that are read.
        pooling: "masked_mean", which says as in `BarcodeBertConfig` that padding does not change an embedding.
        training_data: Name of the dataset that it was fitted to, where it is known.

    Raises:
        ValueError: if values contradict each other.
    """

    model_type = "alignedbarcode"

    positions: int = 658
    anchor_k: int = 6
    embedding_size: int = 256
    hidden_size: int = 1024
    dropout: float = 0.1
    profile_weight: float = 0.0
    k: int = 1
    vocabulary: str = "barcodebert"
    max_nucleotides: int = 660
    pooling: str = "masked_mean"
    training_data: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        self.validate_architecture()

    @property
    def profile_size(self) -> int:
        """Numbers of a profile: one for each nucleotide at each position."""
        return 4 * self.positions

    @property
    def output_size(self) -> int:
        """Width of an embedding."""
        return self.embedding_size + (self.profile_size if self.profile_weight > 0 else 0)

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. Saving calls it, too."""
        if (self.k, self.vocabulary) != (1, "barcodebert"):
            raise ValueError(
                f"The tokens are single nucleotides (k=1, vocabulary='barcodebert'), not k={self.k} and "
                f"vocabulary={self.vocabulary!r}. Leave both out."
            )
        if self.pooling != "masked_mean":
            raise ValueError(f"pooling is {self.pooling!r}, but padding never counts here. Leave pooling out.")
        if not 4 <= self.anchor_k <= 8:
            raise ValueError(f"anchor_k is {self.anchor_k}, but must lie between 4 and 8.")
        if self.positions < self.anchor_k:
            raise ValueError(f"positions ({self.positions}) must be at least anchor_k ({self.anchor_k}).")
        if self.max_nucleotides < self.positions:
            raise ValueError(
                f"max_nucleotides ({self.max_nucleotides}) must be at least positions ({self.positions}): shorter "
                f"reads hold no whole barcode."
            )
        if not 0 <= self.profile_weight <= 1:
            raise ValueError(f"profile_weight is {self.profile_weight}, but is a share in [0, 1].")
        if self.embedding_size < 0 or self.hidden_size < 0:
            raise ValueError(
                f"embedding_size ({self.embedding_size}) and hidden_size ({self.hidden_size}) are 0 or more."
            )
        if (self.embedding_size == 0) != (self.profile_weight == 1):
            raise ValueError(
                f"embedding_size is {self.embedding_size} and profile_weight {self.profile_weight}: without a learned "
                f"part (0) the profile is all there is (1), and beside a learned part it is less than 1."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but is a probability in [0, 1).")


AlignedBarcodeConfig.register_for_auto_class()
