"""Configuration of BarcodeBERT, a masked language model of DNA barcodes.

Uploaded to the Hub beside the weights: needs transformers alone.
Paper: BarcodeBERT, https://arxiv.org/abs/2311.02401
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import BertConfig

#: Vocabulary -> (letters of its k-mers, special tokens before them, special tokens in front of every barcode).
#: They are the vocabularies of `KmerTokenizer`.
VOCABULARIES = {
    "barcodebert": ("ACGT", 2, 0),
    "barcodebert-n": ("ACGTN", 2, 0),
    "barcodebert-2023": ("ACGT", 3, 0),
    "clibd": ("ACGT", 3, 1),
}

POOLINGS = ("masked_mean", "mean")

MLM_HEADS = ("kmers", "tied")

#: Every head, whichever of them a folder holds: `AutoModel` has to open a masked-LM checkpoint too.
AUTO_MAP = {
    "AutoConfig": "configuration_barcodebert.BarcodeBertConfig",
    "AutoModel": "modeling_barcodebert.BarcodeBertModel",
    "AutoModelForMaskedLM": "modeling_barcodebert.BarcodeBertForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_barcodebert.BarcodeBertForSequenceClassification",
}


@strict
class BarcodeBertConfig(BertConfig):
    """Shape of a BarcodeBERT; by default the published one with k = 4, 4 layers and 4 heads.

    Args:
        k: Nucleotides in one token; tokens do not overlap.
        vocabulary: "barcodebert" ([MASK], [UNK], k-mers of ACGT), "barcodebert-n" (also the k-mers that hold an N),
            "barcodebert-2023" (three special tokens) or "clibd" (the same, and one of them leads every barcode).
        max_nucleotides: Nucleotides of a barcode that are read.
        pooling: How a barcode's embedding is made of its tokens'. "masked_mean" is the mean over the attended
            tokens, as in the published probes; "mean" is the mean over all positions, padding included, as in the
            published fine-tuning.
        mlm_head: "kmers" is a linear layer to the `4**k` k-mers of ACGT; "tied" is BERT's own head over the whole
            vocabulary, tied to the embeddings, as in the checkpoints of 2023.
        vocab_size: Follows from `k` and `vocabulary`; None fills it in.
        pad_token_id: 0, and nothing else. It is the id of [MASK], whose embedding is thereby zero and never trained,
            as in every published checkpoint.
        training_data: Name of the dataset that the weights were trained on, where it is known.
        classifier_dropout: Dropout before the taxon classifier; None is none, as published.

    Raises:
        ValueError: if values contradict each other.
    """

    model_type = "barcodebert"

    k: int = 4
    vocabulary: str = "barcodebert"
    max_nucleotides: int = 660
    pooling: str = "masked_mean"
    mlm_head: str = "kmers"
    vocab_size: int | None = None  # type: ignore[assignment]
    training_data: str | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    use_cache: bool = False  # there is nothing to cache in an encoder, but gradient checkpointing would remark on it

    def __post_init__(self, **kwargs: Any) -> None:
        _check_choice("vocabulary", self.vocabulary, tuple(VOCABULARIES))
        if self.k < 1:
            raise ValueError(f"k is {self.k}, but a token holds at least 1 nucleotide.")
        if self.vocab_size is None:
            letters, special_tokens, _ = VOCABULARIES[self.vocabulary]
            self.vocab_size = len(letters) ** self.k + special_tokens
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        self.validate_architecture()

    @property
    def num_special_tokens(self) -> int:
        """Special tokens of the vocabulary; the id of a k-mer of ACGT is its number plus this."""
        return VOCABULARIES[self.vocabulary][1]

    @property
    def num_kmers(self) -> int:
        """K-mers of ACGT, which are what the "kmers" head tells apart."""
        return 4**self.k

    @property
    def max_tokens(self) -> int:
        """Tokens of a full-length barcode."""
        return self.max_nucleotides // self.k + VOCABULARIES[self.vocabulary][2]

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. Saving calls it, too."""
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("mlm_head", self.mlm_head, MLM_HEADS)
        letters, special_tokens, _ = VOCABULARIES[self.vocabulary]
        expected = len(letters) ** self.k + special_tokens
        if self.vocab_size != expected:
            raise ValueError(
                f"vocab_size is {self.vocab_size}, but k={self.k} and vocabulary={self.vocabulary!r} make {expected} "
                f"({len(letters)}**{self.k} k-mers and {special_tokens} special tokens). Leave vocab_size out, or "
                f"correct k or vocabulary."
            )
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )
        if self.max_nucleotides < self.k:
            raise ValueError(f"max_nucleotides ({self.max_nucleotides}) must be at least k ({self.k}).")
        if self.max_position_embeddings < self.max_tokens:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}, but {self.max_nucleotides} nucleotides "
                f"at k={self.k} are {self.max_tokens} tokens. Set it to {self.max_tokens} or more."
            )
        if self.pad_token_id != 0:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}, but BarcodeBERT needs 0, the id whose embedding stays zero. "
                f"`Trainer(processing_class=tokenizer)` overwrites it: save the tokenizer yourself instead."
            )
        if self.is_decoder:
            raise ValueError("is_decoder is True, but BarcodeBERT is an encoder. Leave is_decoder out.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose one of {', '.join(choices)}.")


BarcodeBertConfig.register_for_auto_class()
