"""Counts, imbalance, diversity, places, sizes and lengths of a release.

Each function takes any source that `load_bioscan5m` takes, or the result of `read_specimens`; results do not depend on
the order of rows. The formulas are those of BIOSCAN-5M (https://arxiv.org/abs/2406.12723) and of its programs:

- A missing value belongs to no category.
- Imbalance ratio: samples of the largest category divided by those of the smallest.
- Mean, median and standard deviation are over the categories; the deviation is that of the population.
- Two barcodes are distinct if they differ after removing the N at their two ends, as in the partition.
- Shannon diversity of a group: -sum p log2 p in bits, where p is the share of its samples with each barcode. That of a
  rank is the unweighted mean over its groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..progress import Progress, silent
from ..release.problems import ReleaseError
from ..schema import LABEL_COLUMNS, MAX_NUCLEOTIDES, METASPLITS, RANKS, SPLITS
from .distances import barcode_distances, check_rank, require_rapidfuzz
from .gap import barcode_gaps
from .table import BARCODE, PLACES, SIZES, Source, Specimens, quoted, read_specimens, specimens_of

#: Width of the cells of a map, in degrees.
DEGREES_PER_CELL = 0.1

#: Both coordinates as a list, null if one is missing.
SITE = """CASE WHEN "coord-lat" IS NOT NULL AND "coord-lon" IS NOT NULL THEN ["coord-lat", "coord-lon"] END"""

Row = dict[str, Any]


def describe(
    source: str | Path,
    *,
    distances: bool = False,
    seed: int = 0,
    max_per_group: int | None = None,
    workers: int = -1,
    encoding: str = "utf-8",
    progress: Progress = silent,
) -> dict[str, Any]:
    """All statistics of a release; JSON can hold the result.

    Args:
        encoding: Text encoding of a metadata file, such as "latin-1".
        distances: Also compares barcodes at each rank, much slower; the options after it are those of
            `barcode_distances`.

    Returns:
        `rows`, `splits`, `ranks`, `diversity`, `distances` and `gap` (empty unless asked for), `taxonomy` (samples of
        each order and family, None where unknown), `geography`, `sizes` and `lengths`.
    """
    if distances:
        require_rapidfuzz()  # fails before the release is read
    specimens = read_specimens(source, progress=progress, encoding=encoding)
    compared = [
        barcode_distances(specimens, rank, seed, max_per_group, workers=workers, progress=progress)
        for rank in (RANKS if distances else ())
    ]
    families = specimens.query(
        'SELECT "order", family, count(*) FROM specimens GROUP BY ALL ORDER BY "order" NULLS FIRST, family NULLS FIRST'
    )
    return {
        "source": str(source),
        "rows": specimens.rows,
        "splits": split_statistics(specimens),
        "ranks": rank_statistics(specimens),
        "diversity": [diversity(specimens, rank) for rank in LABEL_COLUMNS],
        "distances": compared,
        "gap": barcode_gaps(specimens, seed, workers=workers, progress=progress) if distances else [],
        "taxonomy": [{"order": order, "family": family, "samples": count} for order, family, count in families],
        "geography": geography(specimens),
        "sizes": sizes(specimens),
        "lengths": lengths(specimens),
    }


def rank_statistics(source: Source) -> list[Row]:
    """Categories and imbalance of each rank, BIN and barcode.

    `most_populated` and `least_populated` are names: of equally large categories, the first in alphabetical order;
    None for barcodes.
    """
    specimens = specimens_of(source, (*LABEL_COLUMNS, BARCODE))
    rows = [{"rank": rank, **_category_sizes(specimens, quoted(rank))} for rank in LABEL_COLUMNS]
    barcodes = _category_sizes(specimens, "barcode") | {"most_populated": None, "least_populated": None}
    return [*rows, {"rank": BARCODE, **barcodes}]


def split_statistics(source: Source) -> list[Row]:
    """Samples, distinct barcodes and distinct species of each split and in total.

    Rows without a split, if there are any, are counted as "unassigned".

    Raises:
        ReleaseError: if a split is not one of BIOSCAN-5M's.
    """
    specimens = specimens_of(source, ("split", "species", BARCODE))
    rows = specimens.query(
        "SELECT CASE WHEN grouping(split) = 1 THEN 'total' ELSE coalesce(split, 'unassigned') END, count(*), "
        "count(DISTINCT barcode), count(DISTINCT species) FROM specimens GROUP BY GROUPING SETS ((split), ())"
    )
    found = {name: counts for name, *counts in rows}
    if unknown := sorted(set(found) - {*SPLITS, "unassigned", "total"}):
        raise ReleaseError(f"Unknown split {unknown[0]!r} in {specimens.source}. BIOSCAN-5M has {', '.join(SPLITS)}.")
    sets = {name: part for part in ("seen", "unseen") for name in METASPLITS[part]}
    sets |= {"pretrain": "unknown", "other_heldout": "heldout"}
    names = (*SPLITS, *(("unassigned",) if "unassigned" in found else ()), "total")
    keys = ("split", "samples", "barcodes", "species", "set")
    return [dict(zip(keys, (name, *found.get(name, (0, 0, 0)), sets.get(name)), strict=True)) for name in names]


def diversity(source: Source, rank: str) -> Row:
    """Distinct barcodes and Shannon diversity (bits) of the groups of a rank.

    `mean`, `median` and `std` are over the groups, of their numbers of distinct barcodes.
    """
    check_rank(rank)
    specimens = specimens_of(source, (rank, BARCODE))
    # A row per group and number of samples: how many of its barcodes have so many.
    names, samples, barcodes = specimens.arrays(
        f"SELECT name, CASE WHEN barcode IS NULL THEN 0 ELSE samples END AS samples, count(barcode) AS barcodes "
        f"FROM (SELECT {quoted(rank)} AS name, barcode, count(*) AS samples FROM specimens GROUP BY ALL) "
        f"WHERE name IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
    )
    starts = np.flatnonzero([i == 0 or name != names[i - 1] for i, name in enumerate(names)])
    distinct, total, weighted = (
        np.add.reduceat(x, starts) if len(starts) else np.zeros(0)
        for x in (barcodes, barcodes * samples, barcodes * samples * np.log2(np.maximum(samples, 1)))
    )
    present = total > 0
    bits = np.log2(total[present]) - weighted[present] / total[present]
    known = specimens.query(f"SELECT count(DISTINCT barcode) FROM specimens WHERE {quoted(rank)} IS NOT NULL")
    return {
        "rank": rank,
        "categories": len(distinct),
        "barcodes": known[0][0],
        **{f.__name__: float(f(distinct)) if len(distinct) else None for f in (np.mean, np.median, np.std)},
        "shannon_bits": float(bits.mean()) if len(bits) else None,
    }


def lengths(source: Source) -> Row:
    """Lengths of barcodes (nt), and numbers of barcodes with unusual letters.

    N at the ends counts as length. `histogram` lists [length, samples].
    """
    specimens = specimens_of(source, (BARCODE,))
    values, counts = specimens.arrays(
        "SELECT length, count(*) AS samples FROM specimens WHERE length IS NOT NULL GROUP BY length ORDER BY length"
    )
    letters = ("n_inside", "n_at_an_end", "other_letters")
    found = specimens.query(f"SELECT {', '.join(f'count_if({name})' for name in letters)} FROM specimens")[0]
    samples = int(counts.sum())
    return {
        "samples": samples,
        "missing": specimens.rows - samples,
        **_describe_values(values, counts),
        f"longer_than_{MAX_NUCLEOTIDES}": int(counts[values > MAX_NUCLEOTIDES].sum()),
        **dict(zip(letters, found, strict=True)),
        "histogram": [[int(length), int(count)] for length, count in zip(values, counts, strict=True)],
    }


def sizes(source: Source) -> list[Row]:
    """Categories of each size column, and in `values` its distribution."""
    specimens = specimens_of(source, SIZES)
    rows = []
    for name in SIZES:
        column = quoted(name)
        values = specimens.arrays(
            f"SELECT {column}, count(*) AS samples FROM specimens WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        rows.append({"column": name, **_category_sizes(specimens, column), "values": _describe_values(*values)})
    return rows


def geography(source: Source) -> dict[str, Any]:
    """Places where specimens were collected.

    Returns:
        `columns`: the categories of country, province, latitude, longitude and "site", a pair of coordinates.
        `countries`: each with its samples and their median coordinates, largest first.
        `cells`: `latitude`, `longitude` (centres, in degrees) and `samples` of each cell of 0.1 degrees that has any.
    """
    from ..plots.sites import cells_of  # matplotlib takes a second to import

    specimens = specimens_of(source, PLACES)
    site = _category_sizes(specimens, SITE)
    for name in ("most_populated", "least_populated"):
        site[name] = site[name] and tuple(site[name])
    countries = specimens.query(
        f'SELECT country, count(*), median("coord-lat") FILTER ({SITE} IS NOT NULL), '
        f'median("coord-lon") FILTER ({SITE} IS NOT NULL) '
        f"FROM specimens WHERE country IS NOT NULL GROUP BY country ORDER BY count(*) DESC, country"
    )
    *sites, counts = specimens.arrays(
        f'SELECT "coord-lat", "coord-lon", count(*) AS samples FROM specimens WHERE {SITE} IS NOT NULL GROUP BY 1, 2'
    )
    cells, cell = np.unique(cells_of(np.stack(sites), DEGREES_PER_CELL), axis=1, return_inverse=True)
    latitude, longitude = (((edges + 0.5) * DEGREES_PER_CELL).round(2).tolist() for edges in cells)
    columns = [{"column": name, **_category_sizes(specimens, quoted(name))} for name in PLACES]
    names = ("country", "samples", "latitude", "longitude")
    return {
        "columns": [*columns, {"column": "site", **site}],
        "countries": [dict(zip(names, row, strict=True)) for row in countries],
        "cells": {
            "latitude": latitude,
            "longitude": longitude,
            "samples": np.bincount(cell.ravel(), counts, cells.shape[1]).astype(np.int64).tolist(),
        },
    }


def _category_sizes(specimens: Specimens, column: str) -> Row:
    """Sizes of the categories of a column, given in SQL."""
    found = specimens.query(
        f"SELECT size, count(*), min(name) FROM "
        f"(SELECT {column} AS name, count(*) AS size FROM specimens WHERE {column} IS NOT NULL GROUP BY 1) "
        f"GROUP BY size ORDER BY size"
    )
    size, categories = (np.array([row[i] for row in found], dtype=np.int64) for i in (0, 1))
    labelled = int((size * categories).sum())
    row: Row = {
        "categories": int(categories.sum()),
        "labelled": labelled,
        "labelled_share": labelled / specimens.rows,
        "unlabelled": specimens.rows - labelled,
        "unlabelled_share": 1 - labelled / specimens.rows,
    }
    if not found:
        names = ("imbalance_ratio", "most_populated", "most_populated_samples", "least_populated")
        return row | dict.fromkeys((*names, "least_populated_samples", "mean", "median", "std"))
    cumulative, count = np.cumsum(categories), categories.sum()
    middle = size[np.searchsorted(cumulative, [(count + 1) // 2, count // 2 + 1])]
    return row | {
        "imbalance_ratio": float(size[-1] / size[0]),
        "most_populated": found[-1][2],
        "most_populated_samples": int(size[-1]),
        "least_populated": found[0][2],
        "least_populated_samples": int(size[0]),
        "mean": labelled / int(count),
        "median": float(middle.mean()),
        "std": _deviation(size, categories, labelled / int(count)),
    }


def _describe_values(values: np.ndarray, counts: np.ndarray) -> Row:
    """Mean, deviation and quantiles of ascending `values`, each `counts` times."""
    names = {"minimum": 0.0, "p1": 0.01, "p25": 0.25, "median": 0.5, "p75": 0.75, "p99": 0.99, "maximum": 1.0}
    total = int(counts.sum())
    if not total:
        return dict.fromkeys((*names, "mean", "std"))
    cumulative = np.cumsum(counts)
    places = {name: np.searchsorted(cumulative, max(1, np.ceil(share * total))) for name, share in names.items()}
    row: Row = {name: values[place].item() for name, place in places.items()}
    mean = float(np.average(values, weights=counts))
    return row | {"mean": mean, "std": _deviation(values, counts, mean)}


def _deviation(values: np.ndarray, counts: np.ndarray, mean: float) -> float:
    return float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
