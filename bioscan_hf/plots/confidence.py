"""Figures that show how far confidences can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ..metrics import risk_coverage_curve
from .style import QUIET, colour, line_style, new_figure, plain, shortened

#: Name -> confidence of each answer in [0, 1], and whether it is right.
Answers = Mapping[str, tuple[ArrayLike, ArrayLike]]

_LONGEST = 230.0


def reliability_curve(answers: Answers, bins: int = 10) -> Figure:
    """Share of right answers by confidence, with 95 % intervals, and the numbers of answers below.

    Each point has about the same number of answers, so that confidences near 1 are resolved; answers of equal
    confidence stay together. On the diagonal a confidence is perfectly calibrated. Intervals are Wilson's.

    Raises:
        ValueError: if a name has no answers.
    """
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 100], [0, 100], color=QUIET, linestyle="--", linewidth=1, label="perfectly calibrated")
    for i, (name, given) in enumerate(answers.items()):
        confidence, right = _checked(name, *given)
        points = np.array([_point(confidence[rows], right[rows]) for rows in _equal_bins(confidence, bins)])
        mean, share, low, high = 100 * points.T
        bars = [share - low, high - share]
        style = line_style(i) | {"markersize": 4.5, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar(mean, share, yerr=bars, label=_label(name), **style)
        edges = list(np.linspace(0, 100, 21))
        below.hist(100 * confidence, bins=edges, histtype="step", color=colour(i), linewidth=1.3)
    axes.set(ylabel="right (%)", xlim=(-2, 102), ylim=(-2, 104))
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    below.set(xlabel="confidence (%)", ylabel="answers")
    for each in (axes, below):
        plain(each, grid="both")
    figure.align_ylabels()
    return figure


def coverage_curve(answers: Answers, error: float = 0.01) -> Figure:
    """Share of answers that are given, by the share of those that are wrong.

    The marked point of each line is its largest coverage with at most `error` (a fraction) wrong.

    Raises:
        ValueError: if a name has no answers.
    """
    figure, axes = new_figure(6.2, 3.9 + 0.2 * len(answers))
    highest = 100 * error
    for i, (name, given) in enumerate(answers.items()):
        confidence, right = _checked(name, *given)
        _, covered, wrong = risk_coverage_curve(confidence, right.astype(int), np.ones(len(right), int))
        best = coverage_at(covered, wrong, error)
        style = line_style(i) | {"marker": None}
        axes.plot(100 * covered, 100 * wrong, label=f"{_label(name)}: {100 * best:.1f} % answered", **style)
        axes.plot(100 * best, 100 * error, marker="o", color=colour(i), markersize=7, markeredgecolor="white")
        highest = max(highest, 100 * float(wrong[covered >= 0.02].max(initial=0.0)))
    axes.axhline(100 * error, color=QUIET, linestyle="--", linewidth=1)
    axes.set(xlabel="answered (%), most confident first", ylabel="wrong among those (%)")
    axes.set(xlim=(0, 101), ylim=(0, 1.15 * highest))
    title = f"at {100 * error:g} % error (dashed)"
    axes.legend(
        frameon=False, fontsize=8, title=title, title_fontsize=8, alignment="left", loc="lower left",
        bbox_to_anchor=(0, 1.0),
    )  # fmt: skip
    plain(axes, grid="both")
    return figure


def coverage_at(covered: Sequence[float] | NDArray[np.float64], wrong: ArrayLike, error: float) -> float:
    """Largest coverage with at most `error` wrong; 0 if there is none."""
    return float(np.asarray(covered)[np.asarray(wrong) <= error + 1e-12].max(initial=0.0))


def wilson(hits: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = hits / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return float(max(0.0, min(middle - half, share))), float(min(1.0, max(middle + half, share)))


def _point(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Mean confidence, share right and its interval."""
    return float(confidence.mean()), float(right.mean()), *wilson(float(right.sum()), len(right))


def _equal_bins(confidence: NDArray[np.float64], bins: int) -> list[NDArray[np.int64]]:
    """Rows of each bin, ascending; a bin ends where the confidence changes."""
    order = np.argsort(confidence, kind="stable")
    sorted_ = confidence[order]
    ends = np.unique(
        np.searchsorted(sorted_, sorted_[np.linspace(0, len(order) - 1, bins + 1).astype(int)[1:]], "right")
    )
    return [part for part in np.split(order, ends[:-1]) if len(part)]


def _checked(name: str, confidence: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sure, hits = np.asarray(confidence, float), np.asarray(right, bool)
    if sure.shape != hits.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(f"{name!r} needs a confidence for each answer; got {sure.shape} and {hits.shape} right ones.")
    return sure, hits


def _label(name: str) -> str:
    return shortened(name, _LONGEST, 8).replace("$", r"\$")
