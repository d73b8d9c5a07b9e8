"""The metadata of a release of 5,150,850 specimens: building, opening and reading, beside bioscan-dataset's loader.

    python benchmarks/bench_dataset_scale.py --work FOLDER            # about 20 GB on disk, 20 minutes on two cores
    python benchmarks/bench_dataset_scale.py --work FOLDER --rows 200000 --output trial.json    # two minutes
    python benchmarks/bench_dataset_scale.py --work FOLDER --before PYTHON    # also an earlier version, for comparison

Every step is a process of its own: seconds are its wall clock without imports, RSS is its peak (`ru_maxrss`), and
"added" is that without what the imports need. Pages of mapped files count in it, though the system can drop them;
"anonymous" at the end of a step is what the process holds itself. The peer reads the same CSV in the same run. Bytes
read are those of the process's `read` calls (/proc/self/io, Linux alone); a cached page counts like one from disk.
Bytes read by a build over those of the metadata are its passes over the metadata, and a little for what it wrote.

With `--before`, a Python in which an earlier version is installed runs the steps of `COMPARED` as well. `build` takes
turns with this version, `--repeats` times on all rows, and the fastest of each count. The other steps grew faster than
the rows in earlier versions, or need 15 GB there: if `--rows` is more than `--before-rows`, both versions run them on
a release of `--before-rows` rows as well ("smaller" in the results), and are compared there.

The exit status is 1 if one of `CLAIMS` is missed. Times in them are CPU seconds, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioscan_hf.provenance import write_results

ROWS = 5_150_850

#: Step -> program. Each gets paths from the command line, sets `result`, and times what stands below `start()`.
STEPS = {
    "simulate": """
from bioscan_hf.simulate.release import simulate_release
start()
simulate_release(release, rows, metadata_only=True, force=True)
result = {"csv_bytes": csv.stat().st_size, "bytes_per_row": csv.stat().st_size / rows}
""",
    "build": """
import datasets, pyarrow.parquet
load_modules("dataset.build")
start()
command(["build", str(release), str(parquet), "--config", "dna", "--quiet"])
files = list(parquet.glob("dna/*.parquet"))
sizes = [file.stat().st_size for file in files]
count = sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
result = {"rows": count, "bytes": sum(sizes), "largest_shard": max(sizes), "csv_bytes": csv.stat().st_size}
""",
    "split": """
import datasets
load_modules("dataset.split_file")
start()
command(["split", str(csv), str(parquet.with_suffix(".csv")), "--quiet"])
result = {"bytes": parquet.with_suffix(".csv").stat().st_size}
""",
    "peer_load": """
from bioscan_dataset.bioscan5m import load_bioscan5m_metadata
start()
table = load_bioscan5m_metadata(str(csv), split="all")
result = {"rows": len(table)}
""",
    "first_open": """
from bioscan_hf.dataset.load import load_bioscan5m
start()
data = load_bioscan5m(parquet, "dna", "all")
result = {"rows": len(data), "row": data[0]["processid"]}
""",
    "reopen": """
from bioscan_hf.dataset.load import load_bioscan5m
start()
data = load_bioscan5m(parquet, "dna", "all")
result = {"rows": len(data), "row": data[0]["processid"]}
""",
    "open_with_labels": """
from bioscan_hf import load_bioscan5m
ranks = ["phylum", "class", "order", "family", "subfamily", "genus", "species", "dna_bin"]
start()
data = load_bioscan5m(parquet, "dna", "all", ranks=ranks)
result = {"rows": len(data), "ids": [data[len(data) - 1][f"{rank}_index"] for rank in ranks]}
""",
    "label_lookups": """
from bioscan_hf.labels import LabelMaps
maps = LabelMaps.load(parquet / "labels.json")
names = maps.names("dna_bin")[:10_000]
start()
ids = [maps.label2index("dna_bin", name) for name in names]
result = {"lookups": len(ids)}
""",
    "first_open_whole_barcodes": """
from bioscan_hf.dataset.load import load_bioscan5m
start()
data = load_bioscan5m(parquet, "dna", "all", max_nucleotides=None)
result = {"rows": len(data)}
""",
    "stream_first_row": """
import torch  # as `datasets` does by itself when it first streams
from bioscan_hf.dataset.load import load_bioscan5m
start()
data = load_bioscan5m(parquet, "dna", "train", streaming=True)
result = {"row": next(iter(data))["processid"]}
""",
    "stream_train": """
import torch  # as `datasets` does by itself when it first streams
from bioscan_hf.dataset.load import load_bioscan5m
start()
data = load_bioscan5m(parquet, "dna", "train", streaming=True).with_format("arrow")
result = {"rows": sum(len(table) for table in data.iter(10_000))}
""",
    "stream_release": """
import torch
from bioscan_hf import load_bioscan5m
start()
data = load_bioscan5m(release, "dna", "train", streaming=True, ranks=["species"])
result = {"rows": sum(1 for row in data)}
""",
    "stream_release_again": """
import torch
from bioscan_hf import load_bioscan5m
start()
data = load_bioscan5m(release, "dna", "train", streaming=True, ranks=["species"])
result = {"rows": sum(1 for row in data)}
""",
    "labels_of_train": """
import pyarrow.dataset
start()
files = [str(path) for path in (parquet / "dna").glob("train-*.parquet")]
table = pyarrow.dataset.dataset(files).to_table(columns=["processid", "species"])
result = {"rows": len(table)}
""",
}

#: Steps that earlier versions can run besides `build`.
COMPARED = ("split", "open_with_labels", "stream_release", "stream_release_again")

#: Largest values of figures. Those of "before" count only where an earlier version was measured.
CLAIMS = {
    "labels_of_8_ranks_cpu_seconds": 60,
    "split_cpu_seconds": 300,
    "split_peak_bytes": 3e9,
    "build_cpu_over_before": 1.0,
    "build_passes_over_metadata": 3.0,
}

FRAME = """
import json, os, resource, sys, time
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
release, parquet, rows = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
csv = release / "bioscan5m/metadata/csv/BIOSCAN_5M_Insect_Dataset_metadata.csv"
began = {{}}
[command] = [entry.load() for entry in entry_points(group="console_scripts", name="bioscan-hf")]

def read_bytes():
    lines = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(lines["rchar"])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def anonymous():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024

def load_modules(module):  # before time is taken; earlier versions had other modules
    for name in ("typer._adapters", *("bioscan_hf." + part for part in (module, "cli.data", "build", "commands"))):
        try:
            import_module(name)
        except ImportError:
            pass

def start():
    began.update(wall=time.perf_counter(), cpu=time.process_time(), rss=peak(), read=read_bytes())
{step}
result |= {{"seconds": time.perf_counter() - began["wall"], "cpu_seconds": time.process_time() - began["cpu"]}}
result |= {{"peak_rss": peak(), "added_rss": peak() - began["rss"], "bytes_read": read_bytes() - began["read"]}}
result |= {{"anonymous_rss_at_end": anonymous()}}
print(json.dumps(result), flush=True)
os._exit(0)  # the reader threads of a stream that was left in the middle may never end
"""


def run(step: str, release: Path, work: Path, rows: int, python: str = sys.executable) -> dict[str, Any]:
    """Figures of one step, in a process of its own."""
    program = FRAME.format(step=STEPS[step])
    environment = {**os.environ, "HF_HOME": str(work / "cache"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)  # which may lead to this version
    work.mkdir(exist_ok=True)
    command = [python, "-c", program, str(release), str(work / "parquet"), str(rows)]
    # In `work`, because Python would import the package from a checkout that is the current folder.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=work)
    if done.returncode:
        raise RuntimeError(f"The step {step!r} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    rss, added = figures["peak_rss"] / 2**20, figures["added_rss"] / 2**20
    print(
        f"{step:<26}{figures['seconds']:>9.2f} s{figures['cpu_seconds']:>9.2f} s CPU{rss:>8.0f} MiB peak"
        f"{added:>8.0f} MiB added{figures['anonymous_rss_at_end'] / 2**20:>8.0f} MiB anonymous"
        f"{figures['bytes_read'] / 1e6:>9.1f} MB read",
        flush=True,
    )
    return figures


def measure_before(options: argparse.Namespace, work: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Figures of the earlier version, and of both on fewer rows; adds repeats of `build` to `metrics`."""
    folder, release = work / "before", work / "release"
    folder.mkdir()
    builds: dict[str, list[dict[str, Any]]] = {"build": [metrics["build"]], "before": []}
    for number in range(options.repeats):
        print(f"with {options.before}:")
        builds["before"].append(run("build", release, folder / str(number), options.rows, options.before))
        if number + 1 < options.repeats:
            print("with this version:")
            builds["build"].append(run("build", release, work / f"again{number}", options.rows))
    fastest = {name: min(runs, key=lambda run: run["cpu_seconds"]) for name, runs in builds.items()}
    metrics["build"] = {**fastest["build"], "all_cpu_seconds": [run["cpu_seconds"] for run in builds["build"]]}
    before = {**fastest["before"], "all_cpu_seconds": [run["cpu_seconds"] for run in builds["before"]]}
    found: dict[str, Any] = {"rows": min(options.rows, options.before_rows), "build": before, "smaller": {}}
    if options.rows > options.before_rows:
        release = work / "smaller"
        print(f"on {options.before_rows} rows:")
        run("simulate", release, work / "smaller_output", options.before_rows)
        steps = ("build", *COMPARED)
        found["smaller"] = {step: run(step, release, work / "smaller_output", options.before_rows) for step in steps}
        print(f"with {options.before}:")
        folder = work / "smaller_before"
        run("build", release, folder, options.before_rows, options.before)
    else:
        print(f"with {options.before}:")
        folder /= "0"
    return found | {step: run(step, release, folder, found["rows"], options.before) for step in COMPARED}


def ratios_of(metrics: dict[str, Any], before: dict[str, Any]) -> dict[str, float]:
    """Figures that compare steps, and those of `CLAIMS`."""
    build, lookups = metrics["build"], metrics["label_lookups"]
    ratios = {
        "labels_of_8_ranks_cpu_seconds": metrics["open_with_labels"]["cpu_seconds"],
        "split_cpu_seconds": metrics["split"]["cpu_seconds"],
        "split_peak_bytes": metrics["split"]["peak_rss"],
        "build_passes_over_metadata": build["bytes_read"] / build["csv_bytes"],
        "milliseconds_per_label_lookup": 1000 * lookups["seconds"] / lookups["lookups"],
        "train_share_of_bytes_read": metrics["stream_train"]["bytes_read"] / build["bytes"],
        "train_labels_share_of_bytes_read": metrics["labels_of_train"]["bytes_read"] / build["bytes"],
    }
    if "peer_load" in metrics:
        peer = metrics["peer_load"]["seconds"]
        ratios |= {f"peer_over_{step}": peer / metrics[step]["seconds"] for step in ("build", "first_open", "reopen")}
    if before:
        ratios["build_cpu_over_before"] = build["cpu_seconds"] / before["build"]["cpu_seconds"]
        ratios["before_passes_over_metadata"] = before["build"]["bytes_read"] / build["csv_bytes"]
        same = before["smaller"] or metrics
        for step in COMPARED:
            ratios[f"before_over_{step}_cpu"] = before[step]["cpu_seconds"] / same[step]["cpu_seconds"]
            ratios[f"before_over_{step}_peak_rss"] = before[step]["peak_rss"] / same[step]["peak_rss"]
    return ratios


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="empty or new folder for the release and the caches")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--before", metavar="PYTHON", help="Python in which an earlier version is installed")
    parser.add_argument("--before-rows", type=int, default=200_000, help="rows of the steps that were slow before")
    parser.add_argument("--repeats", type=int, default=2, help="builds of the earlier version and of this one")
    parser.add_argument("--no-peer", action="store_true", help="without bioscan-dataset, which needs 10 GB")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "dataset_scale.json")
    options = parser.parse_args(arguments)
    if options.work.exists() and any(options.work.iterdir()):
        parser.error(f"{options.work} is not empty: the caches in it would make the first opening a second one")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every step, prints and writes the figures; returns the exit status."""
    options = parse(arguments)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if not (step == "peer_load" and options.no_peer)]
    metrics: dict[str, Any] = {step: run(step, work / "release", work, options.rows) for step in steps}
    before = measure_before(options, work, metrics) if options.before else {}
    ratios = ratios_of(metrics, before)
    missed = [name for name, limit in CLAIMS.items() if ratios.get(name, 0) > limit]
    for name, value in ratios.items():
        claim = f"   at most {CLAIMS[name]:g}{': MISSED' * (name in missed)}" if name in CLAIMS else ""
        print(f"{name:<40}{value:>15.3f}{claim}")
    claims = {name: {"at_most": limit, "kept": name not in missed} for name, limit in CLAIMS.items() if name in ratios}
    write_results(
        options.output,
        task="dataset/scale",
        rows=options.rows,
        metrics={**metrics, **ratios},
        before=before,
        claims=claims,
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
