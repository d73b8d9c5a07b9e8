"""Claim: Ward's clusters of the paper's 47,260 specimens in 10 minutes and 4 GB, exact; of a million in an hour and
12 GB, with a species AMI within 0.02 of exact Ward's where both can be computed.

Embeddings are simulated: order, family, genus and species are normal around each other, with log-normal abundances and
spreads, and species overlap. The paper's size is 4,363 species of 47,260 specimens; a million has 22,622, as many as
BIOSCAN-5M names. Each of three parts can run alone; the results file keeps the numbers of the others:

- `peers`: 2,000, 5,000 and 10,000 of the 47,260. The published method, UMAP(n_neighbors=30, n_components=50,
  min_dist=0.0) and scikit-learn's AgglomerativeClustering, and ours after the same UMAP; both also without UMAP.
  Medians of turns, and the exponent of time and memory in the number of points.
- `full`: 47,260, exact, and over a graph that leaves the same share of clusters to compare in full as at a million.
- `million`: 1,000,000; and of its first 10,000 the exact method and the one over a graph, again with that share.

Every case runs in its own process; its peak of resident memory includes Python, the libraries and the points.
Libraries are loaded and compiled before the clock starts.

    python benchmarks/bench_clustering.py                                  # about half an hour on two cores, on Linux
    python benchmarks/bench_clustering.py --parts full,million             # about 10 minutes
    python benchmarks/bench_clustering.py --quick --output trial.json      # a minute, small: no claim

It needs faiss-cpu; the part `peers` also needs umap-learn.

Shape letters: N = specimens, S = species, D = embedding size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score

from bioscan_hf.clustering.graph import graph_tree, neighbours
from bioscan_hf.clustering.ward import EXACT_UP_TO, cut_tree, ward_tree
from bioscan_hf.provenance import write_results

PARTS = ("peers", "full", "million")
PAPER = (47_260, 4_363)
MILLION = (1_000_000, 22_622)
SIZES = (2_000, 5_000, 10_000)
SAMPLE = 10_000
CLAIMS = {
    "full_seconds": 600.0,
    "full_gb": 4.0,
    "million_seconds": 3600.0,
    "million_gb": 12.0,
    "ami_difference": 0.02,
}
NEIGHBORS = 15
RECALL_ROWS = 1000

#: Genera, families and orders per species, about those of the release.
HIGHER = {"genus": 0.35, "family": 0.06, "order": 0.006}

#: Standard deviation of a rank's centres around those of the rank above.
SPREADS = {"order": 3.0, "family": 2.0, "genus": 1.2, "species": 0.6}

#: Median standard deviation of a species' specimens: as large as that of species in a genus, so that these overlap.
SPECIMENS = 0.68

Labels = dict[str, NDArray[np.int64]]


def simulate(rows: int, species: int, size: int, seed: int) -> tuple[NDArray[np.float32], Labels]:
    """Embeddings (N, D) in random order, each species at least once, and the taxon of each at four ranks."""
    draw = np.random.default_rng(seed)
    counts = {rank: max(2, round(species * share)) for rank, share in reversed(HIGHER.items())} | {"species": species}
    centers = np.zeros((1, size))
    above: list[NDArray[np.int64]] = []  # of each taxon of a rank, its taxon of the rank above
    for rank, count in counts.items():
        parents = len(centers)
        every = np.arange(min(parents, count))
        above.append(np.concatenate([every, draw.integers(parents, size=count - len(every))]))
        centers = centers[above[-1]] + SPREADS[rank] * draw.normal(size=(count, size))
    abundance = draw.lognormal(0, 1.5, size=species)
    drawn = draw.choice(species, size=rows - species, p=abundance / abundance.sum())
    taxon = draw.permutation(np.concatenate([np.arange(species), drawn]))
    spread = SPECIMENS * draw.lognormal(0, 0.4, size=species)
    points = draw.normal(size=(rows, size)).astype(np.float32)
    points *= spread[taxon, None].astype(np.float32)
    points += centers.astype(np.float32)[taxon]
    labels: Labels = {}
    for rank, parent in zip(reversed(counts), reversed(above), strict=True):
        labels[rank] = taxon
        taxon = parent[taxon]
    return points, labels


def memory(key: str) -> float:
    """Megabytes of this process: VmRSS is what it holds, VmHWM the most it has held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {key}.")


def umap_reduce(points: NDArray[Any], seed: int) -> NDArray[np.float32]:
    """The published reduction; a seed makes UMAP use one thread."""
    from umap import UMAP

    reducer = UMAP(n_neighbors=30, n_components=50, min_dist=0.0, metric="euclidean", random_state=seed, n_jobs=1)
    return reducer.fit_transform(points)


def scikit_learn_ward(points: NDArray[Any], clusters: int) -> NDArray[np.int64]:
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(n_clusters=clusters, metric="euclidean", linkage="ward").fit_predict(points)


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, memory and AMI of one case, in this process."""
    rows, species = options.simulated
    points, labels = simulate(rows, species, options.size, options.seed)
    points, labels = points[: options.rows].copy(), {rank: taxa[: options.rows] for rank, taxa in labels.items()}
    if options.points and options.work != "umap":
        points = np.load(options.points)
    clusters = len(np.unique(labels["species"]))  # the published protocol is told how many there are
    graph = {"n_neighbors": NEIGHBORS, "exact_up_to": options.exact_up_to, "approximate": True}
    ways: dict[str, Callable[[NDArray[Any], int], Any]] = {
        "umap": lambda points, _: umap_reduce(points, options.seed),
        "scikit-learn": scikit_learn_ward,
        "exact": lambda points, clusters: cut_tree(ward_tree(points), clusters),
        "graph": lambda points, clusters: cut_tree(graph_tree(points, **graph), clusters),
        "neighbors": lambda points, _: neighbours(points, NEIGHBORS, approximate=True),
    }
    few = np.random.default_rng(0).normal(size=(200, options.size))
    for way in {options.work, "neighbors" if options.work == "graph" else options.work}:
        ways[way](few, 5)
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    found = ways[options.work](points, clusters)
    measured: dict[str, Any] = {
        "rows": len(points),
        "seconds_wall": round(time.perf_counter() - wall, 2),
        "seconds_cpu": round(time.process_time() - cpu, 2),
        "peak_mb": round(memory("VmHWM")),
        "above_inputs_mb": round(memory("VmHWM") - before),
    }
    if options.work == "umap":
        np.save(options.points, found)
    elif options.work == "neighbors":
        measured["recall"] = recall(points, found, options.seed)
    else:
        measured["clusters"] = clusters
        measured["ami"] = {
            rank: round(float(adjusted_mutual_info_score(taxa, found)), 5) for rank, taxa in labels.items()
        }
    return measured


def recall(points: NDArray[Any], found: NDArray[np.int64], seed: int) -> float:
    """Share of the exact neighbours that were found, over 1,000 random points."""
    from sklearn.neighbors import NearestNeighbors

    chosen = np.random.default_rng(seed).choice(len(points), size=min(RECALL_ROWS, len(points)), replace=False)
    exact = NearestNeighbors(n_neighbors=NEIGHBORS + 1, algorithm="brute").fit(points).kneighbors(points[chosen])[1]
    shares = [len(np.intersect1d(row[1:], found[i])) / NEIGHBORS for i, row in zip(chosen, exact, strict=True)]
    return round(float(np.mean(shares)), 5)


def in_own_process(way: str, rows: int, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What `work` measures in a new process."""
    arguments = {"rows": rows, "size": options.size, "seed": options.seed} | more
    command = [sys.executable, __file__, "--work", way]
    for name, value in arguments.items():
        command += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(options.threads))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    measured = json.loads(done.stdout.splitlines()[-1])
    print(f"{way}{' after umap' if 'points' in more and way != 'umap' else ''}: {measured}", flush=True)
    return measured


def middle(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The first turn, with the medians of seconds and memory."""
    numbers = ("seconds_wall", "seconds_cpu", "peak_mb", "above_inputs_mb")
    return turns[0] | {name: median(turn[name] for turn in turns) for name in numbers}


def exponent(values: dict[int, float]) -> float:
    """Slope of the logarithm of the value over that of the number of points."""
    sizes = np.log(list(values))
    return round(float(np.polyfit(sizes, np.log(np.maximum(list(values.values()), 1e-3)), 1)[0]), 2)


def compare_peers(options: argparse.Namespace) -> dict[str, Any]:
    """Each way at each size: UMAP once, the rest in turns."""
    cases: dict[str, dict[int, dict[str, Any]]] = {"umap": {}}
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.sizes:
            reduced = str(Path(folder) / f"{rows}.npy")
            common: dict[str, Any] = {"simulated": options.paper}
            cases["umap"][rows] = in_own_process("umap", rows, options, **common, points=reduced)
            turns: dict[str, list[dict[str, Any]]] = {}
            for _ in range(options.repeats):
                for way in ("scikit-learn", "exact"):
                    turns.setdefault(way, []).append(in_own_process(way, rows, options, **common))
                    turn = in_own_process(way, rows, options, **common, points=reduced)
                    turns.setdefault(f"{way} after umap", []).append(turn)
            for way, measured in turns.items():
                cases.setdefault(way, {})[rows] = middle(measured)
    for way in ("scikit-learn", "exact"):
        cases[f"umap and {way}"] = {
            rows: {
                "seconds_wall": round(umap["seconds_wall"] + cases[f"{way} after umap"][rows]["seconds_wall"], 2),
                "seconds_cpu": round(umap["seconds_cpu"] + cases[f"{way} after umap"][rows]["seconds_cpu"], 2),
                "above_inputs_mb": max(
                    case[rows]["above_inputs_mb"] for case in (cases["umap"], cases[f"{way} after umap"])
                ),
                "ami": cases[f"{way} after umap"][rows]["ami"],
            }
            for rows, umap in cases["umap"].items()
        }
    exponents = {
        way: {
            name: exponent({rows: case[name] for rows, case in sizes.items()})
            for name in ("seconds_cpu", "above_inputs_mb")
        }
        for way, sizes in cases.items()
    }
    return {"cases": cases, "exponents": exponents}


def compare_full(options: argparse.Namespace) -> dict[str, Any]:
    """The paper's size, exact, over a graph, and how many of the neighbours that finds."""
    rows = options.paper[0]
    common: dict[str, Any] = {"simulated": options.paper}
    share = scaled(rows, options)
    return {
        "exact": in_own_process("exact", rows, options, **common),
        "graph": in_own_process("graph", rows, options, **common, exact_up_to=share),
        "neighbors": in_own_process("neighbors", rows, options, **common),
    }


def compare_million(options: argparse.Namespace) -> dict[str, Any]:
    """A million over a graph; of a sample also exact."""
    rows, sample = options.million[0], options.sample
    common: dict[str, Any] = {"simulated": options.million}
    return {
        "sample, exact": in_own_process("exact", sample, options, **common),
        "sample, graph": in_own_process("graph", sample, options, **common, exact_up_to=scaled(sample, options)),
        "graph": in_own_process("graph", rows, options, **common, exact_up_to=options.exact_up_to),
        "neighbors": in_own_process("neighbors", rows, options, **common),
    }


def scaled(rows: int, options: argparse.Namespace) -> int:
    """Clusters to compare in full that are the same share of `rows` as at a million."""
    return math.ceil(options.exact_up_to * rows / options.million[0])


def reached(metrics: dict[str, Any]) -> dict[str, float]:
    """The claimed numbers, of the parts that have been run."""
    numbers: dict[str, float] = {}
    if "full" in metrics:
        exact, graph = metrics["full"]["exact"], metrics["full"]["graph"]
        numbers |= {"full_seconds": exact["seconds_wall"], "full_gb": round(exact["peak_mb"] / 1e3, 2)}
        numbers["full_ami_difference"] = round(abs(graph["ami"]["species"] - exact["ami"]["species"]), 5)
    if "million" in metrics:
        cases = metrics["million"]
        graph, sample = (
            cases["graph"],
            (cases["sample, graph"]["ami"]["species"], cases["sample, exact"]["ami"]["species"]),
        )
        numbers |= {"million_seconds": graph["seconds_wall"], "million_gb": round(graph["peak_mb"] / 1e3, 2)}
        numbers["ami_difference"] = round(abs(sample[0] - sample[1]), 5)
    return numbers


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, with commas (default: %(default)s)")
    parser.add_argument("--size", type=int, default=50, help="of the embeddings (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the peers, of which the median counts")
    parser.add_argument("--threads", type=int, default=2, help="of every process (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(SIZES), help="of the peers (default: %(default)s)"
    )
    parser.add_argument(
        "--exact_up_to", type=int, default=EXACT_UP_TO, help="clusters to compare in full, at a million"
    )
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--simulated", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--points", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "clustering.json")
    options = parser.parse_args(arguments)
    options.paper, options.million, options.sample = PAPER, MILLION, SAMPLE
    if options.quick:
        options.paper, options.million, options.sample = (4000, 400), (20_000, 500), 5000
        options.sizes, options.repeats, options.exact_up_to = [500, 1000], 1, 1000
    options.parts = options.parts.split(",")
    if not set(options.parts) <= set(PARTS):
        parser.error(f"--parts {','.join(options.parts)}: it takes some of {','.join(PARTS)}.")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes the results file, and returns 1 if a claim is not reached."""
    options = parse(arguments)
    if options.work:
        print(json.dumps(work(options)))
        return 0
    asked = {name: getattr(options, name) for name in ("size", "threads", "seed", "exact_up_to", "quick")}
    metrics: dict[str, Any] = {}
    if options.output.exists():
        before = json.loads(options.output.read_text())
        if before["options"] == asked:
            metrics = before["metrics"]
    for part, measure in (("peers", compare_peers), ("full", compare_full), ("million", compare_million)):
        if part in options.parts:
            metrics[part] = measure(options)
            numbers = reached(metrics)
            write_results(
                options.output,
                task="benchmark/clustering",
                metrics=metrics,
                options=asked,
                device="cpu",
                claimed=CLAIMS,
                reached=numbers,
            )
    print(*(f"{name}: {value} (claimed: {CLAIMS.get(name, '-')})" for name, value in numbers.items()), sep="\n")
    missed = [name for name in CLAIMS if numbers.get(name, 0) > CLAIMS[name]]
    return int(bool(missed) and not options.quick)


if __name__ == "__main__":
    raise SystemExit(main())
