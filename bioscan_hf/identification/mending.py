"""Insertions and deletions are taken out of the place of reads in the region.

A read with an insertion lies straight in the region before it, and one position off behind it. The best path of shifts
along a near reference is found by dynamic programming (Viterbi 1967), with a price for each change of the shift: edit
distances open gaps freely, and then fit any distant reference. Of several references, the one with the best path
decides: one that has a gap of its own, or a wrong place, needs a path with more changes.
Shape letters: n = reads, L = nucleotides, P = positions of the region, S = shifts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .letters import NOTHING

#: Largest shift, and the price of a change of the shift and of each letter of it, in letters that are equal or not.
LARGEST, CHANGE, LETTER = 4, 8, 4

Codes = NDArray[np.uint8]
Ids = NDArray[np.int64]


@dataclass
class Mended:
    """Reads without their insertions and deletions.

    Attributes:
        aligned: Codes at each position of the region (n, P).
        gaps: Letters that were inserted or are missing (n,).
        shifted: Whether one of the gaps shifts the reading frame (n,).
        score: Letters that are equal, less those that are not and the price of the gaps (n,).
    """

    aligned: Codes
    gaps: Ids
    shifted: NDArray[np.bool_]
    score: NDArray[np.int32]

    def take_better(self, other: Mended) -> None:
        """Takes those of another reference whose score is higher."""
        better = other.score > self.score
        for field in fields(self):
            getattr(self, field.name)[better] = getattr(other, field.name)[better]


def mended(reads: Codes, start: Ids, references: Codes) -> Mended:
    """Reads along references.

    Args:
        reads: Codes of the reads (n, L).
        start: Position of the first nucleotide of each read (n,).
        references: An aligned reference for each read (n, P).
    """
    n, positions = references.shape
    shifts = np.arange(-LARGEST, LARGEST + 1)
    place = np.arange(positions)[None, :, None] - start[:, None, None] + shifts  # (n, P, S): letter of the read
    inside = (place >= 0) & (place < reads.shape[1])
    letters = np.take_along_axis(reads[:, :, None], place.clip(0, reads.shape[1] - 1), 1)
    letters = np.where(inside, letters, NOTHING).astype(np.uint8)
    known = (letters != NOTHING) & (references[:, :, None] != NOTHING)
    gain = np.where(known, np.where(letters == references[:, :, None], 1, -1), 0).astype(np.int32)
    change = np.abs(shifts[:, None] - shifts[None])
    price = np.where(change > 0, CHANGE + LETTER * change, 0)
    score, back = gain[:, 0].copy(), np.zeros((n, positions, len(shifts)), np.int8)
    for position in range(1, positions):
        options = score[:, None, :] - price  # from each shift (last) to each shift
        back[:, position] = options.argmax(2)
        score = options.max(2) + gain[:, position]
    path = np.empty((n, positions), np.int64)
    path[:, -1] = score.argmax(1)
    for position in range(positions - 1, 0, -1):
        path[:, position - 1] = np.take_along_axis(back[:, position], path[:, position : position + 1], 1)[:, 0]
    found = np.take_along_axis(letters, path[:, :, None], 2)[:, :, 0]
    gaps = np.abs(np.diff(path, axis=1))
    return Mended(found, gaps.sum(1), np.asarray((gaps % 3 > 0).any(1)), score.max(1))
