"""Bayesian zero-shot learning: species of specimens, also of species that have no specimen to learn from.

Every class is a multivariate Student t, the posterior predictive distribution of a Gaussian under a hierarchical
normal-inverse-Wishart prior; a specimen gets the class under which it is likeliest. A class without specimens borrows
those of related ones:

- surrogate species (Badirli et al. 2021, https://arxiv.org/abs/2109.14133): an unseen species has an attribute, such
  as the mean DNA embedding of its barcodes, and borrows from the seen species with the nearest attributes;
- genus and species (OSBC, Badirli et al. 2023, Methods in Ecology and Evolution 14): each genus is a class too, made
  of its seen species, and what belongs to no seen species is answered with a genus.

Parity: the prior's pull on the mean of a seen class is one number that is added to every element of its scatter
matrix, as in the published programs, and not a matrix. Because of this the scores depend on the axes of the features:
`principal_axes` fixes their signs. Everything is in float64.

Cost: the scatter of a class of n specimens has a rank below n, so that its scores take O(M n D) and not O(M D^2)
operations, which the settings of a grid share.

Shape letters: N = train specimens, M = test specimens, D = features, A = attributes, S = species of the label map,
C = classes that can be answered, G = settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics import IGNORE, harmonic_mean
from .bzsl_features import COMPONENTS, ids_of, matrix, principal_axes
from .bzsl_likelihood import Member, Setting, Statistics, class_statistics, log_likelihoods

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

#: Tuned on INSECT by the authors: surrogate species, and genus and species by what the features are of ("sum": the
#: summed likelihoods of DNA and images, DIL; "map": DNA and images mapped to DNA, DIT).
SURROGATE_SETTING = Setting()
GENUS_SETTINGS = {
    "dna": Setting(m=25.0, s=0.5),
    "image": Setting(s=1.0),
    "sum": Setting(s=0.5),
    "map": Setting(m=25.0, s=0.5),
}
SURROGATE_GRID = tuple(
    Setting(*values)
    for values in product((0.1, 1.0), (10.0, 25.0), (5.0, 25.0, 100.0, 500.0), (1.0, 5.0, 10.0), (1, 2, 3))
)
GENUS_GRID = tuple(
    Setting(*values) for values in product((0.1, 1.0), (10.0, 25.0), (5.0, 25.0, 100.0, 500.0), (0.5, 1.0, 5.0, 10.0))
)


@dataclass(frozen=True)
class ZeroShotResult:
    """What a Bayesian classifier answers, and how well.

    Attributes:
        predictions: Species (M,); -1 where the answer is a genus.
        genera: Genus of the answer (M,), also where it is a species; None without genera.
        confidences: Probability of the answer (M,), in [0, 1], if all classes are equally frequent.
        log_likelihoods: (M, C).
        codes: What each class is (C,): the id of a species, or S + the id of a genus.
        seen_per_class: Seen species -> share of its specimens that are right.
        unseen_per_class: Unseen species -> share of its specimens that are right; with genera, genus -> share of its
            specimens of unseen species that are answered with the genus, and not with one of its species.
        seen_accuracy: Mean of `seen_per_class`; None if no specimen is of a seen species.
        unseen_accuracy: Mean of `unseen_per_class`; None if no specimen is of an unseen species.
        harmonic_mean: Of these two.
    """

    predictions: Ids
    genera: Ids | None
    confidences: Floats
    log_likelihoods: Floats
    codes: Ids
    seen_per_class: dict[int, float]
    unseen_per_class: dict[int, float]
    seen_accuracy: float | None
    unseen_accuracy: float | None
    harmonic_mean: float | None


@dataclass(frozen=True)
class Trial:
    """Accuracies of one setting on the validation set."""

    setting: Setting
    seen_accuracy: float | None
    unseen_accuracy: float | None
    harmonic_mean: float | None


def bayesian_zero_shot(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    attributes: ArrayLike,
    unseen: ArrayLike,
    *,
    setting: Setting = SURROGATE_SETTING,
    components: int | None = COMPONENTS,
    centred: bool = False,
) -> ZeroShotResult:
    """Species among those of the train set and the `unseen` ones, which borrow from their nearest seen species.

    If two unseen species would borrow from the same ones, the later of them takes the next nearest in place of the
    last. Train rows of the label -1 are left out. Test rows of the label -1 get an answer and do not count; a species
    that is neither in train nor `unseen` counts as unseen, and as wrong.

    Args:
        train_features: (N, D), for instance of photos.
        train_labels: Species ids (N,), of one label map.
        test_features: (M, D).
        test_labels: Species ids (M,).
        attributes: (S, A), row i for the species i; only those of seen and `unseen` species are read.
        unseen: Ids of species that are not in train and may be answered.
        components: Principal axes of the train set that are kept, see `principal_axes`; None, or no fewer than there
            are features, keeps the features as they are.
        centred: Whether the features are centred before the projection; the answers are the same to rounding.

    Raises:
        ValueError: for shapes that do not fit, NaN, species without attributes, `unseen` species that are in train,
            hyperparameters out of range, and too few specimens for the number of features.
    """
    train, species, test, test_ids = _checked(train_features, train_labels, test_features, test_labels)
    train, test = principal_axes(train, test, components, centred=centred)
    statistics = class_statistics(train, species)
    others = np.asarray(unseen, dtype=np.int64)
    nearest = _nearest_seen(attributes, statistics.species, others)
    members = _seen_members(statistics) + _surrogates(nearest, setting.neighbours)
    scores = np.concatenate(list(log_likelihoods(statistics, test, members, [setting]))).T
    return _result(scores, np.concatenate([statistics.species, others]), statistics.species, test_ids, None)


def genus_species_zero_shot(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    genera: ArrayLike,
    *,
    setting: Setting = GENUS_SETTINGS["dna"],
    components: int | None = COMPONENTS,
    centred: bool = True,
) -> ZeroShotResult:
    """A species of the train set, or a genus of these, for specimens that belong to none of its seen species.

    Args:
        train_features: (N, D).
        train_labels: Species ids (N,), of one label map; -1 is left out.
        test_features: (M, D).
        test_labels: Species ids (M,); -1 is answered and does not count, and neither does an unseen species of unknown
            genus. An unseen species whose genus is not in train counts, and as wrong.
        genera: Genus of each species of the label map (S,), in ids of one label map of genera; -1 unknown.
        components: As in `bayesian_zero_shot`.
        centred: As in `bayesian_zero_shot`.

    Raises:
        ValueError: as `bayesian_zero_shot`, and for species that have no place in `genera`.
    """
    train, species, test, test_ids = _checked(train_features, train_labels, test_features, test_labels)
    train, test = principal_axes(train, test, components, centred=centred)
    statistics = class_statistics(train, species)
    genus_of = _genera(genera, np.concatenate([species, test_ids]))
    members, classes = _genus_classes(statistics, genus_of)
    scores = np.concatenate(list(log_likelihoods(statistics, test, members, [setting]))).T
    return _result(scores, classes, statistics.species, test_ids, genus_of)


def late_fusion(
    results: Sequence[ZeroShotResult], train_labels: ArrayLike, test_labels: ArrayLike, genera: ArrayLike | None = None
) -> ZeroShotResult:
    """Answers of several classifiers of the same specimens and classes together, one of DNA and one of images (DIL).

    The log-likelihoods of each are brought to [0, 1] specimen by specimen, as published, and summed. The sums stand in
    `log_likelihoods`; they are none, so that their order means something and the confidences mean little.

    Args:
        results: Of `bayesian_zero_shot`, or all of `genus_species_zero_shot`.
        train_labels: As given to these.
        test_labels: As given to these.
        genera: As given to these.

    Raises:
        ValueError: if the results are of other specimens or classes.
    """
    first = results[0]
    total = np.zeros_like(first.log_likelihoods)
    for result in results:
        if result.log_likelihoods.shape != total.shape or (result.codes != first.codes).any():
            raise ValueError("All results must be of the same specimens and have the same classes in the same order.")
        low, high = (bound(result.log_likelihoods, axis=1, keepdims=True) for bound in (np.min, np.max))
        total += (result.log_likelihoods - low) / np.maximum(high - low, np.finfo(np.float64).tiny)
    train_ids, test_ids = ids_of("train_labels", train_labels), ids_of("test_labels", test_labels)
    genus_of = None if genera is None else _genera(genera, np.concatenate([train_ids, test_ids]))
    return _result(total, first.codes, np.unique(train_ids[train_ids != IGNORE]), test_ids, genus_of)


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
    """Every setting of the grid on a validation set, the best harmonic mean first, equal ones as in the grid.

    The unseen species are those of the validation set that are not in train: `hold_out_species` makes such sets. The
    arguments are those of `bayesian_zero_shot`; none of them is changed.

    Raises:
        ValueError: as `bayesian_zero_shot`, and if the validation set lacks seen or unseen species.
    """
    train, species, test, ids = _checked(train_features, train_labels, validation_features, validation_labels)
    train, test = principal_axes(train, test, components, centred=centred)
    statistics = class_statistics(train, species)
    others = _held_out(ids, statistics.species)
    nearest = _nearest_seen(attributes, statistics.species, others)
    classes = np.concatenate([statistics.species, others])
    trials = []
    for neighbours in dict.fromkeys(setting.neighbours for setting in grid):
        settings = [setting for setting in grid if setting.neighbours == neighbours]
        members = _seen_members(statistics) + _surrogates(nearest, neighbours)
        found = classes[_likeliest(log_likelihoods(statistics, test, members, settings))]
        trials += [_trial(*pair, statistics.species, ids, None) for pair in zip(settings, found, strict=True)]
    return sorted(sorted(trials, key=lambda trial: grid.index(trial.setting)), key=_rank)


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
    """As `tune_bayesian_zero_shot`, for `genus_species_zero_shot`. The grid is ours: none is published."""
    train, species, test, ids = _checked(train_features, train_labels, validation_features, validation_labels)
    train, test = principal_axes(train, test, components, centred=centred)
    statistics = class_statistics(train, species)
    _held_out(ids, statistics.species)
    genus_of = _genera(genera, np.concatenate([species, ids]))
    members, classes = _genus_classes(statistics, genus_of)
    found = classes[_likeliest(log_likelihoods(statistics, test, members, grid))]
    trials = [_trial(*pair, statistics.species, ids, genus_of) for pair in zip(grid, found, strict=True)]
    return sorted(trials, key=_rank)


def _seen_members(statistics: Statistics) -> list[Member]:
    return [Member(np.array([row]), seen=True) for row in range(len(statistics.species))]


def _nearest_seen(attributes: ArrayLike, seen: Ids, unseen: Ids) -> Ids:
    """Rows of `seen` from the nearest to the farthest attribute, for each unseen species."""
    both = np.intersect1d(seen, unseen)
    if unseen.ndim != 1 or len(np.unique(unseen)) != len(unseen) or len(both):
        raise ValueError(f"unseen must be distinct species that are not in train; got {unseen}, of which {both} are.")
    values = np.asarray(attributes, dtype=np.float64)
    needed = np.concatenate([seen, unseen])
    if values.ndim != 2 or needed.max() >= len(values) or needed.min() < 0:
        raise ValueError(
            f"attributes must be a matrix with a row for each species id up to {needed.max()}, got {values.shape}."
        )
    missing = needed[~np.isfinite(values[needed]).all(axis=1)]
    if len(missing):
        raise ValueError(f"attributes of the species {missing[:5]} are NaN or infinite ({len(missing)} species).")
    distances = [np.square(values[seen] - values[species]).sum(axis=1) for species in unseen]
    return np.array([np.argsort(row, kind="stable") for row in distances], np.int64).reshape(len(unseen), len(seen))


def _surrogates(nearest: Ids, neighbours: int) -> list[Member]:
    """The nearest seen species of each unseen one; no two unseen ones have the same."""
    if not 1 <= neighbours <= max(nearest.shape[1], 1):
        raise ValueError(f"neighbours must lie between 1 and the {nearest.shape[1]} seen species, got {neighbours}.")
    taken: set[frozenset[int]] = set()
    members = []
    for row in nearest:
        choices = (np.append(row[: neighbours - 1], last) for last in row[neighbours - 1 :])
        chosen = next((rows for rows in choices if frozenset(rows.tolist()) not in taken), None)
        if chosen is None:
            raise ValueError(
                f"{len(nearest)} unseen species are too many for {len(row)} seen ones with neighbours={neighbours}: "
                f"they would borrow from the same. Take more neighbours."
            )
        taken.add(frozenset(chosen.tolist()))
        members.append(Member(np.sort(chosen), seen=False))
    return members


def _genera(genera: ArrayLike, labels: Ids) -> Ids:
    genus_of = ids_of("genera", genera)
    if labels.max(initial=-1) >= len(genus_of):
        raise ValueError(f"genera has {len(genus_of)} species and the labels go up to {labels.max()}: give all.")
    return genus_of


def _genus_classes(statistics: Statistics, genus_of: Ids) -> tuple[list[Member], Ids]:
    """Seen species, then their genera. A genus g has the code S + g."""
    own = genus_of[statistics.species]
    genera = np.unique(own[own != IGNORE])
    members = _seen_members(statistics) + [Member(np.flatnonzero(own == genus), seen=False) for genus in genera]
    return members, np.concatenate([statistics.species, len(genus_of) + genera])


def _held_out(ids: Ids, seen: Ids) -> Ids:
    known = np.unique(ids[ids != IGNORE])
    others = np.setdiff1d(known, seen)
    if not len(others) or len(others) == len(known):
        raise ValueError(
            f"The validation set needs seen and unseen species; of its {len(known)}, {len(others)} are not in train. "
            f"Make it with hold_out_species."
        )
    return others


def _likeliest(scores: Iterable[Floats]) -> Ids:
    """Place of the class of the greatest log-likelihood (G, M), without all of them at once."""
    best, places = np.zeros((0, 0)), np.zeros((0, 0), np.int64)
    for place, score in enumerate(scores):
        if not place:
            best, places = score, np.zeros(score.shape, np.int64)
        better = score > best
        best, places = np.where(better, score, best), np.where(better, place, places)
    return places


def _per_class(
    codes: Ids, seen: Ids, test_ids: Ids, genus_of: Ids | None
) -> tuple[dict[int, float], dict[int, float]]:
    """Accuracy of each seen species, and of each unseen species or genus."""
    is_seen = np.isin(test_ids, seen)
    shares: list[dict[int, float]] = []
    for rows in (is_seen, ~is_seen & (test_ids != IGNORE)):
        truth, answers = test_ids[rows], codes[rows]
        if genus_of is not None and len(shares):
            truth, answers = genus_of[truth], answers - len(genus_of)  # a species becomes negative: never a genus
            truth, answers = truth[truth != IGNORE], answers[truth != IGNORE]
        names = np.unique(truth).tolist()
        shares.append({name: float((answers[truth == name] == name).mean()) for name in names})
    return shares[0], shares[1]


def _result(scores: Floats, codes: Ids, seen: Ids, test_ids: Ids, genus_of: Ids | None) -> ZeroShotResult:
    """From scores (M, C) to answers and accuracies."""
    best = scores.argmax(axis=1)
    answers = codes[best]
    n_species = codes.max() + 1 if genus_of is None else len(genus_of)
    species = np.where(answers < n_species, answers, IGNORE)
    seen_per_class, unseen_per_class = _per_class(answers, seen, test_ids, genus_of)
    seen_accuracy, unseen_accuracy = _mean(seen_per_class), _mean(unseen_per_class)
    return ZeroShotResult(
        predictions=species,
        genera=None if genus_of is None else np.where(species < 0, answers - n_species, genus_of[species]),
        confidences=1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1),
        log_likelihoods=scores,
        codes=codes,
        seen_per_class=seen_per_class,
        unseen_per_class=unseen_per_class,
        seen_accuracy=seen_accuracy,
        unseen_accuracy=unseen_accuracy,
        harmonic_mean=harmonic_mean(seen_accuracy, unseen_accuracy),
    )


def _mean(per_class: dict[int, float]) -> float | None:
    return float(np.mean(list(per_class.values()))) if per_class else None


def _trial(setting: Setting, answers: Ids, seen: Ids, ids: Ids, genus_of: Ids | None) -> Trial:
    seen_accuracy, unseen_accuracy = (_mean(part) for part in _per_class(answers, seen, ids, genus_of))
    return Trial(setting, seen_accuracy, unseen_accuracy, harmonic_mean(seen_accuracy, unseen_accuracy))


def _rank(trial: Trial) -> float:
    return -1.0 if trial.harmonic_mean is None else -trial.harmonic_mean


def _checked(
    train_features: ArrayLike, train_labels: ArrayLike, test_features: ArrayLike, test_labels: ArrayLike
) -> tuple[Floats, Ids, Floats, Ids]:
    """Labelled train rows, and all test rows."""
    train, test = matrix("train_features", train_features), matrix("test_features", test_features)
    train_ids, test_ids = ids_of("train_labels", train_labels), ids_of("test_labels", test_labels)
    for name, rows, ids in (("train", train, train_ids), ("test", test, test_ids)):
        if len(rows) != len(ids):
            raise ValueError(f"{name}_features has {len(rows)} rows and {name}_labels {len(ids)}: each needs one id.")
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train_features have {train.shape[1]} dimensions and test_features {test.shape[1]}: both must come from "
            f"the same encoder."
        )
    known = train_ids != IGNORE
    if not known.any():
        raise ValueError("No train row has a label: there is no species to learn.")
    return train[known], train_ids[known], test, test_ids
