"""Complete checkpoints, the one that a run resumes from, and finished runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..files import read_json
from .arguments import describe_training, global_batch_size

#: Values that may differ in a resumed run: where the data are, the preset, whose values are compared instead, how a
#: global batch is divided, and what changes only the speed.
MAY_DIFFER = (
    *("source", "force", "preset"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "torch_compile"),
)

#: Values that may grow in a resumed run whose learning rate does not follow from the number of steps.
LENGTH = ("num_train_epochs", "max_steps")

#: Schedules of the learning rate that do not follow from the number of steps.
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")


def describe_run(options: Any, training_args: TrainingArguments) -> dict[str, Any]:
    """Values of options and training arguments that must be the same in a resumed run, as JSON holds them."""
    run = asdict(options) | describe_training(training_args)  # type: ignore[arg-type]
    run |= {"seed": training_args.seed, "global_batch_size": global_batch_size(training_args)}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in run.items()}
    return {name: value for name, value in values.items() if name not in MAY_DIFFER}


def run_hash(run: Mapping[str, Any]) -> str:
    """sha256 of the values of `describe_run`: names the run in results.json without its folders."""
    return hashlib.sha256(json.dumps(run, sort_keys=True, default=str).encode()).hexdigest()


def find_finished(output_dir: Path, resume: str | None, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of this run, if it is to be resumed and has already finished."""
    path = output_dir / "results.json"
    if resume is None or resume.lower() not in ("last", "true") or not path.is_file():
        return None
    results = read_json(path)
    return results if results.get("run") == run_hash(run) else None


def find_checkpoint(
    output_dir: Path, resume: str | None, force: bool, run_file: str, run: Mapping[str, Any]
) -> Path | None:
    """The checkpoint to resume from; None to start from the beginning. Reads only.

    Args:
        resume: "last" or "true" for the last complete checkpoint in `output_dir`, or the beginning if there is none;
            or the path of a checkpoint; or None or "false".
        run_file: Name of the file that completes a checkpoint.
        run: Required content of that file, of `describe_run`. Values that the file does not have are not compared.

    Raises:
        FileExistsError: if a new run would mix its files with those of another run.
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if the checkpoint belongs to a run with other options.
    """
    content = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
    if resume is None or resume.lower() == "false":
        if content and not force:
            raise FileExistsError(
                f"The output folder {str(output_dir)!r} is not empty (it holds {', '.join(content[:3])}). Continue "
                f"with --resume_from_checkpoint last, start again with --force, or choose another "
                f"--output_dir."
            )
        return None
    if force:
        raise ValueError("--resume_from_checkpoint and --force exclude each other: leave one of them out.")
    checkpoint: Path | None = Path(resume)
    if resume.lower() in ("last", "true"):
        complete = [path.parent for path in output_dir.glob(f"checkpoint-*/{run_file}")]
        checkpoint = max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
        if checkpoint is None:
            if "results.json" in content:
                raise ValueError(
                    f"{str(output_dir)!r} holds the results of a run with other options, and no checkpoint. Choose "
                    f"another --output_dir, or start again with --force."
                )
            return None
    if checkpoint is None or not (checkpoint / run_file).is_file():
        raise FileNotFoundError(
            f"{resume!r} is not a complete checkpoint of this trainer. Give another one, or --resume_from_checkpoint "
            f"last, which starts from the beginning where there is none."
        )
    check_same(checkpoint, read_json(checkpoint / run_file), run)
    return checkpoint


def check_same(checkpoint: Path, before: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raises ValueError if a run has other options than its checkpoint, or would be extended and cannot be."""
    changed = {name: value for name, value in run.items() if name in before and before[name] != value}
    longer = set(changed) <= set(LENGTH) and all(value > before[name] for name, value in changed.items())
    if not changed or (longer and is_endless(run)):
        return
    named = "; ".join(f"{name} was {before[name]!r} and is {value!r}" for name, value in changed.items())
    advice = (
        "The learning rate follows from the number of steps, so this run cannot be extended or shortened. Restore it, "
        "or start a new run in another --output_dir"
        if set(changed) <= set(LENGTH)
        else "Restore these options, or start a new run in another --output_dir"
    )
    raise ValueError(f"{str(checkpoint)!r} belongs to another run: {named}. {advice}.")


def is_endless(run: Mapping[str, Any]) -> bool:
    """Whether the learning rate of a run does not follow from its number of steps."""
    if run["schedule"] != "trainer":
        return bool(run["schedule"] == "epoch-warmup")
    return run["lr_scheduler_type"] in ENDLESS and (run["warmup_steps"] == 0 or run["warmup_steps"] >= 1)


def clear_output(output_dir: Path, run_file: str, everything: bool) -> None:
    """Deletes what killed or overwritten runs have left: results, parts of pushes, and checkpoints.

    Complete checkpoints are deleted only if `everything` is.
    """
    (output_dir / "results.json").unlink(missing_ok=True)
    for old in [*output_dir.glob("checkpoint-*"), *output_dir.glob(".push-*")]:
        if everything or not (old / run_file).is_file():
            shutil.rmtree(old)
