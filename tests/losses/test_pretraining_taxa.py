"""Losses on [CLS] that learn from names: numbers by hand, missing labels, and gradients."""

import math

import pytest
import torch

from bioscan_hf.losses.pretraining_taxa import MAX_PAIRS, class_sum, draw_pairs, pair_loss, triplet_loss


def test_classes_by_hand():
    """Two of three rows have a label: log(1 + e**-1) = 0.313262 and log(1 + e) = 1.313262."""
    logits = torch.tensor([[1.0, 0], [1, 0], [9, 0]], requires_grad=True)
    total = class_sum(logits, torch.tensor([0, 1, -1]))
    assert total.item() == pytest.approx(1.626523, abs=1e-6)
    total.backward()
    assert not logits.grad[2].any()
    nothing = class_sum(logits, torch.tensor([-1, -100, -1000]))
    assert nothing.item() == 0 and nothing.requires_grad


@pytest.mark.parametrize(
    ("sizes", "same", "different"),
    [([20, 20], 64, 64), ([3, 60], 64, 64), ([40, 1], 128 - 40, 40), ([1] * 12, 0, 66), ([2, 1], 1, 2), ([9], 36, 0)],
)
def test_pairs_are_half_of_one_taxon(sizes, same, different):
    """12 single rows have 12 * 11 / 2 = 66 pairs; where a kind has few, the other fills up to 128."""
    labels = torch.cat([torch.full((size,), taxon) for taxon, size in enumerate(sizes)] + [torch.full((5,), -1)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pairs, equal = draw_pairs(labels, seed=3)
    assert (equal.sum().item(), (~equal).sum().item()) == (same, different)
    assert len(pairs) <= MAX_PAIRS and (labels[pairs] >= 0).all() and (pairs[:, 0] < pairs[:, 1]).all()
    assert torch.equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], equal)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert torch.equal(draw_pairs(labels, seed=3)[0], pairs)
    if sum(sizes) > 20:
        assert not torch.equal(draw_pairs(labels, seed=4)[0], pairs)


def test_pair_loss_by_hand():
    """The score is the sum of both rows: 3 for the pair of one taxon, 1 and 2 for the others.

    log(1 + e**-3) = 0.048587, log(1 + e) = 1.313262 and log(1 + e**2) = 2.126928; their mean is 1.162926.
    """
    rows = torch.tensor([[1.0], [2.0], [0.0]], requires_grad=True)
    loss = pair_loss(rows, torch.tensor([4, 4, 7]), lambda both: both.sum(1, keepdim=True), seed=0)
    assert loss.item() == pytest.approx(1.162926, abs=1e-6)
    weight = torch.ones(2, 1, requires_grad=True)
    nothing = pair_loss(rows, torch.tensor([-1, 4, -1]), lambda both: both @ weight, seed=0)
    nothing.backward()
    assert nothing.item() == 0 and not weight.grad.any(), "each weight takes part, with a gradient of 0"


def test_triplet_by_hand():
    """Unit rows at 0, 90 and 180 degrees with labels 0, 0, 1: cosine distances 1, 2 and 1.

    Anchor 1: 1 - 2 = -1; anchor 2: 1 - 1 = 0; the third has no partner: (log(1 + e**-1) + log 2) / 2 = 0.503205. The
    row without a label is nearer than any, and counts for nothing.
    """
    rows = torch.tensor([[1.0, 0], [0, 2], [-3, 0], [1, 0.01]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, -1])
    loss = triplet_loss(rows, labels)
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2, abs=1e-6)
    loss.backward()
    assert rows.grad[:3].any() and not rows.grad[3].any()
    for none in ([0, 0, 0, 0], [0, 1, 2, -1], [-1, -1, -1, -1]):
        rows.grad = None
        loss = triplet_loss(rows, torch.tensor(none))
        loss.backward()
        assert loss.item() == 0 and not rows.grad.any()
