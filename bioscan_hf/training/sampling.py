"""Orders of training rows: batches of similar length, and batches without duplicates.

Shape letters: n = rows of a dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ..barcodes import barcode_digests
from ..schema import MISSING

#: Global batches that are sorted by length together: enough to fill each with one length, few enough to stay random.
SORTED_BATCHES = 64

#: Makes a permutation (n,) of the rows from a number for each row (n,), the global batch size and a seed.
Order: TypeAlias = Callable[[NDArray[np.int64], int, Sequence[int]], NDArray[np.int64]]


class EpochSampler(Sampler[int]):
    """Samples each row once an epoch, in an order that follows from the seed and the epoch.

    Every process and a resumed run use the same order.

    Args:
        order: `similar_length_order` or `distinct_order`.
        values: What the order goes by: the length or the group of each row, (n,).
        batch_size: Rows of a global batch.
    """

    def __init__(self, order: Order, values: NDArray[np.int64], batch_size: int, seed: int):
        self.order, self.values, self.batch_size, self.seed = order, values, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; call it before each epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.values, self.batch_size, (self.seed, self.epoch)).tolist())


def similar_length_order(lengths: NDArray[np.int64], batch_size: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """A permutation (n,) of the rows in which each batch holds rows of similar length.

    The rows are shuffled, sorted by length within every `SORTED_BATCHES` batches, and the batches are shuffled. An
    incomplete batch comes last.
    """
    draw = np.random.default_rng(list(seed))
    order = draw.permutation(len(lengths))
    pool = batch_size * SORTED_BATCHES
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        order[start : start + pool] = part[np.argsort(-lengths[part], kind="stable")]
    full = len(order) // batch_size * batch_size
    batches = draw.permutation(order[:full].reshape(-1, batch_size))  # shuffles the rows of the matrix, the batches
    return np.concatenate([batches.reshape(-1), order[full:]])


def distinct_order(groups: NDArray[np.int64], batch_size: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """A permutation (n,) of the rows in which no batch holds a group twice, where possible.

    Equal barcodes or texts in a batch would be negatives of each other although they are the same input. The rows are
    shuffled; a row whose group is already in the batch waits for the next batch without that group. Rows of groups
    that are too large for this come last.

    Args:
        groups: Group of each row (n,); negative for a row without a group.
    """
    drawn = np.random.default_rng(list(seed)).permutation(len(groups))
    rows = iter(zip(drawn.tolist(), groups[drawn].tolist(), strict=True))
    waiting: dict[int, list[int]] = {}
    order: list[int] = []
    while len(order) < len(groups):
        batch = [_take(waiting, group) for group in list(islice(waiting, batch_size))]
        seen = {int(groups[row]) for row in batch}
        while len(batch) < batch_size:
            row, group = next(rows, (None, 0))
            if row is None:
                break
            if group < 0 or group not in seen:
                batch.append(row)
                seen.add(group)
            else:
                waiting.setdefault(group, []).append(row)
        while len(batch) < batch_size and waiting:  # only waiting rows are left
            batch.append(_take(waiting, next(iter(waiting))))
        order += batch
    return np.array(order, np.int64)


def _take(waiting: dict[int, list[int]], group: int) -> int:
    """Takes a waiting row of a group and moves the group to the end of the queue."""
    rows = waiting.pop(group)
    row = rows.pop()
    if rows:
        waiting[group] = rows
    return row


def groups_of(column: pa.ChunkedArray, *, barcodes: bool = False) -> NDArray[np.int64]:
    """Group of each row (n,), equal for equal values; -1 for null and "".

    Args:
        barcodes: Whether the column holds barcodes, of which trailing N does not count.
    """
    values = pa.array(barcode_digests(column).tolist(), pa.binary()) if barcodes else column
    known = pc.unique(values)
    known = known.filter(pc.not_equal(known, b"" if barcodes else ""))
    return pc.fill_null(pc.index_in(values, value_set=known), MISSING).to_numpy().astype(np.int64)
