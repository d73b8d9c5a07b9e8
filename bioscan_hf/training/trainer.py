"""The Trainer with the published learning rate schedules, complete checkpoints and clean pushes.

Source: BarcodeBERT, https://arxiv.org/abs/2311.02401; OneCycle, https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy, rotate_checkpoints

from ..dataset.hub_errors import explained
from ..files import write_json
from ..provenance import without_folders
from .arguments import BaseTrainingArguments, global_batch_size
from .publish import publish, publish_checkpoint

#: Modules whose parameters FSDP gathers one at a time. A name that a model does not have would be refused.
FSDP_UNITS = {"BertLayer", "Mamba2Block", "BarcodeMambaBlock", "Block"}


def epoch_warmup(optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The schedule of 2023: a tenth of the learning rate in epoch 1, all of it from epoch 6, in equal steps."""
    return LambdaLR(optimizer, lambda step: 0.1 + 0.9 * min(step // steps_per_epoch, 5) / 5)


def steps_per_epoch(rows: int, training_args: TrainingArguments) -> int:
    """Optimizer steps of one pass over `rows`."""
    batch = training_args.per_device_train_batch_size * training_args.world_size
    batches = rows // batch if training_args.dataloader_drop_last else math.ceil(rows / batch)
    return max(1, math.ceil(batches / training_args.gradient_accumulation_steps))


class BarcodeTrainer(Trainer):
    """A Trainer with the published schedules, and optionally its own sampler and validation collator.

    Args:
        eval_collator: Collator of validation and test batches; None uses `data_collator`.
        sampler: Order of the training rows; None uses the Trainer's.

    Attributes:
        processor: Tokenizer or processor to save beside the model. It is not the Trainer's `processing_class`, which
            would change the special tokens in the model's config.
        run_file: Name of the file that completes a checkpoint.
        run: Content of that file, of `describe_run`.
    """

    args: BaseTrainingArguments

    #: Whether OneCycle also changes beta1: 0.95 -> 0.85 -> 0.95.
    cycle_momentum: ClassVar[bool] = True

    def __init__(
        self,
        *args: Any,
        eval_collator: Callable[[Any], Any] | None = None,
        sampler: Sampler[int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.args.neftune_noise_alpha is not None:
            _check_embeddings(self.model)
        if self.is_fsdp_enabled:
            found = {type(module).__name__ for module in cast(Any, self.model).modules()}
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(found & FSDP_UNITS)
        self.eval_collator, self.sampler = eval_collator, sampler
        self.processor: Any = None
        self.run_file, self.run = "run.json", cast(Mapping[str, Any], {})
        self.pushed: Future[Any] | None = None
        self.last_logged = -1, 0.0
        self.add_callback(EpochCallback(self.data_collator, sampler))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of all validation rows, by the validation collator; `dataloader_drop_last` is for training only."""
        before = self.data_collator, self.args.dataloader_drop_last
        self.data_collator, self.args.dataloader_drop_last = self.eval_collator or self.data_collator, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.args.dataloader_drop_last = before

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Batches as in validation; the Trainer would collate them as in training."""
        return self.get_eval_dataloader(test_dataset)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """A loader with a generator of its own, which seeds its workers.

        Without one, each start of workers would draw a number that dropout draws too, and a resumed run starts workers
        that persist where the whole run does not.
        """
        loader: Any = super()._get_dataloader(*args, **kwargs)
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        return cast(DataLoader, loader)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler if self.sampler is not None else super()._get_train_sampler(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The schedule of the arguments.

        OneCycle starts at a 25th of the learning rate, reaches it after 30 % of the steps, and ends at a 10,000th of
        the start. What it changes lies in the optimizer's parameter groups, so a resumed optimizer restores it.
        """
        if self.lr_scheduler is None and self.args.schedule != "trainer":
            optimizer = optimizer or cast(torch.optim.Optimizer, self.optimizer)
            if self.args.schedule == "onecycle":
                rate, steps = self.args.learning_rate, num_training_steps
                made: LRScheduler = OneCycleLR(optimizer, rate, steps, cycle_momentum=self.cycle_momentum)
            else:
                rows = len(cast(Sized, self.train_dataset))
                made = epoch_warmup(optimizer, steps_per_epoch(rows, self.args))
            self.lr_scheduler = made  # type: ignore[assignment]
            self._created_lr_scheduler = True  # so that a second training makes a new one
        return super().create_scheduler(num_training_steps, optimizer)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters with weight decay."""
        if self.args.decay_all_parameters:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    # ---- training and logs ----

    def train_from(self, checkpoint: Path | None) -> None:
        """Trains from a checkpoint, or from the beginning; a checkpoint of the last step is only loaded."""
        if checkpoint is None:
            self.train()
            self._check_weights()
            return
        state, args = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")), self.args
        done, steps = state.epoch or 0.0, args.max_steps
        if state.global_step < steps if steps > 0 else done + 1e-6 < args.num_train_epochs:
            self.train(resume_from_checkpoint=str(checkpoint))
            self._check_weights()
            return
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()

    def _check_weights(self) -> None:
        """Raises ValueError if weights of any process are NaN or infinite, which the logged losses do not show."""
        weights = [getattr(one, "to_local", lambda one=one: one)() for one in cast(Any, self.model).parameters()]
        wrong = torch.stack([~torch.isfinite(one.detach()).all() for one in weights if one.numel()]).any()
        if self.accelerator.reduce(wrong.float()).item():
            args, step = self.args, self.state.global_step
            raise ValueError(
                f"Training has diverged: at step {step}, weights are NaN or infinite. Start again with a lower "
                f"--learning_rate (now {args.learning_rate:g}) or --max_grad_norm (now {args.max_grad_norm:g})."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs values; with a loss, also the training rows per second since the last one."""
        if "loss" in logs:
            self._check_weights()
            step, now = self.state.global_step, time.perf_counter()
            before, then = self.last_logged
            if step > before >= 0:
                logs["samples_per_second"] = round((step - before) * global_batch_size(self.args) / (now - then), 1)
            self.last_logged = step, now
        super().log(logs, start_time)

    # ---- saving ----

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Saves the model and its processor, without the pickle of the arguments: these are in `results.json`."""
        with own_class(self.model):
            super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)
        if self.processor is not None:
            self.processor.save_pretrained(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint, then the file that completes it, then publishes it; only then deletes older ones."""
        self._check_weights()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (folder / self.run_file).unlink(missing_ok=True)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each process has written its random state
        if self.args.should_save:
            write_json(folder / self.run_file, self.run)
        if self.args.push_to_hub and self.is_world_process_zero():
            self._publish_checkpoint(folder)
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint, use_mtime=True)

    def save_state(self) -> None:
        """Writes `trainer_state.json`, without folders in the name of the best checkpoint: the file is pushed."""
        best = self.state.best_model_checkpoint
        self.state.best_model_checkpoint = without_folders(best)
        super().save_state()
        self.state.best_model_checkpoint = best

    # ---- the Hub ----

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Makes the repository, before training; errors are those of `dataset.hub_errors.explained`."""
        name = self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        with explained(name, self.args.hub_token):
            super().init_hf_repo(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: `_save_checkpoint` publishes a checkpoint when it is complete."""

    def _publish_checkpoint(self, folder: Path) -> None:
        """Publishes the model of a checkpoint, in the background: usable as it is, without states that are pickles.

        Adapters are published at the end, merged: alone, they need a base that may be a folder of this machine.
        """
        args = self.args
        if args.hub_strategy == HubStrategy.END or not isinstance(self.model, PreTrainedModel):
            return
        if self.pushed is not None and not self.pushed.done() and not args.hub_always_push:
            return
        self._finish_current_push()
        left_out = (self.run_file, "trainer_state.json", "pytorch_model_fsdp*")
        self.callback_handler.on_push_begin(args, self.state, self.control)
        self.pushed = publish_checkpoint(folder, cast(str, self.hub_model_id), args, copy(self.state), left_out)

    def _finish_current_push(self) -> None:
        """Waits for the push of a checkpoint."""
        if self.pushed is not None:
            wait([self.pushed])

    def push_to_hub(self, commit_message: str | None = "End of training", **kwargs: Any) -> Any:  # type: ignore[override]
        """Publishes the folder of the finished model as it is: weights, results and card."""
        if self.is_world_process_zero():
            self._finish_current_push()
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            folder, repo = Path(self.args.output_dir), cast(str, self.hub_model_id)
            with explained(repo, self.args.hub_token):
                publish(folder, repo, self.args, commit_message or "End of training").result()


@contextmanager
def own_class(model: Any) -> Iterator[None]:
    """A model under FSDP has its own class meanwhile, whose code and name are saved beside the weights."""
    sharded = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = next(base for base in sharded.__bases__ if base is not FSDPModule)
    try:
        yield
    finally:
        model.__class__ = sharded


def _check_embeddings(model: Any) -> None:
    """Raises ValueError for a model without an embedding of tokens, to which NEFTune adds noise."""
    found = None
    with suppress(NotImplementedError):
        found = model.get_input_embeddings()
    if found is None:
        raise ValueError(
            f"--neftune_noise_alpha adds noise to one token embedding, which a {type(model).__name__} does not have. "
            f"Leave it out."
        )


class EpochCallback(TrainerCallback):
    """Passes the epoch to collators and samplers that have `set_epoch`, and gives each process its own dropout."""

    def __init__(self, *listeners: Any):
        self.listeners = [listener for listener in listeners if hasattr(listener, "set_epoch")]

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after the order of the rows was drawn, which must be the same in every process."""
        if args.process_index:
            torch.manual_seed(args.seed + args.process_index)

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the data loader and its workers start."""
        for listener in self.listeners:
            listener.set_epoch(int(state.epoch))
