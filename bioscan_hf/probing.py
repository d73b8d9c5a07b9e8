"""Probes of frozen embeddings: nearest neighbours and a linear classifier. Arrays in, predictions and accuracy out.

Protocols: BarcodeBERT (https://arxiv.org/abs/2311.02401), whose 1-NN cosine probe at genus rank is Task I of
BIOSCAN-5M on unseen species (https://arxiv.org/abs/2406.12723), and its linear probe.
Shape letters: N = train rows (keys), M = test rows (queries), D = embedding size, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .metrics import IGNORE, accuracy

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
        neighbours: Rows of the train set (M, K), nearest first; None for a linear probe.
        micro_accuracy: Share of the labelled test rows that are right, in [0, 1]; None if no row has a label.
        macro_accuracy: The same, as the mean over the classes of the test set.
        n_train: Train rows that have a label.
        n_test: Test rows that have a label.
    """

    predictions: Ids
    neighbours: Ids | None
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
        chunk_size: Keys that are compared at once, to within a multiple of 64. No more than `chunk_size` x 1,024
            similarities exist at a time.
        device: Where the products are taken.

    Raises:
        ValueError: for an unknown metric, shapes that do not fit, NaN or infinite embeddings (the rows are named), and
            fewer labelled train rows than `k`.
    """
    if metric not in METRICS:
        raise ValueError(f"Unknown metric {metric!r}. The kNN probe has {' and '.join(map(repr, METRICS))}.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is the number of keys compared at once, 1 or more; got {chunk_size}.")
    train, train_ids, test, test_ids = _checked(train_embeddings, train_labels, test_embeddings, test_labels)
    keep = np.flatnonzero(train_ids != IGNORE)
    if not 1 <= k <= len(keep):
        raise ValueError(
            f"k={k} neighbours of {len(keep)} train rows with a label: k must lie between 1 and their number."
        )
    nearest = _nearest(train, keep, test, k, metric, chunk_size, torch.device(device))
    neighbours = keep[nearest]
    predictions = _majority(train_ids[neighbours])
    return _result(predictions, neighbours, train_ids, test_ids)


def linear_probe(
    train_embeddings: ArrayLike,
    train_labels: ArrayLike,
    test_embeddings: ArrayLike,
    test_labels: ArrayLike,
    *,
    protocol: str = "default",
    epochs: int = 200,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> ProbeResult:
    """Prediction of a linear classifier that is trained on frozen embeddings.

    Labels are treated as in `knn_probe`.

    Args:
        train_embeddings: (N, D), finite.
        train_labels: Class ids (N,), of two classes or more.
        test_embeddings: (M, D), finite.
        test_labels: Class ids (M,).
        protocol: "default" is scikit-learn's logistic regression (L2, C = 1) on features that are standardised one by
            one. "upstream" is the published probe of BarcodeBERT's baselines: one mean and one deviation for the whole
            matrix, a linear layer, and SGD (learning rate 1, momentum 0.95, weight decay 1e-9, batches of 1,024).
        epochs: Of "upstream".
        seed: Of "upstream": first weights and order of the rows.
        device: Where "upstream" trains.

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
        codes = _fit_logistic(x, y, test)
    else:
        codes = _fit_sgd(x, y, test, epochs, seed, torch.device(device))
    return _result(classes[codes], None, train_ids, test_ids)


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
    k: int = 1,
    metric: str = "cosine",
) -> dict[str, dict[str, float | int | None]]:
    """Task I of BIOSCAN-5M without training: species of test, and genus, family and order of test_unseen, from train.

    Args:
        embeddings: Split (train, test, test_unseen) -> (n, D).
        labels: Split -> rank -> class ids (n,), -1 where missing.
        k: Neighbours that vote.
        metric: "cosine" or "euclidean".

    Returns:
        "species of test" and so on -> micro_accuracy, macro_accuracy, chance (the accuracy of the label of a random
        key of train), n_train and n_test (labelled rows). Accuracies are None where no row has a label.
    """
    metrics: dict[str, dict[str, float | int | None]] = {}
    for split, rank in BARCODE_QUESTIONS:
        train_ids, test_ids = np.asarray(labels["train"][rank]), np.asarray(labels[split][rank])
        result = knn_probe(embeddings["train"], train_ids, embeddings[split], test_ids, k=k, metric=metric)
        keys, queries = train_ids[train_ids != IGNORE], test_ids[test_ids != IGNORE]
        frequency = np.bincount(keys, minlength=max(queries, default=0) + 1) / len(keys)
        metrics[f"{rank} of {split}"] = {
            "micro_accuracy": result.micro_accuracy,
            "macro_accuracy": result.macro_accuracy,
            "chance": float(frequency[queries].mean()) if len(queries) else None,
            "n_train": result.n_train,
            "n_test": result.n_test,
        }
    return metrics


def _fit_logistic(x: Floats, y: Ids, test: Floats) -> Ids:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y).predict(test)


def _fit_sgd(x: Floats, y: Ids, test: Floats, epochs: int, seed: int, device: torch.device) -> Ids:
    mean, deviation = x.mean(dtype=np.float64), x.std(dtype=np.float64)
    if deviation == 0:
        raise ValueError("All train embeddings are one constant: nothing can be learned from them.")
    scaled, scaled_test = (torch.from_numpy(((a - mean) / deviation).astype(np.float32)).to(device) for a in (x, test))
    targets = torch.from_numpy(y).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1).to(device)
        orders = [torch.randperm(len(y)) for _ in range(epochs)]
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.95, weight_decay=1e-9)
    for order in orders:
        for rows in order.to(device).split(1024):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(scaled[rows]), targets[rows]).backward()
            optimizer.step()
    with torch.inference_mode():
        return torch.cat([layer(part).argmax(1) for part in scaled_test.split(8192)]).cpu().numpy()


def _nearest(
    train: Floats, keep: Ids, test: Floats, k: int, metric: str, chunk_size: int, device: torch.device
) -> Ids:
    """Places in `keep` (M, K) of the nearest keys. Keys pass once, chunk by chunk; the best so far are kept."""
    best = torch.full((len(test), k), -torch.inf, device=device)
    if metric == "euclidean":
        best = best.double()
    places = torch.zeros((len(test), k), dtype=torch.int64, device=device)
    queries = _prepared(test, metric, device)  # (M, D)
    # Every chunk has one shape, a multiple of what a matrix product takes at once, and the rest of the last is masked:
    # then equal keys get equal similarities wherever they stand, and ties are ties.
    chunks = -(-len(keep) // chunk_size)
    size = -(-max(k, -(-len(keep) // chunks)) // 64) * 64
    keys = torch.zeros((size, train.shape[1]), dtype=queries.dtype, device=device)
    for start in range(0, len(keep), size):
        rows = keep[start : start + size]
        keys[: len(rows)] = _prepared(train[rows], metric, device)
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
    return places.cpu().numpy()


def _prepared(embeddings: Floats, metric: str, device: torch.device) -> Tensor:
    """Unit vectors (zeros stay zeros) for the cosine, float64 for the Euclidean distance."""
    x = torch.from_numpy(np.ascontiguousarray(embeddings)).to(device)
    if metric == "euclidean":
        return x.double()
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)


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


def _majority(labels: Ids) -> Ids:
    """Most frequent id of each row of (M, K) -> (M,); of equally frequent ones the smallest."""
    if labels.shape[1] == 1:
        return labels[:, 0]
    parts = []
    for part in _slices(len(labels), QUERIES_AT_ONCE):
        rows = labels[part]
        votes = (rows[:, :, None] == rows[:, None, :]).sum(2)  # (rows, K)
        winner = votes == votes.max(1, keepdims=True)
        parts.append(np.where(winner, rows, np.iinfo(np.int64).max).min(1))
    return np.concatenate(parts)


def _result(predictions: Ids, neighbours: Ids | None, train_ids: Ids, test_ids: Ids) -> ProbeResult:
    scores = accuracy(predictions, test_ids)
    return ProbeResult(
        predictions=predictions,
        neighbours=neighbours,
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
