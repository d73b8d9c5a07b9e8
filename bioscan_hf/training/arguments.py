"""Options that all trainers share, and how options are read.

Source of the schedules and the learning rate rule: BarcodeBERT, https://arxiv.org/abs/2311.02401
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from .machine import default_workers
from .options.given import Given, OptionError, check_names, read_given
from .options.shared import SCHEDULES, BarcodeTrainingDefaults, TrainingDefaults

logger = logging.getLogger(__name__)


@dataclass
class BaseTrainingArguments(TrainingDefaults, TrainingArguments):  # type: ignore[misc]
    """Arguments of the Trainer, with the published schedules and our defaults."""

    #: Rows of the global batch that the learning rate is given for.
    batch_of_learning_rate: ClassVar[int] = 64

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Unknown schedule {self.schedule!r}. Choose one of {', '.join(SCHEDULES)}.")
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = default_workers(on_gpu)
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """State without the token: the Trainer pickles its arguments into folders that are pushed."""
        return {**vars(self), "hub_token": None}


@dataclass
class BarcodeTrainingArguments(BarcodeTrainingDefaults, BaseTrainingArguments):  # type: ignore[misc]
    """Arguments of the trainers whose batches may hold barcodes of similar length."""


# ---- reading options ------------------------------------------------------------------------------------------------


def read_options(
    arguments: Sequence[str],
    kinds: Sequence[type],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    program: str | None = None,
    group: str = "train",
) -> tuple[Any, ...]:
    """One object of each of the dataclasses `kinds`, from flags, or from a YAML file and flags that override it.

    Args:
        presets: Name -> values that an option `preset` of that name sets; options that are given override them.
        program: Name of a program, whose page `--help` shows; --help-all lists the options of `kinds`.
        group: Group of commands that has the program, in `GROUPS`.

    Raises:
        FileNotFoundError: if the YAML file does not exist.
        SystemExit: after --help.
        OptionError: for an unknown option, value or preset, or a missing option.
    """
    parser = HfArgumentParser(list(kinds), allow_abbrev=False)  # type: ignore[arg-type]
    if program is not None and {"--help", "-h"} & set(arguments):
        from .options.programs import help_page

        print(help_page(program, group))
        raise SystemExit(0)
    if "--help-all" in arguments:
        parser.parse_args(["--help"])
    given = read_given(arguments)
    check_names(given, kinds)
    words = _prepare(parser, given, presets or {})
    namespace, rest = parser.parse_known_args(words)
    if rest:
        raise OptionError(
            f"{rest[0]!r} belongs to no option. Write options as --name value, after the YAML file if there is one."
        )
    values = vars(namespace)
    try:
        return parser.parse_dict(values)
    except ValueError as error:
        texts = {name: f"{value} is not a valid" for name, value in values.items() if isinstance(value, str)}
        wrong = [f"--{name}: " for name, text in texts.items() if text in str(error)]
        raise OptionError(f"{''.join(wrong[:1])}{error}") from None


def _prepare(parser: HfArgumentParser, given: Given, presets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The words to parse: those of the YAML file and then the flags. Sets the defaults of the preset.

    Values that no flag can have, such as None and dicts, become defaults as well.
    """
    parser.error = _fail  # type: ignore[method-assign]
    several = set()  # options that take several values
    for action in parser._actions:
        action.required = False  # is checked
        if action.nargs == "+":
            several.add(action.dest)
        if action.type is string_to_bool:
            action.type = to_bool
    words: list[str] = []
    fixed: dict[str, Any] = {}
    for name, value in given.values.items():
        if isinstance(value, list) and value and name in several:
            words += [f"--{name}", *map(str, value)]
        elif value is None or isinstance(value, list | dict):
            fixed[name] = _typed(value)
        else:
            words.append(f"--{name}={value}")
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset")
    words += given.flags
    chosen = finder.parse_known_args(words)[0].preset
    parser.set_defaults(**{**preset_values(chosen, presets), **fixed})
    return words


def _typed(value: Any) -> Any:
    """Texts inside a list or dict of a YAML file as numbers and booleans, where they look so."""
    if isinstance(value, dict):
        return {name: _typed(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    for kind in (int, float):
        try:
            return kind(value)
        except (TypeError, ValueError):
            continue
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(str(value).lower(), value)


def to_bool(text: str) -> bool:
    """True or False of a text; YAML's on and off too."""
    try:
        return bool(string_to_bool({"on": "true", "off": "false"}.get(text.lower(), text)))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None


def _fail(message: str) -> NoReturn:
    """Replaces argparse's error, which prints the usage of all options."""
    message = re.sub(r"argument (--\w+)[^:]*: ", r"\1: ", message)
    raise OptionError(f"{message[:1].upper()}{message[1:].rstrip('.')}. --help lists the options.")


def preset_values(name: str | None, presets: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Values of a preset; none for None and "none". Raises OptionError for an unknown preset."""
    if name is None or name == "none":
        return {}
    if name not in presets:
        raise OptionError(f"Unknown preset {name!r}. Choose one of {', '.join([*presets, 'none'])}.")
    return presets[name]


def launch_command(processes: int) -> str:
    """The command that runs this program on several processes, with its options."""
    program = [sys.argv[0]]
    if Path(sys.argv[0]).name in ("bioscan-hf", "main.py"):
        program = ["-m", "bioscan_hf.cli.main"]
    return f"accelerate launch --num_processes {processes} {shlex.join([*program, *sys.argv[1:]])}"


# ---- checks and values that follow from options ---------------------------------------------------------------------


def check_processes(world_size: int) -> None:
    """Raises ValueError if several processes were launched and each believes to be the only one.

    Warns of the launch `accelerate launch --cpu --num_processes N`, of which accelerate starts one process in silence.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world_size:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), but this one sees {world_size}, so each would do all "
            f"the work. On CPU, set ACCELERATE_USE_CPU=yes in the environment; on GPU, launch at most one process per "
            f"device."
        )
    wanted = "WORLD_SIZE" not in os.environ and "MASTER_ADDR" in os.environ  # accelerate sets it for several
    if wanted and os.environ.get("ACCELERATE_USE_CPU") == "True":
        logger.warning(
            "accelerate has started one process, however many --num_processes says. For N processes on CPUs, use "
            "ACCELERATE_USE_CPU=yes accelerate launch --multi_gpu --num_processes N, without --cpu."
        )


def check_workers(training_args: TrainingArguments) -> None:
    """Raises ValueError for workers that persist, without any."""
    if training_args.dataloader_persistent_workers and not training_args.dataloader_num_workers:
        raise ValueError("--dataloader_persistent_workers needs --dataloader_num_workers. Give 1 or more.")


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
