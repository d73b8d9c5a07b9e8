"""Options and presets of CLIBD training, and their checks.

Source: CLIBD, https://arxiv.org/abs/2405.17537 ("published": its public code); SigLIP,
https://arxiv.org/abs/2303.15343
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ...models.processing_clibd import MODALITIES
from ...models.taxonomy_text import TEXT_TEMPLATES
from ...schema import LABEL_COLUMNS
from ..arguments import (
    OVERWRITE_HELP,
    BaseTrainingArguments,
    check_no_accumulation,
    check_rank_weights,
    check_workers,
    global_batch_size,
    option,
    required,
)
from .views import VIEWED

#: Metric that chooses the best checkpoint: photos find barcodes of their species, macro top-1 accuracy, harmonic mean
#: of seen and unseen species.
BEST_BY = "image_to_dna_harmonic_mean"

OBJECTIVES = ("contrast", "simclr")

LOSSES = ("softmax", "siglip")

ARCHITECTURES = ("improved", "published")

_ONE_CYCLE: dict[str, Any] = {
    "per_device_train_batch_size": 500,
    "scale_learning_rate": True,
    "schedule": "onecycle",
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "decay_all_parameters": True,
    "max_grad_norm": 0.0,
    "seed": 42,
}

#: "published" is the recipe of the released models, for 4 GPUs, a global batch of 2,000 and a peak learning rate of
#: 2e-4. "published-simclr" is the image pretraining, which used Adam, whose weight decay differs from AdamW's.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        **_ONE_CYCLE,
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
class ClibdOptions:
    """Options of CLIBD training: data, model and loss."""

    source: str = required("Hub id, Parquet folder, or release folder of BIOSCAN-5M.")
    model: str | None = option(None, "Folder or Hub id of a CLIBD model to continue from.")
    image_encoder: str | None = option(
        None,
        "New model: a photo encoder such as timm/vit_base_patch16_224.augreg2_in21k_ft_in1k, or new:ARCHITECTURE for "
        "one of timm's architectures with random weights.",
    )
    dna_encoder: str | None = option(None, "New model: a BarcodeBERT.")
    text_encoder: str | None = option(None, "New model: a text encoder such as prajjwal1/bert-small.")
    architecture: str = option("improved", "New model: 'improved', or 'published' for the released models' heads.")
    projection_dim: int = option(768, "New model: width of the shared embedding space.")
    preset: str = option("none", "'published', 'published-simclr', or 'none'.")
    objective: str = option("contrast", "'contrast' between modalities, or 'simclr' between views of one modality.")
    simclr_modalities: list[str] = option(["image"], "simclr: modalities to train separately: image, dna.")
    loss: str = option("softmax", "contrast: 'softmax' (CLIP's, as published) or 'siglip' (pairwise).")
    image_config: str = option("cropped_256", "Image package of the source.")
    train_split: str = option("pretrain+train", "Split to train on; 'a+b' joins two.")
    streaming: bool = option(False, "Read the data during training; needs --max_steps.")
    stream_buffer: int = option(10_000, "Rows of the shuffle buffer of a stream.")
    key_splits: str = option("train+key_unseen", "Validation: splits of the keys; 'none' for no validation.")
    seen_split: str = option("val", "Validation: queries of seen species.")
    unseen_split: str = option("val_unseen", "Validation: queries of unseen species.")
    text_templates: list[str] | None = option(
        None, f"Templates of the text, drawn at random: {', '.join(TEXT_TEMPLATES)}. Default: the processor's own."
    )
    label_columns: list[str] | None = option(
        None, "Ranks, or dna_bin, at which equal taxa are positives. Default: each specimen is its own class."
    )
    rank_weights: list[float] | None = option(
        None, "Weight of each of the --label_columns in the loss. Default: equal weights."
    )
    target_normalization: str = option("mean", "'mean' over the positives of a row, or 'none' (sum), as published.")
    pairs: list[str] | None = option(None, "Pairs to compare, such as image-dna dna-text. Default: all.")
    bind_to: str | None = option(None, "Compare only this modality with each other one.")
    mask_duplicates: list[str] = option(
        ["dna", "text"], "Modalities whose equal inputs in a batch are not negatives; 'none'."
    )
    distinct: str = option("none", "Column, such as dna_barcode, whose values occur once in a batch; 'none'.")
    augment_on_device: bool = option(False, "Crop and flip photos on the GPU; the data loader only decodes them.")
    rows_at_a_time: int = option(
        0, "Rows per forward pass; saves memory for a second forward pass; 0: the whole batch."
    )
    chunk_size: int = option(0, "Rows whose similarities are in memory at once; 0: all.")
    fixed_temperature: bool = option(False, "Do not train the temperature.")
    temperature: float = option(0.07, "simclr: temperature of the loss.")
    freeze: list[str] | None = option(None, "Modalities whose encoders are not trained.")
    lora_rank: int = option(0, "Rank of low-rank adapters (published: 4); 0 for none.")
    overwrite: bool = option(False, OVERWRITE_HELP)


@dataclass
class ClibdArguments(BaseTrainingArguments):
    """Training arguments with the defaults of this recipe."""

    batch_of_learning_rate: ClassVar[int] = 500

    output_dir: str = option("clibd", "Folder of the model and the results.")
    learning_rate: float = option(5e-5, "Peak learning rate.")
    per_device_train_batch_size: int = option(500, "Specimens per process and batch.")
    num_train_epochs: float = option(20.0, "Passes over the training split.")
    weight_decay: float = option(0.01, "Weight decay of AdamW.")
    warmup_steps: float = option(0.1, "Steps of warm-up; below 1, a share of all steps.")
    dataloader_drop_last: bool = option(True, "Leave it on: processes need equal batches.")
    dataloader_num_workers: int = option(0, "Processes that decode photos; 8 or more are recommended.")
    load_best_model_at_end: bool = option(True, "Keep the model of the best validation.")
    metric_for_best_model: str | None = option(BEST_BY, "Metric of the best validation.")


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
SMALLEST = {"rows_at_a_time": 0, "chunk_size": 0, "lora_rank": 0, "projection_dim": 1, "stream_buffer": 1}


def check_options(options: ClibdOptions, training_args: ClibdArguments) -> None:
    """Raises ValueError for options that are unknown or exclude each other, before anything is loaded."""
    for name, allowed in CHOICES.items():
        given = getattr(options, name)
        for value in [given] if isinstance(given, str) else given or ():
            if value not in allowed:
                raise ValueError(f"Unknown --{name} {value!r}. Choose among {', '.join(allowed)}.")
    for name, smallest in SMALLEST.items():
        if getattr(options, name) < smallest:
            raise ValueError(f"--{name} is {getattr(options, name)}. Give {smallest} or more.")
    encoders = [options.image_encoder, options.dna_encoder, options.text_encoder]
    if (options.model is None) == (not any(encoders)):
        raise ValueError(
            "Give either --model, to continue from a CLIBD model, or encoders for a new one: --image_encoder, "
            "--dna_encoder, --text_encoder."
        )
    _check_loss(options)
    if global_batch_size(training_args) < 2:
        raise ValueError("A batch of 1 row has nothing to compare. Give --per_device_train_batch_size 2 or more.")
    check_no_accumulation(training_args)
    check_workers(training_args)
    if not training_args.dataloader_drop_last:
        raise ValueError("--dataloader_drop_last must stay on, because processes need equal batches. Leave it out.")
    if options.streaming and training_args.max_steps <= 0:
        raise ValueError("--streaming reads a stream of unknown length. Give --max_steps.")
    if options.streaming and options.distinct != "none":
        raise ValueError("--streaming cannot reorder its rows: leave --distinct out.")


def _check_loss(options: ClibdOptions) -> None:
    """Raises ValueError for options of the loss that exclude each other."""
    columns = options.label_columns or []
    simclr, siglip, summed = (
        options.objective == "simclr",
        options.loss == "siglip",
        options.target_normalization == "none",
    )
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


def chosen_pairs(options: ClibdOptions) -> list[tuple[str, str]] | None:
    """Pairs of modalities to compare; None for all.

    Raises:
        ValueError: if a pair is not two names joined by a hyphen.
    """
    if options.pairs is None:
        return None
    split = [tuple(pair.split("-")) for pair in options.pairs]
    if any(len(pair) != 2 for pair in split):
        raise ValueError(f"--pairs are {options.pairs}. Write each as two modalities, such as image-dna.")
    return cast(list[tuple[str, str]], split)
