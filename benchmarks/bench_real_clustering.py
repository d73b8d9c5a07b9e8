"""Clusters of real barcodes: 4-mer counts, aligned barcodes and BarcodeBERT, with and without UMAP.

    python benchmarks/bench_real_clustering.py bold_coi5p.csv.gz --work out/real_clustering

split -> build -> embed test and test_unseen -> Task II of BIOSCAN-5M (UMAP to 50 dimensions, Ward, as many clusters as
species); the same without UMAP; and without UMAP and without the number of species (chosen by the silhouette). The
partition is that of `bench_real_coi.py`; with its folder as --work, its models are used. Otherwise a BarcodeBERT is
trained for 500 steps, a quarter of the steps there. Each case runs in its own process, one after another, for time and
peak memory; with --work, finished cases are not repeated. The first UMAP of a process compiles for about 15 seconds.
About 20 minutes on 2 cores, most of it for UMAP. The exit code is 1 if UMAP before Ward's method gives a better AMI of
species than Ward's method alone, for any encoder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from bench_real_coi import MODELS

from bioscan_hf.clustering.protocol import cluster_embeddings, read_specimens
from bioscan_hf.files import write_json
from bioscan_hf.provenance import write_results
from bioscan_hf.schema import LABEL_COLUMNS

#: Name in the table -> encoder, a model folder of `bench_real_coi.MODELS` or what `bioscan-hf embed --model` takes.
ENCODERS = {
    "4-mer counts": "kmer:4",
    "aligned, 512 principal components": "pca_512",
    "BarcodeBERT, masked k-mers only": "pretrained",
}

#: Name in the table -> options besides those of the published protocol.
WAYS: dict[str, dict[str, Any]] = {
    "UMAP, Ward, number of species (published)": {"preset": "published"},
    "Ward, number of species": {"reducer": "none"},
    "Ward, number by silhouette": {"reducer": "none", "n_clusters": "silhouette"},
}


def run(*command: str, cwd: Path) -> str:
    """Standard output of a command, which must succeed."""
    print("$", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


def bioscan_hf(*arguments: str, cwd: Path) -> None:
    run(sys.executable, "-m", "bioscan_hf.cli.main", *arguments, "--json", cwd=cwd)


def model_folder(work: Path, name: str, steps: int, threads: int) -> Path:
    """Folder of a trained model: that of `bench_real_coi.py`, or one trained here, under another name."""
    if (work / name / "results.json").is_file():
        return work / name
    folder = work / f"{name}_for_clustering"
    if not (folder / "results.json").is_file():
        program, options = MODELS[name]
        chosen: dict[str, Any] = {"source": "dataset", "output_dir": folder.name, "seed": 0, "save_strategy": "no"}
        chosen |= {"eval_strategy": "no", "disable_tqdm": True, "use_cpu": True, "bf16": True, **options}
        if "max_steps" in chosen:
            chosen["max_steps"] = steps
        flags = [text for option, value in chosen.items() for text in (f"--{option}", str(value))]
        launch = (
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--num_processes",
            "1",
            "--num_cpu_threads_per_process",
            str(threads),
            "-m",
        )
        run(*launch, f"bioscan_hf.trainers.{program}", *flags, "--force", "true", cwd=work)
    return folder


def embedded(work: Path, encoder: str, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Folder of the embeddings of an encoder, and the training as its results file describes it."""
    trained: dict[str, Any] = {}
    model = encoder
    if encoder in MODELS:
        folder = model_folder(work, encoder, options.steps, options.threads)
        about = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        trained = {key: about[key] for key in ("options", "steps", "seconds", "commit")}
        model = str(folder)
    output = work / "embeddings" / Path(model).name.replace(":", "_")
    bioscan_hf(
        *("embed", "dataset", str(output), "--model", model, "--split", "test", "--split", "test_unseen"),
        cwd=work,
    )
    return output, trained


def case(dataset: Path, embeddings: Path, output: Path, way: str, seeds: list[int]) -> None:
    """Clusters in this process, and writes the results with its peak memory beside the clusters."""

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    start, before = time.perf_counter(), peak()
    specimens = read_specimens(dataset, {"dna": embeddings})
    results = cluster_embeddings(specimens, output, seeds=seeds, **WAYS[way])
    costs = {"wall_s": time.perf_counter() - start, "peak_rss_bytes": peak(), "peak_rss_before_bytes": before}
    write_json(output / "case.json", {**results, **costs})


def measured(results: dict[str, Any]) -> dict[str, Any]:
    """Numbers of a case in the table: means over the seeds, and the deviations of the AMI."""
    stages = results["seconds"][0]
    return {
        "ami": {rank: results["metrics"][rank]["ami"] for rank in LABEL_COLUMNS},
        "ami_std": {rank: results["spread"][rank]["ami"] for rank in LABEL_COLUMNS},
        "homogeneity_of_species": results["metrics"]["species"]["homogeneity"],
        "completeness_of_species": results["metrics"]["species"]["completeness"],
        "chosen": results["chosen"],
        "seeds": results["seeds"],
        "separation": results["metrics"]["separation"],
        "seconds_of_a_run": {stage: mean(run[stage] for run in results["seconds"]) for stage in stages},
        "wall_s": results["wall_s"],
        "peak_rss_bytes": results["peak_rss_bytes"],
        "peak_rss_before_bytes": results["peak_rss_before_bytes"],  # libraries, before any embedding is read
    }


def prepared(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Results file of the partition. Splits and builds if that is not done yet."""
    about = work / "split.csv.results.json"
    if not about.is_file() or not (work / "dataset").is_dir():
        simulation = ["--hold-out-species", args.hold_out_species, "--unlabel", args.unlabel, "--seed", "0"]
        source = str(args.source.resolve())
        bioscan_hf("split", source, "split.csv", *simulation, "--force", cwd=work)
        bioscan_hf("build", "split.csv", "dataset", cwd=work)
    return json.loads(about.read_text(encoding="utf-8"))


def missed(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """Encoders whose species are not found better by Ward's method alone than after UMAP."""
    published, alone = list(WAYS)[:2]
    return [
        f"{encoder}: AMI of species {ways[alone]['ami']['species']:.3f} without UMAP, "
        f"{ways[published]['ami']['species']:.3f} with it"
        for encoder, ways in metrics.items()
        if {published, alone} <= set(ways) and ways[alone]["ami"]["species"] <= ways[published]["ami"]["species"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="metadata CSV in which every record has a species")
    parser.add_argument("--work", type=Path, required=True, help="folder; what is done there is not done again")
    parser.add_argument("--hold-out-species", default="0.15")
    parser.add_argument("--unlabel", default="0.5")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=500, help="of the training of BarcodeBERT, if it is not there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/real_clustering.json")
    args = parser.parse_args()

    start, work = time.perf_counter(), args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of all processes that follow
    divided = prepared(args, work)
    metrics: dict[str, dict[str, Any]] = {}
    trainings: dict[str, dict[str, Any]] = {}
    for encoder in args.encoders:
        folder, trainings[encoder] = embedded(work, ENCODERS[encoder], args)
        metrics[encoder] = {}
        for way in args.ways:
            # The last case is the slowest, and without UMAP no score of so few specimens depends on the seed.
            seeds = args.seeds[:1] if "n_clusters" in WAYS[way] else args.seeds
            name = f"{folder.name}, {way}, seeds {' '.join(map(str, seeds))}".replace(" ", "_").replace(",", "")
            done = work / "clusters" / name / "case.json"
            if not done.is_file():
                shutil.rmtree(done.parent, ignore_errors=True)  # of a run that was interrupted
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    process.submit(case, work / "dataset", folder, done.parent, way, seeds).result()
            results = json.loads(done.read_text(encoding="utf-8"))
            metrics[encoder][way] = measured(results)
            shown = {rank: None if x is None else round(x, 3) for rank, x in metrics[encoder][way]["ami"].items()}
            print(f"{encoder}: {way}: {shown} ({results['wall_s']:.0f} s)", file=sys.stderr, flush=True)
    write_results(
        args.output.resolve(),
        task="benchmark/real_clustering",
        dataset=f"{args.source.name}: real COI-5P barcodes of insects, public records of BOLD",
        partition={**divided["options"], "splits": divided["splits"]},
        protocol="Task II of BIOSCAN-5M: every specimen of test and test_unseen, in the order of the processids",
        specimens=results["splits"],
        seeds=args.seeds,
        threads=args.threads,
        trainings=trainings,
        seconds=round(time.perf_counter() - start, 1),
        missed=missed(metrics),
        metrics=metrics,
    )
    print(*missed(metrics), sep="\n")
    return int(bool(missed(metrics)))


if __name__ == "__main__":
    raise SystemExit(main())
