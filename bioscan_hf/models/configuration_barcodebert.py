"""Configuration of BarcodeBERT and BarcodeMAE, encoders of DNA barcodes that learn from masked k-mers.

Uploaded to the Hub beside the weights: needs only transformers.
Papers: BarcodeBERT, https://arxiv.org/abs/2311.02401; BarcodeMAE, https://arxiv.org/abs/2502.18405
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import BertConfig, PreTrainedConfig

from .vocabularies import VOCABULARIES, check_choice

POOLINGS = ("masked_mean", "mean", "cls", "tokens")

#: Losses on the [CLS] token that learn from names of taxa.
TAXON_OBJECTIVES = ("classes", "pairs", "triplet")

PROJECTIONS = ("always", "auto")

#: All heads, because `AutoModel` also loads the encoder of a masked-LM checkpoint.
AUTO_MAP = {
    "AutoConfig": "configuration_barcodebert.BarcodeBertConfig",
    "AutoModel": "modeling_barcodebert.BarcodeBertModel",
    "AutoModelForMaskedLM": "modeling_barcodebert.BarcodeBertForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_barcodebert.BarcodeBertForSequenceClassification",
}


#: Entry of the folders that hold a decoder.
MAE_AUTO_MAP = {"AutoModelForPreTraining": "modeling_barcodemae.BarcodeMaeForPreTraining"}


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
        raise ValueError(f"taxa has the ranks {ranks}; give two ranks or more, or id2label for one rank.")
    if id2label and set(id2label.values()) != {"LABEL_0", "LABEL_1"}:
        raise ValueError(
            f"id2label and taxa both name classes ({len(id2label)} in id2label). With taxa, pass id2label=None and "
            f"label2id=None."
        )
    if parents is None or sorted(parents) != sorted(ranks[1:]):
        raise ValueError(
            f"parents are given for {sorted(parents or ())}; give them for {ranks[1:]}, each rank of taxa but the "
            f"highest, with -1 for an unknown parent."
        )
    for rank, names in taxa.items():
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"taxa[{rank!r}] has {len(names)} names, {len(set(names))} of them distinct. Give one or more "
                f"distinct names."
            )
    for above, rank in pairwise(ranks):
        if len(parents[rank]) != len(taxa[rank]):
            raise ValueError(
                f"parents[{rank!r}] has {len(parents[rank])} entries, but taxa[{rank!r}] has {len(taxa[rank])} "
                f"classes. Pass one parent for each class."
            )
        last = len(taxa[above]) - 1
        if wrong := [parent for parent in parents[rank] if not -1 <= parent <= last]:
            raise ValueError(
                f"parents[{rank!r}] holds {wrong[0]}; ids of {above!r} are 0 to {last}, or -1 if unknown."
            )


class _SeveralRanks(dict[int, str]):
    """The empty `id2label` of a classifier of several ranks, which says what to use instead."""

    def __missing__(self, key: int) -> str:
        raise ValueError(
            "This classifier has several ranks, so its logits have no single label. Use the task 'dna-classification' "
            "instead of 'text-classification', or model.predict_taxa(logits)."
        )


class BarcodeConfigMixin:
    """Properties and checks that the configs of barcode encoders share."""

    k: int
    vocabulary: str
    max_nucleotides: int
    pooling: str
    vocab_size: int | None
    extra_tokens: int
    num_hidden_layers: int
    taxa: dict[str, list[str]] | None
    parents: dict[str, list[int]] | None
    id2label: dict[Any, str] | None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vocab_size is None:
            self.vocab_size = self._vocabulary_size() + self.extra_tokens
        ranks = kwargs.pop("ranks", None)
        if ranks is not None:
            if sorted(ranks) != sorted(self.taxa or ()):
                raise ValueError(f"ranks are {ranks}, but those of taxa are {list(self.taxa or ())}. Leave ranks out.")
            self.taxa = {rank: (self.taxa or {})[rank] for rank in ranks}
        super().__post_init__(**kwargs)  # type: ignore[misc]
        self.auto_map = dict(self._auto_map)  # type: ignore[attr-defined]
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. `save_pretrained` also calls it."""
        check_choice("pooling", self.pooling, POOLINGS)
        if self.pooling in ("cls", "tokens") and not self.use_cls_token:
            raise ValueError(
                f"pooling is {self.pooling!r}, but the vocabulary {self.vocabulary!r} has no [CLS] token. Use "
                f"'masked_mean', or the vocabulary 'barcodebert-cls'."
            )
        if self.extra_tokens < 0:
            raise ValueError(f"extra_tokens is {self.extra_tokens}; give 0 or more.")
        expected = self._vocabulary_size()
        if self.vocab_size != expected + self.extra_tokens:
            raise ValueError(
                f"vocab_size is {self.vocab_size}, but k={self.k} and vocabulary={self.vocabulary!r} give {expected} "
                f"k-mers and special tokens, and extra_tokens is {self.extra_tokens}. Leave vocab_size out, or "
                f"correct k or vocabulary."
            )
        if self.max_nucleotides < self.k:
            raise ValueError(f"max_nucleotides ({self.max_nucleotides}) must be at least k ({self.k}).")
        if self.num_hidden_layers < 0:
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers}; give 0 or more.")
        check_taxa(self.taxa, self.parents, self.id2label)
        if self.taxa is not None:
            self.id2label = _SeveralRanks()

    def _vocabulary_size(self) -> int:
        """Number of k-mers and special tokens."""
        check_choice("vocabulary", self.vocabulary, tuple(VOCABULARIES))
        form = VOCABULARIES[self.vocabulary]
        if not 1 <= self.k <= form.largest_k:
            raise ValueError(f"k is {self.k}; the vocabulary {self.vocabulary!r} takes 1 to {form.largest_k}.")
        return form.size(self.k)

    @property
    def num_special_tokens(self) -> int:
        """Number of special tokens, which is the id of the first k-mer."""
        return len(VOCABULARIES[self.vocabulary].special_tokens)

    @property
    def use_cls_token(self) -> bool:
        """Whether each barcode starts with [CLS], as the vocabulary says."""
        check_choice("vocabulary", self.vocabulary, tuple(VOCABULARIES))
        return VOCABULARIES[self.vocabulary].has_cls_token

    @property
    def num_kmers(self) -> int:
        """Number of k-mers of ACGT, the classes of the masked-LM head."""
        return 4**self.k

    @property
    def max_tokens(self) -> int:
        """Number of tokens of a full-length barcode."""
        return self.max_nucleotides // self.k + VOCABULARIES[self.vocabulary].num_leading

    @property
    def num_labels(self) -> int | None:
        """Number of classes: of all ranks of `taxa` together, or of `id2label`."""
        if self.taxa is None:
            return PreTrainedConfig.num_labels.fget(self)  # type: ignore[attr-defined]
        return sum(len(names) for names in self.taxa.values())

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        if self.taxa is None:
            PreTrainedConfig.num_labels.fset(self, num_labels)  # type: ignore[attr-defined]
        elif num_labels != self.num_labels:
            classes = f"taxa has {self.num_labels} classes at all ranks together"
            raise ValueError(f"num_labels is {num_labels}, but {classes}. Leave num_labels out.")

    def to_dict(self) -> dict[str, Any]:
        """The fields, and `ranks`, the order of `taxa`: JSON files have sorted keys."""
        fields = super().to_dict()  # type: ignore[misc]
        if self.taxa is not None:
            fields |= {"ranks": list(self.taxa), "id2label": None}
        return fields


@strict
class BarcodeBertConfig(BarcodeConfigMixin, BertConfig):
    """Configuration of BarcodeBERT; the defaults are the published k = 4, 4 layers and 4 heads.

    Args:
        k: Nucleotides in one token; tokens do not overlap.
        vocabulary: "barcodebert" ([MASK], [UNK], k-mers of ACGT), "barcodebert-n" (also k-mers with N),
            "barcodebert-2023" (three special tokens) or "clibd" (three special tokens, one before each barcode).
        max_nucleotides: Maximum length of a barcode; the rest is cut off.
        pooling: How tokens are pooled to an embedding. "masked_mean" is the mean over the attended tokens, as in the
            published probes; "mean" is the mean over all positions, padding included, as in the published fine-tuning.
        mlm_head: "kmers" is a linear layer to the `4**k` k-mers of ACGT; "tied" is BERT's own head over the whole
            vocabulary, tied to the embeddings, as in the checkpoints of 2023.
        sparse_prediction: With labels, apply the masked-LM head only to the labelled positions. `logits` is then
            (labelled positions, classes) and the loss is unchanged.
        taxa: For a classifier of several ranks: rank -> names of its classes, the highest rank first. None is a
            classifier of one rank, whose names are in `id2label`.
        parents: Each rank of `taxa` but the first -> for each class, the id of its parent at the rank above; -1 where
            unknown.
        vocab_size: None computes it from `k`, `vocabulary` and `extra_tokens`.
        extra_tokens: Tokens after those of the vocabulary; `resize_token_embeddings` sets it.
        pad_token_id: Must be 0, the id of [MASK], whose embedding is zero and not trained, as in every published
            checkpoint. The tokenizer's, which the Trainer sets, is ignored.
        decoder_num_hidden_layers: Layers of the decoder of `BarcodeMaeForPreTraining`; 0 is a model without decoder.
        decoder_num_attention_heads: Attention heads of the decoder; None: as many as the encoder.
        decoder_hidden_size: Width of the decoder; None: that of the encoder.
        decoder_intermediate_size: Width inside its feed-forward layers; None: that of the encoder.
        decoder_projection: "always" has a linear layer between encoder and decoder, as in the published BarcodeMAE;
            "auto" only if their widths differ, as in BarcodeMAE+.
        masked_loss_weight: w in w * mean loss of masked k-mers + (1 - w) * mean loss of visible ones, for
            `BarcodeMaeForPreTraining`; None is the mean over the given labels.
        taxon_objective: Loss on [CLS] that pretraining adds: "classes" (cross-entropy), "pairs" (same taxon or not) or
            "triplet", as in BarcodeMAE+; None adds none. It says which `taxon_head` the model has.
        taxon_objective_classes: For "classes": number of taxa.
        training_data: Name of the training dataset, if known.
        pretraining: Of a converted model: "mae" for an encoder of BarcodeMAE.
        classifier_dropout: Dropout before the taxon classifier; None is 0, as published.

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
    extra_tokens: int = 0
    decoder_num_hidden_layers: int = 0
    decoder_num_attention_heads: int | None = None
    decoder_hidden_size: int | None = None
    decoder_intermediate_size: int | None = None
    decoder_projection: str = "always"
    masked_loss_weight: float | None = None
    taxon_objective: str | None = None
    taxon_objective_classes: int = 0
    training_data: str | None = None
    pretraining: str | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    use_cache: bool = False  # an encoder has no cache, and True makes gradient checkpointing warn

    _auto_map = AUTO_MAP

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self._holds_decoder():
            self.auto_map |= MAE_AUTO_MAP

    def _holds_decoder(self) -> bool:
        """Whether the folder of this config holds a decoder, not only the encoder of such a folder."""
        return "BarcodeMaeForPreTraining" in (self.architectures or ())

    def to_dict(self) -> dict[str, Any]:
        """The fields; `auto_map` names the class with a decoder only where that is saved."""
        fields = super().to_dict()
        if not self._holds_decoder():
            fields["auto_map"] = {name: fields["auto_map"][name] for name in fields["auto_map"].keys() - MAE_AUTO_MAP}
        return fields

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field, except for the tokenizer's `pad_token_id`, which the Trainer would set."""
        if name == "pad_token_id" and "auto_map" in self.__dict__ and value == self._tokenizer_padding():
            return
        super().__setattr__(name, value)

    def _tokenizer_padding(self) -> int:
        """Id with which `KmerTokenizer` pads."""
        form = VOCABULARIES[self.vocabulary]
        return form.size(self.k) - 1 if "N" in form.letters else form.unknown

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. `save_pretrained` also calls it."""
        super().validate_architecture()
        check_choice("mlm_head", self.mlm_head, ("kmers", "tied"))
        if min(self.num_attention_heads, self.hidden_size) < 1 or self.hidden_size % self.num_attention_heads:
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
                f"pad_token_id is {self.pad_token_id}, but BarcodeBERT needs 0, the id with the zero embedding. Leave "
                f"pad_token_id out."
            )
        if self.is_decoder:
            raise ValueError("is_decoder is True, but BarcodeBERT is an encoder. Leave is_decoder out.")
        self._validate_pretraining()

    def _validate_pretraining(self) -> None:
        """Raises ValueError if the fields of the decoder or of the taxon objective contradict each other."""
        check_choice("decoder_projection", self.decoder_projection, PROJECTIONS)
        width = self.decoder_hidden_size or self.hidden_size
        heads = self.decoder_num_attention_heads or self.num_attention_heads
        if self.decoder_num_hidden_layers < 0 or width < 1 or heads < 1 or width % heads:
            raise ValueError(
                f"The decoder has {self.decoder_num_hidden_layers} layers, a width of {width} and {heads} heads. Give "
                f"0 layers or more, and a width that is a multiple of the heads (decoder_hidden_size, "
                f"decoder_num_attention_heads)."
            )
        if self.masked_loss_weight is not None and not 0 <= self.masked_loss_weight <= 1:
            raise ValueError(f"masked_loss_weight is {self.masked_loss_weight}. Give a weight in [0, 1], or None.")
        if self.taxon_objective is None:
            return
        check_choice("taxon_objective", self.taxon_objective, TAXON_OBJECTIVES)
        if not self.use_cls_token:
            raise ValueError(
                f"taxon_objective is {self.taxon_objective!r}, which needs [CLS], but the vocabulary "
                f"{self.vocabulary!r} has none. Use the vocabulary 'barcodebert-cls'."
            )
        if (self.taxon_objective == "classes") != (self.taxon_objective_classes >= 2):
            raise ValueError(
                f"taxon_objective is {self.taxon_objective!r} and taxon_objective_classes is "
                f"{self.taxon_objective_classes}. Give 2 classes or more with 'classes', and 0 otherwise."
            )


BarcodeBertConfig.register_for_auto_class()
