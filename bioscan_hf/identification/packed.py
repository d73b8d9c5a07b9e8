"""Aligned sequences as bits: 3 bits per position instead of 8, compared 64 positions at a time.

Shape letters: n = reads, N = references, C = candidates, P = positions of the region, B = words of 64 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .letters import NOTHING, Codes

Planes = NDArray[np.uint64]


def planes_of(codes: Codes) -> Planes:
    """Bit planes (n, 3, B) of codes (n, P): whether the letter is known, and its two bits."""
    known = codes < NOTHING
    parts = np.stack([known, (codes & 1).astype(np.bool_), (codes & 2).astype(np.bool_)], axis=1)
    width = -(-codes.shape[1] // 64) * 8
    bits = np.packbits(parts, axis=2, bitorder="little")
    if bits.shape[2] < width:
        bits = np.concatenate([bits, np.zeros((len(codes), 3, width - bits.shape[2]), np.uint8)], axis=2)
    return np.ascontiguousarray(bits).view(np.uint64)


class Packed:
    """Codes (N, P) of aligned sequences, kept as bit planes. Indexing gives codes as an array.

    Args:
        planes: As of `planes_of`, (N, 3, B); also mapped from a file.
        positions: P.
    """

    def __init__(self, planes: Planes, positions: int) -> None:
        self.planes, self.positions = planes, positions

    @classmethod
    def of(cls, codes: Codes | Packed) -> Packed:
        """Packs codes (N, P)."""
        return codes if isinstance(codes, Packed) else cls(planes_of(codes), codes.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, P)."""
        return len(self.planes), self.positions

    def __len__(self) -> int:
        return len(self.planes)

    def __getitem__(self, rows: Any) -> Codes:
        bits = np.unpackbits(self.planes[rows].view(np.uint8), axis=-1, count=self.positions, bitorder="little")
        known, low, high = bits[..., 0, :], bits[..., 1, :], bits[..., 2, :]
        return np.where(known == 1, low | (high << 1), np.uint8(NOTHING))


def compared(
    reads: Codes, keys: Codes | Packed, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Equal letters and overlap of aligned reads (n, P) and their candidates (n, C), position by position.

    Args:
        keys: Codes of the references (N, P).
        rows: References (n, C); -1 has an overlap of 0.
    """
    both, same = compared_bits(reads, keys, rows)
    overlap = np.bitwise_count(both).sum(-1, dtype=np.int32)
    equal = np.bitwise_count(same).sum(-1, dtype=np.int32)
    overlap[rows < 0] = 0
    equal[rows < 0] = 0
    return equal, overlap


def compared_bits(reads: Codes, keys: Codes | Packed, rows: NDArray[np.int64]) -> tuple[Planes, Planes]:
    """Positions that aligned reads (n, P) share with candidates (n, C), and the equal ones, as bits (n, C, B)."""
    own = planes_of(reads)[:, None]
    other = keys.planes[rows.clip(0)] if isinstance(keys, Packed) else _planes_at(keys, rows.clip(0))
    both = other[..., 0, :] & own[..., 0, :]
    differs = other[..., 1, :] ^ own[..., 1, :]
    differs |= other[..., 2, :] ^ own[..., 2, :]
    return both, both & ~differs


def _planes_at(codes: Codes, rows: NDArray[np.int64]) -> Planes:
    """Planes (n, C, 3, B) of some codes, each packed once."""
    some, place = np.unique(rows, return_inverse=True)
    return planes_of(codes[some])[place.reshape(rows.shape)]
