"""Bars, curves, histograms and violins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import (
    LEGEND,
    QUIET,
    colour,
    legend_columns,
    line_style,
    new_figure,
    order_colour,
    plain,
    shortened,
    text_width,
    whole_numbers,
    wrapped,
)

#: Longest name beside an axis, in points.
_LONGEST = 190.0


def loss_curves(curves: Mapping[str, Sequence[tuple[float, float]]], chance: float | None = None) -> Figure:
    """Loss (nats) by step, a line for each name.

    `chance`, the loss of random guesses, is a dashed line.
    """
    beside = len(curves) > 5
    figure, axes = new_figure(8.6 if beside else 6.4, max(3.6, 0.22 * len(curves) + 0.6))
    for i, (name, points) in enumerate(curves.items()):
        steps, losses = zip(*points, strict=True)
        style = line_style(i) | ({"markersize": 3} if len(steps) < 15 else {"marker": None})
        axes.plot(steps, losses, label=_literal(shortened(name, _LONGEST, 8)), **style)
    if chance is not None:
        axes.axhline(chance, color=QUIET, linestyle="-.", linewidth=1, label=f"guessing ({chance:.2f})")
    axes.set(xlabel="step", ylabel="loss (nats)")
    if beside:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    else:
        axes.legend(frameon=False, fontsize=8)
    plain(axes)
    return figure


def accuracy_bars(
    accuracies: Mapping[str, Mapping[str, float | None]],
    ylabel: str = "1-NN accuracy (%)",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Bars of accuracies, grouped by question, with a colour per model.

    "chance" is grey; None is marked "no data". Numbers stand upright where the bars are narrow.

    Args:
        accuracies: Model -> question (such as "genus of\\nunseen species") -> fraction in [0, 1].
        size: Inches; by default as wide as the bars need, up to 14.
    """
    questions = list(dict.fromkeys(question for values in accuracies.values() for question in values))
    models = {model: shortened(model, _LONGEST, 9) for model in accuracies}
    wide, high = size or (min(14.0, max(6.4, len(questions) * max(1.3, 0.42 * len(models)))), 3.8)
    columns = legend_columns(list(models.values()), 72 * wide - 75, 9)
    rows = -(-len(models) // columns)
    figure, axes = new_figure(wide, high if size else high + 0.2 * (rows - 1))
    group = 72 * (wide - 0.75) / len(questions)  # points
    width = 0.8 / len(models)
    numbers = {
        (model, question): "no data" if (value := values.get(question)) is None else f"{100 * value:.1f}"
        for model, values in accuracies.items()
        for question in questions
    }
    upright = max(text_width(text, 7.5) for text in numbers.values()) > width * group
    font = min(7.5, 0.85 * width * group) if upright else 7.5
    style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": font, "rotation": 90 if upright else 0}
    for i, (model, values) in enumerate(accuracies.items()):
        shade = "#bbbbbb" if model == "chance" else colour(i)
        for j, question in enumerate(questions):
            value = 100 * (values.get(question) or 0)
            place = j + (i - (len(models) - 1) / 2) * width
            label = _literal(models[model]) if j == 0 else None
            axes.bar(place, value, width * 0.92, color=shade, label=label)
            axes.text(place, value + 1.5, numbers[model, question], **style)
    axes.set(ylabel=ylabel, ylim=(0, 128 if upright else 112), xlim=(-0.5, len(questions) - 0.5))
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(questions)), [_literal(wrapped(text, group - 8, 9)) for text in questions], fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.legend(fontsize=9, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0), **LEGEND)
    plain(axes)
    return figure


def order_bars(counts: Mapping[str, int]) -> Figure:
    """Specimens of each order, largest first, on a logarithmic axis."""
    names = sorted(counts, key=lambda name: (-counts[name], name))
    figure, axes = new_figure(7, 1.1 + 0.2 * len(names))
    shades = [order_colour(name) for name in names]
    bars = axes.barh(range(len(names)), [counts[name] for name in names], color=shades, height=0.75)
    axes.bar_label(bars, [f"{counts[name]:,}" for name in names], padding=3, fontsize=7)
    axes.set_xscale("log")
    axes.set(xlabel="specimens (logarithmic)", ylim=(len(names) - 0.4, -0.6), xlim=(0.7, max(counts.values()) * 6))
    axes.set_yticks(range(len(names)), [_literal(shortened(name, _LONGEST, 8)) for name in names], fontsize=8)
    axes.tick_params(axis="y", length=0)
    whole_numbers(axes.xaxis, 1, max(counts.values()))
    axes.tick_params(axis="x", labelsize=8)
    plain(axes, grid="x")
    return figure


def length_histogram(counts: Sequence[Sequence[int]], max_nucleotides: int) -> Figure:
    """Barcodes by (length, barcodes), with a line where models cut."""
    lengths, barcodes = zip(*counts, strict=True)
    first, last = min(lengths), max(lengths)
    step = max(1, -(-(last - first + 1) // 120))
    figure, axes = new_figure(7, 3.6)
    axes.hist(lengths, bins=list(range(first, last + step + 1, step)), weights=barcodes, color=colour(0))
    axes.axvline(max_nucleotides, color=colour(5), linestyle="--", linewidth=1.2, label=f"{max_nucleotides} nt")
    axes.set_yscale("log")
    whole_numbers(axes.yaxis, *axes.get_ylim())
    axes.set(xlabel=f"length of the barcode (nt, {step} per bar)", ylabel="barcodes (logarithmic)")
    axes.legend(frameon=False)
    plain(axes)
    return figure


def distance_violins(distributions: Mapping[str, Sequence[float]]) -> Figure:
    """Distances of barcodes: a violin per rank, with mean and middle half.

    Args:
        distributions: Rank -> share of pairs at the distance 0, 1, 2, ...
    """
    figure, axes = new_figure(max(4, 1.15 * len(distributions)), 4)
    for place, shares in enumerate(distributions.values()):
        smooth = np.array([np.mean(shares[max(0, i - 3) : i + 4]) for i in range(len(shares))])
        width = 0.42 / smooth.max() * smooth
        axes.fill_betweenx(range(len(shares)), place - width, place + width, color=colour(place), alpha=0.6, lw=0)
        axes.vlines(place, *np.searchsorted(np.cumsum(shares), [0.25 - 1e-9, 0.75 - 1e-9]), color="black", lw=2)
        mean = np.dot(range(len(shares)), shares)
        axes.plot(place, mean, "o", color="white", markeredgecolor="black", markersize=5)
        axes.text(place + 0.08, mean, f"{mean:.0f}", fontsize=8, va="bottom")
    axes.set_xticks(range(len(distributions)), list(distributions))
    axes.set(ylabel="distance of two barcodes (edits)", ylim=(0, None), xlim=(-0.6, len(distributions) - 0.4))
    told = "dot: mean; bar: middle half of the pairs; all groups have the same weight"
    axes.set_title(wrapped(told, 72 * figure.get_figwidth() - 60, 8), fontsize=8)
    plain(axes)
    return figure


def barcode_gap(farthest: Sequence[float], nearest: Sequence[float], most: float | None = None) -> Figure:
    """Distances (%) inside species against those to the nearest other species.

    A species above the diagonal has a gap: its own barcodes are nearer to each other than to any other species.

    Args:
        farthest: Largest distance of two barcodes of each species (N,), fractions.
        nearest: Smallest distance of its barcodes from those of another species (N,), fractions.
        most: End of the axes in percent; by default that of the data.
    """
    inside, outside = 100 * np.asarray(farthest, float), 100 * np.asarray(nearest, float)
    if inside.shape != outside.shape or inside.ndim != 1 or not len(inside):
        raise ValueError(f"A gap needs two distances of each species; got {inside.shape} and {outside.shape}.")
    figure, (left, right) = _two()
    end = most or 1.05 * max(inside.max(), outside.max(), 1.0)
    bins = np.linspace(0, end, 31)
    for values, shade, name in ((inside, colour(5), "farthest in the species"), (outside, colour(0), "nearest other")):
        left.hist(np.minimum(values, end), bins=list(bins), color=shade, alpha=0.6, label=name)
    left.set(xlabel="distance (%)", ylabel="species")
    left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    gap = outside > inside
    across = min(end, max(1.15 * inside.max(), 0.25 * end))
    right.plot([0, end], [0, end], color=QUIET, linestyle="--", linewidth=1)
    for chosen, shade, name in ((gap, colour(0), "with a gap"), (~gap, colour(5), "without")):
        label = f"{name}: {int(chosen.sum()):,} species"
        right.scatter(inside[chosen], outside[chosen], s=16, color=shade, alpha=0.65, linewidths=0, label=label)
    right.set(
        xlabel="farthest in the species (%)", ylabel="nearest other species (%)", xlim=(0, across), ylim=(0, end)
    )
    right.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, handletextpad=0.1)
    plain(left)
    plain(right, grid="both")
    return figure


def _two() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def _literal(text: str) -> str:
    """A text in which a dollar does not begin a formula."""
    return text.replace("$", r"\$")
