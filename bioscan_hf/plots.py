"""Figures and their common style.

Functions return a matplotlib Figure, made without pyplot: it needs no display. Nothing is shown or written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageOps

#: Colours that colour-blind readers can tell apart (Okabe and Ito).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

Box = tuple[float, float, float, float]  # left, top, width, height


def png(figure: Figure, dpi: int = 110) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def colour(i: int) -> str:
    """The i-th colour; they repeat after eight."""
    return COLOURS[i % len(COLOURS)]


def line_style(i: int) -> dict[str, Any]:
    """Colour, dashes and marker of the i-th line; 24 lines differ."""
    dashes = ("-", "--", ":")[i // len(COLOURS) % 3]
    return {"color": colour(i), "linestyle": dashes, "marker": MARKERS[i % len(MARKERS)], "linewidth": 1.5}


def plain(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Gives axes the common style: a grey grid, half a frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def loss_curves(curves: Mapping[str, Sequence[tuple[float, float]]], chance: float | None = None) -> Figure:
    """Loss (nats) by step, a line for each name.

    `chance`, the loss of random guesses, is a dashed line.
    """
    figure, axes = _figure(6.4, 3.6)
    for i, (name, points) in enumerate(curves.items()):
        steps, losses = zip(*points, strict=True)
        style = line_style(i) | ({"markersize": 3} if len(steps) < 15 else {"marker": None})
        axes.plot(steps, losses, label=name, **style)
    if chance is not None:
        axes.axhline(chance, color="#666666", linestyle="-.", linewidth=1, label=f"guessing ({chance:.2f})")
    axes.set(xlabel="step", ylabel="loss (nats per masked k-mer)")
    axes.legend(frameon=False)
    plain(axes)
    return figure


def accuracy_bars(accuracies: Mapping[str, Mapping[str, float | None]], ylabel: str = "1-NN accuracy (%)") -> Figure:
    """Bars of accuracies, grouped by question, with a colour per model.

    "chance" is grey; None is marked "no data".

    Args:
        accuracies: Model -> question (such as "genus of\\nunseen species") -> fraction in [0, 1].
    """
    questions = list(dict.fromkeys(question for values in accuracies.values() for question in values))
    figure, axes = _figure(max(6.4, 1.3 * len(questions)), 3.8)
    width = 0.8 / len(accuracies)
    for i, (model, values) in enumerate(accuracies.items()):
        shade = "#bbbbbb" if model == "chance" else colour(i)
        for j, question in enumerate(questions):
            value = values.get(question)
            place = j + (i - (len(accuracies) - 1) / 2) * width
            axes.bar(place, 100 * (value or 0), width * 0.92, color=shade, label=model if j == 0 else None)
            text = "no data" if value is None else f"{100 * value:.1f}"
            axes.text(place, 100 * (value or 0) + 1, text, ha="center", va="bottom", fontsize=7.5)
    axes.set(ylabel=ylabel, ylim=(0, 112))
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(questions)), questions, fontsize=9)
    axes.legend(frameon=False, ncols=len(accuracies), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plain(axes)
    return figure


def taxonomy_tree_map(counts: Mapping[tuple[str, str], int], title: str = "") -> Figure:
    """Specimens as areas: a box per order, with boxes of families.

    Args:
        counts: (order, family) -> specimens; "" is an unknown name.
    """
    orders: dict[str, dict[str, int]] = {}
    for (order, family), count in counts.items():
        orders.setdefault(order or "order unknown", {})[family or "family unknown"] = count
    totals = {order: sum(families.values()) for order, families in orders.items()}
    figure, axes = _figure(9, 5.4)
    for i, (order, box) in enumerate(_boxes(totals, (0, 0, 160, 100))):
        for family, inner in _boxes(orders[order], box):
            axes.add_patch(Rectangle(inner[:2], *inner[2:], facecolor=colour(i), alpha=0.5, edgecolor="white", lw=0.6))
            _label(axes, family, inner, fontsize=7, at_top=False)
        axes.add_patch(Rectangle(box[:2], *box[2:], fill=False, edgecolor="white", lw=2.5))
        _label(axes, f"{order} {totals[order]:,}", box, fontsize=9, at_top=True)
    axes.set(xlim=(0, 160), ylim=(100, 0), title=title)
    axes.set_axis_off()
    return figure


def photo_grid(photos: Sequence[tuple[bytes, str]], columns: int = 6) -> Figure:
    """Photos (image file, caption) in rows, with their captions below."""
    if not photos:
        raise ValueError("A grid of photos needs at least one photo.")
    rows = -(-len(photos) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.05 * rows), layout="constrained")
    for i, (data, caption) in enumerate(photos):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        axes.set_title(caption, fontsize=7, y=-0.02, va="top")
        axes.set_axis_off()
    return figure


def order_bars(counts: Mapping[str, int]) -> Figure:
    """Specimens of each order, largest first, on a logarithmic axis."""
    names = sorted(counts, key=lambda name: (-counts[name], name))
    figure, axes = _figure(7, 1.1 + 0.2 * len(names))
    bars = axes.barh(range(len(names)), [counts[name] for name in names], color=colour(0), height=0.75)
    axes.bar_label(bars, [f"{counts[name]:,}" for name in names], padding=3, fontsize=7)
    axes.set_xscale("log")
    axes.set(xlabel="specimens (logarithmic)", ylim=(len(names) - 0.4, -0.6), xlim=(0.7, max(counts.values()) * 6))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    plain(axes, grid="x")
    return figure


def site_map(
    latitudes: Sequence[float],
    longitudes: Sequence[float],
    samples: Sequence[int],
    names: Sequence[tuple[str, float, float]] = (),
) -> Figure:
    """Collection sites (degrees north and east) on a grid of 30 degrees.

    The area of a dot grows with the square root of its samples. `names` are (name, latitude, longitude), the most
    important first; a name that would cover another is left out.
    """
    figure, axes = _figure(9, 5)
    largest = max(samples)
    order = np.argsort(-np.array(samples), kind="stable")  # small dots above large ones
    east, north, counts = np.array([longitudes, latitudes, samples])[:, order]
    axes.scatter(east, north, s=4 + 320 * (counts / largest) ** 0.5, color=colour(0), alpha=0.45, linewidths=0)
    axes.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
    axes.set_xticks(range(-180, 181, 30), [_degrees(x, "W", "E") for x in range(-180, 181, 30)], fontsize=8)
    axes.set_yticks(range(-90, 91, 30), [_degrees(y, "S", "N") for y in range(-90, 91, 30)], fontsize=8)
    plain(axes, grid="both")
    axes.axhline(0, color="#999999", linewidth=0.9)
    taken: list[Box] = []  # west and south end of a name, and its size in degrees, at 7 points and 9 inches
    for name, latitude, longitude in names:
        width = 2.4 * len(name)
        left = min(max(longitude - width / 2, -179), 179 - width)  # inside the frame
        if not any(x - width < left < x + w and abs(latitude - y) < h for x, y, w, h in taken):
            taken.append((left, latitude, width, 6))
            text = axes.text(left + width / 2, latitude, name, fontsize=7, ha="center", va="center")
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white", alpha=0.8)])
    axes.set_title(f"{len(samples):,} places, {sum(samples):,} specimens; the largest dot is {largest:,}", fontsize=9)
    return figure


def length_histogram(counts: Sequence[Sequence[int]], max_nucleotides: int) -> Figure:
    """Barcodes by (length, barcodes), with a line where models cut."""
    lengths, barcodes = zip(*counts, strict=True)
    first, last = min(lengths), max(lengths)
    step = max(1, -(-(last - first + 1) // 120))
    figure, axes = _figure(7, 3.6)
    axes.hist(lengths, bins=list(range(first, last + step + 1, step)), weights=barcodes, color=colour(0))
    axes.axvline(max_nucleotides, color=colour(5), linestyle="--", linewidth=1.2, label=f"{max_nucleotides} nt")
    axes.set_yscale("log")
    axes.set(xlabel=f"length of the barcode (nt, {step} per bar)", ylabel="barcodes (logarithmic)")
    axes.legend(frameon=False)
    plain(axes)
    return figure


def distance_violins(distributions: Mapping[str, Sequence[float]]) -> Figure:
    """Distances of barcodes: a violin per rank, with mean and middle half.

    Args:
        distributions: Rank -> share of pairs at the distance 0, 1, 2, ...
    """
    figure, axes = _figure(max(4, 1.15 * len(distributions)), 4)
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
    axes.set_title("dot: mean; bar: middle half of the pairs; all groups have the same weight", fontsize=8)
    plain(axes)
    return figure


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Divides a box into nearly square ones of areas like descending `sizes`.

    Method: Bruls, Huizing and van Wijk, Squarified Treemaps, 2000.
    """
    left, top, width, height = box
    scale = width * height / sum(sizes) if sizes else 0.0
    areas, boxes = [size * scale for size in sizes], []
    while areas:
        side = min(width, height)
        taken = 1
        while taken < len(areas) and _worst(areas[: taken + 1], side) <= _worst(areas[:taken], side):
            taken += 1
        strip = sum(areas[:taken]) / side  # thickness of the row of boxes along the shorter side
        offset = 0.0
        for area in areas[:taken]:
            length = area / strip
            across = width >= height
            boxes.append((left, top + offset, strip, length) if across else (left + offset, top, length, strip))
            offset += length
        if width >= height:
            left, width = left + strip, max(width - strip, 1e-9)
        else:
            top, height = top + strip, max(height - strip, 1e-9)
        areas = areas[taken:]
    return boxes


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _degrees(value: int, below: str, above: str) -> str:
    return f"{abs(value)}°{below if value < 0 else above if value > 0 else ''}"


def _boxes(counts: Mapping[str, int], box: Box) -> list[tuple[str, Box]]:
    """Names and their parts of a box, the largest first."""
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return list(zip(names, squarify([counts[name] for name in names], box), strict=True))


def _worst(areas: Sequence[float], side: float) -> float:
    """The largest aspect ratio in a row of boxes along a side."""
    total = sum(areas)
    return max(max(side**2 * area / total**2, total**2 / (side**2 * area)) for area in areas)


def _label(axes: Axes, text: str, box: Box, fontsize: float, at_top: bool) -> None:
    """Writes a text into a box if it fits.

    Per point of font size, a letter is about 0.16 units wide and a line 0.3 high.
    """
    left, top, width, height = box
    line = 0.32 * fontsize
    if len(text) * (0.17 if at_top else 0.15) * fontsize > width or height < (line if at_top else 2.6 * line):
        return
    if at_top:
        axes.text(left + 0.8, top + 0.8, text, fontsize=fontsize, weight="bold", va="top", ha="left")
    else:
        axes.text(left + width / 2, top + height / 2 + line / 2, text, fontsize=fontsize, va="center", ha="center")
