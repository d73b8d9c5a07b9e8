"""The table of answers: one row per read, with names and confidences.

Confidences depend on the share of reads of new species, which is estimated from all reads. So blocks of reads are
first described one by one, and get their confidences when the shares are known.
Shape letters: n = reads, R = ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..schema import RANKS
from .base import Library
from .calibration import BIN, LEVELS, Evidence, Shares, adjusted, place_of
from .names import Names
from .quality import UNNAMED, Quality
from .similarity import Matches

#: Columns of a description that the answers do not have, each a list of numbers.
_HIDDEN = ("levels", "cautious", "right", "votes", "bin_known")

Numbers = NDArray[np.float64]


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


def answered(library: Library, descriptions: Iterable[pa.Table], least: float, novel_share: float | None) -> pa.Table:
    """The table of answers for `described` blocks: one row per read.

    Columns: id, status, name, rank and confidence (the deepest name of at least the confidence `least`), each rank and
    its confidence, species_new and genus_new (probability that the species or genus is not among the references),
    bin and bin_confidence (if references have BINs), nearest, identity, overlap, references (records of the nearest
    species), second_species and lead, conflicts, strand, note. Its metadata hold the shares of known and new species
    among the reads. With `neighbours`, a last column lists so many references: row, identity and overlap.
    """
    tables = list(descriptions)
    shares = shares_of(library, tables, novel_share)
    return pa.concat_tables([finished(library, table, shares, least) for table in tables])


def stored(tables: Iterable[pa.Table], path: Path) -> Iterator[pa.Table]:
    """The tables, each also written to a file of Arrow; `restored` reads them again."""
    writer: pa.RecordBatchFileWriter | None = None
    with pa.OSFile(str(path), "wb") as sink:
        for table in tables:
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
            yield table
        if writer is not None:
            writer.close()


def restored(path: Path) -> Iterator[pa.Table]:
    """Tables of a file of Arrow, one after the other, so that one is in memory."""
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        for place in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(place)])


# ---- one block after the other -------------------------------------------------------------------------------------


def described(library: Library, block: Named, ids: Sequence[str], neighbours: int = 0) -> pa.Table:
    """Answers for a block of reads before the confidences, and the numbers from which `finished` computes these."""
    n, status = block.reads, block.quality.status
    rows = _Rows(n, block.usable)
    named = np.array([status[i] not in UNNAMED for i in block.usable.tolist()], np.bool_)
    columns: dict[str, Any] = {"id": pa.array(ids, pa.string()), "status": pa.array(status, pa.string())}
    for rank in library.named:
        columns["bin" if rank == BIN else rank] = rows.taxa(library, rank, block.names.codes[rank], named)
    columns |= _nearest(library, block, rows)
    columns["strand"] = pa.array(block.quality.strand, pa.string())
    columns["note"] = pa.array(block.quality.note, pa.string())
    if neighbours:
        columns["neighbours"] = _neighbours(block, n, neighbours)
    if library.calibration is not None:
        judged = library.calibration.judged(block.evidence)
        columns["levels"], columns["cautious"] = rows.lists(judged.levels), rows.lists(judged.cautious)
        columns["right"] = rows.lists(np.stack([judged.right.get(rank, rows.nothing) for rank in library.named], 1))
        if judged.bin_known is not None:
            columns["bin_known"] = rows.lists(judged.bin_known[:, None])
    columns["votes"] = rows.lists(np.stack([block.names.votes[rank] for rank in library.named], 1))
    return pa.table(columns)


def shares_of(library: Library, tables: Iterable[pa.Table], novel_share: float | None) -> Shares | None:
    """Shares of known and new taxa among all reads of `described`; None without a calibration."""
    levels, bins = [], []
    for table in tables:
        if library.calibration is None:
            continue  # the tables may be written to a file meanwhile
        named = _named(table)
        levels.append(_list(table, "levels")[named])
        if "bin_known" in table.column_names:
            bins.append(_list(table, "bin_known")[named, 0])
    if library.calibration is None:
        return None
    return library.calibration.shares_of(np.concatenate(levels), np.concatenate(bins) if bins else None, novel_share)


def finished(library: Library, table: pa.Table, shares: Shares | None, least: float) -> pa.Table:
    """The answers of a block of `described`, see `answered`."""
    sure = confidences_of(library, table, shares)
    named = _named(table)
    columns: dict[str, Any] = {name: table[name] for name in ("id", "status")}
    deepest = dict.fromkeys(("name", "rank"), pa.nulls(len(table), pa.string()))
    deepest["confidence"] = pa.nulls(len(table), pa.float64())
    ranks: dict[str, Any] = {}
    for rank in library.named:
        title = "bin" if rank == BIN else rank
        ranks[title] = table[title]
        told = ranks[f"{title}_confidence"] = pa.nulls(len(table), pa.float64())
        if rank in sure:
            there = named & table[title].is_valid().to_numpy()
            told = ranks[f"{title}_confidence"] = pa.array(sure[rank], mask=~there)
            if rank != BIN:
                enough = pa.array(there & (sure[rank] >= least))
                for name, value in (("name", table[title]), ("rank", rank), ("confidence", told)):
                    deepest[name] = pc.if_else(enough, value, deepest[name])
    columns |= deepest | ranks
    if shares is not None:
        levels = present_of(table, shares)
        for what, place in (("species_new", 1), ("genus_new", 2)):
            if levels.shape[1] > place:
                columns[what] = pa.array(levels[:, place:].sum(1), mask=~named)
    columns |= {name: table[name] for name in table.column_names if name not in (*columns, *_HIDDEN)}
    metadata = {}
    if shares is not None:
        metadata["novel_share"] = f"{1 - shares.levels[0]:.4f}"
        if shares.interval is not None:
            metadata["interval"] = ",".join(f"{end:.4f}" for end in shares.interval)
    return pa.table(columns).replace_schema_metadata(metadata)


def confidences_of(library: Library, table: pa.Table, shares: Shares | None) -> dict[str, Numbers]:
    """Rank -> confidence (n,) of the names of `described`. Ignore the values of reads without a name."""
    if shares is None:
        return {}
    present = adjusted(_list(table, "cautious"), shares.learned, shares.levels)
    right, votes = _list(table, "right"), _list(table, "votes")
    learned = library.calibration.right if library.calibration else {}
    found: dict[str, Numbers] = {}
    above = np.ones(len(table))
    for place, rank in enumerate(library.named):
        if rank != BIN and rank in learned:
            here = present[:, : place_of(rank) + 1].sum(1) * right[:, place]
            found[rank] = above = np.minimum(above, np.minimum(here, votes[:, place]))
    if not found and library.calibration and library.calibration.filled:  # of one taxon: right if it is known
        for rank in (rank for rank in library.ranks if rank in LEVELS):
            here = present[:, : place_of(rank) + 1].sum(1)
            found[rank] = np.minimum(here, votes[:, library.named.index(rank)])
    below: Numbers | None = None
    for rank in reversed(library.ranks):  # of a rank with one taxon nothing can be learned: at least that of the next
        below = found.setdefault(rank, below) if below is not None else found.get(rank)
    if shares.bins is not None:
        known = _list(table, "bin_known")
        there = adjusted(np.concatenate([known, 1 - known], 1), np.full(2, 0.5), shares.bins)[:, 0]
        found[BIN] = np.minimum(there * right[:, -1], votes[:, -1])
    return found


def present_of(table: pa.Table, shares: Shares) -> Numbers:
    """Probability of each level for the reads of `described` (n, levels)."""
    return adjusted(_list(table, "levels"), shares.learned, shares.levels)


def _named(table: pa.Table) -> NDArray[np.bool_]:
    return np.array([status not in UNNAMED for status in table["status"].to_pylist()], np.bool_)


def _list(table: pa.Table, name: str) -> Numbers:
    """A hidden column as (n, width)."""
    values = table[name].combine_chunks()
    return np.asarray(values.flatten().to_numpy().reshape(len(table), values.type.list_size), np.float64)


# ---- columns -------------------------------------------------------------------------------------------------------


class _Rows:
    """Makes columns of all n reads from values of those that were compared."""

    def __init__(self, n: int, usable: NDArray[np.int64]) -> None:
        self.n, self.usable = n, usable
        self.nothing = np.zeros(len(usable))

    def column(self, values: NDArray[Any], there: NDArray[np.bool_], kind: pa.DataType | None = None) -> pa.Array:
        """Values, null for reads that were not compared or not `there`."""
        every = np.zeros(self.n, values.dtype)
        mask = np.ones(self.n, np.bool_)
        every[self.usable] = values
        mask[self.usable[there]] = False
        return pa.array(every, kind, mask=mask)

    def taken(self, texts: pa.Array, rows: NDArray[np.int64], there: NDArray[np.bool_]) -> pa.Array:
        """Texts at rows."""
        found = texts.take(self.column(rows, there))
        return (found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found).cast(pa.string())

    def taxa(
        self, library: Library, rank: str, codes: NDArray[np.int64], there: NDArray[np.bool_] | bool = True
    ) -> pa.Array:
        """Names of codes, null where the code is -1."""
        return self.taken(pa.array(library.taxa[rank], pa.string()), codes, there & (codes >= 0))

    def lists(self, values: Numbers) -> pa.Array:
        """Values (m, width) as lists, 0 for reads that were not compared."""
        every = np.zeros((self.n, values.shape[1]))
        every[self.usable] = values
        return pa.FixedSizeListArray.from_arrays(pa.array(every.ravel()), values.shape[1])


def _neighbours(block: Named, n: int, most: int) -> pa.Array:
    """The nearest references of each read, a list of row, identity and overlap."""
    rows, identity, overlap = (
        part[:, :most] for part in (block.matches.rows, block.matches.identity, block.matches.overlap)
    )
    there = rows >= 0
    numbers = np.zeros(n, np.int64)
    numbers[block.usable] = there.sum(1)
    values = [rows[there], identity[there].astype(np.float64), overlap[there]]
    items = pa.StructArray.from_arrays([pa.array(part) for part in values], ["row", "identity", "overlap"])
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *numbers]), pa.int32()), items)


def _nearest(library: Library, block: Named, rows: _Rows) -> dict[str, pa.Array]:
    """Columns about the nearest reference and the nearest other species."""
    matches, names = block.matches, block.names
    nearest = matches.rows[:, 0]
    there = nearest >= 0
    columns: dict[str, pa.Array] = {
        "nearest": rows.taken(library.records["processid"], nearest.clip(0), there),
        "identity": rows.column(matches.identity[:, 0].astype(np.float64), there),
        "overlap": rows.column(matches.overlap[:, 0], there, pa.int32()),
    }
    if "species" in library.ranks:
        codes = names.codes["species"]
        own = library.codes["species"]
        records = np.bincount(own.clip(0), library.count * (own >= 0))
        columns["references"] = rows.column(records[codes.clip(0)].astype(np.int64), codes >= 0)
        columns["second_species"] = rows.taxa(library, "species", names.second["species"])
        columns["lead"] = rows.column(names.lead["species"], codes >= 0)
    conflicts = pa.nulls(rows.n, pa.string())
    for rank in reversed(RANKS):
        if rank in library.ranks:
            tied = rows.column(names.tied[rank], names.tied[rank] > 1)
            text = pc.binary_join_element_wise(tied.cast(pa.string()), f" {rank} equally near", "")
            conflicts = pc.coalesce(text, conflicts)
    columns["conflicts"] = conflicts
    return columns
