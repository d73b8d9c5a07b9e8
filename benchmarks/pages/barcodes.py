"""Accuracy of names by the nearest reference, on real barcodes."""

from __future__ import annotations

from math import sqrt
from typing import Any

from bioscan_hf.cards import table

from .results import Blocks, between, percent, results

BEST = "aligned, whole profile"


def wilson(share: float, n: int, z: float = 1.96) -> list[float]:
    """95 % interval of a share of n independent answers."""
    centre = share + z * z / (2 * n)
    width = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [(centre - width) / (1 + z * z / n), (centre + width) / (1 + z * z / n)]


def real_coi() -> str:
    """One row per method, one column per question; "-" if a method has no such number."""
    found = results("real_coi")
    metrics, trainings = found["metrics"], found["trainings"]
    questions = [key for key in metrics["4-mer counts"] if " of " in key]
    steps = {
        "BarcodeBERT, masked k-mers only": f"{trainings['pretrained']['steps']:,} steps",
        "BarcodeBERT, fine-tuned, 1-NN": f"and {trainings['finetuned']['steps']:,} steps with labels",
        "BarcodeBERT, contrast of species": f"and {trainings['contrast_species']['steps']:,} steps with labels",
        "BarcodeBERT, linear probe": f"{trainings['pretrained']['steps']:,} steps",
        "BarcodeBERT, fine-tuned, classifier": f"and {trainings['finetuned']['steps']:,} steps with labels",
    }
    rows: list[list[Any]] = [
        [
            f"{way} ({steps[way]})" if way in steps else way,
            *(values[question]["micro_accuracy"] if question in values else "-" for question in questions),
        ]
        for way, values in metrics.items()
    ]
    best = [metrics[BEST][question] for question in questions]
    rows.append(
        [f"95 % interval of {BEST}", *(between(wilson(one["micro_accuracy"], one["support"])) for one in best)]
    )
    rows.append(["barcodes", *(metrics["4-mer counts"][question]["support"] for question in questions)])
    return table(["", *questions], rows)


def real_coi_splits() -> str:
    splits = results("real_coi")["partition"]["splits"]
    rows = [(split["split"], split["samples"], split["barcodes"], split["species"]) for split in splits]
    return table(("split", "specimens", "barcodes", "species"), rows)


def gpu_training() -> str:
    """Accuracy after minutes of training on one GPU."""
    rows = results("gpu_run")["metrics"]["training"]["rows"]
    questions = ("species of val", "genus of val_unseen", "species of test", "genus of test_unseen")
    shown = []
    for name, row in rows.items():
        if name == "barcodes":
            continue
        trained = f"{row['seconds_of_training']:.0f} s, {row['steps']:,} steps" if "steps" in row else "-"
        shown.append((name, trained, *(percent(row[question]) for question in questions)))
    counts = rows["barcodes"]
    shown.append(("barcodes", "-", *(f"{counts[question.split()[-1]]:,}" for question in questions)))
    return table(("", "training", *questions), shown)


BLOCKS: Blocks = {
    "real_coi": real_coi,
    "real_coi_splits": real_coi_splits,
    "gpu_training": gpu_training,
}
