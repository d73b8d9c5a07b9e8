"""The table of answers: what is told of each read, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..schema import RANKS
from .base import Library, joined_evidence
from .calibration import BIN, Evidence, adjusted, estimated_shares, share_interval
from .names import Names
from .quality import UNNAMED, Quality
from .similarity import Matches


@dataclass
class Named:
    """Reads and what was found for them, before the confidences, which need all reads.

    Attributes:
        reads: Number of reads.
        usable: Positions of the reads that were compared.
        matches: Their matches.
        names: Their names, rank by rank.
        evidence: Features for the confidences.
        quality: Status, strand and notes of all reads.
    """

    reads: int
    usable: NDArray[np.int64]
    matches: Matches
    names: Names
    evidence: Evidence
    quality: Quality


def answer(
    library: Library,
    ids: Sequence[str],
    blocks: Sequence[Named],
    least: float,
    novel_share: float | None,
    neighbours: int = 0,
) -> pa.Table:
    """The table of answers: one row per read.

    Columns: id, status, name, rank and confidence (the deepest name of at least the confidence `least`), each rank and
    its confidence, species_new and genus_new (probability that the species or genus is not among the references),
    bin and bin_confidence (if references have BINs), nearest, identity, overlap, references (records of the nearest
    species), second_species and lead, conflicts, strand, note. Its metadata hold the shares of known and new species
    among the reads. With `neighbours`, a last column lists so many references: row, identity and overlap.
    """
    usable = np.concatenate([block.usable + start for block, start in _starts(blocks)]).astype(np.int64)
    shares, interval, levels, confidence = confidences_of(library, blocks, novel_share)
    n = len(ids)
    status = [text for block in blocks for text in block.quality.status]
    named = np.array([status[i] not in UNNAMED for i in usable], np.bool_)
    columns: dict[str, Any] = {"id": pa.array(ids, pa.string()), "status": pa.array(status)}
    deepest: list[tuple[str, str, float] | None] = [None] * n
    ranks: dict[str, Any] = {}
    for rank in library.named:
        codes = np.concatenate([block.names.codes[rank] for block in blocks])
        sure = confidence.get(rank)
        shown: list[str | None] = [None] * n
        told: list[float | None] = [None] * n
        for j, place in enumerate(usable):
            if named[j] and codes[j] >= 0:
                shown[place] = library.taxa[rank][codes[j]]
                if sure is not None:
                    told[place] = float(sure[j])
                    if sure[j] >= least and rank != BIN:
                        deepest[place] = (rank, library.taxa[rank][codes[j]], float(sure[j]))
        title = "bin" if rank == BIN else rank
        ranks[title], ranks[f"{title}_confidence"] = pa.array(shown, pa.string()), pa.array(told, pa.float64())
    columns["name"] = pa.array([found and found[1] for found in deepest], pa.string())
    columns["rank"] = pa.array([found and found[0] for found in deepest], pa.string())
    columns["confidence"] = pa.array([found and found[2] for found in deepest], pa.float64())
    columns |= ranks
    if levels is not None:
        for what, place in (("species_new", 1), ("genus_new", 2)):
            if levels.shape[1] > place:
                columns[what] = _spread(n, usable, named, levels[:, place:].sum(1))
    columns |= _nearest(library, blocks, usable, n)
    columns["strand"] = pa.array([text for block in blocks for text in block.quality.strand])
    columns["note"] = pa.array([text for block in blocks for text in block.quality.note])
    if neighbours:
        columns["neighbours"] = _neighbours(blocks, usable, n, neighbours)
    table = pa.table(columns)
    metadata = {"novel_share": f"{1 - shares[0]:.4f}", "interval": f"{interval[0]:.4f},{interval[1]:.4f}"}
    return table.replace_schema_metadata(metadata if levels is not None else {})


def _starts(blocks: Sequence[Named]) -> list[tuple[Named, int]]:
    starts = np.cumsum([0, *(block.reads for block in blocks)])
    return list(zip(blocks, starts[:-1].tolist(), strict=True))


def confidences_of(
    library: Library, blocks: Sequence[Named], novel_share: float | None
) -> tuple[NDArray[np.float64], tuple[float, float], NDArray[np.float64] | None, dict[str, NDArray[np.float64]]]:
    """Shares of the levels, their interval, probabilities of the levels, and confidences by rank."""
    calibration = library.calibration
    if calibration is None:
        return np.ones(1), (0.0, 1.0), None, {}
    evidence = joined_evidence([block.evidence for block in blocks], library.named)
    raw = calibration.levels(evidence)
    comparable = np.concatenate(
        [[block.quality.status[i] not in UNNAMED for i in block.usable] for block in blocks]
    ).astype(np.bool_)
    shares = estimated_shares(raw[comparable], calibration.shares, novel_share)
    interval = share_interval(raw[comparable], calibration.shares, shares)
    levels = adjusted(raw, calibration.shares, shares)
    found = calibration.confidences(evidence, levels)
    confidences: dict[str, NDArray[np.float64]] = {}
    above = np.ones(len(raw))
    for rank in library.ranks:
        if rank in found:
            votes = np.concatenate([block.names.votes[rank] for block in blocks])
            confidences[rank] = above = np.minimum(above, np.minimum(found[rank], votes))
    below: NDArray[np.float64] | None = None
    for rank in reversed(library.ranks):  # of a rank with one taxon nothing can be learned: at least that of the next
        below = confidences.setdefault(rank, below) if below is not None else confidences.get(rank)
    bins = calibration.bin_confidence(evidence, comparable, novel_share)
    if bins is not None:
        votes = np.concatenate([block.names.votes[BIN] for block in blocks])
        confidences[BIN] = np.minimum(bins, votes)
    return shares, interval, levels, confidences


def _spread(n: int, usable: NDArray[np.int64], named: NDArray[np.bool_], values: NDArray[Any]) -> pa.Array:
    """Values of the usable reads as a column of all reads, null for the others."""
    column, mask = np.zeros(n), np.ones(n, np.bool_)
    column[usable] = values
    mask[usable[named]] = False
    return pa.array(column, mask=mask)


def _neighbours(blocks: Sequence[Named], usable: NDArray[np.int64], n: int, most: int) -> pa.Array:
    """The nearest references of each read, a list of row, identity and overlap."""
    parts = [[part[:, :most] for part in (m.rows, m.identity, m.overlap)] for m in (block.matches for block in blocks)]
    rows, identity, overlap = (np.concatenate(part) for part in zip(*parts, strict=True))
    there = rows >= 0
    numbers = np.zeros(n, np.int64)
    numbers[usable] = there.sum(1)
    values = [rows[there], identity[there].astype(np.float64), overlap[there]]
    items = pa.StructArray.from_arrays([pa.array(part) for part in values], ["row", "identity", "overlap"])
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *numbers]), pa.int32()), items)


def _nearest(library: Library, blocks: Sequence[Named], usable: NDArray[np.int64], n: int) -> dict[str, pa.Array]:
    """Columns about the nearest reference and the nearest other species."""
    rows = np.concatenate([block.matches.rows[:, 0] for block in blocks])
    identity = np.concatenate([block.matches.identity[:, 0] for block in blocks]).astype(np.float64)
    overlap = np.concatenate([block.matches.overlap[:, 0] for block in blocks])
    there = rows >= 0
    columns: dict[str, pa.Array] = {}
    texts: list[str | None] = [None] * n
    ids = library.records["processid"].take(pa.array(np.where(there, rows, 0))).to_pylist()
    for place, text, ok in zip(usable, ids, there, strict=True):
        texts[place] = text if ok else None
    columns["nearest"] = pa.array(texts, pa.string())
    columns["identity"] = _spread(n, usable, there, identity)
    columns["overlap"] = _spread(n, usable, there, overlap).cast(pa.int32())
    if "species" in library.ranks:
        codes = np.concatenate([block.names.codes["species"] for block in blocks])
        records = np.bincount(library.codes["species"].clip(0), library.count * (library.codes["species"] >= 0))
        columns["references"] = _spread(n, usable, codes >= 0, records[codes.clip(0)]).cast(pa.int64())
        second = np.concatenate([block.names.second["species"] for block in blocks])
        others: list[str | None] = [None] * n
        for place, code in zip(usable, second, strict=True):
            others[place] = library.taxa["species"][code] if code >= 0 else None
        columns["second_species"] = pa.array(others, pa.string())
        columns["lead"] = _spread(n, usable, codes >= 0, np.concatenate([b.names.lead["species"] for b in blocks]))
    conflicts: list[str | None] = [None] * n
    for rank in reversed(RANKS):
        if rank in library.ranks:
            tied = np.concatenate([block.names.tied[rank] for block in blocks])
            for place, number in zip(usable, tied, strict=True):
                if number > 1:
                    conflicts[place] = f"{number} {rank} equally near"
    columns["conflicts"] = pa.array(conflicts, pa.string())
    return columns
