"""Embeddings of one or several modalities: checks, normalization and dimension reduction.

Source: Task II of BIOSCAN-5M (https://arxiv.org/abs/2406.12723).
Shape letters: N = specimens, D = embedding size, R = reduced size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..search.vectors import Floats, finite_matrix, named_rows
from .graph import import_library

NORMALIZATIONS = ("none", "l2", "l2_corrected", "elementwise_zscore", "average_zscore")


def checked_embeddings(
    embeddings: ArrayLike | Mapping[str, ArrayLike], ids: Sequence[str] | None = None
) -> dict[str, Floats]:
    """Modality -> embeddings (N, D); a plain array is the modality "embedding".

    Raises ValueError if there is no modality, an array is not a matrix, modalities have different numbers of rows,
    numbers are NaN or infinite (the rows are named), or all embeddings are equal.

    Args:
        ids: Names of the specimens (N,), for errors; otherwise rows are numbered.
    """
    given = dict(embeddings) if isinstance(embeddings, Mapping) else {"embedding": embeddings}
    if not given:
        raise ValueError("No embeddings are given. Give one modality or more.")
    parts = {name: finite_matrix(f"embeddings of {name!r}", x, np.float32, ids) for name, x in given.items()}
    for name, x in parts.items():
        if (x == x[0]).all():
            raise ValueError(f"The embeddings {name!r} of all {len(x)} specimens are equal: check the encoder.")
    lengths = {name: len(x) for name, x in parts.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The modalities have different numbers of rows: {lengths}. `join_by_processid` aligns them.")
    return parts


def normalized(x: Floats, normalization: str = "none", name: str = "embedding") -> Floats:
    """Embeddings (N, D) of modality `name` after one of `NORMALIZATIONS`.

    Raises ValueError for an unknown normalization, and for a zero vector, which has no direction (rows are named).

    - "l2": unit vectors.
    - "l2_corrected": vectors of length sqrt(D), so that a modality's weight is its number of dimensions.
    - "elementwise_zscore": mean 0 and deviation 1 in each dimension; 0 in a constant one.
    - "average_zscore": mean 0, and all dimensions divided by their mean deviation, which keeps ratios of distances.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"Unknown normalization {normalization!r}. Choose one of {', '.join(NORMALIZATIONS)}.")
    if normalization == "none":
        return x
    if normalization.startswith("l2"):
        length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        zero = np.flatnonzero(length == 0)
        if len(zero):
            where = named_rows(zero.tolist())
            raise ValueError(f"{normalization!r} cannot normalize {name!r}, which is zero in the rows {where}.")
        scale = np.sqrt(x.shape[1]) if normalization == "l2_corrected" else 1.0
        return (x * (scale / length)).astype(np.float32)
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    if normalization == "average_zscore":
        return (centred / deviation.mean()).astype(np.float32)
    constant = np.ptp(x, axis=0) == 0
    return np.where(constant, 0, centred / np.where(constant, 1, deviation)).astype(np.float32)


def side_by_side(parts: Mapping[str, Floats], normalization: str | Mapping[str, str] = "none") -> Floats:
    """All modalities in one matrix (N, D), each normalized on its own."""
    if isinstance(normalization, str):
        normalization = dict.fromkeys(parts, normalization)
    if set(normalization) != set(parts):
        raise ValueError(f"Normalizations are of {', '.join(normalization)}. Give one for each of {', '.join(parts)}.")
    return np.concatenate([normalized(x, normalization[name], name) for name, x in parts.items()], axis=1)


def reduced(x: Floats, reducer: str, options: Mapping[str, Any], seed: int) -> Floats:
    """Embeddings of fewer dimensions (N, R).

    Raises ValueError if there are too few points for the reducer. Raises ModuleNotFoundError if umap-learn is not
    installed.

    Args:
        options: All options of `sklearn.decomposition.PCA` or `umap.UMAP`, as `methods.resolved` returns them.
    """
    if reducer == "none":
        return x
    if reducer == "pca":
        from sklearn.decomposition import PCA

        most = min(x.shape)
        if options["n_components"] > most:
            asked = options["n_components"]
            raise ValueError(
                f"PCA of {x.shape} has {most} components at most, but n_components is {asked}: pass fewer."
            )
        return np.asarray(PCA(**options, random_state=seed).fit_transform(x), np.float32)
    # UMAP alone would silently use fewer neighbours.
    fewest = max(options["n_neighbors"], options["n_components"] + 1) + 1
    if len(x) < fewest:
        raise ValueError(
            f"UMAP with {options['n_neighbors']} neighbours and {options['n_components']} dimensions needs {fewest} "
            f"points or more, but there are {len(x)}: reduce less (reducer_options=), or not at all "
            f"(reducer='none', --reducer none)."
        )
    made = import_library("umap").UMAP(**options, random_state=seed, n_jobs=1)  # with a seed, UMAP has one thread
    return np.asarray(made.fit_transform(x), np.float32)
