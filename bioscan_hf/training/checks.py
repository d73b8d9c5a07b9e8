"""Options of transformers' Trainer that no trainer of this package supports, refused before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from .arguments import check_processes, launch_command

#: Option -> allowed values, and the reason.
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "prediction_loss_only": ((False,), "a validation without predictions has no metrics"),
    "eval_do_concat_batches": ((True,), "the metrics of a validation are those of all rows together"),
    "batch_eval_metrics": ((False,), "the metrics of a validation are those of all rows together"),
    "remove_unused_columns": ((False,), "the collator makes batches of columns that the model does not have"),
    "label_names": ((None, ["labels"]), "the collator calls the labels 'labels'"),
    "label_smoothing_factor": (
        (0.0,),
        "it would count missing labels, and contrastive losses have no labels. Fine-tuning has --label_smoothing",
    ),
    "average_tokens_across_devices": ((True,), "the steps would depend on the number of processes"),
    "auto_find_batch_size": (
        (False,),
        "learning rate and order of rows follow from the batch size. Find it with --max_steps 2 and give "
        "--per_device_train_batch_size",
    ),
    "save_only_model": (
        (False,),
        "such checkpoints cannot be resumed. --save_total_limit 1 saves disk space; --save_strategy no saves only the "
        "finished model",
    ),
    "use_liger_kernel": ((False,), "it has no kernels for these models"),
    "train_sampling_strategy": (
        ("random", "sequential"),
        "rows of the datasets have no length. --similar_lengths True makes batches of similar length",
    ),
}

#: Option -> its smallest value.
LEAST = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1} | {
    **dict.fromkeys(("learning_rate", "weight_decay", "num_train_epochs", "dataloader_num_workers"), 0),
    "dataloader_prefetch_factor": 1,
}


def check_training(training_args: TrainingArguments) -> None:
    """Raises ValueError for options that would fail later, or would not do what they say.

    Raises ImportError if the optimizer needs a package that is not installed.
    """
    check_processes(training_args.world_size)
    if training_args.n_gpu > 1:
        raise ValueError(
            f"One process sees {training_args.n_gpu} GPUs. Start one process per GPU: "
            f"{launch_command(training_args.n_gpu)}; or choose one GPU with CUDA_VISIBLE_DEVICES=0."
        )
    for name, (allowed, why) in ONLY.items():
        value = getattr(training_args, name, allowed[0])
        if value not in allowed:
            raise ValueError(f"--{name} is {value}, which is not supported: {why}. Leave it out.")
    _check_numbers(training_args)
    if training_args.fp16 and training_args.device.type == "cpu":
        raise ValueError("--fp16 needs a GPU; on a CPU it would be ignored. Leave it out, or use --bf16 True.")
    if getattr(training_args.accelerator_config, "split_batches", False):
        raise ValueError(
            "--accelerator_config has split_batches, which divides --per_device_train_batch_size among the processes. "
            "Leave it out, and give the rows of one process."
        )
    if (training_args.load_best_model_at_end or training_args.save_strategy == "best") and not training_args.do_eval:
        raise ValueError(
            "--load_best_model_at_end and --save_strategy best choose by validation, but --eval_strategy is 'no'. "
            "Leave them out, or validate."
        )
    if training_args.save_strategy == "best" and not training_args.metric_for_best_model:
        raise ValueError("--save_strategy best needs --metric_for_best_model, such as loss.")
    _check_trackers(training_args.report_to or ())
    try:
        Trainer.get_optimizer_cls_and_kwargs(training_args)
    except (ImportError, ValueError) as error:
        if "need to pass a" not in str(error):  # some optimizers need the model, too
            name = OptimizerNames(training_args.optim).value
            raise ImportError(f"--optim {name} cannot be used: {error}") from None


def _check_numbers(training_args: TrainingArguments) -> None:
    """Raises ValueError for numbers with which nothing would be trained or saved, or torch would fail."""
    for name, least in LEAST.items():
        value = getattr(training_args, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"--{name} is {value}; give {least} or more.")
    if training_args.max_steps == 0:
        raise ValueError("--max_steps is 0; give 1 or more, or leave it out to train for --num_train_epochs.")
    if training_args.save_strategy == "steps" and training_args.save_steps <= 0:
        raise ValueError(f"--save_steps is {training_args.save_steps}; give 1 or more, or --save_strategy no.")


def _check_trackers(names: Collection[str]) -> None:
    """Raises ValueError for an unknown tracker, and ImportError for one whose package is not installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"--report_to is {name!r}. Choose among none, all, {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in get_available_reporting_integrations():
            package = {"azure_ml": "azureml-core"}.get(name, name)
            raise ImportError(f"--report_to {name} needs a package that is not installed: pip install {package}.")


def check_adapters(training_args: TrainingArguments, rank: int) -> None:
    """Raises ValueError for adapters of a rank above 0 under FSDP, which could neither save nor merge them."""
    if rank and (training_args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")):
        raise ValueError(
            "--lora_rank trains adapters, which FSDP cannot save. Launch without FSDP: adapters have small gradients "
            "and optimizer states, and --gradient_checkpointing True saves more memory."
        )


def check_metric(training_args: TrainingArguments, known: Collection[str]) -> None:
    """Sets in which direction the metric of the best checkpoint is better; ValueError if it is not a `known` one."""
    if training_args.metric_for_best_model is None:
        return
    name = training_args.metric_for_best_model.removeprefix("eval_")
    if name not in known:
        raise ValueError(f"--metric_for_best_model is {name!r}, but validation gives {', '.join(known)}. Choose one.")
    training_args.greater_is_better = not name.endswith(("loss", "nats", "error"))
