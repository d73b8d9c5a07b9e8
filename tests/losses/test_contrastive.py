"""Contrastive losses between modalities: published numbers, and equality with the definition, also of gradients.

`stated` is the loss by its definition, with dense targets.
"""

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from bioscan_hf.losses.cached import cached_embeddings
from bioscan_hf.losses.contrastive import contrastive_loss, siglip_loss
from bioscan_hf.losses.pairs import choose_pairs
from bioscan_hf.losses.supervised import supervised_contrastive_loss

NAMES = ("image", "dna", "text")
CASES = [f"I+D+T_{name}" for name in ("unique", "dup", "dup_bind_image", "dup_bind_dna", "dup_bind_text")] + [
    *("I+D+T_dup_no_image_text", "I+D_unique", "I+D_dup", "I+T_unique", "I+T_dup")
]


def random_batch(rows=9, size=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, size, generator=generator, dtype=dtype).requires_grad_() for name in NAMES}


def stated(embeddings, scale, labels=None, pairs=None, mean=False, present=None, duplicates=None, siglip_bias=None):
    """The loss of one rank by definition: without incomplete rows, with dense targets, in both directions."""
    losses = []
    for first, second in pairs or combinations(embeddings, 2):
        rows = len(embeddings[first])
        ids = torch.arange(rows) if labels is None else torch.where(labels < 0, 1000 + torch.arange(rows), labels)
        there = torch.ones(rows, dtype=torch.bool)
        for name in (first, second):
            there &= (present or {}).get(name, there)
        if there.sum() < 2:
            continue
        a, b = (nn.functional.normalize(embeddings[name][there], dim=1) for name in (first, second))
        targets = ids[there][:, None] == ids[there]
        same = torch.zeros_like(targets)
        for name in (first, second):
            if duplicates and name in duplicates:
                own = duplicates[name][there]
                same |= (own[:, None] == own) & (own >= 0)
        logits = scale * a @ b.T
        if siglip_bias is not None:
            signs = torch.where(targets, 1.0, -1.0)
            terms = -nn.functional.logsigmoid(signs * (logits + siglip_bias))
            losses.append(terms.masked_fill(same & ~targets, 0).sum() / len(a))
            continue
        logits = logits.masked_fill(same & ~targets, -torch.inf)
        weights = targets.double() / (targets.sum(1, keepdim=True) if mean else 1)
        for one in (logits, logits.T):
            losses.append(-(weights * one.log_softmax(1).masked_fill(~targets, 0)).sum() / len(a))
    return torch.stack(losses).mean()


def gradients(loss, inputs):
    return torch.autograd.grad(loss, list(inputs), allow_unused=True)


def assert_same(ours, theirs, inputs, tolerance=1e-10):
    assert ours.item() == pytest.approx(theirs.item(), abs=tolerance)
    got, expected = gradients(ours, inputs), gradients(theirs, inputs)
    assert any(one is not None and one.abs().max() > 1e-4 for one in expected)
    for one, other in zip(got, expected, strict=True):
        if other is None:
            assert one is None or not one.any()
        else:
            torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def single(reference):
    folder = reference / "clibd"
    with open(folder / "loss_single.json") as file:
        return json.load(file), np.load(folder / "loss_single.npz")


def published(single, case, **options):
    """Loss and gradients of embeddings and log scale for a case of the reference."""
    about, arrays = single
    names = about[f"ClipLoss/{case}"]["mods"]
    embeddings = {name: torch.tensor(arrays[f"in_{name}"], requires_grad=True) for name in names}
    log_scale = torch.tensor(about["log_scale"], requires_grad=True)
    given = dict(about[f"ClipLoss/{case}"]["kw"])
    if given.pop("no_image_text_loss", False):
        given["pairs"] = [("dna", "image"), ("dna", "text")]
    labels = torch.tensor(about["labels"][about[f"ClipLoss/{case}"]["labels"]])
    loss = contrastive_loss(embeddings, log_scale.exp(), labels, **given, **options)
    loss.backward()
    return loss.item(), {name: rows.grad for name, rows in embeddings.items()}, log_scale.grad


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("case", CASES)
def test_published_loss_and_gradients(single, case, chunk_size):
    """Each pair is computed once; the reference computes it four times."""
    about, arrays = single
    loss, embedding_gradients, scale_gradient = published(single, case, chunk_size=chunk_size)
    assert loss == pytest.approx(about[f"ClipLoss/{case}"]["loss"], abs=1e-5)
    for name, gradient in embedding_gradients.items():
        np.testing.assert_allclose(gradient, arrays[f"ClipLoss/{case}/grad_{name}"], atol=1e-6)
    assert scale_gradient.item() == pytest.approx(float(arrays[f"ClipLoss/{case}/grad_logit_scale_param"]), abs=1e-5)


def test_unique_labels_are_the_default(single):
    """Without labels, each row has its own label, as in the published training."""
    about, arrays = single
    embeddings = {name: torch.tensor(arrays[f"in_{name}"]) for name in NAMES}
    loss = contrastive_loss(embeddings, math.exp(about["log_scale"]))
    assert loss.item() == pytest.approx(about["ClipLoss/I+D+T_unique"]["loss"], abs=1e-5)


def test_published_bfloat16_value(single):
    """The loss of bfloat16 embeddings is float32, near the reference, which compares in bfloat16."""
    about, arrays = single
    embeddings = {name: torch.tensor(arrays[f"in_{name}"]).bfloat16() for name in NAMES}
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(embeddings, math.exp(about["log_scale"]), torch.tensor(about["labels"]["dup"]))
    outside = contrastive_loss(embeddings, math.exp(about["log_scale"]), torch.tensor(about["labels"]["dup"]))
    assert loss.dtype == torch.float32 and loss.item() == outside.item()
    assert loss.item() == pytest.approx(about["bf16_features_I+D+T_dup"]["loss"], abs=0.03)


def test_simclr_is_the_supervised_loss_of_two_views(reference):
    """NT-Xent of the reference: the only positive of a row is its second view."""
    folder = reference / "clibd"
    arrays, about = np.load(folder / "simclr.npz"), json.loads((folder / "simclr.json").read_text())
    features = torch.tensor(arrays["features"], requires_grad=True)
    vectors = nn.functional.normalize(features, dim=1)
    labels = {"photo": torch.arange(6).repeat(2)}
    loss = supervised_contrastive_loss(vectors, labels, temperature=about["temperature"])
    loss.backward()
    assert loss.item() == pytest.approx(about["loss"], abs=1e-5)
    np.testing.assert_allclose(features.grad, arrays["grad"], atol=1e-6)


def test_two_rows_by_hand():
    """Orthogonal specimens, scale s = 2: a row's own cosine is 1, the other's 0, so that each direction costs
    log(1 + exp(-2)) = 0.126928. With one label for both, targets of 1 each: 2 log(e^2 + 1) - 2 = 2.253856."""
    embeddings = {"image": torch.eye(2), "dna": 3 * torch.eye(2)}
    assert contrastive_loss(embeddings, 2.0).item() == pytest.approx(0.126928, abs=1e-6)
    one_label = torch.tensor([4, 4])
    assert contrastive_loss(embeddings, 2.0, one_label).item() == pytest.approx(2.253856, abs=1e-6)
    halved = contrastive_loss(embeddings, 2.0, one_label, target_normalization="mean").item()
    assert halved == pytest.approx(2.253856 / 2, abs=1e-6)


def test_siglip_by_hand():
    """The same rows, scale 2, bias -1: two logits of 1 for partners, two of -1 for others; each of the four terms is
    log(1 + exp(-1)) = 0.313262, and their sum is divided by 2 rows."""
    embeddings = {"image": torch.eye(2), "dna": torch.eye(2)}
    assert siglip_loss(embeddings, 2.0, -1.0).item() == pytest.approx(2 * 0.313262, abs=1e-6)


LABELS = torch.tensor([0, 1, 0, 2, -1, 3, 3, 3, -1])
PRESENT = {
    "dna": torch.tensor([1, 1, 0, 1, 1, 1, 1, 0, 1]).bool(),
    "text": torch.tensor([1, 1, 1, 0, 1, 1, 0, 0, 1]).bool(),
}
DUPLICATES = {"text": torch.tensor([0, 0, 0, -1, 1, 1, 2, -1, 2])}
FORMS = {
    "own": {},
    "labels": {"labels": LABELS},
    "missing": {"labels": LABELS, "present": PRESENT},
    "duplicates": {"labels": LABELS, "duplicates": DUPLICATES},
    "all": {"labels": LABELS, "present": PRESENT, "duplicates": DUPLICATES, "pairs": [("text", "image")]},
}


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 9, 50])
@pytest.mark.parametrize("normalization", ["none", "mean"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_the_definition(form, normalization, chunk_size):
    """Value and gradients, also of the scale, in float64."""
    embeddings, scale = random_batch(), torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    ours = contrastive_loss(
        embeddings, scale, target_normalization=normalization, chunk_size=chunk_size, **FORMS[form]
    )
    theirs = stated(embeddings, scale, mean=normalization == "mean", **FORMS[form])
    assert_same(ours, theirs, [*embeddings.values(), scale])


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("form", FORMS)
def test_siglip_equals_the_definition(form, chunk_size):
    """Value and gradients, also of scale and bias."""
    embeddings, scale = random_batch(seed=1), torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    ours = siglip_loss(embeddings, scale, bias, chunk_size=chunk_size, **FORMS[form])
    theirs = stated(embeddings, scale, siglip_bias=bias, **FORMS[form])
    assert_same(ours, theirs, [*embeddings.values(), scale, bias])


def test_loss_of_several_ranks_is_their_mean():
    """One matrix product for all ranks equals one loss per rank; rows with unknown labels match only themselves."""
    ranks = {"order": torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, -1]), "species": LABELS}
    weights = {"order": 1.0, "species": 3.0}
    embeddings, scale = random_batch(seed=2), torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    options = {"target_normalization": "mean", "present": PRESENT}
    ours = contrastive_loss(embeddings, scale, ranks, rank_weights=weights, **options)
    theirs = sum(
        weight / 4 * stated(embeddings, scale, ranks[rank], mean=True, present=PRESENT)
        for rank, weight in weights.items()
    )
    assert_same(ours, theirs, [*embeddings.values(), scale])
    unknown = contrastive_loss(embeddings, scale, {"genus": torch.full((9,), -1)}, **options)
    assert unknown.item() == pytest.approx(contrastive_loss(embeddings, scale, present=PRESENT).item())


def test_pair_without_rows_is_left_out():
    """With 0 or 1 rows with text, the loss is that of image and DNA."""
    embeddings = random_batch()
    expected = contrastive_loss({name: embeddings[name] for name in ("image", "dna")}, 5.0)
    for rows in (0, 1):
        present = {"text": torch.arange(9) < rows}
        loss = contrastive_loss(embeddings, 5.0, present=present)
        assert loss.item() == pytest.approx(expected.item())
        assert not gradients(loss, [embeddings["text"]])[0].any()
    nothing = contrastive_loss(embeddings, 5.0, present=dict.fromkeys(NAMES, torch.zeros(9).bool()))
    assert nothing.item() == 0 and not gradients(nothing, [embeddings["image"]])[0].any()


def test_absent_rows_may_have_any_values():
    """NaN in a row without the modality does not affect loss and gradients."""
    embeddings, broken = random_batch(), random_batch()
    broken["dna"] = broken["dna"].detach().masked_fill(~PRESENT["dna"][:, None], torch.nan).requires_grad_()
    losses = [contrastive_loss(one, 5.0, LABELS, present=PRESENT) for one in (embeddings, broken)]
    assert losses[0].item() == losses[1].item()
    got, expected = gradients(losses[1], broken.values()), gradients(losses[0], embeddings.values())
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_large_scale_is_finite():
    """A scale far above the usual maximum of 100, because sums are computed in the log domain."""
    embeddings = random_batch()
    for options in ({}, {"present": PRESENT, "duplicates": DUPLICATES}):
        scale = torch.tensor(5000.0, dtype=torch.float64, requires_grad=True)
        ours, theirs = contrastive_loss(embeddings, scale, **options), stated(embeddings, scale, **options)
        assert_same(ours, theirs, [*embeddings.values(), scale], tolerance=1e-7)


def saved_numbers(function):
    """Number of elements of the largest tensor that is saved for the gradient."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return max(sizes)


def test_chunks_do_not_store_similarities():
    """4 chunks save 4 sums of 64 columns; without chunks, similarities (64, 64) are saved."""
    embeddings = random_batch(rows=64, size=4)
    for options in ({}, {"duplicates": {"dna": torch.arange(64) // 2}, "present": {"dna": torch.arange(64) > 3}}):
        assert saved_numbers(lambda options=options: contrastive_loss(embeddings, 5.0, **options)) == 64 * 64
        chunked = saved_numbers(lambda options=options: contrastive_loss(embeddings, 5.0, chunk_size=16, **options))
        assert chunked == 4 * 64


class Towers(nn.Module):
    """Three small encoders with dropout, with the output of a model."""

    def __init__(self, dropout):
        super().__init__()
        self.towers = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 4)) for name in NAMES}
        )
        self.log_scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, **inputs):
        return {name: self.towers[name](rows) for name, rows in inputs.items()} | {
            "logit_scale": self.log_scale.exp(),
            "unused": None,
        }


def make_towers(dropout=0.0):
    torch.manual_seed(0)
    return Towers(dropout).double(), {name: torch.randn(12, 6, dtype=torch.float64) for name in NAMES}


def loss_of(outputs, **options):
    return contrastive_loss({name: outputs[name] for name in NAMES}, outputs["logit_scale"], **options)


@pytest.mark.parametrize("rows_at_a_time", [1, 5, 12, 100])
def test_cached_gradients_equal_plain_ones(rows_at_a_time):
    """Loss and the gradients of all parameters."""
    model, inputs = make_towers()
    ours = loss_of(cached_embeddings(model, inputs, rows_at_a_time), chunk_size=4)
    assert_same(ours, loss_of(model(**inputs)), list(model.parameters()))


def test_cached_gradients_repeat_dropout():
    """The second forward pass has the dropout of the first."""
    model, inputs = make_towers(dropout=0.5)
    torch.manual_seed(3)
    ours = loss_of(cached_embeddings(model, inputs, 4))
    torch.manual_seed(3)
    parts = [model(**{name: rows[start : start + 4] for name, rows in inputs.items()}) for start in (0, 4, 8)]
    kept = {name: torch.cat([part[name] for part in parts]) for name in NAMES}
    theirs = loss_of(kept | {"logit_scale": parts[0]["logit_scale"]})
    torch.manual_seed(4)  # between the passes other random numbers are drawn
    assert_same(ours, theirs, list(model.parameters()))


def test_cached_gradients_keep_no_activations():
    """Embeddings and similarities (12, 12) are saved, but not hidden layers (12, 32)."""
    model, inputs = make_towers()
    assert saved_numbers(lambda: loss_of(model(**inputs))) == 12 * 32
    assert saved_numbers(lambda: loss_of(cached_embeddings(model, inputs, 4))) == 12 * 12


def test_errors_of_cached_embeddings():
    """Inputs of unequal length, without rows, and 0 rows at a time."""
    model, inputs = make_towers()
    with pytest.raises(ValueError, match=r"lengths \{'image': 12, 'dna': 3\}"):
        cached_embeddings(model, {"image": inputs["image"], "dna": inputs["dna"][:3]}, 4)
    for empty in ({}, {"image": inputs["image"][:0]}):
        with pytest.raises(ValueError, match="There are no rows to embed.*Give 1 row or more"):
            cached_embeddings(model, empty, 4)
    with pytest.raises(ValueError, match="rows_at_a_time is 0"):
        cached_embeddings(model, inputs, 0)


def test_pairs_by_name():
    """Pairs are chosen by name; the reference took text for 'dna' without DNA."""
    assert choose_pairs(NAMES) == [("image", "dna"), ("image", "text"), ("dna", "text")]
    assert choose_pairs(NAMES, bind_to="dna") == [("image", "dna"), ("text", "dna")]
    assert choose_pairs(["dna", "text"], bind_to="text") == [("dna", "text")]
    assert choose_pairs(NAMES, pairs=[("text", "image")]) == [("text", "image")]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bind_to": "audio"}, r"modalities are image, dna, text: bind_to \(audio\)"),
        ({"pairs": [("image", "audio")]}, "not a pair of two"),
        ({"pairs": [("image", "image")]}, "not a pair of two"),
        ({"pairs": [("image", "dna"), ("dna", "image")]}, "each once"),
        ({"pairs": []}, "one pair or more"),
        ({"pairs": [("image", "dna")], "bind_to": "dna"}, "Give one"),
        ({"target_normalization": "sum"}, "'none' .as published. or 'mean'"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"labels": torch.zeros(3)}, r"labels of labels has the shape \(3,\); there are 9 rows"),
        ({"labels": {"genus": LABELS}}, "need target_normalization='mean'"),
        ({"labels": LABELS, "rank_weights": {"genus": 1.0}}, "must name each rank"),
        ({"present": {"audio": torch.ones(9)}}, r"present names \['audio'\]"),
        ({"present": {"dna": torch.ones(9, 1)}}, "present of dna has the shape"),
        ({"duplicates": {"sound": torch.ones(9)}}, r"duplicates names \['sound'\]"),
    ],
)
def test_errors_of_arguments(options, match):
    """Errors name the given and the allowed values."""
    with pytest.raises(ValueError, match=match):
        contrastive_loss(random_batch(), 5.0, **options)


def test_errors_of_batches():
    """One modality, one row, other shapes."""
    embeddings = random_batch()
    with pytest.raises(ValueError, match="two or more"):
        contrastive_loss({"dna": embeddings["dna"]}, 5.0)
    with pytest.raises(ValueError, match="rows of each process are 1. .*drop the last batch"):
        contrastive_loss({name: rows[:1] for name, rows in embeddings.items()}, 5.0)
    with pytest.raises(ValueError, match=r"shapes \{'image': \(9, 5\), 'dna': \(8, 5\)\}"):
        contrastive_loss({"image": embeddings["image"], "dna": embeddings["dna"][:8]}, 5.0)
    with pytest.raises(ValueError, match="labels of one rank"):
        siglip_loss(embeddings, 5.0, 0.0, {"genus": LABELS})


def test_rows_that_are_not_finite_are_named():
    """A NaN and an infinite row, and an infinite scale."""
    embeddings = {name: rows.detach().clone() for name, rows in random_batch().items()}
    embeddings["dna"][4, 1], embeddings["text"][7] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="dna in row 4; text in row 7."):
        contrastive_loss(embeddings, 5.0)
    with pytest.raises(ValueError, match="none of this process. The logit_scale is inf"):
        contrastive_loss(random_batch(), math.inf)


def test_training_only_the_temperature_raises():
    """The published code trains only the temperature if embeddings are gathered without gradient."""
    embeddings = {name: rows.detach() for name, rows in random_batch().items()}
    scale = torch.tensor(5.0, requires_grad=True)
    with pytest.raises(ValueError, match="only the temperature would be trained"):
        contrastive_loss(embeddings, scale)
    with torch.no_grad():
        assert contrastive_loss(embeddings, scale).item() > 0


PROCESSES = 2
EVEN = slice(0, 8)  # rows of a batch that two processes share


def own_rows(rank, rows=8):
    return slice(rank * rows // PROCESSES, (rank + 1) * rows // PROCESSES)


def cut(options, rows):
    """The options of a form for some of its rows."""
    found = {name: options[name] for name in ("pairs",) if name in options}
    if "labels" in options:
        found["labels"] = options["labels"][rows]
    for argument in ("present", "duplicates"):
        if argument in options:
            found[argument] = {name: values[rows] for name, values in options[argument].items()}
    return found


def ways_to_compare():
    """Name -> a loss of (embeddings, scale, options of a form), for the forms in which processes must agree."""
    bias = torch.tensor(-3.0, dtype=torch.float64)
    return {
        "plain": contrastive_loss,
        "chunked": lambda *given, **options: contrastive_loss(*given, chunk_size=3, **options),
        "mean": lambda *given, **options: contrastive_loss(*given, target_normalization="mean", **options),
        "siglip": lambda *given, **options: siglip_loss(*given, bias, chunk_size=3, **options),
    }


def published_halves(folder, rank):
    """Loss and gradients for two and three modalities, with half of the reference's batch in each process."""
    about, arrays = json.loads((folder / "loss_single.json").read_text()), np.load(folder / "loss_single.npz")
    found = {}
    for names in (("image", "dna"), NAMES):
        embeddings = {name: torch.tensor(arrays[f"in_{name}"][own_rows(rank)], requires_grad=True) for name in names}
        log_scale = torch.tensor(about["log_scale"], requires_grad=True)
        labels = torch.tensor(about["labels"]["dup"])[own_rows(rank)]
        loss = contrastive_loss(embeddings, log_scale.exp(), labels)
        loss.backward()
        gradients = {f"grad_{name}": rows.grad for name, rows in embeddings.items()}
        found["I+D+T" if "text" in names else "I+D"] = gradients | {"loss": loss.item(), "scale": log_scale.grad}
    return found


def train_towers(model, inputs, cached, wrapped):
    """Parameters after three steps of plain gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        outputs = cached_embeddings(wrapped, inputs, 2) if cached else wrapped(**inputs)
        loss = loss_of({name: value for name, value in outputs.items() if value is not None})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item(), {name: value.detach() for name, value in model.named_parameters()}


def message_of(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return None


def in_process(rank, folder, reference):
    """Results of one of two processes; run by `spread`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    found = {"published": published_halves(reference, rank)}
    for form, options in FORMS.items():
        for way, loss_function in ways_to_compare().items():
            whole = random_batch()
            embeddings = {name: rows.detach()[own_rows(rank)].requires_grad_() for name, rows in whole.items()}
            scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
            loss = loss_function(embeddings, scale, **cut(options, own_rows(rank)))
            grads = torch.autograd.grad(loss, [*embeddings.values(), scale], allow_unused=True)
            found[form, way] = loss.item(), grads
    embeddings = {name: rows[own_rows(rank)] for name, rows in random_batch().items()}
    found["own negatives"] = contrastive_loss(embeddings, 7.0, across_processes=False).item()
    for cached in (True, False):
        for unused in (True, False):
            model, inputs = make_towers()
            wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)
            inputs = {name: rows[own_rows(rank, 12)] for name, rows in inputs.items()}
            found["towers", cached, unused] = train_towers(model, inputs, cached, wrapped)
    fewer = {name: rows[: 4 - rank] for name, rows in embeddings.items()}
    found["unequal"] = message_of(lambda: contrastive_loss(fewer, 7.0))
    embeddings["dna"] = embeddings["dna"].masked_fill(torch.tensor(rank == 1), torch.nan)
    found["broken"] = message_of(lambda: contrastive_loss(embeddings, 7.0))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def spread(tmp_path_factory, reference):
    """Results of each of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(in_process, (str(folder), reference / "clibd"), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


def test_two_processes_give_the_published_numbers(spread, reference):
    """Loss and gradients of the reference with all negatives and gradients through the gather."""
    folder = reference / "clibd"
    about, arrays = json.loads((folder / "loss_dist2.json").read_text()), np.load(folder / "loss_dist2.npz")
    for rank, found in enumerate(spread):
        for names, numbers in found["published"].items():
            case = f"rank{rank}/{names}_local1_grad1"
            assert numbers["loss"] == pytest.approx(about[f"{case}/loss"], abs=1e-5)
            assert numbers["scale"].item() == pytest.approx(about[f"{case}/grad_logit_scale_param"], abs=1e-5)
            for name in [name for name in numbers if name.startswith("grad_")]:
                np.testing.assert_allclose(numbers[name], arrays[f"{case}/{name}"], atol=1e-6)


@pytest.mark.parametrize("way", ways_to_compare())
@pytest.mark.parametrize("form", FORMS)
def test_two_processes_equal_one(spread, form, way):
    """Each process has the loss of the whole batch; gradients averaged over processes are those of one process."""
    embeddings = {name: rows.detach()[EVEN].requires_grad_() for name, rows in random_batch().items()}
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    loss = ways_to_compare()[way](embeddings, scale, **cut(FORMS[form], EVEN))
    expected = torch.autograd.grad(loss, [*embeddings.values(), scale], allow_unused=True)
    for rank, found in enumerate(spread):
        value, grads = found[form, way]
        assert value == pytest.approx(loss.item(), abs=1e-10)
        for one, whole in zip(grads[:-1], expected[:-1], strict=True):
            assert (one is None) == (whole is None)
            if whole is not None:
                assert whole.abs().max() > 1e-4
                torch.testing.assert_close(one / PROCESSES, whole[own_rows(rank)], atol=1e-10, rtol=0)
        torch.testing.assert_close(grads[-1], expected[-1], atol=1e-10, rtol=0)


def test_own_negatives(spread):
    """With across_processes=False, each process has the loss of its own rows."""
    for rank, found in enumerate(spread):
        embeddings = {name: rows[own_rows(rank)] for name, rows in random_batch().items()}
        assert found["own negatives"] == pytest.approx(contrastive_loss(embeddings, 7.0).item())
    assert spread[0]["own negatives"] != pytest.approx(spread[1]["own negatives"])


@pytest.mark.parametrize("unused", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_training_with_two_processes_equals_one(spread, cached, unused):
    """Three steps under DistributedDataParallel, with and without cached gradients, end at the same parameters."""
    model, inputs = make_towers()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss, parameters = train_towers(model, inputs, False, model)
    for found in spread:
        got_loss, got = found["towers", cached, unused]
        assert got_loss == pytest.approx(loss, abs=1e-10)
        for name, value in parameters.items():
            assert not torch.equal(value, start[name])
            torch.testing.assert_close(got[name], value, atol=1e-10, rtol=0)


def test_every_process_raises(spread):
    """Unequal batches, or NaN in one process, raise in every process, so that none waits."""
    for found in spread:
        assert "The rows of each process are 4, 3." in found["unequal"]
    assert "none of this process" in spread[0]["broken"]
    assert "dna in the rows 0, 1, 2, 3." in spread[1]["broken"]
