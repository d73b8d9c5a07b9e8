"""Claim: all statistics of 5.15 million specimens except distances in under 60 s and 2 GB, on 2 cores.

The claim is checked on the CPU time of all threads, which other work on the machine does not lengthen. Wall time is
reported beside it, with the load of the machine before.

Without a source, a table of the published size is simulated: taxa and BINs with sizes that decrease as the real ones
do, and barcodes of 658 nucleotides, about half of them distinct, in the Parquet of a build. It is deleted afterwards.
Distances are timed separately, with a small sample.

    python benchmarks/bench_statistics.py                                  # about 3 minutes, 1 GB of disk
    python benchmarks/bench_statistics.py --rows 20000 --output trial.json # half a minute
    python benchmarks/bench_statistics.py --source dataset --output trial.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bioscan_hf.dataset.build import ROWS_PER_SHARD
from bioscan_hf.dataset.manifest import shard_names
from bioscan_hf.dataset.shards import METADATA_ROWS_PER_GROUP, ParquetShard
from bioscan_hf.provenance import write_results
from bioscan_hf.release.columns import features
from bioscan_hf.schema import LABEL_COLUMNS, SPLITS, chunk

REQUIRED_SECONDS = 60
REQUIRED_MEGABYTES = 2000
PUBLISHED_ROWS = 5_150_850

#: Published categories and labelled share of each rank, and share of each split.
CATEGORIES = dict(zip(LABEL_COLUMNS, (1, 10, 55, 934, 1542, 7605, 22622, 324411), strict=True))
LABELLED = dict(zip(LABEL_COLUMNS, (1.0, 0.999, 0.997, 0.958, 0.286, 0.238, 0.092, 0.997), strict=True))
SHARES = dict(zip(SPLITS, (0.9083, 0.0561, 0.0029, 0.0076, 0.0071, 0.0017, 0.0015, 0.0148), strict=True))
ANCESTORS = 2000

#: Runs in its own process, so that its peak memory is that of the statistics alone.
MEASURED = """
import json, resource, sys, time
start = time.perf_counter()
from bioscan_hf.statistics.distances import barcode_distances
from bioscan_hf.statistics.measures import describe
imported = time.perf_counter() - start
source, rank, limit = sys.argv[1:4]
start, cpu = time.perf_counter(), time.process_time()
if rank:
    found = barcode_distances(source, rank, max_per_group=int(limit))
    found.pop("distribution")
else:
    total = describe(source)["splits"][-1]
    found = {"rows": total["samples"], "distinct_barcodes": total["barcodes"]}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
measured = {"wall_seconds": seconds, "cpu_seconds": cpu, "import_seconds": imported, "peak_megabytes": peak}
print(json.dumps(measured | found))
"""


def _rows(count: int, start: int, split: str, ancestors: np.ndarray, random: np.random.Generator) -> pa.Table:
    """`count` simulated rows of the 23 columns; the first is number `start`."""
    bins = np.minimum(random.pareto(0.35, count), CATEGORIES["dna_bin"] - 1).astype(int)  # few large, many small
    letters = ancestors[bins % ANCESTORS].copy()
    variant = random.integers(0, 1 + 40 * (bins % 7), count)  # barcodes of a BIN that are repeated,
    fresh = random.random(count) < 0.42  # and others that are not
    changing = np.random.default_rng(0).integers(0, letters.shape[1], 4096)
    for step in range(6):
        place = changing[(bins * 7 + variant * (step + 1)) % 4096]
        place = np.where(fresh, random.integers(0, letters.shape[1], count), place)
        letters[np.arange(count), place] = np.frombuffer(b"ACGT", np.uint8)[(variant * 3 + bins + step) % 4]
    offsets = np.arange(count + 1, dtype=np.int32) * letters.shape[1]
    barcodes = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters))
    ids = [f"SIM{number:08d}-26" for number in range(start, start + count)]
    columns: dict[str, Any] = {"processid": ids, "sampleid": [f"S-{i}" for i in ids], "taxon": ["Insecta"] * count}
    for rank, categories in CATEGORIES.items():
        names = pa.array([f"{rank} {i}" for i in range(categories)])
        columns[rank] = names.take(pa.array(bins % categories, mask=random.random(count) > LABELLED[rank]))
    sites = (random.pareto(0.8, count) * 3).astype(int) % 1650
    columns |= {
        "dna_barcode": barcodes,
        "country": pa.array([f"country {i}" for i in range(47)]).take(pa.array(sites % 47)),
        "province_state": pa.array([f"province {i}" for i in range(300)]).take(pa.array(sites % 300)),
        "coord-lat": np.round(-60 + (sites * 0.0723) % 120, 3),
        "coord-lon": np.round(-170 + (sites * 1.117) % 340, 3),
        "image_measurement_value": random.integers(500, 400_000, count),
        "area_fraction": np.round(random.random(count) * 0.6, 4),
        "scale_factor": np.round(0.3 + random.random(count) * 2, 4),
        "inferred_ranks": np.zeros(count, np.uint8),
        "split": [split] * count,
        "index_bioscan_1M_insect": pa.nulls(count, pa.int64()),
        "chunk": [chunk(i, split) or None for i in ids],
    }
    return pa.table(columns).cast(features("dna").arrow_schema)


def make_dataset(folder: Path, rows: int, seed: int) -> None:
    """Writes the config `dna` of a simulated dataset of about `rows` rows."""
    random = np.random.default_rng(seed)
    ancestors = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, (ANCESTORS, 658))]
    counts = {split: max(1, round(rows * share)) for split, share in SHARES.items()}
    start = 0
    for split, names in shard_names("dna", counts, ROWS_PER_SHARD["dna"]).items():
        left = counts[split]
        for name in names:
            shard = ParquetShard(folder / name, "dna", features("dna").arrow_schema)
            size = min(left, ROWS_PER_SHARD["dna"])
            for _ in range(0, size, METADATA_ROWS_PER_GROUP):
                count = min(METADATA_ROWS_PER_GROUP, size - shard.rows)
                shard.write(_rows(count, start, split, ancestors, random))
                start += count
            shard.close()
            left -= size


def measure(source: str, rank: str = "", max_per_group: int = 0) -> dict[str, Any]:
    """Seconds and peak memory of `describe`, or of the distances of one rank, in a new process."""
    load = os.getloadavg()[0]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, source, rank, str(max_per_group)], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout) | {"load_before": load}
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in found.items()}


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes the results file, and returns 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="dataset or release to read (default: a simulated one)")
    parser.add_argument("--rows", type=int, default=PUBLISHED_ROWS, help="of the simulated one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-per-group", type=int, default=50, help="barcodes compared (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "statistics.json")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-statistics-") as folder:
        if options.source is None:
            make_dataset(Path(folder), options.rows, options.seed)
        source = options.source or folder
        metrics = {"describe": measure(source)}
        metrics["distances_family"] = measure(source, "family", options.max_per_group)
    for name, found in metrics.items():
        print(name, *(f"  {key}: {value}" for key, value in found.items()), sep="\n")
    slow, large = metrics["describe"]["cpu_seconds"], metrics["describe"]["peak_megabytes"]
    write_results(
        options.output,
        task="benchmark/statistics",
        metrics=metrics,
        options={"seed": options.seed, "max_per_group": options.max_per_group, "cpus": os.cpu_count()},
        dataset="simulated" if options.source is None else Path(options.source).name,
        required={"cpu_seconds": REQUIRED_SECONDS, "peak_megabytes": REQUIRED_MEGABYTES},
    )
    return int(slow > REQUIRED_SECONDS or large > REQUIRED_MEGABYTES)


if __name__ == "__main__":
    raise SystemExit(main())
