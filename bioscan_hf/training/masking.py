"""Batches of masked k-mers for masked language modelling.

Source: BarcodeBERT, https://arxiv.org/abs/2311.02401
Shape letters: B = batch, L = tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..models.vocabularies import VOCABULARIES
from .collators import SeededCollator, barcodes_of
from .draws import draw_keys, uniform

#: Label that no loss counts.
IGNORED = -100

#: Vocabulary -> id of a masked k-mer. The models of 2023 were trained with id 1, which is not the id of <MASK>.
MASK_TOKEN_IDS = {"barcodebert": 0, "barcodebert-n": 0, "barcodebert-cls": 0, "barcodebert-2023": 1, "clibd": 1}
MASK_TOKEN_IDS |= {"barcodemamba": 0, "barcodemamba-char": 0}

LOSSES = ("masked", "valid", "weighted", "all", "next", "next-all")


@dataclass(frozen=True)
class Masking:
    """Which k-mers are masked, by what, and which are predicted.

    Args:
        mask_ratio: Probability of each k-mer to be masked, in (0, 1].
        loss_on: "masked" predicts the masked k-mers; "valid" also the visible ones, as in the published code;
            "weighted" has the same labels, for a loss that weights masked and visible k-mers; "all" predicts every
            position, padding and unknown k-mers included, as in the code of 2023; "next" masks nothing and labels each
            k-mer but the first, for a model that predicts the next k-mer; "next-all" labels padding and unknown k-mers
            too, as in the published BarcodeMamba.
        mask_token_share: Share of the masked k-mers that become the mask token.
        random_token_share: Share of the masked k-mers that become another k-mer. The rest stays unchanged.
        mask_token_id: Id of the mask token; None uses the id of the tokenizer's vocabulary.
        random_offset: Whether the reading frame is random: a barcode is read from its first, second, ... or k-th
            nucleotide. Otherwise it is read from the first.

    Raises:
        ValueError: if a value is not allowed.
    """

    mask_ratio: float = 0.5
    loss_on: str = "masked"
    mask_token_share: float = 1.0
    random_token_share: float = 0.0
    mask_token_id: int | None = None
    random_offset: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio <= 1:
            raise ValueError(
                f"mask_ratio is {self.mask_ratio}. Give a probability in (0, 1]; the published one is 0.5."
            )
        if self.loss_on not in LOSSES:
            raise ValueError(f"Unknown loss_on {self.loss_on!r}. Choose one of {', '.join(LOSSES)}.")
        mask, other = self.mask_token_share, self.random_token_share
        if mask < 0 or other < 0 or mask + other > 1 + 1e-9:
            raise ValueError(
                f"mask_token_share is {mask} and random_token_share is {other}. Give shares of the masked k-mers: "
                f"neither is negative, and their sum is at most 1."
            )


class MaskedKmerCollator(SeededCollator):
    """Makes batches of masked k-mers: `input_ids`, `attention_mask` and `labels`, all int64 (B, L).

    A k-mer can be masked if it holds only A, C, G and T and lies within the barcode. `labels` are token ids, -100
    where nothing is predicted. With `cut_padding`, a batch without padding has no `attention_mask`. With
    `loss_on="weighted"` there is also `masked`, bool (B, L), and with `label` also `taxon_labels`, int64 (B,).

    The masks of a barcode follow from the seed, the epoch (`set_epoch`) and the barcode.

    Args:
        tokenizer: A `KmerTokenizer`.
        cut_padding: Whether a batch is as long as its longest row, instead of as long as a full barcode. The masks are
            the same either way. Padding at the start (`barcodemamba`) is never cut.
        attend_padding: Leaves out `attention_mask`, so that padding is attended to, as in 2023.
        label: Column of the ids of taxa, negative where missing; None: no labels of taxa.

    Raises:
        ValueError: if padding is both cut and part of what is learned.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        masking: Masking = Masking(),  # noqa: B008  (frozen)
        *,
        seed: int = 0,
        cut_padding: bool = False,
        attend_padding: bool = False,
        label: str | None = None,
    ):
        super().__init__(seed)
        cut_padding = cut_padding and not VOCABULARIES[tokenizer.vocabulary].left
        if cut_padding and (masking.loss_on in ("all", "next-all") or attend_padding):
            raise ValueError(
                f"cut_padding is on, but padding is predicted (loss_on {masking.loss_on!r}) or attended to "
                f"(attend_padding). Turn cut_padding off."
            )
        self.tokenizer, self.masking, self.label = tokenizer, masking, label
        self.cut_padding, self.attend_padding = cut_padding, attend_padding
        published = MASK_TOKEN_IDS[tokenizer.vocabulary]
        self.mask_token_id = published if masking.mask_token_id is None else masking.mask_token_id
        self._first_kmer = tokenizer.convert_tokens_to_ids("A" * tokenizer.k)
        self._num_kmers = 4**tokenizer.k

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows that have a `dna_barcode`."""
        barcodes = barcodes_of(features)
        keys = draw_keys(barcodes, self.seed, self.epochs_of(features))
        frames = (uniform(keys, 0, 1)[:, 0] * self.tokenizer.k).astype(np.int64) if self.masking.random_offset else 0
        ids, attention_mask = self.tokenizer.encode_column(barcodes, offset=frames)  # both (B, L)
        length, loss_on = ids.shape[1], self.masking.loss_on

        kmers = ids - self._first_kmer
        maskable = (kmers >= 0) & (kmers < self._num_kmers) & (attention_mask == 1)
        drawn = uniform(keys, 1, length) < self.masking.mask_ratio
        masked = maskable & drawn & (loss_on not in ("next", "next-all"))
        later = np.broadcast_to(np.arange(length) > 0, ids.shape)
        labelled = {"masked": masked, "valid": maskable, "weighted": maskable, "all": True}
        labelled |= {"next": maskable & later, "next-all": later}
        batch = {
            "input_ids": np.where(masked, self._replacements(kmers, keys), ids),
            "attention_mask": attention_mask.astype(np.int64),
            "labels": np.where(labelled[loss_on], ids, IGNORED),
        }
        if loss_on == "weighted":
            batch["masked"] = masked
        longest = max(int(attention_mask.sum(1).max()), 1) if self.cut_padding else length
        cut = {name: torch.from_numpy(np.ascontiguousarray(value[:, :longest])) for name, value in batch.items()}
        if self.attend_padding or (self.cut_padding and bool(cut["attention_mask"].all())):
            del cut["attention_mask"]
        if self.label is not None:
            cut["taxon_labels"] = torch.tensor([feature[self.label] for feature in features])
        return cut

    def _replacements(self, kmers: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Token ids (B, L) that replace masked k-mers, given the k-mers' numbers."""
        length, masking = kmers.shape[1], self.masking
        if masking.mask_token_share == 1:
            return np.full_like(kmers, self.mask_token_id)
        lot = uniform(keys, 1 + length, length)
        step = 1 + (uniform(keys, 1 + 2 * length, length) * (self._num_kmers - 1)).astype(np.int64)
        other = self._first_kmer + (kmers + step) % self._num_kmers
        replaced = lot < masking.mask_token_share + masking.random_token_share
        kept_or_other = np.where(replaced, other, self._first_kmer + kmers)
        return np.where(lot < masking.mask_token_share, self.mask_token_id, kept_or_other)
