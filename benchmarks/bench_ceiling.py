"""Ceiling of Task II at each rank: the AMI of a clustering that is exactly the species.

    bioscan-hf split bold_coi5p.csv.gz split.csv --hold-out-species 0.15 --unlabel 0.5 --seed 0
    python benchmarks/bench_ceiling.py split.csv

One clustering is compared with every rank, so with as many clusters as species no method can reach 100 % of orders:
the true species get about 30 %. The specimens are those of `bench_real_clustering.py` (test and test_unseen). The exit
code is 1 if the species themselves do not score 100 %.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from sklearn.metrics import adjusted_mutual_info_score

from bioscan_hf.provenance import write_results

RANKS = ("order", "family", "subfamily", "genus", "species", "dna_bin")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="CSV with a column split, as `bioscan-hf split` writes it")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/ceiling.json")
    args = parser.parse_args()
    start = time.perf_counter()
    table = csv.read_csv(args.split)
    table = table.filter(pc.is_in(table["split"], pa.array(["test", "test_unseen"])))
    metrics: dict[str, float] = {}
    for rank in RANKS:
        pairs = zip(table[rank].to_pylist(), table["species"].to_pylist(), strict=True)
        named = [(taxon, species) for taxon, species in pairs if taxon and species]
        metrics[rank] = round(float(adjusted_mutual_info_score(*zip(*named, strict=True))), 5)
    print(metrics)
    write_results(
        args.output,
        task="benchmark/ceiling",
        dataset="bold_coi5p.csv.gz, partitioned as in real_clustering.json",
        specimens=len(table),
        seconds=round(time.perf_counter() - start, 1),
        metrics=metrics,
    )
    return int(metrics["species"] < 1)


if __name__ == "__main__":
    raise SystemExit(main())
