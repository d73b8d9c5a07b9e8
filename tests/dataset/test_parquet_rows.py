"""Rows read from Parquet by row groups equal those of `load_bioscan5m`, and no row group is read twice in its turn."""

import pickle
from collections import OrderedDict

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Image
from torch.utils.data import DataLoader

from bioscan_hf.dataset import parquet, parquet_rows
from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset.parquet_rows import ParquetRows, joined, open_rows
from bioscan_hf.schema import RANKS
from bioscan_hf.simulate.release import simulate_release
from bioscan_hf.training.sampling import EpochSampler, block_order

COLUMNS = ["processid", "image", "dna_barcode", *RANKS]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return simulate_release(tmp_path_factory.mktemp("rows") / "release", 60, packages=("cropped_256",))


@pytest.fixture(scope="module")
def built(release):
    folder = release.parent / "parquet"
    build(release, folder)
    for file in folder.glob("cropped_256/*.parquet"):  # several row groups, of 4 rows
        pq.write_table(pq.read_table(file), file, row_group_size=4)
    return folder


def plain(source, split, **options):
    data = load_bioscan5m(source, "cropped_256", split, columns=COLUMNS, **options)
    return data.cast_column("image", Image(decode=False))


@pytest.mark.parametrize("split", ["train", "train+val+pretrain"])
def test_rows_equal_those_of_load_bioscan5m(release, built, split, monkeypatch):
    """One by one, in any order, in slices, in a worker, and of a selection; with a memory of one row group."""
    monkeypatch.setattr(parquet_rows, "KEPT_BYTES", 1)
    manifest = built / "manifest.json"  # the files were written anew, with other sizes
    manifest.rename(built / "manifest.aside")
    try:
        rows = open_rows(built, "cropped_256", split, COLUMNS, max_nucleotides=20)
        expected = plain(built, split, max_nucleotides=20).to_list()
    finally:
        (built / "manifest.aside").rename(manifest)
    assert len(rows) == len(expected) > 10 and len(np.unique(rows.blocks)) > 2
    assert [rows[i] for i in range(len(rows))] == expected
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    assert rows.__getitems__(order) == [expected[i] for i in order]
    assert rows.slice(3, 6).to_pylist() == expected[3:9] and rows.slice(len(rows) - 1, 9).to_pylist() == expected[-1:]
    batches = list(DataLoader(rows, 4, num_workers=1, collate_fn=list))
    assert [row for batch in batches for row in batch] == expected
    chosen = pickle.loads(pickle.dumps(rows.select([7, 2, 9])))
    assert list(chosen) == [expected[i] for i in (7, 2, 9)]
    assert chosen.column("processid").to_pylist() == [expected[i]["processid"] for i in (7, 2, 9)]
    assert chosen.blocks.tolist() == rows.blocks[[7, 2, 9]].tolist()
    assert chosen.select_columns(["genus"])[1] == {"genus": expected[2]["genus"]}
    twice = joined([rows, rows]).in_turn("place")  # a file that is there twice
    count = len(rows)
    assert len(twice) == 2 * count and twice[count + 1] == expected[1] | {"place": count + 1}
    assert twice.__getitems__([count, 0]) == [expected[0] | {"place": count}, expected[0] | {"place": 0}]
    assert twice.column("processid").to_pylist() == 2 * [row["processid"] for row in expected]
    assert list(twice)[-1]["place"] == 2 * count - 1 and len(twice._kept) == 1


def test_a_release_is_built_once_and_read_as_it_is(release):
    rows = open_rows(release, "cropped_256", "train", COLUMNS)
    assert list(rows) == plain(release, "train").to_list() and len(rows) > 2


def test_files_of_other_programs_are_left_to_load_bioscan5m(built, tmp_path):
    """They may have another spelling, or rows of several splits in a file. Unknown columns are named."""
    pq.write_table(pq.read_table(next(built.glob("dna/train*"))), tmp_path / "train.parquet")
    assert open_rows(tmp_path, "dna", "train") is None
    (tmp_path / "train.parquet").rename(tmp_path / "mine.parquet")
    assert open_rows(tmp_path, "dna", "train") is None
    with pytest.raises(ValueError, match="Unknown column 'tribe'. The files have processid"):
        ParquetRows([tmp_path / "mine.parquet"], ["tribe"])


@pytest.mark.parametrize("batch", [64, 20, 7])
def test_block_order(batch):
    """Each row once; another order in each epoch; each of 4 turns, for each of 8 lanes, has its own blocks."""
    sizes = np.random.default_rng(1).integers(90, 110, 400)
    blocks = np.repeat(np.arange(400), sizes)
    sampler = EpochSampler(block_order, blocks, batch, seed=5)
    one = np.array(list(sampler))
    assert np.array_equal(np.sort(one), np.arange(len(blocks)))
    assert np.array_equal(one, list(EpochSampler(block_order, blocks, batch, seed=5)))
    sampler.set_epoch(1)
    assert (one != np.array(list(sampler))).mean() > 0.99
    lanes = {64: 8, 20: 4, 7: 1}[batch]
    streams = 4 * lanes
    tail = streams * (batch // lanes)
    parts = one[: (len(one) - tail) // (4 * batch) * 4 * batch].reshape(-1, 4, lanes, batch // lanes)
    used = [set(blocks[parts[:, turn, lane]].ravel()) for turn in range(4) for lane in range(lanes)]
    assert sum(map(len, used)) <= 400 + streams, "a block is in one stream, or at its border in two"
    # A worker that takes one lane of one turn, and keeps 6 blocks, reads most of them once.
    kept, reads = OrderedDict(), 0
    for block in blocks[parts[:, 1, 0]].ravel().tolist():
        reads += block not in kept
        kept[block] = None
        kept.move_to_end(block)
        while len(kept) > 6:
            kept.popitem(last=False)
    assert reads <= 1.3 * len(used[lanes]) + 4
    mixed = [len(set(blocks[row.ravel()])) for row in parts.reshape(-1, batch)[:-1]]
    assert np.median(mixed) >= min(3.5 * lanes, 0.4 * batch), "the rows of a batch come from many blocks"


def test_few_blocks_are_read_in_any_order():
    blocks = np.repeat(np.arange(5), 10)
    assert sorted(block_order(blocks, 8, [0, 0]).tolist()) == list(range(50))
    assert len(set(blocks[block_order(blocks, 8, [0, 0])[:8]])) > 2


def test_a_large_copy_is_told_beforehand(built, tmp_path, monkeypatch, caplog):
    """Where photos are opened as a `Dataset`: the disk and the time, the first time only."""
    manifest = built / "manifest.json"
    monkeypatch.setattr(parquet, "LARGE_COPY", 1)
    manifest.rename(built / "manifest.aside")  # the files were written anew, with other sizes
    try:
        for _ in range(2):
            plain(built, "train", cache_dir=tmp_path)
    finally:
        (built / "manifest.aside").rename(manifest)
    told = [record.getMessage() for record in caplog.records if "copied once" in record.getMessage()]
    assert len(told) == 1 and "GB are free), about 1 minutes" in told[0] and str(tmp_path) in told[0]
