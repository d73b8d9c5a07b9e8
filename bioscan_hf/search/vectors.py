"""Unit vectors, distinct rows, groups of rows, and checks that name the faulty rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

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


def check_query(dim: int, dim_of_keys: int, k: int = 1, keys: int = 1) -> None:
    """Raises ValueError unless the dimensions are equal and there are `k` keys."""
    if dim != dim_of_keys:
        raise ValueError(
            f"The queries have {dim} dimensions and the keys {dim_of_keys}: both must come from the same encoder."
        )
    if not 1 <= k <= keys:
        raise ValueError(f"k is {k}; give a positive number of neighbours, at most {keys} (the number of keys).")


def finite_matrix(
    name: str, values: ArrayLike, dtype: DTypeLike = np.float64, ids: Sequence[str] | None = None
) -> NDArray[Any]:
    """A matrix (rows, dimensions) of `dtype`; ValueError if it is empty, NaN or infinite.

    Args:
        name: What an error calls the matrix, such as "test_features".
        ids: Names of the rows, for errors.
    """
    x = np.asarray(values)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be a matrix (rows, dimensions) that is not empty, got {x.shape}.")
    x = x.astype(dtype, copy=False)
    broken = [
        part.start + row for part in slices(len(x), 65_536) for row in np.flatnonzero(~np.isfinite(x[part]).all(1))
    ]
    if broken:
        raise ValueError(
            f"{name} has NaN or infinite values in the rows {named_rows(broken, ids)}: leave these rows out, or check "
            f"the encoder."
        )
    return x


def unit_vectors(
    embeddings: ArrayLike, name: str = "rows", ids: Sequence[str] | None = None, *, zeros: bool = False
) -> Floats:
    """Rows (n, D) divided by their length. Equal rows give equal bytes.

    Args:
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
    """Group of each row (n,), and the first row of each group. Equal rows form a group.

    Groups are in order of their first row. Rows are compared by 128-bit digests of their bytes: faster than numpy's
    `unique(axis=0)`, and less memory.
    """
    digests = np.array([hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(x)], "S16")
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    return first.argsort().argsort()[group], np.sort(first)


def first_of_groups(groups: Ids, values: NDArray[Any], count: int, k: int, fill: float) -> NDArray[Any]:
    """First `k` values of each of `count` groups (count, k), then `fill`. `groups` (n,) must be in ascending order."""
    place = np.arange(len(groups)) - np.searchsorted(groups, groups)
    table = np.full((count, k), fill, values.dtype)
    table[groups[place < k], place[place < k]] = values[place < k]
    return table
