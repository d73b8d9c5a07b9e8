"""What fine-tuning learns, from what: options and presets, what is refused, labelled splits, a model with a new head.

Source: BarcodeBERT, https://arxiv.org/abs/2311.02401 ("published": its public code for BIOSCAN-5M)
Shape letters: B = batch, R = ranks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from ..dataset.load import load_bioscan5m
from ..models import register  # noqa: F401  (our classes for AutoModel)
from ..models.tokenization_kmer import KmerTokenizer
from ..schema import LABEL_COLUMNS
from .arguments import BarcodeTrainer, BarcodeTrainingArguments, check_processes
from .classification import add_labels, class_parents, training_classes

#: Model type -> the layers that a low-rank adapter changes.
ADAPTED_LAYERS = {"barcodebert": ["query", "value"], "barcodemamba": ["in_proj"]}

#: "published" is the fine-tuning of BarcodeBERT's public code. That also left out the test rows whose barcode another
#: row of the metadata has; here every test row is tested.
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


@dataclass
class FinetuningOptions:
    """Which taxa are learned, from which barcodes, by which model."""

    source: str = field(metadata={"help": "Hub id, folder of Parquet, release folder or metadata CSV of BIOSCAN-5M."})
    model: str = field(metadata={"help": "Folder or Hub id of the pretrained model; a classifier's head is left out."})
    ranks: list[str] = field(
        default_factory=lambda: ["species"], metadata={"help": "Rank to learn, or several, or dna_bin."}
    )
    preset: str = field(default="default", metadata={"help": "'default', or 'published' for the published recipe."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from; 'a+b' joins two."})
    validation_split: str = field(default="val", metadata={"help": "Split to validate on; 'none' for no validation."})
    test_splits: list[str] = field(
        default_factory=lambda: ["test"], metadata={"help": "Splits to test on at the end; 'none' for no test."}
    )
    unique_barcodes: bool = field(default=False, metadata={"help": "Learn from one specimen of each barcode."})
    pooling: str = field(
        default="masked_mean", metadata={"help": "'masked_mean', or 'mean' over padding too, as published."}
    )
    random_offset: bool = field(default=True, metadata={"help": "Draw the reading frame anew in each epoch."})
    freeze_encoder: bool = field(default=False, metadata={"help": "Train the head alone."})
    encoder_dropout: bool | None = field(
        default=None, metadata={"help": "Dropout in the encoder. If not given: unless the encoder is frozen."}
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Rank of a low-rank adapter; 0 trains the weights themselves."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Delete the checkpoints in output_dir and start anew."})


# ---- what is refused ------------------------------------------------------------------------------------------------


def check_options(options: FinetuningOptions, training_args: BarcodeTrainingArguments) -> list[str]:
    """The ranks, the highest first.

    Raises:
        ValueError: for options that are unknown or exclude each other.
        ImportError: if an adapter is asked for and peft is absent.
    """
    check_processes(training_args)
    if options.preset not in PRESETS:
        raise ValueError(f"Unknown preset {options.preset!r}. Choose one of {', '.join(PRESETS)}.")
    unknown = [rank for rank in options.ranks if rank not in LABEL_COLUMNS]
    if unknown or not options.ranks or len(set(options.ranks)) < len(options.ranks):
        raise ValueError(f"ranks are {options.ranks}. Choose one or more of {', '.join(LABEL_COLUMNS)}, each once.")
    if options.lora_rank < 0:
        raise ValueError(f"lora_rank is {options.lora_rank}; give 0 (no adapter) or more.")
    if options.lora_rank and options.freeze_encoder:
        raise ValueError("lora_rank adapts the encoder and freeze_encoder keeps it as it is: leave one of them out.")
    if options.lora_rank and importlib.util.find_spec("peft") is None:
        raise ImportError("lora_rank needs peft: pip install peft.")
    if training_args.label_smoothing_factor:
        raise ValueError("label_smoothing_factor would count missing labels. Leave it out.")
    if training_args.n_gpu > 1:
        raise ValueError(
            f"One process sees {training_args.n_gpu} GPUs. Launch one for each: accelerate launch --num_processes "
            f"{training_args.n_gpu} ..., or choose one by CUDA_VISIBLE_DEVICES."
        )
    if training_args.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would draw the same frames in each epoch. Leave it out.")
    if training_args.load_best_model_at_end and options.validation_split == "none":
        raise ValueError("load_best_model_at_end needs a validation_split.")
    return sorted(options.ranks, key=LABEL_COLUMNS.index)


def load_tokenizer(model: str) -> tuple[PreTrainedConfig, KmerTokenizer]:
    """The config of a pretrained model, and the tokenizer beside it.

    Raises:
        ValueError: if the model is of another type, or the tokenizer does not fit it.
        FileNotFoundError: if there is no model or no tokenizer.
    """
    if not Path(model).is_dir() and (Path(model).is_absolute() or model.count("/") != 1):
        raise FileNotFoundError(f"There is no folder {model!r}, and it is no Hub id. Name a pretrained model.")
    config = AutoConfig.from_pretrained(model)
    if config.model_type not in ADAPTED_LAYERS:
        raise ValueError(
            f"{model!r} is a model of the type {config.model_type!r}. Choose one of the type "
            f"{' or '.join(ADAPTED_LAYERS)}; `bioscan-hf convert` makes one of a published checkpoint."
        )
    if cached_file(model, "tokenizer.json", _raise_exceptions_for_missing_entries=False) is None:
        raise FileNotFoundError(
            f"{model!r} has no tokenizer.json. Save its KmerTokenizer there: KmerTokenizer(k={config.k}, "
            f"vocabulary={config.vocabulary!r}).save_pretrained(...)."
        )
    tokenizer = KmerTokenizer.from_pretrained(model)
    for name in ("k", "vocabulary", "max_nucleotides"):
        if getattr(tokenizer, name) != getattr(config, name):
            raise ValueError(
                f"The tokenizer of {model!r} has {name} {getattr(tokenizer, name)!r}, its config "
                f"{getattr(config, name)!r}: they belong to different models."
            )
    return config, tokenizer


# ---- data and model -------------------------------------------------------------------------------------------------


def load_rows(options: FinetuningOptions, split: str, ranks: Sequence[str], tokenizer: KmerTokenizer) -> Dataset:
    """`processid`, `dna_barcode` and the names at `ranks` of a split.

    Raises:
        ValueError: if there are no rows, or rows without a barcode.
    """
    loaded = load_bioscan5m(
        options.source,
        split=split,
        columns=["processid", "dna_barcode", *ranks],
        max_nucleotides=tokenizer.max_nucleotides,
        unique_barcodes=options.unique_barcodes and split == options.train_split,
    )
    data = cast(Dataset, loaded)
    if len(data) == 0:
        raise ValueError(f"The split {split!r} of {options.source!r} has no rows. Choose another split or source.")
    batches = data.select_columns(["dna_barcode"]).with_format("arrow").iter(batch_size=10_000)
    missing = sum(pc.sum(pc.equal(pc.fill_null(batch["dna_barcode"], ""), "")).as_py() for batch in batches)
    if missing:
        raise ValueError(f"{missing} of {len(data)} rows of the split {split!r} have no barcode. Remove them first.")
    return data


@dataclass(frozen=True)
class TaxonData:
    """Labelled barcodes and what their labels mean.

    Attributes:
        train: The training rows that have a label at one of the ranks.
        splits: Split to evaluate on -> all of its rows.
        tested: Those that are test splits.
        classes: Rank -> names of the taxa of the training rows, the highest rank first; a name's place is its label.
        parents: Each rank but the first -> for each class, its parent at the rank before.
        about: What a results file tells: rows, and what was left out or could not be told.
    """

    train: Dataset
    splits: dict[str, Dataset]
    tested: list[str]
    classes: dict[str, list[str]]
    parents: dict[str, list[int]]
    about: dict[str, Any]


def load_splits(options: FinetuningOptions, ranks: Sequence[str], tokenizer: KmerTokenizer) -> TaxonData:
    """Every split that `options` name, labelled with the classes of the training split.

    Raises:
        ValueError: as `load_rows` and `training_classes` do.
    """
    rows = load_rows(options, options.train_split, ranks, tokenizer)
    classes = training_classes(rows, ranks)
    parents, divided = class_parents(rows, classes)
    labelled = add_labels(rows, classes)
    labels = labelled.select_columns([f"{rank}_label" for rank in ranks]).with_format("arrow")[:]
    train = labelled.select(np.flatnonzero(np.stack([column.to_numpy() for column in labels.columns]).max(0) >= 0))
    tested = [split for split in dict.fromkeys(options.test_splits) if split != "none"]
    splits = {
        split: add_labels(load_rows(options, split, ranks, tokenizer), classes)
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
    """A classifier with the weights of the pretrained encoder and a new head.

    Raises:
        ValueError: if weights of the encoder are missing.
    """
    fields = config.to_dict()
    for name in ("id2label", "label2id", "num_labels", "taxa", "parents", "ranks", "architectures", "dtype"):
        fields.pop(name, None)
    fields |= {"pooling": options.pooling, "sparse_prediction": False}
    if len(data.classes) > 1:
        fields |= {"taxa": data.classes, "parents": data.parents}
    else:
        (names,) = data.classes.values()
        fields |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    encoder, found = AutoModel.from_pretrained(options.model, output_loading_info=True, dtype=torch.float32)
    if found["missing_keys"]:
        raise ValueError(
            f"{options.model!r} lacks weights of the encoder: {', '.join(sorted(found['missing_keys']))}."
        )
    model = AutoModelForSequenceClassification.from_config(type(config).from_dict(fields))
    model.base_model.load_state_dict(encoder.state_dict())
    if options.freeze_encoder:
        model.base_model.requires_grad_(False)
    if options.encoder_dropout is False or (options.encoder_dropout is None and options.freeze_encoder):
        for module in model.base_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return model


def add_adapter(model: PreTrainedModel, rank: int) -> Any:
    """The model with low-rank adapters in its encoder; they and the head are what is trained."""
    from peft import LoraConfig, get_peft_model  # an extra

    layers = ADAPTED_LAYERS[model.config.model_type]
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, modules_to_save=["taxon_classifier"])
    )


# ---- the Trainer ----------------------------------------------------------------------------------------------------


class FinetuningTrainer(BarcodeTrainer):
    """A Trainer that counts the labels of each rank apart, so that each rank's loss is the mean over its own.

    It evaluates every row, in validation and in test alike, and reads them from the first nucleotide.
    """

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of all rows: `dataloader_drop_last` is for training, but the Trainer would drop rows here, too."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """The same as in validation; the Trainer would collate them as in training."""
        return self.get_eval_dataloader(test_dataset)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> Any:
        """Labels of a step, over its accumulated batches and all processes: one number, or one for each rank (R,)."""
        counts = torch.stack([(batch["labels"] >= 0).sum(0) for batch in batch_samples]).sum(0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts.unsqueeze(0)).sum(0)
        return counts
