"""Rows of a table of specimens under one rule: names of columns, missing values, names of taxa, spelling of barcodes.

Every reader of specimens uses `read_rows`: build, load, stats, split, embed and crop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..barcodes import spelled
from ..labels import Cleaned, are_taxon_names, taxon_name
from ..schema import (
    COLUMNS,
    ID_NAMES,
    LABEL_COLUMNS,
    MISSING_MARKERS,
    RANKS,
    RESERVED_COLUMNS,
    ROW_COLUMN,
    SEQUENCE_NAMES,
    SPLIT_ALIASES,
)
from .column_names import Rivals, known_names, listed, our_columns, separators
from .problems import Problem, ReleaseError, stop
from .tables import csv_columns, read_strings

#: Columns without which no row can be used.
NEEDED = ("processid", "dna_barcode")

#: A value in this share of the rows of a rank that does not look like a name is noted.
SUSPICIOUS_SHARE = 0.1

#: Other columns in which markers of missing values are null; numbers have their own check.
_MARKED = {"country", "province_state"}
_HIGHER = r"^([A-Z][a-z]|unassigned |unclassified)"  # the published metadata have the last two
_EPITHET = r"^[a-z][a-z-]{2,}$"
_SPECIES = r"^[A-Z][\w-]+ \S"


def row_columns(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """Columns of the rows that `read_rows` gives: the published ones, then the table's own.

    Raises ReleaseError if a column has a name that loaded data use.
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
    """Counts of what the rules changed in the cells of a table."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (column, what was done) -> cells
    examples: dict[tuple[str, str], str] = field(default_factory=dict)  # the same -> the first such cell
    values: dict[str, dict[str, int]] = field(default_factory=dict)  # rank -> value unlike a name -> rows
    rows: Counter[str] = field(default_factory=Counter)  # rank -> rows with a name
    touched: frozenset[str] = frozenset()  # columns of the current block that are not as they were given
    distinct: dict[str, pa.Array] = field(default_factory=dict)  # names in the block, some repeated
    kept: pa.Array | None = None  # (n,) mask of the rows of the block that its reader keeps; others do not count

    def count(self, before: Mapping[str, pa.ChunkedArray], after: Mapping[str, pa.ChunkedArray]) -> None:
        """Counts the cells of the current block, in rows that are `kept`."""
        kept, self.kept = self.kept, None
        for name, column in after.items():
            if name not in self.touched and name not in LABEL_COLUMNS:
                continue
            new = column if kept is None else column.filter(kept)
            if name in self.touched:
                self.add(name, before[name] if kept is None else before[name].filter(kept), new)
            if name in RANKS:
                self.look(name, new)

    def subtract(self, others: Changes) -> None:
        """Takes off what was counted in other rows."""
        self.counts -= others.counts
        self.rows -= others.rows
        for rank, counted in others.values.items():
            for value, number in counted.items():
                self.values[rank][value] -= number

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
        pattern, known = _SPECIES if rank == "species" else _HIGHER, self.values.setdefault(rank, {})
        if pc.all(pc.match_substring_regex(self.distinct[rank], pattern)).as_py():
            return
        counted = column.value_counts()
        odd = counted.filter(pc.invert(pc.match_substring_regex(counted.field("values"), pattern)))
        for value, number in zip(odd.field("values").to_pylist(), odd.field("counts").to_pylist(), strict=True):
            if not re.match(pattern, value):  # which knows letters that are not ASCII
                known[value] = known.get(value, 0) + number

    def problems(self, file: str) -> list[Problem]:
        """Notes on all changes, and on values that are probably not names."""
        found = [
            Problem(file, None, None, f"{_cells(number)} of {column} {what}, such as {example[:60]!r}", "corrected")
            for (column, what), number in self.counts.items()
            for example in [self.examples[column, what]]
        ]
        for rank, counted in self.values.items():
            for value, number in counted.items():
                if number >= max(SUSPICIOUS_SHARE * self.rows[rank], 2):
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
    clean: Collection[str] = (),
) -> Iterator[tuple[int, pa.Table]]:
    """Streams a table of specimens as strings, with our names of columns; columns that it does not have are null.

    Markers of missing values are null. Names of taxa have single spaces. Barcodes have their one spelling.

    Args:
        columns: Columns of the rows; all published ones and the table's own by default.
        report: Called with each malformed record, which is left out if the call returns.
        changes: Counts what is changed.
        names: Column of the table -> our name, for columns that are not found by their names.
        clean: Columns in which an earlier reading of the file found nothing to change.

    Yields:
        Number of the first row, and the table, as `read_strings`.

    Raises:
        ReleaseError: if ids or barcodes have no column, or if two columns of the same meaning differ; and the errors
            of `read_strings`.
    """
    given = csv_columns(path, encoding)
    ours = our_columns(path, given, names)
    wanted = _all_columns(path, ours) if columns is None else list(columns)
    if lacking := [name for name in NEEDED if name in wanted and name not in ours]:
        known = {"processid": ID_NAMES, "dna_barcode": SEQUENCE_NAMES}
        what = "; ".join(f"no column {name!r} (or {', '.join(known[name][1:])})" for name in lacking)
        raise ReleaseError(f"{path} has {what}. Its columns are {listed(given)}.{separators(given)}")
    there = [name for name in wanted if name in ours]
    rules = {name: cleaning(name) for name in there if name not in clean}
    rivals = Rivals(path, given, {name: ours[name] for name in there}, tuple((names or {}).values()))
    also = ["genus"] if "species" in there and "genus" in ours and "genus" not in there else []  # for epithets alone
    read = list(dict.fromkeys([*(ours[name] for name in (*there, *also)), *rivals.all])) or [ours["processid"]]
    for first, table in read_strings(path, (), read, report, encoding=encoding):
        rivals.check(first, table, cleaning)
        before = dict(zip((*there, *also), table.columns, strict=False))
        cells = before | {name: rule(before[name]) for name, rule in rules.items()}
        if "species" in rules and "genus" in cells:
            genus = cleaning("genus")(cells["genus"]) if also else cells["genus"]
            cells["species"] = whole_species(cells["species"], genus)
        for name in also:
            del before[name], cells[name]
        if changes is not None:
            changes.touched = frozenset(name for name in rules if cells[name] is not before[name])
            changes.distinct = {name: rule.values for name, rule in rules.items() if isinstance(rule, Cleaned)}
        nothing = pa.chunked_array([pa.nulls(len(table), pa.string())])
        yield first, pa.table({name: cells.get(name, nothing) for name in wanted})
        if changes is not None:  # after the reader has told which rows it keeps
            changes.count(before, cells)


def cleaning(name: str) -> Callable[[pa.ChunkedArray], pa.ChunkedArray]:
    """The rule of a column, which returns the same object if nothing changes."""
    if name == "dna_barcode":
        return spelled
    if name in LABEL_COLUMNS or name == "taxon":
        return Cleaned(taxon_name, are_taxon_names)
    if name == "processid":
        return _trimmed
    if name == "split":
        return Cleaned(split_name)
    return Cleaned(_without_marker, _are_values) if name in _MARKED else lambda column: column


def whole_species(species: pa.ChunkedArray, genus: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names of species, where epithets alone ("mellifera") get their genus; the same object if nothing changes.

    Only where nine of ten names are epithets: others are words for a missing name, such as "tbd".
    """
    alone = pc.fill_null(pc.match_substring_regex(species, _EPITHET), False)
    number = pc.sum(alone).as_py() or 0
    if not number or number < 0.9 * (len(species) - species.null_count):
        return species
    names = pc.binary_join_element_wise(genus, species, " ")
    return pc.if_else(pc.and_(alone, pc.is_valid(names)), names, species)


def cleaned(columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """A table of columns with our names, each by its rule."""
    cells = {name: cleaning(name)(column) for name, column in columns.items()}
    if {"genus", "species"} <= cells.keys():
        cells["species"] = whole_species(cells["species"], cells["genus"])
    return pa.table(cells)


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(column)
    return column if trimmed.equals(column) else trimmed


def _are_values(texts: pa.Array) -> bool:
    trimmed = pc.utf8_trim_whitespace(texts)
    marked = pc.any(pc.is_in(pc.utf8_lower(trimmed), pa.array(MISSING_MARKERS, texts.type))).as_py()
    return not marked and trimmed.equals(texts)


def split_name(text: str) -> str | None:
    """The name of a split in a cell; None if it is missing."""
    found = _without_marker(text)
    return None if found is None else SPLIT_ALIASES.get(found, found)


def _without_marker(text: str) -> str | None:
    text = text.strip()
    return None if text.lower() in MISSING_MARKERS else text
