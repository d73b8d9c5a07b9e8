"""An audit of references: records with suspicious names or sequences.

Names are compared with those of equal sequences, of the BIN and of the other ranks. Sequences are compared with the
region of the references and with their nearest neighbours in it. The audit changes nothing: it is a table to read.
Shape letters: n, N = references, K = neighbours, P = positions of the region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ..schema import RANKS
from .letters import NOTHING
from .neighbours import neighbours
from .packed import compared
from .quality import WHOLE, Frame, stops
from .region import LEAST_SCORE, complement
from .shortlist import LeftOut
from .similarity import NEAR, References, match

#: Findings, and what they mean.
FINDINGS = {
    "several_names": "equal sequences have other names",
    "bin": "most records of the BIN have another name",
    "homonym": "most records with this name are in another taxon",
    "genus_of_species": "the species name begins with another genus",
    "misplaced": "the nearest sequences are of another taxon: mislabelled or contaminated",
    "unlike_species": "unlike the other sequences of its species",
    "not_coi": "does not fit the region: another gene, another part of it, or another organism",
    "reversed": "on the other strand",
    "short": "covers less than three quarters of the region",
    "frameshift": "an insertion or deletion that shifts the reading frame",
    "stop_codon": "a stop codon in the reading frame",
}

#: Note of a record that was turned when the library was made.
TURNED = "was on the other strand, and is turned in the library"

#: Rank -> smallest identity of neighbours that should be of the same taxon.
SAME_TAXON = {"phylum": 0.88, "class": 0.88, "order": 0.92, "family": 0.95, "genus": 0.97, "species": 0.98}

#: Neighbours within this of the nearest one decide, and its share of their records.
NEARLY, AGREED = 0.02, 0.75

#: Sequences of a species are usually more alike than this.
SAME_SPECIES = 0.85

#: Fewest positions that two sequences must share to be compared.
FEWEST_SHARED = 200

#: Others of a species that a sequence is compared with.
OTHERS = 5

_NAMES_SHOWN, _ROWS_AT_ONCE, _ASKED_AT_ONCE = 10, 2048, 512

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass
class _Findings:
    """Findings while they are collected, one item for each."""

    rows: list[int] = field(default_factory=list)
    finding: list[str] = field(default_factory=list)
    rank: list[str | None] = field(default_factory=list)
    name: list[str | None] = field(default_factory=list)
    others: list[str | None] = field(default_factory=list)
    identity: list[float | None] = field(default_factory=list)
    note: list[str] = field(default_factory=list)

    def add(
        self,
        row: int,
        finding: str,
        note: str = "",
        *,
        rank: str | None = None,
        name: str | None = None,
        others: str | None = None,
        identity: float | None = None,
    ) -> None:
        """Adds a finding about a row of the references."""
        self.rows.append(row)
        self.finding.append(finding)
        self.rank.append(rank)
        self.name.append(name)
        self.others.append(others)
        self.identity.append(identity)
        self.note.append(note or FINDINGS[finding])

    def table(self, records: pa.Table, turned: Mapping[str, int]) -> pa.Table:
        """The findings, in the order of `FINDINGS`, then of the references; those of `turned` records are added."""
        places = {name: place for place, name in enumerate(FINDINGS)}
        order = sorted(range(len(self.rows)), key=lambda i: (places[self.finding[i]], self.rows[i]))
        rows = pa.array([self.rows[i] for i in order], pa.int64())
        texts: dict[str, Sequence[str | None]] = {
            "finding": self.finding,
            "rank": self.rank,
            "name": self.name,
            "other_names": self.others,
        }
        columns = {"processid": records["processid"].take(rows)}
        columns |= {name: pa.array([values[i] for i in order], pa.string()) for name, values in texts.items()}
        columns["identity"] = pa.array([self.identity[i] for i in order], pa.float64())
        columns["records"] = records["records"].take(rows)
        columns["note"] = pa.array([self.note[i] for i in order], pa.string())
        found = pa.table(columns)
        if not turned:
            return found
        more = [
            {"processid": name, "finding": "reversed", "records": number, "note": TURNED}
            for name, number in turned.items()
        ]
        found = pa.concat_tables([found, pa.Table.from_pylist(more, schema=found.schema)])
        return found.take(np.argsort([places[name] for name in found["finding"].to_pylist()], kind="stable"))


def audited(
    records: pa.Table,
    codes: Mapping[str, Ids],
    taxa: Mapping[str, Sequence[str]],
    references: References,
    frame: Frame | None,
    turned: Mapping[str, int],
) -> pa.Table:
    """Suspicious references, one row per finding.

    Columns: processid; finding, one of `FINDINGS`; rank, name and other_names, for findings about names; identity, in
    [0, 1], to the nearest sequence, or the alignment score for "not_coi" and "reversed"; records, the number of
    records with this sequence and these names; note. The metadata hold species_in_several_bins.

    Args:
        records: Rows of a library (N,), with `processid` and `records`.
        codes: Rank or "dna_bin" -> code of the taxon (N,), -1 where it has no name.
        taxa: Rank or "dna_bin" -> names.
        frame: Reading frame of the region; without it, stop codons and frameshifts are not looked for.
        turned: Id of each sequence that was turned to the strand of the others -> its number of records.
    """
    found = _Findings()
    count = records["records"].to_numpy()
    _names_of_sequences(found, references.sequences, codes, taxa, count)
    _names_of_bins(found, codes, taxa, count)
    _homonyms(found, codes, taxa, count)
    if references.placed is not None and references.region is not None:
        _Placed(references, frame, codes, taxa, count).audit(found)
    several = _species_in_several_bins(codes)
    return found.table(records, turned).replace_schema_metadata({"species_in_several_bins": str(several)})


def counted(table: pa.Table) -> dict[str, int]:
    """Finding -> its number, and the number of species in several BINs."""
    numbers = Counter(table["finding"].to_pylist())
    several = int((table.schema.metadata or {}).get(b"species_in_several_bins", b"0"))
    return {name: numbers[name] for name in FINDINGS if numbers[name]} | {"species_in_several_bins": several}


# ---- names ---------------------------------------------------------------------------------------------------------


def _names_of_sequences(
    found: _Findings,
    sequences: Sequence[str],
    codes: Mapping[str, Ids],
    taxa: Mapping[str, Sequence[str]],
    count: Ids,
) -> None:
    group = pa.array(sequences).dictionary_encode().indices.to_numpy().astype(np.int64)
    done: set[int] = set()
    for rank in RANKS:
        for row, _, _, others in _at_odds(group, codes[rank], count, everyone=True):
            if row not in done:
                done.add(row)
                names = _listed(others, taxa[rank])
                found.add(row, "several_names", rank=rank, name=taxa[rank][codes[rank][row]], others=names, identity=1)


def _names_of_bins(found: _Findings, codes: Mapping[str, Ids], taxa: Mapping[str, Sequence[str]], count: Ids) -> None:
    done: set[int] = set()
    bins = codes["dna_bin"]
    for rank in RANKS:
        for row, own, every, others in _at_odds(bins, codes[rank], count):
            if row not in done:
                done.add(row)
                note = f"{own:,} of {every:,} records of {taxa['dna_bin'][bins[row]]} have this name"
                names = _listed(others, taxa[rank])
                found.add(row, "bin", note, rank=rank, name=taxa[rank][codes[rank][row]], others=names)


def _homonyms(found: _Findings, codes: Mapping[str, Ids], taxa: Mapping[str, Sequence[str]], count: Ids) -> None:
    """Names in several taxa of a higher rank, and species whose genus is not in their name."""
    done: set[int] = set()
    for place, rank in enumerate(RANKS):
        for above in RANKS[:place]:
            for row, own, every, others in _at_odds(codes[rank], codes[above], count):
                if row not in done:
                    done.add(row)
                    name, taxon = taxa[rank][codes[rank][row]], taxa[above][codes[above][row]]
                    note = f"{own:,} of {every:,} records of {name} are in the {above} {taxon}"
                    found.add(row, "homonym", note, rank=rank, name=name, others=_listed(others, taxa[above]))
    first = {name: place for place, name in enumerate(taxa["genus"])}
    named = np.array([first.get(name.split(" ")[0], -2) for name in taxa["species"]], np.int64)
    asked = np.flatnonzero((codes["species"] >= 0) & (codes["genus"] >= 0))
    for row in asked[named[codes["species"][asked]] != codes["genus"][asked]].tolist() if len(named) else []:
        names = taxa["species"][codes["species"][row]], taxa["genus"][codes["genus"][row]]
        found.add(row, "genus_of_species", rank="species", name=names[0], others=names[1])


def _at_odds(group: Ids, codes: Ids, count: Ids, *, everyone: bool = False) -> list[tuple[int, int, int, list[int]]]:
    """Rows whose name differs from most records of their group: row, records of its name, of all, and other names.

    Args:
        group: Of each row (N,), -1 for none.
        codes: Its name (N,), -1 for none.
        count: Its number of records (N,).
        everyone: All rows of groups with several names. Otherwise only those with fewer records than another name,
            or as many.
    """
    valid = np.flatnonzero((group >= 0) & (codes >= 0))
    if not len(valid):
        return []
    width = int(codes.max()) + 1
    pairs, inverse = np.unique(group[valid] * width + codes[valid], return_inverse=True)
    weight = np.bincount(inverse, count[valid]).astype(np.int64)
    _, start, number = np.unique(pairs // width, return_index=True, return_counts=True)
    of = np.repeat(np.arange(len(start)), number)
    top = weight == np.maximum.reduceat(weight, start)[of]
    odd = number[of] > 1
    if not everyone:
        odd &= ~top | (np.add.reduceat(top.astype(np.int64), start)[of] > 1)
    every, others = np.add.reduceat(weight, start)[of], {}
    for pair in np.flatnonzero(odd).tolist():
        members = range(start[of[pair]], start[of[pair]] + number[of[pair]])
        ranked = sorted((member for member in members if member != pair), key=lambda m: -weight[m])
        others[pair] = [int(pairs[member] % width) for member in ranked]
    return [
        (int(valid[i]), int(weight[pair]), int(every[pair]), others[pair])
        for i, pair in enumerate(inverse.tolist())
        if odd[pair]
    ]


def _listed(codes: Sequence[int], taxa: Sequence[str]) -> str:
    shown = "; ".join(taxa[code] for code in codes[:_NAMES_SHOWN])
    return shown + (f"; and {len(codes) - _NAMES_SHOWN} more" if len(codes) > _NAMES_SHOWN else "")


def _species_in_several_bins(codes: Mapping[str, Ids]) -> int:
    species, bins = codes["species"], codes["dna_bin"]
    both = (species >= 0) & (bins >= 0)
    pairs = np.unique(np.stack([species[both], bins[both]]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


# ---- sequences -----------------------------------------------------------------------------------------------------


class _Placed:
    """References in their region, and what their sequences tell."""

    def __init__(
        self,
        references: References,
        frame: Frame | None,
        codes: Mapping[str, Ids],
        taxa: Mapping[str, Sequence[str]],
        count: Ids,
    ) -> None:
        assert references.placed is not None
        self.references, self.frame, self.placed = references, frame, references.placed
        self.codes, self.taxa, self.count = codes, taxa, count
        self.inside = np.flatnonzero(self.placed.score >= LEAST_SCORE)

    def audit(self, found: _Findings) -> None:
        """Adds all findings about sequences."""
        self._foreign(found)
        if len(self.inside) > 1:
            near = self.inside[neighbours(self.placed.vectors[torch.from_numpy(self.inside)])]
            identity = self._identity(self.inside, near)
            self._misplaced(found, near, identity)
            shifted = self._reading_frame(found, identity.max(1))
            self._unlike_species(found, shifted)

    def _identity(self, rows: Ids, others: Ids) -> NDArray[np.float64]:
        """Identity of rows (n,) and others (n, K); 0 where they share too little."""
        found = np.zeros(others.shape)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            equal, overlap = compared(self.placed.aligned[rows[part]], self.placed.aligned, others[part])
            found[part] = np.where(overlap >= FEWEST_SHARED, equal / np.maximum(overlap, 1), 0)
        return found

    def _foreign(self, found: _Findings) -> None:
        """References that do not fit the region, on either strand, or cover little of it."""
        assert self.references.region is not None
        outside = np.flatnonzero(self.placed.score < LEAST_SCORE)
        turned = self.references.region.place([complement(self.references.sequences[row]) for row in outside.tolist()])
        for row, other in zip(outside.tolist(), turned.score.tolist(), strict=True):
            own = float(self.placed.score[row])
            finding = "reversed" if other >= LEAST_SCORE else "not_coi"
            found.add(row, finding, identity=max(own, other))
        parts = [(self.placed.aligned[part] != NOTHING).sum(1) for part in _parts(self.inside)]
        length = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        positions = self.references.region.positions
        for i in np.flatnonzero(length < WHOLE * positions).tolist():
            found.add(int(self.inside[i]), "short", f"covers {length[i]} of {positions} positions of the region")

    def _misplaced(self, found: _Findings, near: Ids, identity: NDArray[np.float64]) -> None:
        """References whose nearest neighbours (n, K) agree on another taxon, at the highest rank where they do.

        A species with a single sequence is not reported, because two species can have nearly equal sequences. Other
        records with the same sequence and names speak for them.
        """
        best, rows = identity.max(1, keepdims=True), self.inside
        open_ = np.ones(len(rows), np.bool_)
        for rank, least in SAME_TAXON.items():
            own, theirs = self.codes[rank][rows], self.codes[rank][near]
            votes = (identity >= np.maximum(best - NEARLY, least)) & (theirs >= 0)
            records = np.where(votes, self.count[near], 0)
            alike = self.count[rows] - 1
            for_own = np.where(theirs == own[:, None], records, 0).sum(1) + alike
            doubtful = np.flatnonzero(open_ & (own >= 0) & (for_own < (1 - AGREED) * (records.sum(1) + alike)))
            if rank == "species":
                doubtful = doubtful[np.bincount(self.codes[rank] + 1)[own[doubtful] + 1] > 1]
            for i in doubtful.tolist():
                names, inverse = np.unique(theirs[i][votes[i]], return_inverse=True)
                agreed = np.bincount(inverse, records[i][votes[i]])
                every = int(agreed.sum() + alike[i])
                if agreed.max() < AGREED * every:
                    continue
                open_[i] = False
                name, other = self.taxa[rank][own[i]], self.taxa[rank][names[agreed.argmax()]]
                nearest = float(identity[i][votes[i]].max())
                note = f"{int(agreed.max()):,} of {every:,} records of nearly the same sequence are {other}"
                found.add(int(rows[i]), "misplaced", note, rank=rank, name=name, others=other, identity=nearest)

    def _unlike_species(self, found: _Findings, shifted: Mask) -> None:
        """References without a frameshift that are far from some others of their species."""
        species = self.codes["species"][self.inside]
        order = np.argsort(species, kind="stable")
        order = order[species[order] >= 0]
        if not len(order):
            return
        _, start, size = np.unique(species[order], return_index=True, return_counts=True)
        first, size = np.repeat(start, size), np.repeat(size, size)
        place = np.arange(len(order)) - first
        steps = np.arange(1, OTHERS + 1)
        others = order[first[:, None] + (place[:, None] + steps) % size[:, None]]
        rows = self.inside[order]
        identity = self._identity(rows, self.inside[others])
        identity[(steps >= size[:, None])] = 0  # the sequence itself, or one again
        best = identity.max(1)
        for i in np.flatnonzero((best > 0) & (best < SAME_SPECIES) & ~shifted[order]).tolist():
            row = int(rows[i])
            name = self.taxa["species"][self.codes["species"][row]]
            found.add(row, "unlike_species", rank="species", name=name, identity=float(best[i]))

    def _reading_frame(self, found: _Findings, identity: NDArray[np.float64]) -> Mask:
        """Adds references with a frameshift or a stop codon; returns which have a frameshift (n,).

        References of a gene without a reading frame have neither. Those with a stop codon, or without a near
        neighbour, are searched among the others as if they were reads, since the nearest vector of a shifted sequence
        can belong to another shifted one.

        Args:
            identity: Of the nearest neighbour (n,).
        """
        stopped, shifted = np.zeros(len(self.inside), np.bool_), np.zeros(len(self.inside), np.bool_)
        if self.frame is None:
            return shifted
        for part in _parts(np.arange(len(self.inside))):
            own = self.placed.aligned[self.inside[part]]
            stopped[part] = stops(own, self.frame.first, self.frame.code)
        for part in _parts(np.flatnonzero(stopped | (identity < NEAR)), _ASKED_AT_ONCE):
            rows, none = self.inside[part], np.full(len(part), -1)
            left_out = LeftOut(rows, none, none, np.zeros((0, 0), np.int32))
            shifted[part] = match(self.references, [self.references.sequences[row] for row in rows], left_out).shifted
        for i in np.flatnonzero(shifted).tolist():
            found.add(int(self.inside[i]), "frameshift", identity=float(identity[i]))
        for i in np.flatnonzero(stopped & ~shifted).tolist():
            found.add(int(self.inside[i]), "stop_codon", identity=float(identity[i]))
        return shifted


def _parts(rows: Ids, most: int = 16_384) -> list[Ids]:
    """Rows in parts that bound the memory."""
    return [rows[start : start + most] for start in range(0, len(rows), most)]
