"""Equal labels for rows with equal barcodes.

Letters: R = rows, B = distinct barcodes. An id of -1 means missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..schema import RANKS
from .columns import put, text
from .specimens import Names

#: Ranks that a row takes from, or loses with, its species. The input's names are kept in `original_RANK`.
FINE_RANKS = ("subfamily", "genus", "species")
COARSE_RANKS = tuple(rank for rank in RANKS if rank not in FINE_RANKS)


def commonest(group: np.ndarray, label: np.ndarray, last: np.ndarray, n_groups: int) -> np.ndarray:
    """The most common label of each group, -1 without labels; of equally common labels the first in order.

    Args:
        last: One boolean per label. Marked labels count only in a group without other labels.
    """
    winner = np.full(n_groups, -1, dtype=np.int64)
    known = (group >= 0) & (label >= 0)
    if not known.any():
        return winner
    # In 64 bits: at full size, barcodes x species exceed 32.
    pairs, counts = np.unique(group[known].astype(np.int64) * len(last) + label[known], return_counts=True)
    of, candidate = np.divmod(pairs, len(last))
    order = np.lexsort((candidate, -counts, last[candidate], of))
    of, candidate = of[order], candidate[order]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    winner[of[first]] = candidate[first]
    return winner


def label_sources(processids: Any, barcode: np.ndarray, species: np.ndarray, winner: np.ndarray) -> np.ndarray:
    """The row that each row takes its labels from (R,): itself, or the first by processid with the winning species.

    Args:
        winner: Species of each barcode (B,).
    """
    source = np.arange(len(barcode))
    changed = species != winner[barcode]
    disputed = np.zeros(len(winner), dtype=bool)
    disputed[barcode[changed]] = True
    givers = np.flatnonzero(disputed[barcode] & ~changed)
    givers = givers[pc.sort_indices(processids.take(givers)).to_numpy()]
    _, first = np.unique(barcode[givers], return_index=True)
    giver_of = np.full(len(winner), -1, dtype=np.int64)
    giver_of[barcode[givers[first]]] = givers[first]
    source[changed] = giver_of[barcode[changed]]
    return source


def relabel(
    given: pa.Table,
    table: pa.Table,
    names: Mapping[str, Names],
    source: npt.NDArray[np.int64],
    hidden: npt.NDArray[np.bool_],
    first: int,
) -> pa.Table:
    """A block with the labels of each row's source, without labels where `hidden`, and with the input's labels.

    A row that changes takes the ranks down to family from its source where the source has them, and the finer ranks
    and `taxon` always, so two lineages are never mixed.

    Args:
        given: The block as it was given.
        table: The block with names in their one form.
        names: Names of the whole table.
        source: Source of each row of the whole table (R,).
        hidden: Rows of the whole table that lose their labels (R,).
        first: Number of the block's first row.
    """
    if not (hidden.any() or (source != np.arange(len(source))).any()):
        return table
    for rank in FINE_RANKS:
        if rank in table.column_names:
            table = table.append_column(f"original_{rank}", given[rank])
    rows = slice(first, first + len(table))
    source, hidden = source[rows], hidden[rows]
    changed = (source != np.arange(first, first + len(table))) & ~hidden
    mask = pa.array(changed)
    coarse = [rank for rank in COARSE_RANKS if rank in table.column_names]
    for rank in (name for name in (*COARSE_RANKS, *FINE_RANKS, "taxon") if name in table.column_names):
        column = text(table[rank]).cast(pa.string())
        taken = _names_of(names[rank], np.where(changed, source, -1))
        if rank in coarse:
            table = put(table, rank, pc.coalesce(taken, column))
            continue
        column = pc.if_else(mask, taken, column)
        rest = pa.scalar(None, pa.string())
        if rank == "taxon" and coarse:
            rest = pc.coalesce(*(text(table[name]).cast(pa.string()) for name in reversed(coarse)))
        table = put(table, rank, pc.if_else(pa.array(hidden), rest, column))
    return table


def _names_of(names: Names, rows: npt.NDArray[np.int64]) -> pa.Array:
    """Names of some rows of the whole table; null for the row -1."""
    ids = np.where(rows < 0, -1, names.ids[rows])
    return pa.array(names.names, pa.string()).take(pa.array(ids, mask=ids < 0))
