"""The nearest neighbours of all references among each other.

Shape letters: N = references, D = embedding size.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..search.cells import cell_centres

#: Neighbours of each reference, principal components that are compared, and cells that are searched.
NEIGHBOURS, COMPONENTS, SEARCHED = 10, 128, 3

_SAMPLE, _ROWS_AT_ONCE = 1000, 2048


def neighbours(vectors: Tensor, k: int = NEIGHBOURS, *, seed: int = 0) -> NDArray[np.int64]:
    """The nearest others (N, k) of unit vectors (N, D), approximately; k is at most N - 1.

    Vectors are reduced to `COMPONENTS` principal components and compared with those of the nearest cells.
    """
    n, k = len(vectors), min(k, len(vectors) - 1)
    sample = vectors[torch.from_numpy(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))].float()
    if vectors.shape[1] > COMPONENTS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = min(COMPONENTS, *sample.shape)
            basis = torch.pca_lowrank(sample, width, center=False, niter=1)[2]
        sample = sample @ basis
        reduced = torch.cat([part.float() @ basis for part in vectors.split(4096)])
    else:
        reduced = vectors.float()
    cells = max(1, int(n**0.5) if n > _SAMPLE else 1)
    centres = cell_centres(sample.numpy(), min(cells, len(sample) // 4 or 1), seed=seed)
    cell = (reduced @ centres.T).argmax(1)
    members = [torch.nonzero(cell == number).flatten() for number in range(len(centres))]
    close = (centres @ centres.T).topk(min(SEARCHED, len(centres)), dim=1).indices.tolist()
    found = np.empty((n, k), np.int64)
    everyone = torch.arange(n)
    for number, asked in enumerate(members):
        keys = torch.cat([members[other] for other in {number, *close[number]}])
        keys = everyone if len(keys) <= k else keys
        for part in asked.split(_ROWS_AT_ONCE):
            similarity = reduced[part] @ reduced[keys].T
            similarity.masked_fill_(part[:, None] == keys, -torch.inf)
            found[part.numpy()] = keys[similarity.topk(k, dim=1).indices].numpy()
    return found
