"""Reads as numbers: letters, strand, place in the region of the references, and words of 6 nucleotides.

Shape letters: n = reads, L = nucleotides, P = positions of the region, W = 4,096 words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.configuration_alignedbarcode import AlignedBarcodeConfig
from ..models.modeling_alignedbarcode import FIRST_NUCLEOTIDE, NOTHING, AlignedBarcodeModel, anchor_ids

#: Nucleotides of a word.
WORD = 6

#: Smallest alignment score of a barcode of the region. Reads of other origin stay below 0.05.
LEAST_SCORE = 0.15

#: Fewest references, and smallest share of them, of one length, for a region of that length.
FEWEST_ALIKE, LEAST_ALIKE = 20, 0.1

#: From this number of references, their profiles are reduced to `WIDTH` principal components.
MANY, WIDTH = 20_000, 512

_CODES = np.full(256, NOTHING, np.uint8)
_CODES[list(b"ACGT")] = range(4)
_COMPLEMENT = str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")
_AT_ONCE = 1 << 20  # nucleotides that are placed at once

Numbers = NDArray[np.float32]


def complement(read: str) -> str:
    """The other strand of a read, from its own first nucleotide on."""
    return read.translate(_COMPLEMENT)[::-1]


def letters(reads: Sequence[str]) -> Tensor:
    """Codes 0 to 3 of A, C, G and T, 4 of all else and of padding, (n, L) int32."""
    width = max(map(len, reads), default=0)
    codes = np.full((len(reads), max(width, WORD)), NOTHING, np.uint8)
    for row, read in zip(codes, reads, strict=True):
        row[: len(read)] = _CODES[np.frombuffer(read.encode("ascii", "replace"), np.uint8)]
    return torch.from_numpy(codes).int()


def blocks(reads: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """Positions of reads, those of similar length together, so that little is padding."""
    lengths = np.fromiter(map(len, reads), np.int64, len(reads))
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop - start) * (lengths[order[stop]] + 64) < _AT_ONCE:
            stop += 1
        yield order[start:stop]
        start = stop


def words(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each read (n, L) has each word, (n, W) bfloat16, and the numbers of its words (n,)."""
    found = torch.zeros(len(codes), 4**WORD + 1, dtype=torch.bfloat16)
    found.scatter_(1, anchor_ids(codes, WORD).long(), 1.0)
    found = found[:, :-1].contiguous()  # the last is for windows with another letter
    return found, found.float().sum(1)


@dataclass
class Placed:
    """Reads in the region.

    Attributes:
        aligned: Code at each position (n, P) uint8, 4 for none.
        start: Position of the first nucleotide of each read (n,).
        score: Share of the anchors that agree on it (n,).
        vectors: Unit vectors (n, D) bfloat16.
    """

    aligned: NDArray[np.uint8]
    start: NDArray[np.int64]
    score: Numbers
    vectors: Tensor


class Region:
    """The common region of references: where a read lies in it, and what its vector is.

    Args:
        model: Aligns reads, and gives their vectors.
        encoder: Gives the vectors (n, D) of reads instead of the model.
    """

    def __init__(self, model: AlignedBarcodeModel, encoder: Callable[[Sequence[str]], Numbers] | None = None) -> None:
        self.model, self.encoder = model.eval(), encoder

    @property
    def positions(self) -> int:
        """Length of the region in nucleotides."""
        return int(self.model.config.positions)

    @classmethod
    def of(cls, references: Sequence[str], encoder: Callable[[Sequence[str]], Numbers] | None = None) -> Region | None:
        """The region of references, fitted to those of the most frequent length; None if they have none in common."""
        lengths = np.fromiter(map(len, references), np.int64, len(references))
        length = int(np.bincount(lengths).argmax())
        alike = int((lengths == length).sum())
        if alike < FEWEST_ALIKE or alike < LEAST_ALIKE * len(references) or length < 4 * WORD:
            return None
        width = WIDTH if len(references) >= MANY else 0
        config = AlignedBarcodeConfig(
            positions=length,
            max_nucleotides=max(length, 660),
            embedding_size=width,
            hidden_size=0,
            profile_weight=0.0 if width else 1.0,
        )
        model = AlignedBarcodeModel(config)
        fitted = [references[i] for i in _spread_over(len(references), MANY)]
        parts = [letters([fitted[i] for i in rows]) for rows in blocks(fitted)]
        model.fit_region((part + FIRST_NUCLEOTIDE, (part < NOTHING).int()) for part in parts)
        region = cls(model, encoder)
        sample = [references[i] for i in _spread_over(len(references), 2000)]
        return region if (region.place(sample).score >= LEAST_SCORE).mean() > 0.5 else None

    def place(self, reads: Sequence[str], *, vectors: bool = False) -> Placed:
        """Where reads lie in the region, and their vectors if asked for."""
        n = len(reads)
        aligned, start = np.full((n, self.positions), NOTHING, np.uint8), np.zeros(n, np.int64)
        score = np.zeros(n, np.float32)
        with torch.inference_mode():
            for rows in blocks(reads):
                codes = letters([reads[i] for i in rows])
                placed = self.model.align(codes + FIRST_NUCLEOTIDE, (codes < NOTHING).int())
                aligned[rows], start[rows], score[rows] = (part.numpy() for part in placed)
        found = Placed(aligned, start, score, torch.empty(0))
        found.vectors = self.vectors(reads, aligned) if vectors else found.vectors
        return found

    def vectors(self, reads: Sequence[str], aligned: NDArray[np.uint8]) -> Tensor:
        """Unit vectors (n, D) of reads, which are aligned as (n, P)."""
        if self.encoder is not None:
            found = torch.from_numpy(self.encoder(reads))
            return torch.nn.functional.normalize(found.float(), dim=1).to(torch.bfloat16)
        empty = torch.zeros(0, self.model.config.output_size, dtype=torch.bfloat16)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            parts = [self.model.embed_aligned(part.int()) for part in torch.from_numpy(aligned).split(4096)]
        return torch.cat([empty, *(part.to(torch.bfloat16) for part in parts)])


def _spread_over(number: int, most: int) -> NDArray[np.int64]:
    """At most `most` positions of `number`, evenly spread."""
    return np.linspace(0, number - 1, min(number, most)).astype(np.int64)


def oriented(region: Region, reads: Sequence[str]) -> tuple[list[str], NDArray[np.bool_], Placed]:
    """Reads on the strand of the references, which of them were turned round, and where they lie."""
    forward = region.place(reads)
    doubtful = np.flatnonzero(forward.score < 0.5)  # a good score is never beaten by the other strand
    turned = np.zeros(len(reads), np.bool_)
    found = list(reads)
    if len(doubtful):
        others = [complement(reads[int(i)]) for i in doubtful]
        back = region.place(others)
        better = back.score > forward.score[doubtful]
        for i in np.flatnonzero(better).tolist():
            found[int(doubtful[i])] = others[i]
        rows = doubtful[better]
        turned[rows] = True
        forward.aligned[rows], forward.start[rows] = back.aligned[better], back.start[better]
        forward.score[rows] = back.score[better]
    forward.vectors = region.vectors(found, forward.aligned)
    return found, turned, forward
