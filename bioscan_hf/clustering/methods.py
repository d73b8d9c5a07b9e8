"""Clusterers, reducers and their default options.

Shape letters: N = points, D = embedding size, E = edges.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..search.vectors import Floats, Ids, slices
from .graph import graph_tree, import_library, neighbours
from .ward import EXACT_UP_TO, cut_tree, ward_tree

#: Reducer -> its options. Those of UMAP are the published ones.
REDUCERS: dict[str, dict[str, Any]] = {
    "none": {},
    "pca": {"n_components": 50},
    "umap": {"n_neighbors": 30, "n_components": 50, "min_dist": 0.0, "metric": "euclidean"},
}

#: Clusterer -> its options, besides the number of clusters.
CLUSTERERS: dict[str, dict[str, Any]] = {
    "ward": {},
    "graph-ward": {"n_neighbors": 15, "exact_up_to": EXACT_UP_TO},
    "hdbscan": {"min_cluster_size": 5},
    "leiden": {"n_neighbors": 15, "resolution": 0.2},
}

#: Clusterers that find the number of clusters themselves. The others cut a tree.
FREE = ("hdbscan", "leiden")

#: Rows of the product of shared neighbours that are computed at a time.
_ROWS_AT_ONCE = 50_000


def resolved(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a "reducer" or "clusterer" (`kind`): given ones and defaults.

    Raises ValueError for an unknown name, and for an option of a method that has none.
    """
    known = REDUCERS if kind == "reducer" else CLUSTERERS
    if name not in known:
        raise ValueError(f"Unknown {kind} {name!r}. Choose one of {', '.join(known)}.")
    reserved = {"random_state", "n_jobs", "n_clusters", "seed"} & set(options)
    if reserved or (options and not known[name]):
        raise ValueError(
            f"{kind}_options cannot have {', '.join(sorted(reserved or options))}: {name!r} takes "
            f"{', '.join(known[name]) or 'none'}; the seed and the number of clusters are arguments of their own."
        )
    return {**known[name], **options}


def clusterer_of(
    x: Floats, clusterer: str, options: Mapping[str, Any], distance_threshold: float | None, seed: int
) -> Callable[[int], Ids]:
    """Function from a number of clusters to the clusters (N,).

    `FREE` methods and a threshold ignore the number. The noise of "hdbscan" is -1.
    """
    if clusterer == "hdbscan":
        from sklearn.cluster import HDBSCAN

        return lambda _: np.asarray(HDBSCAN(copy=True, **options).fit_predict(x), np.int64)
    if clusterer == "leiden":
        return lambda _: leiden(x, seed=seed, **options)
    tree = ward_tree(x) if clusterer == "ward" else graph_tree(x, **options)
    if distance_threshold is not None:
        return lambda _: cut_tree(tree, distance_threshold=distance_threshold)
    return lambda k: cut_tree(tree, n_clusters=k)


def leiden(x: Floats, *, n_neighbors: int, resolution: float, seed: int = 0) -> Ids:
    """Leiden community of each point in the graph of shared neighbours (N,).

    Leiden (Traag et al. 2019, https://arxiv.org/abs/1810.08473) optimizes the constant Potts model: a community is
    kept if its mean weight is above `resolution`, whatever the number of points. Raises ValueError if there are not
    more points than neighbours. Raises ModuleNotFoundError if igraph is not installed.
    """
    if n_neighbors >= len(x):
        raise ValueError(f"{len(x)} points have fewer than {n_neighbors} neighbours each: pass a smaller n_neighbors.")
    igraph = import_library("igraph")
    rows, columns, weights = shared_neighbours(x, n_neighbors)
    graph = igraph.Graph(n=len(x), edges=np.stack([rows, columns], axis=1))
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = graph.community_leiden("CPM", weights=weights, resolution=resolution, n_iterations=-1)
    finally:
        igraph.set_random_number_generator(random)
    return np.asarray(found.membership, np.int64)


def shared_neighbours(x: Floats, n_neighbors: int) -> tuple[Ids, Ids, NDArray[np.float64]]:
    """Edges between nearest neighbours: two points and a weight, each (E,).

    The weight, in (0, 1], is |A and B| / |A or B|, where A and B are the nearest neighbours of the two points and the
    points themselves (Levine et al. 2015, https://doi.org/10.1016/j.cell.2015.05.047).
    """
    points = len(x)
    near_ids = np.column_stack([neighbours(x, n_neighbors), np.arange(points)])
    starts = np.arange(0, near_ids.size + 1, n_neighbors + 1)
    near = csr_matrix((np.ones(near_ids.size, np.float32), near_ids.ravel(), starts), shape=(points, points))
    either = near.maximum(near.T).tocsr()
    parts = []
    for rows in slices(points, _ROWS_AT_ONCE):
        common = (near[rows] @ near.T).multiply(either[rows]).tocoo()
        parts.append((common.row.astype(np.int64) + rows.start, common.col.astype(np.int64), common.data))
    row, column, shared = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    once = (row < column) & (shared > 0)
    row, column, shared = row[once], column[once], shared[once].astype(np.float64)
    return row, column, shared / (2 * (n_neighbors + 1) - shared)
