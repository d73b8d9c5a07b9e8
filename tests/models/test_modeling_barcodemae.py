"""BarcodeMAE: published numbers, packing, saving, and the encoder alone."""

import json

import numpy as np
import pytest
import torch
from tiny import BERT, close, tiny_batch, tiny_bert
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.models.barcode_heads import weighted_loss
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertModel
from bioscan_hf.models.modeling_barcodemae import BarcodeMaeForPreTraining

MAE = {"decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
PUBLISHED = {"k": 3, "max_nucleotides": 120, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PUBLISHED |= {"intermediate_size": 32, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0}
PUBLISHED |= {"attention_probs_dropout_prob": 0.0}

#: Special tokens of the published vocabulary, before the k-mers.
FIRST = 2


def ours(name):
    """Our name of a published weight; None for one that we do not have."""
    if name.startswith("encoder.pooler.") or name.split(".")[0].endswith("_embedding"):
        return None
    for old, new in {
        "encoder_position_embeddings.": None,
        "encoder.": "bert.",
        "decoder.bert.": "decoder.",
        "decoder.classifier.": "decoder_head.",
        "projection_layer.": "projection.",
    }.items():
        if name.startswith(old):
            return new and new + name.removeprefix(old)
    raise AssertionError(name)


def published(states, **options):
    """Our model with published weights. Of the decoder's word embeddings it has the one of masked tokens."""
    model = BarcodeMaeForPreTraining(BarcodeBertConfig(**PUBLISHED | MAE | options)).eval()
    weights = {ours(name): value for name, value in states.items() if ours(name)}
    weights["decoder.embeddings.word_embeddings.weight"] = weights["decoder.embeddings.word_embeddings.weight"][:1]
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.missing_keys and missing.unexpected_keys in ([], ["projection.weight", "projection.bias"])
    return model


@pytest.fixture(scope="module")
def fixture(reference):
    """Arrays, numbers and the folder of the reference."""
    folder = reference / "barcodemae"
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / "maelm.npz").items()}
    return {name: x.long() if x.dtype in (torch.int16, torch.int8) else x for name, x in arrays.items()}, folder


@pytest.fixture(scope="module")
def numbers(fixture):
    return fixture[1].json("maelm.json")


@pytest.fixture
def states(fixture):
    return torch.load(fixture[1] / "tiny_maelm.pt", weights_only=True)


def attended_equal(logits, expected, mask, tolerance=1e-6):
    """Of the stored rows. Published classes are k-mers; at padding the published model predicts from tokens that ours
    leaves out."""
    attended = mask[: len(expected)] == 1
    close(logits[: len(expected), :, FIRST:][attended], expected[attended], tolerance)


def test_published_logits(fixture, states):
    arrays, folder = fixture
    mask = arrays["attention_mask"]
    model = published(states)
    for ids, name in (("masked_ids", "v2"), ("mixed_ids", "v2_mixed"), ("ids", "v2_nothing_masked")):
        found = model(arrays[ids], mask, output_hidden_states=True)
        attended_equal(found.logits, arrays[f"{name}/logits"], mask)
        assert found.logits.std() > 0.1
    attended_equal(
        published(states, decoder_projection="auto")(arrays["masked_ids"], mask).logits,
        arrays["v2_equal_flags/logits"],
        mask,
    )
    baseline = model.bert(arrays["masked_ids"], mask).last_hidden_state
    logits = model._predict(model._decode(model.projection(baseline), mask))
    attended_equal(logits, arrays["baseline/logits"], mask)


def test_published_logits_of_a_narrow_decoder(fixture):
    arrays, folder = fixture
    mask = arrays["attention_mask"]
    narrow = torch.load(folder / "tiny_maelm_narrow_decoder.pt", weights_only=True)
    model = published(narrow, decoder_hidden_size=8, decoder_projection="auto")
    baseline = model.bert(arrays["masked_ids"], mask).last_hidden_state
    logits = model._predict(model._decode(model.projection(baseline), mask))
    attended_equal(logits, arrays["narrow_baseline/logits"], mask)
    assert model(arrays["masked_ids"], mask).logits.isfinite().all(), "a narrow decoder works without the baseline too"


#: Case -> (input ids, which of the selected k-mers are labelled as masked, options of the model).
CASES = {"v2": ("masked_ids", {}), "v2_mixed": ("mixed_ids", {}), "v2_equal_flags": ("masked_ids", {})}
CASES["v2_equal_flags"] = ("masked_ids", {"decoder_projection": "auto"})


@pytest.mark.parametrize("case", CASES)
def test_published_losses_and_gradients(fixture, numbers, states, case):
    """Losses 1e-6 for the weights 1, 0.999 and 0.7; the norm of each gradient 1e-6. No weight is without gradient."""
    arrays, _ = fixture
    name, options = CASES[case]
    expected = numbers["cases"][case]
    masked = arrays["mask_positions"].bool()
    if case == "v2_mixed":
        masked = arrays["mixed_mask"].bool() | arrays["mixed_random"].bool() | arrays["mixed_kept"].bool()
    given = arrays[name], arrays["attention_mask"]
    targets = arrays["ids"].masked_fill(arrays["ids"] < FIRST, -100)
    for weight in (1.0, 0.999, 0.7):
        model = published(states, masked_loss_weight=weight, **options)
        loss = model(*given, labels=targets, masked=masked).loss
        assert loss.item() == pytest.approx(expected[f"loss_w{weight:g}"], abs=1e-6)
        norms = expected.get(f"grad_norms_w{weight:g}")
        if norms:
            loss.backward()
            found = {name: weight.grad.norm().item() for name, weight in model.named_parameters()}
            wanted = {ours(name): norm for name, norm in norms.items() if norm is not None and ours(name)}
            assert found == {name: pytest.approx(norm, abs=1e-6) for name, norm in wanted.items()}
            assert found["decoder.embeddings.word_embeddings.weight"] > 0.1
    model = published(states, **options)
    labels = targets.masked_fill(~masked, -100)
    assert model(*given, labels=labels).loss.item() == pytest.approx(expected["loss_masked"], abs=1e-6)
    model.config.sparse_prediction = True
    sparse = model(*given, labels=labels)
    assert sparse.loss.item() == pytest.approx(expected["loss_masked"], abs=1e-6)
    assert len(sparse.logits) == expected["n_selected"]


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_published_training_steps(fixture, numbers, weight):
    """Three steps of AdamW and OneCycle. The gradient of the bias of keys is 0, so Adam's step there is of noise."""
    arrays, folder = fixture
    expected = numbers["train" if weight == 1 else f"train_w{weight}"]
    stored = torch.load(folder / "train_states.pt", weights_only=True)
    model = published(stored["before"], masked_loss_weight=weight).train()
    optimizer = torch.optim.AdamW(model.parameters(), expected["lr_max"], weight_decay=expected["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, expected["lr_max"], total_steps=3)
    for step in range(3):
        rows = slice(4 * step, 4 * step + 4)
        ids, mask = arrays["train/ids"][rows], arrays["train/attention_mask"][rows]
        masked = (arrays["train/uniform"][step] < 0.5) & (ids >= FIRST)
        targets = ids.masked_fill(ids < FIRST, -100)
        outputs = model(ids.masked_fill(masked, 0), mask, labels=targets)
        for share, place in ((1.0, 0), (0.0, 1)):
            part = weighted_loss(outputs.logits, targets, masked, share)
            assert part.item() == pytest.approx(expected["loss_calls"][2 * step + place], abs=1e-6)
        outputs.loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if weight != 1:
        return
    after = {ours(name): value for name, value in stored["after"].items() if ours(name)}
    for name, value in model.state_dict().items():
        tolerance = 3e-4 if name.endswith("key.bias") else 1e-6
        close(value, after[name][: len(value)], tolerance)
    published_evaluation(model.eval(), arrays, expected["evaluate"])


@torch.no_grad()
def published_evaluation(model, arrays, expected):
    """Means over the three batches of masked and of visible k-mers, with draws of their own."""
    found = []
    for step in range(3):
        rows = slice(4 * step, 4 * step + 4)
        ids, mask = arrays["train/ids"][rows], arrays["train/attention_mask"][rows]
        masked = (arrays["train/evaluate_uniform"][step] < 0.5) & (ids >= FIRST)
        logits, targets = model(ids.masked_fill(masked, 0), mask).logits, ids.masked_fill(ids < FIRST, -100)
        found.append([weighted_loss(logits, targets, masked, share).item() for share in (1.0, 0.0)])
    masked, visible = torch.tensor(found).mean(0).tolist()
    assert masked == pytest.approx(expected["loss_masked"], abs=1e-5)
    assert visible == pytest.approx(expected["loss_non_masked"], abs=1e-5)


def tiny_mae(**options):
    return tiny_bert(BarcodeMaeForPreTraining, **MAE, **options)


def masked_batch():
    """The four barcodes of `tiny_batch` with every other token masked, in the last two nothing visible is left."""
    ids, mask = tiny_batch()
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:2, ::2] = True
    masked[2] = True
    return ids.masked_fill(masked, 0), mask, ids.masked_fill(mask == 0, -100), masked & (mask == 1)


def test_packing_is_the_same_as_an_attention_mask():
    """The plain way: the encoder reads all positions, and attends to visible ones only."""
    model = tiny_mae(decoder_hidden_size=8)
    ids, mask, _, masked = masked_batch()
    visible = mask * (ids != 0)
    hidden = model.projection(model.bert(ids, visible).last_hidden_state)
    blank = model.decoder.embeddings.word_embeddings.weight[0]
    whole = torch.where(visible.bool()[..., None], hidden, blank)
    plain = model._predict(model._decode(whole, mask))
    found = model(ids, mask, output_hidden_states=True)
    close(found.logits[mask == 1], plain[mask == 1], 1e-5)
    assert found.hidden_states[-1].shape[1] == 6 < ids.shape[1], "of 12 and 7 tokens, 6 and 3 are visible"
    blind = model(ids.masked_fill(masked, 3), mask).logits
    assert (blind[:2] - found.logits[:2]).abs().max() > 1e-2, "masked tokens make no difference: this proves nothing"


def test_empty_selections_cost_nothing():
    """No masked k-mer, no visible one, none at all, no token: losses and gradients are finite."""
    model = tiny_mae(masked_loss_weight=0.7)
    ids, mask, labels, masked = masked_batch()
    nothing = torch.zeros_like(masked)
    whole = labels.masked_fill(labels < 0, 3)
    cases = [(whole, mask, labels, nothing), (torch.zeros_like(ids), mask, labels, ~nothing)]
    cases += [
        (ids, mask, torch.full_like(labels, -100), masked),
        (ids[:, :0], mask[:, :0], labels[:, :0], masked[:, :0]),
    ]
    for given in cases:
        model.zero_grad()
        loss = model(*given[:2], labels=given[2], masked=given[3]).loss
        loss.backward()
        assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    parts = [weighted_loss(model(ids, mask).logits, labels, masked, share).item() for share in (1.0, 0.0)]
    loss = model(ids, mask, labels=labels, masked=masked).loss
    assert loss.item() == pytest.approx(0.7 * parts[0] + 0.3 * parts[1], abs=1e-6)
    part = model(ids, mask, labels=labels, masked=masked, num_items_in_batch=2 * (labels >= 2).sum()).loss
    assert part.item() == pytest.approx(loss.item() / 2, abs=1e-6)


def test_the_folder_opens_as_the_whole_model_and_as_its_encoder(tmp_path):
    """`AutoModel` gives the encoder, which saves no decoder; the decoder comes back with the whole model."""
    model = tiny_mae(vocabulary="barcodebert-cls", taxon_objective="pairs", pooling="cls")
    model.save_pretrained(tmp_path / "mae")
    assert (tmp_path / "mae" / "modeling_barcodemae.py").exists()
    ids, mask, *_ = masked_batch()
    again, loading = AutoModelForPreTraining.from_pretrained(tmp_path / "mae", output_loading_info=True)
    assert type(again) is BarcodeMaeForPreTraining and not loading["missing_keys"] | loading["unexpected_keys"]
    close(again.eval()(ids, mask).logits, model(ids, mask).logits, 1e-6)
    encoder, loading = AutoModel.from_pretrained(tmp_path / "mae", output_loading_info=True)
    assert type(encoder) is BarcodeBertModel and not loading["missing_keys"] | loading["unexpected_keys"]
    whole, mask = tiny_batch()
    close(encoder.eval()(whole, mask).pooler_output, model.bert(whole, mask).pooler_output, 1e-6)
    encoder.save_pretrained(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert "AutoModelForPreTraining" not in config["auto_map"]
    assert not (tmp_path / "encoder" / "modeling_barcodemae.py").exists()
    close(
        AutoModel.from_pretrained(tmp_path / "encoder").eval()(whole, mask).pooler_output,
        encoder(whole, mask).pooler_output,
        0,
    )


def test_poolings_of_the_cls_token():
    """ "cls" is its hidden state, "tokens" the mean of the other tokens, "masked_mean" of all; empty rows are 0."""
    found = {}
    for pooling in ("cls", "tokens", "masked_mean"):
        model = tiny_bert(BarcodeBertModel, vocabulary="barcodebert-cls", pooling=pooling)
        ids, mask = tiny_batch()
        hidden = model(ids, mask).last_hidden_state
        found[pooling] = model(ids, mask).pooler_output
    close(found["cls"], hidden[:, 0], 0)
    close(found["tokens"][1], hidden[1, 1:7].mean(0), 1e-6)
    close(found["masked_mean"][1], hidden[1, :7].mean(0), 1e-6)
    assert not found["tokens"][2].any(), "it has no token but the first"
    model.config.pooling = "tokens"
    assert not model(ids[:, :1]).pooler_output.any()


def test_the_taxon_head_stays_with_the_masked_lm(tmp_path):
    """The plain masked LM has it too, and its folder opens as the encoder without a warning."""
    options = {"vocabulary": "barcodebert-cls", "taxon_objective": "classes", "taxon_objective_classes": 5}
    model = tiny_bert(BarcodeBertForMaskedLM, **options)
    assert model.taxon_head(torch.zeros(2, 16)).shape == (2, 5)
    model.save_pretrained(tmp_path)
    again, loading = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] | loading["unexpected_keys"]
    close(again.taxon_head[2].weight, model.taxon_head[2].weight, 0)
    assert not AutoModel.from_pretrained(tmp_path, output_loading_info=True)[1]["unexpected_keys"]


def test_attention_is_set_for_both_parts():
    model = tiny_mae()
    ids, mask, *_ = masked_batch()
    expected = model(ids, mask).logits
    model.set_attn_implementation("eager")
    assert model.bert.config._attn_implementation == model.decoder.config._attn_implementation == "eager"
    close(model(ids, mask).logits[:3], expected[:3], 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_num_hidden_layers": 0}, "BarcodeMAE needs a decoder. Give 1 layer or more"),
        ({"vocabulary": "clibd"}, "cannot use the vocabulary 'clibd'. Choose one of barcodebert, barcodebert-n, bar"),
        ({"decoder_hidden_size": 30}, "a width of 30 and 4 heads"),
    ],
)
def test_impossible_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BarcodeMaeForPreTraining(BarcodeBertConfig(**BERT | MAE | options))
