"""Arrow columns of a table as ids, and checks of the columns that a partition needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NEEDED_COLUMNS = ("processid", "genus", "species", "dna_barcode")


def text(column: Any) -> Any:
    """A column as large_string, which holds more than 2 GiB of barcodes; null where it is empty."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = column.cast(pa.large_string())
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.large_string()), column)


def encode(column: Any) -> tuple[np.ndarray, Any]:
    """Ids (R,), -1 for null, and the distinct values."""
    if len(column) == 0:
        column = pa.array([], column.type)  # pyarrow 21 cannot combine the chunks of an empty dictionary column
    encoded = column.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    ids = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return ids, encoded.dictionary


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with a column replaced, or appended."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def examples(values: Any, n: int = 3) -> str:
    """The first values, for an error."""
    return ", ".join(repr(value) for value in values[:n].to_pylist()) + (", ..." if len(values) > n else "")


def require_columns(table: pa.Table, needed: Iterable[str]) -> None:
    """Raises ValueError for a missing column."""
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise ValueError(
            f"The table has no column {', '.join(map(repr, missing))}. A partition needs {', '.join(needed)}; "
            f"the table has {', '.join(table.column_names)}. Rename or add the missing ones."
        )
