"""Rows of Parquet files, read by row groups, without the Arrow copy that `datasets` makes: 190 GB for all photos.

Rows come as those of a `datasets.Dataset` whose photos are not decoded. A row group is read as a whole and kept while
memory lasts, so read rows in an order in which those of a row group lie close together, such as
`training.sampling.block_order`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ..schema import MAX_NUCLEOTIDES
from .parquet import check_files
from .parquet_folder import ParquetFolder
from .release_source import Release
from .request import Request, cut_barcodes
from .sources import resolve

#: Bytes of row groups that a process keeps. Those that were used longest ago are dropped first.
KEPT_BYTES = 2**29


class ParquetRows(torch.utils.data.Dataset[dict[str, Any]]):
    """A map-style dataset of rows of Parquet files, in the order of the files.

    Args:
        files: Files with the same columns.
        columns: Columns to read; None reads all.
        max_nucleotides: Length to which barcodes are cut; None keeps them whole.

    Raises:
        ReleaseError: if a file cannot be read, or has other columns than the first.
        ValueError: for a column that the files do not have.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        columns: Sequence[str] | None = None,
        max_nucleotides: int | None = MAX_NUCLEOTIDES,
    ):
        available = check_files(files)[0].names
        self.column_names, self.max_nucleotides = list(columns or available), max_nucleotides
        if unknown := [name for name in self.column_names if name not in available]:
            raise ValueError(f"Unknown column {unknown[0]!r}. The files have {', '.join(available)}.")
        self._files = [str(file) for file in files]
        self._groups: list[tuple[str, int]] = []
        sizes = [0]
        for file in self._files:
            metadata = pq.read_metadata(file)
            self._groups += [(file, number) for number in range(metadata.num_row_groups)]
            sizes += [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._ends = np.cumsum(sizes)  # row group i has the rows from _ends[i] to _ends[i + 1]
        self._rows: NDArray[np.int64] | None = None  # rows of the files, if some were selected
        self._index: str | None = None  # column of the place of a row
        self._most: int | None = None  # bytes to keep, if not KEPT_BYTES
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._rows is None else len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at some places; a DataLoader calls this for a batch."""
        places = np.asarray(rows, np.int64)
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"There are rows 0 to {len(self) - 1}, not {places.min()} to {places.max()}.")
        asked = places.tolist()
        places = places if self._rows is None else self._rows[places]
        groups = self._group_of(places)
        found: list[Any] = [None] * len(places)
        for group in np.unique(groups):
            here = np.flatnonzero(groups == group)
            taken = self._group(int(group)).take(pa.array(places[here] - self._ends[group]))
            for place, row in zip(here.tolist(), taken.to_pylist(), strict=True):
                found[place] = row if self._index is None else row | {self._index: asked[place]}
        return found

    def __getstate__(self) -> dict[str, Any]:
        """State without the rows that are kept."""
        return {**vars(self), "_kept": OrderedDict()}

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Number of the row group of each row, (n,)."""
        return self._group_of(np.arange(len(self)) if self._rows is None else self._rows)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> ParquetRows:
        """A dataset of the rows at some places."""
        places = np.asarray(rows, np.int64)
        return self._with(_rows=places if self._rows is None else self._rows[places])

    def select_columns(self, columns: Sequence[str]) -> ParquetRows:
        """A dataset with some of the columns."""
        return self._with(column_names=list(columns))

    def in_turn(self, index: str) -> ParquetRows:
        """A dataset to be read from first to last, so that one row group is kept; rows also have their place.

        Args:
            index: Column of the place.
        """
        return self._with(_index=index, _most=0)

    def _with(self, **changes: Any) -> ParquetRows:
        """A copy with other values of some attributes, which has not kept a row group yet."""
        chosen = copy.copy(self)
        vars(chosen).update(changes, _kept=OrderedDict())
        return chosen

    def slice(self, start: int, size: int) -> pa.Table:
        """Rows from `start` on, at most `size` of them."""
        rows = np.arange(start, min(start + size, len(self)))
        rows = rows if self._rows is None else self._rows[rows]
        parts = []
        for run in np.split(rows, np.flatnonzero(np.diff(self._group_of(rows))) + 1) if len(rows) else ():
            group = int(self._group_of(run)[0])
            parts.append(self._group(group).take(pa.array(run - self._ends[group])))
        return pa.concat_tables(parts or [self._group(0).slice(0, 0)])

    def column(self, name: str) -> pa.ChunkedArray:
        """The values of a column, for all rows."""
        read = [pq.read_table(file, columns=[name], partitioning=None) for file in self._files]
        table = cut_barcodes(pa.concat_tables(read), self.max_nucleotides)
        return table[name] if self._rows is None else table[name].take(pa.array(self._rows))

    def _group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._ends, rows, side="right") - 1

    def _group(self, number: int) -> pa.Table:
        table = self._kept.pop(number, None)
        if table is None:
            file, group = self._groups[number]
            # Without threads, which do not survive the fork of a data worker.
            with pq.ParquetFile(file, memory_map=True) as opened:
                table = opened.read_row_group(group, columns=self.column_names, use_threads=False)
            table = cut_barcodes(table.select(self.column_names), self.max_nucleotides)
            size, most = table.nbytes, KEPT_BYTES if self._most is None else self._most
            while self._kept and size + sum(kept.nbytes for kept in self._kept.values()) > most:
                self._kept.popitem(last=False)
        self._kept[number] = table
        return table


def joined(parts: Sequence[ParquetRows]) -> ParquetRows:
    """The rows of some datasets of whole files with the same columns, one dataset after the other."""
    first = parts[0]
    return ParquetRows([file for part in parts for file in part._files], first.column_names, first.max_nucleotides)


def open_rows(
    source: str | Path,
    config: str,
    split: str,
    columns: Sequence[str] | None = None,
    *,
    max_nucleotides: int | None = MAX_NUCLEOTIDES,
    revision: str | None = None,
) -> ParquetRows | None:
    """Rows of a split or several ("a+b") of a source of `load_bioscan5m`, equal to its rows.

    None if the files cannot be read as they are: those that `build` has not written, whose barcodes and names may have
    another spelling, and those that hold rows of several splits.
    """
    found = resolve(source, revision)
    if isinstance(found, ParquetFolder):
        splits = found.splits(config)
        if any(splits[name].cells for name in Request(config, split).choose(list(splits), found.source)):
            return None
    if not isinstance(found, Release) and not found.built:
        return None
    files = found.files(config, split)
    if columns is None and config == "dna":
        columns = [name for name in check_files(files)[0].names if name != "image"]
    return ParquetRows(files, columns, max_nucleotides)
