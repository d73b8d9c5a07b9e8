"""From embeddings to clusters: normalisation, reduction of the dimensions, and the clusterers.

Source of the normalisations, and of UMAP and Ward as the published choice: Task II of BIOSCAN-5M
(https://arxiv.org/abs/2406.12723).
Shape letters: N = specimens, D = embedding size, R = reduced size.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .graph import genie_clusters, knn_graph
from .ward import EXACT_UP_TO, graph_tree, ward_tree

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

NORMALIZATIONS = ("none", "l2", "l2_corrected", "elementwise_zscore", "average_zscore")

#: Reducer -> its options. Those of UMAP are the published ones.
REDUCERS: dict[str, dict[str, Any]] = {
    "none": {},
    "pca": {"n_components": 50},
    "umap": {"n_neighbors": 30, "n_components": 50, "min_dist": 0.0, "metric": "euclidean"},
    "pacmap": {"n_neighbors": 30, "n_components": 50},
}

#: Clusterer -> its options, besides the number of clusters.
CLUSTERERS: dict[str, dict[str, Any]] = {
    "ward": {},
    "graph-ward": {"n_neighbors": 15, "exact_up_to": EXACT_UP_TO},
    "average": {},
    "genie": {"gini_threshold": 0.3},
    "kmeans": {"n_init": 1},
    "minibatch-kmeans": {"n_init": 1, "batch_size": 4096},
    "hdbscan": {"min_cluster_size": 5},
    "leiden": {"n_neighbors": 15, "resolution": 0.2},
    "louvain": {"n_neighbors": 15, "resolution": 1.0},
}

#: Clusterers that merge two clusters at a time, and so have a distance at which to stop.
TREES = ("ward", "graph-ward", "average")

#: Clusterers that find the number of clusters themselves.
FREE = ("hdbscan", "leiden", "louvain")

#: Most specimens of average linkage: it holds all distances, 10 GB of them at this number.
MOST_FOR_AVERAGE = 50_000


def checked_embeddings(
    embeddings: ArrayLike | Mapping[str, ArrayLike], ids: Sequence[str] | None = None
) -> dict[str, Floats]:
    """Modality -> embeddings (N, D); the modality of a plain array is "embedding".

    Args:
        ids: Names of the specimens (N,) for error messages; else their row numbers.

    Raises:
        ValueError: for no modality, what is no matrix, modalities of different lengths, NaN or infinite numbers (the
            rows are named), and embeddings that are all equal.
    """
    given = dict(embeddings) if isinstance(embeddings, Mapping) else {"embedding": embeddings}
    if not given:
        raise ValueError("No embeddings are given: name one modality or more.")
    parts = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in given.items()}
    lengths = {name: len(x) for name, x in parts.items() if x.ndim == 2 and 0 not in x.shape}
    for name, x in parts.items():
        if name not in lengths:
            raise ValueError(f"The embeddings {name!r} must be a matrix (N, D), not empty; got the shape {x.shape}.")
        rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(rows):
            raise ValueError(
                f"The embeddings {name!r} are NaN or infinite in the rows {named_rows(rows, ids)}: leave these "
                f"specimens out, or find out why the encoder gave them."
            )
        if (x == x[0]).all():
            raise ValueError(
                f"The embeddings {name!r} of all {len(x)} specimens are equal: there is nothing to cluster by. "
                f"Look at the encoder and at its input."
            )
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"The modalities have different numbers of rows: {lengths}. Row i must be the same specimen in each; "
            f"clustering_protocol.join_by_processid brings them in line."
        )
    return parts


def normalized(
    x: Floats, normalization: str = "none", name: str = "embedding", ids: Sequence[str] | None = None
) -> Floats:
    """Embeddings (N, D) after one of `NORMALIZATIONS`.

    "none"; "l2": unit vectors; "l2_corrected": vectors of length sqrt(D), so that modalities of different sizes weigh
    by their number of dimensions; "elementwise_zscore": mean 0 and deviation 1 in every dimension (0 in one that is
    constant); "average_zscore": mean 0, and all dimensions divided by their mean deviation, which keeps the
    proportions of distances.

    Args:
        name: Of the modality, for error messages.
        ids: Names of the specimens (N,) for them; else their row numbers.

    Raises:
        ValueError: for an unknown normalisation, and for zero vectors, which have no direction (their rows are named).
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"Unknown normalization {normalization!r}. There are {', '.join(NORMALIZATIONS)}.")
    if normalization == "none":
        return x
    if normalization.startswith("l2"):
        length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        zero = np.flatnonzero(length == 0)
        if len(zero):
            raise ValueError(
                f"The embeddings {name!r} are zero in the rows {named_rows(zero, ids)}, which {normalization!r} "
                f"cannot normalise: leave these specimens out."
            )
        scale = np.sqrt(x.shape[1]) if normalization == "l2_corrected" else 1.0
        return (x * (scale / length)).astype(np.float32)
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    if normalization == "average_zscore":
        return (centred / deviation.mean()).astype(np.float32)
    constant = np.ptp(x, axis=0) == 0
    return np.where(constant, 0, centred / np.where(constant, 1, deviation)).astype(np.float32)


def reduced(x: Floats, reducer: str, options: Mapping[str, Any], seed: int) -> Floats:
    """Embeddings of fewer dimensions (N, R).

    Args:
        options: All that `resolved` gives, for `sklearn.decomposition.PCA`, `umap.UMAP` or `pacmap.PaCMAP`.

    Raises:
        ValueError: for fewer points than the reducer takes.
        ModuleNotFoundError: if the reducer's library is not installed.
    """
    if reducer == "none":
        return x
    if reducer == "pca":
        from sklearn.decomposition import PCA

        most = min(x.shape)
        if options["n_components"] > most:
            raise ValueError(
                f"PCA of {x.shape[0]} points of {x.shape[1]} dimensions has {most} components at most, and "
                f"{options['n_components']} are asked for: pass reducer_options={{'n_components': {most}}} or fewer."
            )
        return np.asarray(PCA(**options, random_state=seed).fit_transform(x), np.float32)
    # Both libraries would take fewer neighbours than asked for, and go on.
    fewest = max(options["n_neighbors"], options["n_components"] + 1) + 1
    if len(x) < fewest:
        raise ValueError(
            f"{reducer} with {options['n_neighbors']} neighbours and {options['n_components']} dimensions takes "
            f"{fewest} points or more, and there are {len(x)}: pass smaller reducer_options, or reducer='none'."
        )
    if reducer == "umap":
        made = _import("umap").UMAP(**options, random_state=seed, n_jobs=1)  # a seed allows one thread alone
    else:
        made = _import("pacmap").PaCMAP(**options, random_state=seed)
    return np.asarray(made.fit_transform(x), np.float32)


def merge_tree(x: Floats, clusterer: str, options: Mapping[str, Any]) -> NDArray[np.float64]:
    """Tree (N - 1, 4) of the clusters that one of `TREES` merges, in the form of scipy's linkage.

    "ward" is exact, "graph-ward" is for more points than can be compared in pairs.

    Raises:
        ValueError: for "average" and more than `MOST_FOR_AVERAGE` points.
    """
    if clusterer == "ward":
        return ward_tree(x)
    if clusterer == "graph-ward":
        return graph_tree(x, **options)
    if len(x) > MOST_FOR_AVERAGE:
        raise ValueError(
            f"Average linkage of {len(x):,} points holds {len(x) ** 2 * 4 / 1e9:.0f} GB of distances; up to "
            f"{MOST_FOR_AVERAGE:,} points are taken. 'ward' needs memory for the points alone."
        )
    from scipy.cluster.hierarchy import linkage

    return np.asarray(linkage(x, "average"))


def partition(x: Floats, clusterer: str, n_clusters: int, options: Mapping[str, Any], seed: int) -> Ids:
    """Cluster of each point (N,), by "genie", "kmeans" or "minibatch-kmeans"."""
    if clusterer == "genie":
        return genie_clusters(x, n_clusters, **options)
    from sklearn.cluster import KMeans, MiniBatchKMeans

    method = KMeans if clusterer == "kmeans" else MiniBatchKMeans
    return np.asarray(method(n_clusters=n_clusters, random_state=seed, **options).fit_predict(x), np.int64)


def free_partition(x: Floats, clusterer: str, options: Mapping[str, Any], seed: int) -> Ids:
    """Cluster of each point (N,), by one of `FREE`; -1 for what "hdbscan" leaves as noise."""
    if clusterer == "hdbscan":
        from sklearn.cluster import HDBSCAN

        return np.asarray(HDBSCAN(copy=True, **options).fit_predict(x), np.int64)
    return communities(x, clusterer, seed=seed, **options)


def communities(x: Floats, method: str, *, n_neighbors: int, resolution: float, seed: int = 0) -> Ids:
    """Community of each point (N,) in the graph of nearest neighbours.

    An edge joins two points of which one is among the other's `n_neighbors` nearest, and weighs the share of the
    neighbours of both that they have in common (Levine et al. 2015, https://doi.org/10.1016/j.cell.2015.05.047).
    "leiden" (Traag et al. 2019, https://arxiv.org/abs/1810.08473) optimises the constant Potts model, in which a
    community is kept if its mean weight is above `resolution`, whatever the size of the data; "louvain" (Blondel et
    al. 2008, https://arxiv.org/abs/0803.0476) optimises modularity, whose communities grow with the data.

    Raises:
        ModuleNotFoundError: without igraph.
    """
    if n_neighbors >= len(x):
        raise ValueError(f"{len(x)} points have fewer than {n_neighbors} neighbours each: pass a smaller n_neighbors.")
    igraph = _import("igraph")
    rows, columns, weights = shared_neighbours(x, n_neighbors)
    graph = igraph.Graph(n=len(x), edges=np.stack([rows, columns], axis=1))
    igraph.set_random_number_generator(random.Random(seed))
    try:
        if method == "leiden":
            found = graph.community_leiden("CPM", weights=weights, resolution=resolution, n_iterations=-1)
        else:
            found = graph.community_multilevel(weights=weights, resolution=resolution)
    finally:
        igraph.set_random_number_generator(random)
    return np.asarray(found.membership, np.int64)


def shared_neighbours(x: Floats, n_neighbors: int) -> tuple[Ids, Ids, NDArray[np.float64]]:
    """Edges of the graph of nearest neighbours: the two points (E,), (E,), and the weight in (0, 1] of each (E,).

    The weight is |A and B| / |A or B| of the sets of the nearest neighbours of the two, each with the point itself.
    """
    from scipy.sparse import csr_matrix, identity

    graph = knn_graph(x, n_neighbors)
    ones = np.ones(len(graph.indices), np.float32)
    near = csr_matrix((ones, graph.indices, graph.indptr), shape=graph.shape) + identity(len(x), np.float32, "csr")
    near.data[:] = 1
    sizes = np.diff(near.indptr)
    either = near.maximum(near.T).tocsr()
    parts = []
    for start in range(0, len(x), 50_000):  # the product holds all points that have a neighbour in common
        rows = slice(start, start + 50_000)
        common = (near[rows] @ near.T).multiply(either[rows]).tocoo()
        parts.append((common.row.astype(np.int64) + start, common.col.astype(np.int64), common.data))
    row, column, shared = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    once = (row < column) & (shared > 0)
    row, column, shared = row[once], column[once], shared[once].astype(np.float64)
    return row, column, shared / (sizes[row] + sizes[column] - shared)


def resolved(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a reducer or clusterer: those given, and the default of every other.

    Args:
        kind: "reducer" or "clusterer".

    Raises:
        ValueError: for an unknown name, and options of what has none.
    """
    known = REDUCERS if kind == "reducer" else CLUSTERERS
    if name not in known:
        raise ValueError(f"Unknown {kind} {name!r}. There are {', '.join(known)}.")
    reserved = {"random_state", "n_jobs", "n_clusters", "seed"} & set(options)
    if reserved or (options and not known[name]):
        raise ValueError(
            f"{kind}_options {', '.join(sorted(reserved or options))}: {name!r} takes "
            f"{', '.join(known[name]) or 'none'}, and its seed and number of clusters are arguments of their own."
        )
    return {**known[name], **options}


def named_rows(rows: Any, ids: Sequence[str] | None) -> str:
    """The first five rows, with the names of their specimens, and how many more there are."""
    shown = ", ".join(str(row) if ids is None else f"{row} ({ids[row]})" for row in rows[:5])
    return shown + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"This way of clustering needs {name}: pip install 'bioscan_hf[cluster]'. The reducers 'none' and 'pca' "
            f"and the clusterers 'ward', 'kmeans' and 'hdbscan' do without it."
        ) from error
