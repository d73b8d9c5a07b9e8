"""Zero-shot clustering of embeddings, scored against the taxonomy.

Protocol: Task II of BIOSCAN-5M (https://arxiv.org/abs/2406.12723): one clustering, with as many clusters as there are
species (an oracle, known only in a benchmark), is scored against the names of each rank.
Shape letters: N = specimens, D = embedding size of a modality, R = reduced size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..progress import Progress, silent
from ..schema import LABEL_COLUMNS
from .agreement import Scores, agreement, encoded_labels, separation, silhouette
from .embeddings import Floats, checked_embeddings, reduced, side_by_side
from .methods import FREE, REDUCERS, Ids, clusterer_of, resolved
from .ward import in_order_of_first

_COMMON = {"reducer": "umap", "clusterer": "ward", "normalization": "none"}

#: Name -> arguments of `zero_shot_cluster`. "ward", the default, clusters the embeddings as they are, which found
#: species better in every comparison. "published" is Task II as published (its test runs use the seed 1).
#: "caninv" is BarcodeBERT's (https://arxiv.org/abs/2311.02401) for the Canadian invertebrates, scored against BINs;
#: 3,479 is the number of species there, so give another for other data.
PRESETS: dict[str, dict[str, Any]] = {
    "ward": {**_COMMON, "reducer": "none", "reducer_options": {}, "n_clusters": "species", "seed": 0},
    "published": {**_COMMON, "reducer_options": REDUCERS["umap"], "n_clusters": "species", "seed": 0},
    "caninv": {
        **_COMMON,
        "reducer_options": {"n_neighbors": 5, "n_components": 50, "min_dist": 0.1, "metric": "cosine"},
        "n_clusters": 3479,
        "seed": 42,
    },
}

#: Numbers of clusters that `n_clusters="silhouette"` tries, with equal ratios from 2 to N / 2.
CANDIDATES = 20

#: The fewest clusters are chosen whose silhouette is at most so much below the best. Equal barcodes keep the
#: silhouette high for small clusters, so the best one can be at several times the right number.
SILHOUETTE_TOLERANCE = 0.01

NClusters = int | str | Sequence[int] | None


@dataclass(frozen=True)
class Clustering:
    """One clustering and its scores.

    Attributes:
        clusters: Cluster of each specimen (N,), from 0 in the order of their first specimens; -1 is noise of HDBSCAN.
        n_clusters: Number of clusters, without the noise.
        chosen: How that number was chosen: "by" ("given", "rank", "distance_threshold", "silhouette" or the
            clusterer), "oracle" (whether names were used), and details.
        reduced: The points that were clustered (N, R).
        metrics: Rank -> scores, see `agreement`.
        separation: See `separation`.
        seconds: Stage -> seconds.
        options: All options, with the defaults of reducer and clusterer.
    """

    clusters: Ids
    n_clusters: int
    chosen: dict[str, Any]
    reduced: Floats
    metrics: dict[str, Scores]
    separation: Scores
    seconds: dict[str, float]
    options: dict[str, Any]


def zero_shot_cluster(
    embeddings: ArrayLike | Mapping[str, ArrayLike],
    labels: Mapping[str, Sequence[str | None]],
    *,
    reducer: str = "none",
    clusterer: str = "ward",
    n_clusters: NClusters = "species",
    distance_threshold: float | None = None,
    normalization: str | Mapping[str, str] = "none",
    seed: int = 0,
    reducer_options: Mapping[str, Any] | None = None,
    clusterer_options: Mapping[str, Any] | None = None,
) -> Clustering:
    """Clusters embeddings and scores the clusters against each rank.

    With the reducer "umap" this is the published protocol, except for the order of rows, on which a seeded UMAP
    depends: the protocol sorts by processid, as `join_by_processid` does.

    Args:
        embeddings: (N, D), or modality -> (N, D) with equal rows, which are normalized and concatenated.
        labels: Rank or "dna_bin" -> names (N,), None where missing. Only their number can affect the clusters.
        reducer: "umap", "pca" or "none".
        clusterer: "ward" or "graph-ward" (up to a million specimens); or "hdbscan" or "leiden", which find the number
            of clusters themselves.
        n_clusters: A number. A rank: the number of its names (an oracle; a missing name does not count, while the
            published program counts all missing ones as one more). "silhouette", or numbers to try: the lowest number
            whose silhouette is within 0.01 of the best, without names. None with a distance threshold, "hdbscan" or
            "leiden".
        distance_threshold: Height below which clusters of a tree merge, instead of a number.
        normalization: One of `embeddings.NORMALIZATIONS`, or modality -> one of them.
        seed: Seed of the reducer, the clusterer and the sample for the silhouette.
        reducer_options: Options that differ from `methods.REDUCERS`; UMAP takes all of its own.
        clusterer_options: Options that differ from `methods.CLUSTERERS`.

    Raises:
        ValueError: for unusable embeddings (NaN, infinite, all equal, zero with an l2 normalization, different
            lengths) or labels, an impossible number of clusters, and unknown names.
        TypeError: for an option that the reducer or clusterer does not have.
        ModuleNotFoundError: if umap-learn, igraph or faiss is needed and not installed.
    """
    if isinstance(n_clusters, np.integer):
        n_clusters = int(n_clusters)
    options: dict[str, Any] = {
        "reducer": reducer,
        "reducer_options": resolved("reducer", reducer, reducer_options or {}),
        "clusterer": clusterer,
        "clusterer_options": resolved("clusterer", clusterer, clusterer_options or {}),
        "n_clusters": n_clusters if n_clusters is None or isinstance(n_clusters, (int, str)) else list(n_clusters),
        "distance_threshold": distance_threshold,
        "normalization": normalization if isinstance(normalization, str) else dict(normalization),
        "seed": seed,
    }
    parts = checked_embeddings(embeddings)
    rows = len(next(iter(parts.values())))
    encoded = encoded_labels(labels, rows)
    candidates, chosen = _candidates(clusterer, n_clusters, distance_threshold, encoded, rows)
    seconds: dict[str, float] = {}
    with _timed(seconds, "normalize"):
        x = side_by_side(parts, normalization)
    with _timed(seconds, "reduce"):
        x = reduced(x, reducer, options["reducer_options"], seed)
    with _timed(seconds, "cluster"):
        cut = clusterer_of(x, clusterer, options["clusterer_options"], distance_threshold, seed)
        if len(candidates) > 1:
            best, chosen["silhouettes"] = _best(x, cut, candidates, seed)
            candidates = [best]
        clusters = in_order_of_first(cut(candidates[0]))
    with _timed(seconds, "score"):
        metrics = {rank: agreement(clusters, encoded[rank]) for rank in LABEL_COLUMNS if rank in encoded}
        apart = separation(x, clusters, seed=seed) | {"noise": int((clusters < 0).sum())}
    return Clustering(clusters, int(clusters.max()) + 1, chosen, x, metrics, apart, seconds, options)


def cluster_runs(
    embeddings: ArrayLike | Mapping[str, ArrayLike],
    labels: Mapping[str, Sequence[str | None]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Progress = silent,
    **options: Any,
) -> list[Clustering]:
    """One `zero_shot_cluster` for each of different `seeds`; `summary` returns their mean and spread.

    `progress` is called with "clustering", the runs done and all runs.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be one or more different numbers; got {list(seeds)}.")
    runs: list[Clustering] = []
    for seed in seeds:
        runs.append(zero_shot_cluster(embeddings, labels, **{**options, "seed": seed}))
        progress("clustering", len(runs), len(seeds))
    return runs


def summary(runs: Sequence[Clustering]) -> dict[str, dict[str, Scores]]:
    """Mean and spread of the scores of several runs.

    Returns:
        "mean" and "std" -> rank or "separation" -> score. "std" is the standard deviation of a sample (n - 1), None
        for one run. A score that is None in any run is None in both; an equal number in all runs is kept as it is.
    """
    tables = [{**run.metrics, "separation": {"n_clusters": run.n_clusters, **run.separation}} for run in runs]
    found: dict[str, dict[str, Scores]] = {"mean": {}, "std": {}}
    for part, scores in tables[0].items():
        found["mean"][part], found["std"][part] = {}, {}
        for name in scores:
            numbers = [value for table in tables if (value := table[part][name]) is not None]
            whole = len(numbers) == len(tables)
            same = whole and len(set(numbers)) == 1
            found["mean"][part][name] = numbers[0] if same else float(np.mean(numbers)) if whole else None
            found["std"][part][name] = float(np.std(numbers, ddof=1)) if whole and len(numbers) > 1 else None
    return found


def _candidates(
    clusterer: str,
    n_clusters: NClusters,
    distance_threshold: float | None,
    labels: Mapping[str, NDArray[np.int64]],
    rows: int,
) -> tuple[list[int], dict[str, Any]]:
    """Numbers of clusters to try (0: none), and how one is chosen."""
    if clusterer in FREE:
        if n_clusters is not None or distance_threshold is not None:
            raise ValueError(f"{clusterer!r} finds the number of clusters itself: leave number and distance out.")
        return [0], {"by": clusterer, "oracle": False}
    if distance_threshold is not None:
        if n_clusters is not None:
            raise ValueError("A distance replaces the number of clusters: leave one of them out.")
        return [0], {"by": "distance_threshold", "distance_threshold": distance_threshold, "oracle": False}
    if n_clusters is None:
        raise ValueError(
            f"{clusterer!r} needs a number of clusters or a distance (--n-clusters, --distance-threshold)."
        )
    if isinstance(n_clusters, int):
        return [_possible(n_clusters, rows)], {"by": "given", "asked": n_clusters, "oracle": False}
    if isinstance(n_clusters, str) and n_clusters != "silhouette":
        if n_clusters not in labels:
            raise ValueError(f"{n_clusters!r} is neither 'silhouette' nor a rank of the labels: {', '.join(labels)}.")
        asked = int(labels[n_clusters].max(initial=-1)) + 1
        if not asked:
            raise ValueError(f"No specimen has a name at {n_clusters!r}: give a number of clusters or 'silhouette'.")
        return [_possible(asked, rows)], {"by": "rank", "rank": n_clusters, "asked": asked, "oracle": True}
    numbers = np.geomspace(2, max(2, rows // 2), CANDIDATES).round() if n_clusters == "silhouette" else n_clusters
    tried = sorted({int(k) for k in numbers})
    if len(tried) < 2 or tried[0] < 2 or tried[-1] >= rows:
        raise ValueError(f"The silhouette chooses from two or more numbers from 2 to {rows - 1}; got {tried}.")
    return tried, {"by": "silhouette", "tried": tried, "oracle": False}


def _possible(number: int, rows: int) -> int:
    if not 1 <= number <= rows:
        raise ValueError(f"{rows} specimens make 1 to {rows} clusters, not {number}.")
    return number


def _best(
    x: Floats, cut: Callable[[int], Ids], candidates: Sequence[int], seed: int
) -> tuple[int, dict[int, float | None]]:
    """The lowest number with about the best silhouette, and all silhouettes."""
    scores = {k: silhouette(x, cut(k), seed=seed) for k in candidates}  # the seed gives all the same sample
    known = {k: score for k, score in scores.items() if score is not None}
    if not known:
        raise ValueError(f"None of {list(candidates)} clusters has a silhouette: give a number of clusters.")
    return min(k for k, score in known.items() if score >= max(known.values()) - SILHOUETTE_TOLERANCE), scores


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
