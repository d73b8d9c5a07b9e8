"""Publishing what a trainer writes: complete models only, without pickles, logs or names of folders."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..dataset.hub_errors import explained
from ..files import write_text

logger = logging.getLogger(__name__)

#: Files and folders that are not published: pickles, logs of trackers, checkpoints, and names that start with a dot.
UNPUBLISHED = ("*.pt", "*.pth", "*.bin", "*.pkl", "runs", "wandb", "checkpoint-*", ".*")

#: Card of a model that is published before its training has ended.
UNFINISHED_CARD = """---
library_name: transformers
---
Training in progress: step {step} of {steps}. The card comes with the finished model.
"""


def publish(
    folder: Path, repo: str, args: TrainingArguments, message: str, places: Sequence[str] = ("",)
) -> Future[Any]:
    """Publishes a folder in one commit, so that readers never see a part of it.

    `places` are folders in the repository to publish to, each with its slash.
    """
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [name for name in names if not any(fnmatch(part, one) for part in name.parts for one in UNPUBLISHED)]
    added = [CommitOperationAdd(f"{place}{name.as_posix()}", folder / name) for place in places for name in kept]
    return HfApi(token=args.hub_token).create_commit(
        repo, added, commit_message=message, revision=args.hub_revision, run_as_future=True
    )


def publish_checkpoint(
    checkpoint: Path, repo: str, args: TrainingArguments, state: Any, left_out: Sequence[str]
) -> Future[Any]:
    """Publishes the model of a checkpoint in the background, without the files `left_out`.

    With the strategies "checkpoint" and "all_checkpoints", also as a folder; the states of optimizer and random
    numbers, which are pickles, stay on this machine.
    """
    staged = Path(tempfile.mkdtemp(prefix=".push-", dir=checkpoint.parent))  # the checkpoint may be deleted meanwhile
    shutil.copytree(checkpoint, staged, ignore=shutil.ignore_patterns(*UNPUBLISHED, *left_out), dirs_exist_ok=True)
    write_text(staged / "README.md", UNFINISHED_CARD.format(step=state.global_step, steps=state.max_steps))
    folders = {HubStrategy.CHECKPOINT: "last-checkpoint/", HubStrategy.ALL_CHECKPOINTS: f"{checkpoint.name}/"}
    places = {"", folders.get(HubStrategy(args.hub_strategy), "")}
    pushed = publish(staged, repo, args, f"Training in progress, step {state.global_step}", sorted(places))

    def end(pushed: Future[Any]) -> None:
        shutil.rmtree(staged, ignore_errors=True)
        if (error := pushed.exception()) is not None:  # only told, because more pushes follow
            logger.warning("The push of step %d failed: %s", state.global_step, error)

    pushed.add_done_callback(end)
    return pushed


def publish_finished(args: TrainingArguments) -> None:
    """Publishes the folder of a run that had finished before."""
    folder, api = Path(str(args.output_dir)).resolve(), HfApi(token=args.hub_token)
    name = args.hub_model_id or folder.name
    with explained(name, args.hub_token):
        created = api.create_repo(name, private=args.hub_private_repo, exist_ok=True)
        publish(folder, created.repo_id, args, "End of training").result()
