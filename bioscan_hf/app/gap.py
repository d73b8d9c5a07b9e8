"""Distances of barcodes: the barcode gap of a sample, and the nearest specimens of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edlib

from ..identification.alignment import EQUAL_LETTERS
from ..statistics.region import placed
from .collection import Row

#: Nearest specimens of a record.
NEAREST = 8

#: Fewest nucleotides that two barcodes must share in their region for the rest of them not to count.
SHARED = 100

#: A barcode, and its first nucleotide in the common region.
Placed = tuple[str, int]


@dataclass(frozen=True)
class Gap:
    """Distances of species, as shares of the shorter barcode.

    Attributes:
        species: Names.
        within: Distance of the two farthest barcodes of each.
        between: Distance of the nearest barcode of another species.
        others: That species.
        barcodes: Number of barcodes that were compared.
    """

    species: list[str]
    within: list[float]
    between: list[float]
    others: list[str]
    barcodes: int

    def rows(self) -> list[tuple[str, float, float, str]]:
        """Species, both distances and the other species; the narrowest gap first."""
        rows = zip(self.species, self.within, self.between, self.others, strict=True)
        return sorted(rows, key=lambda row: (row[2] - row[1], row[0]))


@dataclass(frozen=True)
class Neighbour:
    """A specimen near another one."""

    processid: str
    name: str | None
    bin: str | None
    identity: float


def placed_of(barcodes: Sequence[str]) -> list[Placed]:
    """Barcodes on the strand of most of them, without N at their ends, and where they begin in the common region."""
    if not barcodes:
        return []
    found = placed([barcode.strip("N") or "N" for barcode in barcodes])
    return list(zip(found.barcodes, found.starts.tolist(), strict=True))


def distance(one: Placed, other: Placed) -> float:
    """Edits between two barcodes in the part that both have, as a share of its length."""
    (a, begin), (b, first) = one, other
    parts = a[max(first - begin, 0) :], b[max(begin - first, 0) :]
    short, long = sorted(parts if min(map(len, parts)) >= SHARED else (a, b), key=len)
    if short == "N":  # nothing is known
        return 1.0
    equal = None if not (set(short) | set(long)) - set("ACGT") else EQUAL_LETTERS
    found = edlib.align(short, long, mode="HW", task="distance", additionalEqualities=equal)
    return float(found["editDistance"]) / len(short)


def barcode_gap(sample: Sequence[tuple[str, str]]) -> Gap:
    """The gap of species with two barcodes or more, from (species, barcode)."""
    barcodes = placed_of([letters for _, letters in sample])
    within: dict[str, float] = {}
    between: dict[str, tuple[float, str]] = {}
    for i, (name, _) in enumerate(sample):
        for j, (other, _) in enumerate(sample[:i]):
            apart = distance(barcodes[i], barcodes[j])
            if name == other:
                within[name] = max(within.get(name, 0.0), apart)
                continue
            between[name] = min(between.get(name, (2.0, "")), (apart, other))
            between[other] = min(between.get(other, (2.0, "")), (apart, name))
    names = sorted(within.keys() & between.keys())
    return Gap(
        names,
        [within[name] for name in names],
        [between[name][0] for name in names],
        [between[name][1] for name in names],
        len(sample),
    )


def nearest(record: Row, others: Sequence[Row]) -> list[Neighbour]:
    """The specimens with the nearest barcodes, the nearest first."""
    if not record["dna_barcode"]:
        return []
    own, *theirs = placed_of([row["dna_barcode"] for row in (record, *others)])
    apart = [(distance(own, it), other["processid"], other) for it, other in zip(theirs, others, strict=True)]
    return [
        Neighbour(processid, deepest(other), other["dna_bin"], 1 - far)
        for far, processid, other in sorted(apart, key=lambda item: item[:2])[:NEAREST]
    ]


def deepest(row: Row) -> str | None:
    """The name of a specimen at its lowest rank with one."""
    ranks = ("species", "genus", "subfamily", "family", "order", "class", "phylum")
    return next((row[rank] for rank in ranks if row[rank] is not None), None)
