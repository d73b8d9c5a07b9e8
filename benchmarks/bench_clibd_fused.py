"""Measures photo and barcode fused by CLIBD against each alone and both averaged, with clean and altered barcodes.

    python benchmarks/bench_clibd_fused.py out/clibd_fused

Simulated release of `bench_clibd_simulated.py` and its small model, trained from scratch three times: as it is; with
the gate (`--fusion_weight 1`); and with the gate, the loss over the chain of ranks and batches of chains
(`--hir_weight`, `--chain_batches`). `evaluate_clibd.py --dna_noise` then asks test specimens of seen and unseen
species for keys by photo, barcode, both averaged and both fused. Steps that an earlier run finished are skipped.
`--quick` is a smoke test.

Claim: with the gate, photo and barcode fused name at least as many species, seen and unseen, with clean barcodes and
with all errors, as the better of photo and barcode alone and as both averaged. The exit code is 1 if it is missed.

Photos are drawn and barcodes simulated: the differences need not be those of real specimens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_clibd_simulated import TRAINERS, make_model, run
from claims import ended

#: Name in the table -> options of training.
MODELS: dict[str, list[object]] = {
    "contrast": [],
    "fusion": ["--fusion_weight", 1],
    "fusion, HiR, chains": ["--fusion_weight", 1, "--hir_weight", 0.01, "--chain_batches", True],
}

COMBINATIONS = ("image->image", "dna->dna", "averaged->averaged", "image->text", "dna->text", "averaged->text")
FUSED = ("fused->fused", "fused->text")


def accuracies(tables: dict[str, Any]) -> dict[str, Any]:
    """Macro top-1 accuracy of species with its interval, of seen and unseen species, for each combination."""
    return {
        name: {
            part: {
                "accuracy": table[part]["macro"]["1"]["species"],
                "interval": table[part].get("top1_intervals", {}).get("macro", {}).get("species"),
                "chance": table[part]["chance"]["macro"]["1"]["species"],
            }
            for part in ("seen", "unseen")
        }
        for name, table in tables.items()
    }


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Accuracies of each model for each kind of error, and seconds of each step."""
    work, seconds, metrics = options.work, {}, {}
    program = [sys.executable, "-m", "bioscan_hf.cli.main"]
    simulate = [*program, "simulate", work / "release", "--specimens", options.specimens, "--seed", options.seed]
    seconds["simulate"] = run("simulate", simulate, work)
    build = [*program, "build", work / "release", work / "dataset", "--config", "cropped_256", "--workers", 2]
    seconds["build"] = run("build", build, work)
    make_model(work / "dataset", work / "untrained", options.size, options.seed)
    for number, (name, more) in enumerate(MODELS.items()):
        folder = work / f"model_{number}"
        train = [sys.executable, TRAINERS / "train_clibd.py", "--source", work / "dataset", "--output_dir", folder]
        train += ["--model", work / "untrained", "--num_train_epochs", options.epochs, "--seed", options.seed]
        train += ["--learning_rate", options.learning_rate, "--per_device_train_batch_size", options.batch_size]
        train += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", False]
        train += ["--key_splits", "none", "--disable_tqdm", True, "--force", True, *more]
        seconds[f"train, {name}"] = run(f"train_{number}", train, work)
        found = work / f"evaluation_{number}"
        asked = [*COMBINATIONS, *(FUSED if more else ())]
        evaluate = [sys.executable, TRAINERS / "evaluate_clibd.py", "--model", folder, "--source", work / "dataset"]
        evaluate += ["--output_dir", found, "--combinations", *asked, "--dna_noise", True, "--force", True]
        seconds[f"evaluate, {name}"] = run(f"evaluate_{number}", evaluate, work)
        noise = json.loads((found / "results.json").read_text(encoding="utf-8"))["metrics"]["model"]["noise"]
        metrics[name] = {condition: accuracies(tables) for condition, tables in noise.items()}
    return metrics, seconds


def missed(metrics: Mapping[str, Any]) -> list[str]:
    """Where both fused name fewer species than a photo, a barcode or both averaged."""
    found = []
    for name in [model for model, options in MODELS.items() if options]:
        for condition, words in (("none", "clean"), ("all", "all errors")):
            tables = metrics[name][condition]
            for part in ("seen", "unseen"):
                fused = tables[FUSED[0]][part]["accuracy"]
                for peer in COMBINATIONS[:3]:
                    other = tables.get(peer, metrics[name]["none"][peer])[part]["accuracy"]
                    if fused < other:
                        found.append(f"{name}, {part}, {words}: fused {fused:.1%}, {peer} {other:.1%}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the release, the models and the logs")
    parser.add_argument("--specimens", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--size", type=int, default=64, help="height and width of the photos in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="smoke test with 400 specimens and 1 epoch")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "clibd_fused.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.specimens, options.epochs = 400, 1
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    metrics, seconds = measure(options)
    for name, conditions in metrics.items():
        for condition in ("none", "all"):
            shown = {
                combination: " / ".join(f"{100 * of[part]['accuracy']:.1f}" for part in ("seen", "unseen"))
                for combination, of in conditions[condition].items()
            }
            print(f"{name}, errors {condition}: {shown}")
    failures = [] if options.quick else missed(metrics)
    return ended(
        options.output,
        failures,
        task="benchmark/clibd_fused",
        metrics=metrics,
        options={name: value for name, value in vars(options).items() if name not in ("work", "output")},
        dataset=f"simulated release of {options.specimens} specimens, seed {options.seed}",
        device="cpu",
        seconds=seconds | {"all": round(sum(seconds.values()), 1)},
    )


if __name__ == "__main__":
    raise SystemExit(main())
