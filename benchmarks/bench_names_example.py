"""Five real reads, named by `bioscan-hf identify`: the example in README.

    bioscan-hf split bold_coi5p.csv.gz split.csv --hold-out-species 0.15 --unlabel 0.5 --seed 0
    python benchmarks/bench_names_example.py split.csv

References are the records of train; reads are drawn at random from test (species that are among the references) and
test_unseen (species that are not, genera that are). The exit code is 1 if a name is wrong, if a read of a known
species has no name, if a read of a new species is named to the species, or if a shuffled read has a name.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bioscan_hf.barcodes import complement
from bioscan_hf.cli.main import main as bioscan_hf
from bioscan_hf.provenance import write_results

COLUMNS = ("id", "status", "rank", "name", "confidence", "nearest", "identity")


def examples(rows: dict[str, list[dict[str, str]]], draw: random.Random) -> dict[str, tuple[str, dict[str, str]]]:
    """Read -> its sequence and its record."""
    known = draw.sample(rows["test"], 4)
    (new,) = draw.sample(rows["test_unseen"], 1)
    reads = [row["dna_barcode"] for row in (*known, new)]
    shuffled = "".join(draw.sample(reads[3], len(reads[3])))
    return {
        "whole": (reads[0], known[0]),
        "other_strand": (complement(reads[1]), known[1]),
        "first_200_nt": (reads[2][:200], known[2]),
        "new_species": (reads[4], new),
        "shuffled": (shuffled, known[3]),
    }


def missed(found: list[dict[str, Any]], truth: dict[str, tuple[str, dict[str, str]]]) -> list[str]:
    """Reads that are named otherwise than claimed."""
    wrong = []
    for row in found:
        name, rank, record = row["name"], row["rank"], truth[row["id"]][1]
        if row["id"] == "shuffled":
            good = not name
        else:
            good = bool(name) and record[rank] == name and not (rank == "species" and row["id"] == "new_species")
        if not good:
            wrong.append(f"{row['id']}: {name or 'no name'} ({record['species']})")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="CSV with a column split, as `bioscan-hf split` writes it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/names_example.json")
    args = parser.parse_args()
    start = time.perf_counter()
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": [], "test_unseen": []}
    with open(args.split, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] in rows and len(row["dna_barcode"]) >= 600:
                rows[row["split"]].append(row)
    reads = examples(rows, random.Random(args.seed))
    with tempfile.TemporaryDirectory() as folder:
        references, fasta, names = (Path(folder, name) for name in ("train.csv", "reads.fasta", "names.csv"))
        with open(references, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows["train"][0])
            table.writeheader()
            table.writerows(rows["train"])
        fasta.write_text("".join(f">{name}\n{read}\n" for name, (read, _) in reads.items()))
        bioscan_hf(["identify", str(fasta), str(names), "--references", str(references), "--quiet"])
        with open(names, newline="", encoding="utf-8") as file:
            found: list[dict[str, Any]] = [{column: row[column] for column in COLUMNS} for row in csv.DictReader(file)]
    for row in found:
        row |= {name: float(row[name]) if row[name] else None for name in ("confidence", "identity")}
    failures = missed(found, reads)
    metrics: dict[str, Any] = {"rows": found, "species": {name: row["species"] for name, (_, row) in reads.items()}}
    write_results(
        args.output,
        task="benchmark/names_example",
        dataset="bold_coi5p.csv.gz, partitioned as in real_coi.json",
        references=len(rows["train"]),
        options={"seed": args.seed},
        seconds=round(time.perf_counter() - start, 1),
        missed=failures,
        metrics=metrics,
    )
    print(*(list(row.values()) for row in found), *failures, sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
