"""Options that all trainers share, and how options are read.

Source of the schedules and the learning rate rule: BarcodeBERT, https://arxiv.org/abs/2311.02401
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

SCHEDULES = ("onecycle", "epoch-warmup", "trainer")


def option(default: Any, help: str) -> Any:
    """A dataclass field with a help text; a list as default is copied."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def required(help: str) -> Any:
    """A dataclass field without a default, with a help text."""
    return field(metadata={"help": help})


OVERWRITE_HELP = "Delete the checkpoints in the output folder and start from the beginning."


@dataclass
class BaseTrainingArguments(TrainingArguments):
    """Arguments of the Trainer, with the published schedules and our defaults."""

    #: Rows of the global batch that the learning rate is given for.
    batch_of_learning_rate: ClassVar[int] = 64

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
    bf16: bool | None = option(  # type: ignore[assignment]
        None, "bfloat16 autocast. Default: on for a GPU that supports it, off on a CPU."
    )

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Unknown schedule {self.schedule!r}. Choose one of {', '.join(SCHEDULES)}.")
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """State without the token: the Trainer pickles its arguments into folders that are pushed."""
        return {**vars(self), "hub_token": None}


@dataclass
class BarcodeTrainingArguments(BaseTrainingArguments):
    """Arguments of the trainers whose batches may hold barcodes of similar length."""

    similar_lengths: bool = option(True, "Make batches of barcodes with the same number of tokens.")


# ---- reading options ------------------------------------------------------------------------------------------------


def read_options(
    arguments: Sequence[str], kinds: Sequence[type], presets: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Any, ...]:
    """One object of each of the dataclasses `kinds`, from flags or from one YAML file.

    Args:
        presets: Name -> values that an option `preset` of that name sets; options that are given override them.

    Raises:
        ValueError: for an unknown option, value or preset, or a missing option.
    """
    parser = HfArgumentParser(list(kinds))  # type: ignore[arg-type]
    parser.error = _fail  # type: ignore[method-assign]
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        given = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError(f"{arguments[0]!r} holds no options. Write one `name: value` per line.")
        _check_names(given, kinds, "")
        return parser.parse_dict({**preset_values(given.get("preset"), presets or {}), **given})
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset")
    parser.set_defaults(**preset_values(finder.parse_known_args(arguments)[0].preset, presets or {}))
    *found, rest = parser.parse_args_into_dataclasses(list(arguments), return_remaining_strings=True)
    if rest:
        _check_names(
            [word.partition("=")[0].removeprefix("--") for word in rest if word.startswith("--")], kinds, "--"
        )
        raise ValueError(f"{rest[0]!r} belongs to no option. Write options as --name value.")
    return tuple(found)


def _fail(message: str) -> NoReturn:
    """Replaces argparse's error, which prints the usage of all options."""
    raise ValueError(f"{message[:1].upper()}{message[1:]}. --help lists all options.")


def _check_names(given: Sequence[str] | Mapping[str, Any], kinds: Sequence[type], mark: str) -> None:
    """Raises ValueError for an unknown option, and names a similar one."""
    known = [known.name for kind in kinds for known in fields(kind)]
    for name in given:
        if name not in known:
            similar = difflib.get_close_matches(str(name), known, 1)
            hint = f"Did you mean {mark}{similar[0]}? " if similar else ""
            raise ValueError(f"Unknown option {mark}{name}. {hint}--help lists all options.")


def preset_values(name: str | None, presets: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Values of a preset; none for None and "none".

    Raises:
        ValueError: for an unknown preset.
    """
    if name is None or name == "none":
        return {}
    if name not in presets:
        raise ValueError(f"Unknown preset {name!r}. Choose one of {', '.join([*presets, 'none'])}.")
    return presets[name]


# ---- checks and values that follow from options ---------------------------------------------------------------------


def check_processes(world_size: int) -> None:
    """Raises ValueError if several processes were launched and each believes to be the only one."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world_size:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), but this one sees {world_size}, so each would do all "
            f"the work. On CPU, set ACCELERATE_USE_CPU=yes in the environment; on GPU, launch at most one process per "
            f"device."
        )


def check_workers(training_args: TrainingArguments) -> None:
    """Raises ValueError for workers that would not notice a new epoch."""
    if training_args.dataloader_persistent_workers:
        raise ValueError(
            "--dataloader_persistent_workers is on, but such workers would repeat the same random draws in each "
            "epoch. Leave it out."
        )


def check_no_accumulation(training_args: TrainingArguments) -> None:
    """Raises ValueError for accumulated batches of a contrastive loss."""
    if training_args.gradient_accumulation_steps != 1:
        raise ValueError(
            f"--gradient_accumulation_steps is {training_args.gradient_accumulation_steps}, but rows are contrasted "
            f"within one batch. Use a larger --per_device_train_batch_size, and --gradient_checkpointing if memory is "
            f"short."
        )


def check_rank_weights(weights: Sequence[float] | None, columns: Sequence[str], name: str) -> None:
    """Raises ValueError unless there is one positive weight for each of the columns of the option `name`."""
    if weights is not None and (len(weights) != len(columns) or not all(weight > 0 for weight in weights)):
        raise ValueError(
            f"--rank_weights are {' '.join(map(str, weights))}. Give one number above 0 for each of the "
            f"{len(columns)} values of {name}."
        )


def global_batch_size(training_args: TrainingArguments) -> int:
    """Rows of one optimizer step, over all processes and accumulated batches."""
    batches = training_args.world_size * training_args.gradient_accumulation_steps
    return training_args.per_device_train_batch_size * batches


def scaled_learning_rate(training_args: BaseTrainingArguments) -> float:
    """The peak learning rate of a run; with `scale_learning_rate`, proportional to the global batch."""
    if not training_args.scale_learning_rate:
        return training_args.learning_rate
    return training_args.learning_rate * global_batch_size(training_args) / training_args.batch_of_learning_rate


def describe_training(training_args: BaseTrainingArguments) -> dict[str, Any]:
    """The training arguments that decide what is learned, for results.json."""
    names = (
        *("learning_rate", "scale_learning_rate", "schedule", "lr_scheduler_type", "warmup_steps", "max_grad_norm"),
        *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "decay_all_parameters"),
        *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
        *("similar_lengths", "train_sampling_strategy", "dataloader_drop_last", "bf16", "fp16", "torch_compile"),
    )
    return {name: getattr(training_args, name) for name in names if hasattr(training_args, name)}
