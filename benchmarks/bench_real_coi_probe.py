"""What a small BarcodeBERT learns from real barcodes, beside counts of 4-mers and 6-mers, by the users' own commands.

    python benchmarks/bench_real_coi_probe.py bold_coi5p.csv.gz

split -> build -> pretrain -> embed -> probe, in a temporary folder. The input is a metadata CSV in BIOSCAN-5M columns
in which every record has a species, so the partition is simulated: a share of the species is treated as unnamed, and
a share of the other barcodes loses its labels. About 20 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bioscan_hf.results import write_results

#: Pretraining: a model that 2 CPU cores can train in about a quarter of an hour.
OPTIONS = {
    "train_split": "pretrain",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "dropout": 0.0,
    "max_steps": 2600,
    "per_device_train_batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": True,
}


def run(*command: str) -> str:
    """Standard output of a command, which must succeed."""
    print("$", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def bioscan_hf(*arguments: str) -> dict[str, Any]:
    """What a command of `bioscan-hf` prints as JSON."""
    return json.loads(run(sys.executable, "-m", "bioscan_hf.cli", *arguments, "--json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="metadata CSV in which every record has a species")
    parser.add_argument("--hold-out-species", default="0.15")
    parser.add_argument("--unlabel", default="0.5")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--max_steps", type=int, default=OPTIONS["max_steps"])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/real_coi_probe.json")
    args = parser.parse_args()

    source, start = args.source.resolve(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        simulation = ["--hold-out-species", args.hold_out_species, "--unlabel", args.unlabel, "--seed", args.seed]
        divided = bioscan_hf("split", str(source), "split.csv", *simulation)
        bioscan_hf("build", "split.csv", "dataset")
        options = {
            **OPTIONS,
            "max_steps": args.max_steps,
            "source": "dataset",
            "output_dir": "model",
            "seed": args.seed,
        }
        flags = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        run("accelerate", "launch", "--num_processes", "1", "-m", "bioscan_hf.trainers.pretrain_barcodebert", *flags)
        pretraining = json.loads(Path("model/results.json").read_text(encoding="utf-8"))
        metrics: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        for name, model in (("BarcodeBERT", "model"), ("4-mer counts", "kmer:4"), ("6-mer counts", "kmer:6")):
            embeddings = f"embeddings-{name.split()[0]}"
            sizes = bioscan_hf("embed", "dataset", embeddings, "--model", model, "--unique-barcodes")["rows"]
            metrics[name] = bioscan_hf("probe", "dataset", embeddings)["metrics"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    write_results(
        args.output,
        task="benchmark/real_coi_probe",
        dataset=f"{source.name}: real COI-5P barcodes of insects, public records of BOLD",
        partition={**divided["options"], "splits": divided["splits"]},
        protocol="1-NN by cosine; keys are train; each barcode once in its split, and in no other",
        barcodes=sizes,
        pretraining={
            key: pretraining[key]
            for key in (
                "options",
                "model",
                "splits",
                "steps",
                "global_batch_size",
                "precision",
                "seconds",
                "loss_curve",
            )
        },
        pretraining_metrics=pretraining["metrics"],
        seconds=round(time.perf_counter() - start, 1),
        cpu_seconds=round(used.ru_utime + used.ru_stime, 1),
        metrics=metrics,
    )
    for model, values in metrics.items():
        print(model, {question: round(value["micro_accuracy"] or 0, 4) for question, value in values.items()})


if __name__ == "__main__":
    main()
