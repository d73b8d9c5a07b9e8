"""Options of the training of CLIBD, its presets, and what is refused.

Source: CLIBD, https://arxiv.org/abs/2405.17537 ("published": its public code); SigLIP,
https://arxiv.org/abs/2303.15343
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from ..models.processing_clibd import MODALITIES, TEXT_TEMPLATES
from ..schema import LABEL_COLUMNS
from .arguments import BarcodeTrainingArguments, check_processes, global_batch_size
from .clibd_views import VIEWED

#: Specimens of the global batch for which a learning rate is meant.
BATCH_OF_LEARNING_RATE = 500

#: By what a validation is judged: photos find barcodes of their species, macro top-1, seen and unseen species.
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

#: "published" is the recipe of the released models: meant for 4 GPUs, a global batch of 2,000 and a peak learning rate
#: of 2e-4. "published-simclr" is the image pretraining; that used Adam, whose weight decay is not quite AdamW's.
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
    """What is learned, from which specimens, by which model."""

    source: str = field(metadata={"help": "Hub id, folder of Parquet, or release folder of BIOSCAN-5M."})
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a CLIBD model to go on from."})
    image_encoder: str | None = field(
        default=None,
        metadata={
            "help": "New model: such as timm/vit_base_patch16_224.augreg2_in21k_ft_in1k, or new:ARCHITECTURE for one "
            "of timm's with random weights."
        },
    )
    dna_encoder: str | None = field(default=None, metadata={"help": "New model: a BarcodeBERT."})
    text_encoder: str | None = field(default=None, metadata={"help": "New model: such as prajjwal1/bert-small."})
    architecture: str = field(
        default="improved", metadata={"help": "New model: 'improved', or 'published' for the released models' heads."}
    )
    projection_dim: int = field(default=768, metadata={"help": "New model: width of the common space."})
    preset: str = field(default="none", metadata={"help": "'published', 'published-simclr', or 'none'."})
    objective: str = field(
        default="contrast",
        metadata={"help": "'contrast' between modalities, or 'simclr' between views within each modality."},
    )
    simclr_modalities: list[str] = field(
        default_factory=lambda: ["image"], metadata={"help": "simclr: modalities to train, each alone: image, dna."}
    )
    loss: str = field(
        default="softmax", metadata={"help": "contrast: 'softmax' (CLIP's, as published) or 'siglip' (pairwise)."}
    )
    image_config: str = field(default="cropped_256", metadata={"help": "Image package of the source."})
    train_split: str = field(default="pretrain+train", metadata={"help": "Split to learn from; 'a+b' joins two."})
    streaming: bool = field(default=False, metadata={"help": "Read as the training goes; needs --max_steps."})
    stream_buffer: int = field(default=10_000, metadata={"help": "Rows that a stream is shuffled in."})
    key_splits: str = field(default="train+key_unseen", metadata={"help": "Keys of the validation; 'none' for none."})
    seen_split: str = field(default="val", metadata={"help": "Queries of seen species."})
    unseen_split: str = field(default="val_unseen", metadata={"help": "Queries of unseen species."})
    text_templates: list[str] | None = field(
        default=None, metadata={"help": f"Forms of text to draw from: {', '.join(TEXT_TEMPLATES)}."}
    )
    label_columns: list[str] | None = field(
        default=None, metadata={"help": "Ranks, or dna_bin, whose taxa belong together. If not given: each its own."}
    )
    rank_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each of the label_columns in the loss. If not given: all alike."}
    )
    target_normalization: str = field(
        default="mean", metadata={"help": "'mean' over the partners of a row, or their sum: 'none', as published."}
    )
    pairs: list[str] | None = field(default=None, metadata={"help": "Pairs to compare, such as image-dna dna-text."})
    bind_to: str | None = field(default=None, metadata={"help": "Compare this modality with each other one."})
    mask_duplicates: list[str] = field(
        default_factory=lambda: ["dna", "text"],
        metadata={"help": "Modalities whose equal inputs in a batch are no negatives of each other; 'none'."},
    )
    distinct: str = field(
        default="none", metadata={"help": "Column, such as dna_barcode, that no batch holds twice; 'none'."}
    )
    augment_on_device: bool = field(
        default=False, metadata={"help": "Crop and flip photos on the GPU; the loading processes only decode them."}
    )
    local_negatives: bool = field(default=False, metadata={"help": "Contrast within each process alone."})
    rows_at_a_time: int = field(
        default=0,
        metadata={"help": "Rows that go through the model together, and once again for the gradient; 0: all."},
    )
    chunk_size: int = field(default=0, metadata={"help": "Rows whose similarities are in memory at once; 0: all."})
    fixed_temperature: bool = field(default=False, metadata={"help": "Do not learn the temperature."})
    temperature: float = field(default=0.07, metadata={"help": "simclr: divides the cosines."})
    freeze: list[str] | None = field(default=None, metadata={"help": "Modalities whose encoders are not trained."})
    lora_rank: int = field(default=0, metadata={"help": "Rank of low-rank adapters (published: 4); 0 for none."})
    overwrite: bool = field(default=False, metadata={"help": "Delete the checkpoints in output_dir and start anew."})


@dataclass
class ClibdArguments(BarcodeTrainingArguments):
    """The arguments of every trainer, with the values of this recipe."""

    output_dir: str = field(default="clibd", metadata={"help": "Where the model and the results go."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    scale_learning_rate: bool = field(
        default=False,
        metadata={"help": f"Multiply the learning rate by (global batch / {BATCH_OF_LEARNING_RATE}), as published."},
    )
    per_device_train_batch_size: int = field(default=500, metadata={"help": "Specimens per process and batch."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training split."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Each process needs as many rows."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that decode photos; give 8 or more."})
    similar_lengths: bool = field(
        default=False, metadata={"help": "Without effect: batches are cut to their longest."}
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the model of the best validation."})
    metric_for_best_model: str | None = field(
        default=BEST_BY, metadata={"help": "What a validation is judged by, where photos and barcodes are trained."}
    )


# ---- what is refused ------------------------------------------------------------------------------------------------


def check_options(options: ClibdOptions, training_args: ClibdArguments) -> None:
    """Raises ValueError for options that are unknown or exclude each other, before anything is loaded."""
    check_processes(training_args)
    choices = {
        "objective": OBJECTIVES,
        "loss": LOSSES,
        "architecture": ARCHITECTURES,
        "target_normalization": ("none", "mean"),
        "distinct": ("none", "dna_barcode", *LABEL_COLUMNS),
    }
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            raise ValueError(f"Unknown {name} {getattr(options, name)!r}. Choose one of {', '.join(allowed)}.")
    lists = {
        "freeze": MODALITIES,
        "simclr_modalities": VIEWED,
        "text_templates": TEXT_TEMPLATES,
        "label_columns": LABEL_COLUMNS,
        "mask_duplicates": ("none", "dna", "text"),
    }
    for name, allowed in lists.items():
        unknown = [value for value in getattr(options, name) or () if value not in allowed]
        if unknown:
            raise ValueError(f"Unknown {name} {unknown[0]!r}. Choose among {', '.join(allowed)}.")
    encoders = [options.image_encoder, options.dna_encoder, options.text_encoder]
    if (options.model is None) == (not any(encoders)):
        raise ValueError(
            "Give either --model, to go on from a CLIBD model, or encoders for a new one: --image_encoder, "
            "--dna_encoder, --text_encoder."
        )
    least = {"rows_at_a_time": 0, "chunk_size": 0, "lora_rank": 0, "projection_dim": 1, "stream_buffer": 1}
    for name, fewest in least.items():
        if getattr(options, name) < fewest:
            raise ValueError(f"{name} is {getattr(options, name)}; give {fewest} or more.")
    _check_loss(options)
    if global_batch_size(training_args) < 2:
        raise ValueError("A batch of one row has nothing to compare: give --per_device_train_batch_size 2 or more.")
    if training_args.gradient_accumulation_steps != 1:
        raise ValueError(
            f"gradient_accumulation_steps is {training_args.gradient_accumulation_steps}, but rows are contrasted "
            f"within one batch, so that accumulated batches are not a larger one. Give a larger "
            f"per_device_train_batch_size, and --gradient_checkpointing or --chunk_size if memory does not suffice."
        )
    if training_args.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would augment photos alike in each epoch. Leave it out.")
    if not training_args.dataloader_drop_last:
        raise ValueError("dataloader_drop_last must stay on: each process needs as many rows to contrast.")
    if options.streaming and training_args.max_steps <= 0:
        raise ValueError("A stream does not tell its length: give --max_steps.")
    if options.streaming and options.distinct != "none":
        raise ValueError("A stream cannot be put in another order: leave --distinct out.")


def _check_loss(options: ClibdOptions) -> None:
    """Raises ValueError for options of the loss that exclude each other."""
    columns = options.label_columns or []
    if options.objective == "simclr" and (options.loss != "softmax" or options.augment_on_device):
        raise ValueError("simclr has views and a loss of its own: leave --loss and --augment_on_device out.")
    if options.objective == "simclr" and (options.pairs or options.bind_to or options.chunk_size):
        raise ValueError("simclr compares no pairs of modalities: leave --pairs, --bind_to and --chunk_size out.")
    if options.objective == "simclr" and options.local_negatives:
        raise ValueError("simclr compares the views of all processes: leave --local_negatives out.")
    if options.temperature <= 0:
        raise ValueError(f"temperature is {options.temperature}; it divides the cosines, so give one above 0.")
    if options.objective == "simclr" and not options.simclr_modalities:
        raise ValueError(f"simclr_modalities names none. Choose among {', '.join(VIEWED)}.")
    if options.loss == "siglip" and len(columns) > 1:
        raise ValueError(f"siglip takes one of the label_columns, not {len(columns)}.")
    if options.objective == "contrast" and len(columns) > 1 and options.target_normalization == "none":
        raise ValueError("Several label_columns need --target_normalization mean.")
    weights = options.rank_weights
    if weights is not None and (len(weights) != len(columns) or min(weights, default=0) <= 0):
        raise ValueError(f"rank_weights are {weights}: give one above 0 for each of the {len(columns)} label_columns.")
    if weights is not None and (
        options.objective == "simclr" or options.loss == "siglip" or options.target_normalization == "none"
    ):
        raise ValueError("rank_weights need the softmax loss, with --target_normalization mean.")


def chosen_pairs(options: ClibdOptions) -> list[tuple[str, str]] | None:
    """Pairs of modalities to compare; None is all.

    Raises:
        ValueError: for a pair that is not written as two names joined by a hyphen.
    """
    if options.pairs is None:
        return None
    split = [tuple(pair.split("-")) for pair in options.pairs]
    if any(len(pair) != 2 for pair in split):
        raise ValueError(f"pairs are {options.pairs}. Write each as two modalities: image-dna.")
    return cast(list[tuple[str, str]], split)
