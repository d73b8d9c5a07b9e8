"""Approximate nearest keys by cosine: keys lie in cells, and a query is compared with those of its nearest cells.

This is the inverted file of Sivic and Zisserman (2003, https://doi.org/10.1109/ICCV.2003.1238663) with whole vectors
in its lists. All queries of a cell are compared with all its keys in one matrix product.
Shape letters: N = keys, Q = queries, D = embedding size, C = cells, K = neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .exact import DTYPES, Neighbours, first_top_k, with_column
from .vectors import check_query, slices, unit_vectors

ITERATIONS = 10


class Cells(NamedTuple):
    """Keys in cells, as `make_cells` returns them."""

    centres: Tensor  # unit vectors (C, D)
    keys: Tensor  # unit vectors (N, D), sorted by cell; (N, D + 1) in bfloat16, see `exact.with_column`
    rows: Tensor  # row of each of them among the given keys (N,)
    starts: list[int]  # first key of each cell, and N (C + 1,)


def make_cells(keys: ArrayLike, cells: int = 64, *, dtype: str = "float32", seed: int = 0) -> Cells:
    """Sorts finite keys (N, D) into cells by spherical k-means. About the square root of N cells are fast.

    Raises:
        ValueError: for a dtype other than those of `exact.nearest`, keys that are not a finite matrix, and fewer than
            1 or more than N cells.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(DTYPES)}.")
    unit = torch.from_numpy(unit_vectors(keys, "keys", zeros=True))
    if not 1 <= cells <= len(unit):
        raise ValueError(f"cells is {cells}, but {len(unit)} keys allow 1 to {len(unit)} cells.")
    initial = np.random.default_rng(seed).choice(len(unit), cells, replace=False)
    centres = unit[torch.from_numpy(initial)]
    for _ in range(ITERATIONS):
        cell = (unit @ centres.T).argmax(1)
        sums = torch.zeros(centres.shape, dtype=torch.float64)
        for part in slices(len(unit), 4096):  # sums of many float32 numbers lose digits
            sums += torch.zeros_like(centres).index_add_(0, cell[part], unit[part])
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, sums / length.clamp(min=1e-12), centres).float()  # empty cells stay
    cell = (unit @ centres.T).argmax(1)
    order = cell.argsort(stable=True)
    starts = [0, *torch.bincount(cell, minlength=cells).cumsum(0).tolist()]
    return Cells(centres, with_column(unit[order], -1.0) if dtype == "bfloat16" else unit[order], order, starts)


def nearest_in_cells(cells: Cells, queries: ArrayLike, *, k: int = 1, searched: int = 4) -> Neighbours:
    """Finds the nearest keys in the `searched` nearest cells of each query (Q, D); exact with all cells.

    Of equally near keys, the first row comes first. Rows are -1 and cosines -inf where the cells hold too few keys.

    Raises:
        ValueError: for queries that do not fit the keys, and more neighbours or cells than there are.
    """
    unit = torch.from_numpy(unit_vectors(queries, "queries", zeros=True))
    check_query(unit.shape[1], cells.centres.shape[1], k, len(cells.rows))
    if not 1 <= searched <= len(cells.centres):
        raise ValueError(f"searched is {searched}; give a number of cells from 1 to {len(cells.centres)}.")
    coarse = cells.keys.dtype == torch.bfloat16
    wanted = with_column(unit, 1.0) if coarse else unit
    chosen = (unit @ cells.centres.T).topk(searched, dim=1).indices.flatten()  # (Q * searched,)
    by_cell = chosen.argsort(stable=True)
    values = torch.full((len(unit) * searched, k), -torch.inf)
    rows = torch.full((len(unit) * searched, k), -1)
    for cell, asked in enumerate(by_cell.split(torch.bincount(chosen, minlength=len(cells.centres)).tolist())):
        start, end = cells.starts[cell], cells.starts[cell + 1]
        if len(asked) == 0 or start == end:
            continue
        similarity = wanted[asked // searched] @ cells.keys[start:end].T
        best, place = first_top_k(similarity.float(), min(k, end - start))
        values[asked, : best.shape[1]] = best
        rows[asked, : best.shape[1]] = cells.rows[start:end][place]
    found, order = rows.view(len(unit), -1).sort(dim=1)  # by row, then stably by value: the first of equals wins
    best, place = values.view(len(unit), -1).gather(1, order).sort(dim=1, descending=True, stable=True)
    return Neighbours(found.gather(1, place)[:, :k].numpy(), (best[:, :k] + coarse).numpy())
