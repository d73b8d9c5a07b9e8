"""One run of a trainer: options, training, saving, results, model card and push."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from ..cards import write_card
from ..files import file_hash, read_json, write_json
from ..provenance import without_folders, write_results
from .arguments import (
    BaseTrainingArguments,
    describe_training,
    global_batch_size,
    preset_values,
    scaled_learning_rate,
)
from .checkpoints import clear_output, describe_run, find_checkpoint, find_finished, run_hash
from .publish import publish_finished
from .trainer import BarcodeTrainer

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Errors that a user can correct: shown as one line if they are raised before training starts.
EXPECTED = (ValueError, OSError, ImportError)

#: Note on errors that are raised after training has started.
STARTED = "This happened after training had started. --resume_from_checkpoint last resumes from the last checkpoint."


@dataclass
class TrainingRun:
    """A run that was checked by `begin_run`."""

    task: str  # its name in results.json, such as "barcodebert/pretrain"
    run_file: str  # name of the file that completes a checkpoint
    options: Any
    training_args: BaseTrainingArguments
    same: dict[str, Any]  # values that must be the same in a resumed run
    checkpoint: Path | None  # to resume from
    about: dict[str, Any]  # further fields of results.json; a trainer adds `splits` and others
    finished: dict[str, Any] | None  # its results, if it had finished before
    start: float  # `time.perf_counter()`


def begin_run(
    task: str,
    run_file: str,
    options: Any,
    training_args: BaseTrainingArguments,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    same: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """Checks preset and output folder, finds the checkpoint, and scales the learning rate.

    Args:
        options: The dataclass of the trainer's options.
        presets: Preset -> option -> value. The results list the options that differ from the preset.
        same: Further values that must be the same in a resumed run.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: if the run is not possible. Nothing is written.
    """
    start = time.perf_counter()
    values = asdict(options) | describe_training(training_args)
    about: dict[str, Any] = {"dataset": options.source}
    if presets is not None:
        used = vars(training_args) | values
        preset = preset_values(options.preset, presets)
        about["preset_overrides"] = {name: used[name] for name, value in preset.items() if used[name] != value}
    described = describe_run(options, training_args) | dict(same or {})
    output, resume = Path(training_args.output_dir), training_args.resume_from_checkpoint
    finished = find_finished(output, resume, described)
    checkpoint = None if finished else find_checkpoint(output, resume, options.force, run_file, described)
    training_args.learning_rate = scaled_learning_rate(training_args)
    training_args.scale_learning_rate = False  # it is scaled now
    training_args.label_names = ["labels"]  # the Trainer does not find them in a model with adapters
    about["options"] = values | {"scaled_learning_rate": training_args.learning_rate}
    about["run"] = run_hash(described)
    if finished:
        if training_args.push_to_hub and training_args.process_index == 0:
            publish_finished(training_args)
        logger.info("%r is finished: %d steps. Nothing is left to do.", training_args.output_dir, finished["steps"])
    PartialState().wait_for_everyone()  # before one of them writes into the output folder
    return TrainingRun(task, run_file, options, training_args, described, checkpoint, about, finished, start)


def run_training(
    run: TrainingRun,
    trainer: BarcodeTrainer,
    processor: Any,
    *,
    evaluate: Callable[[], Mapping[str, Any]],
    describe_model: Callable[[Any], Mapping[str, Any]],
    card: Callable[[str, dict[str, Any]], str],
    train: bool = True,
) -> dict[str, Any]:
    """Trains, saves and evaluates a model, and writes its results and model card.

    Args:
        processor: Tokenizer or processor to save beside the model.
        evaluate: Gives the metrics after training. Called in every process.
        describe_model: Model -> further fields of `model` in the results.
        card: Title and results -> text of the model card.
        train: Whether to train; otherwise the model is evaluated and saved as it is.

    Returns:
        The content of results.json; empty in all processes but the main one, which alone writes.
    """
    args, output = trainer.args, Path(trainer.args.output_dir)
    trainer.processor, trainer.run_file, trainer.run = processor, run.run_file, run.same
    if args.should_save:
        clear_output(output, run.run_file, everything=run.options.force)
    trained = trainer.get_num_trainable_parameters()
    try:
        if train:
            trainer.train_from(run.checkpoint)
        _save(trainer)  # before the evaluation, which may fail, or change the type of the weights
        metrics = evaluate()
        results: dict[str, Any] = {}
        if trainer.is_world_process_zero():
            model, curve = cast(Any, trainer.model), loss_curve(trainer)
            best = trainer.state.best_model_checkpoint
            results = write_results(
                output / "results.json",
                task=run.task,
                seed=args.seed,
                model={
                    "path": args.output_dir,
                    "sha256": file_hash(output / "model.safetensors"),
                    "parameters": model.num_parameters(),
                    "trained_parameters": trained,
                    **describe_model(model),
                },
                steps=trainer.state.global_step,
                best_checkpoint=Path(best).name if best else None,
                loss_curve=curve,
                metrics={"train_loss_nats": curve[-1][1] if curve else None, **metrics},
                **describe_machine(args),
                **run.about,
                seconds=round(time.perf_counter() - run.start, 3),
            )
            write_card(output / "README.md", card(output.resolve().name, read_json(output / "results.json")))
        if args.push_to_hub:
            trainer.push_to_hub()
    except Exception as error:
        error.add_note(STARTED)
        raise
    return results


def _save(trainer: BarcodeTrainer) -> None:
    """Writes the model and its processor; adapters also on their own, and the model with them merged in."""
    model = cast(Any, trainer.model)
    if hasattr(model, "merge_and_unload"):  # a peft model
        if trainer.args.should_save:
            _save_adapter(model, Path(trainer.args.output_dir) / "adapter")
        trainer.model = trainer.model_wrapped = model.merge_and_unload()
    trainer.save_model(_internal_call=True)
    trainer.save_state()


def _save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapters of a peft model, without folders in the name of its base: the folder is pushed."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # a form that peft leaves to be filled in
    path = folder / "adapter_config.json"
    write_json(path, without_folders(read_json(path)))


def describe_machine(training_args: TrainingArguments) -> dict[str, Any]:
    """Device, precision, processes and global batch size, for results.json."""
    device = training_args.device
    whole = "bf16" if training_args.bf16_full_eval else "fp16" if training_args.fp16_full_eval else None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32",
        **({"precision_of_evaluation": whole} if whole else {}),
        "processes": training_args.world_size,
        "global_batch_size": global_batch_size(training_args),
    }


def loss_curve(trainer: BarcodeTrainer) -> list[list[float]]:
    """[step, mean loss in nats] of each logged loss."""
    return [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]


def run_program(program: Callable[[], object]) -> None:
    """Runs the main function of a trainer; errors before training are one line on the main process of each machine.

    Errors that are raised after training has started keep their traceback, in every process.
    """
    try:
        in_processes(program)
    except EXPECTED as error:
        if STARTED in getattr(error, "__notes__", ()):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


def in_processes(program: Callable[[], Result]) -> Result:
    """The result of a function that trains in one process or in several; logs to standard error."""
    logging.basicConfig(level=logging.INFO)
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)  # it logs addresses that are signed for an upload
    result = program()
    PartialState().destroy_process_group()  # its threads could abort the exit
    return result
