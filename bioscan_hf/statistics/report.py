"""What `statistics.describe` found, as tables for the terminal and as pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from .. import plots
from ..schema import MAX_NUCLEOTIDES

COUNTRIES_SHOWN = 15


def _number(value: Any, digits: int = 0) -> str:
    """A number with separators of thousands, "-" for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def tables(summary: dict[str, Any]) -> list[Table]:
    """The published tables, then those of places, sizes and lengths, from what `statistics.describe` returned."""
    return [
        _splits(summary),
        _ranks(summary),
        _categories(summary),
        _diversity(summary),
        *_places(summary),
        _sizes(summary),
        _lengths(summary),
    ]


def _splits(summary: dict[str, Any]) -> Table:
    rows = [
        [row["split"], *(_number(row[name] or None) for name in ("samples", "barcodes", "species")), row["set"] or ""]
        for row in summary["splits"]
    ]
    return _table("Splits", ("split", "samples", "barcodes", "species", "set"), rows)


def _ranks(summary: dict[str, Any]) -> Table:
    rows = [
        [
            row["rank"],
            _number(row["categories"]),
            _number(row["labelled"]),
            _percent(row["labelled_share"]),
            _number(row["imbalance_ratio"], 0 if (row["imbalance_ratio"] or 0) >= 100 else 1),
        ]
        for row in summary["ranks"]
    ]
    return _table("Labels", ("rank", "categories", "labelled", "%", "imbalance ratio"), rows)


def _categories(summary: dict[str, Any]) -> Table:
    rows = [
        [
            row["rank"],
            row["most_populated"] or "-",
            _number(row["most_populated_samples"]),
            row["least_populated"] or "-",
            _number(row["least_populated_samples"]),
            *(_number(row[name], 1) for name in ("mean", "median", "std")),
        ]
        for row in summary["ranks"]
    ]
    names = ("rank", "most populated", "samples", "least populated", "samples", "mean", "median", "std")
    return _table("Samples of a category", names, rows)


def _diversity(summary: dict[str, Any]) -> Table:
    distances = {row["rank"]: row for row in summary["distances"]}
    rows = []
    for row in summary["diversity"]:
        distance = distances.get(row["rank"], {"mean": None, "std": None})
        rows.append(
            [
                row["rank"],
                _number(row["categories"]),
                _number(row["barcodes"]),
                *(_number(row[name], 1) for name in ("mean", "median", "std")),
                _number(row["shannon_bits"], 2),
                *(_number(distance[name], 1) for name in ("mean", "std")),
            ]
        )
    names = ("rank", "cat.", "unique barcodes", "mean", "median", "std", "SDI (bits)", "mean P.D.", "std P.D.")
    caption = "SDI: Shannon diversity; P.D.: pairwise distance in edits; both averaged over the categories"
    if not distances:
        caption += " (distances not computed)"
    return _table("Distinct barcodes of a category", names, rows, caption)


def _places(summary: dict[str, Any]) -> list[Table]:
    found = summary["geography"]
    columns = [
        [
            row["column"],
            _number(row["categories"]),
            _number(row["labelled"]),
            _percent(row["labelled_share"]),
            _number(row["imbalance_ratio"]),
        ]
        for row in found["columns"]
    ]
    shown = found["countries"][:COUNTRIES_SHOWN]
    countries = [
        [row["country"], _number(row["samples"]), _percent(row["samples"] / summary["rows"])] for row in shown
    ]
    hidden = len(found["countries"]) - len(shown)
    caption = f"and {hidden} more, in the JSON" if hidden else None
    return [
        _table("Places", ("column", "categories", "labelled", "%", "imbalance ratio"), columns),
        _table("Countries", ("country", "samples", "%"), countries, caption),
    ]


def _sizes(summary: dict[str, Any]) -> Table:
    statistics = ("minimum", "p25", "median", "p75", "maximum", "mean", "std")
    rows = []
    for row in summary["sizes"]:
        digits = 0 if row["column"] == "image_measurement_value" else 4
        values = [_number(row["values"][name], digits) for name in statistics]
        rows.append([row["column"], _number(row["labelled"]), _percent(row["labelled_share"]), *values])
    return _table("Sizes", ("column", "labelled", "%", *statistics), rows)


def _lengths(summary: dict[str, Any]) -> Table:
    found = summary["lengths"]
    names = {
        "samples": "barcodes",
        "missing": "missing",
        "minimum": "shortest (nt)",
        "p1": "1st percentile (nt)",
        "median": "median (nt)",
        "mean": "mean (nt)",
        "std": "standard deviation (nt)",
        "p99": "99th percentile (nt)",
        "maximum": "longest (nt)",
        f"longer_than_{MAX_NUCLEOTIDES}": f"longer than {MAX_NUCLEOTIDES} nt",
        "n_inside": "with N inside",
        "n_at_an_end": "with N at an end",
        "other_letters": "with letters other than A, C, G, T, N",
    }
    rows = [[text, _number(found[name], 1 if name in ("mean", "std") else 0)] for name, text in names.items()]
    return _table("Barcode lengths", ("", "value"), rows)


def figures(summary: dict[str, Any]) -> dict[str, Figure]:
    """Pictures by name, of what there is: `orders`, `taxonomy`, `sites`, `lengths` and `distances`."""
    orders: dict[str, int] = {}
    for row in summary["taxonomy"]:
        name = row["order"] or "order unknown"
        orders[name] = orders.get(name, 0) + row["samples"]
    made = {
        "orders": plots.order_bars(orders),
        "taxonomy": plots.taxonomy_tree_map(
            {(row["order"] or "", row["family"] or ""): row["samples"] for row in summary["taxonomy"]},
            title="Specimens by order and family",
        ),
    }
    cells = summary["geography"]["cells"]
    if cells["samples"]:
        countries = [
            (row["country"], row["latitude"], row["longitude"])
            for row in summary["geography"]["countries"]
            if row["latitude"] is not None
        ]
        made["sites"] = plots.site_map(cells["latitude"], cells["longitude"], cells["samples"], countries)
    if summary["lengths"]["histogram"]:
        made["lengths"] = plots.length_histogram(summary["lengths"]["histogram"], MAX_NUCLEOTIDES)
    compared = {row["rank"]: row["distribution"] for row in summary["distances"] if row["distribution"]}
    if compared:
        made["distances"] = plots.distance_violins(compared)
    return made


def save_figures(summary: dict[str, Any], folder: str | Path) -> list[Path]:
    """Writes every figure as PNG into a folder, which is made; returns the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures(summary).items():
        path = folder / f"{name}.png"
        part = path.with_name(path.name + ".part")
        part.write_bytes(plots.png(figure))
        os.replace(part, path)
        written.append(path)
    return written
