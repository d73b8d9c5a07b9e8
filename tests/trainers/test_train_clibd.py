"""Training CLIBD: published numbers, it learns, it does not depend on how a batch is spread, a killed run goes on.

The runs are tiny: a made-up release of 400 specimens, photos of 32 pixels, encoders of one layer.
"""

import json
import os
import signal
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerFast

from bioscan_hf.checkpoints.barcodebert import convert_checkpoint
from bioscan_hf.losses.rows import supervised_contrastive_loss
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.trainers import train_clibd as program
from bioscan_hf.training import clibd_options, clibd_trainer, clibd_training
from bioscan_hf.training.clibd_batches import ClibdCollator, DistinctSampler, distinct_order, groups_of

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAINING = {
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 1,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "save_total_limit": 10,
    "save_strategy": "no",
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "key_splits": "none",
    "train_split": "train",
    "max_steps": 4,
}
# SGD: a step is proportional to the gradient, so that equal weights mean equal gradients.
SPREAD = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 0}


def text_tokenizer():
    """One piece for each letter."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def make_folder(folder, modalities=("image", "dna", "text"), dropout=0.0):
    """A model of random weights and its processor."""
    torch.manual_seed(0)
    vit = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    no_attention_dropout = {"attention_probs_dropout_prob": 0.0}
    configs = {
        "image": {"architecture": "vit_tiny_patch16_224", "model_args": vit},
        "dna": {"k": 4, "max_nucleotides": 120, "hidden_dropout_prob": dropout, **no_attention_dropout, **SMALL},
        "text": {"vocab_size": 139, "hidden_dropout_prob": dropout, **no_attention_dropout, **SMALL},
    }
    fields = {f"{modality}_config": configs[modality] for modality in modalities}
    config = ClibdConfig(**fields, projection_dim=16)
    ClibdModel(config).save_pretrained(folder)
    ClibdProcessor(
        make_image_processor(32),
        KmerTokenizer(k=4, max_nucleotides=120),
        text_tokenizer() if "text" in modalities else None,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("clibd") / "model")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """The cache of `datasets`, for this process and those that it starts."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


def arguments(source, model, folder, **options):
    """What `program.main` takes. `options` belong to either of its two arguments."""
    own = set(clibd_options.ClibdOptions.__dataclass_fields__)
    given = TRAINING | {"source": str(source), "model": str(model), "output_dir": str(folder)} | options
    return (
        clibd_options.ClibdOptions(**{name: given[name] for name in given if name in own}),
        clibd_options.ClibdArguments(**{name: given[name] for name in given if name not in own}),
    )


def flags(source, model, folder, **options):
    given = TRAINING | {"source": source, "model": model, "output_dir": folder} | options
    return [
        part
        for name, value in given.items()
        for part in (f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)]))
    ]


def history(folder):
    """What was logged at each step and validation, but for what measures time."""
    logged = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    clock = ("_runtime", "_per_second")
    return [{name: entry[name] for name in entry if not name.endswith(clock)} for entry in logged if "step" in entry]


def losses(folder):
    return [entry["loss"] for entry in history(folder) if "loss" in entry]


def weights(folder):
    return load_file(folder / "model.safetensors")


def batches_of(numbers):
    """The four batches of the published run, as the model reads them; nothing is masked in a barcode."""
    found = []
    for i in range(4):
        names = ("image", "dna", "input_ids", "attention_mask")
        image, dna, ids, mask = (torch.from_numpy(numbers[f"batch{i}/{name}"]) for name in names)
        found.append(
            {
                "pixel_values": image,
                "dna_input_ids": dna,
                "dna_attention_mask": torch.ones_like(dna),
                "text_input_ids": ids,
                "text_attention_mask": mask,
            }
        )
    return found


def use_head_start(folder, **changed):
    """Arguments of a run over `batches_of`, two epochs of four batches, as published: OneCycle up to 0.005."""
    return clibd_options.ClibdArguments(
        output_dir=str(folder),
        schedule="onecycle",
        learning_rate=0.005,
        decay_all_parameters=True,
        max_grad_norm=0.0,
        **{key: TRAINING[key] for key in ("use_cpu", "disable_tqdm", "logging_steps", "save_strategy")},
        **{"eval_strategy": "no", "load_best_model_at_end": False, "max_steps": 8, "per_device_train_batch_size": 1},
        **changed,
    )


@pytest.mark.parametrize("run", ["full_learned_temp", "full_fixed_temp", "lora_learned_temp"])
def test_the_published_trajectories(shared, tmp_path, run):
    """Eight steps of the published code, without dropout: losses, temperature, learning rate and last weights.

    In its full fine-tuning the photo encoder keeps its adapters beside the weights, and both are trained.
    """
    from bioscan_hf.models.lora import load_lora

    folder = shared / "fixtures/clibd"
    expected, numbers = json.loads((folder / "train.json").read_text())[run], np.load(folder / "train.npz")
    file = "best_lora.pth" if run.startswith("lora") else "best_disable_lora.pth"
    output = convert_checkpoint(folder / file, tmp_path / "model", num_attention_heads=4, adapters="keep")
    model = ClibdModel.from_pretrained(output)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    adapted = load_lora(model, output / "adapter")
    if run.startswith("full"):
        adapted.requires_grad_(True)
    if run == "full_fixed_temp":
        model.logit_scale.requires_grad_(False)
    data, seen = batches_of(numbers), []

    class Recording(clibd_trainer.ClibdTrainer):
        def compute_loss(self, *args, **kwargs):
            seen.append((super().compute_loss(*args, **kwargs), self.optimizer.param_groups[0]["lr"]))
            return seen[-1][0]

    trainer = Recording(
        model=adapted,
        args=use_head_start(tmp_path / "run"),
        options=clibd_options.ClibdOptions("", target_normalization="none", mask_duplicates=["none"]),
        image_processor=None,
        train_dataset=data,
        data_collator=lambda rows: rows[0],
        sampler=SequentialSampler(data),
    )
    trainer.train()
    np.testing.assert_allclose([loss.item() for loss, _ in seen], expected["losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose([rate for _, rate in seen], expected["lr"], rtol=1e-6)
    assert model.logit_scale().log().item() == pytest.approx(expected["final_logit_scale_param"], abs=1e-5)
    last = adapted.merge_and_unload().state_dict()
    for ours, theirs in {
        "image_projection.weight": "image_encoder.base_image_encoder.head.weight",
        "dna_projection.decoder.weight": "dna_encoder.base_dna_encoder.cls.predictions.decoder.weight",
        "text_projection.weight": "language_encoder.proj.weight",
    }.items():
        torch.testing.assert_close(last[ours], torch.from_numpy(numbers[f"{run}/{theirs}"]), rtol=0, atol=1e-4)


def test_the_published_simclr_loss(shared):
    """Two views of six photos, all first ones before all second ones; loss and gradient of the published code."""
    folder = shared / "fixtures/clibd"
    expected, numbers = json.loads((folder / "simclr.json").read_text()), np.load(folder / "simclr.npz")
    features = torch.from_numpy(numbers["features"]).requires_grad_()
    units = torch.nn.functional.normalize(features, dim=1)
    loss = supervised_contrastive_loss(units, {"view": torch.arange(6).repeat(2)}, temperature=expected["temperature"])
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    torch.testing.assert_close(features.grad, torch.from_numpy(numbers["grad"]), rtol=1e-4, atol=1e-6)


def test_a_run_learns_and_leaves_a_model_its_processor_and_results(dataset, model, tmp_path):
    """The loss falls below ln 16, that of vectors which tell nothing apart; the best model is kept."""
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
    assert state["best_model_checkpoint"] == f"checkpoint-{best}"  # it is pushed, without a folder of this machine
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


RANKS_OF_LOSS = {"label_columns": ["order", "genus"], "rank_weights": [1.0, 3.0]}
SIGLIP = {"loss": "siglip", "label_columns": ["genus"], "learning_rate": 0.01}


@pytest.mark.parametrize("way", [RANKS_OF_LOSS, SIGLIP], ids=["ranks", "siglip"])
def test_the_steps_do_not_depend_on_how_a_batch_is_spread(dataset, model, tmp_path, way):
    """One process, two, and one that lets three rows at a time through the model: the same losses and weights.

    The validation of two processes finds the same accuracies. Photos are cropped on the device.
    """
    options = SPREAD | {"key_splits": "train", "mask_duplicates": ["text"], "augment_on_device": True} | way
    program.main(*arguments(dataset, model, tmp_path / "one", **options))
    parts = {"rows_at_a_time": 3, "chunk_size": 5}
    program.main(*arguments(dataset, model, tmp_path / "parts", **options, **parts))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"),
            "bioscan_hf.trainers.train_clibd",
            *flags(dataset, model, tmp_path / "two", **options, per_device_train_batch_size=8),
        ],
        env=os.environ | {"ACCELERATE_USE_CPU": "yes"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "parts", "two")}
    assert (results["two"]["processes"], results["two"]["global_batch_size"]) == (2, 16)
    start = weights(model)
    if way is SIGLIP:
        start["logit_bias.bias"] = torch.tensor(-10.0)
        assert abs(weights(tmp_path / "one")["logit_bias.bias"] + 10) > 5e-5, "the bias is not trained"
    for name in ("parts", "two"):
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "one"), rtol=1e-5)
        for key, value in weights(tmp_path / "one").items():
            torch.testing.assert_close(weights(tmp_path / name)[key], value, rtol=0, atol=2e-6)
        assert results[name]["metrics"]["retrieval"] == results["one"]["metrics"]["retrieval"]
    moved = max((weights(tmp_path / "one")[key] - start[key]).abs().max() for key in start)
    assert len(losses(tmp_path / "one")) == 4 and moved > 3e-3, "the weights hardly moved: this would prove nothing"


KILLED = """
import os, signal, sys
from bioscan_hf.trainers import train_clibd as program

class Killer(program.CheckpointCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

program.CheckpointCallback = Killer
program.main(*program.parse(sys.argv[1:]))
"""


@pytest.mark.parametrize("way", [{"distinct": "species", "dataloader_num_workers": 2}, {"streaming": True}])
def test_a_killed_run_goes_on_as_if_it_had_not_been(dataset, tmp_path, way):
    """Killed in its 7th step of 9, 5 an epoch, by SIGKILL; dropout is on, and two workers augment photos."""
    model = make_folder(tmp_path / "model", dropout=0.1)
    options = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    options |= {"text_templates": ["known", "scientific", "taxonomic"]} | way
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *flags(dataset, model, tmp_path / "killed", **options)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed/checkpoint-9").exists()
    program.main(*arguments(dataset, model, tmp_path / "whole", **options))
    program.main(*arguments(dataset, model, tmp_path / "killed", resume_from_checkpoint="last", **options))
    assert len(set(losses(tmp_path / "whole"))) == 9
    # Not to the last bit: sums over a photo depend on where in memory a process has put it.
    np.testing.assert_allclose(losses(tmp_path / "killed"), losses(tmp_path / "whole"), rtol=1e-5)
    rates = [[entry.get("learning_rate") for entry in history(tmp_path / name)] for name in ("killed", "whole")]
    assert rates[0] == rates[1]


def test_specimens_that_lack_a_modality_count_where_they_can(dataset, model, tmp_path):
    """All photos of half of the rows are taken away and all barcodes of a few; then all texts of a batch."""
    options, training_args = arguments(dataset, model, tmp_path / "run")
    loaded, processor = clibd_training.make_model(options)
    rows = clibd_training.load_specimens(
        options, "train", clibd_training.columns_needed(options, processor.modalities)
    )
    rows = [dict(row) for row in rows.select(range(8))]
    for row in rows[:4]:
        row["image"] = {"bytes": None, "path": None}
    rows[4]["dna_barcode"] = ""
    for rank in clibd_training.RANKS:
        rows[5][rank] = None
    batch = ClibdCollator(processor)(rows)
    assert batch["image_present"].tolist() == [False] * 4 + [True] * 4
    assert batch["dna_present"].tolist() == [True] * 4 + [False] + [True] * 3
    assert batch["text_present"].tolist() == [True] * 5 + [False] + [True] * 2
    trainer = program.make_trainer(options, training_args, loaded, processor, rows, None, processor.modalities, {})
    loaded.eval()
    loss = trainer.compute_loss(loaded, dict(batch))
    changed = dict(batch) | {"pixel_values": batch["pixel_values"].clone()}
    changed["pixel_values"][:4] = torch.randint(0, 256, changed["pixel_values"][:4].shape, dtype=torch.uint8)
    assert trainer.compute_loss(loaded, changed).item() == loss.item(), "a filler counts"
    changed["pixel_values"][4:] = changed["pixel_values"][:4]
    assert trainer.compute_loss(loaded, changed).item() != loss.item()
    none = dict(batch) | {f"{modality}_present": torch.zeros(8, dtype=torch.bool) for modality in ("text", "image")}
    alone = trainer.compute_loss(loaded, none)
    alone.backward()
    assert alone.item() == 0.0  # no pair is left
    one = dict(batch) | {"text_present": torch.zeros(8, dtype=torch.bool)}
    assert 0 < trainer.compute_loss(loaded, one).item() < 10


def test_simclr_trains_the_photo_encoder_alone(dataset, model, tmp_path):
    options = {"objective": "simclr", "max_steps": 12, "learning_rate": 1e-3, "key_splits": "train+key_unseen"}
    results = program.main(*arguments(dataset, model, tmp_path / "run", **options))
    before, after = weights(model), weights(tmp_path / "run")
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"image_model", "image_projection"}
    assert list(results["metrics"]["retrieval"]) == ["image->image"]
    found = losses(tmp_path / "run")
    assert np.mean(found[-3:]) < np.mean(found[:3]) < 1.3 * np.log(31)  # 31 other views
    program.main(*arguments(dataset, tmp_path / "run", tmp_path / "next", max_steps=1))


def test_adapters_are_saved_apart_and_merged(dataset, model, tmp_path):
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


def test_what_no_pair_holds_is_left_as_it_is(dataset, model, tmp_path):
    program.main(*arguments(dataset, model, tmp_path / "run", pairs=["image-dna"], key_splits="train"))
    before, after = weights(model), weights(tmp_path / "run")
    changed = {key.split("_")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"image", "dna", "logit"}
    retrieval = json.loads((tmp_path / "run/results.json").read_text())["metrics"]["retrieval"]
    assert set(retrieval) == {"image->dna", "image->image", "dna->dna"}


def test_a_new_model_is_made_of_encoders(dataset, model, tmp_path):
    """Encoders are taken out of a model and put together again, with the published heads."""
    whole = ClibdModel.from_pretrained(model)
    for modality in ("image", "dna", "text"):
        getattr(whole, f"{modality}_model").save_pretrained(tmp_path / modality)
    text_tokenizer().save_pretrained(tmp_path / "text")
    encoders = {f"{modality}_encoder": str(tmp_path / modality) for modality in ("image", "dna", "text")}
    options, training_args = arguments(
        dataset, model, tmp_path / "run", **encoders, architecture="published", projection_dim=8, freeze=["image"]
    )
    options.model = None
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
        ({"objective": "clip"}, "Unknown objective 'clip'"),
        ({"freeze": ["audio"]}, "Unknown freeze 'audio'"),
        ({"label_columns": ["tribe"]}, "Unknown label_columns 'tribe'"),
        ({"text_templates": ["poem"]}, "Unknown text_templates 'poem'"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2"),
        ({"dataloader_drop_last": False}, "dataloader_drop_last"),
        ({"streaming": True, "max_steps": -1}, "--max_steps"),
        ({"streaming": True, "distinct": "species"}, "leave --distinct out"),
        ({"label_columns": ["order", "genus"], "target_normalization": "none"}, "target_normalization mean"),
        ({"loss": "hinge"}, "Unknown loss 'hinge'"),
        ({"loss": "siglip", "label_columns": ["order", "genus"]}, "siglip takes one"),
        ({"label_columns": ["order"], "rank_weights": [1.0, 2.0]}, "give one above 0 for each of the 1"),
        ({"label_columns": ["order"], "rank_weights": [0.0]}, "give one above 0"),
        ({"label_columns": ["order"], "rank_weights": [1.0], "loss": "siglip"}, "softmax loss"),
        ({"objective": "simclr", "simclr_modalities": ["text"]}, "Unknown simclr_modalities 'text'"),
        ({"objective": "simclr", "simclr_modalities": []}, "names none"),
        ({"objective": "simclr", "augment_on_device": True}, "leave --loss and --augment_on_device out"),
        ({"objective": "simclr", "bind_to": "dna"}, "leave --pairs, --bind_to and --chunk_size out"),
        ({"objective": "simclr", "local_negatives": True}, "leave --local_negatives out"),
        ({"objective": "simclr", "temperature": 0.0}, "temperature is 0.0"),
        ({"rows_at_a_time": -1}, "rows_at_a_time is -1; give 0 or more"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"per_device_train_batch_size": 1}, "batch of one row"),
        ({"pairs": ["image"]}, "image-dna"),
        ({"pairs": ["image-smell"]}, "is no pair"),
        ({"bind_to": "smell"}, "bind_to"),
        ({"image_encoder": "x/y"}, "Give either --model"),
        ({"train_split": "test_unseen", "per_device_train_batch_size": 500}, "fewer than one batch"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(dataset, model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        program.main(*arguments(dataset, model, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_there(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        program.main(*arguments(dataset, tmp_path / "nothing", tmp_path / "run"))


def test_presets_name_options_that_exist_and_are_recorded(tmp_path):
    """The published peak learning rate is 2e-4 for the global batch of 2,000 of its 4 processes."""
    known = {**clibd_options.ClibdOptions.__dataclass_fields__, **clibd_options.ClibdArguments.__dataclass_fields__}
    for preset in clibd_options.PRESETS.values():
        assert set(preset) <= set(known)
    given = ["--source", "x", "--model", "y", "--output_dir", str(tmp_path / "out"), "--preset", "published"]
    options, training_args = program.parse([*given, "--num_train_epochs", "3", "--use_cpu"])
    assert (options.target_normalization, options.mask_duplicates) == ("none", ["none"])
    assert (training_args.num_train_epochs, training_args.learning_rate) == (3.0, 5e-5)
    assert training_args.learning_rate * 4 * 500 / clibd_options.BATCH_OF_LEARNING_RATE == pytest.approx(2e-4)


def test_no_batch_holds_a_group_twice():
    """Groups of 1 to 40 of 400 rows in batches of 10: none twice, but for what is left over of the largest at last."""
    draw = np.random.default_rng(0)
    groups = np.minimum(draw.zipf(1.6, 400), 60).astype(np.int64)
    groups[draw.random(400) < 0.1] = -1
    order = distinct_order(groups, 10, (0, 0))
    assert sorted(order.tolist()) == list(range(400))
    repeated = [
        len(known) - len(set(known))
        for batch in order.reshape(40, 10)
        for known in [[group for group in groups[batch].tolist() if group >= 0]]
    ]
    plain = [
        len(known) - len(set(known))
        for batch in draw.permutation(400).reshape(40, 10)
        for known in [[group for group in groups[batch].tolist() if group >= 0]]
    ]
    first = next(i for i, count in enumerate(repeated) if count)
    assert first >= 10 and min(plain[:10]) > 0, "there were no duplicates to keep apart"
    assert not np.array_equal(order, distinct_order(groups, 10, (0, 1)))
    sampler = DistinctSampler(groups, 10, seed=0)
    assert list(sampler) == order.tolist() and len(sampler) == 400
    sampler.set_epoch(1)
    assert list(sampler) == distinct_order(groups, 10, (0, 1)).tolist()


def test_rare_groups_never_meet():
    """Pairs of 100 groups fit into batches of 10 with none twice."""
    groups = np.repeat(np.arange(100), 2)
    for epoch in range(5):
        batches = groups[distinct_order(groups, 10, (0, epoch))].reshape(20, 10)
        assert sum(len(set(batch.tolist())) == 10 for batch in batches) >= 19


def test_groups_of_a_column():
    column = pa.chunked_array([["a", None, "b"], ["", "a"]])
    groups = groups_of(column)
    assert groups.tolist() == [0, -1, 1, -1, 0]
