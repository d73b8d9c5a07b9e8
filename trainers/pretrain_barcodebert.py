"""Pretrains BarcodeBERT on masked k-mers (Task I of BIOSCAN-5M, https://arxiv.org/abs/2406.12723).

Full run, the shape of the published 8-4-4 model on one node with 4 GPUs (time, validation loss and accuracy: not run):

    accelerate launch --num_processes 4 trainers/pretrain_barcodebert.py --source bioscan-ml/BIOSCAN-5M --k 8 \
        --output_dir out/barcodebert_k8 --per_device_train_batch_size 16 --learning_rate 1e-4

Smoke run on a laptop, under a minute, over a made-up release:

    bioscan-hf simulate out/release
    python trainers/pretrain_barcodebert.py --source out/release --output_dir out/smoke --hidden_size 32 \
        --intermediate_size 64 --num_hidden_layers 1 --max_steps 3

On two CPU processes: `ACCELERATE_USE_CPU=yes accelerate launch --multi_gpu --num_processes 2 ...`. Options may also
stand in a file: `pretrain_barcodebert.py options.yaml`. Where the package is installed without a checkout, the program
is `-m bioscan_hf.trainers.pretrain_barcodebert`.

A run that was stopped goes on with `--resume_from_checkpoint last` exactly as if it had not been (but the first mean
loss that it logs covers the steps since the checkpoint). Masks and reading frames of a barcode follow from the seed,
the epoch and the barcode; validation masks the same k-mers each time. One process, two processes, and two accumulated
batches take the same steps for the same global batch.

In the output folder: the model and its tokenizer, `results.json` (options, data, loss curve, validation), the model
card that is rendered from it, and `trainer_state.json` (everything logged).
"""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from bioscan_hf.collators import IGNORED, MaskedKmerCollator, check_masking
from bioscan_hf.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.data import load_bioscan5m
from bioscan_hf.hub import barcodebert_card
from bioscan_hf.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.results import file_hash, write_json, write_results, write_text
from bioscan_hf.taxonomy import MAX_NUCLEOTIDES
from bioscan_hf.tokenization_kmer import KmerTokenizer

logger = logging.getLogger(__name__)

#: Written into a checkpoint last of all: a checkpoint without it is incomplete.
RUN_FILE = "pretraining.json"


@dataclass
class PretrainingOptions:
    """What is learned, from which barcodes, by which model."""

    source: str = field(metadata={"help": "Hub id, folder of Parquet, release folder or metadata CSV of BIOSCAN-5M."})
    train_split: str = field(default="pretrain", metadata={"help": "Split to learn from; 'a+b' joins two."})
    validation_split: str = field(default="val", metadata={"help": "Split to validate on; 'none' for no validation."})
    unique_barcodes: bool = field(
        default=True, metadata={"help": "Keep one specimen of each barcode, in both splits."}
    )
    k: int = field(default=4, metadata={"help": "Nucleotides in one token."})
    vocabulary: str = field(default="barcodebert", metadata={"help": "Vocabulary of the tokenizer."})
    max_nucleotides: int = field(default=MAX_NUCLEOTIDES, metadata={"help": "Nucleotides of a barcode that are read."})
    hidden_size: int = field(default=768, metadata={"help": "Width of the encoder."})
    intermediate_size: int = field(default=3072, metadata={"help": "Width inside the feed-forward layers."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers of the encoder."})
    num_attention_heads: int = field(default=4, metadata={"help": "Attention heads of a layer."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of hidden states and of attention."})
    mlm_head: str = field(default="kmers", metadata={"help": "'kmers', or 'tied' as in the models of 2023."})
    mask_ratio: float = field(default=0.5, metadata={"help": "Probability of a k-mer to be masked."})
    loss_on: str = field(default="masked", metadata={"help": "'masked', or 'valid' for visible k-mers as well."})
    mask_token_share: float = field(default=1.0, metadata={"help": "Share of masked k-mers that becomes the mask."})
    random_token_share: float = field(default=0.0, metadata={"help": "Share that becomes another k-mer."})
    random_offset: bool = field(default=True, metadata={"help": "Draw the reading frame anew in each epoch."})
    overwrite: bool = field(default=False, metadata={"help": "Delete the checkpoints in output_dir and start anew."})


@dataclass
class PretrainingArguments(TrainingArguments):
    """The Trainer's arguments, with the published recipe's values where it has one.

    The published schedule is OneCycle, the published learning rate 1e-4 for a global batch of 64 barcodes.
    """

    output_dir: str = field(default="barcodebert", metadata={"help": "Where the model and the results go."})
    learning_rate: float = field(default=1e-4, metadata={"help": "1e-4 for each 64 barcodes of the global batch."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of AdamW."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Barcodes per process and batch."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "The same, in validation."})
    num_train_epochs: float = field(default=35.0, metadata={"help": "Passes over the training split."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=0.3, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    logging_steps: float = field(default=50, metadata={"help": "Steps from one logged loss to the next."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "False: the collator needs the barcode."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Each step uses them all."})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "bfloat16 autocast. If not given: on a GPU that supports it, not on a CPU."}
    )

    def __post_init__(self) -> None:
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        super().__post_init__()


class PretrainingTrainer(Trainer):
    """A Trainer that collates validation batches with a collator of their own."""

    def __init__(self, *args: Any, eval_collator: MaskedKmerCollator, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.eval_collator = eval_collator

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Batches with the same masks at each evaluation."""
        train_collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = train_collator

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leaves the card that is rendered from the results; the Trainer would replace it before a push."""


class PretrainingCallback(TrainerCallback):
    """Tells the collator which epoch begins, and completes each checkpoint with the tokenizer and the run's options.

    The tokenizer is not the Trainer's `processing_class`, because the Trainer would copy its `pad_token_id` into the
    model's config, where 0 is the id of the frozen embedding.
    """

    def __init__(self, collator: MaskedKmerCollator, output_dir: Path, run: dict[str, Any]):
        self.collator, self.output_dir, self.run = collator, output_dir, run

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the data loader, and its workers, start."""
        self.collator.set_epoch(int(state.epoch))

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """After the Trainer has written a checkpoint."""
        if args.should_save:
            folder = self.output_dir / f"checkpoint-{state.global_step}"
            self.collator.tokenizer.save_pretrained(folder)
            write_json(folder / RUN_FILE, self.run)


def check_processes(training_args: TrainingArguments) -> None:
    """Raises ValueError where several processes were launched, each of which believes to be the only one."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != training_args.world_size:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), but this one sees {training_args.world_size}: each "
            f"would train alone and overwrite the others' files. On CPU, launch with ACCELERATE_USE_CPU=yes in the "
            f"environment; on GPU, launch no more processes than there are devices."
        )


def describe_run(options: PretrainingOptions, training_args: TrainingArguments) -> dict[str, Any]:
    """What has to be the same for a run to go on from a checkpoint."""
    run = asdict(options)
    del run["source"], run["overwrite"]  # the data may have moved, and neither changes what is computed
    batches = training_args.world_size * training_args.gradient_accumulation_steps
    global_batch_size = training_args.per_device_train_batch_size * batches
    return run | {"seed": training_args.seed, "global_batch_size": global_batch_size}


def find_checkpoint(output_dir: Path, resume: str | None, overwrite: bool, run: dict[str, Any]) -> Path | None:
    """The checkpoint from which to go on; None to start anew. Reads only.

    Args:
        resume: None, "last" or "true" for the last complete checkpoint in `output_dir` (none is needed if the folder
            is empty), or the path of one.

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
        complete = [path.parent for path in output_dir.glob(f"checkpoint-*/{RUN_FILE}")]
        checkpoint = max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
        if checkpoint is None and not content:
            return None
    if checkpoint is None or not (checkpoint / RUN_FILE).is_file():
        raise FileNotFoundError(
            f"No complete checkpoint of this program in {str(checkpoint or output_dir)!r}: there is nothing to "
            f"resume. Leave resume_from_checkpoint out to start anew."
        )
    before = json.loads((checkpoint / RUN_FILE).read_text(encoding="utf-8"))
    changed = [
        f"{name} was {before.get(name)!r} and is {value!r}" for name, value in run.items() if before.get(name) != value
    ]
    if changed:
        raise ValueError(f"{str(checkpoint)!r} belongs to another run: {'; '.join(changed)}. Restore these options.")
    return checkpoint


def load_barcodes(options: PretrainingOptions, split: str) -> Dataset:
    """The barcodes of a split, and no other column.

    Raises:
        ValueError: if there are no rows, or rows without a barcode.
    """
    loaded = load_bioscan5m(
        options.source, split=split, max_nucleotides=options.max_nucleotides, unique_barcodes=options.unique_barcodes
    )
    data = cast(Dataset, loaded).select_columns(["dna_barcode"])
    if len(data) == 0:
        raise ValueError(f"The split {split!r} of {options.source!r} has no rows. Choose another split or source.")
    batches = data.with_format("arrow").iter(batch_size=10_000)
    missing = sum(pc.sum(pc.equal(pc.fill_null(batch["dna_barcode"], ""), "")).as_py() for batch in batches)
    if missing:
        raise ValueError(f"{missing} of {len(data)} rows of the split {split!r} have no barcode. Remove them first.")
    return data


def score_masked(logits: torch.Tensor, labels: torch.Tensor, first_id: int) -> torch.Tensor:
    """For each token (B, L, 2): whether it was predicted (1 or 0), and its loss in nats.

    Args:
        logits: (B, L, classes).
        labels: Token ids (B, L).
        first_id: Token id of the first class.
    """
    targets = (labels - first_id).masked_fill(labels == IGNORED, IGNORED)
    loss = torch.nn.functional.cross_entropy(logits.float().mT, targets, ignore_index=IGNORED, reduction="none")
    return torch.stack([(logits.argmax(-1) == targets).float(), loss], dim=-1)


def summarize_masked(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and loss (nats) over all masked k-mers of the validation split, however they were batched."""
    scores = prediction.predictions[prediction.label_ids != IGNORED]
    if len(scores) == 0:
        raise ValueError("No k-mer of the validation split was masked: its barcodes are too few or too short.")
    return {"masked_accuracy": float(scores[:, 0].mean()), "masked_loss": float(scores[:, 1].mean())}


def make_config(options: PretrainingOptions) -> BarcodeBertConfig:
    """The model's config, checked."""
    return BarcodeBertConfig(
        k=options.k,
        vocabulary=options.vocabulary,
        max_nucleotides=options.max_nucleotides,
        max_position_embeddings=max(512, options.max_nucleotides // max(options.k, 1) + 1),
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=options.num_attention_heads,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        mlm_head=options.mlm_head,
    )


def make_trainer(
    options: PretrainingOptions,
    config: BarcodeBertConfig,
    training_args: PretrainingArguments,
    data: Dataset,
    validation: Dataset | None,
    run: dict[str, Any],
) -> PretrainingTrainer:
    """A Trainer of a new model, with the two collators."""
    tokenizer = KmerTokenizer(k=options.k, vocabulary=options.vocabulary, max_nucleotides=options.max_nucleotides)
    collator = MaskedKmerCollator(
        tokenizer,
        options.mask_ratio,
        random_offset=options.random_offset,
        loss_on=options.loss_on,
        mask_token_share=options.mask_token_share,
        random_token_share=options.random_token_share,
        seed=training_args.seed,
    )
    eval_collator = MaskedKmerCollator(tokenizer, options.mask_ratio, random_offset=False, seed=training_args.seed)
    first_id = 0 if config.mlm_head == "tied" else config.num_special_tokens
    return PretrainingTrainer(
        model=BarcodeBertForMaskedLM(config),
        args=training_args,
        train_dataset=data,
        eval_dataset=validation,
        data_collator=collator,
        eval_collator=eval_collator,
        compute_metrics=summarize_masked,
        preprocess_logits_for_metrics=partial(score_masked, first_id=first_id),
        callbacks=[PretrainingCallback(collator, Path(training_args.output_dir), run)],
    )


def report(
    options: PretrainingOptions,
    training_args: PretrainingArguments,
    trainer: Trainer,
    sizes: dict[str, int],
    evaluation: dict[str, float],
    seconds: float,
) -> dict[str, Any]:
    """Writes `results.json` and the model card, and gives the content of the first. `sizes`: rows of each split."""
    curve = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    metrics = {"train_loss_nats": curve[-1][1] if curve else None}
    if evaluation:
        metrics["validation_masked_loss_nats"] = evaluation["eval_masked_loss"]
        metrics["validation_masked_accuracy"] = evaluation["eval_masked_accuracy"]
    training = ("learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps")
    shape = ("k", "vocabulary", "num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
    device, output = training_args.device, Path(training_args.output_dir)
    results = write_results(
        output / "results.json",
        task="barcodebert/pretrain",
        options=asdict(options) | {name: getattr(training_args, name) for name in training},
        seed=training_args.seed,
        dataset=options.source,
        splits=sizes,
        model={
            "path": training_args.output_dir,
            "sha256": file_hash(output / "model.safetensors"),
            "parameters": trainer.get_num_trainable_parameters(),
            **{name: getattr(make_config(options), name) for name in shape},
        },
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision="bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32",
        processes=training_args.world_size,
        global_batch_size=describe_run(options, training_args)["global_batch_size"],
        steps=trainer.state.global_step,
        seconds=round(seconds, 3),
        loss_curve=curve,
        metrics=metrics,
    )
    write_text(output / "README.md", barcodebert_card(output.resolve().name, results))
    return results


def main(options: PretrainingOptions, training_args: PretrainingArguments) -> dict[str, Any]:
    """Pretrains a model, saves it in `training_args.output_dir`, and gives the content of its results file.

    Only the main process writes, and only there is the content given; elsewhere it is empty.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: before anything is written, if the options or the output folder
            do not allow the run.
    """
    start = time.perf_counter()
    check_processes(training_args)
    check_masking(options.mask_ratio, options.loss_on, options.mask_token_share, options.random_token_share)
    if training_args.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would draw the same masks in each epoch. Leave it out.")
    config = make_config(options)
    output_dir, run = Path(training_args.output_dir), describe_run(options, training_args)
    checkpoint = find_checkpoint(output_dir, training_args.resume_from_checkpoint, options.overwrite, run)

    with training_args.main_process_first(desc="loading the barcodes"):
        data = load_barcodes(options, options.train_split)
        validation = None if options.validation_split == "none" else load_barcodes(options, options.validation_split)
        if options.overwrite and training_args.should_save:
            for old in output_dir.glob("checkpoint-*"):
                shutil.rmtree(old)
    logger.info("%d barcodes to learn from, %d to validate on", len(data), len(validation or ()))
    if validation is None:
        training_args.eval_strategy = "no"

    set_seed(training_args.seed)
    trainer = make_trainer(options, config, training_args, data, validation, run)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate() if validation is not None else {}
    results: dict[str, Any] = {}
    if trainer.is_world_process_zero():
        trainer.eval_collator.tokenizer.save_pretrained(output_dir)
        sizes = {options.train_split: len(data)} | ({options.validation_split: len(validation)} if validation else {})
        results = report(options, training_args, trainer, sizes, metrics, time.perf_counter() - start)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return results


def parse(arguments: Sequence[str]) -> tuple[PretrainingOptions, PretrainingArguments]:
    """Options from flags, or from one YAML file."""
    parser = HfArgumentParser([PretrainingOptions, PretrainingArguments])  # type: ignore[list-item]
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        options, training_args = parser.parse_yaml_file(arguments[0])
    else:
        options, training_args = parser.parse_args_into_dataclasses(list(arguments))
    return cast(PretrainingOptions, options), cast(PretrainingArguments, training_args)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # its threads, left running, could abort the exit
