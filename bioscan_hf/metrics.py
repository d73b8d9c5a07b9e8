"""Metrics of taxon identification: numpy in, fractions in [0, 1] out; None where no specimen counts.

`predictions` and `references` are class ids (N,); specimens whose reference is negative or `ignore` are left out.
`probabilities` (N,) are the confidences of the predictions, in [0, 1].
Shape letters: N = specimens, K = ranked predictions of a specimen, T = distinct confidences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Label of a specimen without a known taxon at this rank.
IGNORE = -1

#: Name -> number, None where no specimen counts.
Scores = dict[str, Any]


def accuracy(predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE) -> Scores:
    """Micro and macro accuracy of one taxonomic rank.

    Micro is the share of the specimens. Macro is the mean over the classes in `references` (balanced accuracy). A
    prediction that is negative or `ignore` is wrong.

    Returns:
        micro_accuracy, macro_accuracy; support and classes: numbers of specimens and classes that count.

    Example:
        >>> accuracy([0, 0, 2, 5], [0, 0, 1, -1])
        {'micro_accuracy': 0.6666666666666666, 'macro_accuracy': 0.5, 'support': 3, 'classes': 2}
    """
    predicted, true = _id_pair(predictions, references)
    return _accuracy_of_hits(predicted == true, true, ignore)


def top_k_accuracy(predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE) -> Scores:
    """Like `accuracy`, for predictions (N, K): a specimen is right if any of its K predictions is right."""
    predicted, true = _id_pair(predictions, references, dimensions=2)
    return _accuracy_of_hits((predicted == true[:, None]).any(axis=1), true, ignore)


def f1(predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE) -> Scores:
    """F1 as in scikit-learn: f1_micro, f1_macro, and f1_weighted by the numbers of references.

    The classes are those of the references and the predictions. A prediction that is negative or `ignore` is wrong but
    is not a class: it lowers recall only, and micro F1 equals the accuracy.
    """
    predicted, true = _id_pair(predictions, references)
    known = _known(true, ignore)
    predicted, true = predicted[known], true[known]
    if not len(true):
        return {"f1_micro": None, "f1_macro": None, "f1_weighted": None}
    classes, codes = np.unique(np.concatenate([true, predicted]), return_inverse=True)
    true_code, predicted_code = codes[: len(true)], codes[len(true) :]
    support = np.bincount(true_code, minlength=len(classes))
    guesses = np.bincount(predicted_code, minlength=len(classes))
    hits = np.bincount(true_code[predicted == true], minlength=len(classes))
    per_class = 2 * hits / (support + guesses)
    return {
        "f1_micro": float(hits.sum() / len(true)),
        "f1_macro": float(per_class[_known(classes, ignore)].mean()),
        "f1_weighted": float((per_class * support).sum() / len(true)),
    }


def harmonic_mean(seen: float | None, unseen: float | None) -> float | None:
    """Harmonic mean of the accuracies of seen and unseen species: 0 if either is 0, None if either is None."""
    if seen is None or unseen is None:
        return None
    if seen < 0 or unseen < 0:
        raise ValueError(f"Accuracies must be 0 or more to have a harmonic mean; got {seen} and {unseen}.")
    return 2 * seen * unseen / (seen + unseen) if seen and unseen else 0.0


def coverage(references: ArrayLike, classes: ArrayLike, ignore: int = IGNORE) -> float | None:
    """Share of the labelled specimens whose taxon is among `classes`, the ids that a classifier knows.

    This is an upper bound of the accuracy of the classifier.
    """
    true, known = _ids("references", references, 1), _ids("classes", classes, 1)
    labelled = true[_known(true, ignore)]
    return float(np.isin(labelled, known).mean()) if len(labelled) else None


def expected_calibration_error(
    probabilities: ArrayLike, predictions: ArrayLike, references: ArrayLike, bins: int = 15, ignore: int = IGNORE
) -> float | None:
    """Mean gap between confidence and accuracy, over equally wide bins; 0 if perfectly calibrated.

    Bin b of B holds the confidences in (b / B, (b + 1) / B]; the first bin also holds 0. Bins are weighted by their
    numbers of specimens. A specimen whose taxon is not a class of the model is wrong.
    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """
    confidence, hits = _answers(probabilities, predictions, references, ignore)
    return _calibration_gap(confidence, hits, np.clip(np.ceil(confidence * _bins(bins)), 1, bins).astype(np.int64))


def adaptive_calibration_error(
    probabilities: ArrayLike, predictions: ArrayLike, references: ArrayLike, bins: int = 15, ignore: int = IGNORE
) -> float | None:
    """Mean gap between confidence and accuracy, over equally filled bins.

    Unlike bins of equal width, these resolve confidences that are all near 1. Predictions of equal confidence share
    their hits, so the result does not depend on the order of the rows.
    Source: Nixon et al. 2019, https://arxiv.org/abs/1904.01685, for the predicted class only.
    """
    confidence, hits = _most_confident_first(*_answers(probabilities, predictions, references, ignore))
    return _calibration_gap(confidence, hits, np.arange(len(hits)) * _bins(bins) // max(len(hits), 1))


def brier_score(
    probabilities: ArrayLike, predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE
) -> float | None:
    """Mean squared difference between confidence and correctness (1 or 0).

    The score of Brier (1950, Monthly Weather Review 78) for the event "the prediction is right", not his sum over all
    classes, in [0, 2].
    """
    confidence, hits = _answers(probabilities, predictions, references, ignore)
    return float(np.square(confidence - hits).mean()) if len(hits) else None


def risk_coverage_curve(
    probabilities: ArrayLike, predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Share of specimens answered and share of wrong answers, by confidence.

    Source: El-Yaniv & Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html.

    Returns:
        Distinct confidences (T,), the greatest first; share of the labelled specimens with at least that confidence
        (T,), up to 1; and the share of these that are wrong (T,).
    """
    confidence, hits = _most_confident_first(*_answers(probabilities, predictions, references, ignore))
    last = np.flatnonzero(np.append(confidence[:-1] != confidence[1:], True)) if len(hits) else np.zeros(0, np.int64)
    return confidence[last], (last + 1) / max(len(hits), 1), 1 - np.cumsum(hits)[last] / (last + 1)


def selective_accuracy(
    probabilities: ArrayLike, predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE
) -> Scores:
    """Area under the risk-coverage curve, and accuracies of the 90 % and 95 % most confident predictions.

    The area is the mean, over n = 1 to N, of the error of the n most confident predictions (Geifman et al. 2019,
    https://arxiv.org/abs/1805.08206). Numbers of predictions are rounded up. Predictions of equal confidence share
    their hits, so the result does not depend on the order of the rows.

    Returns:
        aurc (smaller is better), accuracy_at_90, accuracy_at_95.
    """
    _, hits = _most_confident_first(*_answers(probabilities, predictions, references, ignore))
    if not len(hits):
        return {"aurc": None, "accuracy_at_90": None, "accuracy_at_95": None}
    accuracies = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    at_90, at_95 = (float(accuracies[-(-percent * len(hits) // 100) - 1]) for percent in (90, 95))
    return {"aurc": float(1 - accuracies.mean()), "accuracy_at_90": at_90, "accuracy_at_95": at_95}


def confidence_threshold(
    probabilities: ArrayLike, predictions: ArrayLike, references: ArrayLike, target: float = 0.95, ignore: int = IGNORE
) -> Scores:
    """Smallest confidence at or above which the accuracy is at least `target`, in (0, 1].

    The threshold is an observation on these specimens, not a guarantee. Choose it on a calibration set that the model
    was not trained on and that resembles the specimens to identify.

    Returns:
        threshold; accuracy, and answered: share of the labelled specimens, at or above it. All are None where no
        specimen counts. If the target is never reached, `answered` is 0 and the others are None.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target is {target}; give an accuracy above 0 and up to 1.")
    confidence, answered, risk = risk_coverage_curve(probabilities, predictions, references, ignore)
    enough = np.flatnonzero(1 - risk >= target - 1e-12)  # tolerates rounding, such as of 19 of 20
    if not len(enough):
        return {"threshold": None, "accuracy": None, "answered": 0.0 if len(confidence) else None}
    found = {"threshold": confidence, "accuracy": 1 - risk, "answered": answered}
    return {name: float(values[enough[-1]]) for name, values in found.items()}


def hierarchical_accuracy(
    predictions: Mapping[str, ArrayLike], references: Mapping[str, ArrayLike], ignore: int = IGNORE
) -> Scores:
    """Share of right ranks, and share of specimens by deepest right rank.

    Ranks without a label count neither as right nor as wrong. The deepest right rank of a specimen is the last before
    its first wrong one: the depth of the lowest common ancestor of its true and its predicted taxon (Bertinetto et al.
    2020, https://arxiv.org/abs/1912.09393).

    Both arguments are rank -> class ids (N,), the highest rank first.

    Returns:
        ranks_right: mean over the specimens of the share of their labelled ranks that are right. deepest: rank ->
        share of the specimens, "none" if the highest rank is wrong; the shares sum to 1. support: specimens with a
        label at any rank.
    """
    if not references or set(predictions) != set(references):
        raise ValueError(
            f"predictions and references must have the same ranks, at least one; got {list(predictions)} and "
            f"{list(references)}."
        )
    pairs = [_id_pair(predictions[rank], references[rank]) for rank in references]
    if len({len(true) for _, true in pairs}) > 1:
        raise ValueError(f"The ranks have {[len(true) for _, true in pairs]} specimens; each needs the same ones.")
    known = np.stack([_known(true, ignore) for _, true in pairs])  # (ranks, N)
    hits = np.stack([predicted == true for predicted, true in pairs])[:, known.any(axis=0)]
    known = known[:, known.any(axis=0)]
    if not hits.size:
        return {"ranks_right": None, "deepest": dict.fromkeys(("none", *references), 0.0), "support": 0}
    reached = np.cumprod(hits | ~known, axis=0, dtype=np.int64) * known
    depth = np.where(reached.any(axis=0), len(pairs) - np.argmax(reached[::-1], axis=0), 0)  # 0: none
    shares = np.bincount(depth, minlength=len(pairs) + 1) / hits.shape[1]
    return {
        "ranks_right": float(((hits & known).sum(axis=0) / known.sum(axis=0)).mean()),
        "deepest": dict(zip(("none", *references), shares.tolist(), strict=True)),
        "support": hits.shape[1],
    }


def adjusted_mutual_information(predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE) -> Scores:
    """Adjusted mutual information of clusters and taxa: 1 if equal, about 0 (also below) by chance.

    Source: Vinh et al. 2010, https://jmlr.org/papers/v11/vinh10a.html, as scikit-learn computes it (arithmetic mean of
    the entropies).

    Returns:
        ami: specimens without a label count as one more taxon, as in the published protocol of zero-shot clustering.
        ami_labelled: without these specimens. support: labelled specimens.

    Example:
        >>> adjusted_mutual_information([0, 0, 1, 1, 1], [5, 5, 7, 7, -1])["ami_labelled"]
        1.0
    """
    from sklearn.metrics import adjusted_mutual_info_score  # takes a second to import

    clusters, true = _id_pair(predictions, references)
    known = _known(true, ignore)
    if not known.any():
        return {"ami": None, "ami_labelled": None, "support": 0}
    return {
        "ami": float(adjusted_mutual_info_score(np.where(known, true, IGNORE), clusters)),
        "ami_labelled": float(adjusted_mutual_info_score(true[known], clusters[known])),
        "support": int(known.sum()),
    }


def _known(labels: NDArray[np.int64], ignore: int) -> NDArray[np.bool_]:
    """Which labels are classes; models and collators write a missing label as -1 or -100."""
    return (labels >= 0) & (labels != ignore)


def _bins(bins: int) -> int:
    if bins < 1:
        raise ValueError(f"bins is {bins}; give a positive number.")
    return bins


def _answers(
    probabilities: ArrayLike, predictions: ArrayLike, references: ArrayLike, ignore: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidence and correctness (1 or 0) of the labelled predictions, float64."""
    predicted, true = _id_pair(predictions, references)
    confidence = np.asarray(probabilities, dtype=np.float64)
    if confidence.shape != true.shape:
        raise ValueError(
            f"probabilities has the shape {confidence.shape}, and there are {len(true)} references: give that of each "
            f"predicted class."
        )
    # A softmax in float32 may be slightly above 1.
    wrong = np.flatnonzero(~((confidence >= 0) & (confidence <= 1 + 1e-5)))
    if len(wrong):
        raise ValueError(
            f"probabilities must lie in [0, 1]; row {wrong[0]} has {confidence[wrong[0]]} ({len(wrong)} such rows)."
        )
    known = _known(true, ignore)
    return np.minimum(confidence[known], 1), (predicted == true)[known].astype(np.float64)


def _most_confident_first(
    confidence: NDArray[np.float64], hits: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in descending order of confidence. Predictions of equal confidence get the mean of their hits."""
    values, codes = np.unique(-confidence, return_inverse=True)
    counts = np.bincount(codes, minlength=len(values))
    shared = np.bincount(codes, weights=hits, minlength=len(values)) / counts
    return np.repeat(-values, counts), np.repeat(shared, counts)


def _calibration_gap(
    confidence: NDArray[np.float64], hits: NDArray[np.float64], bins: NDArray[np.int64]
) -> float | None:
    """Mean gap per prediction: |hits - confidences| summed within bins."""
    return float(np.abs(np.bincount(bins, weights=hits - confidence)).sum() / len(hits)) if len(hits) else None


def _ids(name: str, values: ArrayLike, dimensions: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != dimensions:
        shape = "(N,)" if dimensions == 1 else "(N, K)"
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}.")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be class ids (whole numbers), got {array.dtype}. Turn names into ids with LabelMaps.encode."
        )
    return array.astype(np.int64)


def _id_pair(
    predictions: ArrayLike, references: ArrayLike, dimensions: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    predicted, true = _ids("predictions", predictions, dimensions), _ids("references", references, 1)
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} references: each specimen needs one of each.")
    return predicted, true


def _accuracy_of_hits(hits: NDArray[np.bool_], true: NDArray[np.int64], ignore: int) -> Scores:
    known = _known(true, ignore)
    if not known.any():
        return {"micro_accuracy": None, "macro_accuracy": None, "support": 0, "classes": 0}
    classes, codes = np.unique(true[known], return_inverse=True)
    per_class = np.bincount(codes, weights=hits[known]) / np.bincount(codes)
    return {
        "micro_accuracy": float(hits[known].mean()),
        "macro_accuracy": float(per_class.mean()),
        "support": int(known.sum()),
        "classes": len(classes),
    }
