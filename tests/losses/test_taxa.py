"""Class weights and hierarchical label smoothing: the published numbers, and what they should do."""

import numpy as np
import pytest
import torch
from tiny import TREE, tiny_bert

from bioscan_hf.losses.taxa import TaxaLoss
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForSequenceClassification
from bioscan_hf.models.taxon_classifier import summed_probabilities, taxa_loss

WEIGHTS = {"0": "none", "0.5": "inverse_sqrt"}


@pytest.fixture(scope="module")
def published(reference):
    return reference.json("since_2025/hierarchical_label_smoothing.json")


def ids(published, name):
    rows = torch.tensor(published[name])
    return rows.masked_fill(rows == published["unknown"], -1)


def loss_of(published, smoothing=None, **options):
    shares = published["smoothed"][smoothing]["smoothing"] if smoothing else None
    rows = ids(published, "train_labels").numpy()
    return TaxaLoss(rows, published["sizes"], published["parents"][1:], smoothing=shares, **options)


def logits_of(published):
    return torch.cat([torch.tensor(part) for part in published["logits"]], 1)


@pytest.mark.parametrize("strength", WEIGHTS)
@pytest.mark.parametrize("smoothing", ["hls", "sls", "default", "none"])
def test_the_published_losses_and_targets(published, smoothing, strength):
    """With `upstream` to 1e-6; without it the constants are missing, and targets sum to 1."""
    labels, logits = ids(published, "labels"), logits_of(published)
    expected = published["loss"][smoothing][strength]
    loss = loss_of(published, smoothing, class_weights=WEIGHTS[strength], upstream=True)
    assert loss.rank_losses(logits, labels).tolist() == pytest.approx(expected["per_rank"], abs=1e-6)
    assert loss(logits, labels).item() == pytest.approx(expected["mean"], abs=1e-6)
    ours = loss_of(published, smoothing, class_weights=WEIGHTS[strength])
    assert ours(logits, labels).item() == pytest.approx(expected["mean"], abs=2e-6)
    for rank, targets in enumerate(published["smoothed"][smoothing]["targets"]):
        known = labels[:, rank] >= 0
        assert torch.allclose(loss.targets(labels, rank)[known], torch.tensor(targets)[known], atol=1e-6)
        assert torch.allclose(ours.targets(labels, rank)[known].sum(1), torch.ones(int(known.sum())))


def test_the_published_class_weights(published):
    loss = loss_of(published, class_weights="inverse_sqrt")
    for rank, weights in enumerate(published["class_weights_strength_0.5"]):
        assert getattr(loss, f"weights_{rank}").tolist() == pytest.approx(weights, abs=1e-6)


def test_the_published_sums_over_children(published):
    logits = [torch.tensor(part) for part in published["logits"]]
    for found, expected in zip(
        summed_probabilities(logits, published["parents"][1:]), published["infer_sum"], strict=True
    ):
        assert torch.allclose(found, torch.tensor(expected), atol=1e-6)


def test_a_classifier_predicts_from_summed_probabilities():
    """Each rank takes the largest sum of its species; the logits of higher ranks count for nothing."""
    model = tiny_bert(BarcodeBertForSequenceClassification, **TREE)
    logits = torch.randn(5, 9)
    parts = list(model.rank_logits(logits).values())
    found = model.predict_taxa(logits, infer_sum=True)
    sums = summed_probabilities(parts, [model.config.parents[rank] for rank in list(model.config.taxa)[1:]])
    for part, prediction in zip(sums, found.values(), strict=True):
        assert torch.equal(prediction.ids, part.argmax(1)) and torch.equal(prediction.probabilities, part.amax(1))
    changed = logits.clone()
    changed[:, : -parts[-1].shape[1]] = 0
    again = model.predict_taxa(changed, infer_sum=True)
    assert all(torch.equal(found[rank].ids, again[rank].ids) for rank in found)


def test_a_species_without_a_genus_adds_to_none():
    species = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    genus, same = summed_probabilities([torch.zeros(1, 2), species], [[1, 0, -1]])
    assert genus.tolist() == [[pytest.approx(0.3), pytest.approx(0.5)]] and same.sum().item() == pytest.approx(1)


#: 2 genera with 3 and 2 species; the last species has no rows, nor has the genus 2, the parent of species 5.
ROWS = np.array([[0, 0], [0, 0], [0, 1], [1, 2], [-1, 3], [1, -1]])
SIZES, PARENTS = [3, 6], [[0, 0, 1, 1, 1, 2]]


def test_targets_by_hand():
    """Share 0.1 of the genus, plain share 0.2. Of genus 0, species 0 has 2 rows of 3, species 1 one."""
    loss = TaxaLoss(ROWS, SIZES, PARENTS, smoothing=[0.1, 0.2])
    species = loss.targets(torch.tensor([[0, 0], [-1, 0], [2, 5]]), 1)
    assert species[0].tolist() == pytest.approx([0.7 + 0.2 / 3, 0.04 + 0.1 / 3, 0.04, 0.04, 0.04, 0.04])
    # The share of an unknown genus, or of one without rows, is left out: 0.9 is left.
    assert species[1].tolist() == pytest.approx([0.7 / 0.9, *[0.04 / 0.9] * 5])
    assert species[2].tolist() == pytest.approx([*[0.04 / 0.9] * 5, 0.7 / 0.9])
    assert loss.targets(torch.tensor([[1, 0]]), 0)[0].tolist() == pytest.approx([0.1, 0.8, 0.1])


def test_upstream_gives_the_share_of_an_unknown_genus_to_all_species():
    loss = TaxaLoss(ROWS, SIZES, PARENTS, smoothing=[0.1, 0.0], upstream=True)
    assert loss.targets(torch.tensor([[-1, 0]]), 1)[0].tolist() == pytest.approx([0.9 + 0.1 / 6, *[0.1 / 6] * 5])


def test_weights_by_hand():
    """Species 0 has 2 rows, 1, 2 and 3 one, 4 and 5 none: weights 0 where there are no rows, else n ** -0.5."""
    loss = TaxaLoss(ROWS, SIZES, PARENTS, class_weights="inverse_sqrt")
    expected = np.array([2**-0.5, 1, 1, 1, 0, 0])
    assert loss.weights_1.tolist() == pytest.approx((expected / expected.sum()).tolist())
    logits, labels = torch.randn(4, 9), torch.tensor([[0, 0], [0, 1], [1, 5], [-1, -1]])
    nats = torch.nn.functional.cross_entropy(logits[:, 3:], labels[:, 1].clamp(min=0), reduction="none")
    mean = (2**-0.5 * nats[0] + nats[1]) / (2**-0.5 + 1)
    assert loss.rank_losses(logits, labels)[1].item() == pytest.approx(mean.item(), rel=1e-5)
    nothing = loss(logits, torch.full((4, 2), -1))
    assert nothing.item() == 0 and nothing.isfinite()


def test_without_options_it_is_the_plain_loss_with_its_gradient():
    logits = torch.randn(5, 9, requires_grad=True)
    labels = torch.tensor([[0, 0], [0, -1], [1, 3], [-1, -1], [2, 5]])
    plain = taxa_loss(logits, labels, SIZES, None)
    (expected,) = torch.autograd.grad(plain, logits)
    found = TaxaLoss(ROWS, SIZES, PARENTS)(logits, labels)
    assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(found, logits)[0], expected, atol=1e-7)


def test_parts_of_a_step_sum_to_the_whole():
    """Two parts with the weights of both give the loss of all rows."""
    loss = TaxaLoss(ROWS, SIZES, PARENTS, class_weights="inverse_sqrt", smoothing=[0.02, 0.1])
    logits, labels = torch.randn(6, 9), torch.tensor([[0, 0], [0, 1], [1, 2], [-1, 3], [1, -1], [0, 0]])
    total = loss.label_weights(labels).sum(0)
    parts = sum(loss(logits[part], labels[part], total) for part in (slice(0, 2), slice(2, 6)))
    assert parts.item() == pytest.approx(loss(logits, labels).item(), rel=1e-6)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Shares of label smoothing: 1, ranks: 2. Give as many"):
        TaxaLoss(ROWS, SIZES, PARENTS, smoothing=[0.1])
    with pytest.raises(ValueError, match=r"are \[0.5, 0.5\]; give 0 or more, less than 1 together"):
        TaxaLoss(ROWS, SIZES, PARENTS, smoothing=[0.5, 0.5])
    with pytest.raises(ValueError, match="class_weights is 'balanced'; choose one of none, inverse_sqrt"):
        TaxaLoss(ROWS, SIZES, PARENTS, class_weights="balanced")
    with pytest.raises(ValueError, match="labels hold the class 3, but its rank has 3 classes"):
        TaxaLoss(ROWS, [3, 3], [[0, 0, 1]])
    with pytest.raises(ValueError, match="parents are given for .5. classes, not .6."):
        TaxaLoss(ROWS, SIZES, [[0, 0, 1, 1, 1]])
    with pytest.raises(ValueError, match="there are 2 ranks"):
        TaxaLoss(ROWS, SIZES, PARENTS)(torch.randn(1, 9), torch.tensor([[0, 0, 0]]))
