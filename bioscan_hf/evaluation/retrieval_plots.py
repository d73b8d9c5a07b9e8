"""Figures of retrieval: gallery, confusion matrix, accuracy by number of keys."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image, ImageOps

from ..plots import colour, line_style, plain
from ..plots.style import shortened

#: Lowest rank at which a neighbour has the query's taxon ("none": no rank) -> colour of its frame, from blue to red.
#: The colours are safe for colour-blind readers, and the captions name the rank too.
FRAMES = {"species": "#0072B2", "genus": "#56B4E9", "family": "#F0E442", "order": "#E69F00", "none": "#D55E00"}

#: Widest caption in points: the width of a photo.
_CAPTION = 88.0

#: Fewest taxa for which a mean is drawn.
FEWEST_TAXA = 3


class Found(NamedTuple):
    """A neighbour in a gallery: photo (bytes of an image file, None if absent), rank -> name, and similarity."""

    photo: bytes | None
    taxa: Mapping[str, str | None]
    similarity: float


def gallery(
    queries: Sequence[tuple[bytes | None, Mapping[str, str | None]]], found: Mapping[str, Sequence[Sequence[Found]]]
) -> Figure:
    """One row of photos per query: the query and its neighbours, with frames in the colour of the shared rank.

    A tick marks a neighbour of the query's species, a cross another one.

    Args:
        queries: (photo, rank -> name).
        found: Combination, such as "image->dna" -> neighbours of each query, nearest first.
    """
    if not queries or not found or any(len(of_query) != len(queries) for of_query in found.values()):
        raise ValueError(
            f"A gallery needs neighbours of each query; got {len(queries)} queries and neighbours of "
            f"{ {name: len(of_query) for name, of_query in found.items()} }."
        )
    widths = [max(len(neighbours) for neighbours in of_query) for of_query in found.values()]
    # Empty narrow columns separate the combinations.
    ratios = [1.0] + [part for width in widths for part in (0.12, *[1.0] * width)]
    height = 1.66 * len(queries) + 1.0  # inches
    figure = Figure(figsize=(1.3 * sum(ratios) + 0.2, height))
    edges = {"left": 0.01, "right": 0.99, "top": 1 - 0.62 / height, "bottom": 0.36 / height}
    grid = figure.add_gridspec(len(queries), len(ratios), width_ratios=ratios, hspace=0.3, wspace=0.06, **edges)
    for row, (photo, taxa) in enumerate(queries):
        _show(figure, grid[row, 0], photo, _lowest_name(taxa), None)
    headings, first = [("query", 0, 0)], 2
    for (name, of_query), width in zip(found.items(), widths, strict=True):
        for row, (_, taxa) in enumerate(queries):
            for place, neighbour in enumerate(of_query[row]):
                deepest = deepest_shared_rank(taxa, neighbour.taxa)
                caption = f"{_lowest_name(neighbour.taxa)}\n{neighbour.similarity:.2f}, {_words(deepest)}"
                axes = _show(figure, grid[row, first + place], neighbour.photo, caption, FRAMES[deepest])
                _mark(axes, deepest == "species")
        text = name.replace("->", " \N{RIGHTWARDS ARROW} ").replace("dna", "DNA")
        headings.append((text, first, first + width - 1))
        first += 1 + width
    for text, *ends in headings:
        left, right = (grid[0, column].get_position(figure) for column in ends)
        figure.text((left.x0 + right.x1) / 2, 1 - 0.56 / height, text, ha="center", fontsize=9, weight="bold")
    frames = [Line2D([], [], color=colour, linewidth=4, label=_words(rank)) for rank, colour in FRAMES.items()]
    figure.legend(handles=frames, loc="upper center", ncols=len(frames), frameon=False, fontsize=8)
    return figure


def confusion_matrix(
    true: Sequence[str | None], predicted: Sequence[str | None], most: int = 20, title: str = ""
) -> Figure:
    """Percent of the queries of each taxon (row) that retrieved each taxon (column).

    Shows the `most` taxa with the most queries; other predictions are in the last column.

    Args:
        true: Names of the queries; queries without a name are left out.
        predicted: Names of the nearest keys; None counts as "other".
    """
    pairs = [(name, guess) for name, guess in zip(true, predicted, strict=True) if name is not None]
    if not pairs:
        raise ValueError("No query has a name, so there is nothing to compare.")
    counts = Counter(name for name, _ in pairs)
    names = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:most])
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names) + 1))
    for name, guess in pairs:
        if name in place:
            matrix[place[name], place.get(str(guess), len(names))] += 1
    shares = 100 * matrix / matrix.sum(axis=1, keepdims=True)
    side = 2.2 + 0.36 * len(names)
    figure = Figure(figsize=(side + 1.4, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.axvline(len(names) - 0.5, color="#999999", linewidth=0.8)
    axes.set_xticks(range(len(names) + 1), [*names, "other"], rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), [f"{name} ({counts[name]})" for name in names], fontsize=8)
    axes.set(xlabel="retrieved", ylabel="true (queries)", title=title)
    figure.colorbar(image, ax=axes, label="% of the taxon's queries", shrink=0.8)
    return figure


def accuracy_by_keys(
    accuracies: Mapping[str, Mapping[str, float]], keys: Mapping[str, int], queries: Mapping[str, Mapping[str, int]]
) -> Figure:
    """Accuracy of each taxon by its number of keys, and means over ranges with at least 3 taxa.

    Args:
        accuracies: Name of the queries, such as "seen", -> taxon -> accuracy in [0, 1].
        keys: Taxon -> number of its keys, 0 if not named.
        queries: Name of the queries -> taxon -> number of its queries, which sets the size of its dot.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    numbers = [keys.get(taxon, 0) for of_taxon in accuracies.values() for taxon in of_taxon]
    largest = max(numbers, default=1)
    edges = [1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 10**9]
    generator = np.random.default_rng(0)
    for i, (name, of_taxon) in enumerate(accuracies.items()):
        counts = np.array([keys.get(taxon, 0) for taxon in of_taxon], float)
        values = 100 * np.array(list(of_taxon.values()))
        areas = [6 + 4 * queries[name][taxon] ** 0.5 for taxon in of_taxon]
        places = np.where(counts == 0, 0.5, counts) * np.exp(generator.uniform(-0.06, 0.06, len(counts)))
        axes.scatter(places, values, s=areas, color=colour(i), alpha=0.35, linewidths=0)
        means = [
            (np.exp(np.log(counts[inside]).mean()), values[inside].mean())
            for low, high in zip(edges, edges[1:], strict=False)
            if (inside := (counts >= low) & (counts < high)).sum() >= FEWEST_TAXA
        ]
        x, y = zip(*means, strict=True) if means else ((), ())
        axes.plot(x, y, **line_style(i) | {"markersize": 4}, label=f"{name}: mean of taxa")
    axes.set_xscale("log")
    ticks = {float(tick): f"{tick:,}" for tick in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000) if tick <= 1.5 * largest}
    if some_without := min(numbers, default=1) == 0:
        ticks = {0.5: "none"} | ticks
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set(xlabel="keys of the taxon (logarithmic)", ylabel="top-1 accuracy of the taxon (%)", ylim=(-4, 104))
    axes.set_xlim(0.4 if some_without else 0.8, max(2.5, 1.6 * largest))
    plain(axes, grid="both")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(accuracies))
    return figure


def deepest_shared_rank(a: Mapping[str, str | None], b: Mapping[str, str | None]) -> str:
    """Lowest rank of `FRAMES` with equal names, or "none"."""
    return next((rank for rank in FRAMES if a.get(rank) is not None and a.get(rank) == b.get(rank)), "none")


def _show(figure: Figure, place: SubplotSpec, photo: bytes | None, caption: str, colour: str | None) -> Axes:
    axes = figure.add_subplot(place)
    if photo is None:
        axes.text(0.5, 0.5, "no photo", size=7, color="#666666", ha="center", va="center", transform=axes.transAxes)
    else:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB")
        square = ImageOps.fit(image, (min(image.size),) * 2)
        axes.imshow(square.resize((160, 160)))
    axes.set(xticks=[], yticks=[])
    axes.set_box_aspect(1)
    for spine in axes.spines.values():
        spine.set(color=colour or "#cccccc", linewidth=3.5 if colour else 0.8)
    axes.set_xlabel(caption.replace("$", r"\$"), fontsize=6, labelpad=3)
    return axes


def _mark(axes: Axes, right: bool) -> None:
    """A tick or a cross in the lower right corner of a photo."""
    sign, shade = ("\N{CHECK MARK}", FRAMES["species"]) if right else ("\N{BALLOT X}", FRAMES["none"])
    outline = [withStroke(linewidth=3, foreground="white")]
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
    axes.text(0.96, 0.03, sign, size=12, weight="bold", color=shade, path_effects=outline, **place)


def _words(deepest: str) -> str:
    return "no shared taxon" if deepest == "none" else f"same {deepest}"


def _lowest_name(taxa: Mapping[str, str | None]) -> str:
    name = next((name for rank in FRAMES if (name := taxa.get(rank))), "unknown")
    return shortened(name, _CAPTION, 6)
