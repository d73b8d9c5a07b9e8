"""Features for Bayesian zero-shot learning: principal axes, and images mapped to DNA embeddings.

Shape letters: N = train specimens, M = test specimens, D = features, A = features of the source of a map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..search.vectors import finite_matrix
from .bzsl_likelihood import Floats

#: Components of the published runs.
COMPONENTS = 500


def principal_axes(
    train: ArrayLike, test: ArrayLike, components: int | None = COMPONENTS, *, centred: bool
) -> tuple[Floats, Floats]:
    """Projects train (N, D) and test (M, D) on the principal axes of train, the greatest variance first.

    The sign of an axis is arbitrary: its element of the greatest magnitude is made positive.

    Args:
        components: Axes to keep; None, or D and more, keeps the features as they are.
        centred: Subtracts the mean of the train set from both before the projection. The published program for genera
            does, that for surrogate species does not.
    """
    x, y = np.asarray(train, dtype=np.float64), np.asarray(test, dtype=np.float64)
    if components is not None and components < 1:
        raise ValueError(f"components is the number of axes to keep, 1 or more, or None for all; got {components}.")
    if components is None or components >= x.shape[1]:
        return x, y
    mean = x.mean(axis=0)
    axes = np.linalg.eigh((x - mean).T @ (x - mean))[1][:, : -components - 1 : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(components)])
    return ((x - mean) @ axes, (y - mean) @ axes) if centred else (x @ axes, y @ axes)


def ridge_map(source: ArrayLike, target: ArrayLike, rho: float = 1.0) -> Floats:
    """Linear map (A, D) from a source (N, A) to a target (N, D), by ridge regression. OSBC has rho = 1."""
    x, y = finite_matrix("source", source), finite_matrix("target", target)
    if len(x) != len(y):
        raise ValueError(f"The source has {len(x)} rows and the target {len(y)}: each specimen needs both.")
    if not rho > 0:
        raise ValueError(f"rho is a penalty and must be above 0; got {rho}.")
    return np.asarray(np.linalg.solve(x.T @ x + rho * np.eye(x.shape[1]), x.T @ y), dtype=np.float64)


def map_images(
    train_dna: ArrayLike, train_images: ArrayLike, test_dna: ArrayLike, test_images: ArrayLike, *, rho: float = 1.0
) -> tuple[Floats, Floats]:
    """Features of DIT of OSBC: train DNA followed by train images mapped to DNA (2 N, D), and test DNA (M, D).

    Every row is standardised first (mean 0, sample standard deviation 1). The map is learned from the pairs of both
    sets, without labels. Repeat the train labels: `np.tile(train_labels, 2)`.
    """
    dna = [_standard_rows(f"{name}_dna", x) for name, x in (("train", train_dna), ("test", test_dna))]
    images = [_standard_rows(f"{name}_images", x) for name, x in (("train", train_images), ("test", test_images))]
    mapping = ridge_map(np.concatenate(images), np.concatenate(dna), rho)
    return np.concatenate([dna[0], images[0] @ mapping]), dna[1]


def _standard_rows(name: str, values: ArrayLike) -> Floats:
    x = finite_matrix(name, values)
    deviation = x.std(axis=1, ddof=1, keepdims=True)
    constant = np.flatnonzero(deviation == 0)
    if len(constant):
        raise ValueError(f"{name}: row {constant[0]} is constant, like the embedding of an empty input: leave it out.")
    return np.asarray((x - x.mean(axis=1, keepdims=True)) / deviation, dtype=np.float64)
