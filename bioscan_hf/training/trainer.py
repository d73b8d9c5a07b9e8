"""The Trainer with the published learning rate schedules.

Source: BarcodeBERT, https://arxiv.org/abs/2311.02401; OneCycle, https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..provenance import without_folders
from .arguments import BaseTrainingArguments


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
        self.eval_collator, self.sampler = eval_collator, sampler

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

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Leaves no pickle beside the finished model: the arguments are in `results.json`."""
        super()._save(output_dir, state_dict)
        finished = Path(self.args.output_dir)
        if Path(output_dir or finished) == finished:
            (finished / "training_args.bin").unlink(missing_ok=True)

    def save_state(self) -> None:
        """Writes `trainer_state.json`, without folders in the name of the best checkpoint: the file is pushed."""
        best = self.state.best_model_checkpoint
        self.state.best_model_checkpoint = without_folders(best)
        super().save_state()
        self.state.best_model_checkpoint = best

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Keeps our model card, which the Trainer would replace before a push."""


class EpochCallback(TrainerCallback):
    """Passes the epoch to collators and samplers that have `set_epoch`."""

    def __init__(self, *listeners: Any):
        self.listeners = listeners

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the data loader and its workers start."""
        for listener in self.listeners:
            listener.set_epoch(int(state.epoch))
