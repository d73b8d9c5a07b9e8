"""Hierarchical regularisation: numbers of the public code, one row left, unknown taxa, and absent rows."""

import pytest
import torch

from bioscan_hf.losses.contrastive import contrastive_loss
from bioscan_hf.losses.hierarchical import CHAIN, hierarchical_loss
from bioscan_hf.models.gated_fusion import FusionGate


@pytest.fixture(scope="module")
def published(reference):
    """Numbers of the public code, of 12 rows of 2 views; its label 0 is unknown, which is -1 here."""
    return reference.json("since_2025/hir.json")


def given(published):
    views = torch.tensor(published["features"]).requires_grad_()
    ids = torch.tensor(published["labels_order_family_genus_species_row"])[:, [3, 2, 1, 0]]
    ids = torch.where(ids == 0, -1, ids)
    return views, dict(zip(CHAIN, ids.unbind(1), strict=True))


def test_loss_and_gradient_are_those_published(published):
    views, labels = given(published)
    torch.testing.assert_close(views.norm(dim=2), torch.ones(12, 2))
    loss = hierarchical_loss(views, labels)
    loss.backward()
    expected = published["loss"]["hmce"]
    assert loss.item() == pytest.approx(expected["value"], rel=1e-6)
    # The public code does not normalise, so its gradient also has the part along the vector.
    row = torch.tensor(expected["grad_row0"])
    along = (row * views[0].detach()).sum(1, keepdim=True) * views[0].detach()
    torch.testing.assert_close(views.grad[0], row - along, rtol=1e-5, atol=1e-5)


def test_the_loss_of_the_finest_rank(published):
    """2 times the loss of one rank: 2^(1/1)."""
    views, labels = given(published)
    loss = hierarchical_loss(views, {"species": labels["species"]})
    assert loss.item() == pytest.approx(2 * published["layers_species_to_order"][0]["loss"], rel=1e-6)


def test_by_hand():
    """Cosines 0 and temperature 1: three rows, of which two are one genus, have log 2 at the genus.

    Species 0, 1, 2: no positives, loss 0. Genus 0, 0, 1: rows 0 and 1 have the loss log 2; row 2 has no positive.
    Order: of two rows left, of one order, the loss is 0, but at least that of the genus. The mean over three ranks is
    (sqrt 2 + 2^(1/3)) log 2 / 3.
    """
    rows = torch.eye(3, requires_grad=True)
    labels = {"species": [0, 1, 2], "genus": [0, 0, 1], "order": [0, 0, 0]}
    loss = hierarchical_loss(rows, {rank: torch.tensor(ids) for rank, ids in labels.items()}, temperature=1.0)
    assert loss.item() == pytest.approx((2**0.5 + 2 ** (1 / 3)) * 0.693147 / 3, abs=1e-5)
    loss.backward()
    assert torch.isfinite(rows.grad).all() and rows.grad.any()


def test_one_row_left_and_none(published):
    """The public code fails where one row is left; here its loss is that of the finer ranks."""
    assert published["one_row_left"].startswith("IndexError")
    rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    same = torch.zeros(4, dtype=torch.long)
    alone = hierarchical_loss(rows, {"species": same})
    both = hierarchical_loss(rows, {"species": same, "genus": same})
    assert both.item() == pytest.approx(alone.item() / 2 * (2 + 2**0.5) / 2, rel=1e-6)
    for labels, present in ((torch.arange(4), None), (same, torch.zeros(4)), (-same - 1, None)):
        rows.grad = None
        loss = hierarchical_loss(rows, {"species": labels}, present=present)
        loss.backward()
        assert loss.item() == 0 and not rows.grad.any()


def test_unknown_is_not_a_taxon_and_absent_rows_do_not_count():
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    labels = {"species": torch.tensor([0, 0, -1, -1, 5]), "genus": torch.tensor([1, 1, 1, -1, 1])}
    kept = {rank: ids[:4] for rank, ids in labels.items()}
    present = torch.tensor([True, True, True, True, False])
    absent = rows.clone()
    absent[4] = torch.nan
    assert hierarchical_loss(absent, labels, present=present) == hierarchical_loss(rows[:4], kept)
    with pytest.raises(ValueError, match="row 4 are NaN"):
        hierarchical_loss(absent, labels)
    one = hierarchical_loss(rows[:4], {"species": kept["species"]})
    other = hierarchical_loss(rows[:4], {"species": torch.tensor([0, 0, 1, 2])})
    assert one == other, "rows of unknown species were positives"


def test_wrong_arguments():
    rows, labels = torch.eye(3), {"species": torch.arange(3)}
    with pytest.raises(ValueError, match="temperature is 0"):
        hierarchical_loss(rows, labels, temperature=0)
    with pytest.raises(ValueError, match="no labels"):
        hierarchical_loss(rows, {})
    with pytest.raises(ValueError, match="do not fit"):
        hierarchical_loss(rows, {"species": torch.arange(2)})


def test_contrastive_loss_is_the_mean_of_both_published_directions(published):
    """The label loss of the public code, in each direction."""
    found = published["clip_loss_new"]
    vectors = {name: torch.tensor(found[name]) for name in ("anchor", "contrast")}
    loss = contrastive_loss(vectors, 1 / 0.07, torch.tensor(found["labels"]), target_normalization="mean")
    expected = (found["value_anchor_b_contrast_a"] + found["value_reverse"]) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_gate_and_fused_vectors_are_those_published(published):
    found = {name: torch.tensor(values) for name, values in published["fusion"].items()}
    gate = FusionGate(6)
    gate.hidden.weight.data, gate.hidden.bias.data = found["w1"], found["b1"]
    gate.output.weight.data, gate.output.bias.data = found["w2"], found["b2"]
    torch.testing.assert_close(gate.gate(found["image"], found["dna"]), found["gate"], rtol=0, atol=1e-6)
    fused = gate(found["image"], found["dna"])
    torch.testing.assert_close(fused, found["fused_training_normalized"], rtol=0, atol=1e-6)
    rows = torch.arange(8)
    some = gate(found["image"], found["dna"].masked_fill(rows[:, None] == 1, torch.nan), rows > 0, rows != 1)
    torch.testing.assert_close(some[0], found["dna"][0])
    torch.testing.assert_close(some[1], found["image"][1])
    torch.testing.assert_close(some[2:], fused[2:])
