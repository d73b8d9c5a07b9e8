"""Figures in one style.

Functions return a matplotlib Figure, made without pyplot: it needs no display. Nothing is shown or written.
"""

from .charts import accuracy_bars, barcode_gap, distance_violins, length_histogram, loss_curves, order_bars
from .confidence import coverage_curve, reliability_curve
from .photos import photo_grid
from .sites import site_map
from .style import (
    COLOURS,
    MARKERS,
    ORDER_COLOURS,
    OTHER_COLOUR,
    UNKNOWN_COLOUR,
    colour,
    line_style,
    order_colour,
    plain,
    png,
)
from .tree_map import squarify, taxonomy_tree_map

__all__ = [
    "COLOURS",
    "MARKERS",
    "ORDER_COLOURS",
    "OTHER_COLOUR",
    "UNKNOWN_COLOUR",
    "accuracy_bars",
    "barcode_gap",
    "colour",
    "coverage_curve",
    "distance_violins",
    "length_histogram",
    "line_style",
    "loss_curves",
    "order_bars",
    "order_colour",
    "photo_grid",
    "plain",
    "png",
    "reliability_curve",
    "site_map",
    "squarify",
    "taxonomy_tree_map",
]
