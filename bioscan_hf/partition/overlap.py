"""Barcodes of the evaluation splits that equal a reference where the two overlap.

They are a part of a reference, such as a trimmed copy, or contain one, or are staggered: the end of one is the
beginning of the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema import SPLITS
from .draws import KEY_UNSEEN, TEST, TEST_UNSEEN, TRAIN, VAL, VAL_UNSEEN
from .specimens import Specimens

#: Evaluation split -> the reference split that its barcodes are moved to.
HOMES = {VAL: TRAIN, TEST: TRAIN, VAL_UNSEEN: KEY_UNSEEN, TEST_UNSEEN: KEY_UNSEEN}

#: Nucleotides of the windows by which a sequence is looked for. Shorter sequences are not compared.
ANCHOR = 24

#: Letters that a staggered barcode shares with a reference, and their share of its letters.
LEAST_OVERLAP, LEAST_SHARE = 50, 0.5

_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Mask = npt.NDArray[np.bool_]

_CODES = np.full(256, 4, np.uint8)  # 4: any other letter
_CODES[list(b"ACGT")] = range(4)
_BLOCK = 2_000  # sequences that are scanned at a time


class Overlaps(NamedTuple):
    """Barcodes of an evaluation split that equal a reference where they overlap.

    Attributes:
        contained: Those that are a part of a reference, or contain one.
        staggered: Others, of which at least `LEAST_SHARE` is the beginning or end of a reference.
        barcodes: All barcodes of the split.
    """

    contained: int
    staggered: int
    barcodes: int


def move_overlaps(split: npt.NDArray[Any], specimens: Specimens, *, move: bool) -> dict[str, Overlaps]:
    """Evaluation split -> its overlaps.

    Args:
        split: Split of each barcode (B,). With `move`, barcodes that are a part of a reference or contain one are
            moved to the references; staggered ones stay.
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
    shifted = split[queries[staggered(specimens.sequences(queries), specimens.sequences(references))]]
    return {
        SPLITS[one]: Overlaps(counts[one], int((shifted == one).sum()), size) for one, size in sizes.items() if size
    }


def overlapping(queries: list[str], references: list[str]) -> Mask:
    """Which queries (n,) are a part of a reference, or contain one."""
    return contained(queries, references)[0] | contained(references, queries)[1]


def contained(parts: list[str], wholes: list[str]) -> tuple[Mask, Mask]:
    """Which parts occur in a whole, and which wholes hold a part. Letters are compared as they are."""
    found, holding = np.zeros(len(parts), dtype=bool), np.zeros(len(wholes), dtype=bool)
    anchors = _Anchors.of(parts)
    for first in range(0, len(wholes), _BLOCK):
        block = wholes[first : first + _BLOCK]
        codes, valid = _windows("-".join(block))
        ends = np.cumsum([len(whole) + 1 for whole in block]) - 1
        starts = np.concatenate([[0], ends[:-1] + 1])
        hits = np.flatnonzero(valid & np.isin(codes, anchors.codes[:, 0]))
        low = np.searchsorted(anchors.codes[:, 0], codes[hits], side="left")
        high = np.searchsorted(anchors.codes[:, 0], codes[hits], side="right")
        # One candidate for each hit and each part with this anchor.
        counts = high - low
        row = np.repeat(low - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        hits = np.repeat(hits, counts)
        begin, whole = hits - anchors.offsets[row, 0], np.searchsorted(ends, hits)
        part = anchors.parts[row]
        good = (begin >= starts[whole]) & (begin + anchors.lengths[row] <= ends[whole])
        row, begin, whole, part = row[good], begin[good], whole[good], part[good]
        same = (codes[begin[:, None] + anchors.offsets[row]] == anchors.codes[row]).all(axis=1)
        for i, place, at in zip(
            part[same].tolist(), (begin - starts[whole])[same].tolist(), whole[same].tolist(), strict=True
        ):
            if not (found[i] and holding[first + at]) and block[at].startswith(parts[i], place):
                found[i] = holding[first + at] = True
    return found, holding


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
    return np.isin(values, others[first[others >> 42]])


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


class _Anchors(NamedTuple):
    """Windows by which parts are looked for: the first, the middle and the last without N, sorted by the first.

    Attributes:
        codes: (m, 3) windows as numbers.
        offsets: (m, 3) their places in the part.
        lengths: (m,) letters of the part.
        parts: (m,) its number.
    """

    codes: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: list[str]) -> _Anchors:
        """The anchors of all parts with a window of ANCHOR letters A, C, G and T."""
        rows = [_Anchors(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64), *np.zeros((2, 0), np.int64))]
        for start in range(0, len(parts), _BLOCK):
            block = parts[start : start + _BLOCK]
            codes, valid = _windows("-".join(block))
            lengths = np.array([len(part) for part in block])
            begins = np.cumsum(lengths + 1) - lengths - 1
            places = np.append(np.flatnonzero(valid), np.iinfo(np.int64).max)
            low, high = np.searchsorted(places, begins), np.searchsorted(places, begins + lengths) - 1
            there = np.flatnonzero(low <= high)
            chosen = places[np.stack([low, (low + high) // 2, high], axis=1)[there]]
            rows.append(_Anchors(codes[chosen], chosen - begins[there, None], lengths[there], start + there))
        found = _Anchors(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        order = np.argsort(found.codes[:, 0], kind="stable")
        return _Anchors(*(column[order] for column in found))


def _windows(text: str) -> tuple[npt.NDArray[np.int64], Mask]:
    """Each window of ANCHOR letters as a number, and whether all of its letters are A, C, G or T."""
    letters = _CODES[np.frombuffer(text.encode(), np.uint8)]
    count = len(letters) - ANCHOR + 1
    if count < 1:
        return np.zeros(0, np.int64), np.zeros(0, dtype=bool)
    codes, width, eight = (letters & 3).astype(np.int64), 1, np.zeros(0, np.int64)
    while width < 16:  # windows of 2, 4, 8 and 16 letters
        codes = codes[:-width] * 4**width + codes[width:]
        width *= 2
        eight = codes if width == 8 else eight
    codes = codes[:count] * 4**8 + eight[16 : 16 + count]
    wrong = np.concatenate([[0], np.cumsum(letters > 3)])
    return codes, wrong[ANCHOR:] == wrong[:count]
