"""Which texts are a part of another, by hashes: time grows with the number of letters, not of pairs.

Source: polynomial hashes, Karp & Rabin 1987, https://doi.org/10.1147/rd.312.0249
Shape letters: n = parts, W = wholes, L = letters of a block, H = windows of a block that are the anchor of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Letters of the window by which a part is looked for. Shorter parts are not found.
ANCHOR = 24

#: Wholes whose letters are hashed at a time.
BLOCK = 1_000

#: Base of the hashes, modulo 2**64, and its inverse.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)

Hashes = NDArray[np.uint64]
Ids = NDArray[np.int64]


def contained(parts: Sequence[str], wholes: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which parts (n,) occur in a longer whole, and which wholes (W,) hold a shorter part.

    Parts of fewer than `ANCHOR` letters are not looked for.
    """
    found, holding = np.zeros(len(parts), np.bool_), np.zeros(len(wholes), np.bool_)
    table = _Parts.of(parts)
    if not len(table.numbers):
        return found, holding
    for first in range(0, len(wholes), BLOCK):
        block = wholes[first : first + BLOCK]
        lengths = np.array([len(one) for one in block], np.int64)
        ends = np.cumsum(lengths)
        sums, powers = _sums("".join(block))
        place, length = _candidates(table, sums, powers)
        whole = np.searchsorted(ends, place, side="right")
        good = whole < len(block)
        whole = np.minimum(whole, len(block) - 1)
        good &= (place + length <= ends[whole]) & (length < lengths[whole])
        place, length, whole = place[good], length[good], whole[good]
        row = _find(table.hashes, _hash(sums, powers, place, length))
        there = row >= 0
        row, place, whole = row[there], place[there] - (ends - lengths)[whole[there]], whole[there]
        for one in np.union1d(np.unique(row, return_index=True)[1], np.unique(whole, return_index=True)[1]).tolist():
            number, at = int(table.numbers[row[one]]), int(whole[one])
            if block[at].startswith(parts[number], int(place[one])):  # almost surely: hashes have 64 bits
                equal = slice(int(row[one]), int(np.searchsorted(table.hashes, table.hashes[row[one]], "right")))
                found[table.numbers[equal]] = holding[first + at] = True
    return found, holding


class _Parts(NamedTuple):
    """Hashes of the parts that are long enough.

    Attributes:
        hashes: Of whole parts, ascending.
        numbers: Their numbers.
        anchors: Hashes of the middle windows, each once, ascending.
        bounds: (anchors + 1,) for each anchor, its part of `lengths`.
        lengths: Different lengths of the parts with an anchor.
    """

    hashes: Hashes
    numbers: Ids
    anchors: Hashes
    bounds: Ids
    lengths: Ids

    @classmethod
    def of(cls, parts: Sequence[str]) -> _Parts:
        numbers = np.array([i for i, part in enumerate(parts) if len(part) >= ANCHOR], np.int64)
        lengths = np.array([len(parts[i]) for i in numbers.tolist()], np.int64)
        hashes, anchors = np.empty(len(numbers), np.uint64), np.empty(len(numbers), np.uint64)
        for first in range(0, len(numbers), BLOCK):
            rows = slice(first, first + BLOCK)
            sums, powers = _sums("".join(parts[i] for i in numbers[rows].tolist()))
            starts = np.cumsum(lengths[rows]) - lengths[rows]
            hashes[rows] = _hash(sums, powers, starts, lengths[rows])
            middle = starts + _offset(lengths[rows])
            anchors[rows] = _hash(sums, powers, middle, np.full(len(middle), ANCHOR))
        order = np.argsort(hashes, kind="stable")
        by_anchor = np.lexsort((lengths, anchors))
        anchors, lengths = anchors[by_anchor], lengths[by_anchor]
        new = np.ones(len(anchors), np.bool_)
        new[1:] = (anchors[1:] != anchors[:-1]) | (lengths[1:] != lengths[:-1])
        anchors, lengths = anchors[new], lengths[new]
        unique, bounds = np.unique(anchors, return_index=True)
        return cls(hashes[order], numbers[order], unique, np.append(bounds, len(anchors)), lengths)


def _offset(lengths: Ids) -> Ids:
    """Place of the anchor in parts of these lengths."""
    return (lengths - ANCHOR) // 2


def _candidates(table: _Parts, sums: Hashes, powers: Hashes) -> tuple[Ids, Ids]:
    """Places and lengths where a part may occur: its anchor does."""
    starts = np.arange(max(len(sums) - ANCHOR, 0))
    anchor = _find(table.anchors, _hash(sums, powers, starts, np.full(len(starts), ANCHOR)))
    hits = np.flatnonzero(anchor >= 0)  # (H,)
    low, high = table.bounds[anchor[hits]], table.bounds[anchor[hits] + 1]
    counts = high - low
    entry = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    length = table.lengths[entry]
    place = np.repeat(hits, counts) - _offset(length)
    return place[place >= 0], length[place >= 0]


def _sums(text: str) -> tuple[Hashes, Hashes]:
    """Sums (L + 1,) of letter * base ** place up to each letter, and the inverse powers of the base (L + 1,)."""
    letters = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.uint64)
    powers = np.full(len(letters) + 1, _BASE, np.uint64)
    inverse = np.full(len(letters) + 1, _INVERSE, np.uint64)
    powers[0] = inverse[0] = 1
    np.cumprod(powers, out=powers)
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(letters * powers[:-1])]), np.cumprod(inverse)


def _hash(sums: Hashes, powers: Hashes, starts: Ids, lengths: Ids) -> Hashes:
    """Hashes of windows, which depend on their letters and not on their places."""
    ends = np.minimum(starts + lengths, len(sums) - 1)
    found: Hashes = (sums[ends] - sums[starts]) * powers[starts] + lengths.astype(np.uint64) * np.uint64(_BASE >> 1)
    return found


def _find(values: Hashes, wanted: Hashes) -> Ids:
    """Index of the first equal one of ascending values, -1 if there is none."""
    filled = np.zeros(2**20, np.bool_)  # most are ruled out by their first 20 bits
    filled[values >> np.uint64(44)] = True
    found = np.full(len(wanted), -1, np.int64)
    maybe = np.flatnonzero(filled[wanted >> np.uint64(44)])
    place = np.minimum(np.searchsorted(values, wanted[maybe]), len(values) - 1)
    found[maybe] = np.where(values[place] == wanted[maybe], place, -1)
    return found
