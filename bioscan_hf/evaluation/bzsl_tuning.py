"""Tunes Bayesian zero-shot classifiers on held-out species: grids of settings, and rows to validate on.

Shape letters: N = train specimens, G = settings, M = validation specimens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics import IGNORE
from ..search.vectors import Ids
from .bzsl import accuracies, fitted, genera_of, genus_classes, nearest_seen, surrogate_classes
from .bzsl_features import COMPONENTS
from .bzsl_likelihood import Floats, Member, Setting, Statistics, log_likelihoods
from .inputs import class_ids

#: Published grid of surrogate species.
SURROGATE_GRID = tuple(
    Setting(*values)
    for values in product((0.1, 1.0), (10.0, 25.0), (5.0, 25.0, 100.0, 500.0), (1.0, 5.0, 10.0), (1, 2, 3))
)

#: Our grid for genus and species; none is published.
GENUS_GRID = tuple(
    Setting(*values) for values in product((0.1, 1.0), (10.0, 25.0), (5.0, 25.0, 100.0, 500.0), (0.5, 1.0, 5.0, 10.0))
)


@dataclass(frozen=True)
class Trial:
    """Accuracies of one setting on the validation set, as in `ZeroShotResult`."""

    setting: Setting
    seen_accuracy: float | None
    unseen_accuracy: float | None
    harmonic_mean: float | None


def hold_out_species(
    labels: ArrayLike, *, species: float = 0.2, specimens: float = 0.2, seed: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Splits labelled rows into rows to fit (N,) and rows to validate on (N,).

    Some species are held out completely, and some specimens of each other species, of which at least one stays.

    Args:
        labels: Species ids (N,); rows of -1 are in neither part.
        species: Share of the species to hold out completely, rounded up.
        specimens: Share of the specimens of each other species to hold out, rounded down.
    """
    for name, share in (("species", species), ("specimens", specimens)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share}; give the share to hold out, between 0 and 1.")
    ids = class_ids("labels", labels)
    rng = np.random.default_rng(seed)
    names = np.unique(ids[ids != IGNORE])
    held = rng.permutation(names)[: int(np.ceil(species * len(names)))]
    validate = np.isin(ids, held)
    for name in np.setdiff1d(names, held):
        rows = rng.permutation(np.flatnonzero(ids == name))
        validate[rows[: int(specimens * len(rows))]] = True
    return (ids != IGNORE) & ~validate, validate


def tune_bayesian_zero_shot(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    validation_features: ArrayLike,
    validation_labels: ArrayLike,
    attributes: ArrayLike,
    *,
    grid: Sequence[Setting] = SURROGATE_GRID,
    components: int | None = COMPONENTS,
    centred: bool = False,
) -> list[Trial]:
    """Evaluates every setting of a grid on a validation set. The best harmonic mean comes first.

    The unseen species are those of the validation set that are not in train: `hold_out_species` makes such sets. The
    arguments are those of `bayesian_zero_shot`; none of them is changed.

    Raises:
        ValueError: as `bayesian_zero_shot`, and if the validation set has no seen or no unseen species.
    """
    data = train_features, train_labels, validation_features, validation_labels
    statistics, test, ids = fitted(*data, components, centred)
    others = _held_out(ids, statistics.species)
    nearest = nearest_seen(attributes, statistics.species, others)
    trials = []
    for neighbours in dict.fromkeys(setting.neighbours for setting in grid):
        settings = [setting for setting in grid if setting.neighbours == neighbours]
        trials += _trials(statistics, test, ids, surrogate_classes(statistics, nearest, others, neighbours), settings)
    return sorted(trials, key=lambda trial: (-(trial.harmonic_mean or 0), grid.index(trial.setting)))


def tune_genus_species(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    validation_features: ArrayLike,
    validation_labels: ArrayLike,
    genera: ArrayLike,
    *,
    grid: Sequence[Setting] = GENUS_GRID,
    components: int | None = COMPONENTS,
    centred: bool = True,
) -> list[Trial]:
    """The same as `tune_bayesian_zero_shot` for `genus_species_zero_shot`."""
    data = train_features, train_labels, validation_features, validation_labels
    statistics, test, ids = fitted(*data, components, centred)
    _held_out(ids, statistics.species)
    genus_of = genera_of(genera, np.concatenate([statistics.species, ids]))
    trials = _trials(statistics, test, ids, genus_classes(statistics, genus_of), grid, genus_of)
    return sorted(trials, key=lambda trial: -(trial.harmonic_mean or 0))


def _held_out(ids: Ids, seen: Ids) -> Ids:
    known = np.unique(ids[ids != IGNORE])
    others = np.setdiff1d(known, seen)
    if not len(others) or len(others) == len(known):
        raise ValueError(
            f"The validation set needs seen and unseen species; of its {len(known)}, {len(others)} are not in train. "
            f"Make it with hold_out_species."
        )
    return others


def _trials(
    statistics: Statistics,
    test: Floats,
    ids: Ids,
    classes: tuple[list[Member], Ids],
    settings: Sequence[Setting],
    genus_of: Ids | None = None,
) -> list[Trial]:
    """Accuracies of settings that share their classes. Holds the scores (G, M) of one class at a time."""
    members, codes = classes
    best = np.full((len(settings), len(test)), -np.inf)
    places = np.zeros(best.shape, np.int64)
    for place, scores in enumerate(log_likelihoods(statistics, test, members, settings)):
        places[scores > best] = place
        best = np.maximum(best, scores)
    found = [accuracies(answers, statistics.species, ids, genus_of) for answers in codes[places]]
    names = ("seen_accuracy", "unseen_accuracy", "harmonic_mean")
    return [Trial(setting, *map(one.get, names)) for setting, one in zip(settings, found, strict=True)]
