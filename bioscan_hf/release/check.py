"""A published BIOSCAN-5M release (metadata, boxes, photo folders or zips), checked, and read row by row.

Metadata stream, zips are never unpacked, and JPEG bytes pass through untouched. Its parts are `release_files` (tables)
and `release_photos`; import their names from here. Layout of a release: https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Image, Value
from numpy.typing import NDArray

from ..labels import LabelMaps
from ..schema import COLUMNS, LABEL_COLUMNS, SPLITS, check_config
from .photos import Photos, check_jpeg, missing_zips, packages
from .tables import (
    BOX_COLUMNS,
    BOXES_TSV,
    METADATA_CSV,
    NUMBERS,
    Boxes,
    Problem,
    ReleaseError,
    add_boxes,
    csv_columns,
    find_boxes,
    find_metadata,
    ids_of,
    is_metadata,
    photo_root,
    places_in,
    read_boxes,
    read_strings,
    read_table,
    stop,
    to_types,
    write_csv,
)

__all__ = [
    "BOXES_TSV",
    "BOX_COLUMNS",
    "METADATA_CSV",
    "NUMBERS",
    "UNASSIGNED",
    "Photos",
    "Problem",
    "ReleaseError",
    "Scan",
    "check_jpeg",
    "csv_columns",
    "extra_columns",
    "features",
    "find_boxes",
    "find_metadata",
    "is_metadata",
    "iterate_rows",
    "missing_zips",
    "packages",
    "photo_root",
    "read_boxes",
    "read_strings",
    "read_table",
    "read_typed",
    "scan",
    "stop",
    "to_types",
    "write_csv",
]

#: Where rows wait that no partition has put into a split yet; never the name of a published split.
UNASSIGNED = "unassigned"

#: Letters of a barcode: bases, U, IUPAC ambiguity codes and gaps, in either case.
DNA_LETTERS = "ACGTUNRYSWKMBDHVacgtunryswkmbdhv-"
DNA_PATTERN = f"^[{DNA_LETTERS}]+$"


def features(config: str, extra_columns: Sequence[str] = ()) -> Features:
    """Types of the columns: the 23 published ones, any others (`extra_columns`), and the photo if there is one.

    Other columns of the metadata are strings, and those of the boxes (`BOX_COLUMNS`) int32.
    """
    check_config(config)
    columns: dict[str, Any] = {"image": Image()} if config != "dna" else {}
    for name in (*COLUMNS, *extra_columns):
        columns[name] = Value(str(NUMBERS[name]).replace("double", "float64") if name in NUMBERS else "string")
    return Features(columns)


def extra_columns(metadata: Path) -> list[str]:
    """Columns of the rows beside the 23 published ones: others of the metadata, and the boxes if there is their table.

    Metadata that have a column of the boxes themselves keep it, and the table is not joined.
    """
    names = [name for name in csv_columns(metadata) if name not in COLUMNS]
    return names + (list(BOX_COLUMNS.values()) if _boxes_to_join(metadata) is not None else [])


def _boxes_to_join(metadata: Path) -> Path | None:
    return None if set(csv_columns(metadata)) & set(BOX_COLUMNS.values()) else find_boxes(metadata)


# ---- metadata ------------------------------------------------------------------------------------------------------


@dataclass
class Scan:
    """What one pass over the metadata tells: rows per split, names of taxa, and the rows that must be left out.

    Attributes:
        boxes: What `read_typed` joins by processid; None without a table of boxes.
        strays: A note on boxes of specimens that are not in the metadata, which are not used.
    """

    counts: dict[str, int]
    labels: LabelMaps
    extra_columns: list[str]
    left_out: set[int] = field(default_factory=set)
    boxes: Boxes | None = None
    strays: Problem | None = None


def scan(path: Path, report: Callable[[Problem], None] = stop, *, unassigned: bool = False) -> Scan:
    """Checks every row of the metadata before anything is written.

    Reported are: an unknown or (unless `unassigned`) empty split, a missing or repeated processid, and a barcode that
    is not DNA. A barcode may be missing, as for a specimen that was photographed but not sequenced.
    """
    counts: Counter[str] = Counter()
    names: dict[str, list[pa.Array]] = {column: [] for column in LABEL_COLUMNS}
    left_out: set[int] = set()
    ids: list[NDArray[np.bytes_]] = []
    bad_ids: list[NDArray[np.bytes_]] = []
    rows_seen: list[NDArray[np.int64]] = []
    known_splits = pa.array(SPLITS + ((UNASSIGNED,) if unassigned else ()))
    needed = ("processid", "split", "dna_barcode", *LABEL_COLUMNS)
    for first, table in read_strings(path, columns=needed, report=report):
        splits = pc.fill_null(table["split"], UNASSIGNED)
        good = pc.is_in(splits, known_splits).to_numpy(zero_copy_only=False) & _are_dna(table["dna_barcode"])
        named = pc.fill_null(pc.match_substring_regex(table["processid"], r"^[!-~]+$"), False)
        good &= named.to_numpy(zero_copy_only=False)
        if not good.all():
            for i in np.flatnonzero(~good):
                report(_describe_bad_row(table, int(i), path.name, first))
                left_out.add(first + int(i))
            bad_ids.append(ids_of(table["processid"].filter(pa.array(~good))))
            table, splits = table.filter(pa.array(good)), splits.filter(pa.array(good))
        for value, count in zip(*_value_counts(splits), strict=True):
            counts[value] += count
        for column, found in names.items():
            found.append(table[column].unique())
            if len(found) == 64:
                found[:] = [pa.chunked_array(found).unique()]
        ids.append(ids_of(table["processid"]))
        rows_seen.append(first + np.flatnonzero(good))
    if not sum(counts.values()):
        raise ReleaseError(f"{path} holds no rows.")
    everything, rows = np.concatenate(ids), np.concatenate(rows_seen)
    ids.clear()
    order = np.argsort(everything, kind="stable")  # in no time where the metadata are sorted, as published
    everything, rows = everything[order], rows[order]
    for row, earlier, processid, split in _repeated(everything, rows, path):
        report(Problem(path.name, row, processid, f"repeats the processid of row {earlier}", "left out"))
        left_out.add(row)
        counts[split] -= 1
    ordered = {split: counts[split] for split in (*SPLITS, UNASSIGNED) if counts[split]}
    labels = LabelMaps({column: pa.chunked_array(found).unique().to_pylist() for column, found in names.items()})
    checked = Scan(ordered, labels, extra_columns(path), left_out)
    table_of_boxes = _boxes_to_join(path)
    if table_of_boxes is not None:
        checked.boxes = read_boxes(table_of_boxes, report)
        checked.strays = _stray_boxes(checked.boxes, [everything, *bad_ids], table_of_boxes.name)
    return checked


def _are_dna(barcodes: pa.ChunkedArray) -> NDArray[np.bool_]:
    """(n,) whether each barcode is DNA, or missing."""
    letters = DNA_LETTERS.encode()
    for chunk in barcodes.chunks:
        start, end = np.frombuffer(chunk.buffers()[1], np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
        data = chunk.buffers()[2]  # all cells, one after the other: the one check that nearly always suffices
        if data is not None and data.slice(int(start), int(end - start)).to_pybytes().translate(None, letters):
            break
    else:
        return np.ones(len(barcodes), dtype=bool)
    good = pc.fill_null(pc.match_substring_regex(barcodes, DNA_PATTERN), True)
    return np.asarray(good.to_numpy(zero_copy_only=False))


def _value_counts(array: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counted = array.value_counts()
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()


def _describe_bad_row(table: pa.Table, i: int, file: str, first: int) -> Problem:
    processid, split, barcode = (table[name][i].as_py() for name in ("processid", "split", "dna_barcode"))
    if not processid or not re.fullmatch(r"[!-~]+", processid):
        what = f"processid {processid!r} is no id (printable ASCII, no spaces)"
    elif split is None:
        what = "its split is empty; `bioscan-hf split` partitions a metadata file"
    elif split not in SPLITS:
        what = f"unknown split {split!r} (BIOSCAN-5M has {', '.join(SPLITS)})"
    else:
        letter = next(c for c in barcode if c not in DNA_LETTERS)
        what = f"dna_barcode is no DNA: it holds {letter!r}"
    return Problem(file, first + i, processid, what, "left out")


def _repeated(ids: NDArray[np.bytes_], rows: NDArray[np.int64], path: Path) -> Iterator[tuple[int, int, str, str]]:
    """Rows whose processid an earlier row has: (row, earlier row, processid, split). `ids` ascend, stably."""
    same = ids[1:] == ids[:-1]
    if not same.any():
        return
    start = np.concatenate([[True], ~same])  # where a run of equal ids begins
    first_of_run = np.flatnonzero(start)[np.cumsum(start) - 1]
    found = {int(rows[i]): int(rows[first_of_run[i]]) for i in np.flatnonzero(~start)}
    numbers = np.array(sorted(found))
    for first, table in read_strings(path, columns=("processid", "split"), report=lambda problem: None):
        low, high = np.searchsorted(numbers, [first, first + len(table)])
        for number in numbers[low:high].tolist():
            i = number - first
            yield number, found[number], table["processid"][i].as_py(), table["split"][i].as_py() or UNASSIGNED


def _stray_boxes(boxes: Boxes, ids: list[NDArray[np.bytes_]], file: str) -> Problem | None:
    """A note on the boxes whose processid is in none of the sorted `ids`."""
    stray = boxes.ids
    for some in ids:
        stray = stray[~places_in(np.sort(some, kind="stable"), stray)[1]]
    if not len(stray):
        return None
    what = f"{len(stray):,} of {len(boxes.ids):,} boxes are of specimens that the metadata lack"
    return Problem(file, None, stray[0].decode(), what, "not used")


def read_typed(path: Path, checked: Scan, report: Callable[[Problem], None] = stop) -> Iterator[tuple[int, pa.Table]]:
    """Streams the good rows of scanned metadata with the types of `features("dna", checked.extra_columns)`."""
    schema = pa.schema([(f.name, f.type) for f in features("dna", checked.extra_columns).arrow_schema])
    left_out = np.array(sorted(checked.left_out), dtype=np.int64)
    for first, table in read_strings(path, report=lambda problem: None):
        table = to_types(table, first, path.name, report)
        if checked.boxes is not None:
            table = add_boxes(table, checked.boxes)
        table = table.select(schema.names).cast(schema)
        low, high = np.searchsorted(left_out, [first, first + len(table)])
        if low < high:
            good = np.ones(len(table), dtype=bool)
            good[left_out[low:high] - first] = False
            table = table.filter(pa.array(good))
        yield first, table


# ---- rows ----------------------------------------------------------------------------------------------------------


def iterate_rows(
    source: str | Path, config: str = "dna", splits: Sequence[str] = SPLITS, report: Callable[[Problem], None] = stop
) -> Iterator[dict[str, Any]]:
    """Rows of a release as dicts, split after split; a photo is `{"bytes": ..., "path": "PROCESSID.jpg"}`.

    Reads the metadata once for each split, so that the rows come in the order of the Parquet shards.
    """
    path = find_metadata(source)
    checked = scan(path, report, unassigned=UNASSIGNED in splits)
    photos = None if config == "dna" else Photos(photo_root(source), config)
    if photos is not None:
        photos.check(split for split in splits if split in checked.counts)
    for split in splits:
        for _, table in read_typed(path, checked, report):
            for row in table.filter(pc.equal(pc.fill_null(table["split"], UNASSIGNED), split)).to_pylist():
                if photos is None:
                    yield row
                    continue
                try:
                    data = photos.read(row["processid"], split)
                except ReleaseError as error:
                    report(Problem(path.name, None, row["processid"], str(error), f"left out of {config}"))
                    continue
                yield {"image": {"bytes": data, "path": f"{row['processid']}.jpg"}, **row}
    if photos is not None:
        photos.close()
