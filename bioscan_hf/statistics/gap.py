"""Barcode gap: distances inside species against those to the nearest other species.

Distances are those of `distances`, as shares of the nucleotides compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..progress import Progress, silent
from .distances import NUCLEOTIDES_COMPARED, require_rapidfuzz
from .table import BARCODE, BARCODE_ID, TRIMMED, Source, parts_of, run_on_part, specimens_of

#: Distinct barcodes that are compared, each with each: whole species, in random order, until there are so many.
BARCODES_COMPARED = 2000

_BLOCK = 500


def barcode_gaps(
    source: Source,
    seed: int = 0,
    most: int = BARCODES_COMPARED,
    *,
    workers: int = -1,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Farthest barcode of the same species and nearest of another, for species with 2 distinct barcodes or more.

    Of many species a random sample is compared, so that `nearest_other` is an upper bound. Barcodes shorter than 95 %
    of the median are left out: what they lack would count as distance. Needs the extra `stats` (rapidfuzz).

    Args:
        most: Distinct barcodes that are compared. A species with more of its own is left out.
        workers: Threads; -1 uses one per core.

    Returns:
        `species`, `barcodes` (distinct ones), `farthest_within` and `nearest_other` (fractions of the longer barcode)
        and `nearest_species`; by species. Empty if there is only one species.
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
        f"INSERT OR IGNORE INTO sequences SELECT {BARCODE_ID} AS id, any_value(left({TRIMMED}, "
        f"{NUCLEOTIDES_COMPARED})) FROM $part WHERE id IN (SELECT barcode FROM sampled) GROUP BY id"
    )
    for part, _ in parts_of(specimens.source, (BARCODE,), specimens.encoding):
        run_on_part(specimens.database, insert, part)
    rows = specimens.query("SELECT species, sequence FROM sampled JOIN sequences USING (barcode) ORDER BY ALL")
    least = 0.95 * float(np.median([len(text) for _, text in rows])) if rows else 0.0
    kept = [(name, text) for name, text in rows if len(text) >= least]
    return _gaps([name for name, _ in kept], [text for _, text in kept], workers, progress)


def _gaps(names: list[str], sequences: list[str], workers: int, progress: Progress) -> list[dict[str, Any]]:
    """Gaps of species from their barcodes, which are sorted by species."""
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import cdist

    species, of = np.unique(np.array(names, object), return_inverse=True)
    if len(species) < 2:
        return []
    lengths = np.array([max(len(text), 1) for text in sequences])
    within, other = np.zeros(len(species)), np.full(len(species), np.inf)
    nearest = np.zeros(len(species), np.int64)
    for start in range(0, len(sequences), _BLOCK):
        block = sequences[start : start + _BLOCK]
        edits = cdist(block, sequences, scorer=OSA.distance, dtype=np.uint16, workers=workers)
        shares = edits / np.maximum(lengths[start : start + _BLOCK, None], lengths[None])
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
