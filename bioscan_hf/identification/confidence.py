"""Names for barcodes or photos with calibrated confidences: the name of the nearest reference, rank by rank.

Shape letters: Q = queries, N = keys, S = sampled keys, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import IsotonicRegression

from ..search.exact import Neighbours, TopK, similarity_blocks
from ..search.index import UNKNOWN, RetrievalIndex, search
from ..search.vectors import Ids, check_query, unit_vectors

#: Fewest sampled keys with a name at a rank for a calibration of that rank.
FEWEST = 20


@dataclass(frozen=True)
class Calibration:
    """Similarity to the nearest key -> probability that its name is right.

    Attributes:
        similarities: Rank -> ascending similarities.
        confidences: Rank -> the probability at each of them; linear between them, constant beyond.
        sampled: Rank -> numbers of sampled keys: with their species among the keys, and without it.
        novel_share: Expected share of queries whose species is missing from the keys.
    """

    similarities: dict[str, NDArray[np.float64]]
    confidences: dict[str, NDArray[np.float64]]
    sampled: dict[str, tuple[int, int]]
    novel_share: float

    def of(self, rank: str, similarities: ArrayLike) -> NDArray[np.float64]:
        """Confidences (Q,) of names at a rank, from similarities (Q,)."""
        return np.interp(np.asarray(similarities, np.float64), self.similarities[rank], self.confidences[rank])


@dataclass(frozen=True)
class Identification:
    """Names of queries.

    Attributes:
        names: Rank -> names (Q,), None where the nearest key has none or the query has no embedding.
        confidences: Rank -> probability that the name is right (Q,); 0 where there is no name.
        nearest: Row of the nearest key (Q,), -1 for a query without an embedding.
        similarities: Cosine to it (Q,), NaN for a query without an embedding.
    """

    names: dict[str, list[str | None]]
    confidences: dict[str, NDArray[np.float64]]
    nearest: Ids
    similarities: NDArray[np.float64]

    def deepest(self, least: float) -> list[tuple[str, str, float] | None]:
        """(rank, name, confidence) of the deepest name with at least this confidence, or None, for each query.

        Every name above it is at least as certain.
        """
        answers: list[tuple[str, str, float] | None] = [None] * len(self.nearest)
        for rank, names in self.names.items():
            for row, name in enumerate(names):
                if name is not None and self.confidences[rank][row] >= least:
                    answers[row] = (rank, name, float(self.confidences[rank][row]))
        return answers


def calibrate(
    index: RetrievalIndex,
    ranks: Sequence[str] | None = None,
    *,
    novel_share: float = 0.5,
    sample: int = 5000,
    seed: int = 0,
) -> Calibration:
    """Learns from the keys how reliable the name of the nearest key is, at each rank.

    Sampled keys are searched as if they were queries: among the other keys (their species is in the references), and
    among the keys of other species (it is not). From both, mixed by `novel_share`, isotonic regression (Zadrozny &
    Elkan 2002, https://doi.org/10.1145/775047.775151) maps a similarity to the probability that the name is right.

    Args:
        index: Its labels must include "species". Keys without a species name are searched but not sampled.
        ranks: Highest first; those of the index by default.
        novel_share: Expected share of queries, in [0, 1], whose species is missing from the keys.
        sample: Number of sampled keys. Each is compared with every key.
        seed: Of the sample.

    Raises:
        ValueError: without labels of species, for a rank that the index does not have, a share outside [0, 1], and
            fewer than 20 keys with a species name.
    """
    if "species" not in index.codes:
        raise ValueError(f"The index has labels of {', '.join(index.codes)}, but calibration needs 'species'.")
    if not 0 <= novel_share <= 1:
        raise ValueError(f"novel_share is {novel_share}; give a share from 0 to 1.")
    ranks = list(index.codes) if ranks is None else list(ranks)
    if strange := [rank for rank in ranks if rank not in index.codes]:
        raise ValueError(f"The index has no labels of {strange[0]!r}. It has {', '.join(index.codes)}.")
    species = index.codes["species"]
    named = np.flatnonzero(species != UNKNOWN)
    if len(named) < FEWEST:
        raise ValueError(f"Only {len(named)} keys have a species name; a calibration needs at least {FEWEST}.")
    asked = np.sort(np.random.default_rng(seed).choice(named, min(sample, len(named)), replace=False))
    several = np.bincount(species[named])[species[asked]] > 1  # otherwise its species is not among the other keys
    inside, outside = _nearest_others(index, asked)
    similarities, confidences, sampled = {}, {}, {}
    for rank in ranks:
        codes, parts = index.codes[rank], []
        for found, keep, share in ((inside, several, 1 - novel_share), (outside, asked >= 0, novel_share)):
            nearest, similarity = found.rows[:, 0], found.similarities[:, 0]
            keep = keep & (codes[asked] != UNKNOWN) & (codes[nearest] != UNKNOWN) & (nearest >= 0)
            right = codes[nearest[keep]] == codes[asked[keep]]
            parts.append((similarity[keep], right, np.full(keep.sum(), share / max(1, keep.sum()))))
        sampled[rank] = (len(parts[0][0]), len(parts[1][0]))
        parts = [part for part in parts if part[2].any()]  # a share of 0 has no weight
        if sum(len(part[0]) for part in parts) >= FEWEST:
            learned = (np.concatenate(part) for part in zip(*parts, strict=True))
            similarities[rank], confidences[rank] = _isotonic(*learned)
    return Calibration(similarities, confidences, sampled, novel_share)


def identify(
    queries: ArrayLike,
    index: RetrievalIndex,
    calibration: Calibration,
    *,
    valid: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
) -> Identification:
    """Names queries at every rank of the calibration, with confidences.

    Args:
        queries: Embeddings (Q, D) from the encoder of the keys.
        calibration: Of that index, with the highest rank first.
        valid: False (Q,) for queries without an embedding, such as sequences shorter than a token: they get no name.
        ids: Names of the queries, for errors.

    Raises:
        ValueError: for NaN, infinite or zero queries (they are named), and queries of other dimensions than the keys.
    """
    x = np.asarray(queries, np.float32)
    present = np.ones(len(x), np.bool_) if valid is None else np.asarray(valid, np.bool_)
    nearest, similarities = np.full(len(x), -1), np.full(len(x), np.nan)
    if present.any():
        names = None if ids is None else [name for name, use in zip(ids, present, strict=True) if use]
        unit = unit_vectors(x[present], "queries", names)
        check_query(unit.shape[1], index.dim)
        found = search(index, unit, 1)
        first = np.unique(index.group, return_index=True)[1]  # the first key of each distinct vector
        nearest[present], similarities[present] = first[found.rows[:, 0]], found.similarities[:, 0]
    taxa: dict[str, list[str | None]] = {}
    certain: dict[str, NDArray[np.float64]] = {}
    above = np.ones(len(x))
    for rank in calibration.similarities:
        codes = np.where(nearest >= 0, index.codes[rank][nearest], UNKNOWN)
        taxa[rank] = [None if code == UNKNOWN else index.classes[rank][code] for code in codes]
        own = np.where(nearest >= 0, calibration.of(rank, np.nan_to_num(similarities)), 0.0)
        above = np.minimum(above, own)  # a name is never more certain than the one above it
        certain[rank] = np.where(codes == UNKNOWN, 0.0, above)
    return Identification(taxa, certain, nearest, similarities)


def _nearest_others(index: RetrievalIndex, asked: Ids) -> tuple[Neighbours, Neighbours]:
    """Nearest keys (S, 1) of sampled keys: among all other keys, and among the keys of other, named species."""
    vectors, species = index.vectors.numpy(), torch.from_numpy(index.codes["species"])
    inside, outside = TopK(len(asked), 1, "cpu"), TopK(len(asked), 1, "cpu")
    keys, own = torch.arange(len(index)), torch.from_numpy(asked)
    blocks = similarity_blocks(vectors[index.group[asked]], vectors, index.group, metric="dot")
    for part, columns, similarity in blocks:
        similarity = similarity.masked_fill(keys[columns] == own[part, None], -torch.inf)
        inside.add(part, similarity, columns.start)
        same = (species[columns] == species[own[part], None]) | (species[columns] == UNKNOWN)
        outside.add(part, similarity.masked_fill_(same, -torch.inf), columns.start)
    return inside.found(), outside.found()


def _isotonic(
    similarity: NDArray[np.float64], right: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Similarities and probabilities of the isotonic regression of `right`.

    One wrong answer at the largest similarity and one right answer at the smallest are added, each with the mean
    weight, so that no name is ever certain, and less so the fewer answers there are (rule of succession).
    """
    one = weight.sum() / np.count_nonzero(weight)
    x = np.concatenate([similarity, [similarity.max(), similarity.min()]]).astype(np.float64)
    y = np.concatenate([right, [False, True]]).astype(np.float64)
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y, np.concatenate([weight, [one, one]]))
    return fitted.X_thresholds_, fitted.y_thresholds_
