"""What the trainers share: arguments, learning-rate schedules, batches of similar length, checkpoints that are whole.

Models, tokenizers, collators and datasets are arguments.
Source of the schedules: BarcodeBERT, https://arxiv.org/abs/2311.02401; OneCycle, https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Sampler
from transformers import HfArgumentParser, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from ..files import read_json, write_json
from ..provenance import without_folders

SCHEDULES = ("onecycle", "epoch-warmup", "trainer")

#: Barcodes of the global batch for which a learning rate is meant.
BATCH_OF_LEARNING_RATE = 64

#: Global batches that are sorted by length together: enough to fill each with one length, few enough to stay random.
SORTED_BATCHES = 64


# ---- arguments ------------------------------------------------------------------------------------------------------


@dataclass
class BarcodeTrainingArguments(TrainingArguments):
    """The Trainer's arguments, and what the published recipes need besides."""

    output_dir: str = field(default="barcodebert", metadata={"help": "Where the model and the results go."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    scale_learning_rate: bool = field(
        default=False,
        metadata={"help": f"Multiply the learning rate by (global batch / {BATCH_OF_LEARNING_RATE}), as published."},
    )
    schedule: str = field(
        default="trainer",
        metadata={
            "help": "Course of the learning rate: 'onecycle' (torch's, which cycles beta1 too), 'epoch-warmup' (rises "
            "from a tenth over 5 epochs, then stays), or 'trainer' (what --lr_scheduler_type says)."
        },
    )
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "Course of the learning rate with --schedule trainer."}
    )
    warmup_steps: float = field(
        default=0.3, metadata={"help": "Steps of warm-up with --schedule trainer; below 1, a share of all steps."}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of AdamW."})
    decay_all_parameters: bool = field(
        default=False, metadata={"help": "Decay biases and layer norms too, as plain AdamW does."}
    )
    similar_lengths: bool = field(
        default=True, metadata={"help": "Make batches of barcodes that have the same number of tokens."}
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Barcodes per process and batch."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "The same, in validation."})
    num_train_epochs: float = field(default=35.0, metadata={"help": "Passes over the training split."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    logging_steps: float = field(default=50, metadata={"help": "Steps from one logged loss to the next."})
    optim: str = field(default="adamw_torch_fused", metadata={"help": "Optimizer."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "False: the collator needs the barcode."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Each step uses them all."})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "bfloat16 autocast. If not given: on a GPU that supports it, not on a CPU."}
    )

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Unknown schedule {self.schedule!r}. Choose one of {', '.join(SCHEDULES)}.")
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        super().__post_init__()


def read_options(
    arguments: Sequence[str], kinds: Sequence[type], presets: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Any, ...]:
    """One object of each of the dataclasses `kinds`, from flags or from one YAML file.

    Args:
        presets: Name -> values that an option `preset` of that name sets; what is given explicitly overrides them.

    Raises:
        ValueError: for an unknown option or preset.
    """
    parser = HfArgumentParser(list(kinds))  # type: ignore[arg-type]
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        given = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError(f"{arguments[0]!r} holds no options. Write one `name: value` a line.")
        return parser.parse_dict({**_preset(given.get("preset"), presets or {}), **given})
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset")
    parser.set_defaults(**_preset(finder.parse_known_args(arguments)[0].preset, presets or {}))
    return tuple(parser.parse_args_into_dataclasses(list(arguments)))


def _preset(name: str | None, presets: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    if name is None or name == "none":
        return {}
    if name not in presets:
        raise ValueError(f"Unknown preset {name!r}. Choose one of {', '.join([*presets, 'none'])}.")
    return presets[name]


def check_processes(training_args: TrainingArguments) -> None:
    """Raises ValueError where several processes were launched, each of which believes to be the only one."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != training_args.world_size:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), but this one sees {training_args.world_size}: each "
            f"would train alone and overwrite the others' files. On CPU, launch with ACCELERATE_USE_CPU=yes in the "
            f"environment; on GPU, launch no more processes than there are devices."
        )


def global_batch_size(training_args: TrainingArguments) -> int:
    """Rows of one optimizer step, over all processes and accumulated batches."""
    batches = training_args.world_size * training_args.gradient_accumulation_steps
    return training_args.per_device_train_batch_size * batches


def scaled_learning_rate(training_args: BarcodeTrainingArguments) -> float:
    """The peak learning rate of a run: with `scale_learning_rate`, in proportion to the global batch."""
    if not training_args.scale_learning_rate:
        return training_args.learning_rate
    return training_args.learning_rate * global_batch_size(training_args) / BATCH_OF_LEARNING_RATE


# ---- schedules ------------------------------------------------------------------------------------------------------


def onecycle(optimizer: torch.optim.Optimizer, learning_rate: float, steps: int) -> LRScheduler:
    """The published schedule: up by a cosine over 30 % of the steps, down over the rest; beta1 0.95 -> 0.85 -> 0.95.

    It starts at a 25th of `learning_rate`, the peak, and ends at a 10,000th of that: torch's own values. What cycles
    lies in the optimizer's parameter groups, so an optimizer's state brings it back.
    """
    return OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)


def epoch_warmup(optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The schedule of 2023: a tenth of the learning rate in the first epoch, all of it from the sixth on, in steps."""
    return LambdaLR(optimizer, lambda step: 0.1 + 0.9 * min(step // steps_per_epoch, 5) / 5)


def steps_per_epoch(rows: int, training_args: TrainingArguments) -> int:
    """Optimizer steps in which the Trainer passes over `rows` once."""
    batch = training_args.per_device_train_batch_size * training_args.world_size
    batches = rows // batch if training_args.dataloader_drop_last else math.ceil(rows / batch)
    return max(1, math.ceil(batches / training_args.gradient_accumulation_steps))


# ---- batches of similar length --------------------------------------------------------------------------------------


class SimilarLengthSampler(Sampler[int]):
    """Rows in an order whose consecutive global batches hold rows of similar length, each row once an epoch.

    The order follows from the seed and the epoch alone, so that every process and a resumed run find the same.

    Args:
        lengths: Length of each row, (n,).
        batch_size: Rows of a global batch.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; call this before each epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(similar_length_order(self.lengths, self.batch_size, (self.seed, self.epoch)).tolist())


def similar_length_order(lengths: np.ndarray, batch_size: int, seed: Sequence[int]) -> np.ndarray:
    """A permutation (n,) of the rows whose consecutive batches hold rows of similar length, in random order.

    Rows are drawn, some batches' worth of them are sorted together, and the batches are drawn. The batch that is not
    full, if there is one, comes last.
    """
    draw = np.random.default_rng(list(seed))
    order = draw.permutation(len(lengths))
    pool = batch_size * SORTED_BATCHES
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        order[start : start + pool] = part[np.argsort(-lengths[part], kind="stable")]
    full = len(order) // batch_size * batch_size
    batches = draw.permutation(order[:full].reshape(-1, batch_size))  # shuffles rows of the matrix, which are batches
    return np.concatenate([batches.reshape(-1), order[full:]])


# ---- the Trainer ----------------------------------------------------------------------------------------------------


class BarcodeTrainer(Trainer):
    """A Trainer with the published schedules, an order of its own, and a collator of its own for validation.

    Args:
        eval_collator: Collates validation batches.
        sampler: Order of the training rows; None is the Trainer's.
    """

    args: BarcodeTrainingArguments

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
        """Batches of the validation collator, where there is one; the last counts, whatever training does with it."""
        before = self.data_collator, self.args.dataloader_drop_last
        self.data_collator, self.args.dataloader_drop_last = self.eval_collator or self.data_collator, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.args.dataloader_drop_last = before

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler if self.sampler is not None else super()._get_train_sampler(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The schedule that the arguments name, made once."""
        if self.lr_scheduler is None and self.args.schedule != "trainer":
            optimizer = optimizer or cast(torch.optim.Optimizer, self.optimizer)
            if self.args.schedule == "onecycle":
                made = onecycle(optimizer, self.args.learning_rate, num_training_steps)
            else:
                rows = len(cast(Sized, self.train_dataset))
                made = epoch_warmup(optimizer, steps_per_epoch(rows, self.args))
            self.lr_scheduler = made  # type: ignore[assignment]
            self._created_lr_scheduler = True  # the Trainer makes another for a second training only if it made this
        return super().create_scheduler(num_training_steps, optimizer)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters that weight decay acts on."""
        if self.args.decay_all_parameters:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Leaves no pickle beside the finished model: the Trainer's arguments are in `results.json`."""
        super()._save(output_dir, state_dict)
        finished = Path(self.args.output_dir)
        if Path(output_dir or finished) == finished:
            (finished / "training_args.bin").unlink(missing_ok=True)

    def save_state(self) -> None:
        """Writes `trainer_state.json`, which names the best checkpoint by its last part: the file is pushed."""
        best = self.state.best_model_checkpoint
        self.state.best_model_checkpoint = without_folders(best)
        super().save_state()
        self.state.best_model_checkpoint = best

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leaves the card that is rendered from the results; the Trainer would replace it before a push."""


class EpochCallback(TrainerCallback):
    """Tells collators and samplers, whatever has `set_epoch`, which epoch begins."""

    def __init__(self, *listeners: Any):
        self.listeners = listeners

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the data loader, and its workers, start."""
        for listener in self.listeners:
            listener.set_epoch(int(state.epoch))


class CheckpointCallback(TrainerCallback):
    """Completes each checkpoint with the tokenizer and, last of all, the file that describes the run.

    The tokenizer is not the Trainer's `processing_class`, because the Trainer would copy its `pad_token_id` into the
    model's config, where 0 is the id of the frozen embedding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, output_dir: Path, run_file: str, run: Mapping[str, Any]):
        self.tokenizer, self.output_dir, self.run_file, self.run = tokenizer, output_dir, run_file, run

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """After the Trainer has written a checkpoint."""
        if args.should_save:
            folder = self.output_dir / f"checkpoint-{state.global_step}"
            self.tokenizer.save_pretrained(folder)
            write_json(folder / self.run_file, self.run)


# ---- runs -----------------------------------------------------------------------------------------------------------


def describe_run(
    options: Any, training_args: TrainingArguments, left_out: Sequence[str] = ("source", "overwrite", "preset")
) -> dict[str, Any]:
    """What has to be the same for a run to go on from a checkpoint.

    Args:
        options: A dataclass.
        left_out: Options that may differ: by default where the data lie, which may have moved, and the name of the
            preset, whose values are what counts.
    """
    run = {name: value for name, value in asdict(options).items() if name not in left_out}
    return run | {"seed": training_args.seed, "global_batch_size": global_batch_size(training_args)}


def find_checkpoint(
    output_dir: Path, resume: str | None, overwrite: bool, run_file: str, run: Mapping[str, Any]
) -> Path | None:
    """The checkpoint from which to go on; None to start anew. Reads only.

    Args:
        resume: None, "last" or "true" for the last complete checkpoint in `output_dir` (none is needed if the folder
            is empty), or the path of one.
        run_file: Name of the file that completes a checkpoint.
        run: What that file must say, as `describe_run` gives it.

    Raises:
        FileExistsError: if a new run would mix its files with others.
        FileNotFoundError: if there is nothing to resume.
        ValueError: if the checkpoint belongs to a run with other options.
    """
    content = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
    if resume is None or resume.lower() == "false":
        if content and not overwrite:
            raise FileExistsError(
                f"output_dir {str(output_dir)!r} is not empty (it holds {', '.join(content[:3])}). Go on with "
                f"--resume_from_checkpoint last, start anew with --overwrite, or choose another folder."
            )
        return None
    if overwrite:
        raise ValueError("resume_from_checkpoint and overwrite exclude each other: leave one of them out.")
    checkpoint: Path | None = Path(resume)
    if resume.lower() in ("last", "true"):
        complete = [path.parent for path in output_dir.glob(f"checkpoint-*/{run_file}")]
        checkpoint = max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
        if checkpoint is None and not content:
            return None
    if checkpoint is None or not (checkpoint / run_file).is_file():
        raise FileNotFoundError(
            f"No complete checkpoint of this program in {str(checkpoint or output_dir)!r}: there is nothing to "
            f"resume. Leave resume_from_checkpoint out to start anew."
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


def save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapters of a peft model. Its base is named by the last part of its path: the folder is pushed."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # a form that peft leaves to be filled in
    path = folder / "adapter_config.json"
    write_json(path, without_folders(read_json(path)))


def describe_training(training_args: BarcodeTrainingArguments) -> dict[str, Any]:
    """What a results file says of a training's arguments: those that decide what is learned."""
    names = (
        *("learning_rate", "scale_learning_rate", "schedule", "lr_scheduler_type", "warmup_steps", "max_grad_norm"),
        *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "decay_all_parameters"),
        *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
        *("similar_lengths", "train_sampling_strategy", "dataloader_drop_last", "bf16", "fp16", "torch_compile"),
    )
    return {name: getattr(training_args, name) for name in names}


def describe_machine(training_args: TrainingArguments) -> dict[str, Any]:
    """What a results file says of where a training ran: device, precision, processes, global batch."""
    device = training_args.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32",
        "processes": training_args.world_size,
        "global_batch_size": global_batch_size(training_args),
    }


def loss_curve(trainer: Trainer) -> list[list[float]]:
    """Step and mean loss (nats) of each entry that the Trainer logged."""
    return [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
