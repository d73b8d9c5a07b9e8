"""Every barcode encoder on the same real barcodes: names, clusters, size and speed.

    python benchmarks/bench_encoders.py bold_coi5p.csv.gz --work out/encoders        # 15 minutes of CPU
    python benchmarks/bench_encoders.py bold_coi5p.csv.gz --work out/trial --steps 2 --output trial.json

The partition is that of `real_barcodes.py`, each barcode once. The nearest neighbour in train, by cosine, names the
species of test and the genus of test_unseen, whose species were never seen. Ward's method divides test and test_unseen
into as many clusters as they have species (AMI of species). Encoders that learn by steps are small, have one width and
take the same few steps, with the recipe of `bench_objectives.py`; with its folder as --objectives, its models of seed
0 are used where they are finished. So their rows say what a minute of a CPU gives, not what they can reach. Speed is
barcodes per second of CPU, tokenizing included; encoders take turns, and the median of the turns counts. What is done
stays in the folder, and a run that is started again goes on.

Claim: both aligned encoders name at least as many species of test, and more genera of test_unseen, than every encoder
that learns nothing. The exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_objectives import OBJECTIVES, QUESTIONS, RECIPE, Rows, load, train, untrained
from claims import ended
from numpy.typing import NDArray

from bioscan_hf.clustering.cluster import zero_shot_cluster
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.batches import embed_barcodes, inference
from bioscan_hf.encoders.cnn import fit_cnn
from bioscan_hf.evaluation.intervals import species_intervals
from bioscan_hf.evaluation.probing import knn_probe
from bioscan_hf.files import write_json
from bioscan_hf.metrics import accuracy

#: Asked in the end; the other questions of `bench_objectives.py` are for choosing recipes.
ASKED = QUESTIONS[2:]

MAMBA: dict[str, Any] = {"backbone": "mamba", "mamba_block": "published", "vocabulary": "barcodemamba", "k": 6}
MAMBA |= {"head_dim": 32, "state_size": 16, "objective": "next", "loss_on": "all"}

#: Row of the table -> options of pretraining, beside `RECIPE`. The last is the slowest.
TRAINED: dict[str, dict[str, Any]] = {
    "BarcodeBERT, masked k-mers": OBJECTIVES["masked k-mers"],
    "BarcodeBERT, masked k-mers and genera": OBJECTIVES["masked k-mers and genera"],
    "BarcodeMAE": OBJECTIVES["masked autoencoder"],
    "BarcodeMAE+, with genera": OBJECTIVES["masked autoencoder and genera"],
    "BarcodeMamba, published block": MAMBA,
}

#: Row -> (folder of the model, width of what it learns beside the profile).
ALIGNED = {"aligned, whole profile": ("profile", 0), "aligned, 512 principal components": ("pca_512", 512)}

#: Row that the speed of the others is compared with.
PEER = "6-mer counts"

#: Barcodes embedded in a turn, and turns.
SPEED_ROWS, TURNS = 256, 2


def fit_aligned(source: Path, folder: Path, size: int) -> None:
    """Fits an aligned encoder to train, without labels."""
    if (folder / "results.json").is_file():
        return
    program: Any = import_module("bioscan_hf.trainers.contrast_barcodes")
    given = {"output_dir": str(folder), "num_train_epochs": 0, "use_cpu": True, "disable_tqdm": True}
    program.main(
        program.ContrastOptions(str(source), embedding_size=size, validation_splits=["none"], force=True),
        program.ContrastArguments(**given, save_strategy="no"),
    )


def fit_classifier(rows: Mapping[str, Rows], folder: Path, epochs: int) -> None:
    """Trains the CNN on the species of train."""
    if not folder.is_dir():
        fit_cnn(rows["train"]["barcodes"], rows["train"]["species"], epochs=epochs).model.save_pretrained(folder)


def prepared(args: argparse.Namespace, source: Path, rows: Mapping[str, Rows]) -> dict[str, tuple[str, str]]:
    """Row -> (encoder for `load_encoder`, what it learned from)."""
    found = {f"{k}-mer counts": (f"kmer:{k}", "nothing") for k in (4, 5, 6)}
    for name, (folder, size) in ALIGNED.items():
        fit_aligned(source, args.work / folder, size)
        found[name] = str(args.work / folder), "one pass, no labels"
    fit_classifier(rows, args.work / "cnn", args.epochs)
    found["CNN"] = f"cnn:{args.work / 'cnn'}", f"{args.epochs} epochs with species"
    random = args.work / "random"
    if not random.is_dir():
        untrained(random, seed=0)
    found["BarcodeBERT, random weights"] = str(random), "nothing"
    finished = {name: options for name, options in OBJECTIVES.items() if args.objectives is not None}
    for name, options in TRAINED.items():
        same = next((one for one, other in finished.items() if other == options), None)
        folder = args.work / name.replace(" ", "_").replace(",", "")
        if same is not None and (args.objectives / f"{same.replace(' ', '_')}_0/results.json").is_file():
            folder = args.objectives / f"{same.replace(' ', '_')}_0"
        train(source, folder, options, args.steps, seed=0)
        steps = json.loads((folder / "results.json").read_text(encoding="utf-8"))["steps"]
        labels = "genera" if "taxon_objective" in options else "no labels"
        found[name] = str(folder), f"{steps:,} steps, {labels}"
    return found


def opened(name: str) -> tuple[Any, Any, torch.dtype]:
    """An encoder with its processor, and the precision in which it is fast on a CPU."""
    model, processor = load_encoder(name)
    config: Any = getattr(model, "config", None)
    if config is None or config.model_type != "barcodebert":
        return model, processor, torch.float32
    model.set_attn_implementation(RECIPE["attention"])  # type: ignore[operator]
    return model, processor, torch.bfloat16


def embedded(encoder: tuple[Any, Any, torch.dtype], barcodes: list[str]) -> NDArray[np.float32]:
    """Embeddings (n, D)."""
    model, processor, dtype = encoder
    with inference(model):
        return embed_barcodes(model, processor, barcodes, dtype=dtype)[0]


def scores(vectors: Mapping[str, NDArray[np.float32]], rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Accuracies with intervals over species, and the AMI of species of Ward's clusters."""
    found: dict[str, Any] = {}
    for split, rank in ASKED:
        true = rows[split][rank]
        predicted = knn_probe(vectors["train"], rows["train"][rank], vectors[split], true).predictions
        values = dict(accuracy(predicted, true))
        kept = {name: values[name] for name in ("micro_accuracy", "macro_accuracy", "support")}
        found[f"{rank} of {split}"] = kept | species_intervals(predicted == true, true, rows[split]["species"])
    splits = [split for split, _ in ASKED]
    species = np.concatenate([rows[split]["species"] for split in splits])
    whole, names = np.concatenate([vectors[split] for split in splits]), [str(one) for one in species]
    clusters = zero_shot_cluster(whole, {"species": names}, reducer="none", clusterer="ward", n_clusters="species")
    return found | {"ami_of_species": clusters.metrics["species"]["ami"], "clusters": clusters.n_clusters}


def speeds(encoders: Mapping[str, tuple[Any, Any, torch.dtype]], barcodes: list[str]) -> dict[str, dict[str, float]]:
    """Row -> barcodes per second of CPU, and how many times as much CPU as `PEER` it takes."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for turn in range(TURNS + 1):  # nothing pays for what is set up once
        for name, encoder in encoders.items():
            start = time.process_time()
            embedded(encoder, barcodes)
            if turn:
                seconds[name].append(time.process_time() - start)
    return {
        name: {
            "barcodes_per_cpu_second": round(len(barcodes) / median(turns), 1),
            "times_the_cpu_of_6_mers": round(
                median(own / peer for own, peer in zip(turns, seconds[PEER], strict=True)), 2
            ),
        }
        for name, turns in seconds.items()
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Numbers of each row."""
    source, rows = load(args.source, args.work)
    names = prepared(args, source, rows)
    encoders = {row: opened(name) for row, (name, _) in names.items()}
    metrics: dict[str, Any] = {}
    for row, encoder in encoders.items():
        done = args.work / "rows" / f"{row.replace(' ', '_').replace(',', '')}.json"
        if done.is_file():
            metrics[row] = json.loads(done.read_text(encoding="utf-8"))
            continue
        vectors = {split: embedded(encoder, rows[split]["barcodes"]) for split in ("train", *dict(ASKED))}
        parameters = sum(one.numel() for one in encoder[0].parameters())
        about = {"learned_from": names[row][1], "parameters": parameters, "width": vectors["train"].shape[1]}
        metrics[row] = about | scores(vectors, rows)
        done.parent.mkdir(exist_ok=True)
        write_json(done, metrics[row])
        told = {key: round(value["micro_accuracy"], 3) for key, value in metrics[row].items() if " of " in key}
        print(f"{row}: {told}, AMI {metrics[row]['ami_of_species']:.3f}", flush=True)
    for row, values in speeds(encoders, rows["test"]["barcodes"][:SPEED_ROWS]).items():
        metrics[row] |= values
    return metrics


def missed(metrics: Mapping[str, Any]) -> list[str]:
    """Questions for which an aligned encoder is not better than encoders that learn nothing."""
    found = []
    untrained = {row: values for row, values in metrics.items() if values["learned_from"] == "nothing"}
    for row in ALIGNED:
        for peer, other in untrained.items():
            for question, equal in (("species of test", True), ("genus of test_unseen", False)):
                own, theirs = (one[question]["micro_accuracy"] for one in (metrics[row], other))
                if own < theirs or (own == theirs and not equal):
                    found.append(f"{question}: {row} {own:.1%}, {peer} {theirs:.1%}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="metadata CSV in which every record has a species")
    parser.add_argument("--work", type=Path, required=True, help="folder; what is done there is not done again")
    parser.add_argument("--objectives", type=Path, help="folder of bench_objectives.py, whose models are used")
    parser.add_argument("--steps", type=int, default=60, help="of each pretraining (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of the CNN (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encoders.json")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    metrics = measure(args)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return ended(
        args.output,
        missed(metrics),
        task="benchmark/encoders",
        dataset=f"{args.source.name}: real COI-5P barcodes of insects, public records of BOLD",
        protocol="1-NN by cosine; keys are train; each barcode once; Ward without UMAP, as many clusters as species",
        recipe=RECIPE,
        options={"steps": args.steps, "epochs": args.epochs, "speed_rows": SPEED_ROWS, "turns": TURNS},
        device="cpu",
        threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[0], 1),
        seconds=round(time.perf_counter() - start, 1),
        cpu_seconds=round(used.ru_utime + used.ru_stime, 1),
        metrics=metrics,
    )


if __name__ == "__main__":
    raise SystemExit(main())
