"""Figures of what `describe` returns."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .. import plots
from ..files import writing
from ..schema import MAX_NUCLEOTIDES


def figures(summary: dict[str, Any]) -> dict[str, Figure]:
    """Figures by name, of what there is: `orders`, `taxonomy`, `sites`, `lengths`, `distances`, `gap`."""
    orders: Counter[str] = Counter()
    for row in summary["taxonomy"]:
        orders[row["order"] or "order unknown"] += row["samples"]
    families = {(row["order"] or "", row["family"] or ""): row["samples"] for row in summary["taxonomy"]}
    made = {
        "orders": plots.order_bars(orders),
        "taxonomy": plots.taxonomy_tree_map(families, title="Specimens by order and family"),
    }
    places = summary["geography"]
    if places["cells"]["samples"]:
        place, cells = itemgetter("country", "latitude", "longitude"), places["cells"]
        countries = [place(row) for row in places["countries"] if row["latitude"] is not None]
        made["sites"] = plots.site_map(cells["latitude"], cells["longitude"], cells["samples"], countries)
    if summary["lengths"]["histogram"]:
        made["lengths"] = plots.length_histogram(summary["lengths"]["histogram"], MAX_NUCLEOTIDES)
    if compared := {row["rank"]: row["distribution"] for row in summary["distances"] if row["distribution"]}:
        made["distances"] = plots.distance_violins(compared)
    if gaps := summary["gap"]:
        farthest, nearest = ([row[name] for row in gaps] for name in ("farthest_within", "nearest_other"))
        made["gap"] = plots.barcode_gap(farthest, nearest)
    return made


def save_figures(summary: dict[str, Any], folder: str | Path) -> list[Path]:
    """Writes each figure to a folder, as NAME.png, and returns the files."""
    written = []
    for name, figure in figures(summary).items():
        path = Path(folder) / f"{name}.png"
        with writing(path, "wb") as file:
            file.write(plots.png(figure))
        written.append(path)
    return written
