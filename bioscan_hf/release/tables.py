"""Tables of a release, streamed as Arrow tables of strings: CSV, TSV or JSON-LD.

A file may be gzipped, or be a member of the published BIOSCAN_5M_Insect_Dataset_metadata_MultiTypes.zip.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import pyarrow as pa
import pyarrow.csv as pacsv

from ..files import replacing
from ..schema import COLUMNS
from .catalogue import METADATA_NAME
from .layout import TABLE_NAME
from .problems import Problem, ReleaseError, stop

_BLOCK_BYTES = 4 << 20  # larger blocks do not fit the processor's cache: half the speed
_LONGEST_RECORD = 1 << 20
_RECORDS = 10_000
_UNREADABLE = (pa.ArrowInvalid, OSError, BadZipFile, zlib.error, EOFError, UnicodeDecodeError)


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """Decompressed bytes of a table, and "csv", "tsv" or "json"."""
    if not path.name.endswith(".zip"):
        with pa.input_stream(str(path), compression="detect") as stream:
            yield stream, _kind(path.name)
        return
    with ZipFile(path) as archive:
        tables = [member for member in archive.namelist() if TABLE_NAME.search(member)]
        tables.sort(key=lambda member: (("csv", "tsv", "json").index(_kind(member)), METADATA_NAME not in member))
        if not tables:
            raise ReleaseError(f"{path} has no metadata: none of its files is a CSV, TSV or JSON-LD.")
        with archive.open(tables[0]) as member:
            yield member, _kind(tables[0])


def _kind(name: str) -> str:
    match = TABLE_NAME.search(name)
    return "csv" if match is None else "json" if match[1].startswith("json") else match[1]


def csv_columns(path: str | Path) -> list[str]:
    """Column names: the first line of a CSV or TSV, or the keys of the first object of JSON-LD."""
    path = Path(path)
    try:
        with _open(path) as (stream, kind):
            if kind == "json":
                return _plain_keys(next(_json_records(path, stream), {}))
            first = io.TextIOWrapper(stream, encoding="utf-8-sig").readline()
    except _UNREADABLE as error:
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

    JSON-LD is an array or a sequence of objects, one per row; keys that contain "@" or ":" are ignored.

    Args:
        required: Columns that must exist.
        columns: Columns to read; all by default.
        report: Called with each line that has too few or too many cells. The line is left out if the call returns.

    Yields:
        Number of the table's first row (the first is 1; lines left out do not count), and the table.

    Raises:
        ReleaseError: if a column is missing, or the file is cut off.
    """
    path = Path(path)
    names = csv_columns(path)
    missing = [name for name in required if name not in names]
    if missing:
        raise ReleaseError(f"{path} has no column {missing[0]!r} (its columns: {', '.join(names)}).")
    wanted = names if columns is None else list(columns)
    first_row = 1
    try:
        with _open(path) as (stream, kind):
            if kind == "json":
                tables = _json_tables(path, stream, names, wanted)
            else:
                tables = _csv_tables(path, stream, names, wanted, "\t" if kind == "tsv" else ",", report)
            for table in tables:
                if len(table):
                    yield first_row, table
                first_row += len(table)
    except _UNREADABLE as error:
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
    """Number of the first row whose line is `text`; the parallel reader does not report it."""
    with _open(path) as (stream, _), io.TextIOWrapper(stream, "utf-8-sig") as lines:
        return next((number for number, line in enumerate(lines) if line.rstrip("\r\n") == text), None)


def _plain_keys(record: Mapping[str, Any]) -> list[str]:
    return [key for key in record if "@" not in key and ":" not in key]


def _json_tables(path: Path, stream: IO[bytes], names: list[str], wanted: list[str]) -> Iterator[pa.Table]:
    schema = pa.schema([(name, pa.string()) for name in wanted])
    known, rows = set(names), []
    for row, record in enumerate(_json_records(path, stream), start=1):
        unknown = [key for key in _plain_keys(record) if key not in known]
        if unknown:
            raise ReleaseError(f"{path.name}, row {row}: the first object has no key {unknown[0]!r}.")
        for name in wanted:
            if not isinstance(record.get(name), str | None):
                raise ReleaseError(f"{path.name}, row {row}: {name} is {record[name]!r}, not a text or a number.")
        rows.append({name: record.get(name) or None for name in wanted})
        if len(rows) == _RECORDS:
            yield pa.Table.from_pylist(rows, schema)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema)


def _json_records(path: Path, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Objects of an array or sequence, one at a time; numbers stay as they are written."""
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
            last = waiting[:place].rstrip()[-1:] or last
            if ended:
                break
            more = text.read(_BLOCK_BYTES)
            waiting, place, ended = waiting[place:] + more, 0, not more
            continue
        if not isinstance(record, dict):
            raise ReleaseError(f"{path} holds {record!r} where an object was expected.")
        yield record
    if array and last != "]":
        raise ReleaseError(f"{path} cannot be read to its end: its array is not closed. Is it complete?")


def read_table(path: str | Path, required: Sequence[str] = COLUMNS) -> pa.Table:
    """A whole metadata file as a table of strings, null where a cell is empty."""
    parts = [table for _, table in read_strings(path, required)]
    if not parts:
        raise ReleaseError(f"{path} has no rows.")
    return pa.concat_tables(parts)


def write_csv(table: pa.Table, path: str | Path) -> None:
    """Writes a table as CSV, gzipped if the name ends in .gz, atomically."""
    compression = "gzip" if str(path).endswith(".gz") else None
    with replacing(path) as part, pa.output_stream(str(part), compression=compression) as stream:
        with io.TextIOWrapper(stream, "utf-8", newline="") as text:
            writer = csv.writer(text, lineterminator="\n")  # pyarrow would quote every string
            writer.writerow(table.column_names)
            for batch in table.to_batches(10_000):
                writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
