"""Writing a table in the format that the ending of its name tells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ..files import replacing

#: Endings of tables that are written, also with .gz.
WRITTEN = (".csv", ".tsv", ".jsonl")

_ROWS = 10_000


def check_ending(path: str | Path) -> str:
    """The ending of a table's name, without .gz; ValueError for a format that is not written."""
    ending = Path(Path(path).name.removesuffix(".gz")).suffix
    if ending not in WRITTEN:
        raise ValueError(f"{str(path)!r} cannot be written: a table ends in {', '.join(WRITTEN)}, also with .gz.")
    return ending


@contextmanager
def writing_table(path: str | Path) -> Iterator[Callable[[pa.Table], None]]:
    """A function that writes blocks of a table as CSV, TSV or JSON lines, gzipped if the name ends in .gz.

    The file is there once all blocks are written. Raises ValueError for another ending, or a cell of a TSV with a tab
    or line break, since a TSV is not quoted.
    """
    ending = check_ending(path)
    compression = "gzip" if str(path).endswith(".gz") else None
    with (
        replacing(path) as part,
        pa.output_stream(str(part), compression=compression) as stream,
        io.TextIOWrapper(stream, "utf-8", newline="") as text,
    ):
        done = 0
        lines = csv.writer(_Lines(text), lineterminator="\r\n")  # pyarrow would quote every string

        def write(block: pa.Table) -> None:
            nonlocal done
            names = block.column_names
            if ending == ".tsv":
                _check_cells(block, path, done)
            if ending == ".csv":
                lines.writerows([] if done else [names])
                for batch in block.to_batches(_ROWS):
                    if (plain := _unquoted(batch)) is None:
                        lines.writerows(_rows(batch))
                    else:
                        text.write(plain)
            elif ending == ".tsv":
                text.writelines("\t".join(_texts(row)) + "\n" for row in ([] if done else [names]))
                for batch in block.to_batches(_ROWS):
                    text.writelines("\t".join(_texts(row)) + "\n" for row in _rows(batch))
            else:
                for batch in block.to_batches(_ROWS):
                    records = (dict(zip(names, row, strict=True)) for row in _rows(batch))
                    text.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            done += max(len(block), 1)

        yield write


def write_table(table: pa.Table, path: str | Path) -> None:
    """Writes a whole table (`writing_table`)."""
    with writing_table(path) as write:
        write(table)


class _Lines:
    """Ends the lines of `csv.writer` with "\\n". With this line end it would not quote a cell with "\\r"."""

    def __init__(self, text: io.TextIOWrapper):
        self.text = text

    def write(self, line: str) -> None:
        self.text.write(line.removesuffix("\r\n") + "\n")


def _unquoted(batch: pa.RecordBatch) -> str | None:
    """The rows as CSV, ten times faster than `csv`. None if a cell has to be quoted, or is not text."""
    texts = (pa.string(), pa.large_string())
    if batch.num_columns < 2 or not all(field.type in texts for field in batch.schema):
        return None
    written = io.BytesIO()
    try:  # its other styles quote all texts or none; this one refuses texts that need it
        pacsv.write_csv(batch, written, pacsv.WriteOptions(include_header=False, quoting_style="none"))
    except pa.ArrowInvalid:
        return None
    return written.getvalue().decode()


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _texts(row: Any) -> Iterator[str]:
    return ("" if cell is None else str(cell) for cell in row)


def _check_cells(table: pa.Table, path: str | Path, before: int) -> None:
    for name in table.column_names:
        column = table[name]
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        broken = pc.fill_null(pc.match_substring_regex(column, "[\t\r\n]"), False)
        if pc.any(broken).as_py():
            row = before + pc.index(broken, True).as_py() + 1
            raise ValueError(
                f"Row {row}, column {name!r} has a tab or line break, which {str(path)!r} cannot hold, since a TSV is "
                f"not quoted. Give a name that ends in .csv."
            )
