"""Bayesian zero-shot learning: assigns specimens to species, also to species without training specimens.

A specimen is assigned to the likeliest class of `bzsl_likelihood`. All computation is in float64.
Shape letters: N = train specimens, M = test specimens, D = features, A = attributes, S = species of the label map,
C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..metrics import IGNORE, harmonic_mean
from ..search.vectors import Ids
from .bzsl_features import COMPONENTS, principal_axes
from .bzsl_likelihood import Floats, Member, Setting, Statistics, class_statistics, log_likelihoods
from .inputs import class_ids, train_and_test

#: Tuned on INSECT by the authors, for surrogate species.
SURROGATE_SETTING = Setting()

#: The same for genus and species, by features ("sum": summed likelihoods of DNA and images, DIL; "map": DNA, and
#: images mapped to DNA, DIT).
GENUS_SETTINGS = {
    "dna": Setting(m=25.0, s=0.5),
    "image": Setting(s=1.0),
    "sum": Setting(s=0.5),
    "map": Setting(m=25.0, s=0.5),
}


@dataclass(frozen=True)
class ZeroShotResult:
    """Predictions of a Bayesian classifier and their accuracy.

    Attributes:
        predictions: Species (M,); -1 where the prediction is a genus.
        genera: Genus of the prediction (M,), also where it is a species; None without genera.
        confidences: Probability of the prediction (M,), in [0, 1], if all classes are equally frequent.
        log_likelihoods: (M, C).
        codes: Class of each column (C,): the id of a species, or S + the id of a genus.
        seen_per_class: Seen species -> share of its specimens that are right.
        unseen_per_class: Unseen species -> share of its specimens that are right. With genera: genus -> share of its
            specimens of unseen species that are assigned to the genus itself, not to one of its species.
        seen_accuracy: Mean of `seen_per_class`; None without specimens of seen species.
        unseen_accuracy: Mean of `unseen_per_class`; None without specimens of unseen species.
        harmonic_mean: Harmonic mean of these two.
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
    """Assigns specimens to species of the train set or `unseen` ones.

    An unseen species has an attribute, such as the mean DNA embedding of its barcodes, and is made of the specimens of
    the seen species with the nearest attributes (Badirli et al. 2021, https://arxiv.org/abs/2109.14133). If two unseen
    species would use the same seen species, the later one replaces its last by the next nearest. Train rows of label
    -1 are ignored. Test rows of label -1 get a prediction and do not count. A species that is neither in train nor
    `unseen` counts as unseen and as wrong.

    Args:
        train_features, test_features: (N, D) and (M, D), for example of photos.
        train_labels, test_labels: Species ids (N,) and (M,) of one label map.
        attributes: (S, A), row i for species i; only rows of seen and `unseen` species are read.
        unseen: Ids of species that are not in train and can be predicted.
        components: Principal axes of the train set to keep, see `principal_axes`; None keeps the features as they are.
        centred: Centres the features before the projection. The predictions are the same up to rounding.

    Raises:
        ValueError: for shapes that do not match, NaN, species without attributes, `unseen` species that are in train,
            hyperparameters out of range, and too few specimens for the number of features.
    """
    data = train_features, train_labels, test_features, test_labels
    statistics, test, test_ids = fitted(*data, components, centred)
    others = np.asarray(unseen, dtype=np.int64)
    nearest = nearest_seen(attributes, statistics.species, others)
    members, codes = surrogate_classes(statistics, nearest, others, setting.neighbours)
    scores = np.concatenate(list(log_likelihoods(statistics, test, members, [setting]))).T
    return _result(scores, codes, statistics.species, test_ids, None)


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
    """Assigns specimens to species of the train set or their genera.

    Each genus is also a class, made of its seen species: a specimen of no seen species is assigned to a genus (OSBC,
    Badirli et al. 2023, Methods in Ecology and Evolution 14). Other arguments as for `bayesian_zero_shot`.

    Args:
        test_labels: Species ids (M,). A label -1, and an unseen species of unknown genus, get a prediction and do not
            count. An unseen species whose genus is not in train counts as wrong.
        genera: Genus of each species of the label map (S,), in ids of one label map of genera; -1 where unknown.

    Raises:
        ValueError: as `bayesian_zero_shot`, and for species that are not in `genera`.
    """
    data = train_features, train_labels, test_features, test_labels
    statistics, test, test_ids = fitted(*data, components, centred)
    genus_of = genera_of(genera, np.concatenate([statistics.species, test_ids]))
    members, codes = genus_classes(statistics, genus_of)
    scores = np.concatenate(list(log_likelihoods(statistics, test, members, [setting]))).T
    return _result(scores, codes, statistics.species, test_ids, genus_of)


def late_fusion(
    results: Sequence[ZeroShotResult], train_labels: ArrayLike, test_labels: ArrayLike, genera: ArrayLike | None = None
) -> ZeroShotResult:
    """Combines classifiers of the same specimens and classes, such as one of DNA and one of images (DIL).

    The log-likelihoods of each classifier are scaled to [0, 1] for each specimen, as published, and summed. The result
    has the sums in `log_likelihoods`: their order is meaningful, the confidences are not.

    Args:
        results: Of `bayesian_zero_shot`, or of `genus_species_zero_shot`; the other arguments as given to these.

    Raises:
        ValueError: if the results are of different specimens or classes.
    """
    first = results[0]
    total = np.zeros_like(first.log_likelihoods)
    for result in results:
        if result.log_likelihoods.shape != total.shape or (result.codes != first.codes).any():
            raise ValueError("All results must be of the same specimens and have the same classes in the same order.")
        low, high = (bound(result.log_likelihoods, axis=1, keepdims=True) for bound in (np.min, np.max))
        total += (result.log_likelihoods - low) / np.maximum(high - low, np.finfo(np.float64).tiny)
    train_ids, test_ids = class_ids("train_labels", train_labels), class_ids("test_labels", test_labels)
    genus_of = None if genera is None else genera_of(genera, np.concatenate([train_ids, test_ids]))
    return _result(total, first.codes, np.unique(train_ids[train_ids != IGNORE]), test_ids, genus_of)


def fitted(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    components: int | None,
    centred: bool,
) -> tuple[Statistics, Floats, Ids]:
    """Statistics of the labelled train rows, projected test rows, test labels."""
    train, train_ids, test, test_ids = train_and_test(
        "features", np.float64, train_features, train_labels, test_features, test_labels
    )
    known = train_ids != IGNORE
    if not known.any():
        raise ValueError("No train row has a label, so there is no species to learn.")
    train, test = principal_axes(train[known], test, components, centred=centred)
    return class_statistics(train, train_ids[known]), test, test_ids


def nearest_seen(attributes: ArrayLike, seen: Ids, unseen: Ids) -> Ids:
    """Rows of `seen` by attribute distance for each unseen species."""
    both = np.intersect1d(seen, unseen)
    if unseen.ndim != 1 or len(np.unique(unseen)) != len(unseen) or len(both):
        raise ValueError(
            f"unseen must be distinct species that are not in train; got {unseen}, of which {both} are in train."
        )
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


def surrogate_classes(statistics: Statistics, nearest: Ids, unseen: Ids, neighbours: int) -> tuple[list[Member], Ids]:
    """Seen species, and unseen ones made of their nearest seen species, with their codes: the ids of the species.

    No two unseen species are made of the same species.
    """
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
                f"two would use the same seen species. Increase neighbours."
            )
        taken.add(frozenset(chosen.tolist()))
        members.append(Member(np.sort(chosen), seen=False))
    return _seen_members(statistics) + members, np.concatenate([statistics.species, unseen])


def genera_of(genera: ArrayLike, labels: Ids) -> Ids:
    """Checked genus of each species (S,), which must include the `labels`."""
    genus_of = class_ids("genera", genera)
    if labels.max(initial=-1) >= len(genus_of):
        raise ValueError(
            f"genera has {len(genus_of)} species and the labels go up to {labels.max()}: each species needs one."
        )
    return genus_of


def genus_classes(statistics: Statistics, genus_of: Ids) -> tuple[list[Member], Ids]:
    """Seen species and their genera as classes, with their codes: that of genus g is S + g."""
    own = genus_of[statistics.species]
    genera = np.unique(own[own != IGNORE])
    members = _seen_members(statistics) + [Member(np.flatnonzero(own == genus), seen=False) for genus in genera]
    return members, np.concatenate([statistics.species, len(genus_of) + genera])


def _seen_members(statistics: Statistics) -> list[Member]:
    return [Member(np.array([row]), seen=True) for row in range(len(statistics.species))]


def accuracies(answers: Ids, seen: Ids, test_ids: Ids, genus_of: Ids | None) -> dict[str, Any]:
    """Accuracies of codes (M,), as the fields of `ZeroShotResult`."""
    is_seen = np.isin(test_ids, seen)
    of_seen = _share_right(answers[is_seen], test_ids[is_seen])
    truth, answers = test_ids[~is_seen], answers[~is_seen]
    if genus_of is not None:
        truth = np.where(truth == IGNORE, IGNORE, genus_of[truth])
        answers = answers - len(genus_of)  # species become negative: never equal to a genus
    of_unseen = _share_right(answers, truth)
    means = [float(np.mean(list(shares.values()))) if shares else None for shares in (of_seen, of_unseen)]
    return {
        "seen_per_class": of_seen,
        "unseen_per_class": of_unseen,
        "seen_accuracy": means[0],
        "unseen_accuracy": means[1],
        "harmonic_mean": harmonic_mean(*means),
    }


def _share_right(answers: Ids, truth: Ids) -> dict[int, float]:
    """Class -> share of its specimens that are right."""
    classes = np.unique(truth[truth != IGNORE]).tolist()
    return {name: float((answers[truth == name] == name).mean()) for name in classes}


def _result(scores: Floats, codes: Ids, seen: Ids, test_ids: Ids, genus_of: Ids | None) -> ZeroShotResult:
    """Predictions and accuracies from scores (M, C)."""
    best = scores.argmax(axis=1)
    answers = codes[best]
    n_species = codes.max() + 1 if genus_of is None else len(genus_of)
    species = np.where(answers < n_species, answers, IGNORE)
    return ZeroShotResult(
        predictions=species,
        genera=None if genus_of is None else np.where(species < 0, answers - n_species, genus_of[species]),
        confidences=1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1),
        log_likelihoods=scores,
        codes=codes,
        **accuracies(answers, seen, test_ids, genus_of),
    )
