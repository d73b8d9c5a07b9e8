"""Probes of frozen embeddings: k nearest neighbours and a linear classifier. Arrays in, predictions and accuracy out.

Protocols: BarcodeBERT (https://arxiv.org/abs/2311.02401), whose 1-NN cosine probe at genus rank is Task I of
BIOSCAN-5M on unseen species (https://arxiv.org/abs/2406.12723), and its linear probe.
Shape letters: N = train rows (keys), M = test rows (queries), D = embedding size, K = neighbours, C = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..metrics import IGNORE, accuracy, coverage, expected_calibration_error, f1, selective_accuracy
from ..search.exact import DTYPES, nearest
from ..search.vectors import Floats, Ids, check_query, slices
from .inputs import train_and_test
from .intervals import species_intervals
from .linear_fits import fit_logistic, fit_sgd
from .open_set import open_set_scores

METRICS = ("cosine", "euclidean")
PROTOCOLS = ("default", "upstream")


@dataclass(frozen=True)
class ProbeResult:
    """Predictions of a probe and their accuracy.

    Attributes:
        predictions: Class ids (M,), also for the rows without a label.
        confidences: Confidence of each prediction (M,), in [0, 1]. Linear: its probability. kNN: its share of the vote
            times the similarity (at least 0) of the nearest neighbour that voted for it.
        classes: Ids of the classes of the train set (C,), ascending.
        micro_accuracy: Share of the labelled test rows that are right, in [0, 1]; None if no row has a label.
        macro_accuracy: The same as the mean over the classes of the test set.
        n_train, n_test: Rows with a label.
        neighbours: kNN: rows of the train set (M, K), nearest first.
        similarities: kNN: of the neighbours (M, K), the cosine or 1 / (1 + Euclidean distance).
        probabilities: Linear: (M, C), if asked for.
    """

    predictions: Ids
    confidences: NDArray[np.float64]
    classes: Ids
    micro_accuracy: float | None
    macro_accuracy: float | None
    n_train: int
    n_test: int
    neighbours: Ids | None = None
    similarities: NDArray[np.float64] | None = None
    probabilities: Floats | None = None


def knn_probe(
    train_embeddings: ArrayLike,
    train_labels: ArrayLike,
    test_embeddings: ArrayLike,
    test_labels: ArrayLike,
    *,
    k: int = 1,
    metric: str = "cosine",
    temperature: float | None = None,
    dtype: str = "float32",
    chunk_size: int = 16_384,
    device: str | torch.device = "cpu",
) -> ProbeResult:
    """Predicts the majority label of the `k` nearest train rows, by exact search.

    Train rows without a label (-1) are ignored; test rows without one get a prediction and do not count. A test label
    that no train row has counts as wrong. As in scikit-learn, equally near rows are taken in row order, and of equally
    frequent labels the smallest id wins. The cosine with a vector of zeros is 0.

    Args:
        train_embeddings, test_embeddings: (N, D) and (M, D), finite.
        train_labels, test_labels: Class ids (N,) and (M,), of one label map.
        metric: "cosine" (in float32) or "euclidean" (in float64: a small difference of large numbers).
        temperature: A vote weighs exp(similarity / temperature), so nearer neighbours count for more (Wu et al. 2018,
            https://arxiv.org/abs/1805.01978, with 0.07). None: all votes weigh the same.
        dtype: "float32", or "bfloat16" for the cosine, see `search.exact.nearest`.
        chunk_size: Keys compared at once, with 1,024 queries.

    Raises:
        ValueError: for an unknown metric or dtype, a temperature that is not above 0, shapes that do not match, NaN or
            infinite embeddings (their rows are named), and fewer labelled train rows than `k`.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; give {' or '.join(map(repr, METRICS))}.")
    if dtype not in DTYPES or (dtype, metric) == ("bfloat16", "euclidean"):
        raise ValueError(f"dtype is {dtype!r} and metric {metric!r}: give 'float32', or with 'cosine' 'bfloat16'.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; give a positive number of keys to compare at once.")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature is {temperature}; give a number above 0, or None for votes of equal weight.")
    train, train_ids, test, test_ids = train_and_test(
        "embeddings", np.float32, train_embeddings, train_labels, test_embeddings, test_labels
    )
    keep = np.flatnonzero(train_ids != IGNORE)
    check_query(test.shape[1], train.shape[1], k, len(keep))
    options: dict[str, Any] = {"metric": metric, "dtype": dtype, "keys_at_once": chunk_size, "device": device}
    neighbours, similarities = nearest(test, train, k, rows=keep, **options)
    similarities = similarities.astype(np.float64)
    predictions, confidences = vote(train_ids[neighbours], similarities, temperature)
    return _result(predictions, confidences, train_ids, test_ids, neighbours=neighbours, similarities=similarities)


def linear_probe(
    train_embeddings: ArrayLike,
    train_labels: ArrayLike,
    test_embeddings: ArrayLike,
    test_labels: ArrayLike,
    *,
    protocol: str = "default",
    epochs: int = 200,
    seed: int = 0,
    probabilities: bool = False,
    device: str | torch.device = "cpu",
) -> ProbeResult:
    """Predicts with a linear classifier trained on frozen embeddings.

    Embeddings and labels are those of `knn_probe`.

    Args:
        protocol: "default" is logistic regression (scikit-learn's objective: L2, C = 1) on features standardised
            one by one. "upstream" is the published probe of BarcodeBERT's baselines: one mean and one standard
            deviation for the whole matrix, a linear layer, and SGD (learning rate 1, momentum 0.95, weight decay 1e-9,
            batches of 1,024).
        epochs: Of "upstream".
        seed: Of "upstream": initial weights and order of the rows.
        probabilities: Whether the result has the probabilities of all classes.

    Raises:
        ValueError: for an unknown protocol, bad embeddings as in `knn_probe`, and fewer than 2 classes.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; give {' or '.join(map(repr, PROTOCOLS))}.")
    train, train_ids, test, test_ids = train_and_test(
        "embeddings", np.float32, train_embeddings, train_labels, test_embeddings, test_labels
    )
    keep = train_ids != IGNORE
    x, classes, y = train[keep], *np.unique(train_ids[keep], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"A linear probe needs 2 or more classes, and the {len(y)} labelled train rows have {len(classes)}."
        )
    where = torch.device(device)
    if protocol == "default":
        codes, confidences, shares = fit_logistic(x, y, test, where, probabilities)
    else:
        codes, confidences, shares = fit_sgd(x, y, test, epochs, seed, where, probabilities)
    return _result(classes[codes], confidences, train_ids, test_ids, probabilities=shares)


def probe_ranks(
    train_embeddings: ArrayLike,
    train_labels: Mapping[str, ArrayLike],
    test_embeddings: ArrayLike,
    test_labels: Mapping[str, ArrayLike],
    *,
    probe: Callable[..., ProbeResult] = linear_probe,
    **options: Any,
) -> dict[str, ProbeResult]:
    """Runs a probe at several ranks, each with the rows that are labelled there.

    Args:
        train_labels, test_labels: Rank -> class ids; the ranks of the test set are probed.
        probe: `linear_probe` or `knn_probe`; it gets the `options`. An error of the probe names the rank.
    """
    missing = [rank for rank in test_labels if rank not in train_labels]
    if missing:
        raise ValueError(f"test_labels has the ranks {missing}, but train_labels has only {list(train_labels)}.")
    results = {}
    for rank, labels in test_labels.items():
        try:
            results[rank] = probe(train_embeddings, train_labels[rank], test_embeddings, labels, **options)
        except ValueError as error:
            raise ValueError(f"At the rank {rank!r}: {error}") from error
    return results


#: Split and rank of each question of Task I: species that occur in train, and higher ranks of species that do not.
BARCODE_QUESTIONS = (
    ("test", "species"),
    ("test_unseen", "genus"),
    ("test_unseen", "family"),
    ("test_unseen", "order"),
)


def probe_barcodes(
    embeddings: Mapping[str, ArrayLike],
    labels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    probe: Callable[..., ProbeResult] = knn_probe,
    questions: Sequence[tuple[str, str]] = BARCODE_QUESTIONS,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Task I of BIOSCAN-5M on frozen embeddings, with the train set as references.

    Args:
        embeddings: Split (train and those of the questions) -> (n, D).
        labels: Split -> rank -> class ids (n,) of one label map for all splits, -1 where missing.
        probe: `knn_probe` or `linear_probe`; it gets the `options`.
        questions: Split and rank of each question.

    Returns:
        "species of test" and so on -> the metrics of `probe_metrics`, with intervals if labels have the species.
    """
    metrics: dict[str, dict[str, Any]] = {}
    train, train_labels = embeddings["train"], labels["train"]
    for split, rank in questions:
        asked = {rank: labels[split][rank]}
        results = probe_ranks(train, train_labels, embeddings[split], asked, probe=probe, **options)
        species = labels[split].get("species")
        metrics[f"{rank} of {split}"] = probe_metrics(results[rank], train_labels[rank], asked[rank], species)
    return metrics


def novel_species(
    embeddings: Mapping[str, ArrayLike],
    labels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    probe: Callable[..., ProbeResult] = knn_probe,
    **options: Any,
) -> dict[str, Any]:
    """`open_set_scores` of the specimens of test and test_unseen: is their species in train?

    Arguments are those of `probe_barcodes`. Specimens without a species do not count.
    """
    splits = ("test", "test_unseen")
    species = np.concatenate([np.asarray(labels[split]["species"]) for split in splits])
    rows = np.concatenate([np.asarray(embeddings[split]) for split in splits])
    result = probe(embeddings["train"], labels["train"]["species"], rows, species, **options)
    named = species >= 0
    return open_set_scores(result.confidences[named], np.isin(species[named], result.classes))


def probe_metrics(
    result: ProbeResult, train_labels: ArrayLike, test_labels: ArrayLike, species: ArrayLike | None = None
) -> dict[str, Any]:
    """Metrics of a probe over the labelled test rows; None where there are none.

    Args:
        species: Species ids of the test rows (M,), for the intervals of `species_intervals`; None gives none.

    Returns:
        Those of `metrics.f1` and `metrics.selective_accuracy`; micro_accuracy, macro_accuracy, n_train and n_test of
        the probe; coverage: share of the test rows whose taxon is in train, an upper bound of the accuracy;
        calibration_error (expected, 15 bins); auroc and fpr_at_95 of `open_set_scores`, of taxa that are in train or
        not; chance: accuracy of the label of a random train row.
    """
    train_ids, test_ids = np.asarray(train_labels), np.asarray(test_labels)
    keys, queries = train_ids[train_ids != IGNORE], test_ids[test_ids != IGNORE]
    frequency = np.bincount(keys, minlength=max(queries, default=0) + 1) / len(keys)
    answers = result.confidences, result.predictions, test_ids
    labelled = test_ids >= 0
    novelty = open_set_scores(result.confidences[labelled], np.isin(test_ids[labelled], result.classes))
    hits = result.predictions == test_ids
    return {
        "micro_accuracy": result.micro_accuracy,
        "macro_accuracy": result.macro_accuracy,
        **species_intervals(hits, test_ids, np.zeros(len(hits), np.int64) if species is None else species),
        **f1(result.predictions, test_ids),
        "coverage": coverage(test_ids, result.classes),
        "calibration_error": expected_calibration_error(*answers),
        **selective_accuracy(*answers),
        "auroc": novelty["auroc"],
        "fpr_at_95": novelty["fpr_at_95"],
        "chance": float(frequency[queries].mean()) if len(queries) else None,
        "n_train": result.n_train,
        "n_test": result.n_test,
    }


def vote(labels: Ids, similarities: NDArray[np.float64], temperature: float | None) -> tuple[Ids, NDArray[np.float64]]:
    """Label with the most votes (M,), the smallest of equally frequent ones, and its confidence (M,)."""
    predictions, confidences = np.empty(len(labels), np.int64), np.empty(len(labels))
    for part in slices(len(labels), 1024):
        rows, near = labels[part], similarities[part]
        weights = np.ones_like(near)
        if temperature is not None:
            weights = np.exp((near - near[:, :1]) / temperature)  # the first is the nearest: no overflow
        votes = ((rows[:, :, None] == rows[:, None, :]) * weights[:, None, :]).sum(2)  # (rows, K)
        # Sums of the same weights in another order differ by rounding, which must not decide a tie.
        winner = votes >= votes.max(1, keepdims=True) * (1 - 1e-12)
        predictions[part] = np.where(winner, rows, np.iinfo(np.int64).max).min(1)
        agree = rows == predictions[part][:, None]
        share = (weights * agree).sum(1) / weights.sum(1)
        confidences[part] = share * np.where(agree, near, -np.inf).max(1).clip(0, 1)
    return predictions, confidences


def _result(
    predictions: Ids, confidences: NDArray[np.float64], train_ids: Ids, test_ids: Ids, **found: Any
) -> ProbeResult:
    scores, labelled = accuracy(predictions, test_ids), train_ids[train_ids != IGNORE]
    return ProbeResult(
        predictions,
        confidences,
        classes=np.unique(labelled),
        micro_accuracy=scores["micro_accuracy"],
        macro_accuracy=scores["macro_accuracy"],
        n_train=len(labelled),
        n_test=scores["support"],
        **found,
    )
