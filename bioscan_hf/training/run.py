"""One run of a trainer: options, training, saving, results, model card and push."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments

from ..cards import write_card
from ..files import file_hash, read_json, write_json
from ..provenance import without_folders, write_results
from .arguments import (
    BaseTrainingArguments,
    check_processes,
    describe_training,
    global_batch_size,
    preset_values,
    scaled_learning_rate,
)
from .checkpoints import CheckpointCallback, describe_run, find_checkpoint, remove_checkpoints
from .trainer import BarcodeTrainer, EpochCallback

#: Errors that a user can correct: shown as one line if they are raised before training starts.
EXPECTED = (ValueError, FileExistsError, FileNotFoundError, ImportError)

#: Note on errors that are raised after training has started.
STARTED = "This happened after training had started. --resume_from_checkpoint last resumes from the last checkpoint."


@dataclass
class TrainingRun:
    """A run that was checked by `begin_run`.

    Attributes:
        task: Name of the task in results.json, such as "barcodebert/pretrain".
        run_file: Name of the file that completes a checkpoint.
        same: Values that must be the same in a resumed run.
        checkpoint: The checkpoint to resume from.
        about: Further fields of results.json; a trainer adds `splits` and others.
        start: `time.perf_counter()` at the start.
    """

    task: str
    run_file: str
    options: Any
    training_args: BaseTrainingArguments
    same: dict[str, Any]
    checkpoint: Path | None
    about: dict[str, Any]
    start: float

    def callbacks(self, processor: Any, *listeners: Any) -> list[TrainerCallback]:
        """Callbacks of the Trainer.

        Args:
            processor: Tokenizer or processor to save in each checkpoint.
            listeners: Collators and samplers that have `set_epoch`; None is left out.
        """
        output = Path(self.training_args.output_dir)
        return [
            EpochCallback(*(listener for listener in listeners if listener is not None)),
            CheckpointCallback(processor, output, self.run_file, self.same),
        ]


def begin_run(
    task: str,
    run_file: str,
    options: Any,
    training_args: BaseTrainingArguments,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    same: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """Checks processes, preset and output folder, finds the checkpoint, and scales the learning rate.

    Args:
        options: The dataclass of the trainer's options.
        presets: Preset -> option -> value. The results list the options that differ from the preset.
        same: Further values that must be the same in a resumed run.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: if the run is not possible. Nothing is written.
    """
    start = time.perf_counter()
    check_processes(training_args.world_size)
    values = asdict(options) | describe_training(training_args)
    about: dict[str, Any] = {"dataset": options.source}
    if presets is not None:
        used = vars(training_args) | values
        preset = preset_values(options.preset, presets)
        about["preset_overrides"] = {name: used[name] for name, value in preset.items() if used[name] != value}
    described = describe_run(options, training_args) | dict(same or {})
    output, resume = Path(training_args.output_dir), training_args.resume_from_checkpoint
    checkpoint = find_checkpoint(output, resume, options.overwrite, run_file, described)
    training_args.learning_rate = scaled_learning_rate(training_args)
    training_args.scale_learning_rate = False  # it is scaled now
    about["options"] = values | {"scaled_learning_rate": training_args.learning_rate}
    return TrainingRun(task, run_file, options, training_args, described, checkpoint, about, start)


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
    """Trains, evaluates and saves a model, and writes its results and model card.

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
    if run.options.overwrite and args.should_save:
        remove_checkpoints(output)
    trained = trainer.get_num_trainable_parameters()
    try:
        if train:
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        try:
            metrics = evaluate()
        finally:
            _save(trainer, processor)  # also if the evaluation fails
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


def _save(trainer: BarcodeTrainer, processor: Any) -> None:
    """Writes the model and its processor; adapters also on their own, and the model with them merged in."""
    output, model = Path(trainer.args.output_dir), cast(Any, trainer.model)
    if hasattr(model, "merge_and_unload"):  # a peft model
        if trainer.args.should_save:
            _save_adapter(model, output / "adapter")
        trainer.model = trainer.model_wrapped = model.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    if trainer.args.should_save:
        processor.save_pretrained(output)


def _save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapters of a peft model, without folders in the name of its base: the folder is pushed."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # a form that peft leaves to be filled in
    path = folder / "adapter_config.json"
    write_json(path, without_folders(read_json(path)))


def describe_machine(training_args: TrainingArguments) -> dict[str, Any]:
    """Device, precision, processes and global batch size, for results.json."""
    device = training_args.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32",
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
    logging.basicConfig(level=logging.INFO)
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)  # it logs addresses that are signed for an upload
    try:
        program()
    except EXPECTED as error:
        if STARTED in getattr(error, "__notes__", ()):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    PartialState().destroy_process_group()  # its threads could abort the exit
