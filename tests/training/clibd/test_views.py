"""Two views of each specimen, and training of each encoder by itself."""

import json

import pytest
import torch
from clibd_runs import arguments, make_folder
from training_runs import losses, weights

from bioscan_hf.losses.supervised import supervised_contrastive_loss
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.trainers import train_clibd as program
from bioscan_hf.training.clibd import data as clibd_data
from bioscan_hf.training.clibd.views import VIEWED, TwoViewCollator
from bioscan_hf.training.run import begin_run


@pytest.fixture
def rows(dataset, model, tmp_path):
    options, _ = arguments(dataset, model, tmp_path)
    columns = ["processid", "image", "dna_barcode", "genus"]
    specimens = clibd_data.open_specimens(options, "train", columns)
    return [specimens[i] for i in range(4)]


@pytest.fixture
def processor(model):
    return ClibdProcessor.from_pretrained(model)


def test_two_views_of_photos_and_barcodes(rows, processor):
    rows[2]["genus"] = None
    rows[0]["genus"] = rows[1]["genus"] = "Bradysia"
    collator = TwoViewCollator(processor, VIEWED, label_columns=["genus"], seed=3)
    batch = collator(rows)
    assert batch["pixel_values"].shape == (8, 3, 32, 32) and batch["pixel_values"].dtype == torch.uint8
    assert batch["dna_input_ids"].shape == batch["dna_attention_mask"].shape == (8, 30)
    specimen, genus = batch["labels"].T
    assert torch.equal(specimen[:4], specimen[4:]) and len(set(specimen.tolist())) == 4
    assert genus[0] == genus[1] == genus[5] != genus[3] and genus[2] == genus[6] == -1
    for name in ("pixel_values", "dna_input_ids"):
        assert (batch[name][:4] != batch[name][4:]).flatten(1).any(1).all(), f"two views are one: {name}"
        again = collator(rows[1:2])[name]
        assert torch.equal(again, batch[name][[1, 5]]), f"a view depends on what else is in the batch: {name}"
    collator.set_epoch(1)
    other = collator(rows)
    assert all(not torch.equal(other[name], batch[name]) for name in ("pixel_values", "dna_input_ids"))
    assert batch["dna_attention_mask"].sum(1).min() > 10, "hardly anything of a barcode is left"


def test_the_default_is_photos(rows, processor):
    assert set(TwoViewCollator(processor)(rows)) == {"pixel_values", "labels"}


def test_impossible_inputs_are_refused(rows, processor):
    for given, message in (
        ({"modalities": ["text"]}, "Unknown 'text'. The modalities are image, dna"),
        ({"modalities": []}, "Unknown"),
        ({"label_columns": ["tribe"]}, "Unknown 'tribe'"),
    ):
        with pytest.raises(ValueError, match=message):
            TwoViewCollator(processor, **given)
    rows[1]["image"] = {"bytes": None, "path": None}
    with pytest.raises(ValueError, match=f"{rows[1]['processid']} has no photo"):
        TwoViewCollator(processor)(rows)
    rows[2]["dna_barcode"] = " "
    with pytest.raises(ValueError, match=f"{rows[2]['processid']} has no barcode"):
        TwoViewCollator(processor, ["dna"])(rows)


def test_the_loss_is_the_mean_over_modalities(dataset, model, rows, tmp_path):
    """Photos of other specimens leave the gradient of the barcodes' encoder as it is: no pair is compared."""
    chosen = {"objective": "simclr", "simclr_modalities": ["image", "dna"], "label_columns": ["genus"]}
    options, training_args = arguments(dataset, model, tmp_path / "run", **chosen)
    loaded, processor = clibd_data.make_model(options)
    run = begin_run("task", program.RUN_FILE, options, training_args)
    trainer = program.make_trainer(run, loaded, processor, rows, None, ("image", "dna"))
    batch = trainer.data_collator(rows)
    loaded.eval()

    def loss_and_gradient(given):
        loaded.zero_grad()
        loss, outputs = trainer.compute_loss(loaded, given, return_outputs=True)
        loss.backward()
        return loss.item(), loaded.dna_projection.weight.grad.clone(), outputs

    value, gradient, outputs = loss_and_gradient(batch)
    names = dict(zip(("specimen", "genus"), batch["labels"].unbind(1), strict=True))
    stated = [
        supervised_contrastive_loss(outputs[f"{name}_embeds"], names, temperature=0.07).item()
        for name in ("image", "dna")
    ]
    assert value == pytest.approx(sum(stated) / 2, rel=1e-5)
    other = dict(batch) | {"pixel_values": torch.randint_like(batch["pixel_values"], 256)}
    changed, same, _ = loss_and_gradient(other)
    assert changed != value and gradient.abs().max() > 1e-6
    torch.testing.assert_close(same, gradient, rtol=0, atol=1e-6)


def test_encoders_are_trained_separately(dataset, model, tmp_path):
    """The control of an alignment: photos and barcodes learn, texts and the temperature stay; judged within photos."""
    options = {"objective": "simclr", "simclr_modalities": ["dna", "image"], "max_steps": 6, "learning_rate": 3e-3}
    options |= {"key_splits": "train+key_unseen", "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps"}
    options |= {"save_steps": 3, "load_best_model_at_end": True}
    results = program.main(*arguments(dataset, model, tmp_path / "run", **options))
    before, after = weights(model), weights(tmp_path / "run")
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"image_model", "image_projection", "dna_model", "dna_projection"}
    assert set(results["metrics"]["retrieval"]) == {"image->dna", "image->image", "dna->dna"}
    state = json.loads((tmp_path / "run/trainer_state.json").read_text())
    judged = [
        entry["eval_image_to_image_harmonic_mean"]
        for entry in state["log_history"]
        if "eval_loss" not in entry and "eval_image_to_image_harmonic_mean" in entry
    ]
    assert state["best_metric"] == max(judged)


def test_switching_to_siglip_and_back(dataset, model, tmp_path):
    """A model without a bias is given one, which is trained and saved; CLIP's loss then leaves it as it is."""
    program.main(*arguments(dataset, model, tmp_path / "one", loss="siglip", learning_rate=0.01))
    made = ClibdModel.from_pretrained(tmp_path / "one")
    assert made.config.logit_bias_init_value == -10.0
    bias = weights(tmp_path / "one")["logit_bias.bias"]
    assert bias != -10.0 and made.logit_bias() == bias
    assert len(losses(tmp_path / "one")) == 4
    program.main(*arguments(dataset, tmp_path / "one", tmp_path / "two", max_steps=1))
    assert weights(tmp_path / "two")["logit_bias.bias"] == bias
    loaded = clibd_data.load_model(str(tmp_path / "one"), "siglip")
    assert loaded.logit_bias() == bias


def test_adapters_train_the_bias(model):
    pytest.importorskip("peft")
    from bioscan_hf.models.lora import add_lora

    adapted = add_lora(clibd_data.load_model(str(model), "siglip"), r=2)
    assert any("logit_bias" in name for name, one in adapted.named_parameters() if one.requires_grad)


def test_weights_that_do_not_fit_are_all_named(model, tmp_path):
    from safetensors.torch import save_file

    make_folder(tmp_path / "broken")
    state = weights(tmp_path / "broken")
    lost = ["dna_projection.bias", "image_projection.weight"]
    kept = {key: value for key, value in state.items() if key not in lost} | {"audio_model.weight": torch.ones(2)}
    save_file(kept, tmp_path / "broken/model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match="Missing: dna_projection.bias, image_projection.weight; unexpected: audio_model.weight"
    ):
        clibd_data.load_model(str(tmp_path / "broken"), "softmax")


def test_a_new_photo_encoder_needs_no_download(tmp_path):
    """Its processor has the size and normalisation that timm describes the architecture by: 160 pixels."""
    encoder = clibd_data.new_image_encoder("new:test_vit")
    made = ClibdModel.from_pretrained_towers(image=encoder)
    made.save_pretrained(tmp_path)
    for config in (made.config, ClibdModel.from_pretrained(tmp_path).config):
        assert clibd_data.make_processor(config).image_size == 160
    assert made.get_image_features(torch.zeros(1, 3, 160, 160)).shape == (1, 768)
    with pytest.raises(ValueError, match="no architecture 'test_vat'"):
        clibd_data.new_image_encoder("new:test_vat")
