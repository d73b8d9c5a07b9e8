"""The trainers and the evaluation of CLIBD: names, examples and options, and the page that `--help` shows."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from .clibd import ClibdDefaults, ClibdOptions
from .contrast import ContrastDefaults, ContrastOptions
from .evaluate import EvaluateOptions
from .finetune import FinetuningOptions
from .given import is_required
from .pretrain import PretrainingOptions
from .shared import BarcodeTrainingDefaults

START = "accelerate launch --num_processes 4 -m bioscan_hf.cli.main"
LAUNCH = f"{START} train"


@dataclass(frozen=True)
class Program:
    """A trainer, or an evaluation."""

    module: str  # in `bioscan_hf.trainers`
    about: str  # what it does, in one line
    examples: tuple[str, str]  # command lines of one process, and of several
    options: type  # dataclass
    training: type | None  # dataclass of its defaults for transformers' Trainer; None for an evaluation


PROGRAMS = {
    "pretrain": Program(
        "pretrain_barcodebert",
        "Pretrain BarcodeBERT, BarcodeMAE or a BarcodeMamba on the k-mers of barcodes.",
        (
            "bioscan-hf train pretrain --source dataset --preset main --output_dir out/barcodebert",
            f"{LAUNCH} pretrain --source dataset --preset barcodemae-plus --output_dir out/barcodemae",
        ),
        PretrainingOptions,
        BarcodeTrainingDefaults,
    ),
    "finetune": Program(
        "finetune_barcodebert",
        "Fine-tune a pretrained encoder to classify taxa.",
        (
            "bioscan-hf train finetune --source dataset --model out/barcodebert --ranks genus species "
            "--output_dir out/taxa",
            f"{LAUNCH} finetune --source dataset --model out/barcodebert --preset published --output_dir out/species",
        ),
        FinetuningOptions,
        BarcodeTrainingDefaults,
    ),
    "contrast": Program(
        "contrast_barcodes",
        "Fit the aligned-barcode encoder, or train an encoder by contrastive learning of taxa.",
        (
            "bioscan-hf train contrast --source dataset --output_dir out/aligned",
            f"{LAUNCH} contrast --source dataset --model out/barcodebert --num_train_epochs 10 "
            "--output_dir out/contrast",
        ),
        ContrastOptions,
        ContrastDefaults,
    ),
    "clibd": Program(
        "train_clibd",
        "Train CLIBD: photos, barcodes and names in one embedding space.",
        (
            "bioscan-hf train clibd --source dataset --output_dir out/clibd",
            f"{LAUNCH} clibd --source dataset --preset published --dna_encoder out/barcodebert "
            "--output_dir out/clibd4",
        ),
        ClibdOptions,
        ClibdDefaults,
    ),
}


EVALUATIONS = {
    "clibd": Program(
        "evaluate_clibd",
        "Measure retrieval by CLIBD: seen and unseen species, every pair of modalities, chance beside it.",
        (
            "bioscan-hf evaluate clibd --model out/clibd --source dataset --output_dir out/retrieval",
            f"{START} evaluate clibd --model out/clibd --source dataset --output_dir out/retrieval --force",
        ),
        EvaluateOptions,
        None,
    ),
}

#: Group of commands -> name -> program.
GROUPS = {"train": PROGRAMS, "evaluate": EVALUATIONS}


def help_page(name: str, group: str = "train") -> str:
    """The page of a program: examples, then our own options."""
    program = GROUPS[group][name]
    width = min(shutil.get_terminal_size((100, 24)).columns, 119)
    needed = " ".join(f"--{one.name} {one.name.upper()}" for one in fields(program.options) if is_required(one))
    lines = [f"Usage: bioscan-hf {group} {name} [OPTIONS.yaml] {needed} [OPTIONS]", "", "Examples:"]
    lines += [f"  {example}" for example in program.examples]
    lines += ["", program.about, "", "Options:", *_described(program.options, width)]
    text = "The first word may be a YAML file with one `name: value` per line, which flags override."
    if program.training is not None:
        lines += ["", "Training (defaults of this program):", *_described(program.training, width)]
        text += (
            " --resume_from_checkpoint last resumes a stopped run. The options of transformers' Trainer can be given "
            "as well: --help-all lists them."
        )
    return "\n".join([*lines, "", *textwrap.wrap(text, width)])


def _described(kind: type, width: int) -> Iterator[str]:
    """Lines that describe the options of a dataclass, under its `HEADINGS` if it has some."""
    headings = vars(kind).get("HEADINGS", {})
    for option in fields(kind):
        if option.name in headings:
            yield from ("", f"{headings[option.name]}:")
        text = f"{option.metadata['help']} {_default(option)}".strip()
        yield from textwrap.wrap(
            text, width, initial_indent=f"  --{option.name:<28} ", subsequent_indent=" " * 33, break_on_hyphens=False
        )


def _default(option: Field[Any]) -> str:
    """The default of an option, where its help does not tell it."""
    if is_required(option):
        return "[required]"
    value = option.default if option.default_factory is MISSING else option.default_factory()
    if value is None or value == "":
        return ""
    return f"[{' '.join(map(str, value)) if isinstance(value, list) else value}]"
