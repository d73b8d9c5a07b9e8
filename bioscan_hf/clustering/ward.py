"""Ward's tree of many points: exact, in memory linear in their number.

Ward's method (Ward 1963, https://doi.org/10.1080/01621459.1963.10500845) is reducible (Bruynooghe 1977): all pairs of
clusters that are each other's nearest can merge at once, here in about 50 rounds of matrix products.
Measured on 20,000 simulated embeddings of 50 numbers: 4.6 s of CPU and 56 MB besides the points. scipy and
scikit-learn find the same partition in 24 s and 26 s with 3.1 GB (benchmarks/bench_clustering.py).
Shape letters: N = points, D = embedding size, M = clusters that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..search.vectors import finite_matrix, slices

#: Clusters up to which all pairs are compared; of more, `graph_tree` compares neighbours first.
EXACT_UP_TO = 40_000

#: Distances that are in memory at a time.
DISTANCES_AT_ONCE = 2**21

#: Two costs are equal, except for rounding, if the greater is at most so many times the lower.
TIED = 1 + 1e-12

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Forest:
    """Clusters that are left (M), and the merges so far.

    Attributes:
        centers: Centroids (M, D).
        weights: Points of each (M,).
        node: Place of each in the tree (M,): points are 0 to N - 1, the t-th merge is N + t.
        height: Height of each (M,).
        merges: (node, node, height, points) of the merges of each round.
        next_node: Place of the next merge.
    """

    centers: Floats
    weights: Floats
    node: Ids
    height: Floats
    merges: list[tuple[Ids, Ids, Floats, Floats]]
    next_node: int

    def __len__(self) -> int:
        return len(self.node)


def ward_tree(points: ArrayLike) -> Floats:
    """Exact Ward's tree of points (N, D), in linear memory.

    Without ties of distances, it is that of scipy and scikit-learn; with ties, their order is undefined here as there.
    Raises ValueError if the points are not a matrix of finite numbers.

    Returns:
        (N - 1, 4), as `scipy.cluster.hierarchy.linkage`: the two clusters of each merge, its height, and the number of
        points in it, in ascending height. The height is sqrt(2 a b / (a + b)) times the distance of the two centroids,
        for clusters of a and b points.
    """
    return tree_of(merge_all(distinct_points(points)))


def cut_tree(tree: ArrayLike, n_clusters: int | None = None, distance_threshold: float | None = None) -> Ids:
    """Cluster of each point (N,), numbered in order of first points.

    Raises ValueError if not exactly one of the two is given, the tree is not such a tree, or the number is not 1 to N.

    Args:
        tree: (N - 1, 4), in ascending height.
        n_clusters: Exactly so many; of tied heights, the order in the tree decides.
        distance_threshold: Or: clusters merge below this height, not at it, as in scikit-learn.
    """
    tree = np.asarray(tree, dtype=np.float64)
    if tree.ndim != 2 or tree.shape[1] != 4 or (np.diff(tree[:, 2]) < 0).any():
        raise ValueError(f"A tree has the shape (N - 1, 4) and ascending heights, as `ward_tree`'s; got {tree.shape}.")
    points = len(tree) + 1
    if (n_clusters is None) == (distance_threshold is None):
        raise ValueError("A tree is cut at either n_clusters or distance_threshold: give one of them.")
    if n_clusters is None:
        merges = int((tree[:, 2] < distance_threshold).sum())
    elif 1 <= n_clusters <= points:
        merges = points - n_clusters
    else:
        raise ValueError(f"n_clusters={n_clusters}: {points} points make 1 to {points} clusters.")
    children = tree[:merges, :2].astype(np.int64)
    parents = np.repeat(np.arange(points, points + merges), 2)
    edges = coo_array((np.ones(2 * merges, bool), (children.ravel(), parents)), shape=(points + merges,) * 2)
    return in_order_of_first(connected_components(edges, directed=False)[1][:points])


def in_order_of_first(ids: Ids) -> Ids:
    """Clusters renumbered in the order of their first points; -1 stays.

    Example:
        >>> in_order_of_first(np.array([7, 2, -1, 7])).tolist()
        [0, 1, -1, 0]
    """
    codes = pa.array(ids, mask=ids < 0).dictionary_encode().indices.fill_null(-1)
    return codes.to_numpy().astype(np.int64)


def distinct_points(points: ArrayLike) -> Forest:
    """Forest of the distinct points: equal ones are merged at height 0."""
    matrix = finite_matrix("points", points)
    rows = len(matrix)
    bytes_of_row = np.ascontiguousarray(matrix + 0.0).view(np.dtype((np.void, matrix[0].nbytes))).ravel()  # -0 is 0
    _, first, inverse = np.unique(bytes_of_row, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    place = np.arange(rows) - np.searchsorted(inverse[order], inverse[order])  # of a point among its equals
    repeated = place > 0
    right = order[repeated]
    merged = rows + np.arange(len(right))
    left = np.where(place[repeated] == 1, order[np.flatnonzero(repeated) - 1], merged - 1)
    count = np.bincount(inverse)
    node = first.copy()
    node[count > 1] = rows + np.cumsum(count - 1)[count > 1] - 1
    # Centred, because distances come from products, which lose the digits that all points share.
    return Forest(
        centers=matrix[first] - matrix.mean(axis=0),
        weights=count.astype(np.float64),
        node=node,
        height=np.zeros(len(first)),
        merges=[(left, right, np.zeros(len(right)), (place[repeated] + 1).astype(np.float64))],
        next_node=rows + len(right),
    )


def merge(forest: Forest, left: Ids, right: Ids) -> tuple[Forest, Ids]:
    """Merges cluster `right[i]` into `left[i]`; also places of old clusters (M,)."""
    a, b = forest.weights[left], forest.weights[right]
    step = forest.centers[right] - forest.centers[left]
    height = np.sqrt(2 * a * b / (a + b) * np.einsum("md,md->m", step, step))
    # Rounding, or an edge that a graph does not have, could put a merge below one that it contains.
    height = np.maximum(height, np.maximum(forest.height[left], forest.height[right]))
    kept = np.ones(len(forest), dtype=bool)
    kept[right] = False
    place = np.cumsum(kept) - 1
    place[right] = place[left]
    merged = place[left]
    centers, weights = forest.centers[kept], forest.weights[kept]
    node, heights = forest.node[kept], forest.height[kept]
    centers[merged] += step * (b / (a + b))[:, None]
    weights[merged] = a + b
    heights[merged] = height
    node[merged] = forest.next_node + np.arange(len(left))
    merges = [*forest.merges, (forest.node[left], forest.node[right], height, a + b)]
    return Forest(centers, weights, node, heights, merges, forest.next_node + len(left)), place


def merge_all(forest: Forest) -> Forest:
    """Merges what is left to one cluster; all pairs are compared."""
    if len(forest) == 1:
        return forest
    nearest = _nearest(forest, np.arange(len(forest)))
    while len(forest) > 1:
        here = np.arange(len(forest))
        left = here[(nearest[nearest] == here) & (here < nearest)]
        if not len(left):  # ties that rounding broke differently for each of the tied
            left = np.array([np.argmin(merge_costs(forest, here, nearest))])
        right = nearest[left]
        changed = np.zeros(len(forest), dtype=bool)
        changed[left] = changed[right] = True
        stale = changed | changed[nearest]
        forest, place = merge(forest, left, right)
        kept = np.ones(len(here), dtype=bool)
        kept[right] = False
        nearest, stale = place[nearest[kept]], stale[kept]
        if len(forest) > 1:
            nearest[stale] = _nearest(forest, np.flatnonzero(stale))
    return forest


def tree_of(forest: Forest) -> Floats:
    """The merges in ascending height, numbered as in scipy."""
    left, right, height, count = (np.concatenate(parts) for parts in zip(*forest.merges, strict=True))
    points = len(height) + 1
    order = np.argsort(height, kind="stable")  # the parts of a merge come before it and are not higher
    new = np.arange(2 * points - 1)
    new[points + order] = points + np.arange(len(order))
    pairs = np.sort(np.column_stack([new[left[order]], new[right[order]]]), axis=1)
    return np.column_stack([pairs, height[order], count[order]]).astype(np.float64)


def merge_costs(forest: Forest, one: Ids, other: Ids) -> Floats:
    """Growth of the sum of squares by merging `one[i]` and `other[i]`."""
    step = forest.centers[one] - forest.centers[other]
    scale = 1 / (1 / forest.weights[one] + 1 / forest.weights[other])
    return scale * np.einsum("md,md->m", step, step)


def _nearest(forest: Forest, rows: Ids) -> Ids:
    """The cheapest other cluster to merge with, for each of `rows`."""
    squares = np.einsum("md,md->m", forest.centers, forest.centers)
    ones = np.ones(len(forest))
    # One product gives |x|^2 - 2 x y + |y|^2.
    one = np.column_stack([forest.centers[rows], squares[rows], ones[rows]])
    others = np.column_stack([-2 * forest.centers, ones, squares]).T
    inverse = 1 / forest.weights
    equal = bool((inverse == inverse[0]).all())
    at_once = max(1, DISTANCES_AT_ONCE // len(forest))
    nearest = np.empty(len(rows), dtype=np.int64)
    for part in slices(len(rows), at_once):
        block, costs = rows[part], one[part] @ others
        if not equal:
            costs /= inverse[block, None] + inverse
        costs[np.arange(len(block)), block] = np.inf
        lowest = costs.argmin(axis=1)
        tied = costs <= (costs[np.arange(len(block)), lowest] * TIED)[:, None]
        # Of tied clusters, the one that also chooses this one; otherwise a lattice merges one pair per round.
        for row in np.flatnonzero(np.count_nonzero(tied, axis=1) > 1):
            candidates = np.flatnonzero(tied[row])
            lowest[row] = candidates[np.argmin(candidates ^ block[row])]
        nearest[part] = lowest
    return nearest
