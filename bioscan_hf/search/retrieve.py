"""The k nearest keys of a query and their taxa, under a tie rule.

Many specimens share a barcode, so keys are often equally near. The tie rule says which of them come first:

- "vote", the default: keys whose similarities lie within 1e-6 of the nearest of them tie. The taxon that most of them
  have comes first; of equally frequent taxa, the first in the alphabet; keys without a name come last. The result does
  not depend on the order of the keys.
- "parity" is the published rule of CLIBD (https://arxiv.org/abs/2405.17537), that of its search library: k keys are
  kept, and a key replaces the first of the farthest of them only if it is strictly nearer; of equal keys, the last
  comes first. The result depends on the order of the keys and on k.

Shape letters: N = keys, U = distinct key vectors, Q = queries, b = queries of a block, K = neighbours, W = candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .index import UNKNOWN, RetrievalIndex, search
from .vectors import Floats, Ids, slices, unit_vectors

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


@dataclass(frozen=True)
class _Members:
    """Keys sorted by group (N,), in row order within a group, and the start of each group (U + 1,)."""

    order: Ids
    starts: Ids


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
        ties: "vote" or "parity", see the module.
        ids: Names of the queries, for errors.
        device: Where the products of an exact index are computed.

    Raises:
        ValueError: for an unknown tie rule, fewer keys than `k`, and queries that are NaN, infinite, zero (their rows
            are named) or of other dimensions than the keys.
    """
    if ties not in TIES:
        raise ValueError(f"Unknown tie rule {ties!r}. Choose {' or '.join(map(repr, TIES))}.")
    if not 1 <= k <= len(index):
        raise ValueError(f"k={k} neighbours of {len(index)} keys: k must lie between 1 and their number.")
    x = unit_vectors(queries, "queries", ids)
    if x.shape[1] != index.dim:
        raise ValueError(
            f"The queries have {x.shape[1]} dimensions and the keys {index.dim}: both must come from the same encoder."
        )
    members = _members(index)
    first_rows = _first_rows(index, members, k)
    tables = {rank: _labels_of_groups(index, rank, k) for rank in index.codes} if ties == "vote" else {}
    predictions = {rank: np.full((len(x), k), UNKNOWN, np.int64) for rank in index.codes}
    neighbours, similarities = np.full((len(x), k), UNKNOWN, np.int64), np.full((len(x), k), -np.inf, np.float32)
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
                predictions[rank][rows] = _by_vote(sims, groups, tables[rank], codes, members)
    return Retrieval(predictions, neighbours, similarities)


def _candidates(
    index: RetrievalIndex, x: Floats, k: int, tolerance: float, device: str | torch.device
) -> Iterator[tuple[Ids, Floats, Ids]]:
    """Rows of queries (b,), similarities and groups (b, W) of their candidates.

    The candidates of a query include all groups that tie with its k-th nearest.

    The search is repeated with a larger W for queries whose last candidate still ties. An approximate index is
    searched once.
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


def _by_vote(sims: Floats, groups: Ids, table: NDArray[np.int32], codes: Ids, members: _Members) -> Ids:
    """Codes of the first `k` keys (b, k) under "vote"."""
    k = table.shape[1]
    found, _ = _first_entries(table, groups, k)
    near = min(k, sims.shape[1] - 1)
    tied = (sims[:, 1 : near + 1] >= sims[:, :near] - TOLERANCE) & (groups[:, 1 : near + 1] >= 0)
    for row in np.flatnonzero(tied.any(axis=1)):
        found[row] = _vote_of_row(sims[row], groups[row], codes, members, k)
    return found


def _vote_of_row(sims: Floats, groups: Ids, codes: Ids, members: _Members, k: int) -> Ids:
    """Codes of the first `k` keys (k,) of one query with ties."""
    order, starts = members.order, members.starts
    found, start = np.empty(0, np.int64), 0
    known = int((groups >= 0).sum())
    while len(found) < k and start < known:
        stop = start + int((sims[start:known] >= sims[start] - TOLERANCE).sum())
        tied = np.concatenate([codes[order[starts[group] : starts[group + 1]]] for group in groups[start:stop]])
        labels, votes = np.unique(tied, return_counts=True)
        ranking = np.lexsort((labels, -votes * (labels != UNKNOWN)))
        found = np.concatenate([found, np.repeat(labels[ranking], votes[ranking])])
        start = stop
    return np.concatenate([found[:k], np.full(max(0, k - len(found)), UNKNOWN)])


def _apply_parity(found: Ids, sims: Floats, groups: Ids, first_rows: Ids) -> None:
    """Sorts the rows of the keys (b, k) as published, in place."""
    k = found.shape[1]
    near = min(k, sims.shape[1] - 1)
    tied = ((sims[:, 1 : near + 1] == sims[:, :near]) & (groups[:, 1 : near + 1] >= 0)).any(axis=1)
    shared = first_rows[groups[:, :k].clip(0), min(1, k - 1)] != PAD
    for row in np.flatnonzero(tied | (shared.any(axis=1) & (k > 1))):
        items = [
            (float(value), int(key))
            for value, group in zip(sims[row], groups[row], strict=True)
            if group >= 0
            for key in first_rows[group]
            if key != PAD
        ]
        last = sorted((value for value, _ in items), reverse=True)[min(k, len(items)) - 1]
        kept: list[tuple[float, int]] = []
        for item in sorted((item for item in items if item[0] >= last), key=lambda item: item[1]):
            if len(kept) == k:
                if item[0] <= min(kept)[0]:
                    continue
                kept.remove(min(kept))
            kept.append(item)
        keys = [key for _, key in sorted(kept, reverse=True)]
        found[row] = keys + [UNKNOWN] * (k - len(keys))


def _first_entries(table: NDArray[Any], groups: Ids, k: int) -> tuple[Ids, Ids]:
    """First `k` entries (b, k) of the groups in `table` (U, k).

    Also returns the column of the group of each entry. Both are -1 at the end.
    """
    near = groups[:, :k]
    entries = np.where((near >= 0)[:, :, None], table[near.clip(0)], PAD).reshape(len(near), -1)
    order = np.argsort(entries == PAD, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(entries, order, 1).astype(np.int64)
    return np.where(found == PAD, UNKNOWN, found), np.where(found == PAD, -1, order // k)


def _members(index: RetrievalIndex) -> _Members:
    sizes = np.bincount(index.group, minlength=len(index.vectors))
    return _Members(np.argsort(index.group, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]))


def _first_rows(index: RetrievalIndex, members: _Members, k: int) -> Ids:
    """First `k` keys of each group (U, k), then PAD."""
    groups = index.group[members.order]
    position = np.arange(len(groups)) - members.starts[groups]
    table = np.full((len(index.vectors), k), PAD, np.int64)
    table[groups[position < k], position[position < k]] = members.order[position < k]
    return table


def _labels_of_groups(index: RetrievalIndex, rank: str, k: int) -> NDArray[np.int32]:
    """Labels of the first `k` keys of each group under "vote" (U, k).

    They are -1 for keys without a name, and PAD after the last key.
    """
    codes, last = index.codes[rank], len(index.classes[rank])  # `last` stands for unknown here
    pairs, counts = np.unique(index.group * (last + 1) + np.where(codes == UNKNOWN, last, codes), return_counts=True)
    groups, labels = pairs // (last + 1), pairs % (last + 1)
    order = np.lexsort((labels, -counts * (labels != last), groups))
    order = np.repeat(order, np.minimum(counts, k)[order])
    groups, labels = groups[order], labels[order]
    starts = np.searchsorted(groups, np.arange(len(index.vectors)))
    position = np.arange(len(groups)) - starts[groups]
    table = np.full((len(index.vectors), k), PAD, np.int32)
    table[groups[position < k], position[position < k]] = np.where(labels == last, UNKNOWN, labels)[position < k]
    return table
