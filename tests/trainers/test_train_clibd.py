"""CLIBD training: it learns, steps do not depend on processes, and a killed run resumes.

The runs are tiny: a simulated release of 400 specimens, photos of 32 pixels, encoders of one layer.
"""

import json

import numpy as np
import pytest
import torch
from clibd_runs import SMALL, arguments, flags, make_folder
from tiny import text_tokenizer
from training_runs import SGD, history, kill, launch, losses, results_of, same_weights, weights
from transformers import BertConfig, BertModel

from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.trainers import train_clibd as program
from bioscan_hf.training.clibd import data as clibd_data
from bioscan_hf.training.clibd.options import PRESETS, ClibdArguments, ClibdOptions


def test_a_run_learns_and_writes_model_processor_and_results(dataset, model, tmp_path):
    """The loss falls below ln 16, that of equal vectors; the best model is kept."""
    options = {
        "max_steps": 30,
        "learning_rate": 3e-3,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "save_strategy": "steps",
        "save_steps": 10,
        "load_best_model_at_end": True,
        "key_splits": "train+key_unseen",
        "train_split": "pretrain+train",
        "mask_duplicates": ["none"],
    }
    results = program.main(*arguments(dataset, model, tmp_path / "run", **options))
    found = losses(tmp_path / "run")
    assert len(found) == 30 and np.mean(found[-5:]) < np.log(16) - 0.005 < np.mean(found[:3]) - 0.04
    assert json.loads((tmp_path / "run/results.json").read_text())["metrics"] == json.loads(
        json.dumps(results["metrics"])
    )
    name = "eval_image_to_dna_harmonic_mean"
    judged = {entry["step"]: entry[name] for entry in history(tmp_path / "run") if name in entry}
    assert list(judged) == [10, 20, 30]
    best = int(results["best_checkpoint"].removeprefix("checkpoint-"))
    state = json.loads((tmp_path / "run/trainer_state.json").read_text())
    assert (
        state["best_model_checkpoint"] == f"checkpoint-{best}"
    )  # without a folder of this machine, because it is pushed
    assert judged[best] == max(judged.values())
    kept = results["metrics"]["retrieval"]["image->dna"]["harmonic_mean"]["macro"][1]["species"]
    assert kept == pytest.approx(judged[best])
    saved = weights(tmp_path / "run")
    checkpoint = weights(tmp_path / f"run/checkpoint-{best}")
    assert all(torch.equal(saved[key], checkpoint[key]) for key in saved)
    loaded = ClibdProcessor.from_pretrained(tmp_path / "run")
    batch = loaded(dna=["ACGT" * 30], text=[{"order": "Diptera"}])
    output = ClibdModel.from_pretrained(tmp_path / "run")(**batch)
    assert output.dna_embeds.shape == output.text_embeds.shape == (1, 16)
    retrieval = results["metrics"]["retrieval"]
    assert set(retrieval) == {"image->dna", "image->image", "dna->dna", "image->text"}
    assert (
        retrieval["dna->dna"]["seen"]["macro"][1]["order"]
        > retrieval["dna->dna"]["seen"]["chance"]["macro"][1]["order"]
    )


VALIDATED = {"key_splits": "train", "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
PERSISTING = {"distinct": "species", "dataloader_num_workers": 2, "dataloader_persistent_workers": True}
RANKS_OF_LOSS = {"label_columns": ["order", "genus"], "rank_weights": [1.0, 3.0]}
SIGLIP = {"loss": "siglip", "label_columns": ["genus"], "learning_rate": 0.01}


FUSED = {
    "fusion_weight": 1.0,
    "hir_weight": 0.5,
    "hir_views": 2,
    "chain_batches": True,
    "label_columns": ["genus"],
    "num_train_epochs": 9,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", [RANKS_OF_LOSS, SIGLIP, FUSED], ids=["ranks", "siglip", "fused"])
def test_steps_are_the_same_for_one_process_two_and_parts(dataset, model, tmp_path, way):
    """One process, two, and one that passes three rows at a time through the model: the same losses and weights.

    The validation of two processes finds the same accuracies. Photos are cropped on the device.
    """
    options = SGD | {"learning_rate": 0.1, "key_splits": "train", "mask_duplicates": ["text"]}
    options |= {"augment_on_device": True, "save_strategy": "steps", "save_steps": 3} | way
    one, parts, two, resumed = (tmp_path / name for name in ("one", "parts", "two", "resumed"))
    program.main(*arguments(dataset, model, one, **options))
    program.main(*arguments(dataset, model, parts, **options, rows_at_a_time=3, chunk_size=5))
    launch("train_clibd", flags(dataset, model, two, **options, per_device_train_batch_size=8), "accelerate")
    assert (results_of(two)["processes"], results_of(two)["global_batch_size"]) == (2, 16)
    last = {"resume_from_checkpoint": str(two / "checkpoint-3")}
    program.main(*arguments(dataset, model, resumed, **options, **last))  # one process goes on with the run of two
    start = weights(model)
    if way is SIGLIP:
        start["logit_bias.bias"] = torch.tensor(-10.0)
        assert abs(weights(one)["logit_bias.bias"] + 10) > 5e-5, "the bias is not trained"
    assert ("output.fused_embeds" in (one / "README.md").read_text()) == (way is FUSED)
    if way is FUSED:
        start |= {key: torch.zeros_like(value) for key, value in weights(one).items() if key not in start}
        card = (one / "README.md").read_text()
        assert all(f"| {name} | {FUSED[name]} |" in card for name in list(FUSED)[:4])
        assert {key for key in start if key not in weights(model)} == {
            f"fusion_gate.{layer}.{part}" for layer in ("hidden", "output") for part in ("weight", "bias")
        }
    for other in (parts, two, resumed):
        np.testing.assert_allclose(losses(other), losses(one), rtol=1e-5)
        same_weights(one, other, atol=2e-6)
        assert results_of(other)["metrics"]["retrieval"] == results_of(one)["metrics"]["retrieval"]
    moved = max((weights(one)[key] - start[key]).abs().max() for key in start)
    assert len(losses(one)) == 4 and moved > 3e-3, "the weights hardly moved: this would prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize("way", [PERSISTING, {"streaming": True}, FUSED])
def test_a_killed_run_resumes(dataset, tmp_path, way):
    """Killed in its 7th step of 9, 5 an epoch, by SIGKILL; dropout is on, and two workers that persist augment."""
    model = make_folder(tmp_path / "model", dropout=0.1)
    options = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    options |= {"text_templates": ["known", "scientific", "taxonomic"]} | way
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill("train_clibd", flags(dataset, model, killed, **options), step=7)
    assert not (killed / "checkpoint-9").exists()
    program.main(*arguments(dataset, model, whole, **options))
    program.main(*arguments(dataset, model, killed, resume_from_checkpoint="last", **options))
    assert len(set(losses(whole))) == 9
    # Not to the last bit: sums over a photo depend on its place in the memory of a process.
    np.testing.assert_allclose(losses(killed), losses(whole), rtol=1e-5)
    rates = [[entry.get("learning_rate") for entry in history(folder)] for folder in (killed, whole)]
    assert rates[0] == rates[1]


def test_a_stream_has_epochs(dataset, model, tmp_path):
    """Two passes of 40 specimens in batches of 16: validated and saved after each, without a number of steps."""
    options = {"streaming": True, "max_steps": -1, "num_train_epochs": 2, "max_train_specimens": 40, **VALIDATED}
    options |= {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "eval_accumulation_steps": 1}
    results = program.main(*arguments(dataset, model, tmp_path / "run", **options))
    name = "eval_image_to_dna_harmonic_mean"
    assert [entry["step"] for entry in history(tmp_path / "run") if name in entry] == [2, 4, 5]
    assert results["steps"] == 5 and history(tmp_path / "run")[-1]["epoch"] == 2.0
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {f"checkpoint-{i}" for i in (2, 4, 5)}


def test_simclr_trains_the_photo_encoder_alone(dataset, model, tmp_path):
    options = {"objective": "simclr", "max_steps": 12, "learning_rate": 1e-3, "key_splits": "train+key_unseen"}
    options |= {"train_split": "pretrain+train"}
    results = program.main(*arguments(dataset, model, tmp_path / "run", **options))
    before, after = weights(model), weights(tmp_path / "run")
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"image_model", "image_projection"}
    assert list(results["metrics"]["retrieval"]) == ["image->image"]
    found = losses(tmp_path / "run")
    # 31 other views. So few steps end near equal vectors; that SimCLR learns is tested in tests/training/clibd.
    assert np.mean(found[-3:]) < 1.02 * np.log(31) < np.mean(found[:3]) < 1.3 * np.log(31)
    program.main(*arguments(dataset, tmp_path / "run", tmp_path / "next", max_steps=1))


def test_adapters_are_saved_and_merged(dataset, model, tmp_path):
    pytest.importorskip("peft")
    results = program.main(
        *arguments(dataset, model, tmp_path / "run", lora_rank=2, freeze=["text"], learning_rate=0.01)
    )
    assert results["model"]["trained_parameters"] < 0.2 * results["model"]["parameters"]
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "model"
    holds = [
        path
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and str(tmp_path).encode() in path.read_bytes()
    ]
    assert not holds, "a folder of this machine would be pushed"
    before, after = weights(model), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert any(key.endswith("attn.qkv.weight") for key in changed)
    assert any(key.startswith("text_projection") for key in changed)
    assert not any(key.startswith("text_model") for key in changed)


def test_modalities_without_a_pair_do_not_change(dataset, model, tmp_path):
    program.main(*arguments(dataset, model, tmp_path / "run", pairs=["image-dna"], key_splits="train"))
    before, after = weights(model), weights(tmp_path / "run")
    changed = {key.split("_")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"image", "dna", "logit"}
    retrieval = json.loads((tmp_path / "run/results.json").read_text())["metrics"]["retrieval"]
    assert set(retrieval) == {"image->dna", "image->image", "dna->dna"}


def test_a_new_model_from_the_default_encoders(dataset, model, tmp_path, monkeypatch):
    """Encoders of a saved model, with the published heads; that of barcodes is a plain BERT, as it is published."""
    whole = ClibdModel.from_pretrained(model)
    for modality in ("image", "text"):
        getattr(whole, f"{modality}_model").save_pretrained(tmp_path / modality)
    text_tokenizer().save_pretrained(tmp_path / "text")
    BertModel(BertConfig(vocab_size=258, **SMALL)).save_pretrained(tmp_path / "dna")
    encoders = {modality: str(tmp_path / modality) for modality in ("image", "dna", "text")}
    monkeypatch.setattr(clibd_data, "ENCODERS", encoders | {"dna": "not/used"})
    options, training_args = arguments(
        dataset, model, tmp_path / "run", architecture="published", projection_dim=8, freeze=["image"]
    )
    options.model, options.dna_encoder = None, encoders["dna"]
    program.main(options, training_args)
    made = ClibdModel.from_pretrained(tmp_path / "run")
    assert made.config.dna_pooling == "softmax_mean" and made.config.projection_dim == 8
    assert torch.equal(made.image_model.state_dict()["timm_model.cls_token"], whole.image_model.timm_model.cls_token)
    processor = ClibdProcessor.from_pretrained(tmp_path / "run")
    assert (processor.text_template, list(processor.image_processor.image_std)) == ("published", [1.0, 1.0, 1.0])
    assert processor.image_size == 32 and processor.dna_tokenizer.k == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "clip"}, "objective is 'clip'. Choose one of contrast, simclr"),
        ({"freeze": ["audio"]}, "freeze is 'audio'"),
        ({"label_columns": ["tribe"]}, "label_columns is 'tribe'"),
        ({"text_templates": ["poem"]}, "text_templates is 'poem'"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2"),
        ({"dataloader_drop_last": False}, "dataloader_drop_last"),
        ({"streaming": True, "schedule": "epoch-warmup"}, "--schedule epoch-warmup"),
        ({"max_train_specimens": 0}, "max_train_specimens is 0. Give 1 or more"),
        ({"streaming": True, "distinct": "species"}, "leave --distinct out"),
        ({"label_columns": ["order", "genus"], "target_normalization": "none"}, "target_normalization mean"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"loss": "siglip", "label_columns": ["order", "genus"]}, "siglip takes one"),
        (
            {"label_columns": ["order"], "rank_weights": [1.0, 2.0]},
            "one number above 0 for each of the 1 values of --label_columns",
        ),
        ({"label_columns": ["order"], "rank_weights": [0.0]}, "one number above 0"),
        ({"label_columns": ["order"], "rank_weights": [1.0], "loss": "siglip"}, "need --loss softmax"),
        ({"objective": "simclr", "simclr_modalities": ["text"]}, "simclr_modalities is 'text'"),
        ({"objective": "simclr", "simclr_modalities": []}, "names no modality"),
        ({"objective": "simclr", "augment_on_device": True}, "leave --loss and --augment_on_device out"),
        ({"objective": "simclr", "bind_to": "dna"}, "leave --pairs, --bind_to and --chunk_size out"),
        ({"objective": "simclr", "temperature": 0.0}, "temperature is 0.0"),
        ({"fusion_weight": -1.0}, "fusion_weight is -1.0. Give 0 or more"),
        ({"objective": "simclr", "hir_weight": 0.01}, "leave --fusion_weight and --hir_weight out"),
        ({"fusion_weight": 1.0, "pairs": ["image-dna"]}, "fusion_weight needs image, dna, text, but compared are"),
        ({"hir_weight": 1.0, "pairs": ["dna-text"]}, "hir_weight needs image, but compared are dna, text"),
        ({"hir_views": 2}, "hir_views is 2 and --hir_weight is 0.0. Give 1, or 2 with"),
        ({"hir_views": 3, "hir_weight": 0.1}, "hir_views is 3"),
        ({"chain_batches": True}, "which no loss uses"),
        ({"chain_batches": True, "hir_weight": 1.0, "distinct": "species"}, "both order the rows"),
        ({"chain_batches": True, "hir_weight": 1.0, "streaming": True}, "leave --chain_batches out"),
        ({"rows_at_a_time": -1}, "rows_at_a_time is -1. Give 0 or more"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"per_device_train_batch_size": 1}, "batch of 1 row"),
        ({"pairs": ["image"]}, "image-dna"),
        ({"pairs": ["image-smell"]}, "is not a pair"),
        ({"bind_to": "smell"}, "bind_to"),
        ({"image_encoder": "x/y"}, "Leave one of them out"),
        (
            {**VALIDATED, "metric_for_best_model": "loss"},
            "--metric_for_best_model is 'loss', but validation gives image_to_dna_seen_family, ",
        ),
        ({**VALIDATED, "save_strategy": "steps"}, "--save_strategy is 'steps' and --eval_strategy is 'epoch'"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"prediction_loss_only": True}, "prediction_loss_only"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches"),
        ({"train_split": "test_unseen", "per_device_train_batch_size": 500}, "fewer than one batch"),
    ],
    ids=str,
)
def test_impossible_options_are_refused_before_writing(dataset, model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        program.main(*arguments(dataset, model, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_encoders_that_are_missing_are_named_at_once(dataset, tmp_path):
    """The command of README on a machine without network: what to add is said in one line."""
    given = ["--source", str(dataset), "--output_dir", str(tmp_path / "run"), "--use_cpu", "True"]
    given += ["--per_device_train_batch_size", "16"]
    names = r"--image_encoder timm/vit_base_patch16_224\S*, --dna_encoder bioscan-ml/BarcodeBERT, --text_encoder prajj"
    with pytest.raises(FileNotFoundError, match=rf"{names}.*--image_encoder new:vit_base_patch16_224") as refused:
        program.main(*program.parse(given))
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_a_missing_model_is_refused(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="neither an existing folder"):
        program.main(*arguments(dataset, tmp_path / "nothing", tmp_path / "run"))


def test_presets_name_options_that_exist_and_are_recorded(tmp_path):
    """The published peak learning rate is 2e-4 for the global batch of 2,000 of its 4 processes."""
    known = {**ClibdOptions.__dataclass_fields__, **ClibdArguments.__dataclass_fields__}
    for preset in PRESETS.values():
        assert set(preset) <= set(known)
    given = ["--source", "x", "--model", "y", "--output_dir", str(tmp_path / "out"), "--preset", "published"]
    options, training_args = program.parse([*given, "--num_train_epochs", "3", "--use_cpu"])
    assert (options.target_normalization, options.mask_duplicates) == ("none", ["none"])
    assert (training_args.num_train_epochs, training_args.learning_rate) == (3.0, 5e-5)
    assert training_args.learning_rate * 4 * 500 / ClibdArguments.batch_of_learning_rate == pytest.approx(2e-4)
