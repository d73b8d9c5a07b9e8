"""Letters and words of reads as numbers.

Shape letters: n = reads, L = nucleotides, W = 4,096 words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Code of a letter other than A, C, G and T, after 0, 1, 2 and 3. That of `models.modeling_alignedbarcode`.
NOTHING = 4

#: Nucleotides of a word.
WORD = 6

Codes = NDArray[np.uint8]
Bits = NDArray[np.uint64]

_CODES = np.full(256, NOTHING, np.uint8)
_CODES[list(b"ACGT")] = range(4)
_AT_ONCE = 1 << 20  # nucleotides that are processed at once


def codes_of(reads: Sequence[str]) -> Codes:
    """Codes 0 to 3 of A, C, G and T, 4 of all else and of padding, (n, L); L is at least `WORD`."""
    lengths = np.fromiter(map(len, reads), np.int64, len(reads))
    width = max(int(lengths.max(initial=0)), WORD)
    flat = _CODES[np.frombuffer("".join(reads).encode("ascii", "replace"), np.uint8)]
    if (lengths == width).all():
        return flat.reshape(len(reads), width)
    codes = np.full((len(reads), width), NOTHING, np.uint8)
    codes[np.arange(width) < lengths[:, None]] = flat
    return codes


def letters(reads: Sequence[str]) -> Tensor:
    """`codes_of` as int32 (n, L)."""
    return torch.from_numpy(codes_of(reads)).int()


def blocks(reads: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """Positions of reads, those of similar length together, so that little is padding."""
    lengths = np.fromiter(map(len, reads), np.int64, len(reads))
    order = np.argsort(lengths, kind="stable")
    size = lengths[order] + 64
    start = 0
    while start < len(order):
        # a read more is added as long as the block without it is small, with all of its rows as wide as the read
        fits = np.arange(1, len(order) - start + 1) * size[start:] < _AT_ONCE
        stop = start + 1 + (len(fits) - 1 if fits[1:].all() else int(fits[1:].argmin()))
        yield order[start:stop]
        start = stop


def word_ids(codes: Codes, k: int = WORD) -> NDArray[np.int32]:
    """Alphabetical number of the word of `k` letters at each place of reads (n, L), (n, L - k + 1).

    Windows with other letters than A, C, G and T have 4**k. Equal to `models.modeling_alignedbarcode.anchor_ids`.
    """
    other = codes >= NOTHING
    some = bool(other.any())
    number, bad = _windows(codes & 3 if some else codes, other if some else None, k)
    found = number.astype(np.int32)
    if bad is not None:
        found[bad] = 4**k
    return found


def _windows(
    digits: NDArray[Any], other: NDArray[np.bool_] | None, k: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Numbers of windows of `k` digits, and whether they hold another letter; from those of half the width."""
    if k == 1:
        return digits, other
    half = k // 2
    number, bad = _windows(digits, other, half)
    wide: NDArray[Any] = number.astype(np.uint8 if k <= 4 else np.uint16, copy=False)
    joined = (wide[:, : wide.shape[1] - half] << (2 * half)) | wide[:, half:]
    joined_bad = None if bad is None else bad[:, :-half] | bad[:, half:]
    if k % 2:
        last = digits[:, k - 1 :]
        joined = (joined[:, : last.shape[1]].astype(np.uint16) * np.uint16(4)) | last
        joined_bad = joined_bad if joined_bad is None or other is None else joined_bad[:, :-1] | other[:, k - 1 :]
    return joined, joined_bad


def word_bits(codes: Codes) -> Bits:
    """Whether reads (n, L) have each word, as bits (n, W / 64)."""
    found = np.zeros((len(codes), 4**WORD + 1), np.uint8)
    np.put_along_axis(found, word_ids(codes), np.uint8(1), 1)
    return np.packbits(found[:, : 4**WORD], axis=1, bitorder="little").view(np.uint64)


def words_of(reads: Sequence[str]) -> Bits:
    """`word_bits` of spelled reads."""
    found = np.empty((len(reads), 4**WORD // 64), np.uint64)
    for rows in blocks(reads):
        found[rows] = word_bits(codes_of([reads[i] for i in rows]))
    return found


def unpacked(bits: Bits) -> Tensor:
    """Bits (n, W / 64) as 0 and 1, (n, W) bfloat16."""
    return torch.from_numpy(np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")).to(torch.bfloat16)


def bit_counts(bits: Bits) -> NDArray[np.int32]:
    """Number of words of each read (n,)."""
    return np.bitwise_count(bits).sum(-1, dtype=np.int32)
