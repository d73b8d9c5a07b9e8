"""Who names real barcodes best: k-mer counts, sequence search, a CNN, BarcodeBERT in five ways, and aligned barcodes.

    python benchmarks/bench_real_coi.py bold_coi5p.csv.gz --work out/real_coi

split -> build -> the project's own trainers -> nearest neighbours in train, or a classifier. The input is a metadata
CSV in BIOSCAN-5M columns in which every record has a species, so the partition is simulated: a share of the species is
treated as unnamed, and a share of the other barcodes loses its labels. Each barcode counts once in its split and is in
no other. Recipes are to be chosen by val and val_unseen alone. About 80 minutes on 2 cores; what is done stays in the
folder, and a run that is started again goes on. Speed is `bench_identify.py`'s business. Needs vsearch. The exit code
is 1 if aligned barcodes are worse than a peer by more than 0.2 points for any question of test and test_unseen.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.batches import embed_barcodes, inference
from bioscan_hf.encoders.cnn import classify, fit_cnn
from bioscan_hf.evaluation.probing import knn_probe, linear_probe
from bioscan_hf.files import write_json
from bioscan_hf.identification.sequence_search import neighbour_labels, search_nearest
from bioscan_hf.metrics import accuracy
from bioscan_hf.provenance import write_results

#: What is asked: split and rank. The first two are for choosing, the others for reporting.
QUESTIONS = (
    ("val", "species"),
    ("val_unseen", "genus"),
    ("test", "species"),
    ("test_unseen", "genus"),
    ("test_unseen", "family"),
    ("test_unseen", "order"),
)

RANKS = ("order", "family", "genus", "species")

#: A model that 2 CPU cores can train in about a quarter of an hour.
PRETRAINING = {
    "train_split": "pretrain",
    "validation_split": "none",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "dropout": 0.0,
    "max_steps": 2000,
    "per_device_train_batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
}

FINETUNING = {
    "model": "pretrained",
    "validation_split": "none",
    "unique_barcodes": True,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
}

#: BarcodeBERT fine-tuned by contrast, in the time that 2 cores have.
CONTRAST_BERT = {
    "model": "pretrained",
    "per_device_train_batch_size": 256,
    "num_train_epochs": 3,
    "learning_rate": 5e-4,
}

#: Learned projections of aligned barcodes.
LINEAR = {"embedding_size": 256, "num_train_epochs": 10}

#: Model folder -> trainer and its options.
MODELS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "profile": ("contrast_barcodes", {"embedding_size": 0}),
    "pca_128": ("contrast_barcodes", {"embedding_size": 128, "num_train_epochs": 0}),
    "pca_256": ("contrast_barcodes", {"embedding_size": 256, "num_train_epochs": 0}),
    "pca_512": ("contrast_barcodes", {"embedding_size": 512, "num_train_epochs": 0}),
    "pca_1024": ("contrast_barcodes", {"embedding_size": 1024, "num_train_epochs": 0}),
    "linear_species": ("contrast_barcodes", LINEAR),
    "linear_bin": ("contrast_barcodes", {**LINEAR, "ranks": ["dna_bin"], "train_split": "train+pretrain"}),
    "linear_ranks": ("contrast_barcodes", {**LINEAR, "ranks": list(RANKS)}),
    "linear_third": ("contrast_barcodes", {**LINEAR, "third_substitution": 0.1}),
    "hidden_species": ("contrast_barcodes", {**LINEAR, "hidden_size": 1024, "learning_rate": 1e-3}),
    "profile_and_hidden": (
        "contrast_barcodes",
        {**LINEAR, "hidden_size": 1024, "learning_rate": 1e-3, "profile_weight": 0.75},
    ),
    "pretrained": ("pretrain_barcodebert", PRETRAINING),
    "finetuned": (
        "finetune_barcodebert",
        {**FINETUNING, "ranks": list(RANKS), "test_splits": ["test", "test_unseen"]},
    ),
    "contrast_species": ("contrast_barcodes", {**CONTRAST_BERT, "ranks": ["species"]}),
}

#: Name in the table -> encoder whose nearest neighbours answer.
ENCODERS = {
    "4-mer counts": "kmer:4",
    "6-mer counts": "kmer:6",
    "4- and 6-mer counts": "kmer:4+6",
    "BarcodeBERT, masked k-mers only": "pretrained",
    "BarcodeBERT, fine-tuned, 1-NN": "finetuned",
    "BarcodeBERT, contrast of species": "contrast_species",
    "aligned, whole profile": "profile",
    "aligned, 128 principal components": "pca_128",
    "aligned, 256 principal components": "pca_256",
    "aligned, 512 principal components": "pca_512",
    "aligned, 1,024 principal components": "pca_1024",
    "aligned, linear 256, species": "linear_species",
    "aligned, linear 256, BINs": "linear_bin",
    "aligned, linear 256, four ranks": "linear_ranks",
    "aligned, linear 256, third codon positions": "linear_third",
    "aligned, hidden layer, species": "hidden_species",
    "aligned, profile and hidden layer": "profile_and_hidden",
}

Barcodes = dict[str, list[str]]
Labels = dict[str, dict[str, NDArray[np.int64]]]
Answers = dict[str, dict[str, Any]]

#: The claim: this way is not worse than these by more than a share of the answers.
CLAIMED, PEERS, WORSE = (
    "aligned, whole profile",
    ("vsearch, 8 candidates", "vsearch, 32 candidates", "6-mer counts"),
    0.002,
)


def run(*command: str, cwd: Path) -> str:
    """Standard output of a command, which must succeed."""
    print("$", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


def bioscan_hf(*arguments: str, cwd: Path) -> dict[str, Any]:
    """What a command of `bioscan-hf` prints as JSON."""
    return json.loads(run(sys.executable, "-m", "bioscan_hf.cli.main", *arguments, "--json", cwd=cwd))


def train(work: Path, name: str, steps: float) -> dict[str, Any]:
    """Content of the results file of a model's training, which is run if there is none. `steps` scales its length."""
    program, options = MODELS[name]
    done = work / name / "results.json"
    if not done.is_file():
        chosen: dict[str, Any] = {"source": "dataset", "output_dir": name, "seed": 0, "save_strategy": "no"}
        chosen |= {"eval_strategy": "no", "disable_tqdm": True, "use_cpu": True, "bf16": True, **options}
        for length in ("max_steps", "num_train_epochs"):
            if length in chosen and steps != 1:
                chosen[length] = max(1, round(chosen[length] * steps)) if chosen[length] else 0
        flags = []
        for option, value in chosen.items():
            flags += [f"--{option}", *(map(str, value) if isinstance(value, list) else [str(value)])]
        launch = ("accelerate", "launch", "--num_processes", "1", "--num_cpu_threads_per_process", "2", "-m")
        run(*launch, f"bioscan_hf.trainers.{program}", *flags, "--force", "true", cwd=work)
    return json.loads(done.read_text(encoding="utf-8"))


def load(work: Path) -> tuple[Barcodes, Labels, dict[str, dict[str, int]]]:
    """Split -> barcodes, and split -> rank -> label ids, each barcode once; and rank -> name in train -> id."""
    barcodes, labels = {}, {}
    ids_of: dict[str, dict[str, int]] = {}
    for split in ("train", "val", "val_unseen", "test", "test_unseen"):
        data: Any = load_bioscan5m(str(work / "dataset"), split=split, ranks=list(RANKS), unique_barcodes=True)
        barcodes[split] = data["dna_barcode"][:]
        labels[split] = {rank: np.array(data[f"{rank}_index"][:], np.int64) for rank in RANKS}
        if split == "train":
            ids_of = {rank: dict(zip(data[rank][:], labels[split][rank].tolist(), strict=True)) for rank in RANKS}
    return barcodes, labels, ids_of


def score(predictions: Mapping[tuple[str, str], Any], labels: Labels) -> Answers:
    """Accuracy of each question that was answered."""
    return {
        f"{rank} of {split}": dict(accuracy(ids, labels[split][rank])) for (split, rank), ids in predictions.items()
    }


def by_encoder(encoder: str, barcodes: Barcodes, labels: Labels) -> Answers:
    """Nearest neighbours by cosine of embeddings."""
    model, processor = load_encoder(encoder)
    with inference(model):
        vectors = {split: embed_barcodes(model, processor, rows)[0] for split, rows in barcodes.items()}
    predictions = {}
    for split, rank in QUESTIONS:
        keys, queries = vectors["train"], vectors[split]
        predictions[split, rank] = knn_probe(keys, labels["train"][rank], queries, labels[split][rank]).predictions
    return score(predictions, labels)


def by_search(barcodes: Barcodes, labels: Labels, **options: Any) -> Answers:
    """Nearest references by alignment; there is nothing to choose, so val and val_unseen are not asked."""
    questions = QUESTIONS[2:]
    splits = dict.fromkeys(split for split, _ in questions)
    found = {split: search_nearest(barcodes["train"], barcodes[split], threads=2, **options) for split in splits}
    answers = score(
        {(split, rank): neighbour_labels(found[split].neighbours, labels["train"][rank]) for split, rank in questions},
        labels,
    )
    answers["search"] = {"command": found["test"].command, "version": found["test"].version}
    return answers


def by_cnn(folder: Path, barcodes: Barcodes, labels: Labels, steps: float) -> Answers:
    """The CNN's classes for species, and nearest neighbours of its features for the rest."""
    model = fit_cnn(
        barcodes["train"],
        labels["train"]["species"],
        validation=(barcodes["val"], labels["val"]["species"]),
        epochs=max(1, round(20 * steps)),
    ).model
    seen = {(split, "species"): classify(model, barcodes[split]) for split in ("val", "test")}
    model.save_pretrained(folder)
    nearest = by_encoder(f"cnn:{folder}", barcodes, labels)
    return {**nearest, **score(seen, labels)}


def by_linear_probe(encoder: str, barcodes: Barcodes, labels: Labels) -> Answers:
    """Logistic regression on embeddings."""
    model, processor = load_encoder(encoder)
    with inference(model):
        vectors = {split: embed_barcodes(model, processor, rows)[0] for split, rows in barcodes.items()}
    predictions = {}
    for split, rank in QUESTIONS[2:]:  # there is nothing to choose
        known = labels["train"][rank]
        predictions[split, rank] = linear_probe(
            vectors["train"], known, vectors[split], labels[split][rank]
        ).predictions
    return score(predictions, labels)


def by_classifier(folder: Path, barcodes: Barcodes, labels: Labels, ids_of: dict[str, dict[str, int]]) -> Answers:
    """The classes of a fine-tuned classifier, each rank on its own."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    predictions = {}
    for split in dict.fromkeys(split for split, _ in QUESTIONS):
        ids, mask = map(torch.from_numpy, tokenizer.encode_column(barcodes[split]))
        with torch.inference_mode():
            pairs = zip(ids.split(256), mask.split(256), strict=True)
            logits = model.rank_logits(torch.cat([model(*pair).logits for pair in pairs]))
        for rank in [rank for asked, rank in QUESTIONS if asked == split]:
            classes = np.array([ids_of[rank][name] for name in model.config.taxa[rank]])
            predictions[split, rank] = classes[logits[rank].argmax(1).numpy()]
    return score(predictions, labels)


def answered(work: Path, name: str, make: Callable[[], Answers]) -> Answers:
    """The answers of a way, computed if they are not on disk."""
    path = work / "answers" / f"{name.replace(' ', '_').replace(',', '')}.json"
    if not path.is_file():
        start = time.perf_counter()
        path.parent.mkdir(exist_ok=True)
        answers = make()
        write_json(path, answers)
        shown = {key: round(value["micro_accuracy"], 4) for key, value in answers.items() if "micro_accuracy" in value}
        print(f"{name}: {shown} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def ways(
    work: Path, barcodes: Barcodes, labels: Labels, ids_of: dict[str, dict[str, int]], steps: float
) -> dict[str, Callable[[], Answers]]:
    """Name in the table -> what answers."""

    def encoder(name: str) -> Callable[[], Answers]:
        return lambda: by_encoder(str(work / name) if name in MODELS else name, barcodes, labels)

    return {
        "vsearch, 8 candidates": lambda: by_search(barcodes, labels, candidates=8),
        "vsearch, 32 candidates": lambda: by_search(barcodes, labels, candidates=32),
        "CNN": lambda: by_cnn(work / "cnn", barcodes, labels, steps),
        **{text: encoder(name) for text, name in ENCODERS.items()},
        "BarcodeBERT, linear probe": lambda: by_linear_probe(str(work / "pretrained"), barcodes, labels),
        "BarcodeBERT, fine-tuned, classifier": lambda: by_classifier(work / "finetuned", barcodes, labels, ids_of),
    }


def missed(metrics: Mapping[str, Answers]) -> list[str]:
    """Questions of the test splits for which aligned barcodes are worse than a peer."""
    found = []
    for question, answer in metrics[CLAIMED].items():
        for peer in PEERS:
            other = metrics[peer].get(question, {}).get("micro_accuracy", 0.0)
            if "of test" in question and answer["micro_accuracy"] < other - WORSE:
                found.append(f"{question}: {answer['micro_accuracy']:.1%}, {peer} {other:.1%}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="metadata CSV in which every record has a species")
    parser.add_argument("--work", type=Path, required=True, help="folder; what is done there is not done again")
    parser.add_argument("--hold-out-species", default="0.15")
    parser.add_argument("--unlabel", default="0.5")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--steps", type=float, default=1.0, help="scales every training; below 1 for a trial")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/real_coi.json")
    args = parser.parse_args()

    start, work, output = time.perf_counter(), args.work.resolve(), args.output.resolve()
    work.mkdir(parents=True, exist_ok=True)
    divided_file = work / "split.csv.results.json"
    if not divided_file.is_file():
        simulation = ["--hold-out-species", args.hold_out_species, "--unlabel", args.unlabel, "--seed", args.seed]
        bioscan_hf("split", str(args.source.resolve()), "split.csv", *simulation, cwd=work)
        bioscan_hf("build", "split.csv", "dataset", cwd=work)
    divided = json.loads(divided_file.read_text(encoding="utf-8"))
    barcodes, labels, ids_of = load(work)
    trainings = {name: train(work, name, args.steps) for name in MODELS}
    metrics = {
        name: answered(work, name, make) for name, make in ways(work, barcodes, labels, ids_of, args.steps).items()
    }
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    write_results(
        output,
        task="benchmark/real_coi",
        dataset=f"{args.source.name}: real COI-5P barcodes of insects, public records of BOLD",
        partition={**divided["options"], "splits": divided["splits"]},
        protocol="1-NN by cosine or alignment, or a classifier; keys are train; each barcode once, in one split",
        barcodes={split: len(rows) for split, rows in barcodes.items()},
        trainings={
            name: {key: found[key] for key in ("options", "steps", "precision", "seconds", "metrics", "commit")}
            for name, found in trainings.items()
        },
        seconds=round(time.perf_counter() - start, 1),
        cpu_seconds_of_children=round(used.ru_utime + used.ru_stime, 1),
        missed=missed(metrics),
        metrics=metrics,
    )
    print(*missed(metrics), sep="\n")
    return int(bool(missed(metrics)) and args.steps >= 1)


if __name__ == "__main__":
    raise SystemExit(main())
