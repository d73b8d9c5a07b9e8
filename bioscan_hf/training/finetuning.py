"""Options, data and model for fine-tuning.

Source: BarcodeBERT, https://arxiv.org/abs/2311.02401 ("published": its public code for BIOSCAN-5M)
Shape letters: R = ranks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ..losses.taxa import CLASS_WEIGHTS, TaxaLoss, check_smoothing
from ..models.tokenization_kmer import KmerTokenizer
from ..schema import LABEL_COLUMNS
from .arguments import BarcodeTrainingArguments, check_workers
from .checks import check_adapters, check_metric, check_training
from .inputs import load_rows, pinned
from .options.finetune import FinetuningOptions
from .options.shared import check_choices
from .taxa import METRICS, add_labels, class_parents, training_classes
from .trainer import BarcodeTrainer

#: Model type -> names of the layers that get a low-rank adapter.
ADAPTED_LAYERS = {"barcodebert": ["query", "value"], "barcodemamba": ["in_proj"]}

#: "published" is the fine-tuning of BarcodeBERT's public code. That code also left out test rows whose barcode occurs
#: in another row of the metadata; here every test row is tested.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {
        "unique_barcodes": True,
        "pooling": "mean",
        "random_offset": True,
        "encoder_dropout": True,
        "num_train_epochs": 35.0,
        "per_device_train_batch_size": 16,
        "dataloader_drop_last": True,
        "learning_rate": 1e-4,
        "scale_learning_rate": True,
        "schedule": "onecycle",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "similar_lengths": False,
        "bf16": False,
    },
}


def check_options(options: FinetuningOptions, training_args: BarcodeTrainingArguments) -> list[str]:
    """The ranks, the highest first; ValueError for options that are unknown or exclude each other.

    Raises ImportError if an adapter is asked for and peft is not installed.
    """
    unknown = [rank for rank in options.ranks if rank not in LABEL_COLUMNS]
    if unknown or not options.ranks or len(set(options.ranks)) < len(options.ranks):
        raise ValueError(f"--ranks are {options.ranks}. Choose one or more of {', '.join(LABEL_COLUMNS)}, each once.")
    if options.lora_rank < 0:
        raise ValueError(f"--lora_rank is {options.lora_rank}. Give 0 (no adapter) or more.")
    if options.lora_rank and options.freeze_encoder:
        raise ValueError("--lora_rank trains the encoder and --freeze_encoder does not: leave one of them out.")
    if options.lora_rank and importlib.util.find_spec("peft") is None:
        raise ImportError("--lora_rank needs the package peft: pip install peft.")
    check_choices(options, {"class_weights": CLASS_WEIGHTS})
    if options.label_smoothing:
        _check_smoothing(options)
    check_workers(training_args)
    check_training(training_args)
    check_adapters(training_args, options.lora_rank)
    if training_args.load_best_model_at_end and options.validation_split == "none":
        raise ValueError("--load_best_model_at_end needs a --validation_split.")
    check_metric(training_args, ["loss", *(f"{rank}_{name}" for rank in options.ranks for name in METRICS)])
    return sorted(options.ranks, key=LABEL_COLUMNS.index)


def _check_smoothing(options: FinetuningOptions) -> None:
    """Raises ValueError for a wrong number of shares, impossible ones, or shares that smooth nothing."""
    try:
        shares = check_smoothing(options.label_smoothing, len(options.ranks))
    except ValueError as error:
        raise ValueError(f"--label_smoothing: {error}") from None
    if not any(shares):
        raise ValueError("--label_smoothing is 0 at each rank, which smooths nothing. Leave it out.")


# ---- data and model -------------------------------------------------------------------------------------------------


def load_split(options: FinetuningOptions, split: str, ranks: Sequence[str], tokenizer: KmerTokenizer) -> Dataset:
    """`processid`, `dna_barcode` and the names at `ranks` of a split; errors are those of `inputs.load_rows`."""
    return load_rows(
        options.source,
        split,
        columns=["processid", "dna_barcode", *ranks],
        max_nucleotides=tokenizer.max_nucleotides,
        unique_barcodes=options.unique_barcodes and split == options.train_split,
    )


@dataclass(frozen=True)
class TaxonData:
    """Labelled barcodes and their classes."""

    train: Dataset  # training rows that have a label at one of the ranks or more
    splits: dict[str, Dataset]  # split to evaluate -> all of its rows
    tested: list[str]  # names of the test splits
    classes: dict[str, list[str]]  # rank -> names in the training rows, the highest rank first; an index is a label
    parents: dict[str, list[int]]  # rank but the first -> the parent of each class at the rank above
    about: dict[str, Any]  # sizes of the splits, rows left out and ambiguous classes, for results.json


def load_splits(options: FinetuningOptions, ranks: Sequence[str], tokenizer: KmerTokenizer) -> TaxonData:
    """Every split of the options, labelled with the classes of the training split."""
    rows = load_split(options, options.train_split, ranks, tokenizer)
    classes = training_classes(rows, ranks)
    parents, divided = class_parents(rows, classes)
    labelled = add_labels(rows, classes)
    labels = labelled.select_columns([f"{rank}_label" for rank in ranks]).with_format("arrow")[:]
    train = labelled.select(np.flatnonzero(np.stack([column.to_numpy() for column in labels.columns]).max(0) >= 0))
    tested = [split for split in dict.fromkeys(options.test_splits) if split != "none"]
    splits = {
        split: add_labels(load_split(options, split, ranks, tokenizer), classes)
        for split in dict.fromkeys([options.validation_split, *tested])
        if split != "none"
    }
    about = {
        "splits": {options.train_split: len(rows)} | {name: len(splits[name]) for name in splits},
        "training_rows_without_a_label": len(rows) - len(train),
        "classes_of_several_parents": divided,
    }
    return TaxonData(train, splits, tested, classes, parents, about)


def make_model(options: FinetuningOptions, config: PreTrainedConfig, data: TaxonData) -> PreTrainedModel:
    """A classifier with the weights of the pretrained encoder, ValueError if some are missing, and a new head."""
    fields = config.to_dict()
    for name in ("id2label", "label2id", "num_labels", "taxa", "parents", "ranks", "architectures", "dtype"):
        fields.pop(name, None)
    fields |= {"pooling": options.pooling, "sparse_prediction": False}
    if len(data.classes) > 1:
        fields |= {"taxa": data.classes, "parents": data.parents}
    else:
        (names,) = data.classes.values()
        fields |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    encoder, found = AutoModel.from_pretrained(pinned(options.model), output_loading_info=True, dtype=torch.float32)
    if found["missing_keys"]:
        raise ValueError(
            f"{options.model!r} has no weights for {', '.join(sorted(found['missing_keys']))}. Give a complete model."
        )
    model = AutoModelForSequenceClassification.from_config(type(config).from_dict(fields))
    model.base_model.load_state_dict(encoder.state_dict())
    model.training_loss = make_loss(options, data)
    if options.freeze_encoder:
        model.base_model.requires_grad_(False)
    if options.encoder_dropout is False or (options.encoder_dropout is None and options.freeze_encoder):
        for module in model.base_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return model


def make_loss(options: FinetuningOptions, data: TaxonData) -> TaxaLoss | None:
    """The loss of training with class weights or label smoothing; None is the plain cross-entropy."""
    if options.class_weights == "none" and not options.label_smoothing:
        return None
    table = data.train.select_columns([f"{rank}_label" for rank in data.classes]).with_format("arrow")[:]
    return TaxaLoss(
        np.stack([column.to_numpy() for column in table.columns], 1),
        [len(names) for names in data.classes.values()],
        [data.parents[rank] for rank in list(data.classes)[1:]],
        class_weights=options.class_weights,
        smoothing=options.label_smoothing or None,
    )


def add_adapter(model: PreTrainedModel, rank: int) -> Any:
    """The model with low-rank adapters in its encoder; only they and the head are trained."""
    from peft import LoraConfig, get_peft_model  # an extra

    layers = ADAPTED_LAYERS[model.config.model_type]
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, modules_to_save=["taxon_classifier"])
    )


# ---- the Trainer ----------------------------------------------------------------------------------------------------


class FinetuningTrainer(BarcodeTrainer):
    """A Trainer that counts the labels of each rank, so that the loss of a rank is the mean over its own labels.

    With class weights, training sums the weights of the labels.
    """

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Batches of a step, and their labels, counted in training mode: a validation leaves the eval mode."""
        cast(Any, self.model).train()
        return super().get_batch_samples(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> Any:
        """Labels of a step, over accumulated batches and all processes: one number, or one per rank (R,)."""
        model: Any = self.model
        loss: TaxaLoss | None = getattr(model, "training_loss", None) if model.training else None

        def count(labels: torch.Tensor) -> torch.Tensor:
            return (labels >= 0).sum(0) if loss is None else loss.label_weights(labels).sum(0)

        counts = torch.stack([count(batch["labels"]) for batch in batch_samples]).sum(0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts.unsqueeze(0)).sum(0)
        return counts
