"""Metrics as `evaluate.Metric` classes, which return the numbers of `bioscan_hf.metrics` as flat dictionaries.

A value is None if no specimen counts. A missing label is -1 and is left out; `compute(ignore=...)` changes that id.
The folder metrics/ has the same for `evaluate.load`, by path or from a Space of the Hub.
Shape letters: N = specimens, R = ranks, K = ranked guesses of one specimen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .. import metrics
from ..metrics import IGNORE, Scores
from ..schema import RANKS

_ID = datasets.Value("int64")
_RANKS = datasets.Sequence(_ID)
_ONE_RANK = {"predictions": _ID, "references": _ID}


class _Metric(evaluate.Metric):
    """A metric described by its docstring. `FEATURES` are the forms of its inputs."""

    FEATURES: Sequence[Mapping[str, Any]] = (_ONE_RANK,)

    def _info(self) -> evaluate.MetricInfo:
        forms = [datasets.Features(dict(form)) for form in self.FEATURES]
        text = (type(self).__doc__ or "").partition("Example:")[0]
        return evaluate.MetricInfo(
            description=text.partition("\n")[0],
            citation="https://arxiv.org/abs/2406.12723",
            inputs_description=text,
            features=forms[0] if len(forms) == 1 else forms,
        )


class TaxonAccuracy(_Metric):
    """Micro and macro accuracy of one rank.

    `predictions` and `references` are class ids (N,).

    Example:
        >>> TaxonAccuracy().compute(predictions=[0, 1], references=[0, 0])["micro_accuracy"]
        0.5
    """

    def _compute(self, predictions: Sequence[int], references: Sequence[int], ignore: int = IGNORE) -> Scores:
        return metrics.accuracy(predictions, references, ignore)


class TopkAccuracy(_Metric):
    """Micro and macro top-k accuracy of one rank or several.

    For one rank, `predictions` are class ids (N, K), best guess first, and `references` class ids (N,). For several
    ranks they are (N, R, K) and (N, R). `compute` takes `top_k` (default: 1, 3 and 5, up to K) and `ranks`, the names
    of the R ranks.

    Example:
        >>> scores = TopkAccuracy().compute(predictions=[[3, 1], [2, 4], [1, 2]], references=[1, 2, -1], top_k=[1, 2])
        >>> scores["micro_top_1"], scores["micro_top_2"], scores["support"]
        (0.5, 1.0, 2)
        >>> guesses, true = [[[0, 1], [7, 8]], [[1, 0], [8, 9]]], [[0, 8], [1, -1]]
        >>> scores = TopkAccuracy().compute(predictions=guesses, references=true, ranks=["genus", "species"])
        >>> scores["genus_micro_top_1"], scores["species_macro_top_1"], scores["species_support"]
        (1.0, 0.0, 1)
    """

    FEATURES = (
        {"predictions": datasets.Sequence(_ID), "references": _ID},
        {"predictions": datasets.Sequence(_RANKS), "references": _RANKS},
    )

    def _compute(
        self,
        predictions: Sequence[Any],
        references: Sequence[Any],
        top_k: Sequence[int] | None = None,
        ranks: Sequence[str] | None = None,
        ignore: int = IGNORE,
    ) -> Scores:
        true = _array(references, "references differ in their number of ranks")
        guesses = _array(predictions, "specimens have different numbers of guesses")
        if true.ndim == 1:
            if ranks is not None:
                raise ValueError(f"ranks are given ({list(ranks)}), but each specimen has one label. Leave ranks out.")
            return _top_k(guesses, true, top_k, ignore, "")
        if guesses.shape[1] != true.shape[1]:
            raise ValueError(f"There are guesses of {guesses.shape[1]} ranks, but labels of {true.shape[1]}.")
        scores: Scores = {}
        for place, rank in enumerate(_rank_names(ranks, true.shape[1])):
            scores |= _top_k(guesses[:, place], true[:, place], top_k, ignore, f"{rank}_")
        return scores


class HarmonicMean(_Metric):
    """Accuracy on seen species, on unseen species, and their harmonic mean, micro and macro.

    `predictions` and `references` are class ids (N,). `seen` (N,) says whether the species was named in training.

    Example:
        >>> scores = HarmonicMean().compute(
        ...     predictions=[1, 2, 5, 6], references=[1, 2, 5, 9], seen=[True, True, False, False]
        ... )
        >>> scores["seen_micro_accuracy"], scores["unseen_micro_accuracy"], round(scores["micro_harmonic_mean"], 4)
        (1.0, 0.5, 0.6667)
    """

    FEATURES = ({**_ONE_RANK, "seen": datasets.Value("bool")},)

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], seen: Sequence[bool], ignore: int = IGNORE
    ) -> Scores:
        predicted, true, named = np.asarray(predictions), np.asarray(references), np.asarray(seen, bool)
        scores: Scores = {}
        for part, rows in (("seen", named), ("unseen", ~named)):
            found = metrics.accuracy(predicted[rows], true[rows], ignore)
            scores |= {f"{part}_{name}": value for name, value in found.items()}
        for kind in ("micro", "macro"):
            both = (scores[f"{part}_{kind}_accuracy"] for part in ("seen", "unseen"))
            scores[f"{kind}_harmonic_mean"] = metrics.harmonic_mean(*both)
        return scores


class AdjustedMutualInformation(_Metric):
    """Adjusted mutual information of clusters and taxa.

    `ami` counts specimens without a label as one taxon (the published protocol); `ami_labelled` leaves them out.
    `predictions` are cluster ids (N,), `references` class ids (N,).

    Example:
        >>> scores = AdjustedMutualInformation().compute(predictions=[0, 0, 1, 1, 1], references=[5, 5, 7, 7, -1])
        >>> scores["ami_labelled"], scores["support"], scores["ami"] < 1
        (1.0, 4, True)
    """

    def _compute(self, predictions: Sequence[int], references: Sequence[int], ignore: int = IGNORE) -> Scores:
        return metrics.adjusted_mutual_information(predictions, references, ignore)


class HierarchicalAccuracy(_Metric):
    """Share of the ranks that are right, and share of the specimens by their deepest right rank.

    `predictions` and `references` are class ids (N, R), highest rank first. `compute` takes `ranks`, their names.

    Example:
        >>> scores = HierarchicalAccuracy().compute(
        ...     predictions=[[0, 3], [1, 4]], references=[[0, 2], [1, -1]], ranks=["genus", "species"]
        ... )
        >>> scores["ranks_right"], scores["deepest_none"], scores["deepest_genus"]
        (0.75, 0.0, 1.0)
    """

    FEATURES = ({"predictions": _RANKS, "references": _RANKS},)

    def _compute(
        self,
        predictions: Sequence[Sequence[int]],
        references: Sequence[Sequence[int]],
        ranks: Sequence[str] | None = None,
        ignore: int = IGNORE,
    ) -> Scores:
        problem = "specimens differ in their number of ranks"
        predicted, true = _array(predictions, problem), _array(references, problem)
        if predicted.shape != true.shape or true.ndim != 2:
            raise ValueError(
                f"predictions are {predicted.shape} and references {true.shape}: give at least one specimen, with an "
                f"id for each rank, (N, R)."
            )
        names = _rank_names(ranks, true.shape[1])
        guesses, labels = (dict(zip(names, ids.T, strict=True)) for ids in (predicted, true))
        found = metrics.hierarchical_accuracy(guesses, labels, ignore)
        deepest = {f"deepest_{name}": share for name, share in found["deepest"].items()}
        return {"ranks_right": found["ranks_right"], **deepest, "support": found["support"]}


def _top_k(guesses: np.ndarray, true: np.ndarray, top_k: Sequence[int] | None, ignore: int, prefix: str) -> Scores:
    """Scores of one rank, with `prefix` before their names."""
    width = guesses.shape[1]
    wanted = [k for k in (1, 3, 5) if k <= width] if top_k is None else list(top_k)
    if not wanted or not all(1 <= k <= width for k in wanted):
        raise ValueError(f"top_k is {wanted}, but there are {width} guesses of each specimen: give 1 to {width}.")
    scores: Scores = {}
    for k in wanted:
        found = metrics.top_k_accuracy(guesses[:, :k], true, ignore)
        scores |= {f"{prefix}{kind}_top_{k}": found[f"{kind}_accuracy"] for kind in ("micro", "macro")}
    return scores | {f"{prefix}{name}": found[name] for name in ("support", "classes")}


def _array(values: Sequence[Any], problem: str) -> np.ndarray:
    """Ids as an array. ValueError with `problem` if the lists have different lengths."""
    try:
        return np.asarray(values, np.int64)
    except ValueError:
        raise ValueError(f"The {problem}. Give each specimen the same number, -1 where there is none.") from None


def _rank_names(ranks: Sequence[str] | None, count: int) -> list[str]:
    """The given names, or by default those of the seven ranks if `count` is seven."""
    names = list(RANKS if ranks is None and count == len(RANKS) else ranks or ())
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"There are {count} ranks, and their names are {names}. Give ranks, a name for each.")
    return names
