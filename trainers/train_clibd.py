"""Trains CLIBD: photos, DNA barcodes and taxonomy text in one space (Task III of BIOSCAN-5M).

Full run, as published for BIOSCAN-1M, on one node with 4 GPUs (time and accuracy: not run):

    accelerate launch --num_processes 4 trainers/train_clibd.py --source bioscan-ml/BIOSCAN-5M --preset published \
        --image_encoder timm/vit_base_patch16_224.augreg2_in21k_ft_in1k --dna_encoder out/barcodebert_k5 \
        --text_encoder prajjwal1/bert-small --dataloader_num_workers 8 --output_dir out/clibd

Smoke run on a laptop, offline, in a minute or two, over a made-up release and the model that the smoke run of
pretrain_barcodebert.py leaves; the photo encoder is new:

    bioscan-hf simulate out/release
    python trainers/pretrain_barcodebert.py --source out/release --output_dir out/smoke --hidden_size 32 \
        --intermediate_size 64 --num_hidden_layers 1 --max_steps 3
    python trainers/train_clibd.py --source out/release --image_encoder new:test_vit --dna_encoder out/smoke \
        --per_device_train_batch_size 32 --max_steps 3 --output_dir out/smoke_clibd

A new model is made of `--image_encoder`, `--dna_encoder` and `--text_encoder`, any two or all three, or `--model` goes
on from one. `--preset published` is the published recipe and, for a new model, `--architecture published` its heads.
`--lora_rank 4` trains adapters (needs peft), `--freeze image text` leaves encoders as they are. `--loss siglip` judges
every two rows alone; `--label_columns order family genus species` lets taxa belong together, rank by rank, weighed by
`--rank_weights`. `--objective simclr` trains each of `--simclr_modalities` alone, on two views of each specimen
(photos altered, barcodes misread): as pretraining, with which `--model` goes on, or to tell what the alignment brings.

Specimens without a photo, a barcode or a taxonomy count in the pairs that they have. By default equal barcodes and
equal texts in a batch are no negatives of each other; `--distinct dna_barcode` keeps them out of a batch. Rows are
contrasted over all processes: one process and two take the same steps. For batches beyond the memory,
`--rows_at_a_time 64` lets that many go through the model together, and `--chunk_size 1024` keeps the similarities of
so many rows. `--augment_on_device True` crops and flips photos where they are normalised and rotated anyway.

A validation asks, with photos, barcodes and texts of `--seen_split` and `--unseen_split`, for the nearest of
`--key_splits`. The model that is best by `--metric_for_best_model` is kept: by default the harmonic mean of the macro
top-1 accuracy of seen and unseen species, from photos to barcodes. Processes, YAML files and resuming are as in
pretrain_barcodebert.py. A stream (`--streaming`) is read again from its beginning to resume.

In the output folder: the model (with adapters: merged, and the adapters in `adapter/`) and its processor,
`results.json` (options, data, loss curve, all accuracies of the last validation, of the model that is kept), the
model card, and `trainer_state.json` (everything logged).
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from transformers import EvalPrediction, set_seed

from bioscan_hf.cards import write_card
from bioscan_hf.files import file_hash
from bioscan_hf.hub.cards import clibd_card
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.provenance import write_results
from bioscan_hf.training.arguments import (
    CheckpointCallback,
    EpochCallback,
    describe_machine,
    describe_run,
    describe_training,
    find_checkpoint,
    global_batch_size,
    loss_curve,
    read_options,
    remove_checkpoints,
    save_adapter,
)
from bioscan_hf.training.clibd_batches import ClibdCollator
from bioscan_hf.training.clibd_options import (
    BATCH_OF_LEARNING_RATE,
    BEST_BY,
    PRESETS,
    ClibdArguments,
    ClibdOptions,
    check_options,
)
from bioscan_hf.training.clibd_trainer import (
    ClibdTrainer,
    SimclrTrainer,
    flat_metrics,
    metric_name,
    questions,
    retrieval_tables,
)
from bioscan_hf.training.clibd_training import (
    Validation,
    columns_needed,
    load_specimens,
    load_validation,
    make_model,
    make_sampler,
    modalities_of,
    prepare_model,
)
from bioscan_hf.training.clibd_views import TwoViewCollator

logger = logging.getLogger(__name__)

#: Written into a checkpoint last of all: a checkpoint without it is incomplete.
RUN_FILE = "clibd.json"


def load_training_rows(options: ClibdOptions, training_args: ClibdArguments, modalities: Sequence[str]) -> Any:
    """The specimens to learn from: a dataset, or a shuffled stream that does not end.

    Raises:
        ValueError: if there are fewer than a batch over all processes.
    """
    data = load_specimens(options, options.train_split, columns_needed(options, modalities), options.streaming)
    if options.streaming:  # each process must have as many batches, so none may come to an end
        return data.shuffle(seed=training_args.seed, buffer_size=options.stream_buffer).repeat(None)
    smallest = global_batch_size(training_args)
    if len(data) < smallest:
        raise ValueError(
            f"The split {options.train_split!r} has {len(data)} specimens, fewer than one batch over all processes "
            f"({smallest}). Give a smaller per_device_train_batch_size."
        )
    return data


def set_up_validation(
    training_args: ClibdArguments, modalities: Sequence[str], *, contrast: bool, there_is: bool
) -> None:
    """Fills in what the arguments leave open: by what a validation is judged, and that there is none."""
    if not there_is:
        training_args.eval_strategy = "no"
        training_args.load_best_model_at_end = False
    elif training_args.metric_for_best_model == BEST_BY:
        own = f"{modalities[0]}->{modalities[0]}"  # simclr compares no modality with another one
        training_args.metric_for_best_model = metric_name(questions(modalities)[0] if contrast else own)
    training_args.greater_is_better = True
    training_args.label_names = ["labels"]


def make_trainer(
    options: ClibdOptions,
    training_args: ClibdArguments,
    model: Any,
    processor: ClibdProcessor,
    data: Any,
    validation: Validation | None,
    modalities: Sequence[str],
    run: dict[str, Any],
) -> ClibdTrainer:
    """A Trainer of the objective."""
    trim = model.config.dna_pooling == "masked_mean" and not model.config.dna_attend_to_padding
    labels = options.label_columns or ()
    collator: Any
    if options.objective == "simclr":
        collator = TwoViewCollator(processor, modalities, label_columns=labels, seed=training_args.seed)
    else:
        collator = ClibdCollator(
            processor,
            modalities,
            label_columns=labels,
            templates=options.text_templates,
            trim_padding=trim,
            augment_on_device=options.augment_on_device,
            seed=training_args.seed,
        )
    sampler = None if options.streaming else make_sampler(options, data, training_args)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return flat_metrics(retrieval_tables(prediction, cast(Validation, validation), modalities))

    kind = SimclrTrainer if options.objective == "simclr" else ClibdTrainer
    listeners = [collator] if sampler is None else [collator, sampler]
    return kind(
        model=model,
        args=training_args,
        options=options,
        image_processor=processor.image_processor,
        train_dataset=data,
        eval_dataset=cast(Any, validation.rows) if validation else None,
        data_collator=collator,
        eval_collator=ClibdCollator(processor, modalities, mode="eval", trim_padding=trim, with_index=True),
        sampler=sampler,
        compute_metrics=compute_metrics,
        callbacks=[
            EpochCallback(*listeners),
            CheckpointCallback(cast(Any, processor), Path(training_args.output_dir), RUN_FILE, run),
        ],
    )


def save(trainer: ClibdTrainer, processor: ClibdProcessor, adapted: bool) -> None:
    """Writes the model and its processor; adapters apart, and the model with them merged in."""
    output_dir, model = Path(trainer.args.output_dir), cast(Any, trainer.model)
    if adapted:
        if trainer.args.should_save:
            save_adapter(model, output_dir / "adapter")
        trainer.model = trainer.model_wrapped = model.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    if trainer.args.should_save:
        processor.save_pretrained(output_dir)


def report(trainer: ClibdTrainer, metrics: dict[str, Any], trained: int, about: dict[str, Any]) -> dict[str, Any]:
    """Writes `results.json` and the model card, and gives the content of the first. `trained`: parameters."""
    output, model = Path(trainer.args.output_dir), cast(Any, trainer.model)
    curve, best = loss_curve(trainer), trainer.state.best_model_checkpoint
    results = write_results(
        output / "results.json",
        task="clibd/train",
        seed=trainer.args.seed,
        model={
            "path": trainer.args.output_dir,
            "sha256": file_hash(output / "model.safetensors"),
            "parameters": model.num_parameters(),
            "trained_parameters": trained,
            "modalities": list(model.config.modalities),
            "projection_dim": model.config.projection_dim,
            "inverse_temperature": model.logit_scale().item(),
        },
        steps=trainer.state.global_step,
        best_checkpoint=Path(best).name if best else None,
        loss_curve=curve,
        metrics={"train_loss_nats": curve[-1][1] if curve else None, "retrieval": metrics},
        **describe_machine(trainer.args),
        **about,
    )
    written = json.loads((output / "results.json").read_text(encoding="utf-8"))
    write_card(output / "README.md", clibd_card(output.resolve().name, written))
    return results


def main(options: ClibdOptions, training_args: ClibdArguments) -> dict[str, Any]:
    """Trains a model, saves it in `training_args.output_dir`, and gives the content of its results file.

    Only the main process writes, and only there is the content given; elsewhere it is empty.

    Raises:
        ValueError, FileExistsError, FileNotFoundError, ImportError: before anything is written, if the options, the
            data, the model or the output folder do not allow the run.
    """
    start = time.perf_counter()
    check_options(options, training_args)
    run = describe_run(options, training_args)
    output_dir = Path(training_args.output_dir)
    checkpoint = find_checkpoint(output_dir, training_args.resume_from_checkpoint, options.overwrite, RUN_FILE, run)
    set_seed(training_args.seed)
    made, processor = make_model(options)
    modalities = modalities_of(options, made.config)
    model = prepare_model(made, options)
    with training_args.main_process_first(desc="loading the specimens"):
        data = load_training_rows(options, training_args, modalities)
        validation = load_validation(options, modalities)
    if options.overwrite and training_args.should_save:
        remove_checkpoints(output_dir)

    about: dict[str, Any] = {"options": asdict(options) | describe_training(training_args)}
    if training_args.scale_learning_rate:
        training_args.learning_rate *= global_batch_size(training_args) / BATCH_OF_LEARNING_RATE
        training_args.scale_learning_rate = False  # it is scaled now
    about["options"]["scaled_learning_rate"] = training_args.learning_rate
    contrast = options.objective == "contrast"
    set_up_validation(training_args, modalities, contrast=contrast, there_is=validation is not None)
    if options.streaming:
        training_args.accelerator_config.dispatch_batches = False  # type: ignore[union-attr]
    trainer = make_trainer(options, training_args, model, processor, data, validation, modalities, run)
    trained = trainer.get_num_trainable_parameters()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    tables: dict[str, Any] = {}
    if validation is not None:
        trainer.compute_metrics = None  # what it would log is part of the tables
        prediction = trainer.predict(cast(Any, validation.rows), metric_key_prefix="last")
        found = EvalPrediction(predictions=prediction.predictions, label_ids=cast(Any, prediction.label_ids))
        tables = retrieval_tables(found, validation, modalities)
    save(trainer, processor, adapted=bool(options.lora_rank))
    results: dict[str, Any] = {}
    if trainer.is_world_process_zero():
        splits = {options.train_split: None if options.streaming else len(data)}
        if validation is not None:
            splits |= {part: place.stop - place.start for part, place in validation.parts.items()}
        about |= {"dataset": options.source, "splits": splits, "seconds": round(time.perf_counter() - start, 3)}
        results = report(trainer, tables, trained, about)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return results


def parse(arguments: Sequence[str]) -> tuple[ClibdOptions, ClibdArguments]:
    """Options from flags, or from one YAML file; what is given overrides the preset."""
    options, training_args = read_options(arguments, (ClibdOptions, ClibdArguments), PRESETS)
    return options, training_args


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # its threads, left running, could abort the exit
