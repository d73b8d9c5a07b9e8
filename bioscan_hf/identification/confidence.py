"""Names for barcodes or photos, each with a confidence: that of the nearest reference, calibrated rank by rank.

The name is that of the nearest key. How often such a name is right is learned from the keys themselves, by asking for
keys as if they were queries: once among the other keys of their species (the species is in the references), once
among the keys of other species alone (it is not, as of most species on earth, BIOSCAN-5M's "unseen"). From both, mixed
by the share of queries whose species is expected to be missing, isotonic regression (Zadrozny & Elkan, 2002,
https://doi.org/10.1145/775047.775151) makes of a similarity the probability that the name is right, rank by rank.
Shape letters: Q = queries, N = keys, S = sampled keys, D = embedding size.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import IsotonicRegression

from ..search.index import UNKNOWN, RetrievalIndex, search, unit_vectors

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

#: Similarities that are held at a time, while sampled keys are compared with all keys.
AT_ONCE = 1 << 26

#: Fewest sampled keys, known at a rank, from which a calibration of that rank is made.
FEWEST = 20


@dataclass(frozen=True)
class Calibration:
    """Similarity to the nearest key -> probability that its name is right.

    Attributes:
        similarities: Rank -> ascending similarities.
        confidences: Rank -> the probability at each of them; linear between them, constant beyond.
        sampled: Rank -> keys that it was made of: (with their species among the others, without it).
        novel_share: Share of queries whose species is expected to be missing from the keys.
    """

    similarities: dict[str, NDArray[np.float64]]
    confidences: dict[str, NDArray[np.float64]]
    sampled: dict[str, tuple[int, int]]
    novel_share: float

    def of(self, rank: str, similarities: ArrayLike) -> NDArray[np.float64]:
        """Confidence (Q,) of names of a rank that come from keys so near (Q,)."""
        return np.interp(np.asarray(similarities, np.float64), self.similarities[rank], self.confidences[rank])


@dataclass(frozen=True)
class Identification:
    """Names of queries.

    Attributes:
        names: Rank -> names (Q,), None where the nearest key has none, or the query no embedding.
        confidences: Rank -> probability that the name is right (Q,); 0 where there is no name.
        nearest: Row of the nearest key (Q,), -1 for a query without an embedding.
        similarities: Cosine to it (Q,), NaN likewise.
    """

    names: dict[str, list[str | None]]
    confidences: dict[str, NDArray[np.float64]]
    nearest: Ids
    similarities: NDArray[np.float64]

    def deepest(self, least: float) -> list[tuple[str, str, float] | None]:
        """(rank, name, confidence) of the deepest rank whose name is that sure (Q,), None where no rank is.

        Among ranks with a name `confidences` never grows from one to a deeper one, so every name above is as sure.
        """
        ranks = list(self.names)
        return [
            next(
                (
                    (rank, name, float(self.confidences[rank][row]))
                    for rank in reversed(ranks)
                    if (name := self.names[rank][row]) is not None and self.confidences[rank][row] >= least
                ),
                None,
            )
            for row in range(len(self.nearest))
        ]


def calibrate(
    index: RetrievalIndex,
    ranks: Sequence[str] | None = None,
    *,
    novel_share: float = 0.5,
    sample: int = 5000,
    seed: int = 0,
) -> Calibration:
    """How far a name by the nearest key of this index can be trusted, rank by rank.

    Args:
        index: Its labels need "species"; keys without a species name are searched, but not asked for.
        ranks: Highest first; those of the index if not given.
        novel_share: Share of queries, in [0, 1], whose species is expected to be missing from the keys.
        sample: Keys that are asked for. Each is compared with every key.
        seed: Of the sample.

    Raises:
        ValueError: without labels of species, for a rank that the index lacks, a share outside [0, 1], and if fewer
            than 20 keys can be asked for.
    """
    if "species" not in index.codes:
        raise ValueError(f"The index has labels of {', '.join(index.codes)}, but calibration needs 'species'.")
    if not 0 <= novel_share <= 1:
        raise ValueError(f"novel_share={novel_share} is no share: give a number from 0 to 1.")
    ranks = list(index.codes) if ranks is None else list(ranks)
    strange = [rank for rank in ranks if rank not in index.codes]
    if strange:
        raise ValueError(f"The index has no labels of {strange[0]!r}. It has {', '.join(index.codes)}.")
    species = index.codes["species"]
    named = np.flatnonzero(species != UNKNOWN)
    if len(named) < FEWEST:
        raise ValueError(f"Only {len(named)} keys have a species name; a calibration takes {FEWEST} or more.")
    random = np.random.default_rng(seed)
    asked = np.sort(random.choice(named, min(sample, len(named)), replace=False))
    several = np.bincount(species[named])[species[asked]] > 1  # else its species is not among the others
    inside, outside = _nearest_others(index, asked)
    similarities, confidences, sampled = {}, {}, {}
    for rank in ranks:
        codes, parts = index.codes[rank], []
        for (nearest, similarity), keep, share in (
            (inside, several, 1 - novel_share),
            (outside, np.ones(len(asked), np.bool_), novel_share),
        ):
            keep = keep & (codes[asked] != UNKNOWN) & (codes[nearest] != UNKNOWN) & np.isfinite(similarity)
            right = codes[nearest[keep]] == codes[asked[keep]]
            parts.append((similarity[keep], right, np.full(keep.sum(), share / max(1, keep.sum()))))
        sampled[rank] = (len(parts[0][0]), len(parts[1][0]))
        parts = [part for part in parts if part[2].any()]  # a share of 0 asks for nothing
        if sum(len(part[0]) for part in parts) >= FEWEST:
            similarities[rank], confidences[rank] = _isotonic(
                *(np.concatenate(part) for part in zip(*parts, strict=True))
            )
    return Calibration(similarities, confidences, sampled, novel_share)


def identify(
    queries: ArrayLike,
    index: RetrievalIndex,
    calibration: Calibration,
    *,
    valid: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
) -> Identification:
    """Names of queries at every rank of the calibration, with confidences.

    Args:
        queries: Embeddings (Q, D) by the encoder that made the keys.
        index: The keys.
        calibration: Of that index; ranks from the highest on.
        valid: False (Q,) for queries without an embedding, such as a read shorter than a token: they get no name.
        ids: Names of the queries, for errors.

    Raises:
        ValueError: for NaN or infinite queries (named), or those of another width than the keys.
    """
    x = np.asarray(queries, np.float32)
    there = np.ones(len(x), np.bool_) if valid is None else np.asarray(valid, np.bool_)
    nearest, similarities = np.full(len(x), -1), np.full(len(x), np.nan)
    if there.any():
        names = None if ids is None else [name for name, use in zip(ids, there, strict=True) if use]
        unit = unit_vectors(x[there], "queries", names)
        if unit.shape[1] != index.vectors.shape[1]:
            raise ValueError(
                f"The queries have {unit.shape[1]} numbers each and the keys {index.vectors.shape[1]}: embed both by "
                f"one model."
            )
        found, rows = search(index, unit, 1)
        order = np.argsort(index.group, kind="stable")  # the first key of each distinct vector
        first = order[np.searchsorted(index.group[order], rows[:, 0])]
        nearest[there], similarities[there] = first, found[:, 0]
    taxa: dict[str, list[str | None]] = {}
    sure: dict[str, NDArray[np.float64]] = {}
    above = np.ones(len(x))
    for rank in calibration.similarities:
        codes = np.where(nearest >= 0, index.codes[rank][nearest], UNKNOWN)
        taxa[rank] = [None if code == UNKNOWN else index.classes[rank][code] for code in codes]
        own = np.where(nearest >= 0, calibration.of(rank, np.nan_to_num(similarities)), 0.0)
        above = np.minimum(above, own)  # a name is not surer than the one above it
        sure[rank] = np.where(codes == UNKNOWN, 0.0, above)
    return Identification(taxa, sure, nearest, similarities)


def name_rows(
    ids: Sequence[str], found: Identification, key_ids: Sequence[str], least: float
) -> list[dict[str, str | float | None]]:
    """A row for each query: id, its deepest name that is sure enough, then every rank's name and confidence.

    Args:
        ids: Of the queries (Q,).
        key_ids: Of the keys (N,).
        least: Confidence that the deepest name needs.
    """
    rows = []
    for row, (query, deepest) in enumerate(zip(ids, found.deepest(least), strict=True)):
        rank, name, confidence = deepest or (None, None, None)
        there = found.nearest[row] >= 0
        out: dict[str, str | float | None] = {"id": query, "rank": rank, "name": name, "confidence": confidence}
        out["nearest"] = key_ids[found.nearest[row]] if there else None
        out["similarity"] = float(found.similarities[row]) if there else None
        for level, names in found.names.items():
            out[level] = names[row]
            out[f"{level}_confidence"] = float(found.confidences[level][row]) if names[row] is not None else None
        rows.append(out)
    return rows


def write_names(path: Path, rows: Sequence[dict[str, str | float | None]]) -> None:
    """Writes such rows as CSV, numbers with four decimals; the file appears when it is complete.

    Raises:
        ValueError: if there are none.
    """
    if not rows:
        raise ValueError("There are no sequences, and so no names to write.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{x:.4f}" if isinstance(x, float) else x for key, x in row.items()})
    os.replace(part, path)


def _nearest_others(index: RetrievalIndex, asked: Ids) -> tuple[tuple[Ids, Floats], tuple[Ids, Floats]]:
    """Nearest key, and its similarity, of keys S: but for themselves; and of other species (unnamed ones left out)."""
    vectors, group = index.vectors, torch.from_numpy(index.group)
    species = torch.from_numpy(index.codes["species"])
    keys = (
        vectors if len(vectors) == len(group) and bool((group == torch.arange(len(group))).all()) else vectors[group]
    )
    inside, outside = [], []
    step = max(1, AT_ONCE // len(keys))
    for start in range(0, len(asked), step):
        rows = torch.from_numpy(asked[start : start + step])
        similarity = keys[rows] @ keys.T  # (B, N)
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        inside.append(similarity.max(1))
        other = (species[None] == species[rows, None]) | (species == UNKNOWN)[None]
        outside.append(similarity.masked_fill_(other, -torch.inf).max(1))
    return _stacked(inside), _stacked(outside)


def _stacked(parts: list[Any]) -> tuple[Ids, Floats]:
    return (
        torch.cat([part.indices for part in parts]).numpy(),
        torch.cat([part.values for part in parts]).numpy(),
    )


def _isotonic(
    similarity: NDArray[np.float64], right: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rising step function that is nearest to `right`.

    One wrong answer at the largest similarity and one right one at the smallest are added, each with the mean weight:
    nothing is ever certain, the less so the fewer answers there are (rule of succession).
    """
    one = weight.sum() / np.count_nonzero(weight)
    x = np.concatenate([similarity, [similarity.max(), similarity.min()]]).astype(np.float64)
    y = np.concatenate([right, [False, True]]).astype(np.float64)
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y, np.concatenate([weight, [one, one]]))
    return fitted.X_thresholds_, fitted.y_thresholds_
