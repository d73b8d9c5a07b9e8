"""The supervised contrastive loss: definition, several ranks, and two processes."""

import math
import os
import subprocess
import sys

import pytest
import torch

from bioscan_hf.losses.supervised import supervised_contrastive_loss

LABELS = {"genus": [0, 0, 1, 1, -1, 0, 2, 0], "species": [3, 3, 4, 5, -1, 6, -1, 3]}


def unit(rows=8, seed=0):
    draw = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(draw, dim=1)


def tensors(labels):
    return {rank: torch.tensor(ids) for rank, ids in labels.items()}


def by_definition(embeddings, labels, temperature=0.1, weights=None):
    """The loss by its definition: one anchor, one positive and one rank at a time."""
    total = shares = 0.0
    for rank, ids in labels.items():
        anchors = []
        for i, own in enumerate(ids):
            others = [j for j in range(len(ids)) if j != i]
            positives = [j for j in others if ids[j] == own and own >= 0]
            if positives:
                scores = torch.stack([embeddings[i] @ embeddings[j] / temperature for j in others])
                logs = [embeddings[i] @ embeddings[j] / temperature - scores.logsumexp(0) for j in positives]
                anchors.append(-sum(logs) / len(logs))
        if anchors:
            weight = 1.0 if weights is None else weights[rank]
            total, shares = total + weight * sum(anchors) / len(anchors), shares + weight
    return total / shares


def test_three_rows_by_hand():
    """Rows e1, e1, e2 with labels 0, 0, 1 and temperature 1: cosines 1 within the pair, 0 with the third.

    Each of the pair is an anchor, with the probability e / (e + 1) of the other: -log is log(1 + 1/e) = 0.313262. The
    third row has no partner and is no anchor. At temperature 0.5 the cosines double: log(1 + e**-2) = 0.126928.
    """
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    labels = {"species": torch.tensor([0, 0, 1])}
    assert supervised_contrastive_loss(rows, labels, temperature=1.0).item() == pytest.approx(0.313262, abs=1e-6)
    assert supervised_contrastive_loss(rows, labels, temperature=0.5).item() == pytest.approx(0.126928, abs=1e-6)


def test_anchors_have_equal_weights_by_hand():
    """Four rows e1 with labels 0, 0, 0 and 1, 1 for two rows e2, temperature 1: five rows.

    An anchor of the three sees two at 1 and two at 0: each positive has e / (2 e + 2), so that it loses
    log(2 + 2 / e) = 1.006409. One of the two sees one at 1 and three at 0: log(1 + 3 / e) = 0.743668. The mean over
    the 5 anchors is (3 * 1.006409 + 2 * 0.743668) / 5 = 0.901313.
    """
    assert (math.log(2 + 2 / math.e), math.log(1 + 3 / math.e)) == pytest.approx((1.006409, 0.743668), abs=1e-6)
    rows = torch.tensor([[1.0, 0]] * 3 + [[0, 1]] * 2)
    loss = supervised_contrastive_loss(rows, {"genus": torch.tensor([0, 0, 0, 1, 1])}, temperature=1.0)
    assert loss.item() == pytest.approx(0.901313, abs=1e-6)


@pytest.mark.parametrize("weights", [None, {"genus": 0.5, "species": 2.0}])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_equals_the_definition(weights, temperature):
    """Values and gradients in float64; genus and species, unknown labels, taxa of one row, taxa of three and four."""
    rows = unit().requires_grad_()
    loss = supervised_contrastive_loss(rows, tensors(LABELS), temperature=temperature, weights=weights)
    plain = by_definition(rows, LABELS, temperature, weights)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    (found,), (expected,) = torch.autograd.grad(loss, rows), torch.autograd.grad(plain, rows)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert (found[4] != 0).any(), "a row of unknown taxon is contrasted with"


def test_rank_without_anchors_does_not_count():
    """All labels are unknown, or each row has its own taxon; the weight of the rank does not count either."""
    rows = unit()
    labels = tensors({"genus": LABELS["genus"]})
    alone = supervised_contrastive_loss(rows, labels)
    unknown = labels | {"species": torch.full((8,), -1)}
    single = labels | {"species": torch.arange(8)}
    for given in (unknown, single):
        both = supervised_contrastive_loss(rows, given, weights={"genus": 1.0, "species": 9.0})
        torch.testing.assert_close(both, alone, rtol=0, atol=0)


@pytest.mark.parametrize("rows", [1, 3])
def test_loss_without_anchors_is_zero_with_gradients(rows):
    embeddings = unit(rows).float().requires_grad_()
    loss = supervised_contrastive_loss(embeddings, {"species": torch.arange(rows)})
    loss.backward()
    assert loss.item() == 0 and torch.equal(embeddings.grad, torch.zeros(rows, 4))


def test_half_precision_is_computed_in_float32():
    rows = unit().bfloat16()
    loss = supervised_contrastive_loss(rows, tensors(LABELS))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, supervised_contrastive_loss(rows.float(), tensors(LABELS)), rtol=0, atol=0)


SPREAD = """
import sys
import torch
import torch.distributed as dist
from bioscan_hf.losses.supervised import supervised_contrastive_loss
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
rows, labels, weights = torch.load(sys.argv[1])
mine = slice(rank * len(rows) // size, (rank + 1) * len(rows) // size)
for name, given in labels.items():
    embeddings = rows.clone().requires_grad_()
    part = {key: ids[mine] for key, ids in given.items()}
    loss = supervised_contrastive_loss(embeddings[mine], part, weights=weights)
    loss.backward()
    grad, mean = embeddings.grad / size, loss.detach() / size
    dist.all_reduce(grad)
    dist.all_reduce(mean)
    if rank == 0:
        torch.save((mean, grad), f"{sys.argv[1]}.{name}")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Loss and gradients, averaged over processes as in DDP.

    In "split" all anchors of species but one are in the first process; in "one sided" the second process has none; in
    "none" there are none.
    """
    cases = {
        "split": LABELS,
        "one sided": {"genus": [0, 0, 1, 1, -1, -1, -1, 9], "species": [3, 3, 4, 4, 5, 6, 7, 8]},
        "none": {"genus": [-1] * 8, "species": list(range(8))},
    }
    weights = {"genus": 1.0, "species": 3.0}
    path = tmp_path / "rows.pt"
    torch.save((unit(), {name: tensors(labels) for name, labels in cases.items()}, weights), path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    done = subprocess.run(
        [*launch, sys.executable, "-c", SPREAD, str(path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for name, labels in cases.items():
        loss, grad = torch.load(f"{path}.{name}")
        rows = unit().requires_grad_()
        whole = supervised_contrastive_loss(rows, tensors(labels), weights=weights)
        whole.backward()
        torch.testing.assert_close(loss, whole.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(grad, rows.grad, rtol=1e-10, atol=1e-13)
        assert (whole > 0) == (name != "none")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; give a positive"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"labels": {}}, "There are no labels"),
        ({"labels": {"genus": [0] * 7}}, r"labels of genus have the shape \(7,\), and the embeddings \(8, \d+\)"),
        ({"weights": {"genus": 1.0}}, r"must name each rank of the labels \(genus, species\)"),
        ({"weights": {"genus": 1.0, "species": 0.0}}, "above 0"),
        ({"weights": {"genus": 1.0, "species": float("nan")}}, "above 0"),
        ({"embeddings": torch.zeros(8)}, r"embeddings have the shape \(8,\)"),
    ],
)
def test_invalid_arguments_raise(changed, message):
    given = {"embeddings": unit(), "labels": LABELS} | changed
    labels = tensors(given.pop("labels"))
    with pytest.raises(ValueError, match=message):
        supervised_contrastive_loss(given.pop("embeddings"), labels, **given)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_named(value):
    rows = unit()
    rows[2, 1] = rows[7, 0] = value
    with pytest.raises(ValueError, match="the rows 2, 7 are NaN or infinite"):
        supervised_contrastive_loss(rows, tensors(LABELS))
