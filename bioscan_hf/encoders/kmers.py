"""Counts of k-mers as embeddings of barcodes: an encoder without parameters.

Shape letters: n = barcodes, V = 4**k k-mers in alphabetical order (AA, AC, AG, ...), D = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.tokenization_kmer import barcode_bytes, string_chunks
from .base import Encoder

LARGEST_K = 8

#: Barcodes are counted in blocks of about this many nucleotides or counts, so memory is bounded and fits the cache.
BLOCK = 2**20


def kmer_counts(
    column: Sequence[str] | pa.Array | pa.ChunkedArray, k: int = 4, *, normalize: bool = False
) -> NDArray[np.float32]:
    """Counts (n, V) of the overlapping k-mers of each barcode.

    Barcodes get their one spelling (`barcodes.spell`). K-mers with N or an IUPAC code are not counted. The strand of
    a barcode is known, so reverse complements are counted separately. A barcode shorter than `k` is a row of zeros.

    Args:
        column: The barcodes. An Arrow column is read without a copy.
        k: 1 to 8. A row has 4**k numbers: 1 kB at k = 4, 262 kB at k = 8.
        normalize: Scales each row to length 1; zeros stay zeros.

    Raises:
        ValueError: if `k` is out of range, or a barcode is missing (null).
        TypeError: if the column does not hold strings.

    Example:
        >>> kmer_counts(["ACGNAC"], k=2).nonzero()[1].tolist()  # AC twice, CG once
        [1, 6]
    """
    _check_k(k)
    chunks = string_chunks(column)
    counts = np.empty((sum(map(len, chunks)), 4**k), np.float32)
    row = 0
    for strings in chunks:
        text, ends = barcode_bytes(strings)
        start = 0
        while start < len(strings):
            # As many rows as fit in a block, but at least one.
            stop = int(np.searchsorted(ends, ends[start] + BLOCK, side="right")) - 1
            stop = max(start + 1, min(stop, start + BLOCK // 4**k, len(strings)))
            block = ends[start : stop + 1]
            counts[row + start : row + stop] = _count_block(text[block[0] : block[-1]], block - block[0], k)
            start = stop
        row += len(strings)
    if normalize:
        norms = np.linalg.norm(counts, axis=1, keepdims=True)
        np.divide(counts, norms, out=counts, where=norms > 0)
    return counts


def kmer_encoder(k: int = 4, *more: int) -> tuple[Encoder, Callable[[Sequence[str]], dict[str, Tensor]]]:
    """Model and processor for `embed` with k-mer counts as embeddings.

    The counts of each k are scaled to length 1 and stand side by side, so each k has the same weight in a cosine.
    """
    ks = (k, *more)
    for each in ks:
        _check_k(each)
    description = f"kmer:{'+'.join(map(str, ks))}"
    return Encoder(nn.Identity(), counts_as_they_are, description=description), partial(kmer_inputs, ks=ks)


def kmer_inputs(barcodes: Sequence[str], ks: Sequence[int]) -> dict[str, Tensor]:
    """Counts (n, D) of length 1 for each k, and a mask (n, 1)."""
    counts = np.concatenate([kmer_counts(barcodes, k, normalize=True) for k in ks], axis=1)
    return {
        "counts": torch.from_numpy(counts),
        "attention_mask": torch.from_numpy(counts.any(axis=1, keepdims=True).astype(np.int64)),
    }


def counts_as_they_are(network: Any, counts: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return counts


def parse_ks(name: str, digits: str) -> list[int]:
    """[4, 6] for "4+6" of the name "kmer:4+6", or ValueError."""
    parts = digits.split("+")
    if not all(part.isdecimal() for part in parts):
        numbers = f"a number from 1 to {LARGEST_K}, or several, such as kmer:4 or kmer:4+6"
        raise ValueError(f"{name!r}: after 'kmer:' comes {numbers}.")
    return [int(part) for part in parts]


def _check_k(k: int) -> None:
    if not 1 <= k <= LARGEST_K:
        raise ValueError(f"k={k} nucleotides in a k-mer: k must lie between 1 and {LARGEST_K}.")


def _count_block(text: NDArray[np.uint8], ends: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Counts (rows, V); row i is text[ends[i] : ends[i + 1]]."""
    rows, lengths = len(ends) - 1, np.diff(ends)
    windows = len(text) - k + 1
    if windows < 1:
        return np.zeros((rows, 4**k), np.int64)
    letters = _LETTERS[text]
    codes = np.repeat(np.arange(rows, dtype=np.int32), lengths)[:windows]
    for place in range(k):
        codes *= 4
        codes += letters[place : place + windows] & 3
    # Windows that cross the end of their row or hold another letter go to one extra bin, which is dropped.
    wrong = np.zeros(len(text) + 1, np.int32)
    wrong[1:] = np.cumsum(letters > 3, dtype=np.int32)
    codes[wrong[k:] != wrong[:windows]] = rows * 4**k
    for back in range(1, k):
        over = ends[1:] - back  # windows that begin too close to the end of a row
        codes[over[(over >= 0) & (over < windows)]] = rows * 4**k
    return np.bincount(codes, minlength=rows * 4**k + 1)[:-1].reshape(rows, 4**k)


_LETTERS = np.full(256, 4, np.uint8)  # 4: any other character
_LETTERS[list(b"ACGT")] = range(4)
