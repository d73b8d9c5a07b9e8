"""Fits the aligned-barcode encoder, and trains barcode encoders so that reads of one taxon lie close together.

The recipe of this package for identification by the nearest reference. The best measured encoder needs no gradients: a
region and principal components, fitted to barcodes without labels (see README and benchmarks/results/real_coi.json).
Full run, in seconds for 13,500 barcodes:

    python trainers/contrast_barcodes.py --source dataset --output_dir out/aligned

`--num_train_epochs 10` continues with supervised contrastive learning (https://arxiv.org/abs/2004.11362) over altered
reads of the training split, by species (or BIN: `--ranks dna_bin`). This helps small embeddings, and fine-tunes
`--model FOLDER`: a BarcodeBERT, a BarcodeMamba or an aligned-barcode encoder. `--embedding_size 0` is the profile
alone: the most accurate encoder, with 2,632 numbers per barcode. Smoke run over a simulated release:

    bioscan-hf simulate out/release
    python trainers/contrast_barcodes.py --source out/release --output_dir out/smoke_aligned --max_steps 3 \
        --per_device_train_batch_size 64

Processes, YAML files and resuming are as in docs/guides/train.md. One process and two take the same steps.

The output folder holds the model and its tokenizer, `results.json` (options, data, loss curve, nearest-neighbour
accuracy of the validation splits against the split `train`), the model card, and `trainer_state.json`.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import AutoModel, PreTrainedModel, set_seed

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.encoders.batches import embed_barcodes, inference, pools_by_mask
from bioscan_hf.evaluation.probing import knn_probe
from bioscan_hf.hub.cards import barcodebert_card
from bioscan_hf.losses.supervised import supervised_contrastive_loss
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.schema import LABEL_COLUMNS, MISSING
from bioscan_hf.training.arguments import (
    BaseTrainingArguments,
    check_no_accumulation,
    check_rank_weights,
    check_workers,
    global_batch_size,
    read_options,
)
from bioscan_hf.training.augmentation import Augmentation, AugmentingCollator
from bioscan_hf.training.checks import check_training
from bioscan_hf.training.inputs import check_batch, load_rows, load_tokenizer, pinned
from bioscan_hf.training.machine import once_per_machine
from bioscan_hf.training.options.contrast import QUESTIONS, ContrastDefaults, ContrastOptions
from bioscan_hf.training.run import begin_run, run_program, run_training
from bioscan_hf.training.trainer import BarcodeTrainer

#: Completes a checkpoint: a checkpoint without this file is incomplete.
RUN_FILE = "contrast.json"

#: Model types that can be trained.
ENCODERS = ("alignedbarcode", "barcodebert", "barcodemamba")

#: Config fields in the results, where the model has them.
SHAPE = ["k", "vocabulary", "pooling", "hidden_size", "num_hidden_layers", "num_attention_heads", "state_size"]
SHAPE += ["embedding_size", "profile_weight", "positions", "anchor_k"]


@dataclass
class ContrastArguments(ContrastDefaults, BaseTrainingArguments):  # type: ignore[misc]
    """Training arguments of this recipe."""


class ContrastTrainer(BarcodeTrainer):
    """A Trainer with the supervised contrastive loss over the rows of all processes."""

    def __init__(
        self, *args: Any, ranks: Sequence[str], weights: Sequence[float] | None, temperature: float, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled:
            raise ValueError(
                "FSDP divides the encoder, but one process validates it. Launch without FSDP: it fits one GPU."
            )
        self.ranks = list(ranks)
        self.weights = None if weights is None else dict(zip(ranks, weights, strict=True))
        self.temperature = temperature
        self.model_accepts_loss_kwargs = False  # the loss is already a mean

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The supervised contrastive loss of a batch."""
        labels = dict(zip(self.ranks, inputs.pop("labels").unbind(1), strict=True))
        outputs = model(**inputs)
        embeddings = torch.nn.functional.normalize(outputs.pooler_output.float(), dim=1)
        loss = supervised_contrastive_loss(embeddings, labels, temperature=self.temperature, weights=self.weights)
        return (loss, outputs) if return_outputs else loss


def is_training(training_args: ContrastArguments) -> bool:
    """Whether the options ask for training steps."""
    return training_args.num_train_epochs > 0 or training_args.max_steps > 0


def check_options(options: ContrastOptions, training_args: ContrastArguments) -> None:
    """Raises ValueError for options that are unknown or exclude each other."""
    if options.model != "aligned" and not is_training(training_args):
        raise ValueError(
            f"The model {options.model!r} is to be trained, but for 0 epochs. Give --num_train_epochs or --max_steps."
        )
    unknown = [rank for rank in options.ranks if rank not in LABEL_COLUMNS]
    if unknown or not options.ranks or len(set(options.ranks)) != len(options.ranks):
        raise ValueError(f"--ranks are {options.ranks}. Choose one or more of {', '.join(LABEL_COLUMNS)}, each once.")
    check_rank_weights(options.rank_weights, options.ranks, "--ranks")
    if not set(options.validation_splits) <= set(QUESTIONS) and options.validation_splits != ["none"]:
        raise ValueError(
            f"--validation_splits are {options.validation_splits}. Choose among {', '.join(QUESTIONS)}, or 'none'."
        )
    if not options.temperature > 0:
        raise ValueError(f"--temperature is {options.temperature}. Give a number above 0.")
    if options.views < 1:
        raise ValueError(f"--views is {options.views}. Give 1 or more.")
    shape = [field for field in fields(options) if field.metadata["help"].startswith("aligned: ")]
    changed = [f"--{field.name}" for field in shape if getattr(options, field.name) != field.default]
    if options.model != "aligned" and changed:
        raise ValueError(f"{', '.join(changed)} cannot be chosen for the model {options.model!r}. Leave it out.")
    if is_training(training_args) and global_batch_size(training_args) < 2:
        raise ValueError("A batch of 1 row has nothing to compare. Give --per_device_train_batch_size 2 or more.")
    check_no_accumulation(training_args)
    check_workers(training_args)
    check_training(training_args)
    if training_args.do_eval or training_args.eval_on_start:
        raise ValueError("Nearest neighbours are searched at the end: leave --eval_strategy and --eval_on_start out.")


def load_split(options: ContrastOptions, split: str, ranks: Sequence[str]) -> Dataset:
    """Barcodes and label ids of a split; ValueError if there are no rows, or rows without a barcode."""
    how = {"unique_barcodes": options.unique_barcodes, "labels": options.labels}
    data = load_rows(options.source, split, ranks=list(ranks), **how)
    return data.select_columns(["dna_barcode", *(f"{rank}_index" for rank in ranks)])


def check_data(data: Dataset, options: ContrastOptions, training_args: ContrastArguments) -> None:
    """Raises ValueError unless the barcodes fill a batch and have positives at each rank."""
    if training_args.dataloader_drop_last:
        check_batch(data, options.train_split, training_args.per_device_train_batch_size * training_args.world_size)
    for rank in options.ranks:
        ids = data.with_format("numpy")[f"{rank}_index"][:]
        if np.unique(ids[ids != MISSING], return_counts=True)[1].max(initial=0) * options.views < 2:
            raise ValueError(
                f"No two barcodes of the split {options.train_split!r} have the same {rank}, so there is nothing to "
                f"learn. Choose other --ranks or another --train_split."
            )


def load_questions(options: ContrastOptions) -> dict[str, Dataset]:
    """Barcodes and label ids of the validation splits, and of the split `train`, in which neighbours are searched."""
    if options.validation_splits in (["none"], []):
        return {}
    questions = {split: load_split(options, split, [QUESTIONS[split]]) for split in options.validation_splits}
    return {"train": load_split(options, "train", list(QUESTIONS.values()))} | questions


class EncodedBarcodes:
    """Token ids and attention masks of the barcodes of a dataset, batch by batch each time it is iterated."""

    def __init__(self, tokenizer: KmerTokenizer, data: Dataset):
        self.tokenizer, self.data = tokenizer, data.select_columns(["dna_barcode"]).with_format("arrow")

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in self.data.iter(4096):
            ids, mask = self.tokenizer.encode_column(rows["dna_barcode"])
            yield torch.from_numpy(ids), torch.from_numpy(mask)


def make_model(options: ContrastOptions, data: Dataset) -> tuple[PreTrainedModel, KmerTokenizer]:
    """The encoder and its tokenizer: a new encoder fitted to the barcodes of the dataset, or a loaded one."""
    if options.model != "aligned":
        _, tokenizer = load_tokenizer(options.model, ENCODERS)
        return AutoModel.from_pretrained(pinned(options.model)), tokenizer
    share = options.profile_weight
    config = AlignedBarcodeConfig(
        positions=options.positions,
        embedding_size=options.embedding_size,
        hidden_size=options.hidden_size,
        profile_weight=(0.0 if options.embedding_size else 1.0) if share is None else share,
        training_data=Path(options.source).name,
    )
    tokenizer = KmerTokenizer(k=1, max_nucleotides=config.max_nucleotides)
    model = AlignedBarcodeModel(config)
    fit_once(model, EncodedBarcodes(tokenizer, data))
    return model, tokenizer


def fit_once(model: AlignedBarcodeModel, barcodes: EncodedBarcodes) -> None:
    """Fits the model in the main process, on its device; all others get the result, or its error."""
    state = PartialState()
    outcome: list[Any] = [None]
    if state.is_main_process:
        try:
            model.to(state.device).fit_region(barcodes)
            outcome = [model.cpu().state_dict()]
        except ValueError as error:
            outcome = [error]
    fitted: Any = broadcast_object_list(outcome)[0]
    if isinstance(fitted, ValueError):
        raise fitted
    model.load_state_dict(fitted)


def validate(model: PreTrainedModel, tokenizer: KmerTokenizer, data: dict[str, Dataset]) -> dict[str, float | None]:
    """Nearest-neighbour accuracy of the validation splits, by cosine to the split `train`; None without labels."""
    found: dict[str, float | None] = {}
    with inference(model):
        vectors = {split: embed_barcodes(model, tokenizer, rows["dna_barcode"][:])[0] for split, rows in data.items()}
    for split in [split for split in QUESTIONS if split in data]:
        rank = QUESTIONS[split]
        keys, asked = (data[part].with_format("numpy")[f"{rank}_index"][:] for part in ("train", split))
        labelled = (keys != MISSING).any() and (asked != MISSING).any()
        answers = knn_probe(vectors["train"], keys, vectors[split], asked) if labelled else None
        found[f"{rank} of {split}"] = answers.micro_accuracy if answers else None
    return found


def describe_model(model: PreTrainedModel) -> dict[str, Any]:
    """Type, shape and embedding size of an encoder, for results.json."""
    config = model.config.to_dict()
    size = model.config.output_size if config["model_type"] == "alignedbarcode" else config["hidden_size"]
    shape = {name: config[name] for name in SHAPE if name in config}
    return {"model_type": config["model_type"], **shape, "output_size": size}


def main(options: ContrastOptions, training_args: ContrastArguments) -> dict[str, Any]:
    """Trains an encoder, and gives the content of its results file; an empty dict in all but the main process.

    Raises ValueError, FileExistsError, or FileNotFoundError before anything is written.
    """
    check_options(options, training_args)
    how = Augmentation(**{field.name: getattr(options, field.name) for field in fields(Augmentation)})
    run = begin_run("barcodes/contrast", RUN_FILE, options, training_args)
    if run.finished:
        return run.finished
    with once_per_machine():
        data = load_split(options, options.train_split, options.ranks)
        questions = load_questions(options)
    run.about["splits"] = {options.train_split: len(data)}
    set_seed(training_args.seed)
    model, tokenizer = make_model(options, data)
    learns = is_training(training_args) and any(weight.requires_grad for weight in model.parameters())
    if learns:
        check_data(data, options, training_args)
    collator = AugmentingCollator(
        tokenizer,
        options.ranks,
        how,
        views=options.views,
        seed=training_args.seed,
        cut_padding=pools_by_mask(model),
    )
    trainer = ContrastTrainer(
        model=model,
        args=training_args,
        train_dataset=data,
        data_collator=collator,
        ranks=options.ranks,
        weights=options.rank_weights,
        temperature=options.temperature,
    )

    def evaluate() -> dict[str, float | None]:
        main_process = trainer.is_world_process_zero()
        return validate(cast(PreTrainedModel, trainer.model), tokenizer, questions) if main_process else {}

    return run_training(
        run,
        trainer,
        tokenizer,
        evaluate=evaluate,
        describe_model=describe_model,
        card=barcodebert_card,
        train=learns,
    )


#: Options from flags, or from one YAML file.
parse = partial(read_options, kinds=(ContrastOptions, ContrastArguments), program="contrast")

if __name__ == "__main__":
    run_program(lambda: main(*parse(sys.argv[1:])))
