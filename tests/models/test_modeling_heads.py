"""Heads of BarcodeBERT: sparse prediction, several ranks, compilation, export, precision and adapters."""

import json
import math

import pytest
import torch
from tiny import BERT_HEADS, LABELS, TREE, close, cut, same_step, step, tiny_batch, tiny_bert

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import (
    BarcodeBertForMaskedLM,
    BarcodeBertForSequenceClassification,
    BarcodeBertModel,
)
from bioscan_hf.models.taxon_classifier import predict_taxa, taxa_loss

SEVERAL_RANKS = [*BERT_HEADS, (BarcodeBertForSequenceClassification, TREE)]


def labels_of(cls, options):
    """Labels for a head; None for the encoder."""
    if cls is BarcodeBertModel:
        return {}
    if cls is BarcodeBertForMaskedLM:
        ids, mask = tiny_batch()
        return {"labels": ids.masked_fill(mask == 0, -100)}
    return {"labels": LABELS if "taxa" in options else torch.tensor([2, 0, 1, -100])}


@pytest.mark.parametrize("options", [{}, {"mlm_head": "tied"}, {"vocabulary": "barcodebert-n"}])
@pytest.mark.parametrize("count", [None, 40, torch.tensor(40)])
def test_sparse_prediction_equals_the_dense_head(options, count):
    """Loss, gradients, and logits at the labelled positions.

    Some labels are special tokens, which the "kmers" head passes over.
    """
    dense, sparse = tiny_bert(**options), tiny_bert(sparse_prediction=True, **options)
    ids, mask = tiny_batch()
    labels = ids.masked_fill((mask == 0) | (ids % 3 == 0), -100)
    labels[0, :2] = torch.tensor([0, 1])
    same_step(
        step(dense, [(ids, mask, labels)], num_items_in_batch=count),
        step(sparse, [(ids, mask, labels)], num_items_in_batch=count),
    )
    labelled = labels != -100 if "mlm_head" in options else labels >= 2
    assert 0 < labelled.sum() < mask.sum()
    close(sparse(ids, mask, labels=labels).logits, dense(ids, mask).logits[labelled], 1e-6)
    assert sparse(ids, mask).logits.shape == dense(ids, mask).logits.shape, "without labels, nothing is left out"


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("cls", "options"), [(BarcodeBertForMaskedLM, {}), (BarcodeBertForSequenceClassification, TREE)]
)
def test_loss_without_labels_is_zero_with_gradients(cls, options, sparse):
    """Gradients are zero, not None: other processes would wait for them."""
    model = tiny_bert(cls, sparse_prediction=sparse, **options)
    ids, mask = tiny_batch()
    labels = torch.full((4, 3) if "taxa" in options else (4, 12), -100)
    loss, grads = step(model, [(ids, mask, labels)])
    assert loss == 0
    assert not any(grad.any() for grad in grads.values())
    assert grads.keys() == {name for name, _ in model.named_parameters()}


def test_loss_of_several_ranks_by_hand():
    """Logits of zero are probabilities of 1/2 and 1/4, so the losses of labels are log 2 and log 4 nats.

    One label is at the first rank and three at the second: the mean over ranks is (log 2 + log 4) / 2 = 1.5 log 2.
    With one count for both, each label weighs the same: (log 2 + 3 log 4) / 4 = 1.75 log 2. Without a label at the
    second rank it does not count: log 2. As part of a step with 2 and 6 labels:
    (log 2 / 2 + 3 log 4 / 6) / 2 = 0.75 log 2.
    """
    logits = torch.zeros(3, 6)
    labels = torch.tensor([[0, 3], [-1, 2], [-100, 0]])
    loss = taxa_loss(logits, labels, [2, 4], None).item()
    assert loss == pytest.approx(1.5 * math.log(2))
    assert taxa_loss(logits, labels, [2, 4], torch.tensor([1, 3])).item() == pytest.approx(loss)
    assert taxa_loss(logits, labels, [2, 4], 4).item() == pytest.approx(1.75 * math.log(2))
    assert taxa_loss(logits, labels, [2, 4], torch.tensor([4])).item() == pytest.approx(1.75 * math.log(2))
    assert taxa_loss(logits, labels, [2, 4], torch.tensor([2, 6])).item() == pytest.approx(0.75 * math.log(2))
    first = labels.clone()
    first[:, 1] = -1
    assert taxa_loss(logits, first, [2, 4], None).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        (torch.tensor([0, 1, 0]), None, r"labels have the shape \(3,\), but taxa has 2 ranks.*\(B, 2\)"),
        (torch.zeros(3, 3).long(), None, r"labels have the shape \(3, 3\)"),
        (torch.zeros(3, 2).long(), torch.tensor([1, 2, 3]), "num_items_in_batch has 3 numbers, but there are 2 ranks"),
    ],
)
def test_labels_of_wrong_shape_raise(labels, count, message):
    with pytest.raises(ValueError, match=message):
        taxa_loss(torch.zeros(3, 6), labels, [2, 4], count)


def test_losses_of_parts_sum_to_that_of_the_step_at_several_ranks():
    """With the counts of each rank, losses of unequal parts sum to that of the batch, also with a missing rank.

    With the one count that a Trainer makes, too, but that is another loss, as labels are missing here.
    """
    model, (ids, mask) = tiny_bert(BarcodeBertForSequenceClassification, **TREE), tiny_batch()
    labels = LABELS.masked_fill(LABELS < 0, -100)
    assert not (labels[1:, 2] >= 0).any() and (labels[:1, 2] >= 0).any()
    counts = (labels >= 0).sum(0)
    whole = step(model, [(ids, mask, labels)])
    same_step(whole, step(model, cut(ids, mask, labels), num_items_in_batch=counts))
    pooled = step(model, [(ids, mask, labels)], num_items_in_batch=counts.sum())
    same_step(pooled, step(model, cut(ids, mask, labels), num_items_in_batch=counts.sum()))
    assert abs(pooled[0] - whole[0]) > 1e-3
    complete = torch.tensor([[0, 0, 3], [0, 1, 1], [1, 2, 2], [1, 0, 0]])
    same_step(
        step(model, [(ids, mask, complete)]), step(model, [(ids, mask, complete)], num_items_in_batch=torch.tensor(12))
    )


def test_logits_are_concatenated_over_ranks():
    model, (ids, mask) = tiny_bert(BarcodeBertForSequenceClassification, **TREE), tiny_batch()
    logits = model(ids, mask).logits
    parts = model.rank_logits(logits)
    assert {rank: part.shape for rank, part in parts.items()} == {"order": (4, 2), "family": (4, 3), "genus": (4, 4)}
    assert list(parts) == ["order", "family", "genus"]
    close(torch.cat(list(parts.values()), 1), logits, 0)
    with pytest.raises(ValueError, match="This classifier has one rank"):
        tiny_bert(BarcodeBertForSequenceClassification, num_labels=3).predict_taxa(logits)


@pytest.mark.parametrize(
    ("genera", "parents", "ids", "probabilities"),
    [
        # s, t of a and u of b: .6*.2 = .12, .6*.3 = .18, .3*.5 = .15; c, without species: .1 * the best, .5 = .05.
        ([0.6, 0.3, 0.1], [0, 0, 1], (0, 1), (0.30 / 0.5, 0.18 / 0.5)),
        # .2*.2 = .04, .2*.3 = .06, .2*.5 = .10; c: .6*.5 = .30, and none of the species has the same probability.
        ([0.2, 0.2, 0.6], [0, 0, 1], (2, -1), (0.30 / 0.5, 0.30 / 0.5)),
        # The parent of t is unknown, and the best genus is a: .12, .18, .15, .05, as in the first case.
        ([0.6, 0.3, 0.1], [0, -1, 1], (0, 1), (0.30 / 0.5, 0.18 / 0.5)),
        # No parent is known: all go below c, and so does c's own end, .6*.5 = .30: .12, .18, .30, and a and b end at
        # .2*.5 = .10 each. Of the two best, the one with a species wins. Sum .9 + .2 = 1.1 - .10 + .10.
        ([0.2, 0.2, 0.6], [-1, -1, -1], (2, 2), (0.90 / 1.1, 0.30 / 1.1)),
    ],
)
def test_predictions_by_hand(genera, parents, ids, probabilities):
    """Species s, t, u have .2, .3, .5; comments give the paths and their scores."""
    logits = [torch.tensor([genera]).log(), torch.tensor([[0.2, 0.3, 0.5]]).log()]
    genus, species = predict_taxa(logits, [parents])
    assert (genus.ids.item(), species.ids.item()) == ids
    assert genus.probabilities.item() == pytest.approx(probabilities[0], abs=1e-6)
    assert species.probabilities.item() == pytest.approx(probabilities[1], abs=1e-6)


def slow_prediction(rows, parents):
    """The same rule for one barcode, path by path; `rows` has the probabilities of each rank."""
    best_above, paths = None, [((i,), p) for i, p in enumerate(rows[0])]
    ends, lowest = [], len(rows) - 1
    for rank in range(len(rows)):
        if rank < lowest:
            childless = set(range(len(rows[rank]))) - set(parents[rank])
            missing = math.prod(max(row) for row in rows[rank + 1 :])
            ends += [(path + (-1,) * (lowest - rank), p * missing) for path, p in paths if path[-1] in childless]
            best_above, below = max(paths, key=lambda x: x[1]), []
            for child, parent in enumerate(parents[rank]):
                path, p = best_above if parent < 0 else paths[parent]
                below.append(((*path, child), p * rows[rank + 1][child]))
            paths = below
        else:
            ends += paths
    total = sum(p for _, p in ends)
    best = max(ends, key=lambda x: (round(math.log(x[1]), 9), sum(i >= 0 for i in x[0])))[0]  # equal: the longer
    return best, [sum(p for path, p in ends if path[rank] == best[rank]) / total for rank in range(len(rows))]


def test_predictions_equal_the_slow_rule_and_are_consistent():
    """Random trees of three ranks, with unknown parents and classes that have none below: path by path, and all of
    them known parents of each other. The cases have to occur."""
    generator = torch.Generator().manual_seed(0)
    ended_early = unknown = 0
    for _ in range(40):
        sizes = torch.randint(2, 6, (3,), generator=generator).tolist()
        parents = [
            torch.randint(-1, above, (below,), generator=generator).tolist()
            for above, below in zip(sizes, sizes[1:], strict=False)
        ]
        logits = [3 * torch.randn(5, size, generator=generator) for size in sizes]
        predictions = predict_taxa(logits, parents)
        for row in range(5):
            best, probabilities = slow_prediction([part[row].double().softmax(0).tolist() for part in logits], parents)
            found = tuple(prediction.ids[row].item() for prediction in predictions)
            assert found == best
            assert [x.probabilities[row].item() for x in predictions] == pytest.approx(probabilities, abs=1e-5)
            ended_early += -1 in found
            for rank in (0, 1):
                parent = parents[rank][found[rank + 1]] if found[rank + 1] >= 0 else -1
                assert parent in (found[rank], -1)
                unknown += found[rank + 1] >= 0 and parent == -1
    assert ended_early > 10 and unknown > 10


def test_model_predicts_with_its_tree():
    """Musca is certain and Culicidae a little more probable than Muscidae: the prediction is Muscidae at all ranks."""
    model = tiny_bert(BarcodeBertForSequenceClassification, **TREE)
    logits = torch.zeros(1, 9)
    logits[0, [0, 2, 6]] = torch.tensor([1.0, 1.0, 9.0])
    assert logits[0, 2:5].argmax() == 0
    predictions = model.predict_taxa(logits)
    assert {rank: x.ids.item() for rank, x in predictions.items()} == {"order": 0, "family": 1, "genus": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taxa": None}, "parents are given without taxa"),
        ({"parents": None}, r"parents are given for \[\]; give them for \['family', 'genus'\]"),
        ({"parents": {"genus": [0, 1, -1, 0]}}, r"parents are given for \['genus'\]"),
        ({"parents": TREE["parents"] | {"order": [-1, -1]}}, r"parents are given for \['family', 'genus', 'order'\]"),
        ({"parents": TREE["parents"] | {"family": [0, 0]}}, r"parents\['family'\] has 2 entries.*has 3 classes"),
        ({"parents": TREE["parents"] | {"family": [0, 0, 2]}}, r"parents\['family'\] holds 2.*'order' are 0 to 1"),
        ({"parents": TREE["parents"] | {"family": [0, 0, -2]}}, r"parents\['family'\] holds -2"),
        ({"taxa": {"order": ["Diptera"]}, "parents": {}}, r"taxa has the ranks \['order'\]; give two"),
        (
            {"taxa": TREE["taxa"] | {"order": ["Diptera", "Diptera"]}},
            r"taxa\['order'\] has 2 names, 1 of them distinct",
        ),
        ({"taxa": TREE["taxa"] | {"order": []}}, r"taxa\['order'\] has 0 names"),
        ({"num_labels": 5}, "num_labels is 5, but taxa has 9 classes at all ranks together"),
        ({"id2label": {0: "a", 1: "b", 2: "c"}}, "id2label and taxa both name classes .3 in id2label"),
        ({"ranks": ["order", "family"]}, r"ranks are \['order', 'family'\], but those of taxa are"),
    ],
)
def test_contradictory_tree_raises(change, message):
    with pytest.raises(ValueError, match=message):
        BarcodeBertConfig(**(TREE | change))


def test_tree_is_saved(tmp_path):
    """In its order, although JSON files are sorted, and without default class names."""
    BarcodeBertConfig(**TREE).save_pretrained(tmp_path)
    config = BarcodeBertConfig.from_pretrained(tmp_path)
    assert list(config.taxa) == ["order", "family", "genus"]
    assert (config.taxa, config.parents, config.num_labels) == (TREE["taxa"], TREE["parents"], 9)
    text = (tmp_path / "config.json").read_text()
    assert "LABEL_" not in text and text.count("Muscidae") == 1
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(text)
    assert BarcodeBertConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_pretrained_encoder_with_several_ranks(tmp_path):
    """From the folder of a masked language model; a classifier with class names raises."""
    mlm = tiny_bert()
    mlm.save_pretrained(tmp_path / "mlm")
    model = BarcodeBertForSequenceClassification.from_pretrained(tmp_path / "mlm", **TREE).eval()
    assert model.taxon_classifier.weight.shape == (9, 16)
    ids, mask = tiny_batch()
    close(model.bert(ids, mask).pooler_output, mlm.bert(ids, mask).pooler_output, 0)
    model.save_pretrained(tmp_path / "taxa")
    again = BarcodeBertForSequenceClassification.from_pretrained(tmp_path / "taxa")
    close(again(ids, mask).logits, model(ids, mask).logits, 0)
    for rank, prediction in again.predict_taxa(again(ids, mask).logits).items():
        close(prediction.probabilities, model.predict_taxa(model(ids, mask).logits)[rank].probabilities, 0)

    with pytest.raises(ValueError, match=r"parents\['genus'\] has 1 entries"):
        wrong = TREE | {"parents": TREE["parents"] | {"genus": [0]}}
        BarcodeBertForSequenceClassification.from_pretrained(tmp_path / "mlm", **wrong)
    tiny_bert(BarcodeBertForSequenceClassification, num_labels=3).save_pretrained(tmp_path / "one")
    with pytest.raises(ValueError, match="id2label and taxa both name classes"):
        BarcodeBertForSequenceClassification.from_pretrained(tmp_path / "one", **TREE)


@pytest.mark.slow
def test_sparse_prediction_compiles_with_breaks():
    torch._dynamo.reset()
    model, (ids, mask) = tiny_bert(sparse_prediction=True), tiny_batch()
    labels = labels_of(BarcodeBertForMaskedLM, {})["labels"]
    compiled = torch.compile(model, backend="aot_eager")
    close(compiled(ids, mask, labels=labels).loss, model(ids, mask, labels=labels).loss, 1e-6)


@pytest.mark.parametrize(("cls", "options"), SEVERAL_RANKS)
def test_bfloat16_and_autocast(cls, options):
    """Finite and near float32; the loss is computed in float32."""
    (ids, mask), kwargs = tiny_batch(), labels_of(cls, options)
    model = tiny_bert(cls, **options)
    plain = model(ids, mask, **kwargs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(ids, mask, **kwargs)
    half = tiny_bert(cls, **options).bfloat16()(ids, mask, **kwargs)
    for output in (mixed, half):
        first = output.to_tuple()[0]
        assert first.isfinite().all()
        close(first[:3].float() if first.ndim else first, plain.to_tuple()[0][:3] if first.ndim else plain.loss, 0.2)
        assert not kwargs or output.loss.dtype == torch.float32
    if cls is BarcodeBertForSequenceClassification and "taxa" in options:
        probabilities = model.predict_taxa(half.logits)["genus"].probabilities
        assert probabilities.dtype == torch.float32 and probabilities.isfinite().all()


@pytest.mark.parametrize(("attended", "expected"), [("all", True), ("some", False)])
def test_full_mask_is_dropped(attended, expected, monkeypatch):
    """If all tokens are attended to, attention has no mask and uses faster kernels."""
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return attention(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model, (ids, mask) = tiny_bert(BarcodeBertModel), tiny_batch()
    model(ids, torch.ones_like(mask) if attended == "all" else mask)
    assert [mask is None for mask in masks] == [expected, expected]


def test_flash_attention_is_supported():
    """Without the kernel, the error of transformers names the kernel, not the model."""
    model = tiny_bert(BarcodeBertModel)
    assert model._supports_flash_attn
    try:
        model.set_attn_implementation("flash_attention_2")
    except (ImportError, ValueError, OSError) as error:
        assert "flash" in str(error).lower() and "does not support" not in str(error).lower()


@pytest.mark.parametrize(
    ("cls", "options"), [(BarcodeBertForMaskedLM, {}), (BarcodeBertForSequenceClassification, TREE)]
)
def test_lora(cls, options, tmp_path):
    """Only adapters and head are trained; logits are equal after saving, loading and merging."""
    peft = pytest.importorskip("peft")
    (ids, mask), kwargs = tiny_batch(), labels_of(cls, options)
    head = "classifier" if cls is BarcodeBertForMaskedLM else "taxon_classifier"
    lora = peft.LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=[head], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny_bert(cls, **options), lora).eval()
    before = model(ids, mask).logits.detach()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(5):
        loss = model(input_ids=ids, attention_mask=mask, **kwargs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all("lora_" in name or head in name for name, p in model.named_parameters() if p.requires_grad)
    trained = model(ids, mask).logits.detach()
    assert (trained - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_bert(cls, **options), tmp_path).eval()
    close(loaded(ids, mask).logits, trained, 1e-6)
    merged = loaded.merge_and_unload()
    assert type(merged) is cls
    close(merged(ids, mask).logits, trained, 1e-5)
