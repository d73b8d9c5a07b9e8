"""Writing tables of answers: CSV, TSV, JSON, Parquet and XLSX, by the ending of the name; "-" is standard output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ..files import replacing, writing

FORMATS = (".csv", ".tsv", ".json", ".parquet", ".xlsx")

#: Rows of a sheet, by the file format.
MOST_ROWS = 1_048_576

_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def check_ending(path: str | Path) -> None:
    """Raises ValueError unless the ending tells a format."""
    if str(path) != "-" and Path(path).suffix.lower() not in FORMATS:
        raise ValueError(
            f"{str(path)!r}: the ending tells the format; give {', '.join(FORMATS)}, or - for the screen."
        )


def write_answers(tables: pa.Table | Iterable[pa.Table], path: str | Path) -> None:
    """Writes a table of answers, or its parts, numbers with four decimals except in Parquet.

    A column of lists, such as `neighbours`, is only in JSON and Parquet.

    Raises:
        ValueError: for another ending, and more rows than a sheet of XLSX holds.
        ModuleNotFoundError: for XLSX without openpyxl; it says how to install it.
    """
    check_ending(path)
    parts = iter([tables] if isinstance(tables, pa.Table) else tables)
    if str(path) == "-":
        _write_csv(parts, sys.stdout.buffer, ",")
        sys.stdout.flush()
        return
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".xlsx":
        _write_xlsx(parts, path)
    elif ending == ".parquet":
        with replacing(path) as file:
            first = next(parts)
            with pq.ParquetWriter(file, first.schema) as writer:
                for part in chain([first], parts):
                    writer.write_table(part)
    elif ending == ".json":
        with writing(path) as file:
            file.write("[")
            rows = (row for part in parts for row in _rounded(part).to_pylist())
            for number, row in enumerate(rows):
                file.write(",\n" if number else "\n")
                json.dump(row, file, ensure_ascii=False)
            file.write("\n]\n")
    else:
        with writing(path, "wb") as file:
            _write_csv(parts, file, "," if ending == ".csv" else "\t")


def _write_csv(parts: Iterable[pa.Table], file: IO[bytes], delimiter: str) -> None:
    for number, part in enumerate(parts):
        options = {"delimiter": delimiter, "quoting_style": "needed", "include_header": number == 0}
        pacsv.write_csv(_flat(part), file, pacsv.WriteOptions(**options))


def _flat(table: pa.Table) -> pa.Table:
    """The columns that a table of text holds, rounded."""
    return _rounded(table.select([field.name for field in table.schema if not pa.types.is_nested(field.type)]))


def _rounded(table: pa.Table) -> pa.Table:
    for place, name in enumerate(table.column_names):
        if pa.types.is_floating(table[name].type):
            table = table.set_column(place, name, pc.round(table[name], 4))
    return table


def _write_xlsx(parts: Iterable[pa.Table], path: Path) -> None:
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Sheets of XLSX need openpyxl: pip install openpyxl. Or give a name that ends in .csv."
        ) from None
    book = Workbook(write_only=True)
    sheet = book.create_sheet("names")
    sheet.freeze_panes = "B2"

    def cell(value: Any) -> Any:
        """Text stays text, also "=1+1" and "#N/A"; letters that XLSX does not allow become U+FFFD."""
        if not isinstance(value, str):
            return value
        value = _NOT_IN_XML.sub("\ufffd", value)
        if not value.startswith(("=", "#")):
            return value
        found = WriteOnlyCell(sheet, value)
        found.data_type = "s"
        return found

    rows = 0
    for part in map(_flat, parts):
        if not rows:
            sheet.append(part.column_names)
            rows = 1
        rows += len(part)
        if rows > MOST_ROWS:
            raise ValueError(f"A sheet of XLSX holds {MOST_ROWS - 1:,} answers, and there are more. Give .csv.")
        for batch in part.to_batches(10_000):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                sheet.append([cell(value) for value in row])
    with replacing(path) as part, open(part, "wb") as file:
        save: IO[bytes] = file
        book.save(save)
