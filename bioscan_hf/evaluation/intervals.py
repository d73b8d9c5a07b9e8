"""Intervals of accuracies by a bootstrap over species.

Specimens of one species succeed or fail together, so an interval over specimens would be too narrow. Accuracies of 0
and 1 have intervals of no width: the draws hold nothing else.
Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 8 (resampling of clusters).
Shape letters: N = specimens, G = pairs of a species and a class, S = species, C = classes, D = draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics import IGNORE
from .inputs import class_ids

#: Draws of species, how many are held at once, and the level of the intervals.
DRAWS, AT_ONCE, LEVEL = 1000, 100, 0.95

#: Ends of an interval; None where there are fewer than two species.
Interval = list[float] | None


def species_intervals(
    hits: ArrayLike, references: ArrayLike, species: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals of the micro and macro accuracy, by drawing species with replacement.

    Args:
        hits: Whether each specimen is right, bool (N,).
        references: Class ids (N,); specimens with a negative one do not count.
        species: Species ids (N,). A specimen with a negative one is a species of its own.
        draws: Number of draws; the ends are quantiles of their accuracies.

    Returns:
        micro_accuracy_interval, macro_accuracy_interval: [low, high] in [0, 1].

    Raises:
        ValueError: for fewer than 1 draw, or arrays of different lengths.
    """
    right, true, names = np.asarray(hits, np.bool_), class_ids("references", references), class_ids("species", species)
    if draws < 1:
        raise ValueError(f"draws is {draws}; give 1 or more.")
    if not len(right) == len(true) == len(names):
        raise ValueError(f"There are {len(right)} hits, {len(true)} references and {len(names)} species.")
    known = true != IGNORE
    right, true, names = right[known], true[known], names[known]
    unnamed = names == IGNORE
    names = np.where(unnamed, names.max(initial=0) + 1 + np.cumsum(unnamed), names)
    owners, species_codes = np.unique(names, return_inverse=True)
    if len(owners) < 2:
        return {"micro_accuracy_interval": None, "macro_accuracy_interval": None}
    class_codes = np.unique(true, return_inverse=True)[1]
    groups, rows = np.unique(np.stack([class_codes, species_codes], 1), axis=0, return_inverse=True)  # (G, 2)
    counts = np.bincount(rows.reshape(-1)).astype(np.float64)
    found = np.bincount(rows.reshape(-1), right.astype(np.float64))
    starts = np.flatnonzero(np.diff(groups[:, 0], prepend=-1))  # first group of each class
    random, shares = np.random.default_rng(seed), np.empty((2, draws))
    for first in range(0, draws, AT_ONCE):
        part = slice(first, min(first + AT_ONCE, draws))
        drawn = random.multinomial(len(owners), np.full(len(owners), 1 / len(owners)), part.stop - part.start)
        shares[:, part] = _accuracies(drawn[:, groups[:, 1]], found, counts, starts)
    ends = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1).T.tolist()
    return {"micro_accuracy_interval": ends[0], "macro_accuracy_interval": ends[1]}


def _accuracies(
    drawn: NDArray[Any], hits: NDArray[Any], counts: NDArray[Any], starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Micro and macro accuracies (2, D), of times that each group is drawn (D, G).

    In the macro accuracy, a class counts as often as its species are drawn on average: if it counted once, intervals
    of classes with one species would be a quarter too narrow.
    """
    right, whole, times = (np.add.reduceat(drawn * one, starts, axis=1) for one in (hits, counts, 1))  # (D, C)
    per_class = np.divide(right, whole, out=np.zeros_like(right), where=whole > 0)
    weights = times / np.diff(starts, append=drawn.shape[1])
    return np.stack([right.sum(1) / whole.sum(1), (weights * per_class).sum(1) / weights.sum(1)])
