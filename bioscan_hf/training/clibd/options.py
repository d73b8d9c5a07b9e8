"""Options and presets of CLIBD training, and their checks.

Source: CLIBD, https://arxiv.org/abs/2405.17537 ("published": its public code); SigLIP,
https://arxiv.org/abs/2303.15343; fusion, HiR and chains: CLiBD-HiR, https://arxiv.org/abs/2603.25573
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ...losses.hierarchical import CHAIN
from ...models.processing_clibd import MODALITIES
from ...models.taxonomy_text import TEXT_TEMPLATES
from ...schema import LABEL_COLUMNS
from ..arguments import (
    BaseTrainingArguments,
    check_no_accumulation,
    check_rank_weights,
    check_workers,
    global_batch_size,
)
from ..checks import check_adapters, check_training
from ..options.clibd import ClibdDefaults, ClibdOptions
from ..options.shared import check_choices
from .views import VIEWED

OBJECTIVES = ("contrast", "simclr")

LOSSES = ("softmax", "siglip")

ARCHITECTURES = ("improved", "published")

#: "published" is the recipe of the released models, for 4 GPUs, a global batch of 2,000 and a peak learning rate of
#: 2e-4. "published-simclr" is the image pretraining, which used Adam, whose weight decay differs from AdamW's.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "per_device_train_batch_size": 500,
        "scale_learning_rate": True,
        "schedule": "onecycle",
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "decay_all_parameters": True,
        "max_grad_norm": 0.0,
        "seed": 42,
        "num_train_epochs": 50.0,
        "architecture": "published",
        "target_normalization": "none",
        "mask_duplicates": ["none"],
    },
    "published-simclr": {
        "objective": "simclr",
        "per_device_train_batch_size": 500,
        "num_train_epochs": 30.0,
        "learning_rate": 1e-6,
        "weight_decay": 1e-4,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "decay_all_parameters": True,
        "max_grad_norm": 0.0,
        "temperature": 0.07,
    },
}


@dataclass
class ClibdArguments(ClibdDefaults, BaseTrainingArguments):  # type: ignore[misc]
    """Training arguments of this recipe."""

    batch_of_learning_rate: ClassVar[int] = 500

    def __post_init__(self) -> None:
        if self.load_best_model_at_end and self.save_strategy not in (self.eval_strategy, "best"):
            raise ValueError(
                f"--save_strategy is {self.save_strategy!r} and --eval_strategy is {self.eval_strategy!r}, but the "
                f"best model is chosen among validated checkpoints. Give both the same value, or "
                f"--load_best_model_at_end False."
            )
        super().__post_init__()


# ---- checks ---------------------------------------------------------------------------------------------------------

#: Option -> its allowed values.
CHOICES: dict[str, tuple[str, ...]] = {
    "objective": OBJECTIVES,
    "loss": LOSSES,
    "architecture": ARCHITECTURES,
    "target_normalization": ("none", "mean"),
    "distinct": ("none", "dna_barcode", *LABEL_COLUMNS),
    "freeze": MODALITIES,
    "simclr_modalities": VIEWED,
    "text_templates": tuple(TEXT_TEMPLATES),
    "label_columns": LABEL_COLUMNS,
    "mask_duplicates": ("none", "dna", "text"),
}

#: Option -> its smallest value.
SMALLEST = {
    **{"rows_at_a_time": 0, "chunk_size": 0, "lora_rank": 0, "projection_dim": 1, "stream_buffer": 1},
    "max_train_specimens": 1,
    **{"fusion_weight": 0, "hir_weight": 0},
}


def check_options(options: ClibdOptions, training_args: ClibdArguments) -> None:
    """Raises ValueError for options that are unknown or exclude each other, before anything is loaded."""
    check_choices(options, CHOICES)
    for name, smallest in SMALLEST.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise ValueError(f"--{name} is {value}. Give {smallest} or more.")
    encoders = [options.image_encoder, options.dna_encoder, options.text_encoder]
    if options.model is not None and any(encoders):
        raise ValueError(
            "--model continues from a CLIBD model, and --image_encoder, --dna_encoder and --text_encoder make a new "
            "one. Leave one of them out."
        )
    _check_loss(options)
    _check_added(options)
    if global_batch_size(training_args) < 2:
        raise ValueError("A batch of 1 row has nothing to compare. Give --per_device_train_batch_size 2 or more.")
    check_no_accumulation(training_args)
    check_workers(training_args)
    check_training(training_args)
    check_adapters(training_args, options.lora_rank)
    if not training_args.dataloader_drop_last:
        raise ValueError("--dataloader_drop_last must stay on, because processes need equal batches. Leave it out.")
    if options.streaming and options.distinct != "none":
        raise ValueError("--streaming cannot reorder its rows: leave --distinct out.")
    if options.streaming and training_args.schedule == "epoch-warmup":
        raise ValueError("--streaming has no --schedule epoch-warmup. Choose onecycle or trainer.")


def _check_loss(options: ClibdOptions) -> None:
    """Raises ValueError for options of the loss that exclude each other."""
    columns = options.label_columns or []
    simclr, siglip = options.objective == "simclr", options.loss == "siglip"
    summed = options.target_normalization == "none"
    if simclr and (siglip or options.augment_on_device):
        raise ValueError("--objective simclr has its own loss and views: leave --loss and --augment_on_device out.")
    if simclr and (options.pairs or options.bind_to or options.chunk_size):
        raise ValueError("--objective simclr compares no pairs: leave --pairs, --bind_to and --chunk_size out.")
    if options.temperature <= 0:
        raise ValueError(f"--temperature is {options.temperature}. Give a number above 0.")
    if simclr and not options.simclr_modalities:
        raise ValueError(f"--simclr_modalities names no modality. Choose among {', '.join(VIEWED)}.")
    if siglip and len(columns) > 1:
        raise ValueError(f"--loss siglip takes one of the --label_columns, but {len(columns)} are given.")
    if not simclr and len(columns) > 1 and summed:
        raise ValueError(f"{len(columns)} --label_columns need --target_normalization mean.")
    check_rank_weights(options.rank_weights, columns, "--label_columns")
    if options.rank_weights is not None and (simclr or siglip or summed):
        raise ValueError("--rank_weights need --loss softmax with --target_normalization mean.")


def _check_added(options: ClibdOptions) -> None:
    """Raises ValueError for options of fusion, HiR and chains that would do nothing or exclude others."""
    if options.objective == "simclr" and (options.fusion_weight or options.hir_weight):
        raise ValueError("--objective simclr has its own loss: leave --fusion_weight and --hir_weight out.")
    if options.hir_views not in (1, 2) or options.hir_views > 1 and not options.hir_weight:
        raise ValueError(
            f"--hir_views is {options.hir_views} and --hir_weight is {options.hir_weight}. Give 1, or 2 with a "
            f"--hir_weight above 0."
        )
    if options.chain_batches and options.streaming:
        raise ValueError("--streaming cannot reorder its rows: leave --chain_batches out.")
    if options.chain_batches and options.distinct != "none":
        raise ValueError("--chain_batches and --distinct both order the rows: leave one of them out.")
    if options.chain_batches and not (options.hir_weight or options.label_columns):
        raise ValueError(
            "--chain_batches makes batches of equal taxa, which no loss uses. Give --hir_weight or --label_columns."
        )


def batch_labels(options: ClibdOptions) -> list[str]:
    """Columns of the labels of a batch: those of the contrastive loss, then those of HiR alone."""
    columns = list(options.label_columns or ())
    return columns + [rank for rank in CHAIN if options.hir_weight and rank not in columns]


def chosen_pairs(options: ClibdOptions) -> list[tuple[str, str]] | None:
    """Pairs of modalities to compare; None for all; ValueError if one is not two names with a hyphen."""
    if options.pairs is None:
        return None
    split = [tuple(pair.split("-")) for pair in options.pairs]
    if any(len(pair) != 2 for pair in split):
        raise ValueError(f"--pairs are {options.pairs}. Write each as two modalities, such as image-dna.")
    return cast(list[tuple[str, str]], split)
