"""Probes of frozen embeddings: nearest neighbours and a linear classifier. Arrays in, predictions and accuracy out.

Protocols: BarcodeBERT (https://arxiv.org/abs/2311.02401), whose 1-NN cosine probe at genus rank is Task I of
BIOSCAN-5M on unseen species (https://arxiv.org/abs/2406.12723), and its linear probe.
Shape letters: N = train rows (keys), M = test rows (queries), D = embedding size, K = neighbours, C = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..metrics import IGNORE, accuracy, coverage, expected_calibration_error, f1, selective_accuracy
from .linear_fits import fit_logistic, fit_sgd

METRICS = ("cosine", "euclidean")
PROTOCOLS = ("default", "upstream")

QUERIES_AT_ONCE = 1024

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeResult:
    """What a probe predicts, and how well.

    Attributes:
        predictions: Class ids (M,), also for the rows that have no label.
        confidences: Of each prediction (M,), in [0, 1]. Linear: its probability. kNN: its share of the vote, times the
            similarity (at least 0) of the nearest neighbour that voted for it. Whether it keeps its word is what the
            calibration error tells.
        neighbours: Rows of the train set (M, K), nearest first; None for a linear probe.
        similarities: Of the neighbours (M, K): the cosine, or 1 / (1 + Euclidean distance); None for a linear probe.
        classes: Ids of the classes that can be predicted (C,), ascending.
        probabilities: (M, C) of a linear probe that was asked for them; None otherwise.
        micro_accuracy: Share of the labelled test rows that are right, in [0, 1]; None if no row has a label.
        macro_accuracy: The same, as the mean over the classes of the test set.
        n_train: Train rows that have a label.
        n_test: Test rows that have a label.
    """

    predictions: Ids
    confidences: NDArray[np.float64]
    neighbours: Ids | None
    similarities: NDArray[np.float64] | None
    classes: Ids
    probabilities: Floats | None
    micro_accuracy: float | None
    macro_accuracy: float | None
    n_train: int
    n_test: int


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
    """Label of the majority of the `k` nearest train rows, by exact search.

    Train rows without a label (-1) are left out; test rows without one get a prediction and do not count. A test label
    that no train row has counts as wrong. Equally near rows are taken in their order, and of equally frequent labels
    the smallest id wins, as in scikit-learn. The cosine with a vector of zeros is 0.

    Args:
        train_embeddings: (N, D), finite.
        train_labels: Class ids (N,); they need not be contiguous, but must mean the same in both label arrays.
        test_embeddings: (M, D), finite.
        test_labels: Class ids (M,).
        metric: "cosine" (in float32) or "euclidean" (in float64, as it is a small difference of large numbers).
        temperature: Above 0: a neighbour's vote weighs exp(similarity / temperature), so that near ones count for more
            (Wu et al. 2018, https://arxiv.org/abs/1805.01978, with 0.07). None: every vote weighs the same.
        dtype: "float32", or "bfloat16" for the cosine: several times as fast where the processor multiplies in it.
            Among keys whose cosines differ by less than about 0.001 the order may then be another.
        chunk_size: Keys that are compared at once, to within a multiple of 64. No more than `chunk_size` x 1,024
            similarities exist at a time.
        device: Where the products are taken.

    Raises:
        ValueError: for an unknown metric or dtype, a temperature that is not above 0, shapes that do not fit, NaN or
            infinite embeddings (the rows are named), and fewer labelled train rows than `k`.
    """
    if metric not in METRICS:
        raise ValueError(f"Unknown metric {metric!r}. The kNN probe has {' and '.join(map(repr, METRICS))}.")
    if dtype not in ("float32", "bfloat16") or (dtype, metric) == ("bfloat16", "euclidean"):
        raise ValueError(f"dtype is {dtype!r} and metric {metric!r}: choose 'float32', or with 'cosine' 'bfloat16'.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is the number of keys compared at once, 1 or more; got {chunk_size}.")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be above 0, or None for votes of equal weight; got {temperature}.")
    train, train_ids, test, test_ids = _checked(train_embeddings, train_labels, test_embeddings, test_labels)
    keep = np.flatnonzero(train_ids != IGNORE)
    if not 1 <= k <= len(keep):
        raise ValueError(
            f"k={k} neighbours of {len(keep)} train rows with a label: k must lie between 1 and their number."
        )
    nearest, similarities = _nearest(train, keep, test, k, metric, dtype, chunk_size, torch.device(device))
    neighbours = keep[nearest]
    predictions, confidences = _vote(train_ids[neighbours], similarities, temperature)
    return _result(predictions, confidences, neighbours, similarities, None, train_ids, test_ids)


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
    """Prediction of a linear classifier that is trained on frozen embeddings.

    Labels are treated as in `knn_probe`.

    Args:
        train_embeddings: (N, D), finite.
        train_labels: Class ids (N,), of two classes or more.
        test_embeddings: (M, D), finite.
        test_labels: Class ids (M,).
        protocol: "default" is logistic regression (scikit-learn's objective: L2, C = 1) on features that are
            standardised one by one. "upstream" is the published probe of BarcodeBERT's baselines: one mean and one
            deviation for the whole matrix, a linear layer, and SGD (learning rate 1, momentum 0.95, weight decay 1e-9,
            batches of 1,024).
        epochs: Of "upstream".
        seed: Of "upstream": first weights and order of the rows.
        probabilities: Whether the result holds them for all classes, M x C numbers of 4 bytes.
        device: Where the classifier is trained.

    Raises:
        ValueError: for an unknown protocol, bad embeddings as in `knn_probe`, and fewer than two classes.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}. The linear probe has {' and '.join(map(repr, PROTOCOLS))}.")
    train, train_ids, test, test_ids = _checked(train_embeddings, train_labels, test_embeddings, test_labels)
    keep = train_ids != IGNORE
    x, classes, y = train[keep], *np.unique(train_ids[keep], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"A linear probe needs two or more classes, and the {len(y)} labelled train rows have {len(classes)}."
        )
    if protocol == "default":
        shares = fit_logistic(x, y, test, torch.device(device))
    else:
        shares = fit_sgd(x, y, test, epochs, seed, torch.device(device))
    predictions, confidences = classes[shares.argmax(axis=1)], shares.max(axis=1).astype(np.float64)
    return _result(predictions, confidences, None, None, shares if probabilities else None, train_ids, test_ids)


def probe_ranks(
    train_embeddings: ArrayLike,
    train_labels: Mapping[str, ArrayLike],
    test_embeddings: ArrayLike,
    test_labels: Mapping[str, ArrayLike],
    *,
    probe: Callable[..., ProbeResult] = linear_probe,
    **options: Any,
) -> dict[str, ProbeResult]:
    """Result of a probe at several ranks: at each, of the rows that are labelled there.

    Args:
        train_embeddings: (N, D).
        train_labels: Rank -> class ids (N,).
        test_embeddings: (M, D).
        test_labels: Rank -> class ids (M,); its ranks are the ones that are probed.
        probe: `linear_probe` or `knn_probe`.
        options: For the probe.

    Raises:
        ValueError: as the probe, with the rank.
    """
    missing = [rank for rank in test_labels if rank not in train_labels]
    if missing:
        raise ValueError(f"test_labels has the ranks {missing}, which train_labels lacks: {list(train_labels)}.")
    results = {}
    for rank, labels in test_labels.items():
        try:
            results[rank] = probe(train_embeddings, train_labels[rank], test_embeddings, labels, **options)
        except ValueError as error:
            raise ValueError(f"At the rank {rank!r}: {error}") from error
    return results


#: What is asked of a specimen by its split: species where they occur in train, higher ranks where they do not.
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
) -> dict[str, dict[str, float | int | None]]:
    """Task I of BIOSCAN-5M on frozen embeddings: species of test; genus, family and order of test_unseen, from train.

    Args:
        embeddings: Split (train and those of the questions) -> (n, D).
        labels: Split -> rank -> class ids (n,) of one label map for all splits, -1 where missing.
        probe: `knn_probe` or `linear_probe`.
        questions: Split and rank.
        options: For the probe, such as `k` and `metric`, or `protocol`.

    Returns:
        "species of test" and so on -> the metrics of `probe_metrics`.
    """
    metrics: dict[str, dict[str, float | int | None]] = {}
    for split, rank in questions:
        train_ids, test_ids = labels["train"][rank], labels[split][rank]
        results = probe_ranks(
            embeddings["train"], {rank: train_ids}, embeddings[split], {rank: test_ids}, probe=probe, **options
        )
        metrics[f"{rank} of {split}"] = probe_metrics(results[rank], train_ids, test_ids)
    return metrics


def probe_metrics(
    result: ProbeResult, train_labels: ArrayLike, test_labels: ArrayLike
) -> dict[str, float | int | None]:
    """How well a probe did, over the labelled test rows; None where there are none.

    Returns:
        micro_accuracy, macro_accuracy, f1_micro, f1_macro, f1_weighted; coverage: the share whose taxon is in train,
        which bounds the accuracy; calibration_error (expected, 15 bins); aurc, accuracy_at_90 and accuracy_at_95 as in
        `metrics.selective_accuracy`; chance: the accuracy of the label of a random row of train; n_train and n_test:
        labelled rows.
    """
    train_ids, test_ids = np.asarray(train_labels), np.asarray(test_labels)
    keys, queries = train_ids[train_ids != IGNORE], test_ids[test_ids != IGNORE]
    frequency = np.bincount(keys, minlength=max(queries, default=0) + 1) / len(keys)
    answers = result.confidences, result.predictions, test_ids
    balanced, selective = f1(result.predictions, test_ids), selective_accuracy(*answers)
    return {
        "micro_accuracy": result.micro_accuracy,
        "macro_accuracy": result.macro_accuracy,
        "f1_micro": balanced["f1_micro"],
        "f1_macro": balanced["f1_macro"],
        "f1_weighted": balanced["f1_weighted"],
        "coverage": coverage(test_ids, result.classes),
        "calibration_error": expected_calibration_error(*answers),
        "aurc": selective["aurc"],
        "accuracy_at_90": selective["accuracy_at_90"],
        "accuracy_at_95": selective["accuracy_at_95"],
        "chance": float(frequency[queries].mean()) if len(queries) else None,
        "n_train": result.n_train,
        "n_test": result.n_test,
    }


def _nearest(
    train: Floats, keep: Ids, test: Floats, k: int, metric: str, dtype: str, chunk_size: int, device: torch.device
) -> tuple[Ids, NDArray[np.float64]]:
    """Places in `keep` (M, K) of the nearest keys, and their similarities (M, K).

    Keys pass once, chunk by chunk; the best so far are kept.
    """
    best = torch.full((len(test), k), -torch.inf, device=device)
    if metric == "euclidean":
        best = best.double()
    places = torch.zeros((len(test), k), dtype=torch.int64, device=device)
    coarse = dtype == "bfloat16"
    queries = _prepared(test, metric, device)  # (M, D)
    if coarse:
        queries = _with_column(queries, 1.0)
    # Every chunk has one shape, a multiple of what a matrix product takes at once, and the rest of the last is masked:
    # then equal keys get equal similarities wherever they stand, and ties are ties.
    chunks = -(-len(keep) // chunk_size)
    size = -(-max(k, -(-len(keep) // chunks)) // 64) * 64
    keys = torch.zeros((size, queries.shape[1]), dtype=queries.dtype, device=device)
    for start in range(0, len(keep), size):
        rows = keep[start : start + size]
        chunk = _prepared(train[rows], metric, device)
        keys[: len(rows)] = _with_column(chunk, -1.0) if coarse else chunk
        for part in _slices(len(test), QUERIES_AT_ONCE):
            similarity = queries[part] @ keys.T  # (queries, size)
            if metric == "euclidean":
                # The squared distance, negative, up to the query's own square, which does not change the order.
                similarity = 2 * similarity - keys.square().sum(1)
            similarity[:, len(rows) :] = -torch.inf
            values, found = _first_top_k(similarity, k)
            values = torch.cat([best[part], values], dim=1)
            found = torch.cat([places[part], found + start], dim=1)
            values, order = values.sort(dim=1, descending=True, stable=True)
            best[part], places[part] = values[:, :k], found.gather(1, order)[:, :k]
    if metric == "euclidean":
        best = 1 / (1 + (queries.square().sum(1, keepdim=True) - best).clamp(min=0).sqrt())
    if coarse:
        best = best + 1
    return places.cpu().numpy(), best.double().cpu().numpy()


def _prepared(embeddings: Floats, metric: str, device: torch.device) -> Tensor:
    """Unit vectors (zeros stay zeros) for the cosine, float64 for the Euclidean distance."""
    x = torch.from_numpy(np.ascontiguousarray(embeddings)).to(device)
    if metric == "euclidean":
        return x.double()
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)


def _with_column(x: Tensor, value: float) -> Tensor:
    """In bfloat16, with a column more: of queries 1 and of keys -1, so that products are cosines less 1.

    The best ones are then near 0, where bfloat16 tells finer differences than near 1, where it has steps of 0.004.
    """
    return torch.cat([x, x.new_full((len(x), 1), value)], dim=1).to(torch.bfloat16)


def _first_top_k(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` greatest of each row and their columns, descending; of equal values the first columns."""
    if k == 1:
        return similarity.max(dim=1, keepdim=True)  # max names the first maximum, topk any
    values, columns = similarity.topk(k, dim=1)
    smallest = values[:, -1:]
    cut = (similarity == smallest).sum(1) > (values == smallest).sum(1)  # topk chose among equal values
    if cut.any():
        order = similarity[cut].sort(dim=1, descending=True, stable=True).indices[:, :k]
        columns[cut] = order
    columns = columns.sort(dim=1).values
    values, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _vote(
    labels: Ids, similarities: NDArray[np.float64], temperature: float | None
) -> tuple[Ids, NDArray[np.float64]]:
    """Id of the most votes of each row of (M, K) -> (M,), of equal ones the smallest; and its confidence (M,)."""
    predictions, confidences = np.empty(len(labels), np.int64), np.empty(len(labels))
    for part in _slices(len(labels), QUERIES_AT_ONCE):
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
    predictions: Ids,
    confidences: NDArray[np.float64],
    neighbours: Ids | None,
    similarities: NDArray[np.float64] | None,
    probabilities: Floats | None,
    train_ids: Ids,
    test_ids: Ids,
) -> ProbeResult:
    scores = accuracy(predictions, test_ids)
    return ProbeResult(
        predictions=predictions,
        confidences=confidences,
        neighbours=neighbours,
        similarities=similarities,
        classes=np.unique(train_ids[train_ids != IGNORE]),
        probabilities=probabilities,
        micro_accuracy=scores["micro_accuracy"],
        macro_accuracy=scores["macro_accuracy"],
        n_train=int((train_ids != IGNORE).sum()),
        n_test=scores["support"],
    )


def _checked(
    train_embeddings: ArrayLike, train_labels: ArrayLike, test_embeddings: ArrayLike, test_labels: ArrayLike
) -> tuple[Floats, Ids, Floats, Ids]:
    train, train_ids = _checked_set("train", train_embeddings, train_labels)
    test, test_ids = _checked_set("test", test_embeddings, test_labels)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train_embeddings have {train.shape[1]} dimensions and test_embeddings {test.shape[1]}: "
            f"both must come from the same encoder."
        )
    return train, train_ids, test, test_ids


def _checked_set(name: str, embeddings: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ids]:
    x, ids = np.asarray(embeddings), np.asarray(labels)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name}_embeddings must be a matrix (rows, dimensions) that is not empty, got {x.shape}.")
    if ids.shape != x.shape[:1]:
        raise ValueError(
            f"{name}_labels has the shape {ids.shape}, but {name}_embeddings has {len(x)} rows: each needs one id."
        )
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"{name}_labels must be class ids (whole numbers, -1 for none), got {ids.dtype}. "
            f"Turn names into ids with LabelMaps.encode."
        )
    x = x.astype(np.float32, copy=False)
    broken = [part.start + row for part in _slices(len(x), 65_536) for row in _not_finite(x[part])]
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise ValueError(
            f"{name}_embeddings has NaN or infinite values in the rows {', '.join(map(str, broken[:5]))}{more}: "
            f"leave these rows out, or find out why the encoder gave them."
        )
    return x, ids.astype(np.int64)


def _not_finite(x: Floats) -> list[int]:
    return np.flatnonzero(~np.isfinite(x).all(axis=1)).tolist()


def _slices(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
