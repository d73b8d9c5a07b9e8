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
    ids, values = [], []
    columns = ("processid", *BOX_COLUMNS)
    for first, table in read_strings(path, columns, columns, report, encoding=encoding):
        table = to_types(table, first, path.name, report, kinds)
        ids.append(ids_of(table["processid"]))
        values.append(np.stack([pc.fill_null(table[name], _NO_NUMBER).to_numpy() for name in BOX_COLUMNS], axis=1))
    if not ids:
        raise ReleaseError(f"{path} has no boxes.")
    all_ids, boxes = np.concatenate(ids), np.concatenate(values)
    ids.clear()
    values.clear()
    order = np.argsort(all_ids, kind="stable")  # fast if they are sorted already
    all_ids = all_ids[order]
    repeated = np.concatenate([[False], all_ids[1:] == all_ids[:-1]])
    for i in np.flatnonzero(repeated):
        processid = all_ids[i].decode()
        report(Problem(path.name, int(order[i]) + 1, processid, "repeats the processid of an earlier box", "left out"))
    return Boxes(all_ids[~repeated], boxes[order[~repeated]])


def add_boxes(table: pa.Table, boxes: Boxes) -> pa.Table:
    """Appends the columns of `BOX_COLUMNS`, null where a specimen has no box."""
    place, found = places_in(boxes.ids, ids_of(table["processid"]))
    values = boxes.values[place]
    for i, name in enumerate(BOX_COLUMNS.values()):
        table = table.append_column(name, pa.array(values[:, i], mask=~found | (values[:, i] == _NO_NUMBER)))
    return table
