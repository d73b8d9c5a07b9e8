"""Complete checkpoints, and the one that a run resumes from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from ..files import read_json, write_json
from .arguments import global_batch_size

#: Options that may differ in a resumed run: where the data are, and the preset, whose values are compared instead.
MAY_DIFFER = ("source", "overwrite", "preset")


class CheckpointCallback(TrainerCallback):
    """Adds the tokenizer and then the file that describes the run to each checkpoint.

    The tokenizer is not the Trainer's `processing_class`, because the Trainer would copy its `pad_token_id` into the
    model's config, where 0 is the id of the frozen embedding.

    Args:
        processor: Tokenizer or processor of the model.
        run_file: Name of the file that completes a checkpoint.
        run: Content of that file, of `describe_run`.
    """

    def __init__(self, processor: Any, output_dir: Path, run_file: str, run: Mapping[str, Any]):
        self.processor, self.output_dir, self.run_file, self.run = processor, output_dir, run_file, run

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after the Trainer has written a checkpoint."""
        if args.should_save:
            folder = self.output_dir / f"checkpoint-{state.global_step}"
            self.processor.save_pretrained(folder)
            write_json(folder / self.run_file, self.run)


def describe_run(options: Any, training_args: TrainingArguments) -> dict[str, Any]:
    """Values that must be the same in a resumed run.

    Args:
        options: The dataclass of a trainer's options.
    """
    run = {name: value for name, value in asdict(options).items() if name not in MAY_DIFFER}
    return run | {"seed": training_args.seed, "global_batch_size": global_batch_size(training_args)}


def find_checkpoint(
    output_dir: Path, resume: str | None, overwrite: bool, run_file: str, run: Mapping[str, Any]
) -> Path | None:
    """The checkpoint to resume from; None to start from the beginning. Reads only.

    Args:
        resume: "last" or "true" for the last complete checkpoint in `output_dir`, which may also be empty; or the path
            of a checkpoint; or None or "false".
        run_file: Name of the file that completes a checkpoint.
        run: Required content of that file, of `describe_run`.

    Raises:
        FileExistsError: if a new run would mix its files with those of another run.
        FileNotFoundError: if there is no checkpoint to resume from.
        ValueError: if the checkpoint belongs to a run with other options.
    """
    content = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
    if resume is None or resume.lower() == "false":
        if content and not overwrite:
            raise FileExistsError(
                f"The output folder {str(output_dir)!r} is not empty (it holds {', '.join(content[:3])}). Resume with "
                f"--resume_from_checkpoint last, start again with --overwrite True, or choose another --output_dir."
            )
        return None
    if overwrite:
        raise ValueError("--resume_from_checkpoint and --overwrite exclude each other: leave one of them out.")
    checkpoint: Path | None = Path(resume)
    if resume.lower() in ("last", "true"):
        complete = [path.parent for path in output_dir.glob(f"checkpoint-*/{run_file}")]
        checkpoint = max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
        if checkpoint is None and not content:
            return None
    if checkpoint is None or not (checkpoint / run_file).is_file():
        raise FileNotFoundError(
            f"There is no complete checkpoint of this trainer in {str(checkpoint or output_dir)!r}, so there is "
            f"nothing to resume. Leave --resume_from_checkpoint out to start from the beginning."
        )
    before = read_json(checkpoint / run_file)
    changed = [
        f"{name} was {before.get(name)!r} and is {value!r}" for name, value in run.items() if before.get(name) != value
    ]
    if changed:
        raise ValueError(f"{str(checkpoint)!r} belongs to another run: {'; '.join(changed)}. Restore these options.")
    return checkpoint


def remove_checkpoints(output_dir: Path) -> None:
    """Deletes the checkpoints in a folder, and nothing else."""
    for old in output_dir.glob("checkpoint-*"):
        shutil.rmtree(old)
