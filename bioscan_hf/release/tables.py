"""The tables of a BIOSCAN-5M release, streamed as Arrow tables: metadata as CSV, TSV or JSON-LD, and bounding boxes.

A file may be gzipped, or lie in the published BIOSCAN_5M_Insect_Dataset_metadata_MultiTypes.zip, not unpacked.
Layout of a release: https://arxiv.org/abs/2406.12723. This is a part of `release`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from ..schema import COLUMNS

METADATA_NAME = "BIOSCAN_5M_Insect_Dataset_metadata"
METADATA_CSV = f"{METADATA_NAME}.csv"
METADATA_ZIP = f"{METADATA_NAME}_MultiTypes.zip"
BOXES_TSV = "BIOSCAN_5M_Insect_bbox.tsv"

#: Column of the table of boxes -> column of a row. Corners are in pixels of the original photo, x1 and y1 exclusive.
BOX_COLUMNS = {
    "x0": "bbox_x0",
    "y0": "bbox_y0",
    "x1": "bbox_x1",
    "y1": "bbox_y1",
    "width_original": "width_original",
    "height_original": "height_original",
}

NUMBERS = {
    "coord-lat": pa.float64(),
    "coord-lon": pa.float64(),
    "image_measurement_value": pa.int64(),
    "area_fraction": pa.float64(),
    "scale_factor": pa.float64(),
    "inferred_ranks": pa.uint8(),
    "index_bioscan_1M_insect": pa.int64(),
    **dict.fromkeys(BOX_COLUMNS.values(), pa.int32()),
}

_BLOCK_BYTES = 4 << 20  # larger ones fall out of the processor's cache: half the speed
_LONGEST_RECORD = 1 << 20
_RECORDS = 10_000
_NO_NUMBER = np.iinfo(np.int32).min
_SUFFIX = re.compile(r"\.(csv|tsv|json|jsonl|jsonld)(\.gz)?$")


@dataclass(frozen=True)
class Problem:
    """Something in a release that is not as it should be, and what becomes of the row."""

    file: str
    row: int | None
    processid: str | None
    what: str
    consequence: str

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row}"
        name = "" if self.processid is None else f" ({self.processid})"
        return f"{self.file}{row}{name}: {self.what}"


class ReleaseError(ValueError):
    """A release that cannot be read as it stands."""


def stop(problem: Problem) -> None:
    """Handles a problem by raising it: the default wherever a release is read."""
    raise ReleaseError(f"{problem}. Repair it, or go on without it by keep_going (--keep-going), which reports it.")


# ---- where things lie ----------------------------------------------------------------------------------------------


def is_metadata(name: str) -> bool:
    """Whether a file's name is that of a table: .csv, .tsv, .json, .jsonl or .jsonld, or that with .gz, or .zip."""
    return bool(_SUFFIX.search(name)) or name.endswith(".zip")


def find_metadata(source: str | Path) -> Path:
    """The metadata of a release folder (CSV before TSV, JSON-LD and the zip of all), or `source` itself if a file.

    Raises:
        FileNotFoundError: naming the places that were tried.
        ValueError: if `source` is a file of another kind.
    """
    source = Path(source)
    if source.is_file():
        if not is_metadata(source.name):
            raise ValueError(
                f"{str(source)!r} is no metadata file: give a .csv, .tsv, .json, .jsonl or .jsonld (with or without "
                f".gz), the published {METADATA_ZIP}, or the folder of a release."
            )
        return source
    places = [
        folder / f"{METADATA_NAME}.{kind}"
        for kind in ("csv", "tsv", "jsonld")
        for folder in (source / f"bioscan5m/metadata/{kind}", source / f"metadata/{kind}", source)
    ]
    places.append(source / METADATA_ZIP)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"No metadata in {str(source)!r}: neither a metadata file nor a release folder (tried "
        f"{', '.join(str(place) for place in places)}). Give the folder that holds bioscan5m/, or the file itself."
    )


def photo_root(source: str | Path) -> Path:
    """The folder in which the zips and bioscan5m/ of a release lie, for the release folder or its metadata."""
    path = find_metadata(source)
    if Path(source).is_dir():
        return Path(source)
    if path.parent.name not in ("csv", "tsv", "jsonld") or path.parents[1].name != "metadata":
        return path.parent
    return path.parents[3] if path.parents[2].name == "bioscan5m" else path.parents[2]


def find_boxes(metadata: Path) -> Path | None:
    """The table of boxes in the release to which `metadata` belongs, or beside it."""
    places = (photo_root(metadata) / BOXES_TSV, metadata.parent / BOXES_TSV)
    return next((place for place in places if place.is_file()), None)


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """Decompressed bytes of a table, and "csv", "tsv" or "json"."""
    name = path.name
    if not name.endswith(".zip"):
        with pa.input_stream(str(path), compression="detect") as stream:
            yield stream, _kind(name)
        return
    with ZipFile(path) as archive:
        tables = [member for member in archive.namelist() if _SUFFIX.search(member)]
        tables.sort(key=lambda member: (("csv", "tsv", "json").index(_kind(member)), METADATA_NAME not in member))
        if not tables:
            raise ReleaseError(f"{path} holds no metadata: none of its files is a CSV, TSV or JSON-LD.")
        with archive.open(tables[0]) as member:
            yield member, _kind(tables[0])


def _kind(name: str) -> str:
    match = _SUFFIX.search(name)
    return "csv" if match is None else "json" if match[1].startswith("json") else match[1]


# ---- reading -------------------------------------------------------------------------------------------------------


def csv_columns(path: str | Path) -> list[str]:
    """Names of the columns: in the first line of a CSV or TSV, or of the first object of JSON-LD."""
    path = Path(path)
    try:
        with _open(path) as (stream, kind):
            if kind == "json":
                return _plain_keys(next(_json_records(path, stream), {}))
            first = io.TextIOWrapper(stream, encoding="utf-8-sig").readline()
    except (OSError, UnicodeDecodeError, BadZipFile, zlib.error) as error:
        raise ReleaseError(f"{path} is not a readable table ({error}).") from error
    names = next(csv.reader([first], delimiter="\t" if kind == "tsv" else ","), [])
    if not names:
        raise ReleaseError(f"{path} is empty: its first line should name the columns.")
    return names


def read_strings(
    path: str | Path,
    required: Sequence[str] = COLUMNS,
    columns: Sequence[str] | None = None,
    report: Callable[[Problem], None] = stop,
) -> Iterator[tuple[int, pa.Table]]:
    """Streams a CSV, TSV or JSON-LD file as tables of strings, null where a cell is empty.

    JSON-LD is an array or a sequence of objects, one a row; keys with "@" or ":" in them are no columns.

    Args:
        required: Columns that must be there.
        columns: Columns to read; all by default.
        report: Called with each line that has too few or too many cells, which is left out if the call returns.

    Yields:
        Number of the table's first row (the first is 1; lines left out do not count), and the table.

    Raises:
        ReleaseError: a missing column, or a file that breaks off.
    """
    path = Path(path)
    names = csv_columns(path)
    missing = [name for name in required if name not in names]
    if missing:
        raise ReleaseError(f"{path} has no column {missing[0]!r} (its columns: {', '.join(names)}).")
    first_row = 1
    try:
        with _open(path) as (stream, kind):
            wanted = names if columns is None else list(columns)
            if kind == "json":
                tables = _json_tables(path, stream, names, wanted)
            else:
                tables = _csv_tables(path, stream, names, wanted, "\t" if kind == "tsv" else ",", report)
            for table in tables:
                if len(table):
                    yield first_row, table
                first_row += len(table)
    except (pa.ArrowInvalid, OSError, BadZipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path} cannot be read to its end ({error}). Is it complete?") from error


def _csv_tables(
    path: Path,
    stream: IO[bytes],
    names: list[str],
    wanted: list[str],
    delimiter: str,
    report: Callable[[Problem], None],
) -> Iterator[pa.Table]:
    malformed: list[Any] = []

    def skip(row: Any) -> str:
        malformed.append(row)
        return "skip"

    reader = pacsv.open_csv(
        stream,
        pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=True),
        pacsv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=wanted,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    for batch in reader:
        yield pa.Table.from_batches([batch])
        for row in malformed:
            cut = " (has the file been cut off?)" if row.actual_columns < row.expected_columns else ""
            what = f"a line with {row.actual_columns} cells instead of {row.expected_columns}{cut}: {row.text[:60]!r}"
            report(Problem(path.name, _row_of_line(path, row.text), None, what, "left out"))
        malformed.clear()


def _row_of_line(path: Path, text: str) -> int | None:
    """Number of the first row whose line is `text`; a parallel reader does not tell."""
    with _open(path) as (stream, _), io.TextIOWrapper(stream, "utf-8-sig") as lines:
        return next((number for number, line in enumerate(lines) if line.rstrip("\r\n") == text), None)


def _plain_keys(record: Mapping[str, Any]) -> list[str]:
    return [key for key in record if "@" not in key and ":" not in key]


def _json_tables(path: Path, stream: IO[bytes], names: list[str], wanted: list[str]) -> Iterator[pa.Table]:
    cells: dict[str, list[str | None]] = {name: [] for name in wanted}
    known, row = set(names), 0
    for row, record in enumerate(_json_records(path, stream), start=1):
        unknown = [key for key in _plain_keys(record) if key not in known]
        if unknown:
            raise ReleaseError(f"{path.name}, row {row}: {unknown[0]!r} is no key of the first object.")
        for name, column in cells.items():
            value = record.get(name)
            if not isinstance(value, str | None):
                raise ReleaseError(f"{path.name}, row {row}: {name} is {value!r}, neither text nor a number.")
            column.append(value or None)
        if row % _RECORDS == 0:
            yield pa.table({name: pa.array(column, pa.string()) for name, column in cells.items()})
            cells = {name: [] for name in wanted}
    if row % _RECORDS:
        yield pa.table({name: pa.array(column, pa.string()) for name, column in cells.items()})


def _json_records(path: Path, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Objects of an array, or one after the other, without holding them all; numbers stay as they are written."""
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    between = re.compile(r"[\s,\[\]]*")
    text = io.TextIOWrapper(stream, encoding="utf-8-sig")
    waiting, last = text.read(_BLOCK_BYTES), ""
    array = waiting.lstrip()[:1] == "["
    place, ended = 0, False
    while True:
        match = between.match(waiting, place)
        place = match.end() if match else place
        try:
            record, place = decoder.raw_decode(waiting, place)
        except json.JSONDecodeError as error:
            if place < len(waiting) and (ended or len(waiting) - place > _LONGEST_RECORD):
                what = "is cut off or damaged" if ended else "is not one object per row"
                raise ReleaseError(f"{path} {what} at {waiting[place : place + 60]!r} ({error.msg}).") from error
            if ended:
                break
            last = waiting[:place].rstrip()[-1:] or last
            more = text.read(_BLOCK_BYTES)
            waiting, place, ended = waiting[place:] + more, 0, not more
            continue
        if not isinstance(record, dict):
            raise ReleaseError(f"{path} holds {record!r} where an object was expected.")
        yield record
    last = waiting[:place].rstrip()[-1:] or last
    if array and last != "]":
        raise ReleaseError(f"{path} cannot be read to its end: its array is not closed. Is it complete?")


def read_table(path: str | Path, required: Sequence[str] = COLUMNS) -> pa.Table:
    """A whole metadata file as a table of strings, null where a cell is empty."""
    parts = [table for _, table in read_strings(path, required)]
    if not parts:
        raise ReleaseError(f"{path} holds no rows.")
    return pa.concat_tables(parts)


def write_csv(table: pa.Table, path: str | Path) -> None:
    """Writes a table as CSV (gzipped if the name ends in .gz), whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        compression = "gzip" if path.suffix == ".gz" else None
        with pa.output_stream(str(part), compression=compression) as stream, io.TextIOWrapper(stream, "utf-8") as text:
            writer = csv.writer(text, lineterminator="\n")  # pyarrow's own would quote every string
            writer.writerow(table.column_names)
            for batch in table.to_batches(10_000):
                writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# ---- numbers and boxes ---------------------------------------------------------------------------------------------


def to_types(
    table: pa.Table,
    first_row: int,
    file: str,
    report: Callable[[Problem], None] = stop,
    kinds: Mapping[str, pa.DataType] = NUMBERS,
) -> pa.Table:
    """Gives the number columns of a table of strings their types; a cell without a number is reported, then null."""
    for name, kind in kinds.items():
        if name not in table.column_names:
            continue
        column = table[name]
        try:  # Whole numbers may be written as "150502.0".
            values = pc.cast(pc.cast(column, pa.float64()), kind)
        except pa.ArrowInvalid:
            values, bad = _numbers_that_fit(column, kind)
            for i in np.flatnonzero(bad):
                what = f"{name} is {column[int(i)].as_py()!r}, not a number"
                what += f" of the type {kind}" if pa.types.is_integer(kind) else ""
                report(Problem(file, first_row + int(i), table["processid"][int(i)].as_py(), what, "cell emptied"))
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def _numbers_that_fit(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
    """The column as `kind`, null where a cell is no such number, and which cells are not."""
    ok = pc.fill_null(pc.match_substring_regex(column, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"), False)
    values = pc.cast(pc.if_else(ok, column, None), pa.float64())
    if pa.types.is_integer(kind):
        bits, signed = kind.bit_width, pa.types.is_signed_integer(kind)
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1)) if signed else (0.0, 2.0**bits)
        whole = pc.and_(
            pc.equal(values, pc.round(values)), pc.and_(pc.greater_equal(values, low), pc.less(values, high))
        )
        values = pc.if_else(pc.fill_null(whole, False), values, None)
    bad = pc.and_(pc.is_valid(column), pc.is_null(values))
    return pc.cast(values, kind), bad.to_numpy(zero_copy_only=False)


def ids_of(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """A column of ASCII texts as bytes of one width (n,), without a Python object for each; null is empty."""
    texts = pc.fill_null(column, "").combine_chunks()
    if not len(texts):
        return np.zeros(0, dtype="S1")
    width = max(1, pc.max(pc.binary_length(texts)).as_py())
    padded = pc.ascii_rpad(texts, width, padding="\0")
    start = np.frombuffer(padded.buffers()[1], np.int32)[padded.offset]
    return np.frombuffer(padded.buffers()[2], f"S{width}", len(texts), int(start))


class Boxes(NamedTuple):
    """Bounding boxes of specimens.

    Attributes:
        ids: (m,) processids, ascending.
        values: (m, 6) int32 in the order of `BOX_COLUMNS`.
    """

    ids: NDArray[np.bytes_]
    values: NDArray[np.int32]


def read_boxes(path: Path, report: Callable[[Problem], None] = stop) -> Boxes:
    """The boxes of a TSV by processid, about 40 bytes each. Of a repeated processid, reported, the first box stays.

    Raises:
        ReleaseError: if a column is missing, or the file breaks off.
    """
    kinds = dict.fromkeys(BOX_COLUMNS, pa.int32())
    ids, values = [], []
    for first, table in read_strings(path, ("processid", *BOX_COLUMNS), ("processid", *BOX_COLUMNS), report):
        table = to_types(table, first, path.name, report, kinds)
        ids.append(ids_of(table["processid"]))
        columns = [pc.fill_null(table[name], _NO_NUMBER).to_numpy() for name in BOX_COLUMNS]
        values.append(np.stack(columns, axis=1))
    if not ids:
        raise ReleaseError(f"{path} holds no boxes.")
    everything, boxes = np.concatenate(ids), np.concatenate(values)
    ids.clear()
    values.clear()
    order = np.argsort(everything, kind="stable")  # in no time where they are sorted
    everything = everything[order]
    repeated = np.concatenate([[False], everything[1:] == everything[:-1]])
    for i in np.flatnonzero(repeated):
        processid = everything[i].decode()
        report(Problem(path.name, int(order[i]) + 1, processid, "repeats the processid of an earlier box", "left out"))
    return Boxes(everything[~repeated], boxes[order[~repeated]])


def places_in(ids: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Place of each of `wanted` (n,) in the ascending `ids` (m,), and whether it is there."""
    # In the type of `ids`, which numpy would copy otherwise; what that cuts off is not equal below.
    place = np.minimum(np.searchsorted(ids, wanted.astype(ids.dtype)), len(ids) - 1)
    return place, ids[place] == wanted


def add_boxes(table: pa.Table, boxes: Boxes) -> pa.Table:
    """Appends the columns of `BOX_COLUMNS`, null where a specimen has no box."""
    place, found = places_in(boxes.ids, ids_of(table["processid"]))
    values = boxes.values[place]
    for i, name in enumerate(BOX_COLUMNS.values()):
        table = table.append_column(name, pa.array(values[:, i], mask=~found | (values[:, i] == _NO_NUMBER)))
    return table
