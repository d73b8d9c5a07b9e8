"""Configuration of BarcodeBERT, a masked language model of DNA barcodes.

Uploaded to the Hub beside the weights: needs transformers alone.
Paper: BarcodeBERT, https://arxiv.org/abs/2311.02401
"""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import BertConfig, PreTrainedConfig

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


def vocabulary_size(k: int, vocabulary: str) -> int:
    """Tokens of a vocabulary: its k-mers and its special tokens."""
    check_choice("vocabulary", vocabulary, tuple(VOCABULARIES))
    if k < 1:
        raise ValueError(f"k is {k}, but a token holds at least 1 nucleotide.")
    letters, special_tokens, _ = VOCABULARIES[vocabulary]
    return len(letters) ** k + special_tokens


def order_taxa(taxa: dict[str, list[str]] | None, ranks: Sequence[str] | None) -> dict[str, list[str]] | None:
    """`taxa` with its ranks in the order of `ranks`; None leaves them as they are.

    Raises:
        ValueError: if `ranks` are not those of `taxa`.
    """
    if ranks is None:
        return taxa
    if sorted(ranks) != sorted(taxa or ()):
        raise ValueError(f"ranks are {list(ranks)}, but those of taxa are {list(taxa or ())}. Leave ranks out.")
    return {rank: taxa[rank] for rank in ranks} if taxa is not None else None


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose one of {', '.join(choices)}.")


def check_barcodes(k: int, vocabulary: str, max_nucleotides: int, vocab_size: int | None, pooling: str) -> None:
    """Raises ValueError if what a config says of barcodes and their tokens contradicts itself."""
    check_choice("pooling", pooling, POOLINGS)
    expected = vocabulary_size(k, vocabulary)
    letters, special_tokens, _ = VOCABULARIES[vocabulary]
    if vocab_size != expected:
        raise ValueError(
            f"vocab_size is {vocab_size}, but k={k} and vocabulary={vocabulary!r} make {expected} "
            f"({len(letters)}**{k} k-mers and {special_tokens} special tokens). Leave vocab_size out, or "
            f"correct k or vocabulary."
        )
    if max_nucleotides < k:
        raise ValueError(f"max_nucleotides ({max_nucleotides}) must be at least k ({k}).")


def check_taxa(
    taxa: Mapping[str, Sequence[str]] | None,
    parents: Mapping[str, Sequence[int]] | None,
    id2label: Mapping[Any, str] | None,
) -> None:
    """Raises ValueError unless `taxa` and `parents` describe a tree of several ranks, or both are None."""
    if taxa is None:
        if parents is not None:
            raise ValueError("parents are given without taxa. Pass both, or neither.")
        return
    ranks = list(taxa)
    if len(ranks) < 2:
        raise ValueError(f"taxa has the ranks {ranks}, but is for two ranks or more. For one rank, pass id2label.")
    if id2label is not None and set(id2label.values()) != {"LABEL_0", "LABEL_1"}:
        raise ValueError(
            f"id2label names {len(id2label)} classes, and taxa names them too. Pass id2label=None, label2id=None "
            f"with taxa."
        )
    if parents is None or sorted(parents) != sorted(ranks[1:]):
        raise ValueError(
            f"parents are given for {sorted(parents or ())}, but have to be for {ranks[1:]}: each rank of taxa but "
            f"the highest. Where a parent is not known, write -1."
        )
    for above, rank in zip([None, *ranks], ranks, strict=False):
        names = taxa[rank]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"taxa[{rank!r}] has {len(names)} names, {len(set(names))} of them distinct. Each class "
                f"takes a name of its own, and a rank one class at least."
            )
        if above is None:
            continue
        if len(parents[rank]) != len(names):
            raise ValueError(
                f"parents[{rank!r}] has {len(parents[rank])} entries, but taxa[{rank!r}] has "
                f"{len(names)} classes. Pass one parent for each class."
            )
        wrong = [parent for parent in parents[rank] if not -1 <= parent < len(taxa[above])]
        if wrong:
            raise ValueError(
                f"parents[{rank!r}] holds {wrong[0]}, but the ids of {above!r} are 0 to "
                f"{len(taxa[above]) - 1}, and -1 is an unknown one."
            )


class BarcodeConfigMixin:
    """What the config of every barcode encoder derives from `k`, `vocabulary`, `max_nucleotides` and `taxa`."""

    k: int
    vocabulary: str
    max_nucleotides: int
    taxa: dict[str, list[str]] | None

    @property
    def num_special_tokens(self) -> int:
        """Special tokens of the vocabulary; the id of a k-mer of ACGT is its number plus this."""
        return VOCABULARIES[self.vocabulary][1]

    @property
    def num_kmers(self) -> int:
        """K-mers of ACGT, which are what the masked-LM head tells apart."""
        return 4**self.k

    @property
    def max_tokens(self) -> int:
        """Tokens of a full-length barcode."""
        return self.max_nucleotides // self.k + VOCABULARIES[self.vocabulary][2]

    @property
    def num_labels(self) -> int | None:
        """Classes of the taxon classifier: those of all ranks of `taxa` together, or the names of `id2label`."""
        if self.taxa is None:
            return PreTrainedConfig.num_labels.fget(self)  # type: ignore[attr-defined]
        return sum(len(names) for names in self.taxa.values())

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        if self.taxa is None:
            PreTrainedConfig.num_labels.fset(self, num_labels)  # type: ignore[attr-defined]
        elif num_labels != self.num_labels:
            raise ValueError(
                f"num_labels is {num_labels}, but the ranks of taxa have {self.num_labels} classes together. "
                f"Leave num_labels out."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields, and `ranks`: the order of `taxa`, which JSON files lose because their keys are sorted."""
        fields = super().to_dict()  # type: ignore[misc]
        if self.taxa is not None:
            fields["ranks"] = list(self.taxa)
        return fields


@strict
class BarcodeBertConfig(BarcodeConfigMixin, BertConfig):
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
        sparse_prediction: With labels, apply the masked-LM head to the labelled positions alone: `logits` is then
            (labelled positions, classes), and the loss the same for less work.
        taxa: For a classifier of several ranks: rank -> names of its classes, the highest rank first. None is a
            classifier of one rank, whose names are in `id2label`.
        parents: Each rank of `taxa` but the first -> for each of its classes, the id of the class that it belongs to
            at the rank before; -1 where that is not known.
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
    sparse_prediction: bool = False
    taxa: dict[str, list[str]] | None = None
    parents: dict[str, list[int]] | None = None
    vocab_size: int | None = None  # type: ignore[assignment]
    training_data: str | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    use_cache: bool = False  # there is nothing to cache in an encoder, but gradient checkpointing would remark on it

    def __post_init__(self, **kwargs: Any) -> None:
        expected = vocabulary_size(self.k, self.vocabulary)
        self.vocab_size = expected if self.vocab_size is None else self.vocab_size
        self.taxa = order_taxa(self.taxa, kwargs.pop("ranks", None))
        if self.taxa is not None and self.id2label is None:
            kwargs.setdefault("num_labels", self.num_labels)  # or transformers 5.6 would set it to 2
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. Saving calls it, too."""
        check_choice("mlm_head", self.mlm_head, MLM_HEADS)
        check_barcodes(self.k, self.vocabulary, self.max_nucleotides, self.vocab_size, self.pooling)
        check_taxa(self.taxa, self.parents, self.id2label)
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )
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


BarcodeBertConfig.register_for_auto_class()
