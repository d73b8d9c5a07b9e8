"""Reads and references of `bench_confidence.py`: what is held out, and what is done to the reads."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bioscan_hf.identification.region import complement

RANKS = ("order", "family", "genus", "species")

#: Most references of a partition.
REFERENCES = 13_500

#: Reads of a species, and of a part.
OF_A_SPECIES, OF_A_PART = 6, 500

#: Parts of the reads: what the references have of them.
PARTS = ("known", "species new", "genus new", "family new")

#: Shares of the parts in each mix.
MIXES = {
    "none new": (1.0, 0, 0, 0),
    "species new": (0, 1.0, 0, 0),
    "genus new": (0, 0, 1.0, 0),
    "family new": (0, 0, 0, 1.0),
    "half new": (0.8, 0.4, 0.2, 0.2),
    "nine tenths new": (0.1, 0.4, 0.3, 0.2),
}

Row = dict[str, str | None]
Change = Callable[[str, random.Random], str]

#: Primers of the region (Folmer et al. 1994): LCO1490, and HCO2198 as it follows the region.
PRIMERS = ("GGTCAACAAATCATAAAGATATTGG", "TGATTTTTTGGTCACCCTGAAGTTTA")

#: Shares of A, C, G and T around a region of a mitochondrion of an insect.
AROUND = (0.39, 0.12, 0.10, 0.39)


def rows_of(source: Path) -> list[Row]:
    """Records with a species, of a table in BIOSCAN-5M's columns."""
    with gzip.open(source, "rt", newline="", encoding="utf-8") as file:
        return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file) if row["species"]]


def partition(rows: Sequence[Row], draw: random.Random) -> tuple[list[Row], dict[str, list[Row]]]:
    """References, and reads of each part. No species lies in two parts, and no read is a reference."""

    def some(rank: str, share: float) -> set[str]:
        names = sorted({row[rank] or "" for row in rows} - {""})
        return set(draw.sample(names, max(2, int(share * len(names)))))

    held_out = [("family", some("family", 0.08)), ("genus", some("genus", 0.10)), ("species", some("species", 0.15))]
    new: dict[str, list[Row]] = {rank: [] for rank, _ in held_out}
    rest: list[Row] = []
    for row in rows:
        rank = next((rank for rank, names in held_out if row[rank] in names), None)
        (rest if rank is None else new[rank]).append(row)
    seen: dict[str | None, int] = {}
    known: list[Row] = []
    references: list[Row] = []
    for row in draw.sample(rest, len(rest)):
        seen[row["species"]] = seen.get(row["species"], 0) + 1
        (known if seen[row["species"]] <= 2 else references).append(row)
    references = references[:REFERENCES]
    there = {rank: {row[rank] for row in references} for rank in RANKS}
    parts = {
        "known": [row for row in known if row["species"] in there["species"]],
        "species new": [row for row in new["species"] if row["genus"] in there["genus"]],
        "genus new": [row for row in new["genus"] if row["family"] in there["family"]],
        "family new": new["family"],
    }
    return references, {name: _few_each(part, draw)[:OF_A_PART] for name, part in parts.items()}


def _few_each(rows: Sequence[Row], draw: random.Random) -> list[Row]:
    """Some barcodes of each species, each barcode once, in a random order."""
    counts: dict[str | None, int] = {}
    barcodes: set[str | None] = set()
    kept = []
    for row in draw.sample(rows, len(rows)):
        counts[row["species"]] = counts.get(row["species"], 0) + 1
        if counts[row["species"]] <= OF_A_SPECIES and row["dna_barcode"] not in barcodes:
            barcodes.add(row["dna_barcode"])
            kept.append(row)
    return kept


def mixed(parts: Mapping[str, Sequence[int]], shares: Sequence[float]) -> list[int]:
    """Numbers of the reads of a mix: shares of the reads of the smallest part that it needs, in a fixed order."""
    size = min(len(parts[name]) / share for name, share in zip(PARTS, shares, strict=True) if share)
    return [
        number
        for name, share in zip(PARTS, shares, strict=True)
        for number in parts[name][: int(share * min(size, OF_A_PART))]
    ]


# ---- changes ------------------------------------------------------------------------------------------------------


def spoiled(read: str, draw: random.Random, rate: float = 0.02) -> str:
    """A read with a share of wrong letters."""
    return "".join(draw.choice("ACGT".replace(x, "")) if draw.random() < rate else x for x in read)


def inserted(read: str, draw: random.Random, number: int = 1) -> str:
    """A read with more letters, one at a time."""
    for _ in range(number):
        place = draw.randrange(len(read) // 6, len(read) - len(read) // 6)
        read = read[:place] + draw.choice("ACGT") + read[place:]
    return read


def hidden(read: str, draw: random.Random, share: float = 0.1) -> str:
    """A read with a share of N."""
    return "".join("N" if draw.random() < share else letter for letter in read)


def surrounded(read: str, draw: random.Random) -> str:
    """A read inside of a sequence of 15,000 nucleotides."""
    before = draw.randrange(15_000 - len(read))
    letters = "".join(draw.choices("ACGT", AROUND, k=15_000 - len(read)))
    return letters[:before] + read + letters[before:]


LENGTHS: dict[str, int | None] = {"whole": None, "first 313": 313, "first 200": 200}

CHANGES: dict[str, Change] = {
    "as they are": lambda read, draw: read,
    "other strand": lambda read, draw: complement(read),
    "one insertion": inserted,
    "2 % errors": spoiled,
}

#: Changes of whole reads only.
OTHERS: dict[str, Change] = {
    "three insertions": lambda read, draw: inserted(read, draw, 3),
    "10 % N": hidden,
    "with primers": lambda read, draw: PRIMERS[0] + read + PRIMERS[1],
    "in 15,000 nt": surrounded,
}


def variants() -> dict[str, Change]:
    """Name -> what is done to a read: every length with every change, and the others."""

    def both(length: int | None, change: Change) -> Change:
        return lambda read, draw: change(read[:length], draw)

    crossed = {
        f"{name}, {what}": both(length, change) for name, length in LENGTHS.items() for what, change in CHANGES.items()
    }
    return crossed | {f"whole, {what}": change for what, change in OTHERS.items()}


def foreign(reads: Sequence[str], draw: random.Random, number: int = 2000) -> dict[str, list[str]]:
    """Kind -> sequences that are not of an animal: random, reversed without complement, and shuffled ones."""
    some = [draw.choice(reads) for _ in range(number)]
    weights = [[read.count(letter) + 1 for letter in "ACGT"] for read in some]
    return {
        "random": ["".join(draw.choices("ACGT", k=len(read))) for read in some],
        "random, letters of insects": [
            "".join(draw.choices("ACGT", w, k=len(read))) for read, w in zip(some, weights, strict=True)
        ],
        "reversed": [read[::-1] for read in some],
        "shuffled": ["".join(draw.sample(read, len(read))) for read in some],
    }


def pieces(sequence: str, draw: random.Random, number: int = 200) -> list[str]:
    """A sequence and pieces of it of 100 to 658 nucleotides, on both strands, a third with 2 % errors."""
    found = [sequence]
    while len(found) < number:
        length = min(draw.randint(100, 658), len(sequence))
        start = draw.randint(0, len(sequence) - length)
        piece = sequence[start : start + length]
        piece = complement(piece) if len(found) % 2 else piece
        found.append(spoiled(piece, draw) if len(found) % 3 == 0 else piece)
    return found
