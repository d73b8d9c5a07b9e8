"""Accuracy of names by the nearest reference, on real barcodes."""

from __future__ import annotations

from math import sqrt
from statistics import mean
from typing import Any

from bioscan_hf.cards import table

from .results import NOT_YET, Blocks, between, exists, percent, results

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


#: Way of `real_coi.json` -> row of the table of encoders, and its model in `trainings`.
LONGER = {
    "CNN": ("CNN", None),
    "BarcodeBERT, masked k-mers only": ("BarcodeBERT, masked k-mers", "pretrained"),
    "BarcodeBERT, contrast of species": ("BarcodeBERT, contrast of species", "contrast_species"),
}


def encoders() -> str:
    """One row per encoder; those of other runs, which have more training, are marked."""
    if not exists("encoders"):
        return NOT_YET
    species, genus = "species of test", "genus of test_unseen"
    rows: list[tuple[str, ...]] = [
        (
            name,
            found["learned_from"],
            percent(found[species]["micro_accuracy"]),
            f"{percent(found[genus]['micro_accuracy'])} ({between(found[genus]['micro_accuracy_interval'])})",
            f"{percent(found[genus]['macro_accuracy'])} ({between(found[genus]['macro_accuracy_interval'])})",
            percent(found["ami_of_species"]),
            f"{found['parameters']:,}",
            f"{found['barcodes_per_cpu_second']:,.0f}",
            f"{found['times_the_cpu_of_6_mers']:,.1f}",
        )
        for name, found in results("encoders")["metrics"].items()
    ]
    other = results("real_coi")
    for way, (name, model) in LONGER.items():
        found, steps = other["metrics"][way], "20 epochs with species"
        if model is not None:
            trained = other["trainings"]
            steps = f"{trained['pretrained']['steps']:,} steps, no labels"
            if model != "pretrained":
                steps += f", then {trained[model]['steps']:,} with species"
        shown = (
            percent(found[question][f"{kind}_accuracy"])
            for question, kind in ((species, "micro"), (genus, "micro"), (genus, "macro"))
        )
        rows.append((f"{name} (a)", steps, *shown, "-", "-", "-", "-"))
    for name, row in results("gpu_run")["metrics"]["training"]["rows"].items():
        if name.startswith("BarcodeBERT"):
            steps = f"{row['seconds_of_training']:.0f} s on a GPU, {row['steps']:,} steps" if "steps" in row else "-"
            rows.append((f"{name} (b)", steps, percent(row[species]), percent(row[genus]), *"-----"))
    header = ("", "learned from", species, f"{genus}, micro", f"{genus}, macro", "AMI of species", "parameters")
    return table((*header, "barcodes per second of CPU", "times the CPU of 6-mer counts"), rows)


def taxa_loss() -> str:
    """One row per loss: accuracies of each rank alone, means over the seeds, and the interval of the first seed."""
    if not exists("taxa_loss"):
        return NOT_YET
    metrics = results("taxa_loss")["metrics"]
    questions = [question for question in next(iter(metrics.values()))[0] if " of " in question]
    rows = [
        (
            name,
            *(
                f"{percent(mean(one[question]['alone'][f'{kind}_accuracy'] for one in seeds))} "
                f"({between(seeds[0][question]['alone'][f'{kind}_accuracy_interval'])})"
                for question in questions
                for kind in ("micro", "macro")
            ),
        )
        for name, seeds in metrics.items()
    ]
    return table(("", *(f"{question}, {kind}" for question in questions for kind in ("micro", "macro"))), rows)


BLOCKS: Blocks = {
    "encoders": encoders,
    "taxa_loss": taxa_loss,
    "real_coi": real_coi,
    "real_coi_splits": real_coi_splits,
    "gpu_training": gpu_training,
}
