"""Chains of rows of one species, genus, family and order."""

import numpy as np

from bioscan_hf.training.clibd.chains import chain_order


def tree(rows=600, unknown=0.2):
    """Labels of species, genus, family and order of a strict tree, some of them missing."""
    draw = np.random.default_rng(0)
    species = draw.integers(60, size=rows)
    labels = np.stack([species, species // 4, species // 12, species // 30], 1)
    labels[draw.random(rows) < unknown, 0] = -1
    return labels


def test_each_row_once_and_not_twice_the_same():
    labels = tree()
    order = chain_order(labels, 25, (0, 0))
    assert sorted(order) == list(range(600))
    assert np.array_equal(order, chain_order(labels, 25, (0, 0)))
    assert not np.array_equal(order, chain_order(labels, 25, (0, 1)))


def test_batches_begin_with_whole_chains():
    """Links are of the taxon of the first row, and of another finer taxon, while rows are left for it."""
    labels = tree(unknown=0.0)
    order = chain_order(labels, 23, (3, 0))
    for start in range(0, 300, 23):  # the first half: all taxa still have rows
        chain = labels[order[start : start + 5]]
        for rank in range(4):
            assert chain[rank + 1, rank] == chain[0, rank]
            assert rank == 0 or chain[rank + 1, rank - 1] != chain[0, rank - 1]


def test_batches_hold_more_pairs_of_each_rank_than_random_ones():
    labels = tree()

    def pairs(order, rank):
        batches = labels[order[:575], rank].reshape(-1, 25)
        same = (batches[:, :, None] == batches[:, None]) & (batches >= 0)[:, None]
        return same.sum() - (batches >= 0).sum()

    chains, random = chain_order(labels, 25, (0, 0)), np.random.default_rng(0).permutation(600)
    for rank in range(3):
        assert pairs(chains, rank) > 1.2 * pairs(random, rank)


def test_rows_without_taxa_and_alone():
    assert sorted(chain_order(np.full((7, 4), -1), 3, (0, 0))) == list(range(7))
    assert sorted(chain_order(np.repeat(np.arange(7)[:, None], 4, 1), 3, (0, 0))) == list(range(7))
