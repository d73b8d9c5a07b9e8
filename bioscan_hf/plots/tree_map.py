"""Tree map of taxa: areas are numbers of specimens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .style import OTHER_COLOUR, order_colour, shortened, text_width

Box = tuple[float, float, float, float]  # left, top, width, height

#: Width and height of the map in points; coordinates of the axes are points.
WIDTH, HEIGHT = 648.0, 372.0

#: Smaller orders, and smaller families, are gathered: shares of the whole map.
LEAST_ORDER, LEAST_FAMILY = 0.006, 0.003

_HEADER, _FAMILY, _PADDING = 9.0, 7.0, 3.0


def taxonomy_tree_map(counts: Mapping[tuple[str, str], int], title: str = "") -> Figure:
    """Specimens as areas: a box per order, with boxes of families.

    Orders with less than 0.6 % of the specimens are one box, and so are the families of an order with less than 0.3 %
    each. A name that fits nowhere in its box is left out.

    Args:
        counts: (order, family) -> specimens; "" is an unknown name.
    """
    orders: dict[str, dict[str, int]] = {}
    for (order, family), count in counts.items():
        orders.setdefault(order or "order unknown", {})[family or "family unknown"] = count
    whole = sum(counts.values())
    totals = gathered({order: sum(of.values()) for order, of in orders.items()}, LEAST_ORDER * whole, "orders")
    top = 24.0 if title else 4.0
    figure = Figure(figsize=((WIDTH + 8) / 72, (HEIGHT + top + 4) / 72))
    axes = figure.add_axes((4 / (WIDTH + 8), 4 / (HEIGHT + top + 4), WIDTH / (WIDTH + 8), HEIGHT / (HEIGHT + top + 4)))
    for order, box in boxes_of(totals, (0, 0, WIDTH, HEIGHT)):
        families = gathered(orders[order], LEAST_FAMILY * whole, "families") if order in orders else {}
        _draw_order(axes, order, totals[order], families, box)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.set_axis_off()
    if title:
        figure.text(4 / (WIDTH + 8), 1 - 6 / (HEIGHT + top + 4), title, fontsize=10, va="top", parse_math=False)
    return figure


def gathered(counts: Mapping[str, int], least: float, what: str) -> dict[str, int]:
    """The counts, with those below `least` added up as "other N taxa"; a single one stays."""
    small = [name for name, count in counts.items() if count < least]
    if len(small) < 2:
        return dict(counts)
    kept = {name: count for name, count in counts.items() if count >= least}
    return kept | {f"other {len(small):,} {what}": sum(counts[name] for name in small)}


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


def boxes_of(counts: Mapping[str, int], box: Box) -> list[tuple[str, Box]]:
    """Names and their parts of a box, the largest first."""
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return list(zip(names, squarify([counts[name] for name in names], box), strict=True))


def _draw_order(axes: Axes, order: str, total: int, families: Mapping[str, int], box: Box) -> None:
    """Draws the boxes of an order and its families, and the names that fit."""
    shade = OTHER_COLOUR if order.startswith("other ") else order_colour(order)
    left, top, width, height = box
    header, font = _header(order, total, width, height)
    below = top + (font + 2 * _PADDING if header else 0)
    inside = boxes_of(families, box) or [("", box)]
    for i, (family, (x, y, w, h)) in enumerate(inside):
        alpha = 0.62 - 0.3 * i / len(inside)
        axes.add_patch(Rectangle((x, y), w, h, facecolor=shade, alpha=alpha, edgecolor="white", lw=0.6))
        start = max(y, below)
        _draw_family(axes, family, families.get(family, 0), (x, start, w, y + h - start))
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="white", lw=2.5))
    if header:
        place = (left + _PADDING + 1, top + _PADDING)
        axes.text(*place, header, fontsize=font, weight="bold", va="top", ha="left", parse_math=False)


def _header(order: str, total: int, width: float, height: float) -> tuple[str, float]:
    """The longest text for an order that fits into its box, and its size."""
    most = width - 2 * _PADDING - 2
    if height < _FAMILY + 2 * _PADDING:
        return "", _FAMILY
    for text, size in ((f"{order} {total:,}", _HEADER), (order, _HEADER), (order, _FAMILY)):
        if text_width(text, size, "bold") <= most and height >= size + 2 * _PADDING:
            return text, size
    return _cut(order, most, "bold"), _FAMILY


def _cut(name: str, most: float, weight: str = "normal") -> str:
    """A name, cut after 6 letters or more; "" if it does not fit. Unknown and other taxa are never cut."""
    text = shortened(name, most, _FAMILY, weight)
    return text if text == name or (len(text) > 6 and not name.startswith(("other ", "family "))) else ""


def _draw_family(axes: Axes, family: str, count: int, box: Box) -> None:
    """Writes a family across its box, or along it where it is narrow."""
    left, top, width, height = box
    turned = height > width and text_width(family, _FAMILY) > width - 2 * _PADDING
    along, across = (height, width) if turned else (width, height)
    if not family or across < _FAMILY * 1.5:
        return
    text = _cut(family, along - 2 * _PADDING)
    if text == family and not turned and height > 3.2 * _FAMILY and width > text_width(f"{count:,}", _FAMILY) + 6:
        text += f"\n{count:,}"
    if text:
        style: dict[str, Any] = {"fontsize": _FAMILY, "va": "center", "ha": "center", "rotation": 90 if turned else 0}
        axes.text(left + width / 2, top + height / 2, text, parse_math=False, **style)


def _worst(areas: Sequence[float], side: float) -> float:
    """The largest aspect ratio in a row of boxes along a side."""
    total = sum(areas)
    return max(max(side**2 * area / total**2, total**2 / (side**2 * area)) for area in areas)
