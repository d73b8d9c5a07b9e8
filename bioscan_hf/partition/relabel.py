"""Equal labels for rows with equal barcodes.

Letters: R = rows, B = distinct barcodes. An id of -1 means missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schema import RANKS
from .columns import put, text

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
    pairs, counts = np.unique(group[known] * len(last) + label[known], return_counts=True)
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


def relabel(table: pa.Table, source: np.ndarray, unlabelled: np.ndarray) -> pa.Table:
    """The table with the labels of each row's source, without labels where `unlabelled`, and with the input's labels.

    A row that changes takes the ranks down to family from its source where the source has them, and the finer ranks
    and `taxon` always, so two lineages are never mixed.
    """
    changed = (source != np.arange(len(source))) & ~unlabelled
    if not (changed.any() or unlabelled.any()):
        return table
    for rank in FINE_RANKS:
        if rank in table.column_names:
            table = table.append_column(f"original_{rank}", table[rank])
    source = np.where(changed, source, np.arange(len(source)))
    rows, kept = pa.array(source), pa.array(source, mask=unlabelled)
    coarse = [rank for rank in COARSE_RANKS if rank in table.column_names]
    for rank in coarse:
        names = text(table[rank])
        table = put(table, rank, pc.coalesce(names.take(rows), names).cast(pa.string()))
    for name in (*FINE_RANKS, "taxon"):
        if name in table.column_names:
            names = text(table[name]).take(kept)
            if name == "taxon" and coarse:
                remaining = pc.coalesce(*(text(table[rank]) for rank in reversed(coarse)))
                names = pc.if_else(pa.array(unlabelled), remaining, names)
            table = put(table, name, names.cast(pa.string()))
    return table
