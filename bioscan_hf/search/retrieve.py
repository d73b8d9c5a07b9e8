"""The k nearest keys of a query and their taxa, under a tie rule.

Many specimens share a barcode, so keys are often equally near. The tie rule says which of them come first.
Shape letters: N = keys, U = distinct key vectors, Q = queries, b = queries of a block, K = neighbours, W = candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .index import UNKNOWN, RetrievalIndex, search
from .vectors import Floats, Ids, check_query, first_of_groups, slices, unit_vectors

TIES = ("vote", "parity")

#: Cosines that differ by no more count as equal under "vote": float32 does not tell them apart.
TOLERANCE = 1e-6

#: Fills lists of labels or rows that are shorter than k.
PAD = -2

QUERIES_AT_ONCE = 16_384
CANDIDATES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Retrieval:
    """The nearest keys of Q queries and their taxa.

    Attributes:
        predictions: Rank -> codes of the taxa of the first K keys (Q, K), in the order of the tie rule; -1 where a key
            has no name. The names are `index.classes[rank]`.
        neighbours: Rows of the keys (Q, K), nearest first; under "vote", equally near keys are in row order. -1 where
            an approximate index found no more.
        similarities: Cosines of `neighbours` (Q, K).
    """

    predictions: dict[str, Ids]
    neighbours: Ids
    similarities: Floats


def retrieve(
    index: RetrievalIndex,
    queries: ArrayLike,
    *,
    k: int = 5,
    ties: str = "vote",
    ids: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> Retrieval:
    """Finds the `k` nearest keys of each query and their taxa.

    Args:
        queries: (Q, D).
        ties: Under "vote", keys within 1e-6 of the nearest of them tie. The taxon that most of them have comes first;
            of equally frequent taxa, the first in the alphabet; keys without a name come last. "parity" is the rule of
            CLIBD's search library (https://arxiv.org/abs/2405.17537): k keys are kept, and a key replaces the first of
            the farthest only if it is strictly nearer; of equal keys, the last comes first. The result of "parity"
            depends on the order of the keys and on k.
        ids: Names of the queries, for errors.
        device: Where the products of an exact index are computed.

    Raises:
        ValueError: for an unknown tie rule, fewer keys than `k`, and queries that are NaN, infinite, zero (their rows
            are named) or of other dimensions than the keys.
    """
    if ties not in TIES:
        raise ValueError(f"ties is {ties!r}; give {' or '.join(map(repr, TIES))}.")
    x = unit_vectors(queries, "queries", ids)
    check_query(x.shape[1], index.dim, k, len(index))
    order = np.argsort(index.group, kind="stable")  # keys by group
    sorted_groups = index.group[order]
    first_rows = first_of_groups(sorted_groups, order, len(index.vectors), k, PAD)
    starts = np.searchsorted(sorted_groups, np.arange(len(index.vectors) + 1))
    tables = {rank: _labels_of_groups(index, rank, k) for rank in index.codes} if ties == "vote" else {}
    predictions = {rank: np.full((len(x), k), UNKNOWN, np.int64) for rank in index.codes}
    neighbours, similarities = np.full((len(x), k), -1), np.full((len(x), k), -np.inf, np.float32)
    for rows, sims, groups in _candidates(index, x, k, TOLERANCE if ties == "vote" else 0.0, device):
        found, places = _first_entries(first_rows, groups, k)
        similarities[rows] = np.where(places >= 0, np.take_along_axis(sims, places.clip(0), 1), -np.inf)
        if ties == "parity":
            _apply_parity(found, sims, groups, first_rows)
        neighbours[rows] = found
        for rank, codes in index.codes.items():
            if ties == "parity":
                predictions[rank][rows] = np.where(found >= 0, codes[found.clip(0)], UNKNOWN)
            else:
                predictions[rank][rows] = _by_vote(sims, groups, tables[rank], codes, order, starts)
    return Retrieval(predictions, neighbours, similarities)


def _candidates(
    index: RetrievalIndex, x: Floats, k: int, tolerance: float, device: str | torch.device
) -> Iterator[tuple[Ids, Floats, Ids]]:
    """Rows of queries (b,), similarities and groups (b, W) of their candidates.

    The candidates of a query include all groups that tie with its k-th nearest: W grows while the last one ties. An
    approximate index is searched once.
    """
    distinct = len(index.vectors)
    for chunk in slices(len(x), QUERIES_AT_ONCE):
        pending, width = np.arange(chunk.start, chunk.stop), min(k + 3, distinct)
        while len(pending):
            rest = []
            for part in slices(len(pending), max(1, CANDIDATES_AT_ONCE // width)):
                rows = pending[part]
                groups, sims = search(index, x[rows], width, device)
                done = np.full(len(rows), True)
                if width < distinct and index.approximate is None:
                    done = sims[:, -1] < sims[:, min(k, width) - 1] - tolerance
                if done.any():
                    yield rows[done], sims[done], groups[done]
                rest.append(rows[~done])
            pending, width = np.concatenate(rest), min(4 * width, distinct)


def _by_vote(sims: Floats, groups: Ids, table: NDArray[np.int32], codes: Ids, order: Ids, starts: Ids) -> Ids:
    """Codes of the first `k` keys (b, k) under "vote". The keys of group g are `order[starts[g] : starts[g + 1]]`."""
    k = table.shape[1]
    found, _ = _first_entries(table, groups, k)
    near = min(k, sims.shape[1] - 1)
    tied = (sims[:, 1 : near + 1] >= sims[:, :near] - TOLERANCE) & (groups[:, 1 : near + 1] >= 0)
    for row in np.flatnonzero(tied.any(axis=1)):
        votes_of_row, start, known = np.empty(0, np.int64), 0, int((groups[row] >= 0).sum())
        while len(votes_of_row) < k and start < known:
            stop = start + int((sims[row, start:known] >= sims[row, start] - TOLERANCE).sum())
            keys = [order[starts[group] : starts[group + 1]] for group in groups[row, start:stop]]
            labels, votes = np.unique(codes[np.concatenate(keys)], return_counts=True)
            ranking = np.lexsort((labels, -votes * (labels != UNKNOWN)))
            votes_of_row = np.append(votes_of_row, np.repeat(labels[ranking], votes[ranking]))
            start = stop
        found[row] = np.append(votes_of_row, np.full(k, UNKNOWN))[:k]
    return found


def _apply_parity(found: Ids, sims: Floats, groups: Ids, first_rows: Ids) -> None:
    """Sorts the rows of the keys (b, k) as published, in place."""
    k = found.shape[1]
    near = min(k, sims.shape[1] - 1)
    tied = ((sims[:, 1 : near + 1] == sims[:, :near]) & (groups[:, 1 : near + 1] >= 0)).any(axis=1)
    shared = first_rows[groups[:, :k].clip(0), min(1, k - 1)] != PAD
    for row in np.flatnonzero(tied | (shared.any(axis=1) & (k > 1))):
        keys = first_rows[groups[row][groups[row] >= 0]]  # (candidates, k)
        values = np.repeat(sims[row, : len(keys), None], k, axis=1)[keys != PAD]
        items = sorted(zip(values.tolist(), keys[keys != PAD].tolist(), strict=True), key=lambda item: item[1])
        kept = items[:k]
        heapify(kept)
        for item in items[k:]:
            if item[0] > kept[0][0]:
                heapreplace(kept, item)
        kept.sort(reverse=True)
        found[row] = [key for _, key in kept] + [UNKNOWN] * (k - len(kept))


def _first_entries(table: NDArray[Any], groups: Ids, k: int) -> tuple[Ids, Ids]:
    """First `k` entries (b, k) of the groups in `table` (U, k), and the column of the group of each; -1 at the end."""
    near = groups[:, :k]
    entries = np.where((near >= 0)[:, :, None], table[near.clip(0)], PAD).reshape(len(near), -1)
    order = np.argsort(entries == PAD, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(entries, order, 1).astype(np.int64)
    return np.where(found == PAD, UNKNOWN, found), np.where(found == PAD, -1, order // k)


def _labels_of_groups(index: RetrievalIndex, rank: str, k: int) -> NDArray[np.int32]:
    """Labels of the first `k` keys of each group under "vote" (U, k): -1 without a name, PAD after the last key."""
    codes, last = index.codes[rank], len(index.classes[rank])  # `last` stands for unknown here
    pairs, counts = np.unique(index.group * (last + 1) + np.where(codes == UNKNOWN, last, codes), return_counts=True)
    groups, labels = pairs // (last + 1), pairs % (last + 1)
    order = np.lexsort((labels, -counts * (labels != last), groups))
    order = np.repeat(order, np.minimum(counts, k)[order])
    values = np.where(labels == last, UNKNOWN, labels)[order].astype(np.int32)
    return first_of_groups(groups[order], values, len(index.vectors), k, PAD)
