"""Barcode gap: distances inside species against those to the nearest other species.

Distances are those of `distances` in the region that both barcodes have, as shares of its nucleotides.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..progress import Progress, silent
from .distances import NUCLEOTIDES_COMPARED, require_rapidfuzz
from .region import placed
from .table import BARCODE, BARCODE_ID, TRIMMED, Source, parts_of, run_on_part, specimens_of

#: Distinct barcodes that are compared, each with each: whole species, in random order, until there are so many.
BARCODES_COMPARED = 2000

#: Share of the region that a barcode has to have.
COVERED = 0.9

_BLOCK = 500

_LOGGER = logging.getLogger(__name__)


def barcode_gaps(
    source: Source,
    seed: int = 0,
    most: int = BARCODES_COMPARED,
    *,
    workers: int = -1,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Farthest barcode of the same species and nearest of another, for species with 2 distinct barcodes or more.

    Of many species a random sample is compared, so that `nearest_other` is an upper bound. Barcodes are turned to one
    strand, and those that lack more than 10 % of the common region are left out; warnings give both numbers. Positions
    at which a barcode has N or no nucleotide are not compared. Needs the extra `stats` (rapidfuzz).

    Args:
        most: Distinct barcodes that are compared. A species with more of its own is left out.
        workers: Threads; -1 uses one per core.

    Returns:
        `species`, `barcodes` (distinct ones), `farthest_within` and `nearest_other` (fractions of the nucleotides that
        both have) and `nearest_species`; by species. Empty if there is only one species.
    """
    require_rapidfuzz()
    specimens = specimens_of(source, ("species", BARCODE))
    specimens.query(
        "CREATE OR REPLACE TEMP TABLE sampled AS SELECT species, barcode FROM ("
        "SELECT *, sum(size) OVER (ORDER BY key, species) AS total FROM ("
        f"SELECT species, count(DISTINCT barcode) AS size, md5(species || ':{seed}') AS key FROM specimens "
        f"WHERE species IS NOT NULL AND barcode IS NOT NULL GROUP BY species HAVING size <= {most})) "
        "JOIN (SELECT DISTINCT species, barcode FROM specimens WHERE barcode IS NOT NULL) USING (species) "
        f"WHERE total <= {most}"
    )
    specimens.query("CREATE OR REPLACE TEMP TABLE sequences (barcode UBIGINT PRIMARY KEY, sequence VARCHAR)")
    insert = (
        f"INSERT OR IGNORE INTO sequences SELECT {BARCODE_ID} AS id, any_value({TRIMMED}) "
        f"FROM $part WHERE id IN (SELECT barcode FROM sampled) GROUP BY id"
    )
    for part, _ in parts_of(specimens.source, (BARCODE,), specimens.encoding):
        run_on_part(specimens.database, insert, part)
    rows = specimens.query("SELECT species, sequence FROM sampled JOIN sequences USING (barcode) ORDER BY ALL")
    if not rows:
        return []
    letters = _in_region(specimens.source, [text for _, text in rows])
    kept = _known(letters).mean(axis=1) >= COVERED
    if not kept.all():
        lacks = f"{len(rows) - kept.sum():,} of {len(rows):,} barcodes lack more than {1 - COVERED:.0%} of the region"
        _LOGGER.warning("%s: %s and are left out of the barcode gap.", specimens.source, lacks)
    return _gaps([name for (name, _), keep in zip(rows, kept, strict=True) if keep], letters[kept], workers, progress)


def _in_region(source: str | Path, barcodes: list[str]) -> NDArray[np.uint8]:
    """Letters of barcodes (n, columns) in the common region, "-" before their first and after their last one.

    The region is that of the median barcode, and has at most `NUCLEOTIDES_COMPARED` columns.
    """
    found = placed(barcodes)
    if found.turned.any():
        turned = f"{found.turned.sum():,} of {len(barcodes):,} barcodes are on the other strand"
        _LOGGER.warning("%s: %s. The barcode gap is of turned ones.", source, turned)
    ends = found.starts + [len(text) for text in found.barcodes]
    first = int(np.median(found.starts))
    last = max(first + 1, min(int(np.median(ends)), first + NUCLEOTIDES_COMPARED))
    letters = np.full((len(barcodes), last - first), ord("-"), np.uint8)
    for row, text, start, end in zip(letters, found.barcodes, found.starts.tolist(), ends.tolist(), strict=True):
        low, high = max(start, first), min(end, last)
        if low < high:
            row[low - first : high - first] = np.frombuffer(text[low - start : high - start].encode(), np.uint8)
    return letters


def _known(letters: NDArray[np.uint8]) -> NDArray[np.float32]:
    """1 for A, C, G and T, 0 for N, other codes and what a barcode lacks."""
    return np.isin(letters, np.frombuffer(b"ACGT", np.uint8)).astype(np.float32)


def _gaps(names: list[str], letters: NDArray[np.uint8], workers: int, progress: Progress) -> list[dict[str, Any]]:
    """Gaps of species from the letters of their barcodes (n, columns), which are sorted by species."""
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import cdist

    species, of = np.unique(np.array(names, object), return_inverse=True)
    if len(species) < 2:
        return []
    sequences = [row.tobytes().decode().strip("-") for row in letters]
    known = _known(letters)
    within, other = np.zeros(len(species)), np.full(len(species), np.inf)
    nearest = np.zeros(len(species), np.int64)
    for start in range(0, len(sequences), _BLOCK):
        block = sequences[start : start + _BLOCK]
        edits = cdist(block, sequences, scorer=OSA.distance, dtype=np.uint16, workers=workers)
        mine = known[start : start + _BLOCK]
        both = mine @ known.T
        # Positions that only one of two barcodes has count as edits; they are subtracted.
        unknown = mine.sum(axis=1)[:, None] + known.sum(axis=1) - 2 * both
        shares = np.clip(edits - unknown, 0, None) / both
        for row, own in enumerate(of[start : start + _BLOCK]):
            same = of == own
            within[own] = max(within[own], shares[row][same].max())
            closest = int(np.where(same, np.inf, shares[row]).argmin())
            if shares[row][closest] < other[own]:
                other[own], nearest[own] = shares[row][closest], of[closest]
        progress("barcode gap", min(start + _BLOCK, len(sequences)), len(sequences))
    sizes = np.bincount(of)
    return [
        {
            "species": str(species[i]),
            "barcodes": int(sizes[i]),
            "farthest_within": float(within[i]),
            "nearest_other": float(other[i]),
            "nearest_species": str(species[nearest[i]]),
        }
        for i in np.flatnonzero(sizes > 1)
    ]
