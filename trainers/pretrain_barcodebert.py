"""Pretrains BarcodeBERT, or a BarcodeMamba, on k-mers (Task I of BIOSCAN-5M, https://arxiv.org/abs/2406.12723).

Full run, the published recipe and the shape of the published 8-4-4 model, on one node with 4 GPUs (time, validation
loss and accuracy: not run):

    accelerate launch --num_processes 4 trainers/pretrain_barcodebert.py --source RELEASE_FOLDER --preset main --k 8 \
        --output_dir out/barcodebert_k8

Smoke run on a laptop, under a minute, over a made-up release:

    bioscan-hf simulate out/release
    python trainers/pretrain_barcodebert.py --source out/release --output_dir out/smoke --hidden_size 32 \
        --intermediate_size 64 --num_hidden_layers 1 --max_steps 3

On two CPU processes: `ACCELERATE_USE_CPU=yes accelerate launch --multi_gpu --num_processes 2 ...`. Options may also
stand in a file: `pretrain_barcodebert.py options.yaml`. `--preset` names a published recipe (`main`, `workshop2023`,
`masked-only`); options given besides override its values, and the results file lists those that did. Where the package
is installed without a checkout, the program is `-m bioscan_hf.trainers.pretrain_barcodebert`.

A run that was stopped goes on with `--resume_from_checkpoint last` exactly as if it had not been (but the first mean
loss that it logs covers the steps since the checkpoint). Masks and reading frames of a barcode follow from the seed,
the epoch and the barcode; validation masks the same k-mers each time and reads no label. One process, two processes,
and two accumulated batches take the same steps for the same global batch.

In the output folder: the model and its tokenizer, `results.json` (options, data, loss curve, validation), the model
card that is rendered from it, and `trainer_state.json` (everything logged).
"""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel, set_seed

from bioscan_hf.cards import write_card
from bioscan_hf.files import file_hash
from bioscan_hf.hub.cards import barcodebert_card
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_barcodemamba import OBJECTIVES, BarcodeMambaConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.provenance import write_results
from bioscan_hf.schema import MAX_NUCLEOTIDES
from bioscan_hf.training.arguments import (
    BarcodeTrainingArguments,
    CheckpointCallback,
    EpochCallback,
    SimilarLengthSampler,
    check_processes,
    describe_machine,
    describe_run,
    describe_training,
    find_checkpoint,
    global_batch_size,
    loss_curve,
    read_options,
    remove_checkpoints,
    scaled_learning_rate,
)
from bioscan_hf.training.collators import IGNORED, MaskedKmerCollator
from bioscan_hf.training.pretraining import (
    DEDUPLICATIONS,
    PRESETS,
    PretrainingTrainer,
    load_barcodes,
    preset_overrides,
)

logger = logging.getLogger(__name__)

BACKBONES = ("bert", "mamba")

#: Written into a checkpoint last of all: a checkpoint without it is incomplete.
RUN_FILE = "pretraining.json"


@dataclass
class PretrainingOptions:
    """What is learned, from which barcodes, by which model."""

    source: str = field(metadata={"help": "Hub id, folder of Parquet, release folder or metadata CSV of BIOSCAN-5M."})
    preset: str = field(
        default="none", metadata={"help": f"Published recipe, which other options override: {', '.join(PRESETS)}."}
    )
    train_split: str = field(default="pretrain", metadata={"help": "Split to learn from; 'a+b' joins two."})
    validation_split: str = field(
        default="val", metadata={"help": "Split to validate on, of which no label is read; 'none': no validation."}
    )
    deduplicate: str = field(
        default="split",
        metadata={
            "help": "'none'; 'split': one specimen of each barcode in a split; 'upstream': the first of the metadata "
            "file, whatever its split, as published."
        },
    )
    k: int = field(default=4, metadata={"help": "Nucleotides in one token."})
    vocabulary: str = field(default="barcodebert", metadata={"help": "Vocabulary of the tokenizer."})
    max_nucleotides: int = field(default=MAX_NUCLEOTIDES, metadata={"help": "Nucleotides of a barcode that are read."})
    backbone: str = field(default="bert", metadata={"help": "'bert', or 'mamba', a state-space encoder."})
    objective: str = field(
        default="masked", metadata={"help": "'masked' k-mers, or, with --backbone mamba, the 'next' k-mer."}
    )
    hidden_size: int = field(default=768, metadata={"help": "Width of the encoder."})
    intermediate_size: int = field(default=3072, metadata={"help": "bert: width inside the feed-forward layers."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers of the encoder."})
    num_attention_heads: int = field(default=4, metadata={"help": "bert: attention heads of a layer."})
    head_dim: int = field(default=64, metadata={"help": "mamba: width of a head."})
    state_size: int = field(default=64, metadata={"help": "mamba: size of the state of a channel."})
    dropout: float = field(default=0.1, metadata={"help": "bert: dropout of hidden states and of attention."})
    attention_dropout: float | None = field(
        default=None,
        metadata={"help": "bert: dropout of attention alone; 0 is faster. If not given: that of --dropout."},
    )
    attention: str = field(
        default="sdpa", metadata={"help": "bert: how attention is computed; in bfloat16 on a CPU, 'eager' is faster."}
    )
    mlm_head: str = field(default="kmers", metadata={"help": "'kmers', or 'tied' as in the models of 2023."})
    mask_ratio: float = field(default=0.5, metadata={"help": "Probability of a k-mer to be masked."})
    loss_on: str = field(
        default="masked",
        metadata={
            "help": "'masked' k-mers; 'valid': the visible ones as well; 'weighted': both, by --masked_loss_weight; "
            "'all': every position, padding too."
        },
    )
    masked_loss_weight: float | None = field(
        default=None, metadata={"help": "With --loss_on weighted: w in w * masked loss + (1 - w) * visible loss."}
    )
    mask_token_share: float = field(default=1.0, metadata={"help": "Share of masked k-mers that becomes the mask."})
    random_token_share: float = field(default=0.0, metadata={"help": "Share that becomes another k-mer."})
    mask_token_id: int | None = field(default=None, metadata={"help": "Id of the mask. If not given: published."})
    random_offset: bool = field(default=True, metadata={"help": "Draw the reading frame anew in each epoch."})
    attend_padding: bool = field(default=False, metadata={"help": "Give the model no attention mask, as in 2023."})
    cut_padding: bool = field(default=True, metadata={"help": "Batches as long as their longest row."})
    pad_to_multiple_of: int = field(default=1, metadata={"help": "Round the length of a batch up to a multiple."})
    sparse_loss: bool = field(default=True, metadata={"help": "With --loss_on masked: no logits elsewhere."})
    overwrite: bool = field(default=False, metadata={"help": "Delete the checkpoints in output_dir and start anew."})


@dataclass
class PretrainingArguments(BarcodeTrainingArguments):
    """The arguments of every trainer."""


def check_options(options: PretrainingOptions, training_args: PretrainingArguments) -> None:
    """Raises ValueError for values that contradict each other, as far as no other part refuses them."""
    if options.deduplicate not in DEDUPLICATIONS:
        raise ValueError(f"Unknown deduplicate {options.deduplicate!r}. Choose one of {', '.join(DEDUPLICATIONS)}.")
    weight = options.masked_loss_weight
    if (options.loss_on == "weighted") != (weight is not None) or not 0 <= (weight or 0) <= 1:
        raise ValueError(
            f"masked_loss_weight is {weight} and loss_on {options.loss_on!r}: with 'weighted', and only there, give a "
            f"weight in [0, 1]."
        )
    if options.loss_on == "all" and options.mlm_head != "tied":
        raise ValueError(
            f"loss_on 'all' predicts padding, which the head {options.mlm_head!r} has no class for. Use 'tied', or "
            f"loss_on 'valid'."
        )
    if options.backbone not in BACKBONES or options.objective not in OBJECTIVES:
        raise ValueError(
            f"backbone is {options.backbone!r} and objective {options.objective!r}. Choose among "
            f"{', '.join(BACKBONES)}, and among {', '.join(OBJECTIVES)}."
        )
    if options.backbone == "mamba" and options.mlm_head != "kmers":
        raise ValueError(f"mlm_head is {options.mlm_head!r}, but the backbone 'mamba' has the head 'kmers' alone.")
    if options.objective == "next" and (options.backbone, options.loss_on) != ("mamba", "masked"):
        raise ValueError(
            f"objective 'next' is for the backbone 'mamba', because {options.backbone!r} would see what it has to "
            f"predict, and masks nothing: leave loss_on ({options.loss_on!r}) out."
        )
    if training_args.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would draw the same masks in each epoch. Leave it out.")


def score_kmers(logits: torch.Tensor, labels: torch.Tensor, first_id: int, objective: str) -> torch.Tensor:
    """For each token (B, L, 2): whether it was predicted (1 or 0), and its loss in nats.

    Args:
        logits: (B, L, classes).
        labels: Token ids (B, L).
        first_id: Token id of the first class.
        objective: With "next", a label is predicted by the logits of the position before it.
    """
    if objective == "next":
        logits = logits.roll(1, 1)  # the first position has no label
    targets = (labels - first_id).masked_fill(labels == IGNORED, IGNORED)
    loss = torch.nn.functional.cross_entropy(logits.float().mT, targets, ignore_index=IGNORED, reduction="none")
    return torch.stack([(logits.argmax(-1) == targets).float(), loss], dim=-1)


def summarize_kmers(prediction: EvalPrediction, objective: str) -> dict[str, float]:
    """Accuracy and loss (nats) over all labelled k-mers of the validation split, however they were batched."""
    scores = prediction.predictions[prediction.label_ids != IGNORED]
    if len(scores) == 0:
        raise ValueError(
            "No k-mer of the validation split was to be predicted: its barcodes are too few or too short."
        )
    accuracy, loss = scores.mean(0)
    return {f"{objective}_accuracy": float(accuracy), f"{objective}_loss": float(loss)}


def make_config(options: PretrainingOptions) -> BarcodeBertConfig | BarcodeMambaConfig:
    """The model's config, checked."""
    shared: dict[str, Any] = {
        "k": options.k,
        "vocabulary": options.vocabulary,
        "max_nucleotides": options.max_nucleotides,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.num_hidden_layers,
    }
    if options.backbone == "mamba":
        return BarcodeMambaConfig(
            **shared, objective=options.objective, head_dim=options.head_dim, state_size=options.state_size
        )
    return BarcodeBertConfig(
        **shared,
        max_position_embeddings=max(512, options.max_nucleotides // max(options.k, 1) + 1),
        intermediate_size=options.intermediate_size,
        num_attention_heads=options.num_attention_heads,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=(
            options.dropout if options.attention_dropout is None else options.attention_dropout
        ),
        mlm_head=options.mlm_head,
    )


def make_model(
    config: BarcodeBertConfig | BarcodeMambaConfig, attention: str
) -> BarcodeBertForMaskedLM | BarcodeMambaForMaskedLM:
    """A model with random weights."""
    if isinstance(config, BarcodeMambaConfig):
        return BarcodeMambaForMaskedLM(config)
    model = BarcodeBertForMaskedLM(config)
    model.set_attn_implementation(attention)
    return model


def make_collators(options: PretrainingOptions, seed: int) -> tuple[MaskedKmerCollator, MaskedKmerCollator]:
    """The collators of training and of validation, which predicts masked k-mers in the first frame alone."""
    tokenizer = KmerTokenizer(k=options.k, vocabulary=options.vocabulary, max_nucleotides=options.max_nucleotides)
    make = partial(
        MaskedKmerCollator,
        tokenizer,
        options.mask_ratio,
        mask_token_id=options.mask_token_id,
        attend_padding=options.attend_padding,
        seed=seed,
    )
    training = make(
        random_offset=options.random_offset,
        loss_on="next" if options.objective == "next" else options.loss_on,
        mask_token_share=options.mask_token_share,
        random_token_share=options.random_token_share,
        cut_padding=options.cut_padding,
        pad_to_multiple_of=options.pad_to_multiple_of,
    )
    return training, make(random_offset=False, loss_on=options.objective)


def make_sampler(
    data: Dataset, options: PretrainingOptions, training_args: PretrainingArguments
) -> SimilarLengthSampler | None:
    """The order of the barcodes; None is the Trainer's, which `train_sampling_strategy` names.

    Lengths are those of the first frame, whichever is drawn: else the batches of one length would be those of one
    frame, which is worse to learn from.
    """
    if not training_args.similar_lengths:
        return None
    batches = data.with_format("arrow").iter(batch_size=50_000)
    lengths = np.concatenate([pc.binary_length(batch["dna_barcode"]).to_numpy() for batch in batches])
    tokens = np.minimum(lengths, options.max_nucleotides) // options.k
    return SimilarLengthSampler(tokens, global_batch_size(training_args), training_args.seed)


def make_trainer(
    options: PretrainingOptions,
    model: PreTrainedModel,
    training_args: PretrainingArguments,
    data: Dataset,
    validation: Dataset | None,
    run: dict[str, Any],
) -> PretrainingTrainer:
    """A Trainer of a model, with the two collators."""
    collator, eval_collator = make_collators(options, training_args.seed)
    sampler = make_sampler(data, options, training_args)
    first_id = 0 if options.mlm_head == "tied" else model.config.num_special_tokens
    listeners = [collator] if sampler is None else [collator, sampler]
    return PretrainingTrainer(
        model=model,
        args=training_args,
        train_dataset=data,
        eval_dataset=validation,
        data_collator=collator,
        eval_collator=eval_collator,
        sampler=sampler,
        first_id=first_id,
        sparse=options.sparse_loss and (options.objective, options.loss_on) == ("masked", "masked"),
        masked_loss_weight=options.masked_loss_weight,
        compute_metrics=partial(summarize_kmers, objective=options.objective),
        preprocess_logits_for_metrics=partial(score_kmers, first_id=first_id, objective=options.objective),
        callbacks=[
            EpochCallback(*listeners),
            CheckpointCallback(collator.tokenizer, Path(training_args.output_dir), RUN_FILE, run),
        ],
    )


def report(
    training_args: PretrainingArguments,
    trainer: PretrainingTrainer,
    evaluation: dict[str, float],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Writes `results.json` and the model card, and gives the content of the first."""
    curve = loss_curve(trainer)
    metrics: dict[str, Any] = {"train_loss_nats": curve[-1][1] if curve else None}
    output, config = Path(training_args.output_dir), cast(PreTrainedModel, trainer.model).config
    bert = isinstance(config, BarcodeBertConfig)
    objective = "masked" if bert else config.objective
    if evaluation:
        metrics[f"validation_{objective}_loss_nats"] = evaluation[f"eval_{objective}_loss"]
        metrics[f"validation_{objective}_accuracy"] = evaluation[f"eval_{objective}_accuracy"]
    shape = ["k", "vocabulary", "num_hidden_layers", "hidden_size"]
    shape += ["num_attention_heads", "intermediate_size"] if bert else ["num_heads", "head_dim", "state_size"]
    results = write_results(
        output / "results.json",
        task="barcodebert/pretrain",
        seed=training_args.seed,
        model={
            "path": training_args.output_dir,
            "sha256": file_hash(output / "model.safetensors"),
            "parameters": trainer.get_num_trainable_parameters(),
            **{name: getattr(config, name) for name in shape},
        },
        steps=trainer.state.global_step,
        loss_curve=curve,
        metrics=metrics,
        **describe_machine(training_args),
        **about,
    )
    write_card(output / "README.md", barcodebert_card(output.resolve().name, results))
    return results


def load_splits(
    options: PretrainingOptions, training_args: PretrainingArguments
) -> tuple[Dataset, Dataset | None, dict[str, int]]:
    """Barcodes to learn from, barcodes to validate on, and how many of each."""

    def load(split: str) -> Dataset:
        return load_barcodes(options.source, split, options.deduplicate, options.max_nucleotides)

    with training_args.main_process_first(desc="loading the barcodes"):
        data = load(options.train_split)
        validation = None if options.validation_split == "none" else load(options.validation_split)
    sizes = {options.train_split: len(data)} | ({options.validation_split: len(validation)} if validation else {})
    logger.info("%d barcodes to learn from, %d to validate on", len(data), len(validation or ()))
    return data, validation, sizes


def main(options: PretrainingOptions, training_args: PretrainingArguments) -> dict[str, Any]:
    """Pretrains a model, saves it in `training_args.output_dir`, and gives the content of its results file.

    Only the main process writes, and only there is the content given; elsewhere it is empty.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: before anything is written, if the options or the output folder
            do not allow the run.
    """
    start = time.perf_counter()
    check_processes(training_args)
    check_options(options, training_args)
    effective = asdict(options) | describe_training(training_args)
    overrides = preset_overrides(options.preset, effective)
    config = make_config(options)
    make_collators(options, training_args.seed)  # refuses what it cannot draw
    output_dir, run = Path(training_args.output_dir), describe_run(options, training_args)
    checkpoint = find_checkpoint(output_dir, training_args.resume_from_checkpoint, options.overwrite, RUN_FILE, run)
    data, validation, sizes = load_splits(options, training_args)
    if options.overwrite and training_args.should_save:
        remove_checkpoints(output_dir)
    if validation is None:
        training_args.eval_strategy = "no"
    training_args.learning_rate = scaled_learning_rate(training_args)

    set_seed(training_args.seed)
    trainer = make_trainer(options, make_model(config, options.attention), training_args, data, validation, run)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate() if validation is not None else {}
    results: dict[str, Any] = {}
    if trainer.is_world_process_zero():
        cast(MaskedKmerCollator, trainer.eval_collator).tokenizer.save_pretrained(output_dir)
        about = {
            "options": effective | {"scaled_learning_rate": training_args.learning_rate},
            "preset_overrides": overrides,
            "dataset": options.source,
            "splits": sizes,
            "seconds": round(time.perf_counter() - start, 3),
        }
        results = report(training_args, trainer, metrics, about)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return results


def parse(arguments: Sequence[str]) -> tuple[PretrainingOptions, PretrainingArguments]:
    """Options from flags, or from one YAML file."""
    options, training_args = read_options(arguments, (PretrainingOptions, PretrainingArguments), PRESETS)
    return options, training_args


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # its threads, left running, could abort the exit
