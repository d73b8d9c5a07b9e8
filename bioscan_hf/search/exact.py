"""Exact k nearest neighbours, block by block in bounded memory.

Blocks of keys have one width, a multiple of 64 columns, and the last one is padded: a matrix product then gives equal
keys equal similarities wherever they stand, so that ties are ties.
Shape letters: N = keys, Q = queries, D = embedding size, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .vectors import Ids, slices, unit_vectors

#: "dot" is the inner product of the vectors as they are: the cosine of unit vectors.
METRICS = ("cosine", "euclidean", "dot")
DTYPES = ("float32", "bfloat16")

KEYS_AT_ONCE = 65_536
QUERIES_AT_ONCE = 1024


class Neighbours(NamedTuple):
    """Nearest keys of each query.

    Attributes:
        rows: Rows of the keys (Q, K), nearest first; -1 where the search found no more.
        similarities: (Q, K): cosine, inner product, or 1 / (1 + Euclidean distance); -inf where `rows` is -1.
    """

    rows: Ids
    similarities: NDArray[Any]


class TopK:
    """Collects the K nearest keys of each query while blocks of keys pass in ascending order."""

    def __init__(self, queries: int, k: int, device: str | torch.device, dtype: torch.dtype = torch.float32):
        self.values = torch.full((queries, k), -torch.inf, device=device, dtype=dtype)
        self.rows = torch.full((queries, k), -1, device=device)

    def add(self, queries: slice, similarity: Tensor, first_row: int) -> None:
        """Adds the similarities (q, n) of some queries to the keys from `first_row` on. -inf leaves a key out."""
        k = self.values.shape[1]
        values, rows = first_top_k(similarity, min(k, similarity.shape[1]))
        rows = (rows + first_row).masked_fill(values == -torch.inf, -1)
        values, rows = torch.cat([self.values[queries], values], 1), torch.cat([self.rows[queries], rows], 1)
        values, order = values.sort(dim=1, descending=True, stable=True)
        self.values[queries], self.rows[queries] = values[:, :k], rows.gather(1, order)[:, :k]

    def found(self) -> Neighbours:
        """Rows and similarities as arrays."""
        return Neighbours(self.rows.cpu().numpy(), self.values.cpu().numpy())


def nearest(
    queries: NDArray[Any],
    keys: NDArray[Any],
    k: int = 1,
    *,
    rows: Ids | None = None,
    metric: str = "cosine",
    dtype: str = "float32",
    keys_at_once: int = KEYS_AT_ONCE,
    device: str | torch.device = "cpu",
) -> Neighbours:
    """Finds the `k` nearest keys of each query. Of equally near keys, the first row comes first.

    Args:
        queries: (Q, D), finite.
        keys: (N, D), finite.
        k: At most N.
        rows: Searches only these rows of `keys`, in this order.
        metric: "cosine" and "dot" are computed in float32, "euclidean" in float64. The cosine with zeros is 0.
        dtype: "bfloat16" is several times as fast on processors that support it. The order of keys whose cosines
            differ by less than about 0.001 may change.
        keys_at_once: At most `keys_at_once` x 1,024 similarities exist at a time.
    """
    best = TopK(len(queries), k, device, torch.float64 if metric == "euclidean" else torch.float32)
    options: dict[str, Any] = {"metric": metric, "dtype": dtype, "keys_at_once": keys_at_once, "device": device}
    for asked, columns, similarity in similarity_blocks(queries, keys, rows, **options):
        best.add(asked, similarity, columns.start)
    found, similarities = best.found()
    if metric == "euclidean":
        own = np.square(np.asarray(queries, np.float64)).sum(axis=1, keepdims=True)
        similarities = 1 / (1 + np.sqrt((own - similarities).clip(min=0)))
    elif dtype == "bfloat16":
        similarities = similarities + 1
    return Neighbours(found if rows is None else np.where(found >= 0, rows[found], -1), similarities)


def similarity_blocks(
    queries: NDArray[Any],
    keys: NDArray[Any],
    rows: Ids | None = None,
    *,
    metric: str = "cosine",
    dtype: str = "float32",
    keys_at_once: int = KEYS_AT_ONCE,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Slices of queries and of keys, and their similarities (q, n), until all are compared.

    The next block overwrites the similarities: new memory for each would take as long as products of short vectors.

    Arguments as of `nearest`; the slices of keys count along `rows`. "euclidean" gives 2 q k - k^2, which orders the
    keys of a query by distance; "bfloat16" gives cosines minus 1.
    """
    x = _prepared(queries, metric, dtype, 1.0, device)
    count = len(keys) if rows is None else len(rows)
    width = -(-count // -(-count // keys_at_once))  # blocks of nearly one size
    width = -(-width // 64) * 64
    block = torch.zeros((width, x.shape[1]), dtype=x.dtype, device=device)
    products = torch.empty((min(len(x), QUERIES_AT_ONCE), width), dtype=x.dtype, device=device)
    for columns in slices(count, width):
        n = columns.stop - columns.start
        block[:n] = _prepared(keys[columns if rows is None else rows[columns]], metric, dtype, -1.0, device)
        for asked in slices(len(x), QUERIES_AT_ONCE):
            similarity = torch.matmul(x[asked], block.T, out=products[: asked.stop - asked.start])
            if metric == "euclidean":
                similarity.mul_(2).sub_(block.square().sum(1))
            yield asked, columns, similarity[:, :n]


def first_top_k(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` greatest of each row and their columns, descending. Of equal values, the first columns."""
    if k == 1:
        return similarity.max(dim=1, keepdim=True)  # max returns the first maximum, topk any
    values, columns = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    cut = values[:, k - 1] == values[:, -1] if values.shape[1] > k else torch.zeros(len(values), dtype=torch.bool)
    columns = columns[:, :k]
    if cut.any():  # topk chose among equal values
        columns[cut] = similarity[cut].sort(dim=1, descending=True, stable=True).indices[:, :k]
    columns = columns.sort(dim=1).values
    values, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def with_column(unit: Tensor, value: float) -> Tensor:
    """Unit vectors in bfloat16 with one more column: 1 for queries, -1 for keys, so products are cosines minus 1.

    The largest products are near 0, where bfloat16 is finer than near 1, where its step is 0.004.
    """
    return torch.cat([unit, unit.new_full((len(unit), 1), value)], dim=1).to(torch.bfloat16)


def _prepared(x: NDArray[Any], metric: str, dtype: str, column: float, device: str | torch.device) -> Tensor:
    if metric == "cosine":
        unit = torch.from_numpy(unit_vectors(x, zeros=True)).to(device)
        return with_column(unit, column) if dtype == "bfloat16" else unit
    number = np.float64 if metric == "euclidean" else np.float32
    return torch.from_numpy(np.ascontiguousarray(x, number)).to(device)
