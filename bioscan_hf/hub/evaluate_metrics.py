"""The metrics as classes of `evaluate`: compute, add, add_batch, several processes, and `evaluate.combine`.

The numbers are those of `metrics`. The folder metrics/ holds the same for `evaluate.load`, by path or from a Space.
A missing label is -1 and left out, unless `ignore` is given to `compute`. Results are flat: a name for each number,
None where no specimen counts.
Shape letters: N = specimens, R = ranks, K = ranked guesses of one specimen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from ..metrics import (
    IGNORE,
    accuracy,
    adjusted_mutual_information,
    harmonic_mean,
    hierarchical_accuracy,
    top_k_accuracy,
)
from ..schema import RANKS

Scores = dict[str, Any]

_ID = datasets.Value("int64")
_ONE_RANK = {"predictions": _ID, "references": _ID}
_CITATION = "https://arxiv.org/abs/2406.12723"


def _info(description: str, inputs: str, *features: Mapping[str, Any]) -> evaluate.MetricInfo:
    formats = [datasets.Features(dict(one)) for one in features]
    return evaluate.MetricInfo(
        description=description,
        citation=_CITATION,
        inputs_description=inputs,
        features=formats[0] if len(formats) == 1 else formats,
    )


class TaxonAccuracy(evaluate.Metric):
    """Micro and macro accuracy of one rank; `predictions` and `references` are class ids (N,).

    Example:
        >>> TaxonAccuracy().compute(predictions=[0, 1], references=[0, 0])["micro_accuracy"]
        0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Micro and macro accuracy of one taxonomic rank.",
            "predictions and references: class ids; reference -1 is left out.",
            _ONE_RANK,
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], ignore: int = IGNORE) -> Scores:
        return dict(accuracy(predictions, references, ignore))


class TopkAccuracy(evaluate.Metric):
    """Micro and macro top-k accuracy, of one rank or of several.

    For one rank, `predictions` are class ids (N, K), the best guess first, and `references` class ids (N,). For
    several, (N, R, K) and (N, R). `compute` takes `top_k`, by default 1, 3 and 5 as far as there are guesses, and
    `ranks`, the names of the R ranks.

    Example:
        >>> scores = TopkAccuracy().compute(predictions=[[3, 1], [2, 4], [1, 2]], references=[1, 2, -1], top_k=[1, 2])
        >>> scores["micro_top_1"], scores["micro_top_2"], scores["support"]
        (0.5, 1.0, 2)
        >>> guesses, true = [[[0, 1], [7, 8]], [[1, 0], [8, 9]]], [[0, 8], [1, -1]]
        >>> scores = TopkAccuracy().compute(predictions=guesses, references=true, ranks=["genus", "species"])
        >>> scores["genus_micro_top_1"], scores["species_macro_top_1"], scores["species_support"]
        (1.0, 0.0, 1)
    """

    def _info(self) -> evaluate.MetricInfo:
        one = {"predictions": datasets.Sequence(_ID), "references": _ID}
        several = {"predictions": datasets.Sequence(datasets.Sequence(_ID)), "references": datasets.Sequence(_ID)}
        return _info(
            "Share of the specimens whose taxon is among the first k guesses, per specimen (micro) and per taxon "
            "(macro), at one taxonomic rank or several.",
            "predictions: class ids (N, K) or (N, R, K), the best guess first; references: (N,) or (N, R); "
            "reference -1 is left out.",
            one,
            several,
        )

    def _compute(
        self,
        predictions: Sequence[Any],
        references: Sequence[Any],
        top_k: Sequence[int] | None = None,
        ranks: Sequence[str] | None = None,
        ignore: int = IGNORE,
    ) -> Scores:
        true, guesses = _table("references", references), _guesses(predictions)
        if true.ndim == 1:
            if ranks is not None:
                raise ValueError(f"ranks are given ({list(ranks)}), but each specimen has one label. Leave ranks out.")
            return _top_k(guesses, true, top_k, ignore, "")
        if guesses.shape[1] != true.shape[1]:
            raise ValueError(f"There are guesses of {guesses.shape[1]} ranks, but labels of {true.shape[1]}.")
        scores: Scores = {}
        for place, rank in enumerate(_names_of_ranks(ranks, true.shape[1])):
            scores |= _top_k(guesses[:, place], true[:, place], top_k, ignore, f"{rank}_")
        return scores


class HarmonicMean(evaluate.Metric):
    """Accuracy on seen species, on unseen ones, and their harmonic mean, micro and macro.

    `predictions` and `references` are class ids (N,), and `seen` says of each specimen whether its species is one that
    training has named.

    Example:
        >>> scores = HarmonicMean().compute(
        ...     predictions=[1, 2, 5, 6], references=[1, 2, 5, 9], seen=[True, True, False, False]
        ... )
        >>> scores["seen_micro_accuracy"], scores["unseen_micro_accuracy"], round(scores["micro_harmonic_mean"], 4)
        (1.0, 0.5, 0.6667)
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Accuracy on seen and on unseen species and their harmonic mean, per specimen (micro) and per taxon "
            "(macro).",
            "predictions and references: class ids; seen: whether the specimen is of a seen species; "
            "reference -1 is left out.",
            {**_ONE_RANK, "seen": datasets.Value("bool")},
        )

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], seen: Sequence[bool], ignore: int = IGNORE
    ) -> Scores:
        predicted, true, named = _ids(predictions), _ids(references), np.asarray(seen, bool)
        parts = {
            "seen": accuracy(predicted[named], true[named], ignore),
            "unseen": accuracy(predicted[~named], true[~named], ignore),
        }
        scores: Scores = {f"{part}_{name}": value for part, found in parts.items() for name, value in found.items()}
        for kind in ("micro", "macro"):
            both = (scores[f"{part}_{kind}_accuracy"] for part in parts)
            scores[f"{kind}_harmonic_mean"] = harmonic_mean(*both)
        return scores


class AdjustedMutualInformation(evaluate.Metric):
    """Agreement of clusters with taxa: `ami` counts specimens without a label as one taxon, `ami_labelled` not at all.

    `predictions` are ids of clusters (N,), `references` class ids (N,).

    Example:
        >>> scores = AdjustedMutualInformation().compute(predictions=[0, 0, 1, 1, 1], references=[5, 5, 7, 7, -1])
        >>> scores["ami_labelled"], scores["support"], scores["ami"] < 1
        (1.0, 4, True)
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Adjusted mutual information of clusters and taxa, with the unlabelled specimens as one taxon (the "
            "published protocol) and without them.",
            "predictions: ids of clusters; references: class ids, -1 for no label.",
            _ONE_RANK,
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], ignore: int = IGNORE) -> Scores:
        return dict(adjusted_mutual_information(_ids(predictions), _ids(references), ignore))


class HierarchicalAccuracy(evaluate.Metric):
    """How far down the tree the answers are right: the share of the ranks, and of the specimens by their deepest.

    `predictions` and `references` are class ids (N, R), the highest rank first. `compute` takes `ranks`, their names.

    Example:
        >>> scores = HierarchicalAccuracy().compute(
        ...     predictions=[[0, 3], [1, 4]], references=[[0, 2], [1, -1]], ranks=["genus", "species"]
        ... )
        >>> scores["ranks_right"], scores["deepest_none"], scores["deepest_genus"]
        (0.75, 0.0, 1.0)
    """

    def _info(self) -> evaluate.MetricInfo:
        ranks = datasets.Sequence(_ID)
        return _info(
            "Share of the ranks that are right, and share of the specimens by their deepest right rank.",
            "predictions and references: class ids (N, R), the highest rank first; reference -1 is passed over.",
            {"predictions": ranks, "references": ranks},
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[int]],
        references: Sequence[Sequence[int]],
        ranks: Sequence[str] | None = None,
        ignore: int = IGNORE,
    ) -> Scores:
        predicted, true = _table("predictions", predictions), _table("references", references)
        if predicted.shape != true.shape or true.ndim != 2:
            raise ValueError(
                f"predictions are {predicted.shape} and references {true.shape}: give of each specimen, one at least, "
                f"an id for each rank, (N, R)."
            )
        names = _names_of_ranks(ranks, true.shape[1])
        found = hierarchical_accuracy(
            dict(zip(names, predicted.T, strict=True)), dict(zip(names, true.T, strict=True)), ignore
        )
        deepest = {f"deepest_{name}": share for name, share in found["deepest"].items()}
        return {"ranks_right": found["ranks_right"], **deepest, "support": found["support"]}


def _top_k(
    guesses: np.ndarray, true: np.ndarray, top_k: Sequence[int] | None, ignore: int, prefix: str
) -> dict[str, Any]:
    """Scores of one rank, their names with `prefix` in front."""
    width = guesses.shape[1]
    wanted = [k for k in (1, 3, 5) if k <= width] if top_k is None else list(top_k)
    if not wanted or not all(1 <= k <= width for k in wanted):
        raise ValueError(f"top_k is {wanted}, but there are {width} guesses of each specimen: give 1 to {width}.")
    scores: Scores = {}
    for k in wanted:
        found = top_k_accuracy(guesses[:, :k], true, ignore)
        scores[f"{prefix}micro_top_{k}"], scores[f"{prefix}macro_top_{k}"] = (
            found["micro_accuracy"],
            found["macro_accuracy"],
        )
    return scores | {f"{prefix}support": found["support"], f"{prefix}classes": found["classes"]}


def _ids(values: Sequence[int]) -> np.ndarray:
    """Ids of one rank, (N,); none at all are ids too."""
    return np.asarray(values, np.int64)


def _guesses(values: Sequence[Any]) -> np.ndarray:
    """Guesses (N, K) or (N, R, K).

    Raises:
        ValueError: if specimens have different numbers of them.
    """
    try:
        return np.asarray(values, np.int64)
    except ValueError:
        raise ValueError(
            "The specimens have different numbers of guesses. Give each the same number, -1 where there is none."
        ) from None


def _table(name: str, values: Sequence[Any]) -> np.ndarray:
    """Ids (N,) or (N, R).

    Raises:
        ValueError: if specimens have different numbers of ranks.
    """
    try:
        return np.asarray(values, np.int64)
    except ValueError:
        raise ValueError(
            f"The {name} differ in their number of ranks. Give each specimen all, -1 if unknown."
        ) from None


def _names_of_ranks(ranks: Sequence[str] | None, count: int) -> list[str]:
    """Names of the ranks: the seven of the taxonomy where none are given and there are as many."""
    names = list(RANKS if ranks is None and count == len(RANKS) else ranks or ())
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"There are {count} ranks, and their names are {names}. Give ranks, a name for each.")
    return names
