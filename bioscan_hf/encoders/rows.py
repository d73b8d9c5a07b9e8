"""Rows of a dataset, as `embed` reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn

from ..barcodes import spelled
from ..dataset.parquet_rows import ParquetRows
from ..models.pixels import photo_bytes
from .base import Encoder

BARCODE = "dna_barcode"

#: What `embed` does with a row whose value is missing.
MISSING = ("error", "invalid", "drop")

#: Rows looked at together for missing values.
_AT_ONCE = 8192


class Rows:
    """Reads a `datasets.Dataset`, `ParquetRows` or an Arrow table, part by part.

    Raises TypeError for a streamed dataset, or another object. Raises ValueError for a missing column, an empty
    dataset, or an unknown `missing`.

    Attributes:
        dropped: Number of rows without a value that were left out.
    """

    def __init__(self, dataset: Any, model: nn.Module, column: str | None, keep: Sequence[str], missing: str):
        if not isinstance(dataset, (Dataset, ParquetRows, pa.Table)):
            raise TypeError(
                f"embed takes a datasets.Dataset or an Arrow table; got {type(dataset).__name__}. Choose a split of a "
                f"DatasetDict, and load without streaming."
            )
        if missing not in MISSING:
            raise ValueError(f"missing={missing!r} is unknown. Choose {', '.join(MISSING)}.")
        self.columns: tuple[str, ...] = (column or BARCODE,)
        self._values: Callable[[pa.Table], list[Any]] = lambda table: table[self.columns[0]].to_pylist()
        if column is None and isinstance(model, Encoder):
            self.columns, self._values = model.columns, model.values
        for name in ("processid", *self.columns, *keep):
            if name not in dataset.column_names:
                raise ValueError(f"The dataset has no column {name!r}; it has {', '.join(dataset.column_names)}.")
        if len(dataset) == 0:
            raise ValueError("The dataset is empty: there is nothing to embed.")
        self.keep, self.missing, self.named = list(keep), missing, ", ".join(map(repr, self.columns))
        self._data = _arrow(dataset, ["processid", *self.columns])
        self._kept = _arrow(dataset, self.keep) if keep else None
        kind = self.table(0, 1)[self.columns[0]].type
        self.photos = pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}
        self.dropped = 0
        if missing == "drop":
            self._drop()

    def _drop(self) -> None:
        """Leaves out the rows without a value, and those with the text ""."""
        starts = range(0, len(self), _AT_ONCE)
        there = np.concatenate([self.present(start, _AT_ONCE)[1] for start in starts])
        self.dropped = int((~there).sum())
        if self.dropped == len(self):
            raise ValueError(f"No row has a value of {self.named}: there is nothing to embed.")
        if self.dropped:
            rows = np.flatnonzero(there)
            self._data = _selected(self._data, rows)
            self._kept = _selected(self._kept, rows) if self.keep else None

    def __len__(self) -> int:
        return len(self._data)

    def table(self, start: int, size: int) -> pa.Table:
        """Rows from `start` on, at most `size` of them, with barcodes in their one spelling."""
        table = _slice(self._data, start, size)
        if BARCODE in self.columns:
            given = table[BARCODE]
            barcodes = spelled(given)
            if barcodes.null_count > given.null_count:  # "" is a sequence without letters
                barcodes = pc.if_else(pc.equal(given, ""), pa.scalar("", barcodes.type), barcodes)
            table = table.set_column(table.column_names.index(BARCODE), BARCODE, barcodes)
        return table

    def kept(self, start: int, size: int) -> dict[str, list[Any]]:
        """Columns that are written beside the embeddings: name -> values."""
        return _slice(self._kept, start, size).to_pydict() if self.keep else {}

    def values(self, start: int, size: int) -> tuple[list[str], list[Any]]:
        """Processids and values of these rows; None where a value is missing.

        Raises ValueError if a processid is missing, or a value and that is not allowed; the processids are named.
        """
        table = self.table(start, size)
        processids, values = table["processid"].to_pylist(), self._values(table)
        if self.photos:
            values = [None if x is None or (x["bytes"] is None and x["path"] is None) else x for x in values]
        if self.missing == "drop":
            values = [value or None for value in values]
        if None in processids:
            raise ValueError(f"The processid of row {start + processids.index(None) + 1} is missing. Give it one.")
        if self.missing == "error" and None in values:
            raise self._missing([name for name, x in zip(processids, values, strict=True) if x is None], start + size)
        return processids, values

    def _missing(self, names: list[str], until: int) -> ValueError:
        """The error for rows without a value; those after row `until` are counted, except for photos."""
        of, count = len(self), len(names)
        if self.photos:
            of = min(until, of)
        else:
            later = (self._values(self.table(start, _AT_ONCE)) for start in range(until, of, _AT_ONCE))
            count += sum(values.count(None) for values in later)
        first = f"the first {of:,}" if of < len(self) else f"{of:,}"
        shown = names[:5]
        them = ", ".join(shown) + (f" and {count - len(shown):,} more" if count > len(shown) else "")
        return ValueError(
            f"{count:,} of {first} rows {'has' if count == 1 else 'have'} no value of {self.named}: {them}. Leave "
            f"them out by --missing drop (in Python missing='drop')."
        )

    def present(self, start: int, size: int) -> tuple[list[str], NDArray[np.bool_]]:
        """Processids of these rows, and which (n,) have a value."""
        if not self.photos:
            processids, values = self.values(start, size)
            return processids, np.array([value is not None for value in values], np.bool_)
        table = self.table(start, size)
        photos = table[self.columns[0]]
        found = pc.or_(*(pc.is_valid(pc.struct_field(photos, name)) for name in ("bytes", "path")))
        return table["processid"].to_pylist(), pc.and_(found, pc.is_valid(photos)).to_numpy()

    def photo_batches(self, start: int, size: int, batch_size: int) -> Iterator[tuple[list[str], list[bytes]]]:
        """Processids and encoded photos in batches, without missing photos."""
        for first in range(start, start + size, batch_size):
            processids, values = self.values(first, min(batch_size, start + size - first))
            there = [i for i, value in enumerate(values) if value is not None]
            if there:
                yield [processids[i] for i in there], photo_bytes([values[i] for i in there])[0]

    def first(self, size: int) -> int:
        """Start of the first window with a value, or ValueError."""
        for start in range(0, len(self), size):
            if self.present(start, size)[1].any():
                return start
        raise ValueError(f"No row has a value of {self.named}: there is nothing to embed.")

    def digest(self, start: int, size: int) -> str:
        """sha256 of these rows; of photos, only of their lengths and paths."""
        if self.photos:
            table = self.table(start, size)
            photos = table[self.columns[0]]
            lengths = pc.binary_length(pc.struct_field(photos, "bytes")).to_pylist()
            paths = pc.struct_field(photos, "path").to_pylist()
            parts = [*table["processid"].to_pylist(), *map(str, lengths), *map(str, paths)]
        else:
            processids, values = self.values(start, size)
            parts = [*processids, *("" if value is None else value for value in values)]
        return text_hash(*parts, *(str(x) for values in self.kept(start, size).values() for x in values))


def _arrow(dataset: Any, names: list[str]) -> Any:
    """Columns of a dataset, whose slices are Arrow tables."""
    if isinstance(dataset, Dataset):
        return dataset.select_columns(names).with_format("arrow")
    return dataset.select(names) if isinstance(dataset, pa.Table) else dataset.select_columns(names)


def _selected(data: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows of `_arrow`."""
    return data.take(pa.array(rows)) if isinstance(data, pa.Table) else data.select(rows)


def _slice(data: Any, start: int, size: int) -> pa.Table:
    return data[start : start + size] if isinstance(data, Dataset) else data.slice(start, size)


def text_hash(*parts: str) -> str:
    """sha256 of texts and of their lengths."""
    lengths = ",".join(str(len(part)) for part in parts)
    return hashlib.sha256("\n".join([lengths, *parts]).encode()).hexdigest()
