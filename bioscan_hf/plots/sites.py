"""Map of the places where specimens were collected.

The coastline (coastline.json) is that of Natural Earth at 1:110 million, rounded to 0.1 degree. It is in the public
domain and is read from the package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from .style import COLOURS, plain, text_width

#: Largest extent of a map: west, south, east, north.
WORLD = (-180.0, -62.0, 180.0, 84.0)

#: Smallest width of a map in degrees, so that a coast is in sight.
LEAST_WIDTH = 30.0

#: Dots of places that are less than this part of the width apart are drawn as one.
_MERGED = 1 / 240

#: Part of a cell by which a place below an edge is counted to the edge: a centimetre, for cells of 0.1 degrees.
_EDGE = 1e-6

_DOT, _SMALLEST, _GROWTH = COLOURS[5], 26.0, 330.0
_INCHES, _LEFT, _RIGHT, _BELOW, _ABOVE = 9.0, 0.5, 0.25, 0.75, 0.4
_NAME = 8.0


class Extent(NamedTuple):
    """Edges of a map in degrees."""

    west: float
    south: float
    east: float
    north: float


def site_map(
    latitudes: Sequence[float],
    longitudes: Sequence[float],
    samples: Sequence[int],
    names: Sequence[tuple[str, float, float]] = (),
) -> Figure:
    """Collection sites (degrees north and east) over a coastline.

    The map shows the part of the world that has sites. The area of a dot grows with the square root of its samples;
    sites very close to each other share a dot. `names` are (name, latitude, longitude), the most important first; a
    name that would cover another one is left out.
    """
    if not len(samples):
        raise ValueError("A map needs at least one place.")
    places = np.array([longitudes, latitudes], float).T
    extent = extent_of(places)
    width, height = extent.east - extent.west, extent.north - extent.south
    inside = _INCHES - _LEFT - _RIGHT
    tall = inside * height / width
    figure = Figure(figsize=(_INCHES, tall + _BELOW + _ABOVE))
    total = tall + _BELOW + _ABOVE
    axes = figure.add_axes((_LEFT / _INCHES, _BELOW / total, inside / _INCHES, tall / total))
    axes.set_facecolor("#F3F7FA")
    axes.add_collection(PolyCollection(coastline(), facecolors="#DFE3E0", edgecolors="#A9B0AC", linewidths=0.5))
    east, north, counts = merged(places, np.array(samples), width * _MERGED)
    largest = int(counts.max())
    sizes = _SMALLEST + _GROWTH * (counts / largest) ** 0.5
    axes.scatter(east, north, s=sizes, color=_DOT, alpha=0.75, edgecolors="white", linewidths=0.7, zorder=3)
    _frame(axes, extent)
    _write_names(axes, names, extent, 72 * inside / width)
    told = f"{len(samples):,} place{'s' * (len(samples) != 1)}, {sum(samples):,} specimens"
    figure.text(_LEFT / _INCHES, 1 - 0.12 / total, told, fontsize=10, va="top")
    _size_legend(figure, largest, total)
    return figure


def extent_of(places: NDArray[np.float64]) -> Extent:
    """The part of the world with all places (N, 2), east and north, and a margin."""
    (west, south), (east, north) = places.min(axis=0), places.max(axis=0)
    world = Extent(WORLD[0], min(WORLD[1], south), WORLD[2], max(WORLD[3], north))
    width = max(LEAST_WIDTH, 1.3 * (east - west), 2.2 * (north - south))
    if width > 200:
        return world
    height = max(0.5 * width, 1.3 * (north - south))
    left = float(np.clip((west + east - width) / 2, -180, 180 - width))
    low = float(np.clip((south + north - height) / 2, -90, 90 - height))
    return Extent(left, low, left + width, low + height)


def merged(
    places: NDArray[np.float64], samples: NDArray[np.int64], cell: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """East, north and samples of the places in each cell, the largest first; positions are means by samples."""
    keys, of = np.unique(cells_of(places, cell), axis=0, return_inverse=True)
    of = of.ravel()
    counts = np.bincount(of, samples, len(keys)).astype(np.int64)
    east, north = (np.bincount(of, samples * places[:, axis], len(keys)) / counts for axis in (0, 1))
    order = np.argsort(-counts, kind="stable")  # small dots above large ones
    return east[order], north[order], counts[order]


def cells_of(coordinates: ArrayLike, width: float) -> NDArray[np.int64]:
    """Numbers of the cells of coordinates: cell i goes from i times `width` to below i + 1 times `width`.

    A coordinate on an edge is in the cell that begins there, also where the division is not exact.
    """
    return np.floor(np.asarray(coordinates, np.float64) / width + _EDGE).astype(np.int64)


@cache
def coastline() -> list[NDArray[np.float64]]:
    """Outlines of the land, each (n, 2) in degrees east and north."""
    text = resources.files(__package__).joinpath("coastline.json").read_text(encoding="utf-8")
    return [np.cumsum(np.reshape(ring, (-1, 2)), axis=0) / 10 for ring in json.loads(text)["rings"]]


def _frame(axes: Axes, extent: Extent) -> None:
    """Limits, grid and labels in degrees."""
    step = next(step for step in (1, 2, 5, 10, 15, 30) if (extent.east - extent.west) / step <= 12 or step == 30)
    axes.set(xlim=(extent.west, extent.east), ylim=(extent.south, extent.north), aspect="auto")
    for which, low, high, letters in (("x", extent.west, extent.east, "WE"), ("y", extent.south, extent.north, "SN")):
        ticks = [step * i for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]
        labels = [f"{abs(tick)}°{'' if not tick else letters[tick > 0]}" for tick in ticks]
        axes.set(**{f"{which}ticks": ticks, f"{which}ticklabels": labels})
    axes.tick_params(labelsize=7.5, length=0, colors="#555555")
    plain(axes, grid="both")
    axes.grid(color="white", linewidth=0.7)
    axes.spines[:].set_visible(False)


def _write_names(axes: Axes, names: Sequence[tuple[str, float, float]], extent: Extent, points: float) -> None:
    """Writes names beside their places where they fit; `points` is the length of a degree."""
    high = 1.25 * _NAME / points
    taken: list[tuple[float, float, float]] = []  # west, middle and width of each name, in degrees
    for name, latitude, longitude in names:
        if not (extent.west < longitude < extent.east and extent.south < latitude < extent.north):
            continue
        wide = (text_width(name, _NAME) + 4) / points
        away = 0.9 * high
        for left, middle in (
            (longitude - wide / 2, latitude + away),
            (longitude - wide / 2, latitude - away),
            (longitude + away, latitude),
            (longitude - away - wide, latitude),
        ):
            left = min(max(left, extent.west), extent.east - wide)
            free = not any(x - wide < left < x + w and abs(middle - y) < high for x, y, w in taken)
            if free and wide < extent.east - extent.west and extent.south + high < middle < extent.north - high:
                taken.append((left, middle, wide))
                text = axes.text(left + wide / 2, middle, name, fontsize=_NAME, ha="center", va="center", zorder=4)
                text.set(parse_math=False, path_effects=[withStroke(linewidth=2.2, foreground="white", alpha=0.85)])
                break


def _size_legend(figure: Figure, largest: int, total: float) -> None:
    """Dots of a few sizes below the map."""
    numbers = sorted({1, largest, *(10**i for i in (1, 2, 3, 4, 5, 6) if 10**i < largest / 3)})
    numbers = numbers if len(numbers) <= 4 else [numbers[0], *numbers[-3:]]
    style: dict[str, Any] = {"ls": "", "marker": "o", "color": _DOT, "markeredgecolor": "white"}
    handles = [
        Line2D([], [], markersize=(_SMALLEST + _GROWTH * (n / largest) ** 0.5) ** 0.5, label=f"{n:,}", **style)
        for n in numbers
    ]
    middle = (_LEFT + (_INCHES - _LEFT - _RIGHT) / 2) / _INCHES
    figure.legend(
        handles=handles,
        ncols=len(handles),
        loc="center",
        bbox_to_anchor=(middle, 0.23 / total),
        frameon=False,
        fontsize=8,
        title="specimens at a place",
        title_fontsize=8,
        columnspacing=1.6,
        borderpad=0,
    )
