"""Colours, lines and texts that all figures share."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

#: Colours that colour-blind readers can tell apart (Okabe and Ito).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

#: Colours of the most frequent orders of BIOSCAN-5M. The first ten differ for colour-blind readers too.
ORDER_COLOURS = {
    "Diptera": "#0072B2",
    "Hymenoptera": "#E69F00",
    "Hemiptera": "#009E73",
    "Coleoptera": "#D55E00",
    "Lepidoptera": "#CC79A7",
    "Psocodea": "#332288",
    "Entomobryomorpha": "#56B4E9",
    "Araneae": "#F0E442",
    "Thysanoptera": "#6B1B3A",
    "Trombidiformes": "#5B4A1F",
    "Trichoptera": "#44AA99",
    "Symphypleona": "#AA4499",
    "Neuroptera": "#999933",
    "Blattodea": "#661100",
    "Orthoptera": "#CC6677",
}

#: Other orders share these colours, chosen by the name alone.
RARE_COLOURS = ("#6699CC", "#DDCC77", "#888888", "#A65628", "#B79F00", "#7B6FD0")

OTHER_COLOUR, UNKNOWN_COLOUR = "#777777", "#D8D8D8"

#: Colour of labels and lines that are not data.
QUIET = "#666666"

#: Spaces of a legend in several columns, in sizes of its letters.
LEGEND: dict[str, Any] = {"frameon": False, "handlelength": 1.2, "handletextpad": 0.8, "columnspacing": 1.4}

#: Size in points at which texts are measured: large, so that the pixels of the letters do not matter.
_MEASURED = 100.0


def png(figure: Figure, dpi: int = 110) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def colour(i: int) -> str:
    """The i-th colour; they repeat after eight."""
    return COLOURS[i % len(COLOURS)]


def order_colour(order: str | None) -> str:
    """Colour of a taxonomic order, the same in every figure; grey if unknown."""
    if not order or order == "order unknown":
        return UNKNOWN_COLOUR
    return ORDER_COLOURS.get(order) or RARE_COLOURS[zlib.crc32(order.encode()) % len(RARE_COLOURS)]


def line_style(i: int) -> dict[str, Any]:
    """Colour, dashes and marker of the i-th line; 24 lines differ."""
    dashes = ("-", "--", ":")[i // len(COLOURS) % 3]
    return {"color": colour(i), "linestyle": dashes, "marker": MARKERS[i % len(MARKERS)], "linewidth": 1.5}


def plain(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Gives axes the common style: a grey grid, half a frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def legend_columns(names: Sequence[str], most: float, size: float) -> int:
    """The most columns of a legend of `LEGEND` that is at most so many points wide; each fills from above."""
    for columns in range(len(names), 1, -1):
        rows = -(-len(names) // columns)
        parts = [names[i : i + rows] for i in range(0, len(names), rows)]
        if sum(max(text_width(name, size) for name in part) + 3.5 * size for part in parts) <= most:
            return len(parts)
    return 1


def whole_numbers(axis: Axis, low: float, high: float) -> None:
    """Labels of a logarithmic axis in full, such as 1,000."""
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / max(low, 1) > 100 else (1.0, 2.0, 5.0), numticks=6))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of a size in inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


@lru_cache(maxsize=10_000)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width in points of one line of text in the default font."""
    font = get_font(findfont(FontProperties(weight=weight)))
    font.set_size(_MEASURED, 72)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 * size / _MEASURED


def shortened(text: str, most: float, size: float, weight: str = "normal") -> str:
    """A text that is at most so many points wide, with an ellipsis where it is cut; "" if nothing fits."""
    if text_width(text, size, weight) <= most:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(text[:middle].rstrip() + "\N{HORIZONTAL ELLIPSIS}", size, weight) <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "\N{HORIZONTAL ELLIPSIS}" if low >= 3 else ""


def wrapped(text: str, most: float, size: float) -> str:
    """A text broken at spaces into lines of at most so many points; words that are longer are cut."""
    lines: list[str] = []
    for line in text.split("\n"):
        now = ""
        for word in line.split():
            if now and text_width(f"{now} {word}", size) > most:
                lines.append(now)
                now = word
            else:
                now = f"{now} {word}".strip()
        lines.append(now)
    return "\n".join(shortened(line, most, size) for line in lines)
