"""Fine-tunes BarcodeBERT to name taxa (Task I of BIOSCAN-5M, https://arxiv.org/abs/2406.12723).

Full run, as published for BIOSCAN-5M, on one node with 4 GPUs (time and accuracy: not run):

    accelerate launch --num_processes 4 trainers/finetune_barcodebert.py --source bioscan-ml/BIOSCAN-5M \
        --model out/barcodebert_k8 --ranks species --preset published --output_dir out/species

Smoke run on a laptop, under a minute, over a made-up release and the model that the smoke run of
pretrain_barcodebert.py leaves:

    python trainers/finetune_barcodebert.py --source out/release --model out/smoke --output_dir out/smoke_taxa \
        --ranks order family genus species --max_steps 3

`--preset published` is the published fine-tuning, and with `--freeze_encoder` the published linear probe; what is
given besides overrides the preset. `--ranks` with several ranks trains one head for each and also gives answers that
imply each other: a species its genus. `--lora_rank 8` trains a low-rank adapter (needs peft). Launching on two CPU
processes, options in a YAML file, stopping and resuming are as in pretrain_barcodebert.py; one process, two, and two
accumulated batches take the same steps.

The classes are the taxa of the training split, and are saved in the model's config. A specimen without a label at a
rank does not count there; one whose taxon is no class counts as wrong, and the coverage tells how many are not so. The
model of the last step is tested, as published, unless `--load_best_model_at_end` chooses another by the validation.

In the output folder: the model (with an adapter: merged, and the adapter in `adapter/`) and its tokenizer,
`results.json` (options, data, loss curve, metrics of each split and rank), `predictions.parquet` (each specimen of the
test splits), the model card, and `trainer_state.json` (everything logged).
"""

import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from transformers import EvalPrediction, PreTrainedModel, set_seed

from bioscan_hf.cards import write_card
from bioscan_hf.files import file_hash
from bioscan_hf.hub.cards import barcodebert_card
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.provenance import write_results
from bioscan_hf.training.arguments import (
    BarcodeTrainingArguments,
    CheckpointCallback,
    EpochCallback,
    SimilarLengthSampler,
    describe_machine,
    describe_run,
    describe_training,
    find_checkpoint,
    global_batch_size,
    loss_curve,
    read_options,
    remove_checkpoints,
    save_adapter,
    scaled_learning_rate,
)
from bioscan_hf.training.classification import TaxonCollator, count_tokens, score_logits, summarize, write_predictions
from bioscan_hf.training.finetuning import (
    PRESETS,
    FinetuningOptions,
    FinetuningTrainer,
    TaxonData,
    add_adapter,
    check_options,
    load_splits,
    load_tokenizer,
    make_model,
)

logger = logging.getLogger(__name__)

#: Written into a checkpoint last of all: a checkpoint without it is incomplete.
RUN_FILE = "finetuning.json"


def flat_metrics(prediction: EvalPrediction, classes: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """What the Trainer logs of an evaluation: `<rank>_<metric>`, where there is a label."""
    independent, _ = summarize(cast(Any, prediction.predictions), cast(Any, prediction.label_ids), classes)
    return {
        f"{rank}_{name}": value
        for rank, values in independent.items()
        for name, value in values.items()
        if value is not None
    }


def make_trainer(
    options: FinetuningOptions,
    training_args: BarcodeTrainingArguments,
    model: PreTrainedModel,
    tokenizer: KmerTokenizer,
    data: TaxonData,
    run: dict[str, Any],
) -> FinetuningTrainer:
    """A Trainer of the classifier, or of its adapter."""
    cut = options.pooling == "masked_mean"
    collator, eval_collator = (
        TaxonCollator(tokenizer, list(data.classes), random_offset=offset, cut_padding=cut, seed=training_args.seed)
        for offset in (options.random_offset, False)
    )
    listeners: list[Any] = [collator]
    sampler = None
    if cut and training_args.similar_lengths:
        lengths = count_tokens(data.train["dna_barcode"][:], tokenizer)
        sampler = SimilarLengthSampler(lengths, global_batch_size(training_args), training_args.seed)
        listeners.append(sampler)
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
        callbacks=[
            EpochCallback(*listeners),
            CheckpointCallback(tokenizer, Path(training_args.output_dir), RUN_FILE, run),
        ],
    )


def evaluate(trainer: FinetuningTrainer, data: TaxonData) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Metrics of each split and rank, independent and consistent; and each split's scores, by `score_logits`."""
    metrics: dict[str, Any] = {"independent": {}, "consistent": {}}
    scores = {}
    for split, rows in data.splits.items():
        output = trainer.predict(cast(Any, rows), metric_key_prefix=split)
        scores[split] = cast(NDArray[np.float32], output.predictions)
        independent, consistent = summarize(scores[split], cast(Any, output.label_ids), data.classes)
        metrics["independent"][split] = independent
        if consistent:
            metrics["consistent"][split] = consistent
    return metrics, scores


def save(trainer: FinetuningTrainer, tokenizer: KmerTokenizer, adapted: bool) -> None:
    """Writes the model and its tokenizer; an adapter apart, and the model with it merged in."""
    output_dir, model = Path(trainer.args.output_dir), cast(Any, trainer.model)
    if adapted:
        if trainer.args.should_save:
            save_adapter(model, output_dir / "adapter")
        trainer.model = trainer.model_wrapped = model.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    if trainer.args.should_save:
        tokenizer.save_pretrained(output_dir)


def report(
    trainer: FinetuningTrainer, data: TaxonData, metrics: dict[str, Any], trained: int, about: dict[str, Any]
) -> dict[str, Any]:
    """Writes `results.json` and the model card, and gives the content of the first. `trained`: parameters."""
    output, model = Path(trainer.args.output_dir), cast(PreTrainedModel, trainer.model)
    shape = ["k", "vocabulary", "pooling", "num_hidden_layers", "hidden_size"]
    shape += ["num_attention_heads", "intermediate_size", "num_heads", "head_dim", "state_size"]  # of either family
    config, curve = model.config.to_dict(), loss_curve(trainer)
    results = write_results(
        output / "results.json",
        task="barcodebert/finetune",
        seed=trainer.args.seed,
        model={
            "path": trainer.args.output_dir,
            "sha256": file_hash(output / "model.safetensors"),
            "parameters": model.num_parameters(),
            "trained_parameters": trained,
            "classes": {rank: len(names) for rank, names in data.classes.items()},
            **{name: config[name] for name in shape if name in config},
        },
        steps=trainer.state.global_step,
        loss_curve=curve,
        metrics={"train_loss_nats": curve[-1][1] if curve else None, **metrics},
        **data.about,
        **describe_machine(trainer.args),
        **about,
    )
    write_card(output / "README.md", barcodebert_card(output.resolve().name, results))
    return results


def describe_options(options: FinetuningOptions, training_args: BarcodeTrainingArguments) -> dict[str, Any]:
    """What a results file says of the options: their values, and which of them differ from those of the preset."""
    given = asdict(options) | vars(training_args)
    preset = PRESETS[options.preset]
    return {
        "options": asdict(options) | describe_training(training_args),
        "preset_overrides": {name: given[name] for name, value in preset.items() if given[name] != value},
    }


def main(options: FinetuningOptions, training_args: BarcodeTrainingArguments) -> dict[str, Any]:
    """Fine-tunes a model, saves it in `training_args.output_dir`, tests it, and gives the content of its results file.

    Only the main process writes, and only there is the content given; elsewhere it is empty.

    Raises:
        ValueError, FileExistsError, FileNotFoundError, ImportError: before anything is written, if the options, the
            data, the model or the output folder do not allow the run.
    """
    start = time.perf_counter()
    ranks = check_options(options, training_args)
    config, tokenizer = load_tokenizer(options.model)
    with training_args.main_process_first(desc="loading the barcodes"):
        data = load_splits(options, ranks, tokenizer)
    logger.info(
        "%d barcodes to learn from; classes: %s", len(data.train), {r: len(c) for r, c in data.classes.items()}
    )
    run = describe_run(options, training_args)
    run["classes"] = hashlib.sha256(json.dumps(data.classes).encode()).hexdigest()
    output_dir, resume = Path(training_args.output_dir), training_args.resume_from_checkpoint
    checkpoint = find_checkpoint(output_dir, resume, options.overwrite, RUN_FILE, run)
    set_seed(training_args.seed)
    model = make_model(options, config, data)
    if options.overwrite and training_args.should_save:
        remove_checkpoints(output_dir)

    about = describe_options(options, training_args)
    training_args.learning_rate = about["options"]["scaled_learning_rate"] = scaled_learning_rate(training_args)
    training_args.scale_learning_rate = False  # it is scaled now
    training_args.label_names = ["labels"]  # which the Trainer does not find in a model with an adapter
    if options.validation_split == "none":
        training_args.eval_strategy = "no"
    trainer = make_trainer(options, training_args, model, tokenizer, data, run)
    trained = trainer.get_num_trainable_parameters()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    metrics, scores = evaluate(trainer, data)
    save(trainer, tokenizer, adapted=bool(options.lora_rank))
    results: dict[str, Any] = {}
    if trainer.is_world_process_zero():
        if data.tested:
            tested = {split: (data.splits[split]["processid"][:], scores[split]) for split in data.tested}
            write_predictions(output_dir / "predictions.parquet", tested, data.classes)
        about |= {"dataset": options.source, "seconds": round(time.perf_counter() - start, 3)}
        results = report(trainer, data, metrics, trained, about)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return results


def parse(arguments: Sequence[str]) -> tuple[FinetuningOptions, BarcodeTrainingArguments]:
    """Options from flags, or from one YAML file; what is given overrides the preset."""
    options, training_args = read_options(arguments, (FinetuningOptions, BarcodeTrainingArguments), PRESETS)
    return options, training_args


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # its threads, left running, could abort the exit
