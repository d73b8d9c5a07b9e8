"""Unit vectors, distinct rows, and the names of faulty rows in errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

#: Rows converted to float64 at once: few enough for a processor's cache.
ROWS_AT_ONCE = 1024


def slices(rows: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows that cover `rows`."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def named_rows(rows: Sequence[int], ids: Sequence[str] | None = None) -> str:
    """The first 5 rows as text: "1 (q2), 3 (q4) and 2 more"."""
    named = ", ".join(str(row) if ids is None else f"{row} ({ids[row]})" for row in rows[:5])
    return f"{named} and {len(rows) - 5} more" if len(rows) > 5 else named


def unit_vectors(
    embeddings: ArrayLike, name: str = "rows", ids: Sequence[str] | None = None, *, zeros: bool = False
) -> Floats:
    """Rows (n, D) divided by their length.

    The length is computed in float64. Equal rows give equal bytes.

    Args:
        embeddings: (n, D).
        name: What an error calls the rows, such as "queries".
        ids: Names of the rows, for errors.
        zeros: Allows rows of zeros, which stay zeros.

    Raises:
        ValueError: if this is not a matrix, is empty, or has rows that are NaN, infinite or zero (they are named).
    """
    x = np.asarray(embeddings)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"The embeddings of the {name} must be a matrix (rows, dimensions) that is not empty, got {x.shape}."
        )
    unit, broken = np.empty(x.shape, np.float32), []
    for part in slices(len(x), ROWS_AT_ONCE):
        rows = x[part].astype(np.float64, order="C")
        length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
        valid = np.isfinite(length) & ((length > 0) | zeros)
        broken += (part.start + np.flatnonzero(~valid)).tolist()
        unit[part] = rows / np.where(valid & (length > 0), length, 1)
    if broken:
        what = "NaN or infinite" if zeros else "NaN, infinite or zero"
        raise ValueError(
            f"The embeddings of the {name} are {what} in the rows {named_rows(broken, ids)}: leave these rows out, or "
            f"check the encoder."
        )
    unit += 0.0  # -0 becomes 0, so that equal rows have equal bytes
    return unit


def distinct_rows(x: Floats) -> tuple[Ids, Ids]:
    """Group of each row (n,), and the first row of each group.

    Equal rows form a group; groups are in order of their first row.

    Rows are compared by 128-bit digests of their bytes: faster than numpy's `unique(axis=0)`, and less memory.
    """
    digests = np.array([hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(x)], "S16")
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[group.reshape(-1)], first[order].astype(np.int64)
