"""Scores of clusters: agreement with names, and separation without them.

Source: Task II of BIOSCAN-5M (https://arxiv.org/abs/2406.12723), which reports the adjusted mutual information of one
clustering with the names of each rank. The formulas are scikit-learn's.
Shape letters: N = specimens, R = reduced size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    adjusted_rand_score,
    calinski_harabasz_score,
    davies_bouldin_score,
    fowlkes_mallows_score,
    homogeneity_completeness_v_measure,
    silhouette_score,
)

from ..metrics import adjusted_mutual_information
from ..schema import LABEL_COLUMNS
from ..search.index import encode_names
from ..search.vectors import Ids

#: Specimens above which the silhouette is that of a random sample of this size: it compares all pairs.
SILHOUETTE_SAMPLE = 20_000

#: Scores of clusters against names.
AGREEMENT = ("ami", "ari", "fowlkes_mallows", "homogeneity", "completeness", "v_measure")

#: Name of a score -> its value, None where it is undefined.
Scores = dict[str, float | int | None]


def check_labels(labels: Mapping[str, Sequence[str | None]], rows: int, **sizes: int) -> None:
    """Raises ValueError for an unknown rank or inputs of different sizes."""
    for rank in labels:
        if rank not in LABEL_COLUMNS:
            raise ValueError(f"Unknown rank {rank!r} in the labels. Use {', '.join(LABEL_COLUMNS)}.")
    sizes |= {rank: len(names) for rank, names in labels.items()}
    if wrong := {name: size for name, size in sizes.items() if size != rows}:
        raise ValueError(f"There are {rows} specimens, but {wrong}. Give one of each for each specimen.")


def encoded_labels(labels: Mapping[str, Sequence[str | None]], rows: int) -> dict[str, Ids]:
    """Rank -> ids of names in alphabetical order (N,), -1 for None."""
    check_labels(labels, rows)
    return encode_names(labels)[0]


def agreement(clusters: Ids, labels: Ids) -> Scores:
    """Agreement of clusters (N,) with class ids (N,), -1: no name.

    The plain scores count the specimens without a name as one more class, as the published numbers do. Scores that end
    in "_labelled" leave them out. The noise, -1, is a cluster like any other.

    Returns:
        ami (adjusted mutual information; 0 is chance, 1 is equal), ari (adjusted Rand index), fowlkes_mallows,
        homogeneity (1: each cluster has one name), completeness (1: each name is in one cluster), v_measure (their
        harmonic mean); each also with "_labelled"; labelled and missing: numbers of specimens; classes: number of
        names. Scores are None where no specimen has a name.
    """
    named = labels >= 0
    found: Scores = {
        "labelled": int(named.sum()),
        "missing": int((~named).sum()),
        "classes": len(np.unique(labels[named])),
    }
    if not named.any():
        return found | {name + end: None for end in ("", "_labelled") for name in AGREEMENT}
    mutual = adjusted_mutual_information(clusters, labels)
    for end, chosen in (("", slice(None)), ("_labelled", named)):
        names, groups = labels[chosen], clusters[chosen]
        values = [mutual[f"ami{end}"], adjusted_rand_score(names, groups), fowlkes_mallows_score(names, groups)]
        values += homogeneity_completeness_v_measure(names, groups)
        found |= {f"{name}{end}": float(value) for name, value in zip(AGREEMENT, values, strict=True)}
    return found


def separation(points: NDArray[np.float32], clusters: Ids, *, seed: int = 0) -> Scores:
    """Separation of the clusters of points (N, R), without the noise.

    Returns:
        silhouette in [-1, 1], and the number of specimens it is computed from (silhouette_specimens);
        calinski_harabasz (greater is better) and davies_bouldin (smaller is better). None where there is only one
        cluster, or one for each specimen.
    """
    kept = np.flatnonzero(clusters >= 0)
    found: Scores = {
        "silhouette": silhouette(points, clusters, seed=seed),
        "silhouette_specimens": min(len(kept), SILHOUETTE_SAMPLE),
        "calinski_harabasz": None,
        "davies_bouldin": None,
    }
    if 2 <= len(np.unique(clusters[kept])) < len(kept):
        found["calinski_harabasz"] = float(calinski_harabasz_score(points[kept], clusters[kept]))
        found["davies_bouldin"] = float(davies_bouldin_score(points[kept], clusters[kept]))
    return found


def silhouette(points: NDArray[np.float32], clusters: Ids, *, seed: int = 0) -> float | None:
    """Mean silhouette by Euclidean distance, without the noise, -1.

    None for one cluster only, or one for each point. Of many points, it is that of `SILHOUETTE_SAMPLE`.
    """
    chosen = np.flatnonzero(clusters >= 0)
    if len(chosen) > SILHOUETTE_SAMPLE:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, SILHOUETTE_SAMPLE, replace=False))
    if not 2 <= len(np.unique(clusters[chosen])) < len(chosen):
        return None
    return float(silhouette_score(points[chosen], clusters[chosen]))
