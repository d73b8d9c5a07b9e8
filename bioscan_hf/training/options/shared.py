"""Options that all trainers share: options of transformers' Trainer with our defaults, and our own schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEDULES = ("onecycle", "epoch-warmup", "trainer")

SOURCE_HELP = "Hub id (or ID@REVISION), Parquet folder, release folder or metadata CSV of BIOSCAN-5M."


def option(default: Any, help: str) -> Any:
    """A dataclass field with a help text; a list as default is copied."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def required(help: str) -> Any:
    """A dataclass field without a default, with a help text."""
    return field(metadata={"help": help})


def check_choices(options: Any, choices: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for a value of an option, or one of its values, that is not among those allowed."""
    for name, allowed in choices.items():
        given = getattr(options, name)
        for value in [given] if isinstance(given, str) else given or ():
            if value not in allowed:
                raise ValueError(f"--{name} is {value!r}. Choose one of {', '.join(allowed)}.")


FORCE_HELP = "Delete the checkpoints in the output folder and start from the beginning."


@dataclass
class TrainingDefaults:
    """Schedules and defaults of all trainers."""

    output_dir: str = option("barcodebert", "Folder of the model and the results.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    scale_learning_rate: bool = option(
        False, "Multiply the learning rate by (global batch / 64; CLIBD: / 500), as published."
    )
    schedule: str = option(
        "trainer",
        "Schedule of the learning rate: 'onecycle' (torch's OneCycleLR), 'epoch-warmup' (rises from a tenth over 5 "
        "epochs, then is constant) or 'trainer' (--lr_scheduler_type).",
    )
    lr_scheduler_type: str = option("cosine", "Schedule of the learning rate with --schedule trainer.")
    warmup_steps: float = option(0.3, "Steps of warm-up with --schedule trainer; below 1, a share of all steps.")
    weight_decay: float = option(0.0, "Weight decay of AdamW.")
    decay_all_parameters: bool = option(False, "Apply weight decay to biases and layer norms too.")
    per_device_train_batch_size: int = option(64, "Training rows per process and batch.")
    per_device_eval_batch_size: int = option(256, "Validation rows per process and batch.")
    num_train_epochs: float = option(35.0, "Passes over the training split.")
    eval_strategy: str = option("epoch", "When to validate: 'no', 'steps' or 'epoch'.")
    save_strategy: str = option("epoch", "When to save a checkpoint: 'no', 'steps' or 'epoch'.")
    save_total_limit: int | None = option(2, "Number of checkpoints to keep.")
    logging_steps: float = option(50, "Steps between two logged losses.")
    optim: str = option("adamw_torch_fused", "Optimizer.")
    remove_unused_columns: bool = option(False, "Leave it off: the collator needs all columns.")
    ddp_find_unused_parameters: bool | None = option(False, "Leave it off: every step uses all parameters.")
    dataloader_num_workers: int = option(
        None,
        "Processes that make the batches. Default: on a GPU, the cores of each process less one, at most 16; else 0.",
    )
    bf16: bool | None = option(None, "bfloat16 autocast. Default: on for a GPU that supports it, off on a CPU.")


@dataclass
class BarcodeTrainingDefaults(TrainingDefaults):
    """Options of the trainers whose batches may hold barcodes of similar length."""

    similar_lengths: bool = option(True, "Make batches of barcodes with the same number of tokens.")
