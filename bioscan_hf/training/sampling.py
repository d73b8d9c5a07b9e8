"""Orders of training rows: batches of similar length, without duplicates, of blocks of a file, of several taxa.

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

#: Streams of blocks that a batch is made of, turns of streams, and blocks whose rows are shuffled together.
LANES, TURNS, BLOCKS_TOGETHER = 8, 4, 4

#: Makes an order (n,) of the rows from a number for each row (n,), the global batch size and a seed.
Order: TypeAlias = Callable[[NDArray[np.int64], int, Sequence[int]], NDArray[np.int64]]


class EpochSampler(Sampler[int]):
    """Samples the rows of an epoch, in an order that follows from the seed and the epoch.

    Every process and a resumed run use the same order.

    Args:
        order: `similar_length_order`, `distinct_order`, `block_order`, or a partial of `taxon_order`.
        values: What the order goes by: the length, the group, the block or the label of each row, (n,).
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


def distinct_order(
    groups: NDArray[np.int64], batch_size: int, seed: Sequence[int], blocks: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """A permutation (n,) of the rows in which no batch holds a group twice, where possible.

    Equal barcodes or texts in a batch would be negatives of each other although they are the same input. The rows are
    shuffled, with `blocks` as by `block_order`; a row whose group is already in the batch waits for the next batch
    without that group. Rows of groups that are too large for this come last. A negative group is none.
    """
    if blocks is None:
        drawn = np.random.default_rng(list(seed)).permutation(len(groups))
    else:
        drawn = block_order(blocks, batch_size, seed)
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


def block_order(blocks: NDArray[np.int64], batch_size: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """A permutation (n,) of the rows that reads blocks, such as row groups of Parquet, one after the other.

    The blocks, whose numbers (n,) ascend, are shuffled and divided into streams. Within a stream, the rows of every
    `BLOCKS_TOGETHER` blocks are shuffled. A batch takes an equal part of each of the `LANES` streams of its turn, and
    turns follow each other in `TURNS`, so that each of up to 8 processes, and each of their data workers, reads few
    blocks. Rows that are left over come last. Few blocks are read in any order.
    """
    draw = np.random.default_rng(list(seed))
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    lanes = next(lanes for lanes in (LANES, 4, 2, 1) if batch_size % lanes == 0)
    share, streams = batch_size // lanes, lanes * TURNS
    if len(starts) <= LANES * BLOCKS_TOGETHER or len(blocks) < streams * share:
        return draw.permutation(len(blocks))
    pieces = np.split(np.arange(len(blocks)), starts[1:])
    rows = np.concatenate([pieces[i] for i in draw.permutation(len(pieces))])
    together = BLOCKS_TOGETHER * len(blocks) // len(starts)
    length = len(rows) // streams
    parts = rows[: length * streams].reshape(streams, length)
    for stream in parts:
        for first in range(0, length, together):
            draw.shuffle(stream[first : first + together])
    whole = length // share * share
    batches = parts[:, :whole].reshape(TURNS, lanes, -1, share).transpose(2, 0, 1, 3)
    rest = np.concatenate([parts[:, whole:].ravel(), rows[length * streams :]])
    return np.concatenate([batches.ravel(), draw.permutation(rest)])


def taxon_order(
    labels: NDArray[np.int64], batch_size: int, seed: Sequence[int], *, taxa: int, rows: int
) -> NDArray[np.int64]:
    """Rows (n,) of an epoch, whose batches hold several rows of some taxa, and rows of all kinds.

    A batch holds `rows` rows of each of `taxa` taxa, or all rows of a smaller taxon, shuffled together with rows of
    the whole dataset. Taxa with one row are not chosen. The taxa take turns, the rows of a taxon too, and so do the
    rows of the dataset: a row can occur twice in an epoch, and rows of large taxa occur less often. An incomplete last
    batch holds rows of the dataset only.

    Source: BarcodeMAE+, https://github.com/bioscan-ml/BarcodeMAE-plus (16 taxa, 4 rows, batches of 128).

    Args:
        labels: Taxon of each row (n,), negative where missing.
    """
    draw = np.random.default_rng(list(seed))
    by_label = np.argsort(labels, kind="stable")
    by_label = by_label[np.searchsorted(labels[by_label], 0) :]
    groups = np.split(by_label, np.flatnonzero(np.diff(labels[by_label])) + 1)
    members = [draw.permutation(group) for group in groups if len(group) > 1]
    used = np.zeros(len(members), np.int64)
    turn, everything = draw.permutation(len(members)), draw.permutation(len(labels))
    place = filled = 0
    order = np.empty(len(labels), np.int64)
    for start in range(0, len(labels) // batch_size * batch_size, batch_size):
        batch: list[NDArray[np.int64]] = []
        for taxon in np.take(turn, range(place, place + min(taxa, len(turn))), mode="wrap") if len(turn) else ():
            group, first = members[taxon], used[taxon]
            used[taxon] += min(rows, len(group))
            batch.append(np.take(group, range(first, used[taxon]), mode="wrap"))
        place += taxa
        rest = batch_size - sum(map(len, batch))
        batch.append(np.take(everything, range(filled, filled + rest), mode="wrap"))
        filled += rest
        order[start : start + batch_size] = draw.permutation(np.concatenate(batch))
    left = len(labels) % batch_size
    order[len(labels) - left :] = np.take(everything, range(filled, filled + left), mode="wrap")
    return order


def groups_of(column: pa.ChunkedArray, *, barcodes: bool = False) -> NDArray[np.int64]:
    """Group of each row (n,), equal for equal values; -1 for null and "". Trailing N of barcodes does not count."""
    values = pa.array(barcode_digests(column).tolist(), pa.binary()) if barcodes else column
    known = pc.unique(values)
    known = known.filter(pc.not_equal(known, b"" if barcodes else ""))
    return pc.fill_null(pc.index_in(values, value_set=known), MISSING).to_numpy().astype(np.int64)
