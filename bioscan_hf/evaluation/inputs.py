"""Checks of the embeddings and labels that probes and zero-shot classifiers take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..metrics import IGNORE
from ..search.vectors import Ids, finite_matrix


def class_ids(name: str, values: ArrayLike) -> Ids:
    """Class ids in one dimension, int64, -1 for every negative id: none; ValueError for anything else."""
    ids = np.asarray(values)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(
            f"{name} must be class ids in one dimension (whole numbers, negative for none), got {ids.dtype} "
            f"{ids.shape}. Turn names into ids with LabelMaps.encode."
        )
    return np.maximum(ids.astype(np.int64), IGNORE)


def train_and_test(
    what: str, dtype: DTypeLike, train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike
) -> tuple[NDArray[Any], Ids, NDArray[Any], Ids]:
    """Checked train rows and labels, and test rows and labels; ValueError if they do not match.

    Args:
        what: What an error calls the rows: "embeddings" or "features".
    """
    found: list[NDArray[Any]] = []
    for name, rows, labels in (("train", train, train_labels), ("test", test, test_labels)):
        x, shape = finite_matrix(f"{name}_{what}", rows, dtype), np.shape(labels)
        if shape != x.shape[:1]:
            raise ValueError(
                f"{name}_labels has the shape {shape}, but {name}_{what} has {len(x)} rows: each row needs one id."
            )
        found += [x, class_ids(f"{name}_labels", labels)]
    x, ids, y, other_ids = found
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"train_{what} have {x.shape[1]} dimensions and test_{what} {y.shape[1]}: use one encoder.")
    return x, ids, y, other_ids
