"""How well clusters agree with names, and how well they are set apart without any.

Source: Task II of BIOSCAN-5M (https://arxiv.org/abs/2406.12723), which reports the adjusted mutual information of one
clustering with the names of every rank. The formulas are scikit-learn's.
Shape letters: N = specimens, R = reduced size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    calinski_harabasz_score,
    davies_bouldin_score,
    fowlkes_mallows_score,
    homogeneity_completeness_v_measure,
    silhouette_score,
)

from ..schema import LABEL_COLUMNS

#: Specimens above which the silhouette is that of a random sample of this size: it compares all pairs.
SILHOUETTE_SAMPLE = 20_000

#: Scores of clusters against names.
AGREEMENT = ("ami", "ari", "fowlkes_mallows", "homogeneity", "completeness", "v_measure")


def encoded_labels(labels: Mapping[str, Sequence[str | None]], rows: int) -> dict[str, NDArray[np.int64]]:
    """Rank -> ids of the names (N,), in the order of the names; -1 for None.

    Raises:
        ValueError: for an unknown rank, labels of another length, and what is neither a name nor None.
    """
    encoded = {}
    for rank, names in labels.items():
        if rank not in LABEL_COLUMNS:
            raise ValueError(f"Unknown rank {rank!r} among the labels. There are {', '.join(LABEL_COLUMNS)}.")
        if len(names) != rows:
            raise ValueError(f"There are {len(names)} labels of {rank!r} for {rows} specimens: each needs one.")
        wrong = [name for name in names if name is not None and not (isinstance(name, str) and name)]
        if wrong:
            raise ValueError(
                f"A label of {rank!r} is {wrong[0]!r} ({type(wrong[0]).__name__}): labels are names, None where "
                f"unknown. Turn ids into names with LabelMaps.decode."
            )
        place: dict[str | None, int] = {name: i for i, name in enumerate(sorted({n for n in names if n is not None}))}
        place[None] = -1
        encoded[rank] = np.fromiter((place[name] for name in names), np.int64, rows)
    return encoded


def agreement(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float | int | None]:
    """Agreement of clusters with the names of one rank, in two ways.

    The plain scores count the specimens without a name as one more class, as the published numbers do. Those that end
    in "_labelled" leave them out. A cluster of noise, -1, is a cluster like any other.

    Args:
        clusters: Cluster of each specimen (N,).
        labels: Class ids (N,), -1 for no name.

    Returns:
        ami (adjusted mutual information, arithmetic mean; 0 is chance and 1 is equal), ari (adjusted Rand index),
        fowlkes_mallows, homogeneity (1: every cluster has one name), completeness (1: every name is in one cluster)
        and v_measure (their harmonic mean); each also with "_labelled"; labelled and missing: numbers of specimens;
        classes: number of names. Scores are None where no specimen has a name.
    """
    named = labels >= 0
    found: dict[str, float | int | None] = {
        "labelled": int(named.sum()),
        "missing": int((~named).sum()),
        "classes": len(np.unique(labels[named])),
    }
    if not named.any():
        return found | {name + end: None for end in ("", "_labelled") for name in AGREEMENT}
    published = _scores(labels, clusters)
    ignoring = published if named.all() else _scores(labels[named], clusters[named])
    return found | published | {f"{name}_labelled": value for name, value in ignoring.items()}


def separation(
    points: NDArray[np.float32], clusters: NDArray[np.int64], *, seed: int = 0, sample: int = SILHOUETTE_SAMPLE
) -> dict[str, float | int | None]:
    """How far apart the clusters lie among the points (N, R) that were clustered; no name is used, and no noise, -1.

    Returns:
        silhouette in [-1, 1] (above `sample` specimens, of a random sample of that many: `silhouette_specimens` says
        how many); calinski_harabasz (the greater the better) and davies_bouldin (the smaller the better), of all. None
        where there is one cluster only, or one for each specimen.
    """
    kept = np.flatnonzero(clusters >= 0)
    chosen = kept
    if len(kept) > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(kept, sample, replace=False))
    found: dict[str, float | int | None] = {
        "silhouette": silhouette(points[chosen], clusters[chosen]),
        "silhouette_specimens": len(chosen),
        "calinski_harabasz": None,
        "davies_bouldin": None,
    }
    if 2 <= len(np.unique(clusters[kept])) < len(kept):
        found["calinski_harabasz"] = float(calinski_harabasz_score(points[kept], clusters[kept]))
        found["davies_bouldin"] = float(davies_bouldin_score(points[kept], clusters[kept]))
    return found


def silhouette(points: NDArray[np.float32], clusters: NDArray[np.int64]) -> float | None:
    """Mean silhouette by Euclidean distance; None for one cluster only, or one for each point."""
    if not 2 <= len(np.unique(clusters)) < len(clusters):
        return None
    return float(silhouette_score(points, clusters))


def _scores(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> dict[str, float | int | None]:
    homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(labels, clusters)
    return {
        "ami": float(adjusted_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "fowlkes_mallows": float(fowlkes_mallows_score(labels, clusters)),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "v_measure": float(v_measure),
    }
