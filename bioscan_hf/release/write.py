"""Writing a table in the format that the ending of its name tells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..files import replacing

#: Endings of tables that are written; all but .parquet also with .gz.
WRITTEN = (".csv", ".tsv", ".jsonl", ".parquet")

_ROWS = 10_000


def check_ending(path: str | Path) -> str:
    """The ending of a table's name, without .gz.

    Raises:
        ValueError: for a format that is not written.
    """
    name = Path(path).name
    ending = Path(name.removesuffix(".gz")).suffix
    if ending not in WRITTEN or (ending == ".parquet" and name.endswith(".gz")):
        raise ValueError(
            f"{str(path)!r} is not a table that can be written: its name ends in {', '.join(WRITTEN[:-1])} (also with "
            f".gz) or {WRITTEN[-1]}."
        )
    return ending


def write_table(table: pa.Table, path: str | Path) -> None:
    """Writes a table as CSV, TSV, JSON lines or Parquet, atomically; gzipped if the name ends in .gz.

    Raises:
        ValueError: for another ending, or a cell of a TSV with a tab or line break, since a TSV is not quoted.
    """
    ending = check_ending(path)
    if ending == ".tsv":
        _check_cells(table, path)
    with replacing(path) as part:
        if ending == ".parquet":
            pq.write_table(table, part, compression="zstd")
            return
        compression = "gzip" if str(path).endswith(".gz") else None
        with (
            pa.output_stream(str(part), compression=compression) as stream,
            io.TextIOWrapper(stream, "utf-8", newline="") as text,
        ):
            if ending == ".jsonl":
                for row in _rows(table):
                    record = dict(zip(table.column_names, row, strict=True))
                    text.write(json.dumps(record, ensure_ascii=False) + "\n")
                return
            # pyarrow would quote every string
            lines = _Unquoted(text) if ending == ".tsv" else csv.writer(text, lineterminator="\n")
            lines.writerow(table.column_names)
            lines.writerows(_rows(table))


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(_ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


class _Unquoted:
    """Writes tab-separated lines without quotes."""

    def __init__(self, text: io.TextIOWrapper):
        self.text = text

    def writerow(self, row: Any) -> None:
        self.text.write("\t".join("" if cell is None else str(cell) for cell in row) + "\n")

    def writerows(self, rows: Any) -> None:
        for row in rows:
            self.writerow(row)


def _check_cells(table: pa.Table, path: str | Path) -> None:
    for name in table.column_names:
        column = table[name]
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        broken = pc.fill_null(pc.match_substring_regex(column, "[\t\r\n]"), False)
        if pc.any(broken).as_py():
            row = pc.index(broken, True).as_py()
            raise ValueError(
                f"Row {row + 1}, column {name!r} has a tab or line break, which {str(path)!r} cannot hold, since a "
                f"TSV is not quoted. Give a name that ends in .csv."
            )
