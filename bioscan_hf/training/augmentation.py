"""Random alterations of barcodes: truncation, substitutions, unread stretches; and batches of altered barcodes.

For learning that two reads of a species belong together. The draws of a barcode follow from a seed, the epoch and the
barcode.
Shape letters: B = batch, L = nucleotides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from .collators import SeededCollator, barcodes_of, token_batch
from .draws import draw_keys, uniform

#: Numbers drawn for a barcode before those of its nucleotides.
DRAWS = 6

#: Longest unread stretch, in nucleotides.
LONGEST_STRETCH = 50


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of the alterations of a barcode; the default alters nothing.

    Args:
        truncation: Probability that nucleotides are cut off at the start, and the same at the end.
        largest_cut: Largest share of a barcode that is cut off at an end, in [0, 0.5]; small cuts are more likely.
        substitution: Probability that a nucleotide at a first or second codon position becomes another.
        third_substitution: The same at a third codon position, where most substitutions do not change the protein.
        unread: Probability that a stretch of up to 50 nucleotides becomes N.

    Raises:
        ValueError: if a value is out of range.
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
                raise ValueError(f"{field.name} is {value}. Give a number from 0 to {top:g}.")


def augment(barcodes: Sequence[str], keys: NDArray[np.uint64], how: Augmentation) -> list[str]:
    """Altered barcodes. A non-empty barcode never becomes empty; only A, C, G and T are substituted.

    Args:
        keys: Keys of the random streams of the barcodes, (B,).
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
    # A number below the rate, divided by the rate, is uniform in [0, 1) again.
    step = 1 + (3 * lot[change] / rate[change]).astype(np.uint8)
    text[change] = _NUCLEOTIDES[(letters[change] + step) % 4]
    begin = (drawn[:, 4] * lengths)[:, None]
    stretch = np.where(drawn[:, 5] < how.unread, LONGEST_STRETCH * drawn[:, 5] / max(how.unread, 1e-9), 0)[:, None]
    text[(place >= begin) & (place < begin + stretch)] = ord("N")
    cuts = how.largest_cut * drawn[:, :2] ** 3 * (drawn[:, 2:4] < how.truncation) * lengths[:, None]
    start, end = cuts[:, 0].astype(int), lengths - cuts[:, 1].astype(int)
    return [row[a:b].tobytes().decode("latin-1") for row, a, b in zip(text, start, end, strict=True)]


def reading_frame(letters: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Position (0 to 2) of the first codon in each of (B, L) barcodes of a coding gene.

    It is the frame with the fewest stop codons (TAA and TAG, in the mitochondrial code of invertebrates), and the
    first of equally good frames.

    Args:
        letters: 0 to 3 for A, C, G and T, 4 for anything else.
    """
    if letters.shape[1] < 3:
        return np.zeros(len(letters), np.int64)
    first, second, third = letters[:, :-2], letters[:, 1:-1], letters[:, 2:]
    stop = (first == 3) & (second == 0) & ((third == 0) | (third == 2))
    return np.stack([stop[:, frame::3].sum(1) for frame in range(3)], axis=1).argmin(1)


class AugmentingCollator(SeededCollator):
    """Makes batches of altered barcodes: `input_ids` and `attention_mask`, int64 (B, L), and `labels`, int64 (B, R).

    Args:
        tokenizer: A `KmerTokenizer`.
        ranks: The R ranks of the labels; a row has a `<rank>_index` for each.
        how: The alterations.
        views: Altered reads per row; B is `views` times the number of rows, all first views first.
        cut_padding: Whether L is the length of the longest read, instead of the length of a full barcode.
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
        super().__init__(seed)
        if views < 1:
            raise ValueError(f"views is {views}. Give 1 or more.")
        self.tokenizer, self.ranks, self.how = tokenizer, list(ranks), how
        self.views, self.cut_padding = views, cut_padding

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows that have a `dna_barcode`, and a `<rank>_index` for each rank."""
        barcodes, epochs = barcodes_of(features), self.epochs_of(features)
        reads: list[str] = []
        for view in range(self.views):
            reads += augment(barcodes, draw_keys(barcodes, self.seed, epochs, view), self.how)
        labels = torch.tensor([[feature[f"{rank}_index"] for rank in self.ranks] for feature in features])
        return token_batch(self.tokenizer, reads, 0, self.cut_padding) | {"labels": labels.repeat(self.views, 1)}


def _padded(barcodes: Sequence[str], width: int) -> NDArray[np.uint8]:
    """Barcodes as bytes (B, width), padded with spaces."""
    joined = bytearray().join(barcode.encode("latin-1", "replace").ljust(width) for barcode in barcodes)
    return np.frombuffer(joined, np.uint8).reshape(len(barcodes), width)  # writable, because the bytearray is


_NUCLEOTIDES = np.frombuffer(b"ACGT", np.uint8)
_LETTERS = np.full(256, 4, np.uint8)  # 4: not a nucleotide
_LETTERS[_NUCLEOTIDES] = range(4)
