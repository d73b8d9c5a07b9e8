"""Writes what small libraries of COI barcodes are filled up with, `bioscan_hf/identification/coi`.

    python benchmarks/learn_prior.py bold_coi5p.csv.gz        # about 5 minutes of one core

The region is fitted to barcodes of half of the families (`half`). Of these, libraries of 8 to 800 species with 2 to 5
records of each are made, of all insects, of an order or of a family, and their references are named as if they were
reads: without themselves, and without their species, genus, family and order. The features are kept, the same number
at each level. The other families are for `bench_small_libraries.py`.
"""

from __future__ import annotations

import argparse
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from identify_reads import Row, rows_of

from bioscan_hf.files import read_json, write_json
from bioscan_hf.identification import prior
from bioscan_hf.identification.base import joined_evidence
from bioscan_hf.identification.calibration import Evidence
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.learning import Asked
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.region import Region
from bioscan_hf.provenance import provenance
from bioscan_hf.schema import RANKS

#: Libraries, references of each that are asked about at a level, and those of a level that are kept.
LIBRARIES, ASKED, KEPT = 80, 40, 400

FEWEST_SPECIES, MOST_SPECIES = 8, 800

#: Nucleotides of the region.
LENGTH = 658


def half(row: Row) -> int:
    """The half of a record: 0 is learned from, and 1 is for measuring. A family lies in one half."""
    return zlib.crc32((row["family"] or row["genus"] or "").encode()) % 2


def chosen(rows: Sequence[Row], draw: random.Random, species: int, each: int) -> list[Row]:
    """Records of some species of all rows, or of one order or family: at most `each` of a species."""
    rank = draw.choice((None, "order", "family"))
    if rank is not None:
        counts = Counter({row["species"]: row[rank] for row in rows}.values())
        name = draw.choice(sorted(name for name, number in counts.items() if name and number >= FEWEST_SPECIES))
        rows = [row for row in rows if row[rank] == name]
    names = sorted({row["species"] or "" for row in rows})
    wanted = set(draw.sample(names, min(species, len(names))))
    seen: Counter[str | None] = Counter()
    found = []
    for row in draw.sample(rows, len(rows)):
        if row["species"] in wanted and seen[row["species"]] < each:
            seen[row["species"]] += 1
            found.append(row)
    return found


def library_of(rows: Sequence[Row], seed: int | None = None) -> ReferenceLibrary:
    """A library of records; without confidences if no seed is given."""
    table = pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS})
    found = Found(table, {"records": "table"})
    return ReferenceLibrary.uncalibrated(found) if seed is None else ReferenceLibrary.from_records(found, seed=seed)


def write_region(rows: Sequence[Row]) -> str:
    """Writes the region of records, fewer than are reduced to principal components; returns the consensus."""
    region = Region.of([row["dna_barcode"] or "" for row in rows])
    assert region is not None and region.positions == LENGTH
    region.model.save_pretrained(prior.FILES)
    config = read_json(prior.FILES / "config.json")
    config.pop("auto_map", None)
    write_json(prior.FILES / "config.json", config)
    for code in prior.FILES.glob("*.py"):  # it is opened by this package
        code.unlink()
    placed = region.place([row["dna_barcode"] or "" for row in rows])
    codes = placed.aligned[np.flatnonzero(placed.score > 0.5)]
    return "".join("ACGT"[np.bincount(column[column < 4], minlength=4).argmax()] for column in codes.T)


def asked_of(library: ReferenceLibrary, rng: np.random.Generator) -> Asked | None:
    """References that were asked about, with every rank; None for a library without a region."""
    asked = None if library.references.region is None else library.asked(ASKED, rng)
    if asked is None:
        return None
    nothing = np.full(len(asked.level), -1)
    features = asked.evidence.ranks
    some = next(iter(features.values()))
    ranks = {rank: features.get(rank, np.zeros_like(some)) for rank in RANKS}
    right = {rank: np.asarray(asked.right.get(rank, nothing)) for rank in RANKS}
    return replace(asked, evidence=Evidence(asked.evidence.known, ranks), right=right)


def joined(parts: Sequence[Asked], families: Sequence[Any], rng: np.random.Generator) -> Asked:
    """At most `KEPT` of each level, of all libraries."""
    level = np.concatenate([part.level for part in parts])
    rows = [np.flatnonzero(level == place) for place in range(int(level.max()) + 1)]
    kept = np.sort(np.concatenate([rng.permutation(some)[:KEPT] for some in rows]))
    evidence = joined_evidence([part.evidence for part in parts], RANKS)
    return Asked(
        Evidence(evidence.known[kept], {rank: part[kept] for rank, part in evidence.ranks.items()}),
        level[kept],
        {rank: np.concatenate([part.right[rank] for part in parts])[kept] for rank in RANKS},
        np.ones(len(kept)),
        np.concatenate([part.identity for part in parts])[kept],
        None,
        np.unique(np.concatenate(families)[kept], return_inverse=True)[1],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="table in BIOSCAN-5M columns, .csv.gz")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = [row for row in rows_of(args.source) if half(row) == 0]
    draw, rng = random.Random(args.seed), np.random.default_rng(args.seed)
    about = {name: provenance()[name] for name in ("command", "commit")} | {"dataset": args.source.name}
    write_json(prior.FILES / prior.FACTS, about | {"consensus": write_region(draw.sample(rows, 3900))})
    parts, families = [], []
    for number in range(LIBRARIES):
        species = int(np.exp(rng.uniform(np.log(FEWEST_SPECIES), np.log(MOST_SPECIES))))
        library = library_of(chosen(rows, draw, species, draw.choice((2, 2, 3, 5))))
        names = np.array([*library.taxa["family"], ""])
        asked = asked_of(library, rng)
        print(number, len(library), None if asked is None else np.bincount(asked.level, minlength=5), flush=True)
        if asked is not None:
            parts.append(asked)
            families.append(names[asked.families])
    prior.write_prior(joined(parts, families, rng))
    print(f"Wrote {prior.FILES.name}")


if __name__ == "__main__":
    main()
