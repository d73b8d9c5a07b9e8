"""Options of transformers' Trainer in our four recipes: each works, or is refused before training.

The runs are tiny: two steps over a simulated release.
"""

import pytest
from clibd_runs import make_folder
from training_runs import divide, results_of

from bioscan_hf.trainers import contrast_barcodes, finetune_barcodebert, pretrain_barcodebert, train_clibd
from bioscan_hf.training.arguments import BarcodeTrainingArguments
from bioscan_hf.training.clibd.options import ClibdArguments, ClibdOptions
from bioscan_hf.training.finetuning import FinetuningOptions
from bioscan_hf.training.pretraining import PretrainingOptions

COMMON = {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "max_steps": 2, "per_device_train_batch_size": 8}
COMMON |= {"eval_strategy": "no", "save_strategy": "no", "train_split": "train"}
BERT = {"k": 2, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}

#: Recipe -> program, its two kinds of options, and its own options.
RECIPES = {
    "pretrain": (
        pretrain_barcodebert,
        (PretrainingOptions, BarcodeTrainingArguments),
        BERT | {"max_nucleotides": 40},
    ),
    "finetune": (
        finetune_barcodebert,
        (FinetuningOptions, BarcodeTrainingArguments),
        {"ranks": ["order"], "test_splits": ["none"]},
    ),
    "contrast": (
        contrast_barcodes,
        (contrast_barcodes.ContrastOptions, contrast_barcodes.ContrastArguments),
        {"ranks": ["order"], "validation_splits": ["none"]},
    ),
    "clibd": (train_clibd, (ClibdOptions, ClibdArguments), {"key_splits": "train", "load_best_model_at_end": False}),
}

#: Options that work, together, and the recipes without them; each alone was tried as well.
WORK = {
    "precision and memory": (
        {"bf16": True, "activation_checkpointing": True, "torch_empty_cache_steps": 1, "optim": "adafactor"},
        (),
    ),
    "neftune, workers, logs": (
        {
            "neftune_noise_alpha": 5.0,
            "dataloader_num_workers": 1,
            "include_num_input_tokens_seen": "all",
            "logging_nan_inf_filter": False,
            "lr_scheduler_type": "polynomial",
            "data_seed": 3,
            "optim": "rmsprop",
        },
        ("clibd",),
    ),
    "validation": (
        {
            "eval_strategy": "steps",
            "eval_steps": 1,
            "eval_on_start": True,
            "eval_accumulation_steps": 1,
            "include_for_metrics": ["inputs", "loss"],
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "load_best_model_at_end": True,
            "save_strategy": "steps",
            "save_steps": 1,
            "label_names": ["labels"],
        },
        ("contrast",),
    ),
    "compiled": ({"torch_compile": True, "torch_compile_backend": "eager"}, ("finetune", "contrast", "clibd")),
}

#: Recipe, options that it refuses, and why; what all recipes refuse is in test_runs.py.
REFUSED = [
    ("contrast", {"eval_strategy": "steps"}, "Nearest neighbours are searched at the end"),
    ("contrast", {"eval_on_start": True}, "Nearest neighbours are searched at the end"),
    ("contrast", {"save_strategy": "best", "metric_for_best_model": "loss"}, "choose by validation"),
    ("contrast", {"gradient_accumulation_steps": 2}, "contrasted within one batch"),
    ("clibd", {"gradient_accumulation_steps": 2}, "contrasted within one batch"),
    ("clibd", {"dataloader_drop_last": False}, "--dataloader_drop_last must stay on"),
    ("clibd", {"neftune_noise_alpha": 5.0}, "one token embedding, which a ClibdModel does not have"),
    (
        "clibd",
        {"eval_strategy": "steps", "save_strategy": "best", "metric_for_best_model": "loss"},
        "--metric_for_best_model is 'loss', but validation gives image_to_dna_",
    ),
    (
        "pretrain",
        {"eval_strategy": "steps", "metric_for_best_model": "accuracy"},
        "'accuracy', but validation gives loss, masked_loss, masked_accuracy",
    ),
    ("finetune", {"eval_strategy": "steps", "metric_for_best_model": "species_f1_macro"}, "order_micro_accuracy"),
    ("pretrain", {"fsdp": True}, "fsdp only works in distributed training"),
]


@pytest.fixture(scope="module")
def models(dataset, tmp_path_factory):
    """A folder with a BarcodeBERT and a CLIBD model."""
    folder = tmp_path_factory.mktemp("models")
    make_folder(folder / "clibd")
    run("pretrain", dataset, folder / "bert", folder)
    return folder


def run(recipe, source, folder, models, **options):
    """Runs a recipe; options that it does not have are left out."""
    program, kinds, own = RECIPES[recipe]
    given = COMMON | {"source": str(source), "output_dir": str(folder)} | own | options
    if recipe != "pretrain":
        given["model"] = str(models / ("clibd" if recipe == "clibd" else "bert"))
    return program.main(*divide(kinds, given))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name"),
    [(recipe, name) for name, (_, without) in WORK.items() for recipe in RECIPES if recipe not in without],
)
def test_common_options_work(dataset, models, tmp_path, recipe, name):
    options = WORK[name][0]
    if recipe == "clibd" and options.get("load_best_model_at_end"):
        options = options | {"metric_for_best_model": "image_to_dna_seen_order"}
    run(recipe, dataset, tmp_path / "run", models, **options)
    results = results_of(tmp_path / "run")
    assert results["steps"] == 2 and len(results["loss_curve"]) == 2
    assert (results["best_checkpoint"] is not None) == options.get("load_best_model_at_end", False)
    assert results["precision"] == ("bf16" if options.get("bf16") else "fp32")


@pytest.mark.parametrize(("recipe", "options", "message"), REFUSED, ids=str)
def test_other_options_are_refused_before_training(dataset, models, tmp_path, monkeypatch, recipe, options, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # --fsdp sets it for the tests that follow
    with pytest.raises(ValueError, match=message) as refused:
        run(recipe, dataset, tmp_path / "run", models, **options)
    assert not getattr(refused.value, "__notes__", ()), "this was raised after training had started"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_refuses_what_all_refuse(models, tmp_path, monkeypatch, recipe):
    """The options of test_runs.py: one of them is enough. Nothing is read before.

    Of several GPUs the Trainer would use DataParallel, in which a process is not a batch.
    """
    kinds = RECIPES[recipe][1]
    with pytest.raises(ValueError, match="--save_only_model is True"):
        run(recipe, "no/such/source", tmp_path / "run", models, save_only_model=True)
    monkeypatch.setattr(kinds[1], "n_gpu", 4)
    with pytest.raises(ValueError, match="sees 4 GPUs.* accelerate launch --num_processes 4 .*CUDA_VISIBLE_DEVICES=0"):
        run(recipe, "no/such/source", tmp_path / "run", models)
