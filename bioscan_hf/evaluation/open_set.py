"""Open-set scores: how well a confidence tells taxa of the references from others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: Share of known specimens that the threshold of `fpr_at_95` accepts.
ACCEPTED = 0.95


def open_set_scores(confidences: ArrayLike, known: ArrayLike) -> dict[str, Any]:
    """AUROC and false positive rate of known against novel specimens, by confidence.

    Source: Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136

    Args:
        confidences: Of all specimens (N,).
        known: Whether the taxon of each specimen is among the references, bool (N,).

    Returns:
        auroc: probability that a known specimen has a higher confidence than a novel one, ties by halves. fpr_at_95:
        share of the novel specimens at or above the highest threshold that at least 95 % of the known ones reach.
        n_known, n_novel: numbers of specimens. Scores are None without specimens of both kinds.

    Raises:
        ValueError: for arrays that do not match, or confidences that are NaN.
    """
    scores, inside = np.asarray(confidences, np.float64), np.asarray(known, np.bool_)
    if scores.ndim != 1 or scores.shape != inside.shape:
        raise ValueError(f"There are {scores.shape} confidences and {inside.shape} marks; give one for each specimen.")
    if np.isnan(scores).any():
        raise ValueError(f"The confidence of row {int(np.flatnonzero(np.isnan(scores))[0])} is NaN.")
    ours, others = np.sort(scores[inside]), np.sort(scores[~inside])
    numbers = {"n_known": len(ours), "n_novel": len(others)}
    if not len(ours) or not len(others):
        return {"auroc": None, "fpr_at_95": None, **numbers}
    below, reached = (np.searchsorted(others, ours, side) for side in ("left", "right"))
    auroc = (below + reached).sum() / 2 / (len(ours) * len(others))
    threshold = ours[len(ours) - int(np.ceil(ACCEPTED * len(ours) - 1e-9))]
    accepted = len(others) - np.searchsorted(others, threshold, "left")
    return {"auroc": float(auroc), "fpr_at_95": float(accepted / len(others)), **numbers}
