"""Tables of what `describe` returns, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from ..schema import MAX_NUCLEOTIDES

COUNTRIES_SHOWN = 15

#: Widest name of a category. A longer one is cut, so that numbers have room.
_NAME_WIDTH = 20


def tables(summary: dict[str, Any]) -> list[Table]:
    """The published tables, followed by those of places, sizes and lengths."""
    places = summary["geography"]
    shown = places["countries"][:COUNTRIES_SHOWN]
    hidden = len(places["countries"]) - len(shown)
    return [
        _table(
            "Splits",
            ("split", "samples", "barcodes", "species", "set"),
            [
                [
                    row["split"],
                    *(_number(row[name] or None) for name in ("samples", "barcodes", "species")),
                    row["set"] or "",
                ]
                for row in summary["splits"]
            ],
        ),
        _table("Labels", ("rank", *_LABEL_COLUMNS), [[row["rank"], *_labels(row)] for row in summary["ranks"]]),
        _categories(summary),
        _sizes_of_categories(summary),
        _diversity(summary),
        *([_distances(summary)] if summary["distances"] else []),
        _table("Places", ("column", *_LABEL_COLUMNS), [[row["column"], *_labels(row)] for row in places["columns"]]),
        _table(
            "Countries",
            ("country", "samples", "%"),
            [[row["country"], _number(row["samples"]), _percent(row["samples"] / summary["rows"])] for row in shown],
            f"and {hidden} more, in the JSON" if hidden else None,
        ),
        _sizes(summary),
        _lengths(summary),
    ]


_LABEL_COLUMNS = ("categories", "labelled", "%", "imbalance ratio")


def _labels(row: dict[str, Any]) -> list[str]:
    ratio = row["imbalance_ratio"]
    return [
        _number(row["categories"]),
        _number(row["labelled"]),
        _percent(row["labelled_share"]),
        _number(ratio, 0 if (ratio or 0) >= 100 else 1),
    ]


def _categories(summary: dict[str, Any]) -> Table:
    names = ("rank", "most populated", "samples", "least populated", "samples")
    rows = [
        [row["rank"], *(cell for kind in ("most", "least") for cell in _populated(row, kind))]
        for row in summary["ranks"]
    ]
    return _table("Largest and smallest categories", names, rows, names_in=(1, 3))


def _populated(row: dict[str, Any], kind: str) -> tuple[str, str]:
    return row[f"{kind}_populated"] or "-", _number(row[f"{kind}_populated_samples"])


def _sizes_of_categories(summary: dict[str, Any]) -> Table:
    statistics = ("mean", "median", "std")
    rows = [[row["rank"], *(_number(row[name], 1) for name in statistics)] for row in summary["ranks"]]
    return _table("Samples of a category", ("rank", *statistics), rows)


def _diversity(summary: dict[str, Any]) -> Table:
    rows = [
        [
            row["rank"],
            _number(row["categories"]),
            _number(row["barcodes"]),
            *(_number(row[name], 1) for name in ("mean", "median", "std")),
            _number(row["shannon_bits"], 2),
        ]
        for row in summary["diversity"]
    ]
    names = ("rank", "cat.", "barcodes", "mean", "median", "std", "SDI (bits)")
    caption = "SDI: Shannon diversity index, averaged over the categories"
    if not summary["distances"]:
        caption += " (distances not computed)"
    return _table("Distinct barcodes of a category", names, rows, caption)


def _distances(summary: dict[str, Any]) -> Table:
    statistics = ("mean", "std", "minimum", "maximum")
    rows = [
        [row["rank"], _number(row["groups"]), _number(row["pairs"]), *(_number(row[name], 1) for name in statistics)]
        for row in summary["distances"]
    ]
    caption = "Edits between two barcodes of a category, averaged over the categories"
    return _table("Pairwise distances", ("rank", "groups", "pairs", *statistics), rows, caption)


def _sizes(summary: dict[str, Any]) -> Table:
    """Statistics as rows: three columns of numbers fit, ten do not."""
    statistics = ("minimum", "p25", "median", "p75", "maximum", "mean", "std")
    rows = [["labelled", *(_number(row["labelled"]) for row in summary["sizes"])]]
    rows.append(["%", *(_percent(row["labelled_share"]) for row in summary["sizes"])])
    for name in statistics:
        values = (
            (row["values"][name], 0 if row["column"] == "image_measurement_value" else 4) for row in summary["sizes"]
        )
        rows.append([name, *(_number(value, digits) for value, digits in values)])
    return _table("Sizes", ("", *(row["column"] for row in summary["sizes"])), rows)


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


def _table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str | None = None,
    names_in: Sequence[int] = (),
) -> Table:
    """A table that breaks no number and cuts only long names.

    Args:
        names_in: Columns of names besides the first."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.show_edge, table.pad_edge = (0, 1, 0, 0), False, False
    for i, name in enumerate(columns):
        if i == 0 or i in names_in:
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=_NAME_WIDTH if i else None)
        else:
            cells = [*name.split(), *(row[i] for row in rows)]
            table.add_column(name, justify="right", min_width=max(map(len, cells)))
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: Any, digits: int = 0) -> str:
    """A number with thousands separators; "-" for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
