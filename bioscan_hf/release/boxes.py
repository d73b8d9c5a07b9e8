"""Bounding boxes of a release: reading the table and joining it to rows by processid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .columns import BOX_COLUMNS, to_types
from .problems import Problem, ReleaseError, stop
from .tables import read_strings

_NO_NUMBER = np.iinfo(np.int32).min


class Boxes(NamedTuple):
    """Bounding boxes of specimens."""

    ids: NDArray[np.bytes_]  # (m,) processids, ascending
    values: NDArray[np.int32]  # (m, 6), in the order of `BOX_COLUMNS`


def ids_of(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """A column of ASCII strings as a bytes array (n,), without a Python object per string; null becomes b""."""
    texts = pc.fill_null(column, "").combine_chunks()
    if not len(texts):
        return np.zeros(0, dtype="S1")
    width = max(1, pc.max(pc.binary_length(texts)).as_py())
    padded = pc.ascii_rpad(texts, width, padding="\0")
    start = np.frombuffer(padded.buffers()[1], np.int32)[padded.offset]
    return np.frombuffer(padded.buffers()[2], f"S{width}", len(texts), int(start))


class Ids:
    """Processids and row numbers, gathered block by block."""

    def __init__(self) -> None:
        self.ids: list[NDArray[np.bytes_]] = []
        self.rows: list[NDArray[np.int64]] = []

    def add(self, column: pa.ChunkedArray, rows: NDArray[np.int64]) -> None:
        """Takes the ids of some rows (n,)."""
        self.ids.append(ids_of(column))
        self.rows.append(rows)

    def sorted(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """(n,) ids, ascending, and (n,) their rows; equal ids in the order of the rows."""
        if not self.ids:
            return np.zeros(0, "S1"), np.zeros(0, np.int64)
        ids, rows = np.concatenate(self.ids), np.concatenate(self.rows)
        self.ids.clear()
        order = np.argsort(ids, kind="stable")  # fast if they are sorted already, as published
        return ids[order], rows[order]


def places_in(ids: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position of each of `wanted` (n,) in the ascending `ids` (m,), and whether it is there."""
    # Cast to the type of `ids`, which numpy would otherwise copy; a truncated id differs in the comparison.
    place = np.minimum(np.searchsorted(ids, wanted.astype(ids.dtype)), len(ids) - 1)
    return place, ids[place] == wanted


def read_boxes(path: Path, report: Callable[[Problem], None] = stop, *, encoding: str = "utf-8") -> Boxes:
    """Reads a table of boxes, about 40 bytes each. The first box of a repeated processid is kept, the others reported.

    Raises ReleaseError if a column is missing, or the file is cut off.
    """
    kinds = dict.fromkeys(BOX_COLUMNS, pa.int32())
    found, values = Ids(), []
    columns = ("processid", *BOX_COLUMNS)
    for first, table in read_strings(path, columns, columns, report, encoding=encoding):
        table = to_types(table, first, path.name, report, kinds)
        found.add(table["processid"], np.arange(first, first + len(table)))
        values.append(np.stack([pc.fill_null(table[name], _NO_NUMBER).to_numpy() for name in BOX_COLUMNS], axis=1))
    if not values:
        raise ReleaseError(f"{path} has no boxes.")
    ids, rows = found.sorted()  # rows from 1 on
    repeated = np.concatenate([[False], ids[1:] == ids[:-1]])
    for i in np.flatnonzero(repeated):
        what = "repeats the processid of an earlier box"
        report(Problem(path.name, int(rows[i]), ids[i].decode(), what, "left out"))
    return Boxes(ids[~repeated], np.concatenate(values)[rows[~repeated] - 1])


def add_boxes(table: pa.Table, boxes: Boxes) -> pa.Table:
    """Appends the columns of `BOX_COLUMNS`, null where a specimen has no box."""
    place, found = places_in(boxes.ids, ids_of(table["processid"]))
    values = boxes.values[place]
    for i, name in enumerate(BOX_COLUMNS.values()):
        table = table.append_column(name, pa.array(values[:, i], mask=~found | (values[:, i] == _NO_NUMBER)))
    return table
