"""Random draws that follow from a seed, the epoch and the row alone.

The draws of a row are the same in every batch, process and worker, and in a resumed run.
Shape letters: B = rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

from ..schema import MISSING


def draw_keys(texts: Sequence[str], seed: int, epochs: Sequence[int], *more: int) -> NDArray[np.uint64]:
    """Keys of the random streams of some texts, uint64 (B,): a hash of each text, of its epoch and of the numbers."""
    keyed = {
        epoch: blake2b(digest_size=8, key=":".join(map(str, (seed, epoch, *more))).encode()) for epoch in set(epochs)
    }
    digests = []
    for text, epoch in zip(texts, epochs, strict=True):
        hasher = keyed[epoch].copy()
        hasher.update(text.encode())
        digests.append(hasher.digest())
    return np.frombuffer(b"".join(digests), np.dtype("<u8")).astype(np.uint64)


def uniform(keys: NDArray[np.uint64], first: int, count: int) -> NDArray[np.float64]:
    """Numbers `first` to `first + count - 1` of the random stream of each key (B,): uniform in [0, 1), (B, count).

    SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2714064.2660195). A number depends only on its key
    and its place in the stream, so the streams of a whole batch are drawn at once.
    """
    x = keys[:, None] + np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-53  # a float64 holds 53 bits


def text_id(text: str | None) -> int:
    """63 bits of a hash of a text, the same in every process; -1 for None and ""."""
    return digest_id(blake2b(text.encode(), digest_size=8).digest()) if text else MISSING


def digest_id(digest: bytes) -> int:
    """The first 63 bits of a digest as a non-negative int64; -1 for an empty digest."""
    return int.from_bytes(digest[:8], "little") >> 1 if digest else MISSING


def row_generator(seed: int, epoch: int, processid: str) -> torch.Generator:
    """The random generator of a specimen in an epoch."""
    return torch.Generator().manual_seed(text_id(f"{seed}:{epoch}:{processid}"))
