"""The Trainer of CLIBD against published trajectories, and specimens without a modality."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clibd_runs import TRAINING, arguments
from tiny import tiny_clibd
from torch.utils.data import SequentialSampler

from bioscan_hf.checkpoints.barcodebert import convert_checkpoint
from bioscan_hf.losses.hierarchical import CHAIN, hierarchical_loss
from bioscan_hf.losses.supervised import supervised_contrastive_loss
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import photos_on_device
from bioscan_hf.schema import RANKS
from bioscan_hf.trainers import train_clibd as program
from bioscan_hf.training.clibd import data as clibd_data
from bioscan_hf.training.clibd.batches import ClibdCollator
from bioscan_hf.training.clibd.options import ClibdArguments, ClibdOptions
from bioscan_hf.training.clibd.trainer import ClibdTrainer, SimclrTrainer, full_precision
from bioscan_hf.training.run import begin_run


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


def published_arguments(folder, **changed):
    """Arguments of the published run: two epochs of four batches, OneCycle up to 0.005."""
    return ClibdArguments(
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
def test_the_published_trajectories(reference, tmp_path, run):
    """Eight steps of the published code, without dropout: losses, temperature, learning rate and last weights.

    In full fine-tuning, the adapters of the photo encoder are trained together with its weights.
    """
    from bioscan_hf.models.lora import load_lora

    folder = reference / "clibd"
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

    class Recording(ClibdTrainer):
        def compute_loss(self, *args, **kwargs):
            seen.append((super().compute_loss(*args, **kwargs), self.optimizer.param_groups[0]["lr"]))
            return seen[-1][0]

    trainer = Recording(
        model=adapted,
        args=published_arguments(tmp_path / "run"),
        options=ClibdOptions("", target_normalization="none", mask_duplicates=["none"]),
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


def test_the_published_simclr_loss(reference):
    """Two views of six photos, all first ones before all second ones; loss and gradient of the published code."""
    folder = reference / "clibd"
    expected, numbers = json.loads((folder / "simclr.json").read_text()), np.load(folder / "simclr.npz")
    features = torch.from_numpy(numbers["features"]).requires_grad_()
    units = torch.nn.functional.normalize(features, dim=1)
    loss = supervised_contrastive_loss(units, {"view": torch.arange(6).repeat(2)}, temperature=expected["temperature"])
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    torch.testing.assert_close(features.grad, torch.from_numpy(numbers["grad"]), rtol=1e-4, atol=1e-6)


def test_specimens_without_a_modality_count_in_their_other_pairs(dataset, model, tmp_path):
    """Half of the rows have no photo, one has no barcode, one no taxonomy; then no row of a batch has a text."""
    options, training_args = arguments(dataset, model, tmp_path / "run")
    loaded, processor = clibd_data.make_model(options)
    rows = clibd_data.open_specimens(options, "train", clibd_data.columns_needed(options, processor.modalities))
    rows = [rows[i] for i in range(8)]
    for row in rows[:4]:
        row["image"] = {"bytes": None, "path": None}
    rows[4]["dna_barcode"] = ""
    for rank in RANKS:
        rows[5][rank] = None
    batch = ClibdCollator(processor)(rows)
    assert batch["image_present"].tolist() == [False] * 4 + [True] * 4
    assert batch["dna_present"].tolist() == [True] * 4 + [False] + [True] * 3
    assert batch["text_present"].tolist() == [True] * 5 + [False] + [True] * 2
    run = begin_run("task", program.RUN_FILE, options, training_args)
    trainer = program.make_trainer(run, loaded, processor, rows, None, processor.modalities)
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


@pytest.mark.parametrize("on_device", [False, True])
def test_the_hierarchical_loss_of_two_crops_of_a_photo(dataset, model, tmp_path, on_device):
    """The first crops are those of one view; the loss is the plain one and the weight times that of both views."""
    loss_options = {"hir_weight": 0.5, "hir_views": 2, "augment_on_device": on_device}
    options, training_args = arguments(dataset, model, tmp_path / "run", **loss_options)
    loaded, processor = clibd_data.make_model(options)
    rows = clibd_data.open_specimens(options, "train", clibd_data.columns_needed(options, processor.modalities))
    rows = [rows[i] for i in range(8)]
    run = begin_run("task", program.RUN_FILE, options, training_args)
    trainer = program.make_trainer(run, loaded.eval(), processor, rows, None, processor.modalities)
    batch = trainer.data_collator(rows)
    one = ClibdCollator(processor, label_columns=CHAIN, augment_on_device=on_device, seed=training_args.seed)(rows)
    assert all(torch.equal(batch[name], value) for name, value in one.items())
    added = {"rotation_2", "crop_2", "flip_2"} if on_device else {"rotation_2", "pixel_values_2"}
    assert batch.keys() - one.keys() == added
    crop = "crop" if on_device else "pixel_values"
    assert not torch.equal(batch[f"{crop}_2"], batch[crop])

    found = trainer.compute_loss(loaded, batch)
    second = {name.removesuffix("_2"): batch[name] for name in added}
    second.setdefault("pixel_values", batch["pixel_values"])
    views = [
        loaded.get_image_features(photos_on_device(photos, processor.image_processor)) for photos in (batch, second)
    ]
    chain = dict(zip(CHAIN, batch["labels"].unbind(1), strict=True))
    both = hierarchical_loss(torch.stack(views, 1), chain)
    options.hir_weight = 0.0
    plain = trainer.compute_loss(loaded, {**batch, "labels": batch["labels"][:, :0]})
    assert found.item() == pytest.approx(plain.item() + 0.5 * both.item(), rel=1e-5)
    assert abs(both.item() - hierarchical_loss(views[0], chain).item()) > 1e-3


def test_only_matrices_decay(tmp_path):
    """Temperature, biases and norms do not decay, as in open_clip; in the published code, all parameters do."""
    model = tiny_clibd(logit_bias_init_value=-10.0)
    for decay_all in (False, True):
        args = published_arguments(tmp_path)
        args.decay_all_parameters = decay_all
        trainer = ClibdTrainer(model=model, args=args, options=ClibdOptions(""), image_processor=None)
        names = trainer.get_decay_parameter_names(model)
        small = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
        assert {"logit_scale.log_scale", "logit_bias.bias", "dna_projection.bias"} < small
        assert set(names) == {name for name, _ in model.named_parameters()} - (set() if decay_all else small)


@pytest.mark.slow
def test_a_validation_searches_in_full_precision():
    """TF32 of the training is off during the search, and on again afterwards, also after an error."""
    products = torch.backends.cuda.matmul
    name, fast, exact = "allow_tf32", True, False
    if hasattr(products, "fp32_precision"):
        name, fast, exact = "fp32_precision", "tf32", "ieee"
    before = getattr(products, name)
    setattr(products, name, fast)
    try:
        with pytest.raises(KeyError), full_precision():
            assert getattr(products, name) == exact
            raise KeyError
        assert getattr(products, name) == fast
    finally:
        setattr(products, name, before)


def test_simclr_learns_which_views_belong_together():
    """The loss of the views of 16 specimens falls far below ln 31, its value for equal vectors."""
    torch.manual_seed(0)
    photos = torch.randn(16, 3, 32, 32)
    views = torch.cat([photos + 0.3 * torch.randn_like(photos) for _ in range(2)])
    inputs = {"pixel_values": views, "labels": torch.arange(16).repeat(2)[:, None]}
    model = tiny_clibd("image").train()
    options = SimpleNamespace(simclr_modalities=["image"], label_columns=None, temperature=0.07)
    trainer = SimpleNamespace(options=options, embed=lambda model, inputs: model(pixel_values=inputs["pixel_values"]))
    optimizer, found = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = SimclrTrainer.compute_loss(trainer, model, dict(inputs))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert 2 < found[0] < 6 and found[-1] < 0.5
