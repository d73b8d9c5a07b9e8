"""Edit distances between the barcodes of a group (G = groups).

The distance is the restricted Damerau-Levenshtein distance (optimal string alignment) of the first 625 nucleotides.
Those of BIOSCAN-5M (https://arxiv.org/abs/2406.12723) are computed after a multiple alignment; here each pair is
aligned by itself, so the distance is never larger. N, and what one of two barcodes lacks, count as edits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..progress import Progress, silent
from ..schema import LABEL_COLUMNS
from .table import BARCODE, BARCODE_ID, TRIMMED, Source, Specimens, parts_of, quoted, run_on_part, specimens_of

#: Groups with fewer distinct barcodes have no mean distance.
MIN_BARCODES = 5

#: Distinct barcodes of a group that are compared, each with each, at every rank except species, which has no limit.
BARCODES_COMPARED = 1000
NUCLEOTIDES_COMPARED = 625

#: Barcodes that are compared at a time: a species with 10,000 barcodes needs no matrix of 10,000 x 10,000.
_BLOCK = 500

_INCOMPLETE = (
    "SELECT count_if(length(sequence) < 0.95 * (SELECT median(length(sequence)) FROM sequences) "
    "OR regexp_matches(sequence, '[^ACGT]')) FROM sequences"
)


def check_rank(rank: str) -> None:
    """Raises ValueError unless `rank` is a rank or "dna_bin"."""
    if rank not in LABEL_COLUMNS:
        raise ValueError(f"Unknown rank {rank!r}. Barcodes are grouped by {', '.join(LABEL_COLUMNS)}.")


def require_rapidfuzz() -> None:
    """Raises ModuleNotFoundError, with the command that installs it, unless rapidfuzz is installed."""
    try:
        import rapidfuzz  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Distances need rapidfuzz: pip install 'bioscan_hf[stats]'.") from error


def barcode_distances(
    source: Source,
    rank: str,
    seed: int = 0,
    max_per_group: int | None = None,
    *,
    workers: int = -1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Distances between the distinct barcodes of groups, averaged over groups, in edits.

    Groups with fewer than 5 distinct barcodes are left out. `std` is the mean of the groups' population deviations;
    `distribution` is the share of pairs at the distance 0, 1, 2, ..., where each group has the same weight.
    `incomplete` is the number of barcodes that hold other letters than A, C, G and T or are shorter than 95 % of the
    median: these letters and what they lack count as edits. Needs the extra `stats` (rapidfuzz).

    Args:
        max_per_group: Barcodes of a group that are compared, each with each; a larger group is sampled by `seed`. None
            is the published choice: 1,000, and all at species.
        workers: Threads; -1 uses one per core.
        progress: Called with the stage, the pairs compared so far and all pairs, after each group.
    """
    check_rank(rank)
    if max_per_group is not None and max_per_group < MIN_BARCODES:
        raise ValueError(f"A sample of {max_per_group} barcodes per group is too small: give {MIN_BARCODES} or more.")
    require_rapidfuzz()
    specimens = specimens_of(source, (rank, BARCODE))
    _choose(specimens, rank, seed, max_per_group or (None if rank == "species" else BARCODES_COMPARED))
    groups = specimens.query("SELECT count(*) AS size FROM chosen GROUP BY name ORDER BY name")
    total = sum(size * (size - 1) // 2 for (size,) in groups)
    found = specimens.database.execute(
        "SELECT sequence FROM chosen JOIN sequences USING (barcode) ORDER BY name, place"
    )
    histograms, compared = [], 0
    for (size,) in groups:
        histograms.append(_distance_histogram([sequence for (sequence,) in found.fetchmany(size)], workers))
        compared += size * (size - 1) // 2
        progress(f"distances within {rank}", compared, total)
    names = specimens.query(f"SELECT count(DISTINCT {quoted(rank)}) FROM specimens")[0][0]
    return {
        "rank": rank,
        "groups": len(histograms),
        "groups_left_out": names - len(histograms),
        "barcodes": specimens.query("SELECT count(*) FROM sequences")[0][0],
        "incomplete": specimens.query(_INCOMPLETE)[0][0],
        **_average(np.array(histograms)),
    }


def _choose(specimens: Specimens, rank: str, seed: int, limit: int | None) -> None:
    """Makes tables of barcodes: `chosen` (name, barcode, place) and `sequences`.

    The order within a group depends on the barcodes and the seed only, so that it is the same for any order of rows.
    """
    specimens.query(
        f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT name, barcode, place FROM ("
        f"SELECT name, barcode, row_number() OVER (PARTITION BY name ORDER BY md5(barcode || ':{seed}'), barcode) "
        f"AS place, count(*) OVER (PARTITION BY name) AS size FROM "
        f"(SELECT DISTINCT {quoted(rank)} AS name, barcode FROM specimens "
        f"WHERE {quoted(rank)} IS NOT NULL AND barcode IS NOT NULL)) "
        f"WHERE size >= {MIN_BARCODES} {f'AND place <= {limit}' if limit else ''}"
    )
    specimens.query("CREATE OR REPLACE TEMP TABLE sequences (barcode UBIGINT PRIMARY KEY, sequence VARCHAR)")
    insert = (
        f"INSERT OR IGNORE INTO sequences SELECT {BARCODE_ID} AS id, any_value(left({TRIMMED}, "
        f"{NUCLEOTIDES_COMPARED})) FROM $part WHERE id IN (SELECT barcode FROM chosen) GROUP BY id"
    )
    for part, _ in parts_of(specimens.source, (BARCODE,), specimens.encoding):
        run_on_part(specimens.database, insert, part)


def _distance_histogram(sequences: list[str], workers: int) -> np.ndarray:
    """Number of pairs of sequences at the distances 0, 1, ..., 625."""
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import cdist

    counts = np.zeros(NUCLEOTIDES_COMPARED + 1, dtype=np.int64)
    for start in range(0, len(sequences), _BLOCK):
        block, rest = sequences[start : start + _BLOCK], sequences[start + _BLOCK :]
        square = cdist(block, block, scorer=OSA.distance, dtype=np.uint16, workers=workers)
        counts += np.bincount(square[np.triu_indices(len(block), 1)], minlength=len(counts))
        if rest:
            across = cdist(block, rest, scorer=OSA.distance, dtype=np.uint16, workers=workers)
            counts += np.bincount(across.ravel(), minlength=len(counts))
    return counts


def _average(histograms: np.ndarray) -> dict[str, Any]:
    """Statistics of each histogram (G, 626), averaged over the groups."""
    names = ("mean", "variance", "std", "minimum", "maximum")
    if not len(histograms):
        return {"pairs": 0, **dict.fromkeys(names), "distribution": []}
    distances = np.arange(histograms.shape[1])
    shares = histograms / histograms.sum(1, keepdims=True)
    mean = shares @ distances
    variance = (shares * (distances - mean[:, None]) ** 2).sum(1)
    present = histograms > 0
    smallest, largest = present.argmax(1), histograms.shape[1] - 1 - present[:, ::-1].argmax(1)
    averages = [float(x.mean()) for x in (mean, variance, np.sqrt(variance), smallest, largest)]
    distribution = shares.mean(0)[: int(largest.max()) + 1].tolist()
    return {"pairs": int(histograms.sum()), **dict(zip(names, averages, strict=True)), "distribution": distribution}
