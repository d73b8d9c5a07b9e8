"""Whether `bioscan-hf identify` keeps its word on real barcodes: confidences against what turned out right.

    python benchmarks/bench_confidence.py bold_coi5p.csv.gz

For each seed, families, genera and species are held out at random; of the rest, two records of each species are reads
and the others are references. A library is made of the references alone. Reads of known species and of species, genera
and families that are new to the references are mixed, whole, cut, reversed or with errors; each barcode counts once.
Foreign reads are random letters (even, and with the letters of insects), reversed but not complemented barcodes, and
shuffled ones. Intervals are a bootstrap over species. The exit code is 1 if a claim is missed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bioscan_hf.identification.answers import answer
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.library import Named, ReferenceLibrary
from bioscan_hf.identification.region import complement
from bioscan_hf.provenance import write_results

RANKS = ("order", "family", "genus", "species")
LEAST = 0.95
REFERENCES = 13_500

#: Reads that are named at a time, and blocks of such reads in each mix: known, species new, genus new, family new.
BLOCK = 50
MIXES = {
    "none new": (10, 0, 0, 0),
    "species new": (0, 8, 0, 0),
    "genus new": (0, 0, 8, 0),
    "family new": (0, 0, 0, 8),
    "half new": (8, 4, 2, 2),
    "nine tenths new": (1, 4, 3, 2),
}

#: Claims: shares of the deepest names that are right, its lower bound, and of foreign reads that are named.
RIGHT, LOWER, FOREIGN = 0.95, 0.93, 0.001

Row = dict[str, str | None]


def spoiled(read: str, draw: random.Random, rate: float = 0.02) -> str:
    """A read with a share of wrong letters."""
    return "".join(draw.choice("ACGT".replace(x, "")) if draw.random() < rate else x for x in read)


def inserted(read: str, draw: random.Random) -> str:
    """A read with one more letter."""
    place = draw.randrange(50, len(read) - 50)
    return read[:place] + draw.choice("ACGT") + read[place:]


VARIANTS: dict[str, Callable[[str, random.Random], str]] = {
    "whole": lambda read, draw: read,
    "first 313": lambda read, draw: read[:313],
    "first 200": lambda read, draw: read[:200],
    "other strand": lambda read, draw: complement(read),
    "one insertion": inserted,
    "2 % errors": spoiled,
}


def foreign(reads: Sequence[str], draw: random.Random) -> list[str]:
    """Random, reversed and shuffled reads."""
    found = []
    for number, read in enumerate(reads):
        weights = [read.count(letter) + 1 for letter in "ACGT"]
        found.append(
            "".join(draw.choices("ACGT", k=len(read)))
            if number % 4 == 0
            else "".join(draw.choices("ACGT", weights, k=len(read)))
            if number % 4 == 1
            else read[::-1]
            if number % 4 == 2
            else "".join(draw.sample(read, len(read)))
        )
    return found


def partition(rows: Sequence[Row], draw: random.Random) -> tuple[list[Row], list[list[Row]]]:
    """References, and reads that are known, of new species, of new genera and of new families."""

    def some(rank: str, share: float) -> set[str]:
        names = sorted({row[rank] or "" for row in rows} - {""})
        return set(draw.sample(names, max(2, int(share * len(names)))))

    families, genera, species = some("family", 0.08), some("genus", 0.10), some("species", 0.15)
    rest, new = [], [[], [], []]  # type: tuple[list[Row], list[list[Row]]]
    for row in rows:
        level = (
            2 if row["family"] in families else 1 if row["genus"] in genera else 0 if row["species"] in species else 3
        )
        (rest if level == 3 else new[level]).append(row)
    seen: dict[str, int] = {}
    known: list[Row] = []
    references: list[Row] = []
    for row in draw.sample(rest, len(rest)):
        name = row["species"] or ""
        seen[name] = seen.get(name, 0) + 1
        (known if seen[name] <= 2 else references).append(row)
    references = references[:REFERENCES]
    there = {rank: {row[rank] for row in references} for rank in RANKS}
    new[0] = [row for row in new[0] if row["genus"] in there["genus"]]
    new[1] = [row for row in new[1] if row["family"] in there["family"]]
    known = [row for row in known if row["species"] in there["species"]]
    return references, [_few_each(part, draw) for part in (known, *new)]


def _few_each(rows: Sequence[Row], draw: random.Random) -> list[Row]:
    """At most 6 barcodes of each species, each barcode once, in a random order."""
    counts: dict[str | None, int] = {}
    barcodes: set[str | None] = set()
    kept = []
    for row in draw.sample(rows, len(rows)):
        counts[row["species"]] = counts.get(row["species"], 0) + 1
        if counts[row["species"]] <= 6 and row["dna_barcode"] not in barcodes:
            barcodes.add(row["dna_barcode"])
            kept.append(row)
    return kept


def interval(right: NDArray[np.bool_], species: Sequence[str | None], seed: int = 0) -> list[float] | None:
    """95 % interval of a share, by a bootstrap over species."""
    if not len(right):
        return None
    names, place = np.unique(np.array(species, dtype=str), return_inverse=True)
    good, every = np.bincount(place, right, len(names)), np.bincount(place, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(0, len(names), (2000, len(names)))
    shares = good[drawn].sum(1) / every[drawn].sum(1)
    return [round(float(x), 4) for x in np.quantile(shares, [0.025, 0.975])]


def measured(answers: pa.Table, rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers of one cell: per rank, and of the deepest names."""
    found: dict[str, Any] = {"reads": len(rows), "novel_share": float(answers.schema.metadata[b"novel_share"])}
    for rank in RANKS:
        sure = np.array([value or 0.0 for value in answers[f"{rank}_confidence"].to_pylist()])
        names = answers[rank].to_pylist()
        right = np.array([a is not None and a == row[rank] for a, row in zip(names, rows, strict=True)])
        told = sure >= LEAST
        found[rank] = {
            "right": round(float(right.mean()), 4),
            "mean_confidence": round(float(sure.mean()), 4),
            "brier": round(float(((sure - right) ** 2).mean()), 4),
            "named": round(float(told.mean()), 4),
            "right_of_named": round(float(right[told].mean()), 4) if told.any() else None,
        }
    named = [i for i, name in enumerate(answers["name"].to_pylist()) if name is not None]
    ranks, names = answers["rank"].to_pylist(), answers["name"].to_pylist()
    good = np.array([names[i] == rows[i].get(ranks[i]) for i in named], np.bool_)
    found["deepest"] = {
        "named": round(len(named) / len(rows), 4),
        "right_of_named": round(float(good.mean()), 4) if len(good) else None,
        "interval": interval(good, [rows[i]["species"] for i in named]),
    }
    return found


def mixed(blocks: Sequence[list[tuple[Named, list[Row]]]], counts: Sequence[int]) -> tuple[list[Named], list[Row]]:
    """The first blocks of each part."""
    chosen = [pair for part, count in zip(blocks, counts, strict=True) for pair in part[:count]]
    return [block for block, _ in chosen], [row for _, rows in chosen for row in rows]


def run(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """All cells of one partition."""
    draw = random.Random(seed)
    references, parts = partition(rows, draw)
    table = pa.table({name: pa.array([row[name] for row in references], pa.large_string()) for name in COLUMNS})
    library = ReferenceLibrary.from_records(Found(table, {"records": "table"}), seed=seed)
    cells: dict[str, Any] = {}
    most = [max(counts[part] for counts in MIXES.values()) for part in range(4)]
    for variant, change in VARIANTS.items():
        blocks = [
            [
                (library.name([change(row["dna_barcode"] or "", draw) for row in some]), some)
                for some in (part[start : start + BLOCK] for start in range(0, BLOCK * count, BLOCK))
                if some
            ]
            for part, count in zip(parts, most, strict=True)
        ]
        for mix, counts in MIXES.items():
            named, asked = mixed(blocks, counts)
            ids = [row["processid"] or "" for row in asked]
            cells[f"{variant}, {mix}"] = measured(answer(library, ids, named, LEAST, None), asked)
    reads = foreign([row["dna_barcode"] or "" for row in parts[0][:400]], draw)
    names = library.identify(reads)["name"].to_pylist()
    cells["foreign"] = {"reads": len(reads), "named": sum(name is not None for name in names) / len(reads)}
    cells["references"] = {"records": len(library), "species": len(library.taxa["species"])}
    return cells


def missed(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The claims that do not hold."""
    found = []
    for seed, cells in metrics.items():
        for cell, values in cells.items():
            if cell == "foreign" and values["named"] > FOREIGN:
                found.append(f"{seed}: {values['named']:.2%} of foreign reads have a sure name")
            deepest = values.get("deepest", {})
            if deepest.get("interval") and (deepest["right_of_named"] < RIGHT or deepest["interval"][0] < LOWER):
                found.append(f"{seed}, {cell}: {deepest['right_of_named']:.1%} right, {deepest['interval']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="table in BIOSCAN-5M columns, .csv.gz")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/confidence.json")
    args = parser.parse_args()
    start = time.perf_counter()
    with gzip.open(args.source, "rt", newline="", encoding="utf-8") as file:
        rows = [{k: v or None for k, v in row.items()} for row in csv.DictReader(file) if row["species"]]
    metrics = {}
    for seed in range(1, args.seeds + 1):
        metrics[f"seed {seed}"] = run(rows, seed)
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    failures = missed(metrics)
    write_results(
        args.output,
        task="benchmark/confidence",
        options={"least": LEAST, "seeds": args.seeds, "right": RIGHT, "lower": LOWER, "foreign": FOREIGN},
        dataset=args.source.name,
        seconds=round(time.perf_counter() - start),
        missed=failures,
        metrics=metrics,
    )
    print(*failures, sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
