"""Claim: what an approximate index of keys misses is measured, and it is faster than the exact search.

Keys are made up: unit vectors around `keys / 50` centres, as specimens of a species lie together, and queries around
the same centres. Each kind of index finds the five nearest keys of all queries; its recall and times stand beside
those of the exact search of the same keys, in turns, in one process, with one thread for both unless told otherwise.

    python benchmarks/bench_retrieval.py                               # 200,000 keys of 256 numbers: some minutes
    python benchmarks/bench_retrieval.py --keys 5000000 --dim 768      # BIOSCAN-5M: 80 GB of memory, hours
    python benchmarks/bench_retrieval.py --keys 20000 --output trial.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bioscan_hf.provenance import write_results
from bioscan_hf.search.index import build_index, measure_recall

#: Claim: least share of the nearest keys that an index of the least effort finds.
RECALL = 0.95


def simulate(keys: int, queries: int, dim: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys (N, D) and queries (Q, D) around the same centres."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(1, keys // 50), dim), dtype=np.float32)

    def around(rows: int) -> np.ndarray:
        noise = generator.standard_normal((rows, dim), dtype=np.float32)
        return centres[generator.integers(0, len(centres), rows)] + np.float32(spread) * noise

    return around(keys), around(queries)


def measure(kind: str, keys: np.ndarray, queries: np.ndarray, effort: int, repeats: int) -> dict[str, Any]:
    """Recall, seconds to build, and medians of the seconds of a search and of the exact one."""
    start = time.perf_counter()
    index = build_index(keys, {}, kind=kind, effort=effort)
    built = time.perf_counter() - start
    runs = [measure_recall(index, queries) for _ in range(repeats)]
    seconds, exact = (median(run[name] for run in runs) for name in ("seconds", "exact_seconds"))
    return {
        "kind": kind,
        "effort": effort,
        "recall_at_5": runs[0]["recall"],
        "recall_of_nearest": runs[0]["nearest"],
        "build_seconds": built,
        "search_seconds": seconds,
        "exact_seconds": exact,
        "queries_per_second": len(queries) / seconds,
        "speedup": exact / seconds,
    }


def missed(rows: list[dict[str, Any]], least: int) -> list[str]:
    """Indexes of the least effort that lose neighbours, or are no faster than the exact search."""
    return [
        f"{row['kind']}: {row['recall_of_nearest']:.1%} of the nearest, {row['speedup']:.1f} times as fast"
        for row in rows
        if row["effort"] == least and (row["recall_of_nearest"] < RECALL or row["speedup"] <= 1)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Recall and speed of approximate indexes of keys. The exit code is 1 if an index of the least "
        f"effort finds under {100 * RECALL:.0f} %% of the nearest keys, or is not faster than the exact search."
    )
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--spread", type=float, default=0.5, help="deviation of a key around its centre")
    parser.add_argument("--kinds", nargs="+", default=["hnsw", "ivfpq"])
    parser.add_argument("--effort", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "retrieval.json")
    options = parser.parse_args()
    import faiss

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    keys, queries = simulate(options.keys, options.queries, options.dim, options.spread, options.seed)
    rows = []
    for kind in options.kinds:
        for effort in options.effort:
            rows.append(measure(kind, keys, queries, effort, options.repeats))
            print({name: round(x, 4) if isinstance(x, float) else x for name, x in rows[-1].items()}, flush=True)
    about = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    failures = missed(rows, min(options.effort))
    write_results(
        options.output, task="benchmark/retrieval", options=about, missed=failures, metrics={"indexes": rows}
    )
    print(*failures, sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
