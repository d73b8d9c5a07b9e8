"""Streams of training rows, pass after pass, and nested subsets of specimens.

Shape letters: n = rows of a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import IterableDataset
from numpy.typing import NDArray
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info
from transformers.trainer_utils import IntervalStrategy

from ...dataset.release_source import STREAM_ROWS
from ...files import read_json
from ..arguments import BaseTrainingArguments, global_batch_size
from ..collators import PASS
from ..draws import text_id

#: Rows that are converted to Python objects at once.
ROWS_AT_ONCE = 64


@dataclass(eq=False)
class PassStream(TorchIterableDataset[dict[str, Any]]):
    """Rows of a stream, pass after pass without an end, divided among processes and their data workers.

    Global batch by global batch, the rows of all processes are pass 0, then pass 1, and so on: each pass holds every
    row once, in an order of its own. A row has the number of its pass in the column `PASS`. Every process and worker
    reads its own part of the shards. A row is read by `data`, which must not be shuffled or divided.
    """

    data: IterableDataset
    sizes: Sequence[int]  # rows of each shard of `data` that are kept
    batch_size: int  # of one process
    buffer: int  # rows of the shuffle buffer of a worker
    seed: int
    rank: int = 0  # number of this process
    processes: int = 1
    first_step: int = 0  # batches of each process to leave out, before a checkpoint
    limit: int | None = None  # largest `text_id` of the processids to keep; None keeps all

    @property
    def rows(self) -> int:
        """Rows of a pass, n."""
        return sum(self.sizes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        # A DataLoader takes batch after batch from its workers in turn. Each worker of a process has a lane.
        lane = (number + self.first_step) % workers * self.processes + self.rank
        lanes = workers * self.processes
        before = self.first_step * self.processes * self.batch_size
        leave_out = int(self._lengths(0, before, lanes)[lane])
        for number in count():
            lengths = self._lengths(number * self.rows, (number + 1) * self.rows, lanes)
            if leave_out >= lengths[lane]:
                leave_out -= int(lengths[lane])
                continue
            start = int(lengths[:lane].sum())
            rows = self._between(number, start, start + int(lengths[lane]))
            mixed = shuffled(rows, self.buffer, np.random.default_rng([self.seed, number, lane]))
            for row in islice(mixed, leave_out, None):
                yield {**row, PASS: number}
            leave_out = 0

    def _lengths(self, start: int, stop: int, lanes: int) -> NDArray[np.int64]:
        """How many of the rows `start` to `stop - 1` of all processes are of each lane, (lanes,)."""
        first = np.arange(lanes) * self.batch_size
        cycle = lanes * self.batch_size
        there = [
            row // cycle * self.batch_size + np.clip(row % cycle - first, 0, self.batch_size) for row in (start, stop)
        ]
        return there[1] - there[0]

    def _between(self, number: int, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """The rows at the places `start` to `stop - 1` of the shards in the order of a pass."""
        place = 0
        for shard in np.random.default_rng([self.seed, number]).permutation(len(self.sizes)).tolist():
            size = self.sizes[shard]
            first, last = max(start - place, 0), min(stop - place, size)
            if first < last:
                found = 0
                for row in islice(self._shard(shard), first, last):
                    found += 1
                    yield row
                if found < last - first:
                    raise ValueError("The data of the stream changed while it was read: some rows are missing.")
            place += size

    def _shard(self, shard: int) -> Iterator[dict[str, Any]]:
        """The rows of a shard that are kept."""
        # `iter` with a batch size does not divide a shard among the workers of a DataLoader.
        for block in self.data.shard(self.data.num_shards, shard).iter(ROWS_AT_ONCE):
            for values in zip(*block.values(), strict=True):
                row = dict(zip(block, values, strict=True))
                if self.limit is None or text_id(row["processid"]) <= self.limit:
                    yield row


def shuffled(rows: Iterable[Any], size: int, generator: np.random.Generator) -> Iterator[Any]:
    """The rows in a random order, of which `size` are in memory: each takes a random place among them."""
    buffer: list[Any] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        place = int(generator.integers(size))
        yield buffer[place]
        buffer[place] = row
    yield from (buffer[place] for place in generator.permutation(len(buffer)))


def ids_of_shards(processids: IterableDataset, shards: int) -> list[list[str]]:
    """Processids of each shard of a stream, from a stream of the processids alone; ValueError if they differ."""
    tables = processids.with_format("arrow")
    ids = [
        [
            name
            for table in tables.shard(tables.num_shards, shard).iter(10_000)
            for name in table["processid"].to_pylist()
        ]
        for shard in range(tables.num_shards)
    ]
    if len(ids) != shards:  # a release with photos is read in smaller parts than its metadata
        ids = [part[start : start + STREAM_ROWS] for part in ids for start in range(0, len(part), STREAM_ROWS)]
    if len(ids) != shards:
        raise ValueError(
            f"The stream has {shards} parts, but its processids have {len(ids)}. Train without streaming."
        )
    return ids


def largest_id(processids: Iterable[str], most: int | None) -> int | None:
    """Largest `text_id` of the `most` specimens with the smallest ones, nested subsets; None if all are kept."""
    ids = [] if most is None else sorted(map(text_id, processids))
    return ids[most - 1] if most is not None and most < len(ids) else None


def kept(processids: Sequence[str], limit: int | None) -> list[int]:
    """Places of the specimens whose `text_id` is at most `limit`; all for None."""
    return [place for place, name in enumerate(processids) if limit is None or text_id(name) <= limit]


def steps_of(checkpoint: Path | None) -> int:
    """Optimizer steps of a checkpoint; 0 for None."""
    if checkpoint is None:
        return 0
    return int(read_json(checkpoint / "trainer_state.json", {"global_step": int})["global_step"])


def fit_stream(training_args: BaseTrainingArguments, rows: int) -> None:
    """Sets what a run over a stream needs: the Trainer sees neither the end of a pass of `rows` rows nor a resume."""
    batch = global_batch_size(training_args)
    training_args.ignore_data_skip = True  # the stream itself leaves out what a resumed run has read
    if training_args.max_steps <= 0:
        training_args.max_steps = max(1, int(training_args.num_train_epochs * rows / batch))
    for when, every in (("eval_strategy", "eval_steps"), ("save_strategy", "save_steps")):
        if getattr(training_args, when) == IntervalStrategy.EPOCH:
            setattr(training_args, when, IntervalStrategy.STEPS)
            setattr(training_args, every, max(1, rows // batch))
