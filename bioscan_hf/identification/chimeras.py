"""Chimeras: reads whose two ends are of different taxa, joined by an error of the PCR.

A read that is not near any reference is compared with the references that are nearest to its first and to its last
third. It is a chimera if two of them, on either side of a point, explain it nearly as well as a true match, and far
better than any one reference does, and are of different taxa (the idea of UCHIME, Edgar et al. 2011).
Shape letters: n = reads, C = candidates, B = blocks of 8 positions.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .letters import NOTHING, Codes
from .packed import compared_bits
from .region import LEAST_SCORE
from .similarity import Matches, References

#: Reads with a reference of at least this identity, or with fewer nucleotides in the region, are not examined.
NEAR, SHORTEST = 0.98, 300

#: Largest share of letters that differ from the two parents, and how many more must differ from the nearest reference.
LEFT_OVER, GAINED = 0.02, 10

#: Nucleotides of each part, at least.
PART = 80

_AT_ONCE = 256

#: Letters that differ from no reference.
_FAR = 10_000


#: Place of a chimera among the reads -> ids of the references of its first and its last part.
Parents = dict[int, tuple[str, str]]


def parents_of(references: References, found: Matches, taxa: NDArray[np.int64], ids: pa.ChunkedArray) -> Parents:
    """The chimeras among reads, and their parents.

    Args:
        found: Matches of the reads.
        taxa: Taxon of each reference, -1 where it has no name; the parents of a chimera have different ones.
        ids: Of the references.
    """
    told: Parents = {}
    if found.aligned is None or references.placed is None:
        return told
    some = np.flatnonzero((found.identity[:, 0] < NEAR) & (found.score >= LEAST_SCORE) & (found.within >= SHORTEST))
    for part in np.array_split(some, -(-len(some) // _AT_ONCE)) if len(some) else ():
        chimera, parents = _examined(references, found.take(part), taxa)
        for place in np.flatnonzero(chimera).tolist():
            first, last = ids.take(pa.array(parents[place])).to_pylist()
            told[int(part[place])] = (first, last)
    return told


def _examined(
    references: References, found: Matches, taxa: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether reads are chimeras (n,), and the two references that fit best (n, 2)."""
    assert found.aligned is not None and references.placed is not None
    rows = np.concatenate([found.rows[:, :5], *_nearest_of_ends(references, found.aligned)], axis=1)
    both, equal = compared_bits(found.aligned, references.placed.aligned, rows)
    overlap, same = (
        np.bitwise_count(np.ascontiguousarray(bits).view(np.uint8)).astype(np.int32) for bits in (both, equal)
    )
    wrong = overlap.max(1, keepdims=True) - same  # where a reference has no letters, it explains nothing
    wrong[rows < 0] = _FAR
    before, length = wrong.cumsum(2), overlap.max(1).cumsum(1)
    every = before[:, :, -1]
    behind = every[:, :, None] - before
    inside = (length >= PART) & (length[:, -1:] - length >= PART)
    joined = np.where(inside, before.min(1) + behind.min(1), _FAR)
    at, point = np.arange(len(rows)), joined.argmin(1)
    parents = np.stack([rows[at, part[at, :, point].argmin(1)] for part in (before, behind)], axis=1)
    first, last = taxa[parents].T
    unlike = (first != last) & (first >= 0) & (last >= 0)
    least = joined[at, point]
    return unlike & (least <= LEFT_OVER * length[:, -1]) & (every.min(1) - least >= GAINED), parents


def _nearest_of_ends(references: References, aligned: Codes) -> list[NDArray[np.int64]]:
    """The references nearest to the first and to the last third of reads (n, C) each."""
    assert references.region is not None
    known = np.cumsum(aligned != NOTHING, axis=1)
    third = known[:, -1:] / 3
    ends = []
    for mask in (known <= third, known > 2 * third):
        codes = np.where(mask, aligned, np.uint8(NOTHING))
        texts = ["".join("ACGTN"[code] for code in row) for row in codes] if references.region.encoder else []
        ends.append(references.nearest(references.region.vectors(texts, codes), None)[0])
    return ends
