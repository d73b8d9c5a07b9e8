"""Configuration of the aligned-barcode encoder, which compares barcodes position by position.

Uploaded to the Hub beside the weights: needs only transformers.
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
    """Configuration of an aligned-barcode encoder. Values that contradict each other raise ValueError.

    Args:
        positions: Columns of the alignment: the length of a full barcode, 658 for the COI region of insects.
        anchor_k: Nucleotides of the k-mers that align a barcode, 4 to 8.
        embedding_size: Width of the learned part of the embedding; 0 for no learned part.
        hidden_size: Width of the hidden layer of the learned part; 0 makes the part a linear projection.
        dropout: Dropout of the hidden layer.
        profile_weight: Share of the profile in the cosine of two embeddings, in [0, 1]; the rest is the share of the
            learned part. Above 0, the embedding has 4 x `positions` more dimensions.
        k: Must be 1: the tokenizer is `KmerTokenizer(k=1)`.
        vocabulary: Must be "barcodebert", the vocabulary of the tokenizer.
        max_nucleotides: Maximum length of a barcode; the rest is cut off.
        pooling: Must be "masked_mean": padding does not change an embedding.
        training_data: Name of the dataset that the model was fitted to, if known.
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
        """Size of a profile: one number for each nucleotide at each position."""
        return 4 * self.positions

    @property
    def output_size(self) -> int:
        """Width of an embedding."""
        return self.embedding_size + (self.profile_size if self.profile_weight > 0 else 0)

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. `save_pretrained` also calls it."""
        if (self.k, self.vocabulary) != (1, "barcodebert"):
            raise ValueError(
                f"The tokens are single nucleotides (k=1, vocabulary='barcodebert'), not k={self.k} and "
                f"vocabulary={self.vocabulary!r}. Leave both out."
            )
        if self.pooling != "masked_mean":
            raise ValueError(f"pooling is {self.pooling!r}, but padding is always ignored. Leave pooling out.")
        if not 4 <= self.anchor_k <= 8:
            raise ValueError(f"anchor_k is {self.anchor_k}, but must be from 4 to 8.")
        if not self.anchor_k <= self.positions <= self.max_nucleotides:
            raise ValueError(
                f"positions ({self.positions}) must be at least anchor_k ({self.anchor_k}) and at most "
                f"max_nucleotides ({self.max_nucleotides})."
            )
        if not 0 <= self.profile_weight <= 1:
            raise ValueError(f"profile_weight is {self.profile_weight}, but must be in [0, 1].")
        if self.embedding_size < 0 or self.hidden_size < 0:
            raise ValueError(
                f"embedding_size ({self.embedding_size}) and hidden_size ({self.hidden_size}) must be 0 or more."
            )
        if (self.embedding_size == 0) != (self.profile_weight == 1):
            raise ValueError(
                f"embedding_size is {self.embedding_size} and profile_weight {self.profile_weight}. Without a learned "
                f"part (embedding_size 0), profile_weight must be 1; with one, it must be less than 1."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but must be in [0, 1).")


AlignedBarcodeConfig.register_for_auto_class()
