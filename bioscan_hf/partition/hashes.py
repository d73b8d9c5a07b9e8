"""Hashes of parts of many texts at once, in time that grows with the number of letters.

The hash of a text is the sum of letter times `FACTOR` to the power of its place, in 64 bits. So the hash of any part,
and of a text without one letter, is a difference of two sums. Texts of equal hashes are compared by their users.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

#: Odd, so that it has an inverse.
FACTOR = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))

_AT_ONCE = 1 << 21  # letters


class Hashed:
    """Sums over the letters of texts, one text after the other.

    Attributes:
        starts, ends: Places of the texts (n,) in the row of all letters.
    """

    def __init__(self, texts: Sequence[str], powers: Hashes):
        letters = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
        self.ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        self.starts = self.ends - np.fromiter(map(len, texts), np.int64, len(texts))
        up, down = powers
        self._down = down[: len(letters) + 1]
        self._sums = np.zeros(len(letters) + 1, np.uint64)
        np.cumsum(letters * up[: len(letters)], out=self._sums[1:])

    def texts(self) -> Hashes:
        """Hashes (n,) of the whole texts."""
        return (self._sums[self.ends] - self._sums[self.starts]) * self._down[self.starts]

    def windows(self, length: int) -> Hashes:
        """Hashes of the windows of so many letters from each place on, also of those that cross the end of a text."""
        return (self._sums[length:] - self._sums[:-length]) * self._down[: max(0, len(self._sums) - length)]

    def without_each(self) -> Hashes:
        """Hash of its text without the letter, for each letter."""
        sizes = self.ends - self.starts
        before = self._sums[:-1] - np.repeat(self._sums[self.starts], sizes)
        after = np.repeat(self._sums[self.ends], sizes) - self._sums[1:]
        return (before + after * INVERSE) * np.repeat(self._down[self.starts], sizes)

    def places(self, letters: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Texts of letters, and their places in them."""
        texts = np.searchsorted(self.ends, letters, side="right")
        return texts, letters - self.starts[texts]


def hashed(texts: Sequence[str]) -> Iterator[tuple[int, Hashed]]:
    """Texts in blocks, each with the number of its first text."""
    powers = np.zeros((2, 0), np.uint64)
    for first, block in blocks_of_texts(texts):
        size = sum(map(len, block))
        if size >= powers.shape[1]:
            powers = np.stack([_powers(factor, max(size, min(_AT_ONCE, 2 * size))) for factor in (FACTOR, INVERSE)])
        yield first, Hashed(block, powers)


def blocks_of_texts(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Texts in parts of about 2 million letters, each with the number of its first text."""
    first, size = 0, 0
    for number, text in enumerate(texts):
        if size and size + len(text) > _AT_ONCE:
            yield first, list(texts[first:number])
            first, size = number, 0
        size += len(text)
    if first < len(texts):
        yield first, list(texts[first:])


def text_hashes(texts: Sequence[str]) -> Hashes:
    """Hashes (n,) of texts."""
    return np.concatenate([block.texts() for _, block in hashed(texts)] or [np.zeros(0, np.uint64)])


def _powers(factor: np.uint64, count: int) -> Hashes:
    """Powers of 0 to `count`."""
    found = np.full(count + 1, factor)
    found[0] = 1
    return np.cumprod(found, dtype=np.uint64)


class HashSet:
    """Hashes in which many others are looked up; most of these are told apart by their first bits."""

    def __init__(self, hashes: Hashes):
        self._sorted = np.sort(hashes)
        bits = min(max(16, int(len(self._sorted)).bit_length() + 5), 28)
        self._shift = np.uint64(64 - bits)
        self._first = np.zeros(1 << bits, np.bool_)
        self._first[self._sorted >> self._shift] = True

    def find(self, hashes: Hashes) -> NDArray[np.int64]:
        """Places of the hashes that are in the set."""
        maybe = np.flatnonzero(self._first[hashes >> self._shift])
        if not len(maybe):
            return maybe
        asked = hashes[maybe]
        near = np.searchsorted(self._sorted, asked).clip(max=len(self._sorted) - 1)
        return maybe[self._sorted[near] == asked]
