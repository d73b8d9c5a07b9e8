"""Centres of the cells of an inverted file: a query is compared with the keys of its nearest cells only.

Source: Sivic and Zisserman 2003, https://doi.org/10.1109/ICCV.2003.1238663
Shape letters: N = keys, D = embedding size, C = cells.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .vectors import slices, unit_vectors

ITERATIONS = 10


def cell_centres(keys: ArrayLike, cells: int, *, seed: int = 0) -> Tensor:
    """Centres (C, D), unit vectors, of keys (N, D), by spherical k-means. About the square root of N cells are fast.

    Raises:
        ValueError: for keys that are not a finite matrix, and more than N cells.
    """
    unit = torch.from_numpy(unit_vectors(keys, "keys", zeros=True))
    initial = np.random.default_rng(seed).choice(len(unit), cells, replace=False)
    centres = unit[torch.from_numpy(initial)]
    for _ in range(ITERATIONS):
        cell = (unit @ centres.T).argmax(1)
        sums = torch.zeros(centres.shape, dtype=torch.float64)
        for part in slices(len(unit), 4096):  # sums of many float32 numbers lose digits
            sums += torch.zeros_like(centres).index_add_(0, cell[part], unit[part])
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, sums / length.clamp(min=1e-12), centres).float()  # empty cells stay
    return centres
