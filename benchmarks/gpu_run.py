"""Measures training and embedding on one GPU, in about 9 minutes.

    python benchmarks/real_barcodes.py bold_coi5p.csv.gz .gpu_data            # once, where the table is
    python benchmarks/gpu_run.py --output gpu.json --barcodes .gpu_data       # on an H100 or H200
    python benchmarks/gpu_run.py --output trial.json --small                  # every part on a CPU, tiny: no claim

Parts: training steps of BarcodeBERT (4-4-4 and 8-4-4: k, heads, layers) as published and with `--preset fast`;
embedding of barcodes; training steps of CLIBD as published and ours; real training on real barcodes; the contrastive
loss of 32,768 specimens. It needs torch, transformers, timm, accelerate, peft and numpy; embedding and real training
read letters and need pyarrow. The package is taken from this checkout, installed or not.

The file is written after each row. A row that fails, or needs more memory than there is, has its error in the file;
each part has its own time. The exit code is 1 if a goal is missed (on a GPU only).
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from gpu_report import Report  # noqa: E402

#: Part -> module and function, and its seconds on a GPU.
PARTS: dict[str, tuple[str, str, float]] = {
    "steps": ("gpu_barcodes", "measure_steps", 75),
    "steps of 8-4-4": ("gpu_barcodes", "measure_steps_of_8", 35),
    "embedding": ("gpu_barcodes", "measure_embedding", 30),
    "clibd": ("gpu_clibd", "measure_clibd", 110),
    "training": ("gpu_training", "measure_training", 285),
    "loss": ("gpu_clibd", "measure_loss", 20),
}

SECONDS_OF_TRAINING = 240.0

Rows = Mapping[str, Mapping[str, Any]]


def best(rows: Rows, start: str, field: str = "samples_per_second") -> float | None:
    """The largest number of the rows whose name starts so; None if there is none."""
    found = [row[field] for name, row in rows.items() if name.startswith(start) and field in row]
    return max(found, default=None)


def chosen(rows: Rows) -> str | None:
    """The trained row that is best on val; None if there is none."""
    trained = [
        name for name, row in rows.items() if name.startswith("BarcodeBERT, masked") and "species of val" in row
    ]
    return max(trained, key=lambda name: rows[name]["species of val"], default=None)


def goals(parts: Mapping[str, Mapping[str, Rows]], claimed: bool = True) -> dict[str, dict[str, Any]]:
    """Each goal, what was reached, and whether it is met; None for what was not measured, or is not claimed."""
    rows = {name: part["rows"] for name, part in parts.items()}
    steps, clibd, training = (rows.get(name, {}) for name in ("steps", "clibd", "training"))
    ours = best(steps, "4-4-4 fast"), best(clibd, "ours")
    published = best(steps, "4-4-4 published"), best(clibd, "published")
    ratios = [mine / other if mine and other else None for mine, other in zip(ours, published, strict=True)]
    row = chosen(training)
    reached: dict[str, tuple[float, float | None]] = {
        "4-4-4, samples/s": (12_000, ours[0]),
        "4-4-4, times the published step": (5, ratios[0]),
        "embedding, barcodes/s from letters": (
            30_000,
            best(rows.get("embedding", {}), "from letters", "barcodes_per_second"),
        ),
        "CLIBD, samples/s": (1_800, ours[1]),
        "CLIBD, times the published step": (3, ratios[1]),
        "species of test after training": (0.95, training[row]["species of test"] if row else None),
    }
    found: dict[str, dict[str, Any]] = {
        name: {"goal": goal, "reached": value, "met": value >= goal if value is not None and claimed else None}
        for name, (goal, value) in reached.items()
    }
    found["species of test after training"]["row, chosen by val"] = row
    return found


def run_part(report: Report, name: str, options: argparse.Namespace) -> None:
    """Runs one part; an error ends the part alone."""
    module, function, budget = PARTS[name]
    report.begin(name, math.inf if options.small else budget)
    given: dict[str, Any] = {}
    if name == "training":
        workers = 0 if options.small else max(1, (os.cpu_count() or 2) - 2)
        seconds = options.training_seconds
        given = {"folder": options.barcodes, "seconds": seconds, "workers": workers}

    def run() -> dict[str, Any]:
        measure: Callable[..., None] = getattr(importlib.import_module(module), function)
        measure(report, options.small, **given)
        return {}

    start = time.monotonic()
    failed = report.attempt(run)
    report.parts[name] |= {**failed, "seconds": round(time.monotonic() - start, 1)}
    report.goals = goals(report.parts, claimed=not options.small)
    report.write()


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts, writes the file, and returns 1 if a goal is missed on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--barcodes", type=Path, help="folder of real_barcodes.py (default: made-up barcodes)")
    parser.add_argument("--small", action="store_true", help="tiny models, on a CPU: no goal")
    parser.add_argument("--parts", help=f"some of {','.join(PARTS)} (default: all)")
    parser.add_argument("--seconds", type=float, help="of all parts (default: 560; --small: no limit)")
    parser.add_argument("--training-seconds", type=float, help="of the real training (default: 240; --small: 5)")
    options = parser.parse_args(arguments)
    names = options.parts.split(",") if options.parts else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts names {', '.join(unknown)}; give some of {', '.join(PARTS)}.")
    on_gpu = torch.cuda.is_available() and not options.small
    if not on_gpu and not options.small:
        parser.error("No GPU was found, and the real sizes need one. Give --small for a trial on a CPU.")
    if options.training_seconds is None:
        options.training_seconds = 5.0 if options.small else SECONDS_OF_TRAINING
    seconds = options.seconds or (math.inf if options.small else 560.0)
    about = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "small": options.small,
        "threads": torch.get_num_threads(),
    }
    device = torch.device("cuda" if on_gpu else "cpu")
    report = Report(options.output, device, seconds, about, measured=1.0 if on_gpu else 0.02)
    for name in names:
        run_part(report, name, options)
    for name, goal in report.goals.items():
        print(f"{name}: {goal['reached']} (goal: {goal['goal']})")
    return int(on_gpu and any(goal["met"] is False for goal in report.goals.values()))


if __name__ == "__main__":
    raise SystemExit(main())
