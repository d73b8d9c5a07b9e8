"""Barcodes of the evaluation splits that equal a reference where the two overlap, or are other copies of one.

They are a part of a reference, such as a trimmed copy, or contain one, or are staggered: the end of one is the
beginning of the other. Other copies are on the other strand, have unknown letters, or one letter more or less.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema import SPLITS
from .copies import Copies, find_copies
from .draws import KEY_UNSEEN, TEST, TEST_UNSEEN, TRAIN, VAL, VAL_UNSEEN
from .specimens import Specimens
from .substrings import Mask, overlapping

#: Evaluation split -> the reference split that its barcodes are moved to.
HOMES = {VAL: TRAIN, TEST: TRAIN, VAL_UNSEEN: KEY_UNSEEN, TEST_UNSEEN: KEY_UNSEEN}

#: Letters that a staggered barcode shares with a reference, and their share of its letters.
LEAST_OVERLAP, LEAST_SHARE = 50, 0.5

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Overlaps(NamedTuple):
    """Barcodes of an evaluation split that equal a reference where they overlap.

    Attributes:
        contained: Those that are a part of a reference, or contain one.
        staggered: Others, of which at least `LEAST_SHARE` is the beginning or end of a reference.
        barcodes: All barcodes of the split.
        copies: Of the barcodes that are not contained: masks of those that are other copies of a reference.
    """

    contained: int
    staggered: int
    barcodes: int
    copies: Copies


def move_overlaps(split: npt.NDArray[Any], specimens: Specimens, *, move: bool) -> dict[str, Overlaps]:
    """Evaluation split -> its overlaps.

    Args:
        split: Split of each barcode (B,). With `move`, barcodes that are a part of a reference or contain one are
            moved to the references; staggered ones and other copies stay.
    """
    sizes = {one: int((split == one).sum()) for one in HOMES}
    counts = dict.fromkeys(HOMES, 0)
    again = True
    while again:
        references = np.flatnonzero(np.isin(split, [TRAIN, KEY_UNSEEN]))
        queries = np.flatnonzero(np.isin(split, list(HOMES)))
        found = queries[overlapping(specimens.sequences(queries), specimens.sequences(references))]
        for one in HOMES:
            counts[one] += int((split[found] == one).sum())
        again = move and len(found) > 0  # what was moved is a reference too
        if again:
            split[found] = np.array([HOMES.get(one, one) for one in range(len(SPLITS))], split.dtype)[split[found]]
    queries = np.setdiff1d(queries, found)
    asked, known = specimens.sequences(queries), specimens.sequences(references)
    of, shifted, copies = split[queries], staggered(asked, known), find_copies(asked, known)
    return {
        SPLITS[one]: Overlaps(
            counts[one], int(shifted[of == one].sum()), size, Copies(*(kind[of == one] for kind in copies))
        )
        for one, size in sizes.items()
        if size
    }


def staggered(queries: list[str], references: list[str]) -> Mask:
    """Which queries (n,) begin with the end of a reference, or end with the beginning of one.

    At least `LEAST_SHARE` of the query and `LEAST_OVERLAP` letters have to be equal. Time and memory grow with the
    number of letters: each beginning and each end is compared by a hash of 64 bits.
    """
    found = np.zeros(len(queries), dtype=bool)
    if not queries or not references:
        return found
    ours, theirs = _Ends(queries), _Ends(references)
    least = np.maximum(LEAST_OVERLAP, np.ceil(LEAST_SHARE * ours.lengths))
    for length in range(1, min(ours.lengths[0], theirs.lengths[0]) + 1):
        beginnings, ends = ours.extend(length)
        their_beginnings, their_ends = theirs.extend(length)
        waiting = np.flatnonzero(~found[: len(ends)] & (least[: len(ends)] <= length))
        if len(waiting):
            found[waiting] = _among(beginnings[waiting], their_ends) | _among(ends[waiting], their_beginnings)
    return found[np.argsort(ours.order)]


def _among(values: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> Mask:
    """Which values are among the others, of which there are many more; those with other first bits are left out."""
    first = np.zeros(2**22, dtype=bool)
    first[values >> 42] = True
    return np.isin(values, others[first[others >> 42]], kind="sort")


class _Ends:
    """Hashes of the first and of the last letters of sequences, for one length after the other.

    Attributes:
        order: (n,) sequences by descending length.
        lengths: (n,) their letters, in that order.
    """

    def __init__(self, sequences: list[str]):
        lengths = np.array([len(one) for one in sequences])
        starts = np.cumsum(lengths) - lengths
        self.order = np.argsort(-lengths, kind="stable")
        self.lengths = lengths[self.order]
        self._letters = np.frombuffer("".join(sequences).encode(), np.uint8)
        self._first, self._last = starts[self.order] - 1, (starts + lengths)[self.order]
        self._beginnings, self._ends = np.zeros((2, len(sequences)), np.uint64)
        self._power = np.ones(1, np.uint64)

    def extend(self, length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Hashes of the first and of the last `length` letters of all sequences that have as many."""
        count = int(np.searchsorted(-self.lengths, -length, side="right"))
        beginnings, ends = self._beginnings[:count], self._ends[:count]
        beginnings *= _FACTOR
        beginnings += self._letters[self._first[:count] + length]
        ends += self._letters[self._last[:count] - length] * self._power
        self._power = self._power * _FACTOR
        return beginnings, ends
