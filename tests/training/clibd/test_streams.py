"""Streams that count their passes: every row once a pass, for any number of processes and workers, also resumed."""

from itertools import islice

import numpy as np
import pytest
from clibd_runs import arguments
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader

from bioscan_hf.training.clibd import data as clibd_data
from bioscan_hf.training.clibd.streams import PASS, PassStream, ids_of_shards, kept, largest_id, shuffled

ROWS, BATCH = 53, 4


def stream(**options):
    """Rows of 7 shards of unequal sizes, two of which are empty for a small `limit`."""
    parts = [(17, 4), (36, 3)]
    start, made, sizes = 0, [], []
    for rows, shards in parts:
        ids = [f"P{row}" for row in range(start, start + rows)]
        made.append(Dataset.from_dict({"processid": ids}).to_iterable_dataset(num_shards=shards))
        start += rows
    data = concatenate_datasets(made)
    sizes = [len(ids) for ids in ids_of_shards(data, data.num_shards)]
    return PassStream(data, sizes, BATCH, buffer=6, seed=3, **options)


def batches(rank, processes, workers, steps, first_step=0):
    """Batches of one process, as a DataLoader of the trainer reads them."""
    data = stream(rank=rank, processes=processes, first_step=first_step)
    return list(islice(DataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=list), steps))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)])
def test_each_pass_holds_every_row_once_in_its_own_order(processes, workers):
    steps = -(-3 * ROWS // (BATCH * processes))
    of_ranks = [batches(rank, processes, workers, steps) for rank in range(processes)]
    rows = [row for step in zip(*of_ranks, strict=True) for batch in step for row in batch]
    passes = [rows[number * ROWS : (number + 1) * ROWS] for number in range(3)]
    for number, found in enumerate(passes):
        assert {row["processid"] for row in found} == {f"P{row}" for row in range(ROWS)}
        assert {row[PASS] for row in found} == {number}
    orders = [[row["processid"] for row in found] for found in passes]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    for done in (1, 8):  # within the first pass, and within another
        resumed = [batches(rank, processes, workers, 3, done) for rank in range(processes)]
        assert resumed == [of_rank[done : done + 3] for of_rank in of_ranks]


def test_a_row_that_is_lost_is_an_error():
    data = stream()
    data.sizes = [size + 1 for size in data.sizes]
    with pytest.raises(ValueError, match="some rows are missing"):
        list(islice(data, ROWS + 1))


def test_subsets_are_nested_and_the_same_in_a_stream():
    """The 5 smallest are among the 20 smallest; a stream of them has no other row."""
    ids = [f"P{row}" for row in range(ROWS)]
    small, large = (largest_id(ids, most) for most in (5, 20))
    assert small < large and largest_id(ids, ROWS) is None and largest_id(reversed(ids), 5) == small
    data = stream(limit=large)
    data.sizes = [len(kept(of_shard, large)) for of_shard in ids_of_shards(data.data, data.data.num_shards)]
    found = [row["processid"] for row in islice(data, 40)]
    assert sorted(found[:20]) == sorted(set(found)) and len(set(found)) == 20
    assert len(kept(ids, small)) == 5 and {ids[row] for row in kept(ids, small)} < set(found)


def test_shuffled_rows_are_a_permutation():
    for size in (1, 5, 100):
        found = list(shuffled(range(30), size, np.random.default_rng(0)))
        assert sorted(found) == list(range(30)) and (found != list(range(30))) == (size > 1)


def test_the_shards_of_every_source_are_counted(release, dataset, model, tmp_path):
    """A release with photos is streamed in smaller parts than Parquet files; each row is counted."""
    for source in (dataset, release):
        options, training_args = arguments(source, model, tmp_path, streaming=True, train_split="pretrain+train")
        rows = clibd_data.load_training_rows(options, training_args, ["image", "dna"])
        whole = clibd_data.open_specimens(options, "pretrain+train", ["processid"])
        found = list(islice(rows, rows.rows))
        assert sorted(row["processid"] for row in found) == sorted(whole["processid"])
        assert found[0]["image"]["bytes"].startswith(b"\xff\xd8")
