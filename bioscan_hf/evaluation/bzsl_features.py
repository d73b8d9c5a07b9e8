"""Features for Bayesian zero-shot learning: principal axes, images mapped to DNA, and the rows to tune on.

Protocols: those of bzsl.py. Everything is in float64.
Shape letters: N = train specimens, M = test specimens, D = features, A = features of the source of a map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics import IGNORE

#: Components of the published runs.
COMPONENTS = 500

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def hold_out_species(
    labels: ArrayLike, *, species: float = 0.2, specimens: float = 0.2, seed: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which labelled rows to fit and which to validate on: whole species, and some specimens of the others.

    Every species of which specimens are validated keeps one or more to fit.

    Args:
        labels: Species ids (N,); -1 is in neither part.
        species: Share of the species that are held out wholly, rounded up.
        specimens: Share of the specimens of each other species that are held out, rounded down.

    Returns:
        Rows to fit (N,) and rows to validate on (N,).
    """
    for name, share in (("species", species), ("specimens", specimens)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is the share that is held out, between 0 and 1; got {share}.")
    ids = ids_of("labels", labels)
    rng = np.random.default_rng(seed)
    names = np.unique(ids[ids != IGNORE])
    held = rng.permutation(names)[: int(np.ceil(species * len(names)))]
    validate = np.isin(ids, held)
    for name in np.setdiff1d(names, held):
        rows = rng.permutation(np.flatnonzero(ids == name))
        validate[rows[: int(specimens * len(rows))]] = True
    return (ids != IGNORE) & ~validate, validate


def principal_axes(
    train: ArrayLike, test: ArrayLike, components: int | None = COMPONENTS, *, centred: bool
) -> tuple[Floats, Floats]:
    """Both sets on the axes of the greatest variance of the train set, the greatest first.

    An axis has no sign of its own: here its element of the greatest magnitude is positive.

    Args:
        train: (N, D).
        test: (M, D).
        components: Axes that are kept; None, or D and more, keeps the features as they are.
        centred: Whether the mean of the train set is taken off both before they are projected. The published program
            for surrogate species does not, that for genera does.
    """
    x, y = np.asarray(train, dtype=np.float64), np.asarray(test, dtype=np.float64)
    if components is not None and components < 1:
        raise ValueError(
            f"components is the number of axes that are kept, 1 or more, or None for all; got {components}."
        )
    if components is None or components >= x.shape[1]:
        return x, y
    mean = x.mean(axis=0)
    axes = np.linalg.eigh((x - mean).T @ (x - mean))[1][:, : -components - 1 : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(components)])
    return ((x - mean) @ axes, (y - mean) @ axes) if centred else (x @ axes, y @ axes)


def ridge_map(source: ArrayLike, target: ArrayLike, rho: float = 1.0) -> Floats:
    """Linear map (A, D) from the source (N, A) to the target (N, D), by least squares with the penalty `rho`.

    Source: the transductive map of OSBC (DIT) from image to DNA embeddings, with rho = 1.
    """
    x, y = matrix("source", source), matrix("target", target)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} rows of the source for {len(y)} of the target: each specimen needs both.")
    if not rho > 0:
        raise ValueError(f"rho is a penalty, above 0; got {rho}.")
    return np.asarray(np.linalg.solve(x.T @ x + rho * np.eye(x.shape[1]), x.T @ y), dtype=np.float64)


def map_images(
    train_dna: ArrayLike, train_images: ArrayLike, test_dna: ArrayLike, test_images: ArrayLike, *, rho: float = 1.0
) -> tuple[Floats, Floats]:
    """Features of DIT: the train set's DNA, then its images mapped to DNA (2 N, D), and the test set's DNA (M, D).

    Every row is standardised first (mean 0, deviation 1, as n - 1 counts). The map is learned from the pairs of both
    sets; it uses no label. Train labels are to be repeated: `np.tile(train_labels, 2)`.
    """
    dna = [_standard_rows(f"{name}_dna", x) for name, x in (("train", train_dna), ("test", test_dna))]
    images = [_standard_rows(f"{name}_images", x) for name, x in (("train", train_images), ("test", test_images))]
    mapping = ridge_map(np.concatenate(images), np.concatenate(dna), rho)
    return np.concatenate([dna[0], images[0] @ mapping]), dna[1]


def _standard_rows(name: str, values: ArrayLike) -> Floats:
    x = matrix(name, values)
    deviation = x.std(axis=1, ddof=1, keepdims=True)
    constant = np.flatnonzero(deviation == 0)
    if len(constant):
        raise ValueError(f"{name}: row {constant[0]} is one constant, as an embedding of nothing is: leave it out.")
    return np.asarray((x - x.mean(axis=1, keepdims=True)) / deviation, dtype=np.float64)


def matrix(name: str, values: ArrayLike) -> Floats:
    """Checked rows of features in float64; `name` is for the error."""
    x = np.asarray(values)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be a matrix (specimens, features) that is not empty, got {x.shape}.")
    broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{name} has NaN or infinite values in {len(broken)} rows, the first {broken[0]}: leave these rows out, "
            f"or find out why the encoder gave them."
        )
    return x.astype(np.float64)


def ids_of(name: str, values: ArrayLike) -> Ids:
    """Checked class ids; `name` is for the error."""
    ids = np.asarray(values)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)) or (ids < IGNORE).any():
        raise ValueError(
            f"{name} must be class ids in one dimension (whole numbers, -1 for none), got {ids.dtype} {ids.shape}. "
            f"Turn names into ids with LabelMaps.encode."
        )
    return ids.astype(np.int64)
