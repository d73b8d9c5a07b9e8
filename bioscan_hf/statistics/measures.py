"""What a release holds: counts and imbalance per rank and split, diversity, distances, places, sizes and lengths.

The formulas are those of the BIOSCAN-5M paper (https://arxiv.org/abs/2406.12723) and of the programs published with
it.

- Missing values belong to no category.
- Imbalance ratio: samples of the largest category by those of the smallest.
- Mean, median and standard deviation of the sizes of categories; the deviation is that of the population.
- Distinct barcodes are compared without the N at their two ends, as the partition does, and not cut. (The removal of
  repeated barcodes in `load_bioscan5m` cuts first, and ignores trailing N alone.)
- Shannon diversity of a group: -sum p log2 p in bits, p being the share of its samples with each barcode; a rank's is
  the mean over its groups, unweighted.
- Distance of two barcodes: restricted Damerau-Levenshtein (optimal string alignment), of the first 625 nucleotides.
  The published one is taken after a multiple alignment; ours aligns each pair itself, and so is never larger.

A function takes any source that `load_bioscan5m` takes, of which it reads what it needs, or what `read_specimens` has
read. Letters: R = rows, G = groups, P = pairs of a group and one of its barcodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..release.check import ReleaseError
from ..schema import LABEL_COLUMNS, MAX_NUCLEOTIDES, METASPLITS, RANKS, SPLITS
from .columns import (
    BARCODE,
    PLACES,
    SIZES,
    Progress,
    Source,
    Specimens,
    read_columns,
    read_specimens,
    silent,
    specimens_of,
)

#: Groups with fewer distinct barcodes have no mean distance.
MIN_BARCODES = 5
#: Distinct barcodes of a group that are compared, each with each, at every rank but species, which has no limit.
BARCODES_COMPARED = 1000
NUCLEOTIDES_COMPARED = 625

DEGREES_PER_CELL = 0.1

Row = dict[str, Any]


# ---- counts --------------------------------------------------------------------------------------------------------


def _category_sizes(codes: np.ndarray, values: list[Any] | None, rows: int) -> Row:
    """How the rows spread over the categories of a column; None where there is no category."""
    sizes = np.bincount(codes[codes >= 0], minlength=len(values or ()))
    labelled = int(sizes.sum())
    row: Row = {
        "categories": len(sizes),
        "labelled": labelled,
        "labelled_share": labelled / rows,
        "unlabelled": rows - labelled,
        "unlabelled_share": 1 - labelled / rows,
    }
    most, least = (int(sizes.argmax()), int(sizes.argmin())) if len(sizes) else (None, None)
    return row | {
        "imbalance_ratio": float(sizes[most] / sizes[least]) if len(sizes) else None,
        "most_populated": values[most] if values and most is not None else None,
        "most_populated_samples": int(sizes[most]) if len(sizes) else None,
        "least_populated": values[least] if values and least is not None else None,
        "least_populated_samples": int(sizes[least]) if len(sizes) else None,
        "mean": float(sizes.mean()) if len(sizes) else None,
        "median": float(np.median(sizes)) if len(sizes) else None,
        "std": float(sizes.std()) if len(sizes) else None,
    }


def rank_statistics(source: Source) -> list[Row]:
    """For each rank, BIN and barcode: categories, labelled samples, imbalance ratio, and the sizes of the categories.

    `most_populated` and `least_populated` are names, of equally large ones the first in order; None for barcodes.
    """
    columns = (*LABEL_COLUMNS, BARCODE)
    specimens = specimens_of(source, columns)
    return [
        {"rank": name, **_category_sizes(specimens.codes[name], specimens.values.get(name), specimens.rows)}
        for name in columns
    ]


def _pairs(group: np.ndarray, member: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each group with each of its members: group (P,), member (P,) and rows (P,), ordered; rows with a -1 are out."""
    known = (group >= 0) & (member >= 0)
    keys, counts = np.unique(group[known].astype(np.int64) * members + member[known], return_counts=True)
    groups, of = np.divmod(keys, max(members, 1))
    return groups, of, counts


def split_statistics(source: Source) -> list[Row]:
    """Samples, distinct barcodes and distinct species of each split, then of "unassigned" rows if any, then in total.

    Raises:
        ReleaseError: if a row has a split that BIOSCAN-5M has not.
    """
    specimens = specimens_of(source, ("split", "species", BARCODE))
    names = specimens.values["split"]
    unknown = sorted(set(names) - set(SPLITS))
    if unknown:
        raise ReleaseError(f"Unknown split {unknown[0]!r} in {specimens.source}. BIOSCAN-5M has {', '.join(SPLITS)}.")
    split = np.array([*map(SPLITS.index, names), len(SPLITS)], dtype=np.int64)[specimens.codes["split"]]
    samples = np.bincount(split, minlength=len(SPLITS) + 1)
    counts = {}
    for name, members in (("barcodes", len(specimens.first_rows)), ("species", len(specimens.values["species"]))):
        codes = specimens.codes[BARCODE if name == "barcodes" else name]
        counts[name] = [*np.bincount(_pairs(split, codes, members)[0], minlength=len(SPLITS) + 1).tolist(), members]
    sets = {name: part for part in ("seen", "unseen") for name in METASPLITS[part]}
    sets |= {"pretrain": "unknown", "other_heldout": "heldout"}
    rows = [
        {"split": name, "samples": count, "barcodes": barcodes, "species": species, "set": sets.get(name)}
        for name, count, barcodes, species in zip(
            (*SPLITS, "unassigned", "total"), [*samples.tolist(), specimens.rows], *counts.values(), strict=True
        )
    ]
    return [row for row in rows if row["split"] != "unassigned" or row["samples"]]


# ---- barcodes ------------------------------------------------------------------------------------------------------


def _check_rank(rank: str) -> None:
    if rank not in LABEL_COLUMNS:
        raise ValueError(f"Unknown rank {rank!r}. Barcodes are grouped by {', '.join(LABEL_COLUMNS)}.")


def diversity(source: Source, rank: str) -> Row:
    """Distinct barcodes of the groups of a rank, and their mean Shannon diversity in bits.

    `mean`, `median` and `std` are over the groups, of their numbers of distinct barcodes.
    """
    _check_rank(rank)
    specimens = specimens_of(source, (rank, BARCODE))
    groups = len(specimens.values[rank])
    group, barcode, samples = _pairs(specimens.codes[rank], specimens.codes[BARCODE], len(specimens.first_rows))
    distinct = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=samples, minlength=groups)
    weighted = np.bincount(group, weights=samples * np.log2(samples), minlength=groups)
    with_barcodes = total > 0
    bits = np.log2(total[with_barcodes]) - weighted[with_barcodes] / total[with_barcodes]
    return {
        "rank": rank,
        "categories": groups,
        "barcodes": len(np.unique(barcode)),
        "mean": float(distinct.mean()) if groups else None,
        "median": float(np.median(distinct)) if groups else None,
        "std": float(distinct.std()) if groups else None,
        "shannon_bits": float(bits.mean()) if len(bits) else None,
    }


def barcode_distances(
    source: Source,
    rank: str,
    seed: int = 0,
    max_per_group: int | None = None,
    *,
    workers: int = -1,
    progress: Progress = silent,
) -> Row:
    """Distances between the distinct barcodes of each group of a rank, in edits, averaged over the groups.

    Groups with fewer than 5 distinct barcodes are left out. `std` is the mean of the groups' population deviations,
    `distribution` the share of pairs at the distance 0, 1, 2, ..., each group weighing the same. Needs the
    extra `stats` (rapidfuzz).

    Args:
        max_per_group: Barcodes of a group that are compared, each with each, drawn by `seed`; None for the published
            numbers: 1,000, and at species all.
        workers: Threads; -1 takes one per core.
        progress: Called with what is compared and the number of pairs, after each group.
    """
    _check_rank(rank)
    if max_per_group is not None and max_per_group < MIN_BARCODES:
        raise ValueError(f"max_per_group is {max_per_group}, but groups below {MIN_BARCODES} barcodes are left out.")
    specimens = specimens_of(source, (rank, BARCODE))
    limit = max_per_group or (len(specimens.first_rows) if rank == "species" else BARCODES_COMPARED)
    group, barcode, _ = _pairs(specimens.codes[rank], specimens.codes[BARCODE], len(specimens.first_rows))
    priority = np.random.default_rng(seed).permutation(len(specimens.first_rows))[barcode]  # by content, not by row
    order = np.lexsort((priority, group))
    group, barcode = group[order], barcode[order]
    sizes = np.bincount(group, minlength=len(specimens.values[rank]))
    place = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]
    chosen = (sizes[group] >= MIN_BARCODES) & (place < limit)
    group, barcode = group[chosen], barcode[chosen]
    distinct, position = np.unique(barcode, return_inverse=True)
    sequences = _sequences(specimens, distinct)[position]

    histograms = []
    for members in np.split(sequences, np.flatnonzero(np.diff(group)) + 1) if len(group) else []:
        histograms.append(_distance_histogram(members.tolist(), workers))
        progress(f"distances within {rank}", len(members) * (len(members) - 1) // 2)
    return {
        "rank": rank,
        "groups": len(histograms),
        "groups_left_out": int(len(sizes) - len(histograms)),
        "barcodes": len(distinct),
        **_average(np.array(histograms)),
    }


def _sequences(specimens: Specimens, barcodes: np.ndarray) -> np.ndarray:
    """The compared part of some barcodes, by id (n,) objects; a second pass over the release."""
    rows = specimens.first_rows[barcodes]
    order = np.argsort(rows)
    found: list[str] = []
    start = 0
    for table in read_columns(specimens.source, (BARCODE,)):
        wanted = rows[order[np.searchsorted(rows[order], start) :]]
        wanted = wanted[: np.searchsorted(wanted, start + len(table))] - start
        for sequence in table[BARCODE].take(pa.array(wanted)).to_pylist():
            found.append(sequence.strip("N")[:NUCLEOTIDES_COMPARED])
        start += len(table)
    sequences = np.empty(len(barcodes), dtype=object)
    sequences[order] = found
    return sequences


def _distance_histogram(sequences: list[str], workers: int) -> np.ndarray:
    """How many of the pairs of sequences have the distance 0, 1, ..., 625."""
    try:
        from rapidfuzz.distance import OSA
        from rapidfuzz.process import cdist
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Distances need rapidfuzz: pip install 'bioscan_hf[stats]'.") from error
    counts = np.zeros(NUCLEOTIDES_COMPARED + 1, dtype=np.int64)
    for start in range(0, len(sequences), 500):  # in blocks, so that a species with 10,000 barcodes needs no 10,000^2
        block, rest = sequences[start : start + 500], sequences[start + 500 :]
        square = cdist(block, block, scorer=OSA.distance, dtype=np.uint16, workers=workers)
        counts += np.bincount(square[np.triu_indices(len(block), 1)], minlength=len(counts))
        if rest:
            across = cdist(block, rest, scorer=OSA.distance, dtype=np.uint16, workers=workers)
            counts += np.bincount(across.ravel(), minlength=len(counts))
    return counts


def _average(histograms: np.ndarray) -> Row:
    """Mean, variance, std, minimum and maximum of each group (G, 626), averaged over the groups."""
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


def lengths(source: Source) -> Row:
    """Lengths of the barcodes as they stand, in nucleotides, and how many hold letters other than A, C, G and T.

    `histogram` lists [length, samples]; N at the ends counts as length.
    """
    specimens = specimens_of(source, (BARCODE,))
    known = specimens.lengths[specimens.lengths > 0]
    counts = np.bincount(known)
    present = np.flatnonzero(counts)
    return {
        "samples": len(known),
        "missing": specimens.rows - len(known),
        **_describe_values(present, counts[present]),
        f"longer_than_{MAX_NUCLEOTIDES}": int((known > MAX_NUCLEOTIDES).sum()),
        **specimens.letters,
        "histogram": [[int(length), int(counts[length])] for length in present],
    }


# ---- places and sizes ----------------------------------------------------------------------------------------------


def _describe_values(values: np.ndarray, counts: np.ndarray) -> Row:
    """Mean, population std and quantiles of `values` (ascending), each `counts` times; quantiles are of the values."""
    names = {"minimum": 0.0, "p1": 0.01, "p25": 0.25, "median": 0.5, "p75": 0.75, "p99": 0.99, "maximum": 1.0}
    total = int(counts.sum())
    if not total:
        return dict.fromkeys((*names, "mean", "std"))
    cumulative = np.cumsum(counts)
    row: Row = {
        name: values[np.searchsorted(cumulative, max(1, np.ceil(share * total)))].item()
        for name, share in names.items()
    }
    mean = float(np.average(values, weights=counts))
    return row | {"mean": mean, "std": float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))}


def sizes(source: Source) -> list[Row]:
    """For each size column its categories, as for ranks, and under `values` the mean, deviation and quantiles."""
    specimens = specimens_of(source, SIZES)
    rows = []
    for name in SIZES:
        codes, values = specimens.codes[name], specimens.values[name]
        counts = np.bincount(codes[codes >= 0], minlength=len(values))
        row = {"column": name, **_category_sizes(codes, values, specimens.rows)}
        rows.append(row | {"values": _describe_values(np.array(values), counts)})
    return rows


def geography(source: Source) -> dict[str, Any]:
    """Where specimens were collected.

    Returns:
        `columns`: the categories of country, province, latitude, longitude and "site", a pair of coordinates.
        `countries`: each with its samples and the median coordinates of these, largest first.
        `cells`: `latitude`, `longitude` (centres, in degrees) and `samples` of each cell of 0.1 degrees that has any.
    """
    specimens = specimens_of(source, PLACES)
    codes, values = specimens.codes, specimens.values
    n_longitudes = len(values["coord-lon"])
    latitude_code, longitude_code = codes["coord-lat"].astype(np.int64), codes["coord-lon"]
    located = (latitude_code >= 0) & (longitude_code >= 0)
    pair = np.where(located, latitude_code * n_longitudes + longitude_code, -1)
    pairs, site = np.unique(pair, return_inverse=True)
    if len(pairs) and pairs[0] == -1:
        pairs, site = pairs[1:], site - 1
    latitude = np.array(values["coord-lat"], dtype=np.float64)[pairs // max(n_longitudes, 1)]
    longitude = np.array(values["coord-lon"], dtype=np.float64)[pairs % max(n_longitudes, 1)]
    columns = [{"column": name, **_category_sizes(codes[name], values[name], specimens.rows)} for name in PLACES]
    names = list(zip(latitude.tolist(), longitude.tolist(), strict=True))
    columns.append({"column": "site", **_category_sizes(site, names, specimens.rows)})

    countries = []
    order = np.argsort(codes["country"], kind="stable")
    bounds = np.searchsorted(codes["country"][order], np.arange(len(values["country"]) + 1))
    for i, name in enumerate(values["country"]):
        rows = order[bounds[i] : bounds[i + 1]]
        at = site[rows][site[rows] >= 0]
        middle = [float(np.median(degrees[at])) if len(at) else None for degrees in (latitude, longitude)]
        countries.append({"country": name, "samples": len(rows), "latitude": middle[0], "longitude": middle[1]})
    return {
        "columns": columns,
        "countries": sorted(countries, key=lambda row: -row["samples"]),
        "cells": _cells(latitude, longitude, np.bincount(site[site >= 0], minlength=len(pairs))),
    }


def _cells(latitude: np.ndarray, longitude: np.ndarray, samples: np.ndarray) -> dict[str, list[float]]:
    """Samples by cells of a grid, with the centres of the cells."""
    cells = np.floor(np.stack([latitude, longitude], 1) / DEGREES_PER_CELL).astype(np.int64).reshape(-1, 2)
    distinct, cell = np.unique(cells, axis=0, return_inverse=True)
    centre = np.round((distinct + 0.5) * DEGREES_PER_CELL, 2)
    total = np.bincount(cell.ravel(), weights=samples, minlength=len(distinct)).astype(int)
    return {"latitude": centre[:, 0].tolist(), "longitude": centre[:, 1].tolist(), "samples": total.tolist()}


# ---- all of it -----------------------------------------------------------------------------------------------------


def describe(
    source: str | Path,
    *,
    distances: bool = False,
    seed: int = 0,
    max_per_group: int | None = None,
    workers: int = -1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Every statistic of a release, in one pass over it; JSON can hold the result.

    Args:
        distances: Also compare barcodes at each rank (see `barcode_distances`), which takes much longer than the rest.

    Returns:
        `rows`, `splits`, `ranks`, `diversity`, `distances` (empty unless asked for), `taxonomy` (samples of each order
        and family, None where unknown), `geography`, `sizes` and `lengths`.
    """
    if distances:
        _distance_histogram(["A"], 1)  # fails now, not after the pass, without rapidfuzz
    specimens = read_specimens(source, progress=progress)
    families = len(specimens.values["family"]) + 1
    pair = (specimens.codes["order"].astype(np.int64) + 1) * families + specimens.codes["family"] + 1
    orders_of, counts = np.unique(pair, return_counts=True)
    order_names, family_names = ([None, *specimens.values[rank]] for rank in ("order", "family"))
    compared = [
        barcode_distances(specimens, rank, seed, max_per_group, workers=workers, progress=progress)
        for rank in (RANKS if distances else ())
    ]
    return {
        "source": str(source),
        "rows": specimens.rows,
        "splits": split_statistics(specimens),
        "ranks": rank_statistics(specimens),
        "diversity": [diversity(specimens, rank) for rank in LABEL_COLUMNS],
        "distances": compared,
        "taxonomy": [
            {"order": order_names[pair // families], "family": family_names[pair % families], "samples": count}
            for pair, count in zip(orders_of.tolist(), counts.tolist(), strict=True)
        ],
        "geography": geography(specimens),
        "sizes": sizes(specimens),
        "lengths": lengths(specimens),
    }
