"""Nearest keys by cosine, fast: the keys lie in cells, and a query is compared with those of its nearest cells alone.

This is the inverted file of Sivic and Zisserman (2003, https://doi.org/10.1109/ICCV.2003.1238663) with whole vectors
in its lists; all queries of a cell are compared with all its keys in one matrix product. `probing.knn_probe` is exact.
Shape letters: N = keys, M = queries, D = embedding size, C = cells, K = neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

ITERATIONS = 10

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Cells:
    """Keys in cells, as `make_cells` gives them.

    Attributes:
        centres: Unit vectors (C, D), float32.
        keys: Unit vectors (N, D) in the order of their cells; in bfloat16 with one column more, which is -1.
        rows: Row of each of them among the keys that were given, (N,).
        starts: Where each cell begins, and N, (C + 1,).
    """

    centres: Tensor
    keys: Tensor
    rows: Tensor
    starts: list[int]


def make_cells(keys: ArrayLike, cells: int = 64, *, dtype: str = "float32", seed: int = 0) -> Cells:
    """Puts keys into cells by k-means on the sphere.

    Args:
        keys: (N, D), finite, not all of them zero.
        cells: About the square root of N is fast.
        dtype: "float32", or "bfloat16": several times as fast where the processor multiplies in it; among keys whose
            cosines differ by less than about 0.001 the order may then be another.
        seed: Of the first centres.

    Raises:
        ValueError: for an unknown dtype, keys that are no finite matrix, and other than 1 to N cells.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}. Choose one of {', '.join(DTYPES)}.")
    unit = _unit("keys", keys)
    if not 1 <= cells <= len(unit):
        raise ValueError(f"cells is {cells}, but {len(unit)} keys can lie in 1 to {len(unit)} cells.")
    first = np.random.default_rng(seed).choice(len(unit), cells, replace=False)
    centres = unit[torch.from_numpy(first)]
    for _ in range(ITERATIONS):
        cell = (unit @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, cell, unit)
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, sums / length.clamp(min=1e-12), centres)  # an empty cell stays where it is
    cell = (unit @ centres.T).argmax(1)
    order = cell.argsort(stable=True)
    starts = [0, *torch.bincount(cell, minlength=cells).cumsum(0).tolist()]
    return Cells(centres, _with_column(unit[order], -1.0, DTYPES[dtype]), order, starts)


def nearest_in_cells(
    cells: Cells, queries: ArrayLike, *, k: int = 1, searched: int = 4
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the nearest keys, nearest first, and their cosines, both (M, K); -1 and -inf where a cell has too few.

    Of equally near keys the first row comes first.

    Args:
        queries: (M, D), finite.
        searched: Cells that are looked through for a query; with all of them the search is exact.

    Raises:
        ValueError: for queries that do not fit the keys, and numbers of neighbours or cells that there are not.
    """
    unit = _unit("queries", queries)
    if unit.shape[1] != cells.centres.shape[1]:
        raise ValueError(
            f"The queries have {unit.shape[1]} dimensions and the keys {cells.centres.shape[1]}: both must come from "
            f"the same encoder."
        )
    if not 1 <= k <= len(cells.rows) or not 1 <= searched <= len(cells.centres):
        raise ValueError(
            f"k is {k} and searched {searched}, but there are {len(cells.rows)} keys in {len(cells.centres)} cells."
        )
    chosen = (unit @ cells.centres.T).topk(searched, dim=1).indices  # (M, searched)
    query_of, slot_of = (part.flatten() for part in torch.meshgrid(*map(torch.arange, chosen.shape), indexing="ij"))
    by_cell = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=len(cells.centres)).tolist()
    values = torch.full((len(unit), searched, k), -torch.inf)
    rows = torch.full((len(unit), searched, k), -1, dtype=torch.int64)
    wanted = _with_column(unit, 1.0, cells.keys.dtype)
    done = 0
    for cell, count in enumerate(counts):
        start, end = cells.starts[cell], cells.starts[cell + 1]
        asked, done = by_cell[done : done + count], done + count
        if count == 0 or start == end:
            continue
        similarity = wanted[query_of[asked]] @ cells.keys[start:end].T
        if k == 1:
            best, place = similarity.max(1, keepdim=True)  # max names the first maximum, topk any
        else:
            best, place = similarity.float().sort(dim=1, descending=True, stable=True)
            best, place = best[:, :k], place[:, :k]
        values[query_of[asked], slot_of[asked], : best.shape[1]] = best.float()
        rows[query_of[asked], slot_of[asked], : best.shape[1]] = cells.rows[start:end][place]
    found, order = rows.flatten(1).sort(dim=1)  # by row first, then stably by value: the first of equals wins
    near, best_order = values.flatten(1).gather(1, order).sort(dim=1, descending=True, stable=True)
    offset = 1.0 if cells.keys.dtype == torch.bfloat16 else 0.0
    return found.gather(1, best_order)[:, :k].numpy(), (near[:, :k] + offset).numpy()


def _unit(name: str, values: ArrayLike) -> Tensor:
    """Rows of length 1 (zeros stay zeros), float32."""
    array = np.asarray(values, np.float32)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a matrix (rows, dimensions) of finite numbers that is not empty.")
    rows = torch.from_numpy(np.ascontiguousarray(array))
    length = rows.norm(dim=1, keepdim=True)
    return rows / length.masked_fill(length == 0, 1)


def _with_column(unit: Tensor, value: float, dtype: torch.dtype) -> Tensor:
    """In bfloat16, with a column more: of queries 1 and of keys -1, so that products are cosines less 1.

    The best ones are then near 0, where bfloat16 tells finer differences than near 1, where it has steps of 0.004.
    """
    if dtype == torch.float32:
        return unit
    return torch.cat([unit, unit.new_full((len(unit), 1), value)], dim=1).to(dtype)
