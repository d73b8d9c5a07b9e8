"""Fits the aligned-barcode encoder; trains it, or any other barcode encoder, so that reads of a taxon lie together.

The recipe of this package for identification by the nearest reference. What measured best needs no gradients: a region
and principal components, fitted to barcodes without labels (README and benchmarks/results/real_coi.json tell what was
tried). Full run, seconds for 13,500 barcodes:

    python trainers/contrast_barcodes.py --source dataset --output_dir out/aligned

`--num_train_epochs 10` goes on with supervised contrastive learning (https://arxiv.org/abs/2004.11362) over altered
reads, from the species (or BINs, `--ranks dna_bin`) of the training split, which helps small embeddings and fine-tunes
`--model FOLDER`: a BarcodeBERT, a BarcodeMamba or an aligned-barcode encoder. Smoke run over a made-up release:

    bioscan-hf simulate out/release
    python trainers/contrast_barcodes.py --source out/release --output_dir out/smoke --max_steps 3 \
        --per_device_train_batch_size 64

`--embedding_size 0` is the profile alone: the most accurate, and 2,632 numbers wide. Processes, YAML files and
resuming are as in pretrain_barcodebert.py. One process and two take the same steps; a batch cannot be accumulated from
smaller ones, because its rows are contrasted with each other, and `--gradient_accumulation_steps` is refused:
`--gradient_checkpointing` saves memory instead, where the model is a BarcodeBERT or a BarcodeMamba.

In the output folder: the model and its tokenizer, `results.json` (options, data, loss curve, nearest-neighbour
accuracy of the validation splits, whose references are the split `train`), the model card, and `trainer_state.json`.
"""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoConfig, AutoModel, PreTrainedModel, set_seed

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.cards import write_card
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.batches import embed_barcodes, inference, pools_by_mask
from bioscan_hf.evaluation.probing import knn_probe
from bioscan_hf.files import file_hash
from bioscan_hf.hub.cards import barcodebert_card
from bioscan_hf.losses.rows import supervised_contrastive_loss
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.provenance import write_results
from bioscan_hf.schema import LABEL_COLUMNS, MISSING
from bioscan_hf.training.arguments import (
    BarcodeTrainer,
    BarcodeTrainingArguments,
    CheckpointCallback,
    EpochCallback,
    check_processes,
    describe_machine,
    describe_run,
    describe_training,
    find_checkpoint,
    loss_curve,
    read_options,
    remove_checkpoints,
    scaled_learning_rate,
)
from bioscan_hf.training.augmentation import Augmentation, AugmentingCollator

logger = logging.getLogger(__name__)

#: Written into a checkpoint last of all: a checkpoint without it is incomplete.
RUN_FILE = "contrast.json"

#: Validation split -> the rank that nearest neighbours in the split `train` are asked for.
QUESTIONS = {"val": "species", "val_unseen": "genus"}

#: Model types that can be trained.
ENCODERS = ("alignedbarcode", "barcodebert", "barcodemamba")


@dataclass
class ContrastOptions:
    """What is learned, from which barcodes, by which model."""

    source: str = field(metadata={"help": "Hub id, folder of Parquet, release folder or metadata CSV of BIOSCAN-5M."})
    model: str = field(default="aligned", metadata={"help": "'aligned' for a new one, or a folder or Hub id."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from; 'a+b' joins two."})
    validation_splits: list[str] = field(
        default_factory=lambda: list(QUESTIONS), metadata={"help": f"Some of {', '.join(QUESTIONS)}; 'none' for none."}
    )
    unique_barcodes: bool = field(default=True, metadata={"help": "Keep one specimen of each barcode."})
    ranks: list[str] = field(
        default_factory=lambda: ["species"], metadata={"help": "Ranks, or dna_bin, whose taxa belong together."}
    )
    rank_weights: list[float] | None = field(
        default=None, metadata={"help": "One weight for each of --ranks. If not given: all alike."}
    )
    temperature: float = field(default=0.1, metadata={"help": "Divides the cosines."})
    views: int = field(default=1, metadata={"help": "Altered reads of each barcode in a batch."})
    truncation: float = field(default=0.5, metadata={"help": "Probability that a read is cut at an end."})
    largest_cut: float = field(default=0.4, metadata={"help": "Largest share that is cut off at an end."})
    substitution: float = field(default=0.01, metadata={"help": "Rate at first and second codon positions."})
    third_substitution: float = field(default=0.01, metadata={"help": "Rate at third codon positions."})
    unread: float = field(default=0.0, metadata={"help": "Probability that a stretch becomes N."})
    positions: int = field(default=658, metadata={"help": "aligned: nucleotides of a whole barcode."})
    embedding_size: int = field(default=512, metadata={"help": "aligned: width of the learned part; 0 for none."})
    hidden_size: int = field(default=0, metadata={"help": "aligned: width of its hidden layer; 0 for none."})
    profile_weight: float | None = field(
        default=None, metadata={"help": "aligned: share of the profile in the cosine. If not given: 0, or all of it."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Delete the checkpoints in output_dir and start anew."})


@dataclass
class ContrastArguments(BarcodeTrainingArguments):
    """The arguments of every trainer, with the values of this recipe."""

    output_dir: str = field(default="barcode_encoder", metadata={"help": "Where the model and the results go."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Peak learning rate."})
    per_device_train_batch_size: int = field(default=1024, metadata={"help": "Barcodes per process and batch."})
    num_train_epochs: float = field(default=0.0, metadata={"help": "Passes over the training split; 0 only fits."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    eval_strategy: str = field(default="no", metadata={"help": "The validation splits are asked at the end."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Each process needs as many rows."})
    similar_lengths: bool = field(default=False, metadata={"help": "A batch contrasts reads of any length."})


class ContrastTrainer(BarcodeTrainer):
    """A Trainer whose loss is over the rows of all processes."""

    def __init__(
        self, *args: Any, ranks: Sequence[str], weights: Sequence[float] | None, temperature: float, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.ranks = list(ranks)
        self.weights = None if weights is None else dict(zip(ranks, weights, strict=True))
        self.temperature = temperature
        self.model_accepts_loss_kwargs = False  # the loss is a mean already

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
    """Whether steps are asked for."""
    return training_args.num_train_epochs > 0 or training_args.max_steps > 0


def check_options(options: ContrastOptions, training_args: ContrastArguments) -> None:
    """Raises ValueError for values that no run can have."""
    check_processes(training_args)
    if options.model != "aligned" and not is_training(training_args):
        raise ValueError(f"Nothing is asked of the model {options.model!r}: give --num_train_epochs or --max_steps.")
    unknown = [rank for rank in options.ranks if rank not in LABEL_COLUMNS]
    if unknown or not options.ranks or len(set(options.ranks)) != len(options.ranks):
        raise ValueError(f"ranks are {options.ranks}. Choose among {', '.join(LABEL_COLUMNS)}, each once.")
    given = options.rank_weights
    if given is not None and (len(given) != len(options.ranks) or not all(weight > 0 for weight in given)):
        raise ValueError(f"rank_weights are {given}: give one above 0 for each of {', '.join(options.ranks)}.")
    if not set(options.validation_splits) <= set(QUESTIONS) and options.validation_splits != ["none"]:
        raise ValueError(
            f"validation_splits are {options.validation_splits}. Choose among {', '.join(QUESTIONS)}, or 'none'."
        )
    if not options.temperature > 0:
        raise ValueError(f"temperature is {options.temperature}, but divides cosines: give a positive number.")
    if options.views < 1:
        raise ValueError(f"views is {options.views}, but a batch holds each barcode once or more.")
    shape = [option for option in fields(options) if option.metadata["help"].startswith("aligned: ")]
    changed = [option.name for option in shape if getattr(options, option.name) != option.default]
    if options.model != "aligned" and changed:
        raise ValueError(f"{', '.join(changed)} cannot be chosen for the model {options.model!r}. Leave it out.")
    if training_args.similar_lengths:
        raise ValueError("similar_lengths would contrast reads with those of their length alone. Leave it out.")
    if training_args.gradient_accumulation_steps != 1:
        raise ValueError(
            f"gradient_accumulation_steps is {training_args.gradient_accumulation_steps}, but rows are contrasted "
            f"within one batch. Give a larger per_device_train_batch_size, and --gradient_checkpointing if memory "
            f"does not suffice."
        )
    if training_args.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would alter reads alike in each epoch. Leave it out.")


def load_rows(options: ContrastOptions, split: str, ranks: Sequence[str]) -> Dataset:
    """Barcodes and label ids of a split.

    Raises:
        ValueError: if there are no rows, or rows without a barcode.
    """
    data = cast(
        Dataset,
        load_bioscan5m(options.source, split=split, ranks=list(ranks), unique_barcodes=options.unique_barcodes),
    ).select_columns(["dna_barcode", *(f"{rank}_index" for rank in ranks)])
    if len(data) == 0:
        raise ValueError(f"The split {split!r} of {options.source!r} has no rows. Choose another split or source.")
    batches = data.select_columns(["dna_barcode"]).with_format("arrow").iter(batch_size=10_000)
    missing = sum(pc.sum(pc.equal(pc.fill_null(batch["dna_barcode"], ""), "")).as_py() for batch in batches)
    if missing:
        raise ValueError(f"{missing} of {len(data)} rows of the split {split!r} have no barcode. Remove them first.")
    return data


def check_data(data: Dataset, options: ContrastOptions, training_args: ContrastArguments) -> None:
    """Raises ValueError unless something can be learned from the barcodes."""
    smallest = training_args.per_device_train_batch_size * training_args.world_size
    if training_args.dataloader_drop_last and len(data) < smallest:
        raise ValueError(
            f"The split {options.train_split!r} has {len(data)} barcodes, fewer than one batch over all processes "
            f"({smallest}). Give a smaller per_device_train_batch_size."
        )
    for rank in options.ranks:
        ids = data.with_format("numpy")[f"{rank}_index"][:]
        if np.unique(ids[ids != MISSING], return_counts=True)[1].max(initial=0) * options.views < 2:
            raise ValueError(
                f"No two barcodes of the split {options.train_split!r} have the same {rank}, so that nothing can be "
                f"learned from it. Choose other ranks or another train_split."
            )


def load_questions(options: ContrastOptions) -> dict[str, Dataset]:
    """Barcodes and label ids of the validation splits, and of the split `train`, where their answers are sought.

    Raises:
        ValueError: if the source lacks one of these splits.
    """
    if options.validation_splits in (["none"], []):
        return {}
    questions = {split: load_rows(options, split, [QUESTIONS[split]]) for split in options.validation_splits}
    return {"train": load_rows(options, "train", list(QUESTIONS.values()))} | questions


def make_model(options: ContrastOptions, barcodes: Sequence[str]) -> tuple[PreTrainedModel, KmerTokenizer]:
    """The encoder, new and fitted to the barcodes' region, or loaded; and its tokenizer."""
    if options.model == "aligned":
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
        model.fit_region(encode_batches(tokenizer, barcodes))
        return model, tokenizer
    if not Path(options.model).is_dir() and (Path(options.model).is_absolute() or options.model.count("/") != 1):
        raise FileNotFoundError(
            f"There is no folder {options.model!r}, and it is no Hub id. Name a model, or 'aligned'."
        )
    config = AutoConfig.from_pretrained(options.model)
    if config.model_type not in ENCODERS:
        raise ValueError(
            f"{options.model!r} holds a model of type {config.model_type!r}. Give 'aligned', or a model of a type "
            f"among {', '.join(ENCODERS)}."
        )
    tokenizer = KmerTokenizer.from_pretrained(options.model)
    for name in ("k", "vocabulary", "max_nucleotides"):
        if getattr(tokenizer, name) != getattr(config, name):
            raise ValueError(
                f"The tokenizer of {options.model!r} has {name} {getattr(tokenizer, name)!r}, its config "
                f"{getattr(config, name)!r}: they belong to different models."
            )
    return AutoModel.from_pretrained(options.model), tokenizer


def encode_batches(
    tokenizer: KmerTokenizer, barcodes: Sequence[str], size: int = 4096
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and attention masks of barcodes."""
    parts = [tokenizer.encode_column(barcodes[start : start + size]) for start in range(0, len(barcodes), size)]
    return [(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in parts]


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


def report(trainer: ContrastTrainer, metrics: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Writes `results.json` and the model card, and gives the content of the first."""
    output, model = Path(trainer.args.output_dir), cast(PreTrainedModel, trainer.model)
    curve = loss_curve(trainer)
    config = model.config.to_dict()
    shape = ["k", "vocabulary", "pooling", "hidden_size", "num_hidden_layers", "num_attention_heads"]
    shape += ["state_size", "embedding_size", "profile_weight", "positions", "anchor_k"]
    results = write_results(
        output / "results.json",
        task="barcodes/contrast",
        seed=trainer.args.seed,
        model={
            "path": trainer.args.output_dir,
            "sha256": file_hash(output / "model.safetensors"),
            "parameters": model.num_parameters(),
            "model_type": model.config.model_type,
            **{name: config[name] for name in shape if name in config},
            "output_size": model.config.output_size
            if config["model_type"] == "alignedbarcode"
            else config["hidden_size"],
        },
        steps=trainer.state.global_step,
        loss_curve=curve,
        metrics={"train_loss_nats": curve[-1][1] if curve else None, **metrics},
        **describe_machine(trainer.args),
        **about,
    )
    write_card(output / "README.md", barcodebert_card(output.resolve().name, results))
    return results


def main(options: ContrastOptions, training_args: ContrastArguments) -> dict[str, Any]:
    """Trains an encoder, saves it in `training_args.output_dir`, and gives the content of its results file.

    Only the main process writes, and only there is the content given; elsewhere it is empty.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: before anything is written, if the options, the data, the model
            or the output folder do not allow the run.
    """
    start = time.perf_counter()
    check_options(options, training_args)
    how = Augmentation(
        options.truncation, options.largest_cut, options.substitution, options.third_substitution, options.unread
    )
    run = describe_run(options, training_args)
    output_dir = Path(training_args.output_dir)
    checkpoint = find_checkpoint(output_dir, training_args.resume_from_checkpoint, options.overwrite, RUN_FILE, run)
    with training_args.main_process_first(desc="loading the barcodes"):
        data = load_rows(options, options.train_split, options.ranks)
        questions = load_questions(options)
    set_seed(training_args.seed)
    model, tokenizer = make_model(options, data["dna_barcode"][:])
    learns = is_training(training_args) and any(weight.requires_grad for weight in model.parameters())
    if learns:
        check_data(data, options, training_args)
    if options.overwrite and training_args.should_save:
        remove_checkpoints(output_dir)

    about: dict[str, Any] = {"options": asdict(options) | describe_training(training_args)}
    about["dataset"] = options.source
    training_args.learning_rate = scaled_learning_rate(training_args)
    training_args.scale_learning_rate = False  # it is scaled now
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
        callbacks=[EpochCallback(collator), CheckpointCallback(tokenizer, output_dir, RUN_FILE, run)],
    )
    if learns:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    trainer.save_model()
    trainer.save_state()
    results: dict[str, Any] = {}
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(output_dir)
        metrics = validate(cast(PreTrainedModel, trainer.model), tokenizer, questions)
        about |= {"splits": {options.train_split: len(data)}, "seconds": round(time.perf_counter() - start, 3)}
        results = report(trainer, metrics, about)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return results


def parse(arguments: Sequence[str]) -> tuple[ContrastOptions, ContrastArguments]:
    """Options from flags, or from one YAML file."""
    options, training_args = read_options(arguments, (ContrastOptions, ContrastArguments))
    return options, training_args


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # its threads, left running, could abort the exit
