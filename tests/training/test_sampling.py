"""Orders of rows: batches of similar length, and batches without duplicates."""

from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pytest

from bioscan_hf.training.sampling import EpochSampler, block_order, distinct_order, groups_of, similar_length_order
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
