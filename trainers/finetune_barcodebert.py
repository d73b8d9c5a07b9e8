"""Fine-tunes BarcodeBERT to classify taxa (Task I of BIOSCAN-5M, https://arxiv.org/abs/2406.12723).

Full run as published for BIOSCAN-5M, on one node with 4 GPUs (not run, so time and accuracy are unknown):

    accelerate launch --num_processes 4 trainers/finetune_barcodebert.py --source bioscan-ml/BIOSCAN-5M \
        --model out/barcodebert_k8 --ranks species --preset published --output_dir out/species

Smoke run on a laptop in less than a minute, over a simulated release and the model that the smoke run of
pretrain_barcodebert.py writes:

    python trainers/finetune_barcodebert.py --source out/release --model out/smoke --output_dir out/smoke_taxa \
        --ranks order family genus species --max_steps 3

`--preset published` is the published fine-tuning, and with `--freeze_encoder` the published linear probe. Processes,
YAML files and resuming are as in docs/guides/train.md; one process, two, and two accumulated batches take the same
steps.

The classes are the taxa of the training split, and are saved in the model's config. A specimen without a label at a
rank does not count there. A specimen whose taxon is not a class counts as wrong; the coverage is the share of the
other specimens. The model of the last step is tested, as published, unless `--load_best_model_at_end` is given.

The output folder holds the model (with an adapter: merged, and the adapter in `adapter/`) and its tokenizer,
`results.json` (options, data, loss curve, metrics of each split and rank), `predictions.parquet` (each specimen of the
test splits), the model card, and `trainer_state.json` (everything logged).
"""

import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import EvalPrediction, PreTrainedModel, set_seed

from bioscan_hf.hub.cards import barcodebert_card
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.arguments import BarcodeTrainingArguments, global_batch_size, read_options
from bioscan_hf.training.finetuning import (
    ADAPTED_LAYERS,
    PRESETS,
    FinetuningOptions,
    FinetuningTrainer,
    TaxonData,
    add_adapter,
    check_options,
    load_splits,
    make_model,
)
from bioscan_hf.training.inputs import load_tokenizer
from bioscan_hf.training.machine import once_per_machine
from bioscan_hf.training.run import TrainingRun, begin_run, run_program, run_training
from bioscan_hf.training.sampling import EpochSampler, similar_length_order
from bioscan_hf.training.taxa import TaxonCollator, count_tokens, score_logits, summarize, write_predictions

logger = logging.getLogger(__name__)

#: Completes a checkpoint: a checkpoint without this file is incomplete.
RUN_FILE = "finetuning.json"

#: Config fields in the results, where the model has them.
SHAPE = ["k", "vocabulary", "pooling", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"]
SHAPE += ["num_heads", "head_dim", "state_size"]


def flat_metrics(prediction: EvalPrediction, classes: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Metrics that the Trainer logs: `<rank>_<metric>`, where there are labels."""
    independent, _ = summarize(cast(Any, prediction.predictions), cast(Any, prediction.label_ids), classes)
    return {
        f"{rank}_{name}": value
        for rank, values in independent.items()
        for name, value in values.items()
        if value is not None
    }


def make_trainer(
    run: TrainingRun, model: PreTrainedModel, tokenizer: KmerTokenizer, data: TaxonData
) -> FinetuningTrainer:
    """A Trainer of the classifier, or of its adapter."""
    options, training_args = run.options, run.training_args
    cut = options.pooling == "masked_mean"
    collator, eval_collator = (
        TaxonCollator(tokenizer, list(data.classes), random_offset=offset, cut_padding=cut, seed=training_args.seed)
        for offset in (options.random_offset, False)
    )
    sampler = None
    if cut and cast(BarcodeTrainingArguments, training_args).similar_lengths:
        lengths = count_tokens(data.train, tokenizer)
        sampler = EpochSampler(similar_length_order, lengths, global_batch_size(training_args), training_args.seed)
    return FinetuningTrainer(
        model=add_adapter(model, options.lora_rank) if options.lora_rank else model,
        args=training_args,
        train_dataset=data.train,
        eval_dataset=data.splits.get(options.validation_split),
        data_collator=collator,
        eval_collator=eval_collator,
        sampler=sampler,
        compute_metrics=partial(flat_metrics, classes=data.classes),
        preprocess_logits_for_metrics=partial(score_logits, model=model),
    )


def evaluate(trainer: FinetuningTrainer, data: TaxonData) -> dict[str, Any]:
    """Metrics of each split and rank, independent and consistent; also writes the predictions of the test splits."""
    metrics: dict[str, Any] = {"independent": {}, "consistent": {}}
    tested: dict[str, tuple[list[str], NDArray[np.float32]]] = {}
    for split, rows in data.splits.items():
        output = trainer.predict(cast(Any, rows), metric_key_prefix=split)
        scores = cast(NDArray[np.float32], output.predictions)
        independent, consistent = summarize(scores, cast(Any, output.label_ids), data.classes, intervals=True)
        metrics["independent"][split] = independent
        if consistent:
            metrics["consistent"][split] = consistent
        if split in data.tested:
            tested[split] = (rows["processid"][:], scores)
    if tested and trainer.is_world_process_zero():
        write_predictions(Path(trainer.args.output_dir) / "predictions.parquet", tested, data.classes)
    return metrics


def main(options: FinetuningOptions, training_args: BarcodeTrainingArguments) -> dict[str, Any]:
    """Fine-tunes a model, and gives the content of its results file; an empty dict in all but the main process.

    Raises ValueError, FileExistsError, FileNotFoundError or ImportError before anything is written.
    """
    ranks = check_options(options, training_args)
    config, tokenizer = load_tokenizer(options.model, tuple(ADAPTED_LAYERS))
    with once_per_machine():
        data = load_splits(options, ranks, tokenizer)
    sizes = {rank: len(names) for rank, names in data.classes.items()}
    logger.info("%d training barcodes; classes: %s", len(data.train), sizes)
    same = {"classes": hashlib.sha256(json.dumps(data.classes).encode()).hexdigest()}
    run = begin_run("barcodebert/finetune", RUN_FILE, options, training_args, PRESETS, same)
    if run.finished:
        return run.finished
    run.about |= data.about
    set_seed(training_args.seed)
    model = make_model(options, config, data)
    if options.validation_split == "none":
        training_args.eval_strategy = "no"
    trainer = make_trainer(run, model, tokenizer, data)

    def describe_model(model: PreTrainedModel) -> dict[str, Any]:
        config = model.config.to_dict()
        return {"classes": sizes, **{name: config[name] for name in SHAPE if name in config}}

    return run_training(
        run,
        trainer,
        tokenizer,
        evaluate=lambda: evaluate(trainer, data),
        describe_model=describe_model,
        card=barcodebert_card,
    )


#: Options from flags, or from one YAML file; options that are given override the preset.
parse = partial(read_options, kinds=(FinetuningOptions, BarcodeTrainingArguments), presets=PRESETS, program="finetune")

if __name__ == "__main__":
    run_program(lambda: main(*parse(sys.argv[1:])))
