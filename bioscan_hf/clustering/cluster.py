"""Zero-shot clustering: embeddings of a frozen encoder are clustered, and the clusters compared with the taxonomy.

Protocol: Task II of BIOSCAN-5M (https://arxiv.org/abs/2406.12723). One clustering, with as many clusters as there are
species, is scored against the names of every rank. That number is an oracle: it is known on a benchmark alone, and
`n_clusters="silhouette"`, a distance threshold, "hdbscan" or "leiden" do without it.
Shape letters: N = specimens, D = embedding size of a modality, R = reduced size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..schema import LABEL_COLUMNS
from .agreement import SILHOUETTE_SAMPLE, agreement, encoded_labels, separation, silhouette
from .methods import (
    FREE,
    TREES,
    Floats,
    Ids,
    checked_embeddings,
    free_partition,
    merge_tree,
    normalized,
    partition,
    reduced,
    resolved,
)
from .ward import cut_tree, in_order_of_first

#: Name -> arguments of `zero_shot_cluster`. "bioscan5m" is Task II as published (its test runs took the seed 1).
#: "caninv" is BarcodeBERT's (https://arxiv.org/abs/2311.02401) for the Canadian invertebrates, scored against BINs;
#: 3,479 is the number of species there, so give your own for other data. UMAP's options are all that is not default.
PRESETS: dict[str, dict[str, Any]] = {
    "bioscan5m": {
        "reducer": "umap",
        "reducer_options": {"n_neighbors": 30, "n_components": 50, "min_dist": 0.0, "metric": "euclidean"},
        "clusterer": "ward",
        "n_clusters": "species",
        "normalization": "none",
        "seed": 0,
    },
    "caninv": {
        "reducer": "umap",
        "reducer_options": {"n_neighbors": 5, "n_components": 50, "min_dist": 0.1, "metric": "cosine"},
        "clusterer": "ward",
        "n_clusters": 3479,
        "normalization": "none",
        "seed": 42,
    },
}

#: Libraries whose versions may change a result.
LIBRARIES = ("numpy", "scipy", "scikit-learn", "umap-learn", "pacmap", "igraph", "genieclust", "faiss-cpu")

#: How many numbers of clusters `n_clusters="silhouette"` tries, evenly spaced in their logarithm from 2 to N / 2.
CANDIDATES = 20

#: A number of clusters is taken if its silhouette is so near to the best one. Specimens of equal barcodes keep the
#: silhouette high however small the clusters are, so that the very best may be at several times the right number.
SILHOUETTE_TOLERANCE = 0.01

NClusters = int | str | Sequence[int] | None


@dataclass(frozen=True)
class Clustering:
    """One clustering and how good it is.

    Attributes:
        clusters: Cluster of each specimen (N,), from 0 in the order of their first specimens; -1 is HDBSCAN's noise.
        n_clusters: How many there are, without the noise.
        chosen: How that number came about: "by" ("given", "rank", "distance_threshold", "silhouette" or the
            clusterer), "oracle" (whether names were looked at), and what belongs to it.
        reduced: What was clustered (N, R).
        metrics: Rank -> scores, see `clustering_metrics.agreement`.
        separation: See `clustering_metrics.separation`.
        seconds: Of each stage.
        options: All options, the defaults of reducer and clusterer among them.
        versions: Library -> version of what was installed.
    """

    clusters: Ids
    n_clusters: int
    chosen: dict[str, Any]
    reduced: Floats
    metrics: dict[str, dict[str, float | int | None]]
    separation: dict[str, float | int | None]
    seconds: dict[str, float]
    options: dict[str, Any]
    versions: dict[str, str]


def zero_shot_cluster(
    embeddings: ArrayLike | Mapping[str, ArrayLike],
    labels: Mapping[str, Sequence[str | None]],
    *,
    reducer: str = "umap",
    clusterer: str = "ward",
    n_clusters: NClusters = "species",
    distance_threshold: float | None = None,
    normalization: str | Mapping[str, str] = "none",
    seed: int = 0,
    reducer_options: Mapping[str, Any] | None = None,
    clusterer_options: Mapping[str, Any] | None = None,
    silhouette_sample: int = SILHOUETTE_SAMPLE,
    ids: Sequence[str] | None = None,
) -> Clustering:
    """Clusters of specimens by their embeddings, and the agreement of these clusters with the names of each rank.

    The defaults are the published protocol, except for the order of the rows, which a seeded UMAP depends on:
    `clustering_protocol` brings them in that of the processids.

    Args:
        embeddings: (N, D), or modality -> (N, D) with equal rows, which are normalised and then set side by side.
        labels: Rank or "dna_bin" -> names (N,), None where missing. Clustering sees none but, by default, the number
            of the species.
        reducer: "umap", "pca", "pacmap" or "none".
        clusterer: "ward", "graph-ward" (for a million), "average", "genie", "kmeans", "minibatch-kmeans"; or one that
            finds the number of clusters itself: "hdbscan", "leiden", "louvain".
        n_clusters: A number; a rank, for the number of its names (an oracle; a missing name is none, though the
            published program counts all missing ones as one more); "silhouette", or numbers to try, for the least
            whose silhouette is within 0.01 of the best, which looks at no name; None with a threshold or if the
            clusterer finds it.
        distance_threshold: Height below which clusters merge, in place of a number; for "ward", "graph-ward" and
            "average".
        normalization: One of `clustering_methods.NORMALIZATIONS`, for all modalities or for each by name.
        seed: Of the reducer, of the clusterer, and of the sample for the silhouette.
        reducer_options: In place of the defaults in `clustering_methods.REDUCERS`, and others that its class takes.
        clusterer_options: Likewise, of `clustering_methods.CLUSTERERS`.
        silhouette_sample: Specimens above which the silhouette is taken of so many at random.
        ids: Names of the specimens (N,) for error messages.

    Raises:
        ValueError: for embeddings that are NaN, infinite, all equal, zero where a direction is needed, or of different
            lengths; labels of another length or rank; fewer specimens than clusters; a number of clusters where none
            is taken, or none where one is needed; unknown names.
        TypeError: for options that the class of the reducer or clusterer does not know.
        ModuleNotFoundError: for a library that is not installed.
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
        "silhouette_sample": silhouette_sample,
    }
    if silhouette_sample < 3:
        raise ValueError(f"silhouette_sample is a number of specimens, 3 or more; got {silhouette_sample}.")
    parts = checked_embeddings(embeddings, ids)
    rows = len(next(iter(parts.values())))
    encoded = encoded_labels(labels, rows)
    candidates, chosen = _numbers(clusterer, n_clusters, distance_threshold, encoded, rows)
    seconds: dict[str, float] = {}
    with _timed(seconds, "normalize"):
        x = side_by_side(parts, normalization, ids)
    with _timed(seconds, "reduce"):
        x = reduced(x, reducer, options["reducer_options"], seed)
    with _timed(seconds, "cluster"):
        cut = _cutter(x, clusterer, options["clusterer_options"], distance_threshold, seed)
        if len(candidates) > 1:
            found, scores = _best(x, cut, candidates, silhouette_sample, seed)
            chosen["silhouettes"] = scores
        else:
            found = cut(candidates[0])
        clusters = in_order_of_first(found)
    with _timed(seconds, "score"):
        metrics = {rank: agreement(clusters, encoded[rank]) for rank in LABEL_COLUMNS if rank in encoded}
        apart = separation(x, clusters, seed=seed, sample=silhouette_sample)
    return Clustering(
        clusters=clusters,
        n_clusters=int(clusters.max()) + 1,
        chosen=chosen,
        reduced=x,
        metrics=metrics,
        separation=apart | {"noise": int((clusters < 0).sum())},
        seconds=seconds,
        options=options,
        versions=_versions(),
    )


def cluster_runs(
    embeddings: ArrayLike | Mapping[str, ArrayLike],
    labels: Mapping[str, Sequence[str | None]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Callable[[int], object] = lambda seed: None,
    **options: Any,
) -> list[Clustering]:
    """One `zero_shot_cluster` for each seed; `summary` gives their mean and spread.

    Args:
        seeds: One or more, all different.
        progress: Called with each seed when its run is done.
        options: Those of `zero_shot_cluster` but `seed`.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be one or more different numbers; got {list(seeds)}.")
    runs = []
    for seed in seeds:
        runs.append(zero_shot_cluster(embeddings, labels, **{**options, "seed": seed}))
        progress(seed)
    return runs


def summary(runs: Sequence[Clustering]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Mean and spread of the scores of several runs over the same specimens.

    Returns:
        "mean" and "std" -> rank or "separation" -> score. The standard deviation is that of a sample (n - 1), and None
        for one run. A score that a run lacks is None in both; counts of specimens and names are as they are.
    """
    tables = [{**run.metrics, "separation": {"n_clusters": run.n_clusters, **run.separation}} for run in runs]
    found: dict[str, dict[str, dict[str, float | int | None]]] = {"mean": {}, "std": {}}
    for part, scores in tables[0].items():
        found["mean"][part], found["std"][part] = {}, {}
        for name in scores:
            values = [table[part][name] for table in tables]
            numbers = [value for value in values if value is not None]
            whole = len(numbers) == len(values)
            same = whole and len(set(numbers)) == 1
            found["mean"][part][name] = numbers[0] if same else float(np.mean(numbers)) if whole else None
            found["std"][part][name] = float(np.std(numbers, ddof=1)) if whole and len(numbers) > 1 else None
    return found


def side_by_side(
    parts: Mapping[str, Floats],
    normalization: str | Mapping[str, str] = "none",
    ids: Sequence[str] | None = None,
) -> Floats:
    """What is reduced and clustered: the modalities (N, D), each normalised, as one matrix.

    Raises:
        ValueError: for a normalisation of other modalities than those, and as `clustering_methods.normalized`.
    """
    if isinstance(normalization, Mapping) and set(normalization) != set(parts):
        raise ValueError(
            f"normalization names {', '.join(normalization)}, and the modalities are {', '.join(parts)}: name each "
            f"once ('none' leaves it as it is)."
        )
    of = normalization if isinstance(normalization, Mapping) else dict.fromkeys(parts, normalization)
    return np.concatenate([normalized(x, of[name], name, ids) for name, x in parts.items()], axis=1)


def _numbers(
    clusterer: str,
    n_clusters: NClusters,
    distance_threshold: float | None,
    labels: Mapping[str, NDArray[np.int64]],
    rows: int,
) -> tuple[list[int], dict[str, Any]]:
    """Numbers of clusters to try, 0 for one that is found without, and how the choice is made."""
    if clusterer in FREE:
        if n_clusters is not None or distance_threshold is not None:
            raise ValueError(
                f"{clusterer!r} finds the number of clusters itself: pass n_clusters=None and no distance_threshold."
            )
        return [0], {"by": clusterer, "oracle": False}
    if distance_threshold is not None:
        if n_clusters is not None or clusterer not in TREES:
            raise ValueError(
                f"distance_threshold takes the place of a number of clusters, for {', '.join(TREES)}: pass "
                f"n_clusters=None and one of these; got n_clusters={n_clusters!r} and {clusterer!r}."
            )
        return [0], {"by": "distance_threshold", "distance_threshold": distance_threshold, "oracle": False}
    if n_clusters is None:
        raise ValueError(f"{clusterer!r} needs a number of clusters: n_clusters, or a distance_threshold for a tree.")
    if isinstance(n_clusters, str) and n_clusters != "silhouette":
        if n_clusters not in labels:
            raise ValueError(
                f"n_clusters={n_clusters!r} is neither 'silhouette' nor a rank of the labels: {', '.join(labels)}."
            )
        asked = int(labels[n_clusters].max(initial=-1)) + 1
        if not asked:
            raise ValueError(f"No specimen has a name at {n_clusters!r}: pass n_clusters as a number or 'silhouette'.")
        chosen = {"by": "rank", "rank": n_clusters, "asked": asked, "oracle": True}
        return _possible([asked], rows), chosen
    if isinstance(n_clusters, int):
        return _possible([n_clusters], rows), {"by": "given", "asked": n_clusters, "oracle": False}
    if n_clusters == "silhouette":
        tried = sorted({int(k) for k in np.geomspace(2, max(2, rows // 2), CANDIDATES).round()})
    else:
        tried = sorted({int(k) for k in n_clusters})
    if len(tried) < 2 or tried[0] < 2 or tried[-1] >= rows:
        raise ValueError(
            f"The silhouette chooses among two or more numbers of clusters from 2 to {rows - 1} (specimens - 1); got "
            f"{tried}."
        )
    return tried, {"by": "silhouette", "tried": tried, "oracle": False}


def _possible(numbers: list[int], rows: int) -> list[int]:
    if numbers[0] < 1 or numbers[0] > rows:
        raise ValueError(f"{rows} specimens make 1 to {rows} clusters, and {numbers[0]} are asked for.")
    return numbers


def _cutter(
    x: Floats, clusterer: str, options: Mapping[str, Any], distance_threshold: float | None, seed: int
) -> Callable[[int], Ids]:
    """What gives the clusters for a number of them. A tree is built once."""
    if clusterer in FREE:
        return lambda _: free_partition(x, clusterer, options, seed)
    if clusterer not in TREES:
        return lambda k: partition(x, clusterer, k, options, seed)
    tree = merge_tree(x, clusterer, options)
    if distance_threshold is not None:
        return lambda _: cut_tree(tree, distance_threshold=distance_threshold)
    return lambda k: cut_tree(tree, n_clusters=k)


def _best(
    x: Floats, cut: Callable[[int], Ids], candidates: Sequence[int], sample: int, seed: int
) -> tuple[Ids, dict[int, float | None]]:
    """The fewest clusters with about the best silhouette, and the silhouettes of all candidates."""
    rows = np.arange(len(x))
    if len(x) > sample:  # one sample for all candidates, or they would not be comparable
        rows = np.sort(np.random.default_rng(seed).choice(len(x), sample, replace=False))
    scores: dict[int, float | None] = {}
    for k in candidates:
        scores[k] = silhouette(x[rows], cut(k)[rows])
    known = {k: score for k, score in scores.items() if score is not None}
    if not known:
        raise ValueError(f"None of {list(candidates)} clusters has a silhouette: give n_clusters as a number.")
    return cut(min(k for k, score in known.items() if score >= max(known.values()) - SILHOUETTE_TOLERANCE)), scores


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
