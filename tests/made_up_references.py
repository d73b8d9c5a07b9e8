"""Made-up references: a tree of orders, families, genera and species with sequences of 658 nt and a reading frame."""

import csv

import pyarrow as pa

from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.library import ReferenceLibrary

LENGTH = 658
STOPS = ("TAA", "TAG")


def ancestor(rng):
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in STOPS]
    return "A" + "".join(rng.choice(codons, LENGTH // 3))


def evolved(read, share, rng):
    """The read with a share of its letters changed; no stop codon arises in its frame."""
    letters = list(read)
    for place in rng.choice(len(letters), int(share * len(letters)), replace=False):
        old = letters[place]
        letters[place] = rng.choice([x for x in "ACGT" if x != old])
        first = 1 + 3 * ((place - 1) // 3)
        if place and "".join(letters[first : first + 3]) in STOPS:
            letters[place] = old
    return "".join(letters)


def records(rng, orders=2, families=2, genera=3, species=3, each=4, root=None):
    """Rows of `COLUMNS`: about 22, 16, 12 and 7 % apart at the ranks, and 0.5 % within a species."""
    rows = []
    root = ancestor(rng) if root is None else root
    for o in range(orders):
        order = evolved(root, 0.13, rng)
        for f in range(families):
            family = evolved(order, 0.09, rng)
            for g in range(genera):
                genus = evolved(family, 0.06, rng)
                for s in range(species):
                    own = evolved(genus, 0.035, rng)
                    names = [
                        f"Order{o}ptera",
                        f"Family{o}{f}idae",
                        f"Genus{'abcdefgh'[f]}{'abcdefgh'[o]}{'klmnop'[g]}",
                    ]
                    for i in range(each):
                        row = dict.fromkeys(COLUMNS)
                        row |= {"processid": f"R{o}{f}{g}{s}{i}", "dna_barcode": evolved(own, 0.004, rng)}
                        row |= dict(zip(("order", "family", "genus"), names, strict=True))
                        rows.append(row | {"class": "Insecta", "species": f"{names[2]} {'uvwxyz'[s]}us"})
    return rows


def write_table(path, rows):
    """Records as a CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def library_of(rows, **options):
    """A library of such rows."""
    table = pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS})
    return ReferenceLibrary.from_records(Found(table, {"rows": "table"}), **options)
