"""What training CLIBD learns, from what: options and presets, what is refused, specimens, a model, and the Trainer.

Source: CLIBD, https://arxiv.org/abs/2405.17537 ("published": its public code)
Shape letters: B = specimens of a process and batch, E = embedding size, n = rows of a dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageFeature
from transformers import AutoTokenizer

from .clibd_batches import DistinctSampler, groups_of
from .configuration_clibd import ClibdConfig
from .data import load_bioscan5m
from .losses_clibd import choose_pairs
from .modeling_clibd import ClibdModel
from .processing_clibd import (
    MODALITIES,
    PUBLISHED,
    TEXT_TEMPLATES,
    ClibdProcessor,
    make_image_processor,
)
from .taxonomy import LABEL_COLUMNS, RANKS
from .tokenization_kmer import KmerTokenizer
from .training import BarcodeTrainingArguments, check_processes, global_batch_size

#: Specimens of the global batch for which a learning rate is meant.
BATCH_OF_LEARNING_RATE = 500

#: By what a validation is judged: photos find barcodes of their species, macro top-1, seen and unseen species.
BEST_BY = "image_to_dna_harmonic_mean"

OBJECTIVES = ("contrast", "simclr")

ARCHITECTURES = ("improved", "published")

#: Fields of `ClibdConfig` that make a new model the published one.
PUBLISHED_HEADS: dict[str, Any] = {
    "dna_pooling": "softmax_mean",
    "dna_attend_to_padding": True,
    "text_pooling": "mean",
    "logit_scale_max": None,
}

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
        metadata={"help": "New model: such as timm/vit_base_patch16_224.augreg2_in21k_ft_in1k."},
    )
    dna_encoder: str | None = field(default=None, metadata={"help": "New model: a BarcodeBERT."})
    text_encoder: str | None = field(default=None, metadata={"help": "New model: such as prajjwal1/bert-small."})
    architecture: str = field(
        default="improved", metadata={"help": "New model: 'improved', or 'published' for the released models' heads."}
    )
    projection_dim: int = field(default=768, metadata={"help": "New model: width of the common space."})
    preset: str = field(default="none", metadata={"help": "'published', 'published-simclr', or 'none'."})
    objective: str = field(
        default="contrast", metadata={"help": "'contrast' between modalities, or 'simclr' between views of photos."}
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
    """Raises ValueError for options that are unknown or exclude each other."""
    check_processes(training_args)
    choices = {
        "objective": OBJECTIVES,
        "architecture": ARCHITECTURES,
        "target_normalization": ("none", "mean"),
        "distinct": ("none", "dna_barcode", *LABEL_COLUMNS),
    }
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            raise ValueError(f"Unknown {name} {getattr(options, name)!r}. Choose one of {', '.join(allowed)}.")
    lists = {
        "freeze": MODALITIES,
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
    if options.label_columns and len(options.label_columns) > 1 and options.target_normalization == "none":
        raise ValueError("Several label_columns need --target_normalization mean.")
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


# ---- specimens ------------------------------------------------------------------------------------------------------


def columns_needed(options: ClibdOptions, modalities: Sequence[str]) -> list[str]:
    """Columns to read in training."""
    columns = ["processid"] + ["image"] * ("image" in modalities) + ["dna_barcode"] * ("dna" in modalities)
    columns += list(RANKS) if "text" in modalities else []
    columns += [*(options.label_columns or ()), *([options.distinct] if options.distinct != "none" else [])]
    return list(dict.fromkeys(columns))


def load_specimens(options: ClibdOptions, split: str, columns: Sequence[str], streaming: bool = False) -> Any:
    """Rows of a split; photos stay encoded.

    Raises:
        ValueError: if there are none.
    """
    config = options.image_config if "image" in columns else "dna"
    data = load_bioscan5m(options.source, config, split, columns=list(columns), streaming=streaming)
    if not streaming and len(data) == 0:
        raise ValueError(f"The split {split!r} of {options.source!r} has no rows. Choose another split or source.")
    return data.cast_column("image", ImageFeature(decode=False)) if "image" in columns else data


@dataclass(frozen=True)
class Validation:
    """Specimens to retrieve each other.

    Attributes:
        rows: Keys, then queries of seen, then of unseen species; a row's `index` is its place.
        labels: Rank -> names (n,).
        parts: "keys", "seen" and "unseen" -> their places.
    """

    rows: Dataset
    labels: dict[str, list[str | None]]
    parts: dict[str, slice]


def load_validation(options: ClibdOptions, modalities: Sequence[str]) -> Validation | None:
    """Keys and queries; None if the options say so."""
    if options.key_splits == "none":
        return None
    columns = columns_needed(ClibdOptions("", label_columns=None), [*modalities, "text"])  # text: the names of taxa
    splits = {"keys": options.key_splits, "seen": options.seen_split, "unseen": options.unseen_split}
    loaded = {part: load_specimens(options, split, columns) for part, split in splits.items()}
    bounds = np.cumsum([0, *(len(rows) for rows in loaded.values())]).tolist()
    parts = {part: slice(bounds[i], bounds[i + 1]) for i, part in enumerate(loaded)}
    rows = concatenate_datasets(list(loaded.values())).add_column("index", np.arange(bounds[-1]))
    names = {rank: cast(list[str | None], [name or None for name in rows[rank][:]]) for rank in RANKS}
    return Validation(rows, names, parts)


def make_sampler(options: ClibdOptions, data: Dataset, training_args: ClibdArguments) -> DistinctSampler | None:
    """The order of the training rows; None is the Trainer's."""
    if options.distinct == "none":
        return None
    groups = groups_of(data.select_columns([options.distinct]).with_format("arrow")[:][options.distinct])
    return DistinctSampler(groups, global_batch_size(training_args), training_args.seed)


# ---- model and processor --------------------------------------------------------------------------------------------


def make_model(options: ClibdOptions) -> tuple[ClibdModel, ClibdProcessor]:
    """The model and its processor, loaded or new.

    Raises:
        ValueError: if the model's weights are not whole.
        FileNotFoundError: if there is no such folder.
    """
    for name in (options.model, options.image_encoder, options.dna_encoder, options.text_encoder):
        if name is not None and not Path(name).is_dir() and (Path(name).is_absolute() or name.count("/") != 1):
            raise FileNotFoundError(f"There is no folder {name!r}, and it is no Hub id.")
    if options.model is not None:
        loaded: Any = ClibdModel.from_pretrained(options.model, output_loading_info=True, dtype=torch.float32)
        if loaded[1]["missing_keys"]:
            raise ValueError(f"{options.model!r} lacks weights: {', '.join(sorted(loaded[1]['missing_keys']))}.")
        return loaded[0], ClibdProcessor.from_pretrained(options.model)
    published = options.architecture == "published"
    model = ClibdModel.from_pretrained_towers(
        image=options.image_encoder,
        dna=options.dna_encoder,
        text=options.text_encoder,
        projection_dim=options.projection_dim,
        **(PUBLISHED_HEADS if published else {}),
    )
    text = AutoTokenizer.from_pretrained(options.text_encoder) if options.text_encoder else None
    return model, make_processor(model.config, text, published=published)


def make_processor(config: ClibdConfig, text_tokenizer: Any = None, *, published: bool = False) -> ClibdProcessor:
    """A processor that fits a model.

    Args:
        published: As the released models need it: photos are not normalised, and texts have 20 tokens.
    """
    image: Any = config.image_config
    size, mean, std = 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if image is not None and image.model_type == "timm_wrapper":
        described = image.to_dict().get("pretrained_cfg") or {}  # only weights of timm's hub have one
        size = (image.model_args or {}).get("img_size") or described.get("input_size", (3, size, size))[-1]
        mean, std = described.get("mean", mean), described.get("std", std)
    elif image is not None:
        size = image.image_size
    if published:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    dna = None
    if config.dna_config is not None:
        shape: Any = config.dna_config
        dna = KmerTokenizer(k=shape.k, vocabulary=shape.vocabulary, max_nucleotides=shape.max_nucleotides)
    return ClibdProcessor(
        make_image_processor(size, mean, std), dna, text_tokenizer, **(PUBLISHED if published else {})
    )


def modalities_of(options: ClibdOptions, config: ClibdConfig) -> tuple[str, ...]:
    """Modalities that the loss compares, of those of a model.

    Raises:
        ValueError: for pairs that the model does not have.
    """
    if options.objective == "contrast":
        pairs = choose_pairs(config.modalities, chosen_pairs(options), options.bind_to)
        return tuple(modality for modality in config.modalities if any(modality in pair for pair in pairs))
    if "image" not in config.modalities:
        raise ValueError(f"simclr needs a photo encoder, but the model has {', '.join(config.modalities)}.")
    return ("image",)


def prepare_model(model: ClibdModel, options: ClibdOptions) -> Any:
    """The model with those parts frozen that are not trained, and with adapters if they are asked for."""
    compared = modalities_of(options, model.config)
    others = [modality for modality in model.config.modalities if modality not in compared]
    frozen = [modality for modality in options.freeze or () if modality in compared]
    if options.lora_rank:
        from .clibd_lora import add_lora

        adapted: Any = add_lora(
            model, r=options.lora_rank, modalities=[modality for modality in compared if modality not in frozen]
        )
        model.freeze(*others, projections=True)
    else:
        adapted = model
        model.freeze(*frozen)
        model.freeze(*others, projections=True)
    if options.fixed_temperature or options.objective == "simclr":
        model.logit_scale.requires_grad_(False)
    return adapted


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
