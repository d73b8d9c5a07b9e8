"""Trains CLIBD: photos, DNA barcodes and taxonomy text in one embedding space (Task III of BIOSCAN-5M).

Full run as published for BIOSCAN-1M, on one node with 4 GPUs (not run, so time and accuracy are unknown):

    accelerate launch --num_processes 4 trainers/train_clibd.py --source bioscan-ml/BIOSCAN-5M --preset published \
        --image_encoder timm/vit_base_patch16_224.augreg2_in21k_ft_in1k --dna_encoder out/barcodebert_k5 \
        --text_encoder prajjwal1/bert-small --dataloader_num_workers 8 --output_dir out/clibd

Smoke run on a laptop, offline, in a minute or two, over the release and the model that the smoke run of
pretrain_barcodebert.py writes; the photo encoder is new:

    python trainers/train_clibd.py --source out/release --image_encoder new:test_vit --dna_encoder out/smoke \
        --per_device_train_batch_size 32 --max_steps 3 --output_dir out/smoke_clibd

`--help` has the options, docs/guides/train_clibd.md what they are for. Rows are contrasted over all processes: one
process and two take the same steps. Specimens without a photo, a barcode or a taxonomy count in the pairs that they
have. A validation retrieves photos, barcodes and texts of `--seen_split` and `--unseen_split` from `--key_splits`, and
keeps the best model, by default by the harmonic mean of the macro top-1 accuracy of seen and unseen species, from
photos to barcodes. A stream (`--streaming`) gives each specimen once in a pass, and a resumed run goes on where it
stopped.

The output folder holds the model (with adapters: merged, and the adapters in `adapter/`) and its processor,
`results.json` (options, data, loss curve, all accuracies of the kept model), the model card, and `trainer_state.json`
(everything logged).
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from transformers import EvalPrediction, set_seed

from bioscan_hf.hub.cards import clibd_card
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.training.arguments import read_options
from bioscan_hf.training.checks import check_metric
from bioscan_hf.training.clibd.batches import ClibdCollator
from bioscan_hf.training.clibd.data import (
    Validation,
    load_training_rows,
    load_validation,
    make_model,
    make_sampler,
    modalities_of,
    prepare_model,
)
from bioscan_hf.training.clibd.options import PRESETS, ClibdArguments, ClibdOptions, batch_labels, check_options
from bioscan_hf.training.clibd.streams import PassStream, fit_stream, steps_of
from bioscan_hf.training.clibd.trainer import (
    ClibdTrainer,
    SimclrTrainer,
    flat_metrics,
    metric_name,
    metric_names,
    questions,
    retrieval_tables,
)
from bioscan_hf.training.clibd.views import TwoViewCollator
from bioscan_hf.training.machine import once_per_machine
from bioscan_hf.training.options.clibd import BEST_BY
from bioscan_hf.training.run import TrainingRun, begin_run, run_program, run_training

#: Completes a checkpoint: a checkpoint without this file is incomplete.
RUN_FILE = "clibd.json"


def set_up_validation(
    training_args: ClibdArguments, objective: str, modalities: Sequence[str], validation: Validation | None
) -> None:
    """Sets the metric of the best checkpoint, or turns validation off where there is none.

    Raises ValueError for a metric that the validation does not have; ranks without names of queries have none.
    """
    if validation is None:
        training_args.eval_strategy = "no"
        training_args.load_best_model_at_end = False
        return
    # simclr compares no modality with another
    asked = [f"{modalities[0]}->{modalities[0]}"] if objective == "simclr" else questions(modalities)
    if training_args.metric_for_best_model == BEST_BY:
        training_args.metric_for_best_model = metric_name(asked[0])
    judged = training_args.load_best_model_at_end or training_args.save_strategy == "best"
    if judged or training_args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        check_metric(training_args, metric_names(asked, validation))
    else:
        training_args.metric_for_best_model = None  # the Trainer would look for it in each validation


def make_trainer(
    run: TrainingRun,
    model: Any,
    processor: ClibdProcessor,
    data: Any,
    validation: Validation | None,
    modalities: Sequence[str],
) -> ClibdTrainer:
    """A Trainer of the objective."""
    options, training_args = run.options, run.training_args
    trim = model.config.dna_pooling == "masked_mean" and not model.config.dna_attend_to_padding
    labels = batch_labels(options)
    collator: TwoViewCollator | ClibdCollator
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
            photo_views=options.hir_views,
            seed=training_args.seed,
        )
    sampler = make_sampler(options, data, cast(ClibdArguments, training_args))

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return flat_metrics(
            retrieval_tables(prediction, cast(Validation, validation), modalities, training_args.device)
        )

    kind = SimclrTrainer if options.objective == "simclr" else ClibdTrainer
    return kind(
        model=model,
        args=training_args,
        options=options,
        image_processor=processor.image_processor,
        train_dataset=data,
        eval_dataset=cast(Any, validation.rows) if validation else None,
        data_collator=collator,
        eval_collator=ClibdCollator(processor, modalities, mode="eval", trim_padding=trim),
        sampler=sampler,
        compute_metrics=compute_metrics,
    )


def evaluate(trainer: ClibdTrainer, validation: Validation | None, modalities: Sequence[str]) -> dict[str, Any]:
    """The retrieval tables of the validation."""
    if validation is None:
        return {"retrieval": {}}
    trainer.compute_metrics = None  # the tables hold what it would log
    found = trainer.predict(cast(Any, validation.rows), metric_key_prefix="last")
    prediction = EvalPrediction(predictions=found.predictions, label_ids=cast(Any, found.label_ids))
    return {"retrieval": retrieval_tables(prediction, validation, modalities, trainer.args.device)}


def describe_model(model: ClibdModel) -> dict[str, Any]:
    """Modalities, width and temperature of a model, for results.json."""
    return {
        "modalities": list(model.config.modalities),
        "projection_dim": model.config.projection_dim,
        "inverse_temperature": model.logit_scale().item(),
    }


def main(options: ClibdOptions, training_args: ClibdArguments) -> dict[str, Any]:
    """Trains a model, and gives the content of its results file; an empty dict in all but the main process.

    Raises ValueError, FileExistsError, FileNotFoundError or ImportError before anything is written.
    """
    check_options(options, training_args)
    divided = {
        "processes": training_args.world_size,
        "per_device_train_batch_size": training_args.per_device_train_batch_size,
        "dataloader_num_workers": training_args.dataloader_num_workers,
    }
    run = begin_run("clibd/train", RUN_FILE, options, training_args, PRESETS, divided if options.streaming else None)
    if run.finished:
        return run.finished
    set_seed(training_args.seed)
    made, processor = make_model(options)
    modalities = modalities_of(options, made.config)
    model = prepare_model(made, options)
    with once_per_machine():
        data = load_training_rows(options, training_args, modalities, steps_of(run.checkpoint))
        validation = load_validation(options, modalities)
    rows = data.rows if isinstance(data, PassStream) else len(data)
    run.about["splits"] = {options.train_split: rows}
    if validation is not None:
        run.about["splits"] |= {part: place.stop - place.start for part, place in validation.parts.items()}
    set_up_validation(training_args, options.objective, modalities, validation)
    if options.streaming:
        fit_stream(training_args, rows)
    trainer = make_trainer(run, model, processor, data, validation, modalities)
    return run_training(
        run,
        trainer,
        processor,
        evaluate=lambda: evaluate(trainer, validation, modalities),
        describe_model=describe_model,
        card=clibd_card,
    )


#: Options from flags, or from one YAML file; options that are given override the preset.
parse = partial(read_options, kinds=(ClibdOptions, ClibdArguments), presets=PRESETS, program="clibd")

if __name__ == "__main__":
    run_program(lambda: main(*parse(sys.argv[1:])))
