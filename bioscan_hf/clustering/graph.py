"""Nearest neighbours, and Ward's tree along them, of a million points.

Shape letters: N = points, D = embedding size, K = neighbours, M = clusters that are left, E = edges.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..search.exact import nearest
from ..search.vectors import finite_matrix, slices
from . import ward
from .ward import Floats, Forest, Ids

#: Points up to which neighbours are exact.
EXACT_NEIGHBORS_UP_TO = 50_000

#: Lists of the inverted file that are searched, of about 2 sqrt(N).
LISTS_VISITED = 16

#: Points per list that train the inverted file: the fewest that faiss recommends.
TRAINING_PER_LIST = 39


def import_library(name: str) -> Any:
    """A library of the extra `cluster`, or how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"This method needs {name}: pip install 'bioscan_hf[cluster]'. The reducers 'none' and 'pca' and the "
            f"clusterers 'ward' and 'hdbscan' do not."
        ) from error


def graph_tree(
    points: ArrayLike, *, n_neighbors: int = 15, exact_up_to: int = ward.EXACT_UP_TO, approximate: bool | None = None
) -> Floats:
    """Ward's tree of many points (N, D), in which neighbours merge first.

    Pairs of clusters that are each other's nearest along the edges of a graph of K neighbours merge; a cluster
    inherits the edges of its members. When half of the clusters are left, the graph is computed again from their
    centroids. When `exact_up_to` are left, all pairs are compared, in quadratic time and linear memory. Raises
    ValueError if the points are not a matrix of finite numbers, or not 1 <= n_neighbors < exact_up_to. Raises
    ModuleNotFoundError if approximate neighbours are needed and faiss is not installed.

    Returns:
        (N - 1, 4), as `ward_tree`. A merge that the graph delayed has at least the height of the merges below it.
    """
    if n_neighbors < 1 or exact_up_to <= n_neighbors:
        raise ValueError(f"n_neighbors={n_neighbors}, exact_up_to={exact_up_to}: 1 <= n_neighbors < exact_up_to.")
    forest = ward.distinct_points(points)
    while len(forest) > exact_up_to:
        near = neighbours(forest.centers, n_neighbors, approximate=approximate)
        forest = _merge_neighbours(forest, near, max(exact_up_to, len(forest) // 2))
    return ward.tree_of(ward.merge_all(forest))


def neighbours(points: ArrayLike, n_neighbors: int, *, approximate: bool | None = None) -> Ids:
    """Rows of the K nearest other points of each point (N, K).

    By Euclidean distance, the nearest first. Above 50,000 points (`approximate` None) faiss finds approximate ones in
    an inverted file of about 2 sqrt(N) lists, of which 16 are searched. For 47,260 simulated embeddings
    (benchmarks/bench_clustering.py) this finds all exact ones in 1.3 s of CPU time; HNSW (16 links, effort 64) finds
    98.7 % in 3.2 s. Raises ValueError if the points are not a matrix of finite numbers, or there are not more than K.
    """
    matrix = finite_matrix("points", points)
    rows = len(matrix)
    if not 1 <= n_neighbors < rows:
        raise ValueError(f"n_neighbors={n_neighbors}, but {rows} points have 1 to {rows - 1} neighbours.")
    if approximate or (approximate is None and rows > EXACT_NEIGHBORS_UP_TO):
        found = _approximate(matrix, n_neighbors + 1)
    else:
        centred = matrix - matrix.mean(axis=0)  # distances come from products, which lose the digits all points share
        found = nearest(centred, centred, n_neighbors + 1, metric="euclidean", keys_at_once=16_384).rows
    # Usually a point is its own nearest. Among many equal points it may not be found; then the last is left out.
    itself = found == np.arange(rows)[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(rows, n_neighbors).astype(np.int64)


def _approximate(matrix: Floats, wanted: int) -> NDArray[Any]:
    faiss = import_library("faiss")
    rows = (matrix - matrix.mean(axis=0)).astype(np.float32)
    lists = max(1, min(int(2 * len(rows) ** 0.5), len(rows) // TRAINING_PER_LIST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(rows.shape[1]), rows.shape[1], lists)
    index.cp.max_points_per_centroid = TRAINING_PER_LIST
    index.train(rows)
    index.add(rows)
    index.nprobe = LISTS_VISITED
    found = index.search(rows, wanted)[1]
    short = (found < 0).any(axis=1)  # fewer points in the searched lists than wanted
    if short.any():
        index.nprobe = lists
        found[short] = index.search(rows[short], wanted)[1]
    return found


def _merge_neighbours(forest: Forest, near: Ids, down_to: int) -> Forest:
    """Merges mutually nearest pairs until `down_to` clusters or no edges are left."""
    one, other = np.repeat(np.arange(len(near)), near.shape[1]), near.ravel()
    while len(forest) > down_to:
        one, other = _distinct_edges(one, other, len(forest))
        if not len(one):
            break
        left, right = _mutual(forest, one, other)
        left, right = left[: len(forest) - down_to], right[: len(forest) - down_to]
        forest, place = ward.merge(forest, left, right)
        one, other = place[one], place[other]
    return forest


def _distinct_edges(one: Ids, other: Ids, clusters: int) -> tuple[Ids, Ids]:
    """Each edge between two clusters once, the lower end first."""
    keys = np.minimum(one, other).astype(np.int64) * clusters + np.maximum(one, other)
    keys = np.sort(keys[one != other])
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique is slower for millions of keys
    return keys // clusters, keys % clusters


def _mutual(forest: Forest, one: Ids, other: Ids) -> tuple[Ids, Ids]:
    """Pairs of mutually nearest clusters along the edges, cheapest first."""
    costs = np.empty(len(one))
    at_once = max(1, ward.DISTANCES_AT_ONCE // forest.centers.shape[1])
    for part in slices(len(one), at_once):
        costs[part] = ward.merge_costs(forest, one[part], other[part])
    # A strict order, ties by position, so that the first of all edges is always mutual.
    order = np.argsort(costs, kind="stable")
    rank = np.empty(len(one), dtype=np.int64)
    rank[order] = np.arange(len(one))
    best = np.full(len(forest), len(one))
    np.minimum.at(best, one, rank)
    np.minimum.at(best, other, rank)
    mutual = order[np.sort(np.flatnonzero((best[one[order]] == rank[order]) & (best[other[order]] == rank[order])))]
    return one[mutual], other[mutual]
