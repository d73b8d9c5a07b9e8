"""Pretrains BarcodeBERT, BarcodeMAE or a BarcodeMamba on k-mers (Task I of BIOSCAN-5M, https://arxiv.org/abs/2406.12723).

Full run with the published recipe and the shape of the published 8-4-4 model, on one node with 4 GPUs (not run, so its
time and accuracy are unknown):

    accelerate launch --num_processes 4 trainers/pretrain_barcodebert.py --source RELEASE_FOLDER --preset main --k 8 \
        --output_dir out/barcodebert_k8

Smoke run on a laptop over a simulated release, in less than a minute:

    bioscan-hf simulate out/release
    python trainers/pretrain_barcodebert.py --source out/release --output_dir out/smoke --hidden_size 32 \
        --intermediate_size 64 --num_hidden_layers 1 --max_steps 3

`--help` has the options, docs/guides/train.md the objectives, presets, several processes and nodes, and YAML files.
`--resume_from_checkpoint last` resumes a stopped run exactly (only its first logged loss covers the steps since the
checkpoint). Masks and reading frames of a barcode follow from the seed, the epoch and the barcode. Validation masks
the same k-mers each time and reads no labels. One process, two processes, and two accumulated batches take the same
steps for the same global batch.

The output folder holds the model and its tokenizer, `results.json` (options, data, loss curve, validation), the model
card, and `trainer_state.json` (everything logged).
"""

import hashlib
import json
import logging
import sys
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bioscan_hf.hub.cards import barcodebert_card
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_barcodemamba import BarcodeMambaConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.models.modeling_barcodemae import BarcodeMaeForPreTraining
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.arguments import BarcodeTrainingArguments, global_batch_size, read_options
from bioscan_hf.training.machine import once_per_machine
from bioscan_hf.training.masking import IGNORED, MaskedKmerCollator, Masking
from bioscan_hf.training.presets import PRESETS
from bioscan_hf.training.pretraining import (
    DECODER_OPTIONS,
    PREDICTED,
    PretrainingOptions,
    PretrainingTrainer,
    check_options,
    load_barcodes,
    taxon_objective,
)
from bioscan_hf.training.run import TrainingRun, begin_run, run_program, run_training
from bioscan_hf.training.sampling import EpochSampler, similar_length_order
from bioscan_hf.training.taxa import count_tokens
from bioscan_hf.training.taxon_objective import LABEL, TaxonObjective, label_rows, labels_of

logger = logging.getLogger(__name__)

#: Completes a checkpoint: a checkpoint without this file is incomplete.
RUN_FILE = "pretraining.json"

#: Config fields in the results, where the model has them.
SHAPE = ("k", "vocabulary", "num_hidden_layers", "hidden_size")
BERT_SHAPE = ("num_attention_heads", "intermediate_size")
MAMBA_SHAPE = ("block", "num_heads", "head_dim", "state_size")
MAE_SHAPE = (*BERT_SHAPE, "decoder_num_hidden_layers")


def score_kmers(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """For each token (B, L, 2): whether it was predicted, and its loss in nats; of logits (B, L, V), labels (B, L)."""
    loss = torch.nn.functional.cross_entropy(logits.float().mT, labels, ignore_index=IGNORED, reduction="none")
    return torch.stack([(logits.argmax(-1) == labels).float(), loss], dim=-1)


def summarize_kmers(prediction: EvalPrediction, objective: str) -> dict[str, float]:
    """Accuracy and loss (nats) over all labelled k-mers of the validation split, however they were batched."""
    scores = prediction.predictions[prediction.label_ids != IGNORED]
    if len(scores) == 0:
        raise ValueError(
            "No k-mer of the validation split is predicted: it has too few barcodes, or they are too short. Choose "
            "another --validation_split."
        )
    accuracy, loss = scores.mean(0, dtype=np.float64)  # a sum of float32 over many rows loses its digits
    return {f"{objective}_accuracy": float(accuracy), f"{objective}_loss": float(loss)}


def make_config(options: PretrainingOptions, taxon_classes: int = 2) -> BarcodeBertConfig | BarcodeMambaConfig:
    """The config of a new model; `taxon_classes` are those of the training rows for --taxon_objective classes."""
    names = ("k", "vocabulary", "max_nucleotides", "hidden_size", "num_hidden_layers")
    shared: dict[str, Any] = {name: getattr(options, name) for name in names}
    if options.backbone == "mamba":
        shared |= {name: getattr(options, name) for name in ("objective", "head_dim", "state_size")}
        if options.mamba_block == "published":
            shared |= {"block": "published", "pooling": "mean", "embedding_dropout": options.dropout}
        return BarcodeMambaConfig(**shared)
    attention_dropout = options.dropout if options.attention_dropout is None else options.attention_dropout
    if options.objective == "mae":
        shared |= {name: getattr(options, name) for name in DECODER_OPTIONS}
        shared["decoder_num_hidden_layers"] = options.decoder_num_hidden_layers or options.num_hidden_layers
        shared["decoder_projection"] = options.decoder_projection or "auto"
        shared["masked_loss_weight"] = options.masked_loss_weight
    if options.taxon_objective != "none":
        shared["taxon_objective"] = options.taxon_objective
        shared["taxon_objective_classes"] = taxon_classes if options.taxon_objective == "classes" else 0
        shared["pooling"] = "cls"
    elif options.vocabulary == "barcodebert-cls":
        shared["pooling"] = "tokens"  # nothing trains [CLS]
    return BarcodeBertConfig(
        **shared,
        max_position_embeddings=max(512, options.max_nucleotides // max(options.k, 1) + 1),
        intermediate_size=options.intermediate_size,
        num_attention_heads=options.num_attention_heads,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=attention_dropout,
        mlm_head=options.mlm_head,
    )


def make_model(config: BarcodeBertConfig | BarcodeMambaConfig, attention: str) -> PreTrainedModel:
    """A model with random weights."""
    if isinstance(config, BarcodeMambaConfig):
        return BarcodeMambaForMaskedLM(config)
    model = (BarcodeMaeForPreTraining if config.decoder_num_hidden_layers else BarcodeBertForMaskedLM)(config)
    model.set_attn_implementation(attention)
    return model


def make_collators(options: PretrainingOptions, seed: int) -> tuple[MaskedKmerCollator, MaskedKmerCollator]:
    """The collators of training and of validation, which predicts masked k-mers of the first reading frame."""
    tokenizer = KmerTokenizer(k=options.k, vocabulary=options.vocabulary, max_nucleotides=options.max_nucleotides)
    given = {field.name: getattr(options, field.name) for field in fields(Masking)}
    if options.objective == "next":
        given["loss_on"] = "next-all" if options.loss_on == "all" else "next"
    make = partial(MaskedKmerCollator, tokenizer, seed=seed, attend_padding=options.attend_padding)
    predicted = PREDICTED[options.objective]
    validation = Masking(options.mask_ratio, predicted, mask_token_id=options.mask_token_id, random_offset=False)
    label = LABEL if options.taxon_objective != "none" else None
    return make(Masking(**given), cut_padding=options.cut_padding, label=label), make(validation)


def make_sampler(
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    training_args: BarcodeTrainingArguments,
    objective: TaxonObjective | None,
) -> EpochSampler | None:
    """The order of the barcodes; None uses the Trainer's, by `train_sampling_strategy`.

    Lengths are those of the first reading frame, whichever is drawn. Otherwise the barcodes of a batch would share
    their reading frame, which is worse for learning.
    """
    size = global_batch_size(training_args)
    if objective is not None and (order := objective.order()) is not None:
        return EpochSampler(order, labels_of(data), size, training_args.seed)
    if not training_args.similar_lengths:
        return None
    return EpochSampler(similar_length_order, count_tokens(data, tokenizer), size, training_args.seed)


def make_trainer(
    run: TrainingRun,
    model: PreTrainedModel,
    collators: tuple[MaskedKmerCollator, MaskedKmerCollator],
    data: Dataset,
    validation: Dataset | None,
) -> PretrainingTrainer:
    """A Trainer of a model, with the collators of training and of validation."""
    options, training_args = run.options, run.training_args
    objective = taxon_objective(options, training_args)
    sampler = make_sampler(data, collators[0].tokenizer, cast(BarcodeTrainingArguments, training_args), objective)
    masked_alone = options.loss_on == "masked" and PREDICTED[options.objective] == "masked"
    return PretrainingTrainer(
        model=model,
        args=training_args,
        train_dataset=data,
        eval_dataset=validation,
        data_collator=collators[0],
        eval_collator=collators[1],
        sampler=sampler,
        sparse=options.sparse_loss and masked_alone,
        masked_loss_weight=options.masked_loss_weight,
        taxon_objective=objective,
        compute_metrics=partial(summarize_kmers, objective=PREDICTED[options.objective]),
        preprocess_logits_for_metrics=score_kmers,
    )


@dataclass(frozen=True)
class PretrainingData:
    """Training and validation rows."""

    train: Dataset
    validation: Dataset | None
    taxa: list[str]  # names of the classes of the taxon objective; empty without one
    sizes: dict[str, int]  # split -> number of rows

    @classmethod
    def load(cls, options: PretrainingOptions, objective: TaxonObjective | None) -> "PretrainingData":
        """The splits of the options; validation reads no names."""
        how = options.deduplicate, options.max_nucleotides
        with once_per_machine():
            train = load_barcodes(
                options.source, options.train_split, *how, None if objective is None else objective.rank
            )
            sizes, validation = {options.train_split: len(train)}, None
            if options.validation_split != "none":
                validation = load_barcodes(options.source, options.validation_split, *how)
                sizes[options.validation_split] = len(validation)
            taxa: list[str] = []
            if objective is not None:
                train, taxa = label_rows(train, objective.rank)
        logger.info("barcodes of each split: %s", sizes)
        return cls(train, validation, taxa, sizes)

    def describe_taxa(self) -> dict[str, Any]:
        """Numbers of the taxon objective for results.json; empty without one."""
        if not self.taxa:
            return {}
        return {"taxon_classes": len(self.taxa), "labelled_training_rows": int((labels_of(self.train) >= 0).sum())}


def main(options: PretrainingOptions, training_args: BarcodeTrainingArguments) -> dict[str, Any]:
    """Pretrains a model, and gives the content of its results file; an empty dict in all but the main process.

    Raises ValueError, FileExistsError, or FileNotFoundError before anything is written.
    """
    check_options(options, training_args)
    make_config(options)  # refuses what does not fit, before data are loaded
    collators, objective = make_collators(options, training_args.seed), taxon_objective(options, training_args)
    data = PretrainingData.load(options, objective) if objective is not None else None
    same = {"taxa": hashlib.sha256(json.dumps(data.taxa).encode()).hexdigest()} if data is not None else {}
    run = begin_run("barcodebert/pretrain", RUN_FILE, options, training_args, PRESETS, same)
    if run.finished:
        return run.finished
    data = data or PretrainingData.load(options, objective)
    run.about |= {"splits": data.sizes} | data.describe_taxa()
    if data.validation is None:
        training_args.eval_strategy = "no"
    set_seed(training_args.seed)
    model = make_model(make_config(options, len(data.taxa)), options.attention)
    trainer = make_trainer(run, model, collators, data.train, data.validation)

    def evaluate() -> dict[str, float]:
        found, predicted = trainer.evaluate() if data.validation is not None else {}, PREDICTED[options.objective]
        kinds = {f"{predicted}_loss": "loss_nats", f"{predicted}_accuracy": "accuracy"}
        return {f"validation_{predicted}_{name}": found[f"eval_{key}"] for key, name in kinds.items() if found}

    shape = BERT_SHAPE if options.backbone == "bert" else MAMBA_SHAPE
    shape = (*SHAPE, *(MAE_SHAPE if options.objective == "mae" else shape))
    return run_training(
        run,
        trainer,
        collators[0].tokenizer,
        evaluate=evaluate,
        describe_model=lambda model: {name: getattr(model.config, name) for name in shape},
        card=barcodebert_card,
    )


#: Options from flags, or from one YAML file; options that are given override the preset.
parse = partial(
    read_options, kinds=(PretrainingOptions, BarcodeTrainingArguments), presets=PRESETS, program="pretrain"
)

if __name__ == "__main__":
    run_program(lambda: main(*parse(sys.argv[1:])))
