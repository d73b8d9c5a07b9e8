"""Tables of what `describe` returns, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from rich import box
from rich.table import Table

from ..schema import MAX_NUCLEOTIDES

COUNTRIES_SHOWN = 15

#: Widest name of a category. A longer one is cut, so that numbers have room.
_NAME_WIDTH = 20


def tables(summary: dict[str, Any]) -> list[Table]:
    """The published tables, followed by those of places, sizes and lengths."""
    ranks, places, countries = summary["ranks"], summary["geography"]["columns"], summary["geography"]["countries"]
    counts = ("samples", "barcodes", "species")
    splits = ([row["split"], *(row[name] or None for name in counts), row["set"] or ""] for row in summary["splits"])
    populated = itemgetter(
        "rank", "most_populated", "most_populated_samples", "least_populated", "least_populated_samples"
    )
    spread = ("mean", "median", "std")
    diversity = itemgetter("rank", "categories", "barcodes", *spread)
    caption = "SDI: Shannon diversity index, averaged over the categories"
    caption += "" if summary["distances"] else " (distances not computed)"
    labels = ("categories", "labelled", "%", "imbalance ratio")
    edits = ("rank", "groups", "pairs", "mean", "std", "minimum", "maximum")
    distances = map(itemgetter(*edits), summary["distances"])
    averaged = "Edits between two barcodes of a category, averaged over the categories"
    if incomplete := max((row["incomplete"] for row in summary["distances"]), default=0):
        averaged += f". N, and what is missing of up to {incomplete:,} barcodes, count as edits"
    shown = countries[:COUNTRIES_SHOWN]
    hidden = f"and {len(countries) - len(shown)} more, in the JSON" if len(countries) > len(shown) else None
    return [
        _table("Splits", ("split", *counts, "set"), splits),
        _table("Labels", ("rank", *labels), ([row["rank"], *_labels(row)] for row in ranks)),
        _table(
            "Largest and smallest categories",
            ("rank", "most populated", "samples", "least populated", "samples"),
            map(populated, ranks),
        ),
        _table("Samples of a category", ("rank", *spread), map(itemgetter("rank", *spread), ranks)),
        _table(
            "Distinct barcodes of a category",
            ("rank", "cat.", "barcodes", *spread, "SDI (bits)"),
            ([*diversity(row), _number(row["shannon_bits"], 2)] for row in summary["diversity"]),
            caption,
        ),
        *([_table("Pairwise distances", edits, distances, averaged)] if summary["distances"] else []),
        _table("Places", ("column", *labels), ([row["column"], *_labels(row)] for row in places)),
        _table(
            "Countries",
            ("country", "samples", "%"),
            ([row["country"], row["samples"], _number(100 * row["samples"] / summary["rows"], 1)] for row in shown),
            hidden,
        ),
        _sizes(summary["sizes"]),
        _lengths(summary["lengths"]),
    ]


def _labels(row: dict[str, Any]) -> list[Any]:
    ratio = row["imbalance_ratio"]
    share = 100 * row["labelled_share"]
    return [row["categories"], row["labelled"], share, _number(ratio, 0 if (ratio or 0) >= 100 else 1)]


def _sizes(columns: list[dict[str, Any]]) -> Table:
    """Statistics as rows: three columns of numbers fit, ten do not."""
    rows: list[list[Any]] = [["labelled", *(row["labelled"] for row in columns)]]
    rows.append(["%", *(100 * row["labelled_share"] for row in columns)])
    digits = [0 if row["column"] == "image_measurement_value" else 4 for row in columns]
    for name in ("minimum", "p25", "median", "p75", "maximum", "mean", "std"):
        values = (row["values"][name] for row in columns)
        rows.append([name, *map(_number, values, digits)])
    return _table("Sizes", ("", *(row["column"] for row in columns)), rows)


def _lengths(found: dict[str, Any]) -> Table:
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
    return _table("Barcode lengths", ("", "value"), [(text, found[name]) for name, text in names.items()])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str | None = None) -> Table:
    """A table that breaks no number and cuts only long names."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.show_edge, table.pad_edge = (0, 1, 0, 0), False, False
    texts = [[x if isinstance(x, str) else _number(x, int(isinstance(x, float))) for x in row] for row in rows]
    for i, name in enumerate(columns):
        if i == 0 or name.endswith("populated"):
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=_NAME_WIDTH if i else None)
        else:
            cells = [*name.split(), *(row[i] for row in texts)]
            table.add_column(name, justify="right", min_width=max(map(len, cells)))
    for row in texts:
        table.add_row(*row)
    return table


def _number(value: float | None, digits: int) -> str:
    """A number with thousands separators; "-" for None."""
    return "-" if value is None else f"{value:,.{digits}f}"
