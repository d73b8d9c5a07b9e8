"""Steps of the demo: the three benchmarks and the names of reads, in small."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch

from ..clustering.output import SpecimenPhotos, write_output
from ..clustering.protocol import cluster_embeddings
from ..clustering.protocol import read_specimens as read_clustered
from ..dataset.load import labels_of, load_bioscan5m
from ..encoders.barcode_encoders import load_encoder
from ..encoders.embed import embed
from ..evaluation.probing import probe_barcodes
from ..files import write_text
from ..identification.opening import open_references
from ..identification.report import SHOWN, write_report
from ..identification.tables import write_answers
from ..models.configuration_clibd import ClibdConfig
from ..models.modeling_clibd import ClibdModel
from ..models.pixels import BIOSCAN5M_MEAN, BIOSCAN5M_STD
from ..models.processing_clibd import ClibdProcessor, make_image_processor
from ..models.tokenization_kmer import KmerTokenizer
from ..schema import RANKS

#: What each page and card of a demo says.
MADE_UP = "Made-up data"
REMARK = (
    f"{MADE_UP}: a simulated release, with invented names, barcodes and photos. Numbers say nothing about insects."
)

#: A small BarcodeBERT.
BARCODEBERT = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}

#: A small CLIBD: a photo encoder of timm, photos of 40 pixels, a barcode encoder of one layer.
PHOTOS: dict[str, Any] = {"architecture": "resnet10t"}
PHOTOS |= {"model_args": {"channels": [24, 48, 96, 192], "norm_layer": "groupnorm1"}}
PIXELS, BARCODES = 40, {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 1, "num_attention_heads": 2}

PROBED, CLUSTERED = ("train", "test", "test_unseen"), ("test", "test_unseen")

#: Trainer options that every step uses.
_QUIET: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}


def run_trainer(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a training program with options and returns its results; what it prints is dropped."""
    trainer = import_module(f"bioscan_hf.trainers.{name}")
    several = {"use_cpu": torch.cuda.device_count() > 1}  # several GPUs would need a process each
    given = trainer.parse([f"--{key}={value}" for key, value in (_QUIET | several | dict(options)).items()])
    return _silently(trainer.main, given)


def _silently(program: Callable[..., dict[str, Any]], given: Iterable[Any]) -> dict[str, Any]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings(action="ignore"):
        return program(*given)


def pretrain(dataset: Path, output: Path, steps: int, seed: int) -> dict[str, Any]:
    """Pretrains BarcodeBERT on masked 4-mers."""
    options: dict[str, Any] = {
        "source": dataset,
        "train_split": "pretrain+train",
        "output_dir": output,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 24,
        "warmup_steps": 0.1,
        "dropout": 0.0,
        "logging_steps": max(steps // 30, 1),
        "seed": seed,
        **BARCODEBERT,
    }
    return run_trainer("pretrain_barcodebert", options)


def fit_aligned(dataset: Path, output: Path, seed: int) -> dict[str, Any]:
    """Fits the aligned-barcode encoder, without labels and gradients."""
    options = {"source": dataset, "output_dir": output, "embedding_size": 128, "validation_splits": "none"}
    return run_trainer("contrast_barcodes", options | {"seed": seed})


def probe(model: str, dataset: Path, output: Path) -> dict[str, Any]:
    """Task I: 1-NN accuracy of an encoder's embeddings of distinct barcodes."""
    encoder, processor = load_encoder(model)
    embeddings, labels = {}, {}
    for split in PROBED:
        data = load_bioscan5m(dataset, "dna", split, unique_barcodes=True)
        found = embed(encoder, processor, data, output=output / split)
        embeddings[split] = found.embeddings
        labels[split] = labels_of(dataset, split, found.processids)
    return probe_barcodes(embeddings, labels)


def cluster(dataset: Path, embeddings: Mapping[str, tuple[str, Path]], output: Path) -> dict[str, Any]:
    """Task II: agreement of clusters with taxa, by encoder; figures and map of the first.

    `embeddings` is the name of an encoder -> modality and folder of its embeddings.
    """
    results, specimens = {}, {}
    for name, (modality, folder) in embeddings.items():
        specimens[name] = read_clustered(dataset, {modality: folder}, splits=CLUSTERED, missing="drop")
        results[name] = cluster_embeddings(specimens[name], output / folder.name)
    first = next(iter(embeddings))
    photos = SpecimenPhotos(dataset, "cropped_256", "+".join(CLUSTERED), specimens[first].processids)
    where = output / embeddings[first][1].name
    with warnings.catch_warnings(action="ignore"):
        write_output(where, results, specimens[first], photos=photos, reducer="pca", title=f"{MADE_UP}: clusters")
    return {name: {rank: row.get("ami") for rank, row in one["metrics"].items()} for name, one in results.items()}


def train_clibd(dataset: Path, output: Path, steps: int, seed: int) -> dict[str, Any]:
    """Trains a small CLIBD of photos and barcodes from random weights."""
    torch.manual_seed(seed)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ClibdConfig(image_config=PHOTOS, dna_config={**BARCODES, **dropout, "k": 5}, projection_dim=64)
    start = output.with_name(f"{output.name}-start")
    ClibdModel(config).save_pretrained(start)
    images = make_image_processor(PIXELS, BIOSCAN5M_MEAN, BIOSCAN5M_STD)
    ClibdProcessor(images, KmerTokenizer(k=5)).save_pretrained(start)
    options: dict[str, Any] = {
        "source": dataset,
        "model": start,
        "output_dir": output,
        "max_steps": steps,
        "learning_rate": 2e-3,
        "per_device_train_batch_size": 48,
        "load_best_model_at_end": False,
        "logging_steps": max(steps // 30, 1),
        "seed": seed,
    }
    results = run_trainer("train_clibd", options)
    shutil.rmtree(start)
    return results


def retrieve(dataset: Path, model: Path, output: Path) -> dict[str, Any]:
    """Task III: retrieval between photos and barcodes, seen and unseen species."""
    program = import_module("bioscan_hf.trainers.evaluate_clibd")
    given = program.parse([f"--model={model}", f"--source={dataset}", f"--output_dir={output}"])
    return cast(dict[str, Any], _silently(program.evaluate, given)["metrics"]["model"]["tables"])


@dataclass(frozen=True)
class Named:
    """Answers for the reads of the test splits, and their true names in the same order."""

    references: int
    answers: pa.Table
    truth: pa.Table

    def counts(self) -> dict[str, Any]:
        """references and reads; rank -> how many names are reported at it, and how many of them are right."""
        named: dict[str, list[int]] = {rank: [0, 0] for rank in reversed(RANKS)}
        for answer, truth in zip(self.answers.to_pylist(), self.truth.to_pylist(), strict=True):
            rank = answer["rank"]
            if rank is not None and truth[rank] is not None:
                named[rank][0] += 1
                named[rank][1] += answer["name"] == truth[rank]
        given = {rank: numbers for rank, numbers in named.items() if numbers[0]}
        return {"references": self.references, "reads": len(self.answers), "named": given}


def name_reads(dataset: Path, output: Path) -> Named:
    """Names the reads of the test splits by the references of train; writes reads.fasta, names.csv and names.html."""
    data = load_bioscan5m(dataset, "dna", "+".join(CLUSTERED), columns=["processid", "dna_barcode", *RANKS])
    rows = data.with_format("arrow")[:]
    ids, reads = rows["processid"].to_pylist(), rows["dna_barcode"].to_pylist()
    write_text(output / "reads.fasta", "".join(f">{name}\n{read}\n" for name, read in zip(ids, reads, strict=True)))
    library = open_references([str(dataset)], split="train")
    answers = library.identify(reads, ids, neighbours=SHOWN)
    write_answers(answers.drop_columns("neighbours"), output / "names.csv")
    write_report(output / "names.html", answers, library, reads, title=f"{MADE_UP}: names of reads")
    return Named(len(library), answers, rows.select(list(RANKS)))


def mark_cards(output: Path) -> None:
    """Writes the remark of made-up data into every card below a folder, once."""
    for card in output.rglob("README.md"):
        text = card.read_text(encoding="utf-8")
        end = text.find("\n---\n", 4) + 5 if text.startswith("---\n") else 0
        if REMARK not in text:
            write_text(card, f"{text[:end]}\n> **{REMARK}**\n\n{text[end:].lstrip()}")
