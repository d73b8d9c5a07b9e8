"""Accuracy of the nearest-neighbour probe by number of neighbours, with equal and with weighted votes.

Source: BarcodeMAE+, https://github.com/bioscan-ml/BarcodeMAE-plus, which weighs votes with the temperature 0.02
Shape letters: N = train rows, M = test rows, D = embedding size, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..metrics import IGNORE, accuracy
from .probing import knn_probe, vote

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Numbers of neighbours of the published curve, and the published temperature.
KS = (1, 3, 5, 7, 10, 15, 20, 25, 50)
TEMPERATURE = 0.02

#: Name of a curve -> temperature of its votes.
VOTES: dict[str, float | None] = {"equal votes": None, f"temperature {TEMPERATURE}": TEMPERATURE}


def knn_curve(
    train_embeddings: ArrayLike,
    train_labels: ArrayLike,
    test_embeddings: ArrayLike,
    test_labels: ArrayLike,
    *,
    ks: Sequence[int] = KS,
    **options: Any,
) -> list[dict[str, Any]]:
    """Accuracies for each number of neighbours and kind of vote, from one search.

    Args:
        train_embeddings, test_embeddings, train_labels, test_labels: As in `knn_probe`.
        ks: Numbers of neighbours; those above the number of labelled train rows are left out.
        options: Of `knn_probe`, without k and temperature.

    Returns:
        Rows with votes (a name in `VOTES`), k, micro_accuracy and macro_accuracy; accuracies are in [0, 1], or None
        without labelled test rows.

    Raises:
        ValueError: as `knn_probe`, or if no k is left.
    """
    train_ids, test_ids = np.asarray(train_labels), np.asarray(test_labels)
    labelled = int((train_ids >= 0).sum())
    fitting = sorted({k for k in ks if 1 <= k <= labelled})
    if not fitting:
        raise ValueError(
            f"No number of neighbours is left: {labelled} train rows have a label, and ks are {list(ks)}."
        )
    found = knn_probe(train_embeddings, train_labels, test_embeddings, test_labels, k=fitting[-1], **options)
    assert found.neighbours is not None and found.similarities is not None  # always so of knn_probe
    labels, similarities = train_ids[found.neighbours], found.similarities
    rows = []
    for name, temperature in VOTES.items():
        for k in fitting:
            predictions = vote(labels[:, :k], similarities[:, :k], temperature)[0]
            scores = accuracy(predictions, test_ids, IGNORE)
            rows.append({"votes": name, "k": k, **{key: scores[key] for key in ("micro_accuracy", "macro_accuracy")}})
    return rows


def curve_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Micro accuracy by number of neighbours: one panel for each question, one line for each kind of vote.

    Args:
        curves: Question -> rows of `knn_curve`.
    """
    from matplotlib.figure import Figure

    from ..plots import line_style, plain

    figure = Figure(figsize=(3.6 * len(curves), 3.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(curves)))
    for axes, (question, rows) in zip(panels, curves.items(), strict=True):
        for i, name in enumerate(VOTES):
            points = [(row["k"], 100 * row["micro_accuracy"]) for row in rows if row["votes"] == name]
            axes.plot(*zip(*points, strict=True), label=name, **line_style(i) | {"markersize": 4})
        axes.set(title=question, xlabel="neighbours", xscale="log")
        ticks = sorted({row["k"] for row in rows})
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.minorticks_off()
        plain(axes)
    panels[0].set_ylabel("accuracy (%)")
    panels[0].legend(frameon=False)
    return figure
