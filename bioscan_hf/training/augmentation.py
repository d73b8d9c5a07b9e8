"""Barcodes as they might have been read: cut short, with substitutions, with unread stretches; and batches of them.

For learning that two reads of one species belong together. What is drawn for a barcode follows from a seed, the epoch
and the barcode's letters alone, as in pretraining.
Shape letters: B = batch, L = nucleotides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from .collators import uniform

#: Numbers drawn for a barcode before those of its nucleotides.
DRAWS = 6


@dataclass(frozen=True)
class Augmentation:
    """How strongly barcodes are altered; the default alters nothing.

    Args:
        truncation: Probability that nucleotides are cut off in front, and the same behind.
        largest_cut: Share of a barcode that may be cut off at an end, in [0, 0.5]; small cuts are likelier.
        substitution: Probability of a nucleotide at a first or second codon position to become another.
        third_substitution: The same at a third codon position, where most substitutions leave the protein as it is.
        unread: Probability that a stretch of up to 50 nucleotides becomes N.

    Raises:
        ValueError: for a value that is out of range.
    """

    truncation: float = 0.0
    largest_cut: float = 0.4
    substitution: float = 0.0
    third_substitution: float = 0.0
    unread: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, top = getattr(self, field.name), 0.5 if field.name == "largest_cut" else 1.0
            if not 0 <= value <= top:
                raise ValueError(f"{field.name} is {value}, but must lie between 0 and {top:g}.")


def augment(barcodes: Sequence[str], keys: NDArray[np.uint64], how: Augmentation) -> list[str]:
    """Altered barcodes, of which none is empty that was not. What is no A, C, G or T is never substituted.

    Args:
        keys: What each barcode's draws follow from, (B,).
    """
    if how == Augmentation(largest_cut=how.largest_cut) or not barcodes:
        return list(barcodes)
    lengths = np.array([len(barcode) for barcode in barcodes])
    text = _padded(barcodes, int(lengths.max()))  # (B, L)
    drawn = uniform(keys, 0, DRAWS)
    place = np.arange(text.shape[1])
    letters = _LETTERS[text]
    rate = np.full(text.shape, how.substitution)
    if how.third_substitution != how.substitution:
        third = (place - reading_frame(letters)[:, None]) % 3 == 2
        rate[third] = how.third_substitution
    lot = uniform(keys, DRAWS, text.shape[1])
    change = (lot < rate) & (letters < 4)
    # Of a number that lies below the rate, its place between 0 and the rate is uniform again.
    step = 1 + (3 * lot[change] / rate[change]).astype(np.uint8)
    text[change] = _NUCLEOTIDES[(letters[change] + step) % 4]
    begin = (drawn[:, 4] * lengths)[:, None]
    stretch = np.where(drawn[:, 5] < how.unread, 50 * drawn[:, 5] / max(how.unread, 1e-9), 0)[:, None]
    text[(place >= begin) & (place < begin + stretch)] = ord("N")
    cuts = how.largest_cut * drawn[:, :2] ** 3 * (drawn[:, 2:4] < how.truncation) * lengths[:, None]
    start, end = cuts[:, 0].astype(int), lengths - cuts[:, 1].astype(int)
    return [row[a:b].tobytes().decode("latin-1") for row, a, b in zip(text, start, end, strict=True)]


def reading_frame(letters: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Place of the first codon's first nucleotide, 0 to 2, in each of (B, L) barcodes of a coding gene.

    It is the frame with the fewest stop codons (TAA and TAG, in the mitochondrial code of invertebrates), and of
    equally good ones the first.

    Args:
        letters: 0 to 3 for A, C, G and T, 4 for all else.
    """
    if letters.shape[1] < 3:
        return np.zeros(len(letters), np.int64)
    first, second, third = letters[:, :-2], letters[:, 1:-1], letters[:, 2:]
    stop = (first == 3) & (second == 0) & ((third == 0) | (third == 2))
    return np.stack([stop[:, frame::3].sum(1) for frame in range(3)], axis=1).argmin(1)


class AugmentingCollator:
    """Makes batches of altered barcodes: `input_ids` and `attention_mask`, int64 (B, L), and `labels`, int64 (B, R).

    Args:
        tokenizer: A `KmerTokenizer`.
        ranks: Those of the labels, R of them: a row has a `<rank>_index` for each.
        views: How many altered reads of each row a batch holds, one after the other: B is so many times the rows.
        cut_padding: Whether L is that of the longest read of the batch, instead of that of a full barcode.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ranks: Sequence[str],
        how: Augmentation,
        *,
        views: int,
        seed: int,
        cut_padding: bool = True,
    ):
        if views < 1:
            raise ValueError(f"views is {views}, but a batch holds each barcode once or more.")
        self.tokenizer, self.ranks, self.how, self.views, self.seed = tokenizer, list(ranks), how, views, seed
        self.cut_padding = cut_padding
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epochs differ in what they draw; call this before each one begins."""
        self.epoch = epoch

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows that have a `dna_barcode`, and a `<rank>_index` for each rank."""
        barcodes = [feature["dna_barcode"] for feature in features]
        if None in barcodes:
            raise ValueError(
                f"{barcodes.count(None)} of {len(barcodes)} rows have no barcode. Leave them out of the dataset."
            )
        reads: list[str] = []
        for view in range(self.views):
            reads += augment(barcodes, self._keys(barcodes, view), self.how)
        ids, mask = self.tokenizer.encode_column(reads)
        longest = max(int(mask.sum(1).max()), 1) if self.cut_padding else ids.shape[1]
        labels = torch.tensor([[feature[f"{rank}_index"] for rank in self.ranks] for feature in features])
        return {
            "input_ids": torch.from_numpy(np.ascontiguousarray(ids[:, :longest])),
            "attention_mask": torch.from_numpy(np.ascontiguousarray(mask[:, :longest], np.int64)),
            "labels": labels.repeat(self.views, 1),
        }

    def _keys(self, barcodes: Sequence[str], view: int) -> NDArray[np.uint64]:
        key = f"{self.seed}:{self.epoch}:{view}".encode()
        digests = b"".join(blake2b(barcode.encode(), digest_size=8, key=key).digest() for barcode in barcodes)
        return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)


def _padded(barcodes: Sequence[str], width: int) -> NDArray[np.uint8]:
    joined = bytearray().join(barcode.encode("latin-1", "replace").ljust(width) for barcode in barcodes)
    return np.frombuffer(joined, np.uint8).reshape(len(barcodes), width)  # writable, as the bytearray is


_NUCLEOTIDES = np.frombuffer(b"ACGT", np.uint8)
_LETTERS = np.full(256, 4, np.uint8)  # 4: no nucleotide
_LETTERS[_NUCLEOTIDES] = range(4)
