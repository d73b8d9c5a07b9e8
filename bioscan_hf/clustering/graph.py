"""Nearest neighbours of many points, exact or not, and what clusters along them.

Shape letters: N = points, D = embedding size, K = neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

#: Up to so many points, `knn_graph` is exact unless it is told otherwise.
EXACT_NEIGHBORS_UP_TO = 50_000

#: An inverted file visits the nearest so many of its lists, of which there are about 2 sqrt(N).
LISTS_VISITED = 16

#: Points per list from which an inverted file learns its centres, as faiss recommends at least.
TRAINING_PER_LIST = 39

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def checked_points(points: ArrayLike) -> Floats:
    """Points (N, D) in float64.

    Raises:
        ValueError: for what is no matrix of finite numbers with at least one row.
    """
    matrix = np.ascontiguousarray(points, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"Points are a matrix (N, D) with at least one row; got the shape {matrix.shape}.")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(f"{len(bad)} of {len(matrix)} points hold NaN or infinity; the first is row {bad[0]}.")
    return matrix


def knn_graph(points: ArrayLike, n_neighbors: int, *, approximate: bool | None = None) -> csr_matrix:
    """Euclidean distances (N, N) to each point's K nearest others, K stored a row, nearest first.

    The distance 0 of equal points is stored like any other. Exact neighbours are scikit-learn's. Approximate ones are
    found by faiss in an inverted file of about 2 sqrt(N) lists, of which 16 are visited. At 47,260 simulated
    embeddings (benchmarks/bench_clustering.py) that finds all exact ones in 1.3 s of CPU; HNSW (16 links, effort 64)
    98.7 % in 3.2 s.

    Args:
        points: (N, D), finite, more than K.
        n_neighbors: K.
        approximate: None: above 50,000 points.

    Raises:
        ValueError: Points that are not a matrix of finite numbers, or too few for K.
        ModuleNotFoundError: Approximate neighbours without faiss.
    """
    matrix = checked_points(points)
    rows = len(matrix)
    if not 1 <= n_neighbors < rows:
        raise ValueError(f"n_neighbors={n_neighbors}: {rows} points have 1 to {rows - 1} neighbours.")
    if approximate is None:
        approximate = rows > EXACT_NEIGHBORS_UP_TO
    distances, found = (_approximate_neighbors if approximate else _exact_neighbors)(matrix, n_neighbors + 1)
    # A point is usually its own nearest; among many equal ones it may not even be found, and the last is left out.
    itself = found == np.arange(rows)[:, None]
    itself[~itself.any(axis=1), -1] = True
    distances, found = (part[~itself].reshape(rows, n_neighbors) for part in (distances, found))
    starts = np.arange(0, rows * n_neighbors + 1, n_neighbors)
    return csr_matrix((distances.ravel(), found.ravel(), starts), shape=(rows, rows))


def genie_clusters(points: ArrayLike, n_clusters: int, *, gini_threshold: float = 0.3) -> Ids:
    """Cluster (N,) of each point by Genie (Gagolewski et al. 2016, https://doi.org/10.1016/j.ins.2016.05.003).

    Single linkage over the exact minimum spanning tree that merges the smallest cluster whenever the Gini index of
    the sizes exceeds the threshold. Memory linear, time quadratic in N.

    Args:
        points: (N, D), finite.
        n_clusters: 1 to N.
        gini_threshold: In (0, 1]; at 1 it is single linkage. Low values force clusters of equal size.

    Raises:
        ValueError: Points that are not a matrix of finite numbers; too many clusters; a threshold out of range.
        ModuleNotFoundError: genieclust is not installed.
    """
    matrix = checked_points(points)
    if not 1 <= n_clusters <= len(matrix):
        raise ValueError(f"n_clusters={n_clusters}: {len(matrix)} points make 1 to {len(matrix)} clusters.")
    if not 0 < gini_threshold <= 1:
        raise ValueError(f"gini_threshold={gini_threshold}: it lies in (0, 1].")
    try:
        from genieclust import Genie
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Genie needs genieclust: pip install 'bioscan_hf[cluster]'.") from error
    return Genie(n_clusters, gini_threshold=gini_threshold).fit_predict(matrix).astype(np.int64)


def _exact_neighbors(matrix: Floats, wanted: int) -> tuple[Any, Any]:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(matrix).kneighbors(matrix)


def _approximate_neighbors(matrix: Floats, wanted: int) -> tuple[Any, Any]:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Approximate neighbours need faiss: pip install 'bioscan_hf[index]'. approximate=False does not."
        ) from error
    rows = (matrix - matrix.mean(axis=0)).astype(np.float32)
    lists = max(1, min(int(2 * len(rows) ** 0.5), len(rows) // TRAINING_PER_LIST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(rows.shape[1]), rows.shape[1], lists)
    index.cp.max_points_per_centroid = TRAINING_PER_LIST
    index.train(rows)
    index.add(rows)
    index.nprobe = LISTS_VISITED
    squares, found = index.search(rows, wanted)
    if (found < 0).any():  # fewer points in the visited lists than wanted
        index.nprobe = lists
        short = (found < 0).any(axis=1)
        squares[short], found[short] = index.search(rows[short], wanted)
    return np.sqrt(squares), found
