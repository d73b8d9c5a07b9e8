"""Rows of a table of specimens under one rule: names of columns, missing values, names of taxa, spelling of barcodes.

Every reader of specimens uses `read_rows`: build, load, stats, split, embed and crop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..barcodes import spelled
from ..labels import Cleaned, taxon_name
from ..schema import (
    COLUMNS,
    ID_NAMES,
    LABEL_COLUMNS,
    LABEL_NAMES,
    MISSING_MARKERS,
    RESERVED_COLUMNS,
    ROW_COLUMN,
    SEQUENCE_NAMES,
)
from .problems import Problem, ReleaseError, stop
from .tables import csv_columns, read_strings

#: Columns without which no row can be used.
NEEDED = ("processid", "dna_barcode")

#: A value in this share of the rows of a rank that does not look like a name is noted.
SUSPICIOUS_SHARE = 0.1

_OTHER_NAMES = {
    "lat": "coord-lat",
    "latitude": "coord-lat",
    "lon": "coord-lon",
    "longitude": "coord-lon",
    "country/ocean": "country",
    "province/state": "province_state",
    "identification": "taxon",
}
#: Other columns in which markers of missing values are null; numbers have their own check.
_MARKED = {"split", "country", "province_state"}
_HIGHER = re.compile(r"[A-Z][a-z]|unassigned |unclassified")  # the published metadata have the last two
_NAME = {"species": re.compile(r"[A-Z][\w-]+ \S"), "dna_bin": re.compile(r"")}


def known_names(path: str | Path, names: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Column of the table -> our name for it, for columns with another known name.

    Args:
        chosen: Columns whose names were chosen.

    Raises:
        ReleaseError: if several columns could be the barcode.
    """
    lower = {name.lower(): name for name in reversed(names)}
    renamed: dict[str, str] = dict(chosen or {})

    def use(ours: str, others: Sequence[str], *, one: bool = False) -> None:
        found = [lower[other] for other in others if other in lower]
        if ours in names or ours in renamed.values() or not found:
            return
        if one and len(found) > 1:
            raise ReleaseError(
                f"{path} has several columns of sequences: {', '.join(found)}. Rename the right one to {ours}, or "
                f"remove the others."
            )
        if found[0] not in renamed:
            renamed[found[0]] = ours

    use("processid", ID_NAMES)
    use("dna_barcode", SEQUENCE_NAMES, one=True)
    for other, ours in {**LABEL_NAMES, **_OTHER_NAMES, **{name: name for name in COLUMNS}}.items():
        use(ours, [other])
    return renamed


def row_columns(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """Columns of the rows that `read_rows` gives: the published ones, then the table's own.

    Raises:
        ReleaseError: if a column has a name that loaded data use.
    """
    names = csv_columns(path, encoding)
    renamed = known_names(path, names)
    return _all_columns(path, [renamed.get(name, name) for name in names])


def _all_columns(path: str | Path, own: Iterable[str]) -> list[str]:
    more = [name for name in own if name not in (*COLUMNS, ROW_COLUMN)]  # rows are numbered anew
    for name in more:
        if name in RESERVED_COLUMNS:
            use = "photos" if name == "image" else "label ids"
            raise ReleaseError(f"{path} has a column {name!r}, a name that loaded data use for {use}. Rename it.")
    return [*COLUMNS, *more]


def _cells(number: int) -> str:
    return f"{number:,} cell{'s' * (number != 1)}"


@dataclass
class Changes:
    """Counts of what the rules changed in the cells of a table.

    Attributes:
        counts: (Column, what was done) -> cells.
        examples: The same -> the first such cell.
        values: Rank -> its values, and the rows of those that do not look like names (None for the others).
        rows: Rank -> rows with a name.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    values: dict[str, dict[str | None, int | None]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)

    def add(self, column: str, before: pa.ChunkedArray, after: pa.ChunkedArray) -> None:
        """Counts the cells that differ."""
        gone = pc.and_(pc.is_valid(before), pc.is_null(after))
        other = pc.fill_null(pc.not_equal(before, after), False)
        for what, mask in (("emptied (markers of missing values)", gone), ("respelled", other)):
            if number := pc.sum(mask).as_py():
                self.counts[column, what] += number
                self.examples.setdefault((column, what), before.filter(mask)[0].as_py())

    def look(self, rank: str, column: pa.ChunkedArray) -> None:
        """Counts the values of a rank that do not look like names."""
        self.rows[rank] += len(column) - column.null_count
        known = self.values.setdefault(rank, {})
        pattern = _NAME.get(rank, _HIGHER)
        values = column.unique().to_pylist()
        for value in values:
            if value not in known:
                known[value] = None if value is None or pattern.match(value) else 0
        for value in values:
            if (number := known[value]) is not None:
                known[value] = number + pc.sum(pc.equal(column, value)).as_py()

    def problems(self, file: str) -> list[Problem]:
        """Notes on all changes, and on values that are probably not names."""
        found = [
            Problem(file, None, None, f"{_cells(number)} of {column} {what}, such as {example[:60]!r}", "corrected")
            for (column, what), number in self.counts.items()
            for example in [self.examples[column, what]]
        ]
        for rank, counted in self.values.items():
            for value, number in counted.items():
                if number is not None and number >= max(SUSPICIOUS_SHARE * self.rows[rank], 2):
                    what = f"{number:,} of {self.rows[rank]:,} rows have the {rank} {value!r}: is that a name?"
                    found.append(Problem(file, None, None, what, "kept"))
        return found


def read_rows(
    path: str | Path,
    columns: Sequence[str] | None = None,
    report: Callable[[Problem], None] = stop,
    *,
    encoding: str = "utf-8",
    changes: Changes | None = None,
    names: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, pa.Table]]:
    """Streams a table of specimens as strings, with our names of columns; columns that it does not have are null.

    Markers of missing values are null. Names of taxa have single spaces. Barcodes have their one spelling.

    Args:
        columns: Columns of the rows; all published ones and the table's own by default.
        report: Called with each malformed record, which is left out if the call returns.
        changes: Counts what is changed.
        names: Column of the table -> our name, for columns that are not found by their names.

    Yields:
        Number of the first row, and the table, as `read_strings`.

    Raises:
        ReleaseError: if there is no column of ids or of barcodes; and as `read_strings`.
    """
    given = csv_columns(path, encoding)
    renamed = known_names(path, given, names)
    ours = {renamed.get(name, name): name for name in given if name in renamed or name not in renamed.values()}
    wanted = _all_columns(path, ours) if columns is None else list(columns)
    if lacking := [name for name in NEEDED if name in wanted and name not in ours]:
        known = {"processid": ID_NAMES, "dna_barcode": SEQUENCE_NAMES}
        what = "; ".join(f"no column {name!r} (or {', '.join(known[name][1:])})" for name in lacking)
        raise ReleaseError(f"{path} has {what}. Its columns are {', '.join(given)}.")
    there = [name for name in wanted if name in ours]
    texts = {name: cleaning(name) for name in there}
    read = [ours[name] for name in there] or [ours["processid"]]
    for first, table in read_strings(path, (), read, report, encoding=encoding):
        cells = dict(zip(there, table.columns, strict=False))
        for name, column in cells.items():
            cells[name] = texts[name](column)
            if changes is not None:
                if cells[name] is not column:
                    changes.add(name, column, cells[name])
                if name in LABEL_COLUMNS:
                    changes.look(name, cells[name])
        nothing = pa.chunked_array([pa.nulls(len(table), pa.string())])
        yield first, pa.table({name: cells.get(name, nothing) for name in wanted})


def cleaning(name: str) -> Callable[[pa.ChunkedArray], pa.ChunkedArray]:
    """The rule of a column."""
    if name == "dna_barcode":
        return spelled
    if name in LABEL_COLUMNS or name == "taxon":
        return Cleaned(taxon_name)
    if name == "processid":
        return pc.utf8_trim_whitespace
    return Cleaned(_without_marker) if name in _MARKED else lambda column: column


def _without_marker(text: str) -> str | None:
    return None if text.strip().lower() in MISSING_MARKERS else text
