"""Checks the metadata of a release, and reads its rows with types, boxes and photos."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..barcodes import LETTERS
from ..labels import LabelMaps
from ..schema import COLUMNS, LABEL_COLUMNS, SPLITS, UNASSIGNED
from .boxes import Boxes, Ids, add_boxes, places_in, read_boxes
from .columns import BOX_COLUMNS, features, to_types
from .layout import find_boxes
from .problems import Problem, ReleaseError, stop
from .rows import Changes, read_rows, row_columns

#: Printable ASCII without spaces.
ID = r"^[!-~]+$"

#: Processids of which the path of a photo is made, see `schema.check_id`.
FILE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"

_CHECKED = ("processid", "split", "dna_barcode", *LABEL_COLUMNS)

Report = Callable[[Problem], None]


@dataclass
class Scan:
    """Result of one pass over the metadata."""

    counts: dict[str, int]  # split -> rows
    labels: LabelMaps
    extra_columns: list[str]
    left_out: set[int] = field(default_factory=set)  # numbers of the rows that `read_typed` leaves out
    boxes: Boxes | None = None  # that `read_typed` joins by processid
    notes: list[Problem] = field(default_factory=list)  # corrected cells, what looks suspicious, unused boxes
    encoding: str = "utf-8"
    clean: frozenset[str] = frozenset()  # columns without a corrected cell in rows that stay


def extra_columns(metadata: Path, encoding: str = "utf-8") -> list[str]:
    """Columns of the rows beyond the 23 published ones: others of the metadata, and those of the boxes.

    If the metadata have a box column of their own, the table of boxes is not joined.
    """
    names = [name for name in row_columns(metadata, encoding) if name not in COLUMNS]
    return names + (list(BOX_COLUMNS.values()) if _boxes_to_join(metadata, encoding) is not None else [])


def _boxes_to_join(metadata: Path, encoding: str) -> Path | None:
    return None if set(row_columns(metadata, encoding)) & set(BOX_COLUMNS.values()) else find_boxes(metadata)


def scan(
    path: Path, report: Report = stop, *, unassigned: bool = False, photos: bool = False, encoding: str = "utf-8"
) -> Scan:
    """Checks every row of the metadata.

    Reported are: an unknown or (unless `unassigned`) empty split, a missing or repeated processid, and a barcode that
    is not DNA. A barcode may be missing. With `photos`, a processid has to be the name of a file.
    """
    pattern = FILE_ID if photos else ID
    counts: Counter[str] = Counter()
    names: dict[str, list[pa.Array]] = {column: [] for column in LABEL_COLUMNS}
    left_out: set[int] = set()
    good_ids, bad_ids = Ids(), Ids()
    known_splits = pa.array(SPLITS + ((UNASSIGNED,) if unassigned else ()))
    changes = Changes()
    for first, table in read_rows(path, _CHECKED, report, encoding=encoding, changes=changes):
        splits = pc.fill_null(table["split"], UNASSIGNED)
        named = pc.fill_null(pc.match_substring_regex(table["processid"], pattern), False)
        good = pc.and_(pc.is_in(splits, known_splits), named).to_numpy(zero_copy_only=False)
        if "dna_barcode" in changes.touched:  # otherwise they are in their one spelling
            good &= are_dna(table["dna_barcode"])
        rows = first + np.arange(len(table))
        for i in np.flatnonzero(~good).tolist():
            report(_describe_bad_row(table, i, path.name, first, pattern))
            left_out.add(first + i)
        if not good.all():
            bad_ids.add(table["processid"].filter(pa.array(~good)), rows[~good])
            changes.kept = pa.array(good)
            table, splits = table.filter(changes.kept), splits.filter(changes.kept)
        counts.update({value["values"]: value["counts"] for value in splits.value_counts().to_pylist()})
        for column, found in names.items():
            distinct = None if changes.kept is not None else changes.distinct.get(column)
            found.append(table[column].unique() if distinct is None else distinct)
            if len(found) == 64:
                found[:] = [pa.chunked_array(found).unique()]
        good_ids.add(table["processid"], rows[good])
    if not sum(counts.values()):
        raise ReleaseError(f"{path} has no rows.")
    ids, id_rows = good_ids.sorted()
    repeats = Changes()
    for row, earlier, processid, split in _repeated(ids, id_rows, path, encoding, repeats):
        report(Problem(path.name, row, processid, f"repeats the processid of row {earlier}", "left out"))
        left_out.add(row)
        counts[split] -= 1
    changes.subtract(repeats)
    ordered = {split: counts[split] for split in (*SPLITS, UNASSIGNED) if counts[split]}
    labels = LabelMaps({column: pa.chunked_array(found).unique().to_pylist() for column, found in names.items()})
    checked = Scan(ordered, labels, extra_columns(path, encoding), left_out)
    checked.notes, checked.encoding = changes.problems(path.name), encoding
    checked.clean = frozenset(_CHECKED) - {column for column, _ in changes.counts}
    if (table_of_boxes := _boxes_to_join(path, encoding)) is not None:
        checked.boxes = read_boxes(table_of_boxes, report)
        checked.notes += _stray_boxes(checked.boxes, [ids, bad_ids.sorted()[0]], table_of_boxes.name)
    return checked


def are_dna(barcodes: pa.ChunkedArray) -> NDArray[np.bool_]:
    """(n,) whether each barcode is DNA, or missing."""
    letters = LETTERS.encode()
    for chunk in barcodes.chunks:
        start, end = np.frombuffer(chunk.buffers()[1], np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
        data = chunk.buffers()[2]  # all cells joined: one check that is almost always enough
        if data is not None and data.slice(int(start), int(end - start)).to_pybytes().translate(None, letters):
            break
    else:
        return np.ones(len(barcodes), dtype=bool)
    good = pc.fill_null(pc.match_substring_regex(barcodes, f"^[{LETTERS}]+$"), True)
    return np.asarray(good.to_numpy(zero_copy_only=False))


def _describe_bad_row(table: pa.Table, i: int, file: str, first: int, pattern: str) -> Problem:
    processid, split, barcode = (table[name][i].as_py() for name in ("processid", "split", "dna_barcode"))
    if not processid or not re.fullmatch(ID, processid):
        what = f"processid {processid!r} is not an id (printable ASCII, no spaces)"
    elif not re.fullmatch(pattern, processid):
        allowed = "letters from A to Z, digits, '.', '_' and '-', at most 200"
        what = f"processid {processid[:80]!r} cannot be the name of a file, so it has no photo (allowed are {allowed})"
    elif split is None:
        what = "its split is empty; `bioscan-hf split` partitions a metadata file"
    elif split not in SPLITS:
        what = f"unknown split {split!r} (BIOSCAN-5M has {', '.join(SPLITS)})"
    else:
        letter = next(c for c in barcode if c not in LETTERS)
        what = f"dna_barcode is not DNA: it contains {letter!r}"
    return Problem(file, first + i, processid, what, "left out")


def _repeated(
    ids: NDArray[np.bytes_], rows: NDArray[np.int64], path: Path, encoding: str, changes: Changes
) -> Iterator[tuple[int, int, str, str]]:
    """Rows with the processid of an earlier row: (row, earlier row, processid, split). `ids` are sorted stably.

    `changes` gets the changes in these rows.
    """
    same = ids[1:] == ids[:-1]
    if not same.any():
        return
    start = np.concatenate([[True], ~same])  # first of each run of equal ids
    first_of_run = np.flatnonzero(start)[np.cumsum(start) - 1]
    found = {int(rows[i]): int(rows[first_of_run[i]]) for i in np.flatnonzero(~start)}
    numbers = np.array(sorted(found))
    for first, table in read_rows(path, _CHECKED, lambda problem: None, encoding=encoding, changes=changes):
        low, high = np.searchsorted(numbers, [first, first + len(table)])
        changes.kept = pa.array(np.isin(np.arange(first, first + len(table)), numbers[low:high]))
        for number in numbers[low:high].tolist():
            i = number - first
            yield number, found[number], table["processid"][i].as_py(), table["split"][i].as_py() or UNASSIGNED


def _stray_boxes(boxes: Boxes, ids: list[NDArray[np.bytes_]], file: str) -> list[Problem]:
    """A note on the boxes whose processid is in none of the sorted `ids`."""
    stray = boxes.ids
    for some in ids:
        if len(some):
            stray = stray[~places_in(some, stray)[1]]
    if not len(stray):
        return []
    what = f"{len(stray):,} of {len(boxes.ids):,} boxes are of specimens that the metadata do not have"
    return [Problem(file, None, stray[0].decode(), what, "not used")]


def read_typed(path: Path, checked: Scan, report: Report = stop) -> Iterator[tuple[int, pa.Table]]:
    """Streams the valid rows of scanned metadata with the types of `features("dna", checked.extra_columns)`."""
    schema = pa.schema([(f.name, f.type) for f in features("dna", checked.extra_columns).arrow_schema])
    left_out = np.array(sorted(checked.left_out), dtype=np.int64)

    def report_kept(problem: Problem) -> None:
        if problem.row not in checked.left_out:
            report(problem)

    reading = read_rows(path, report=lambda problem: None, encoding=checked.encoding, clean=checked.clean)
    for first, table in reading:
        table = to_types(table, first, path.name, report_kept)
        if checked.boxes is not None:
            table = add_boxes(table, checked.boxes)
        table = table.select(schema.names).cast(schema)
        low, high = np.searchsorted(left_out, [first, first + len(table)])
        if low < high:
            good = np.ones(len(table), dtype=bool)
            good[left_out[low:high] - first] = False
            table = table.filter(pa.array(good))
        yield first, table
