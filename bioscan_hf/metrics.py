"""Metrics of taxon identification: numpy in, plain numbers out. No torch, no model, no file.

Protocols: BIOSCAN-5M (https://arxiv.org/abs/2406.12723), BarcodeBERT (https://arxiv.org/abs/2311.02401) and
CLIBD (https://arxiv.org/abs/2405.17537). Every metric is a fraction in [0, 1].
Shape letters: N = specimens, K = ranked guesses of one specimen.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The label of a specimen with no known taxon at this rank.
IGNORE = -1


class Accuracy(TypedDict):
    """Micro and macro accuracy in [0, 1], None where no specimen counts; and over how many specimens and classes."""

    micro_accuracy: float | None
    macro_accuracy: float | None
    support: int
    classes: int


class F1(TypedDict):
    """F1 in [0, 1], averaged in three ways; None where no specimen counts."""

    f1_micro: float | None
    f1_macro: float | None
    f1_weighted: float | None


def accuracy(predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE) -> Accuracy:
    """Micro and macro accuracy of one taxonomic rank.

    Micro counts specimens. Macro is the mean of the accuracies of the classes that occur in `references` (the
    balanced accuracy), so that a rare species weighs as much as a common one. A specimen whose reference is `ignore`
    is left out of both; a prediction `ignore` is wrong.

    Args:
        predictions: Class ids (N,).
        references: Class ids (N,).

    Example:
        >>> accuracy([0, 0, 2, 5], [0, 0, 1, -1])
        {'micro_accuracy': 0.6666666666666666, 'macro_accuracy': 0.5, 'support': 3, 'classes': 2}
    """
    predicted, true = _ids("predictions", predictions, 1), _ids("references", references, 1)
    _check_rows(predicted, true)
    return _accuracy_of_hits(predicted == true, true, ignore)


def top_k_accuracy(predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE) -> Accuracy:
    """Like `accuracy`, where a specimen is right if any of its K predictions is.

    Args:
        predictions: Class ids (N, K); their order within a row does not matter.
        references: Class ids (N,).
    """
    predicted, true = _ids("predictions", predictions, 2), _ids("references", references, 1)
    _check_rows(predicted, true)
    return _accuracy_of_hits((predicted == true[:, None]).any(axis=1), true, ignore)


def f1(predictions: ArrayLike, references: ArrayLike, ignore: int = IGNORE) -> F1:
    """F1 as scikit-learn averages it: micro, macro and weighted by the number of references.

    The classes are those that occur in the references or in the predictions. A specimen whose reference is `ignore` is
    left out. A prediction `ignore` is wrong, but is no class: it lowers recall alone, and micro F1 stays the accuracy.

    Args:
        predictions: Class ids (N,).
        references: Class ids (N,).
    """
    predicted, true = _ids("predictions", predictions, 1), _ids("references", references, 1)
    _check_rows(predicted, true)
    predicted, true = predicted[true != ignore], true[true != ignore]
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
        "f1_macro": float(per_class[classes != ignore].mean()),
        "f1_weighted": float((per_class * support).sum() / len(true)),
    }


def harmonic_mean(seen: float | None, unseen: float | None) -> float | None:
    """Harmonic mean of the accuracy on seen and on unseen species; 0 if either is 0, None if either is None.

    Raises:
        ValueError: if an accuracy is negative.
    """
    if seen is None or unseen is None:
        return None
    if seen < 0 or unseen < 0:
        raise ValueError(f"The harmonic mean is of accuracies, 0 or more; got {seen} and {unseen}.")
    return 2 * seen * unseen / (seen + unseen) if seen and unseen else 0.0


def taxon_accuracy(**options: Any) -> Any:
    """An `evaluate.Metric` around `accuracy`: compute, add, add_batch, and `evaluate.combine`.

    It is made here rather than fetched by name, so it needs no network.

    Args:
        options: For `evaluate.Metric`, such as `num_process`, `process_id` and `experiment_id`.

    Example:
        >>> taxon_accuracy().compute(predictions=[0, 1], references=[0, 0])["micro_accuracy"]
        0.5
    """
    import datasets
    import evaluate  # takes seconds to import, and the functions above do without it

    class TaxonAccuracy(evaluate.Metric):
        def _info(self) -> Any:
            return evaluate.MetricInfo(
                description="Micro and macro accuracy of one taxonomic rank.",
                citation="https://arxiv.org/abs/2406.12723",
                inputs_description="predictions and references: class ids; reference -1 is left out.",
                features=datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")}),
            )

        def _compute(self, predictions: list[int], references: list[int], ignore: int = IGNORE) -> Accuracy:
            return accuracy(predictions, references, ignore)

    return TaxonAccuracy(**options)


def _ids(name: str, values: ArrayLike, dimensions: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension(s), got the shape {array.shape}.")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be class ids (whole numbers), got {array.dtype}. Turn names into ids with LabelMaps.encode."
        )
    return array.astype(np.int64)


def _check_rows(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> None:
    if len(predicted) != len(true):
        raise ValueError(
            f"{len(predicted)} predictions for {len(true)} references: there must be one row for each specimen."
        )


def _accuracy_of_hits(hits: NDArray[np.bool_], true: NDArray[np.int64], ignore: int) -> Accuracy:
    known = true != ignore
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
