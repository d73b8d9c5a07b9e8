"""Orders of rows: batches of similar length, and batches without duplicates."""

from collections import Counter, OrderedDict
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from bioscan_hf.training.sampling import (
    EpochSampler,
    block_order,
    distinct_order,
    groups_of,
    similar_length_order,
    taxon_order,
)
from bioscan_hf.training.trainer import EpochCallback


@pytest.mark.parametrize("rows", [0, 3, 1000, 1003])
def test_batches_of_similar_length_hold_each_row_once(rows):
    """Lengths from 1 to 100 at random: batches of 8 of a random order spread over about 80 of them."""
    lengths = np.random.default_rng(0).integers(1, 101, rows)
    order = similar_length_order(lengths, 8, (0, 0))
    assert sorted(order.tolist()) == list(range(rows))
    full = order[: rows // 8 * 8].reshape(-1, 8)
    spread = np.ptp(lengths[full], axis=1)
    if rows >= 1000:
        assert np.median(spread) <= 3 and len({tuple(batch) for batch in full}) == len(full)


def test_the_order_follows_from_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 101, 300)
    sampler = EpochSampler(similar_length_order, lengths, 8, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    EpochCallback(sampler).on_epoch_begin(None, type("State", (), {"epoch": 0.0}), None)
    assert len(sampler) == 300 and list(sampler) == first != second
    assert list(EpochSampler(similar_length_order, lengths, 8, seed=2)) != first
    assert lengths[first[:8]].mean() != lengths[np.argsort(lengths)[:8]].mean(), "sorted over the whole epoch"


def test_batches_hold_rows_of_several_taxa():
    """640 rows, of which 400 are of 20 taxa of 5 to 35 rows: batches of 32 have 4 rows of each of 4 taxa or more.

    Of the 16 other rows, most are of other taxa or of none: 4 taxa with 4 rows come by chance in no plain batch.
    """
    draw = np.random.default_rng(0)
    labels = np.full(640, -1)
    labels[:400] = np.repeat(np.arange(20), np.linspace(5, 35, 20).round().astype(int))
    labels = draw.permutation(labels)
    order = taxon_order(labels, 32, (0, 0), taxa=4, rows=4)
    assert order.shape == (640,) and np.array_equal(order, taxon_order(labels, 32, (0, 0), taxa=4, rows=4))
    assert not np.array_equal(order, taxon_order(labels, 32, (0, 1), taxa=4, rows=4))

    def many(rows):
        return sum(count >= 4 for label, count in Counter(labels[rows].tolist()).items() if label >= 0)

    assert min(many(batch) for batch in order.reshape(-1, 32)) >= 4
    assert max(many(batch) for batch in draw.permutation(640).reshape(-1, 32)) < 4
    chosen = Counter(
        label
        for batch in order.reshape(-1, 32)
        for label, n in Counter(labels[batch].tolist()).items()
        if n >= 4 and label >= 0
    )
    assert len(chosen) == 20 and len(set(order.tolist())) > 320
    sampler = EpochSampler(partial(taxon_order, taxa=4, rows=4), labels, 32, seed=0)
    assert list(sampler) == order.tolist() and len(sampler) == 640


def test_small_taxa_and_missing_labels_fill_batches_with_any_rows():
    """A taxon of 2 rows gives both, one of 1 row none; without labels, the order is a permutation."""
    labels = np.array([0, 0, 1, -1, -1, -1, -1, -1, -1, -1])
    order = taxon_order(labels, 5, (0, 0), taxa=3, rows=4)
    assert all({0, 1} <= set(batch.tolist()) for batch in order.reshape(2, 5))
    assert sorted(taxon_order(np.full(13, -1), 5, (0, 0), taxa=3, rows=4).tolist()) == list(range(13))
    assert len(taxon_order(labels[:3], 5, (0, 0), taxa=3, rows=4)) == 3


def test_no_batch_holds_a_group_twice():
    """Groups of 1 to 40 of 400 rows in batches of 10: none twice, except for the rest of the largest group."""
    draw = np.random.default_rng(0)
    groups = np.minimum(draw.zipf(1.6, 400), 60).astype(np.int64)
    groups[draw.random(400) < 0.1] = -1
    order = distinct_order(groups, 10, (0, 0))
    assert sorted(order.tolist()) == list(range(400))
    repeated = [
        len(known) - len(set(known))
        for batch in order.reshape(40, 10)
        for known in [[group for group in groups[batch].tolist() if group >= 0]]
    ]
    plain = [
        len(known) - len(set(known))
        for batch in draw.permutation(400).reshape(40, 10)
        for known in [[group for group in groups[batch].tolist() if group >= 0]]
    ]
    first = next(i for i, count in enumerate(repeated) if count)
    assert first >= 10 and min(plain[:10]) > 0, "there were no duplicates to keep apart"
    assert not np.array_equal(order, distinct_order(groups, 10, (0, 1)))
    sampler = EpochSampler(distinct_order, groups, 10, seed=0)
    assert list(sampler) == order.tolist() and len(sampler) == 400
    sampler.set_epoch(1)
    assert list(sampler) == distinct_order(groups, 10, (0, 1)).tolist()


def test_rare_groups_do_not_share_a_batch():
    """Pairs of 100 groups fit into batches of 10 without duplicates."""
    groups = np.repeat(np.arange(100), 2)
    for epoch in range(5):
        batches = groups[distinct_order(groups, 10, (0, epoch))].reshape(20, 10)
        assert sum(len(set(batch.tolist())) == 10 for batch in batches) >= 19


def test_distinct_batches_of_blocks():
    """Pairs that lie in one block are kept apart; blocks are read about as often as in `block_order`."""
    blocks, groups = np.repeat(np.arange(400), 100), np.arange(40_000) // 2
    orders = [distinct_order(groups, 64, (0, 0), blocks), block_order(blocks, 64, (0, 0))]
    orders.append(distinct_order(groups, 64, (0, 0)))
    assert all(np.array_equal(np.sort(order), np.arange(40_000)) for order in orders)
    twice = [sum(64 - len(set(batch)) for batch in groups[order].reshape(-1, 64).tolist()) for order in orders]
    assert twice[0] <= 2 and twice[1] > 100 and twice[2] <= 2
    reads = [reads_of(blocks[order].tolist(), keep=135) for order in orders]
    assert reads[0] < 1.1 * reads[1] < 0.2 * reads[2]
    assert not np.array_equal(orders[0], distinct_order(groups, 64, (0, 1), blocks))


def reads_of(blocks, keep):
    """How often a reader that keeps the last blocks reads one."""
    kept, reads = OrderedDict(), 0
    for block in blocks:
        reads += block not in kept
        kept[block] = None
        kept.move_to_end(block)
        if len(kept) > keep:
            kept.popitem(last=False)
    return reads


def test_groups_of_a_column():
    column = pa.chunked_array([["a", None, "b"], ["", "a"]])
    groups = groups_of(column)
    assert groups.tolist() == [0, -1, 1, -1, 0]
    barcodes = pa.chunked_array([["ACNN", None, "NN"], ["", "AC", "ACN", "ACG"]])
    groups = groups_of(barcodes, barcodes=True)
    assert groups.tolist() == [0, -1, -1, -1, 0, 0, 1], "trailing N does not count"
