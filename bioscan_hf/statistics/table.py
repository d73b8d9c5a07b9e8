"""A DuckDB table of a release, which can be larger than memory.

A barcode is kept as an id, without its text: 64 bits of the md5 of the sequence without the N at its two ends.
Among 2.5 million distinct barcodes, two have the same id with a probability of 2e-7.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..dataset.parquet import as_text, check_files, unreadable
from ..dataset.release_source import Release
from ..dataset.sequences import BARCODE_MARKER, MARKER_NAMES, counted, of_marker
from ..dataset.sources import resolve
from ..progress import Progress, silent
from ..release.column_names import Rivals, our_columns
from ..release.columns import NUMBERS, to_types
from ..release.layout import find_metadata
from ..release.problems import ReleaseError, refuse
from ..release.rows import cleaned, cleaning, read_rows
from ..release.tables import csv_columns
from ..schema import LABEL_COLUMNS

_LOGGER = logging.getLogger(__name__)

PLACES = ("country", "province_state", "coord-lat", "coord-lon")
SIZES = ("image_measurement_value", "area_fraction", "scale_factor")
BARCODE = "dna_barcode"
COLUMNS_READ = (*LABEL_COLUMNS, BARCODE, *PLACES, *SIZES, "split")

#: Memory that DuckDB uses before it writes to disk, and the most threads that can work within it.
MEMORY, THREADS = "1GB", 4

#: A barcode without the N at its two ends. Almost no barcode has any, and `trim` is slow.
TRIMMED = (
    f"CASE WHEN starts_with({BARCODE}, 'N') OR ends_with({BARCODE}, 'N') THEN trim({BARCODE}, 'N') ELSE {BARCODE} END"
)

#: Id of a barcode, null for a missing one.
BARCODE_ID = f"CASE WHEN {TRIMMED} <> '' THEN md5_number_lower({TRIMMED}) END"


@dataclass(frozen=True)
class Specimens:
    """Columns of a release in the table `specimens` of a temporary database.

    Columns are named as in the release, null where a value is missing (null, "" or NaN). `dna_barcode` is
    replaced by `barcode` (an id), `length` (letters, with the N at the ends), and whether the barcode holds an N
    inside (`n_inside`), an N at an end (`n_at_an_end`) or other letters than ACGTN (`other_letters`).
    """

    source: str | Path
    columns: tuple[str, ...]
    rows: int
    database: duckdb.DuckDBPyConnection
    folder: tempfile.TemporaryDirectory[str]
    encoding: str = "utf-8"

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the result."""
        return self.database.execute(sql).fetchall()

    def arrays(self, sql: str) -> list[Any]:
        """Columns of the result, as numpy arrays."""
        return list(self.database.execute(sql).fetchnumpy().values())


Source = str | Path | Specimens


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return f'"{name}"'


def parts_of(
    source: str | Path, columns: Sequence[str], encoding: str = "utf-8", left_out: Counter[str] | None = None
) -> Iterator[tuple[str | pa.Table, int | None]]:
    """Parts of a release, and the number of all rows if known.

    A part is the path of a Parquet file, or a table with these columns. Raises ReleaseError if a column is missing, a
    file cannot be read, or a cell is not a number. Of a table of BOLD with markers, records of other markers than
    COI-5P and records without a sequence are counted in `left_out` and not in the parts.
    """
    found = resolve(source)
    if isinstance(found, Release):
        path = find_metadata(source)
        markers = [name for name in csv_columns(path, encoding) if name.lower() in MARKER_NAMES][:1]
        wanted = list(
            dict.fromkeys(["processid", *columns, *(markers and [BARCODE, *markers])])
        )  # the id is for errors
        for first, table in read_rows(path, wanted, encoding=encoding):
            table = to_types(table, first, path.name)
            if markers:
                kept = of_marker(table, markers[0], BARCODE_MARKER, Counter() if left_out is None else left_out)
                table = table.filter(kept)
            yield table, None
        return
    files = found.files("dna")
    names = check_files(files)[0].names
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    for file in files:
        if found.built and set(columns) <= set(names):
            yield str(file), rows
        else:
            for table in _tables(file, names, columns):
                yield table, rows


def _tables(file: str | Path, names: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Tables of a Parquet file that `build` has not written, as `read_rows` gives those of a CSV."""
    ours = our_columns(file, names)
    there = [name for name in columns if name in ours]
    if not there or BARCODE in columns and BARCODE not in there:
        raise ReleaseError(f"{file} has no column {BARCODE!r}. Its columns are {', '.join(names)}.")
    if "processid" in ours and "processid" not in there:
        there.append("processid")  # for errors
    rivals = Rivals(file, names, {name: ours[name] for name in there})
    first = 1
    try:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(50_000, columns=[*(ours[name] for name in there), *rivals.all]):
                found = pa.Table.from_batches([batch])
                texts = pa.table({name: as_text(found, name, file) for name in found.column_names})
                rivals.check(first, texts, cleaning)
                table = cleaned({name: texts[ours[name]] for name in there})
                table = to_types(table, first, Path(file).name, refuse)
                for name in set(columns) - set(there):
                    table = table.append_column(name, pa.nulls(len(table), pa.string()))
                yield table
                first += len(table)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error


def run_on_part(database: duckdb.DuckDBPyConnection, sql: str, part: str | pa.Table) -> None:
    """Runs `sql` with "$part" replaced by a part, or ReleaseError."""
    try:
        if isinstance(part, str):
            database.execute(sql.replace("$part", "read_parquet(?)"), [escape(part)])
        else:
            database.register("part", part)
            database.execute(sql.replace("$part", "part"))
    except duckdb.Error as error:
        raise ReleaseError(f"{part if isinstance(part, str) else 'The metadata'} cannot be read ({error}).") from error


def read_specimens(
    source: str | Path,
    columns: Sequence[str] = COLUMNS_READ,
    progress: Progress = silent,
    *,
    encoding: str = "utf-8",
) -> Specimens:
    """Reads columns of a release once, for any number of statistics.

    All rows count, except those of other markers in a table of BOLD; a warning tells how many these are. Only numbers
    are checked, not what else a build checks. Raises ReleaseError if a column is missing, a file is damaged, a cell
    is not a number, or no row is left.

    Args:
        source: Whatever `load_bioscan5m` takes. From the Hub, only the config `dna` is downloaded.
        encoding: Text encoding of a metadata file, such as "latin-1".
        progress: Called with "reading", the rows read so far and all rows (None for a metadata file).
    """
    folder = tempfile.TemporaryDirectory(prefix="bioscan_hf-statistics-", ignore_cleanup_errors=True)
    database = duckdb.connect(
        os.path.join(folder.name, "specimens.duckdb"),
        config={
            "memory_limit": MEMORY,
            "threads": min(THREADS, os.cpu_count() or 1),
            "preserve_insertion_order": False,
            "autoload_known_extensions": False,  # nothing is fetched from the network
            "autoinstall_known_extensions": False,
        },
    )
    selected = ", ".join(sql for name in columns for sql in _selected(name))
    rows, left_out = 0, Counter[str]()
    database.execute("BEGIN")
    for part, total in parts_of(source, columns, encoding, left_out):
        into = "INSERT INTO specimens" if rows else "CREATE OR REPLACE TABLE specimens AS"
        run_on_part(database, f"{into} SELECT {selected} FROM $part", part)
        rows = database.execute("SELECT count(*) FROM specimens").fetchall()[0][0]
        progress("reading", rows, total)
    database.execute("COMMIT")
    if left_out:
        _LOGGER.warning("%s: left out %s.", source, counted(left_out))
    if not rows:
        raise ReleaseError(f"{str(source)!r} holds no rows.")
    return Specimens(source, tuple(columns), rows, database, folder, encoding)


def _selected(name: str) -> list[str]:
    """SQL that selects a column, with null for missing values."""
    if name == BARCODE:
        return [
            f"{BARCODE_ID} AS barcode",
            f"nullif(strlen({BARCODE}), 0)::INTEGER AS length",
            f"contains({TRIMMED}, 'N') AS n_inside",
            f"starts_with({BARCODE}, 'N') OR ends_with({BARCODE}, 'N') AS n_at_an_end",
            f"regexp_matches({BARCODE}, '[^ACGTN]') AS other_letters",
        ]
    column = quoted(name)
    if name not in NUMBERS:
        return [f"nullif({column}::VARCHAR, '') AS {column}"]
    kind = "DOUBLE" if pa.types.is_floating(NUMBERS[name]) else "BIGINT"
    return [f"(CASE WHEN NOT isnan({column}::DOUBLE) THEN {column} END)::{kind} AS {column}"]


def specimens_of(source: Source, columns: Sequence[str]) -> Specimens:
    """`source` as it is, or read now; ValueError without a column."""
    if not isinstance(source, Specimens):
        return read_specimens(source, columns)
    if absent := [name for name in columns if name not in source.columns]:
        raise ValueError(f"These specimens were read without {absent[0]!r}. Add it to the columns of read_specimens.")
    return source
