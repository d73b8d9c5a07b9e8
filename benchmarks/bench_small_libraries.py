"""Claims: small libraries of COI barcodes name reads of their species, and confidences hold for them as well.

    python benchmarks/bench_small_libraries.py bold_coi5p.csv.gz        # about 8 minutes of one core

Libraries of 10 to 150 species with 1, 2 or 4 references of each, of all insects or of one family, are made of the half
of the families that `learn_prior.py` did not use; and one of references cut to 300 to 658 nucleotides. Each is
asked for two other records of every species of its own (as far as there are some), and for as many records of other
species: half of the same families, half of others; and for random, shuffled and reversed sequences. Beside it stands
the same library with confidences of its own references alone. Intervals are over species.

Claims, for each kind of library: of the reads whose species is there at least 80 % are named to species, and of the
names told at 95 % or more at least 95 % are right, the lower end of the interval at least 93 %; and of the foreign
sequences at most 0.1 % have such a name. The exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from bench_confidence import interval, rounded
from claims import ended
from identify_reads import Row, foreign, rows_of
from learn_prior import half, library_of

from bioscan_hf.identification.learning import learn
from bioscan_hf.identification.library import ASKED, ReferenceLibrary

SPECIES, EACH, DRAWS = (10, 25, 50, 150), (1, 2, 4), 8

#: Other records of a species that are asked for.
READS = 2

LEAST = 0.95

#: Kind of the library whose references have many lengths, of 50 species with 4 references.
CUT = "of many lengths"

SHORTEST = 300

#: Foreign sequences of each kind for a library.
FOREIGN = 20


def drawn(rows: Sequence[Row], draw: random.Random, species: int, each: int, scope: str) -> tuple[list[Row], ...]:
    """References; reads of their species; and reads of others."""
    records: dict[str, list[Row]] = defaultdict(list)
    for row in draw.sample(rows, len(rows)):
        records[row["species"] or ""].append(row)
    enough = [name for name, own in records.items() if len(own) > each]
    if scope == "one family":
        families = defaultdict(list)
        for name in enough:
            families[records[name][0]["family"]].append(name)
        large = [family for family, names in families.items() if len(names) >= 1.5 * species]
        enough = families[draw.choice(sorted(large, key=str) or [max(families, key=lambda name: len(families[name]))])]
    names = draw.sample(enough, min(species, int(len(enough) / 1.2)))
    own = {records[name][0]["family"] for name in names}
    references = [row for name in names for row in records[name][:each]]
    known = [row for name in names for row in records[name][each : each + READS]]
    others = [parts[0] for name, parts in records.items() if name not in set(names)]
    draw.shuffle(others)
    near = [row for row in others if row["family"] in own][: len(known) // 2]
    far = [row for row in others if row["family"] not in own][: len(known) - len(near)]
    return references, known, [*near, *far]


def told(library: ReferenceLibrary, reads: Sequence[Row], known: int) -> dict[str, Any]:
    """Of each read: its species, whether it is named at all, whether that is right, and whether to species."""
    answers: pa.Table = library.identify([read["dna_barcode"] or "" for read in reads], least=LEAST)
    names, ranks = answers["name"].to_pylist(), answers["rank"].to_pylist()
    right = [rank is not None and read[rank] == name for read, name, rank in zip(reads, names, ranks, strict=True)]
    return {
        "species": [read["species"] for read in reads],
        "known": [place < known for place in range(len(reads))],
        "named": [rank is not None for rank in ranks],
        "right": right,
        "to_species": [rank == "species" for rank in ranks],
    }


def summed(parts: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
    """Numbers of all draws of a kind together."""
    every = {name: np.array([value for part in parts for value in part[name]]) for name in parts[0]}
    known, named, right = every["known"], every["named"], every["right"]
    return {
        "reads": len(known),
        "known_to_species": rounded(every["to_species"][known].mean()),
        "new_to_species": rounded(every["to_species"][~known].mean()),
        "named": rounded(named.mean()),
        "right_of_named": rounded(right[named].mean()) if named.any() else None,
        "interval": interval(right[named], every["species"][named].tolist()) if named.any() else None,
    }


def measure(rows: Sequence[Row]) -> dict[str, Any]:
    """Kind of library -> numbers, with the prior and without."""
    kinds = [(s, e, scope, "") for scope in ("insects", "one family") for s in SPECIES for e in EACH]
    metrics: dict[str, Any] = {}
    for species, each, scope, more in [*kinds, (50, 4, "insects", CUT)]:
        draw = random.Random(f"{species} {each} {scope} {more}")
        parts: dict[str, list[Any]] = {"with": [], "without": []}
        counts = np.zeros(2, np.int64)
        for seed in range(DRAWS):
            references, known, new = drawn(rows, draw, species, each, scope)
            if more:
                references = [
                    {**row, "dna_barcode": (row["dna_barcode"] or "")[: draw.randint(SHORTEST, 658)]}
                    for row in references
                ]
            library = library_of(references, seed)
            parts["with"].append(told(library, [*known, *new], len(known)))
            strange = foreign([row["dna_barcode"] or "" for row in references], draw, FOREIGN)
            names = library.identify([read for some in strange.values() for read in some], least=LEAST)["name"]
            counts += np.array([len(names), len(names) - names.null_count])
            asked = library.asked(ASKED, np.random.default_rng(seed), fewest=20)
            library.calibration = None if asked is None else learn(asked)
            parts["without"].append(told(library, [*known, *new], len(known)))
        name = f"{species} species, {each} of each, {scope}{', ' if more else ''}{more}"
        metrics[name] = {way: summed(part) for way, part in parts.items()}
        metrics[name]["foreign"] = dict(zip(("reads", "named"), counts.tolist(), strict=True))
        print(name, metrics[name], flush=True)
    return metrics


def missed(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The claims that do not hold."""
    found = []
    for name, ways in metrics.items():
        own = ways["with"]
        if own["known_to_species"] < 0.8:
            found.append(f"{name}: {own['known_to_species']:.1%} of known reads named to species")
        if own["right_of_named"] < LEAST or own["interval"][0] < 0.93:
            found.append(f"{name}: {own['right_of_named']:.1%} right, from {own['interval'][0]:.1%}")
        if ways["foreign"]["named"] > 0.001 * ways["foreign"]["reads"]:
            found.append(f"{name}: {ways['foreign']['named']} of {ways['foreign']['reads']} foreign sequences named")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="table in BIOSCAN-5M columns, .csv.gz")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/small_libraries.json")
    args = parser.parse_args()
    start = time.perf_counter()
    metrics = measure([row for row in rows_of(args.source) if half(row) == 1])
    failures = missed(metrics)
    return ended(
        args.output,
        failures,
        task="benchmark/small_libraries",
        dataset=args.source.name,
        options={"draws": DRAWS, "least": LEAST},
        seconds=round(time.perf_counter() - start),
        metrics=metrics,
    )


if __name__ == "__main__":
    raise SystemExit(main())
