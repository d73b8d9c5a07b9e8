"""Retrieval: the taxon of a query is that of the nearest keys. Accuracies of every modality against every other.

Protocol: CLIBD (https://arxiv.org/abs/2405.17537), Task III of BIOSCAN-5M (https://arxiv.org/abs/2406.12723). Queries
of seen and of unseen species are compared with all keys, those of seen and of unseen species together. A query is
right at k if one of the first k keys has its taxon; each rank counts for itself.

Keys may be equally near, as many specimens share a barcode. `ties` says which come first. "vote", the default: keys
whose similarities lie within 1e-6 of the nearest of them tie, and those of the taxon that most of them have come
first; of equally many, the first name in the alphabet; those without a name last. The order of the keys does not
matter. "parity" is the published rule, an accident of the search library: k keys are kept, a key replaces the first of
the farthest of them only if it is strictly nearer, and of equals the last key comes first. The order of the keys and
the largest k matter.
Shape letters: N = keys, U = distinct key vectors, Q = queries, D = embedding size, K = neighbours, W = candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..metrics import top_k_accuracy
from ..search.index import UNKNOWN, Floats, Ids, RetrievalIndex, build_index, search, slices, unit_vectors

TIES = ("vote", "parity")

#: Cosines that differ by no more are taken for equal under "vote": float32 does not tell them apart.
TOLERANCE = 1e-6

#: Marks the end of a list of labels or rows that is shorter than k.
PAD = -2

QUERIES_AT_ONCE = 16_384
CANDIDATES_AT_ONCE = 1 << 24

#: {"micro" or "macro": {k: {rank: accuracy in [0, 1], None where no query has a name}}}
Accuracies = dict[str, dict[int, dict[str, float | None]]]


@dataclass(frozen=True)
class Retrieval:
    """What was found for Q queries.

    Attributes:
        predictions: Rank -> codes of the taxa of the first K keys (Q, K), in the order of the tie rule; -1 where a key
            has no name. Names are `index.classes[rank]`.
        neighbours: Rows of the keys (Q, K), nearest first; under "vote", equally near ones in their order. -1 where an
            approximate index found no more.
        similarities: Cosines of `neighbours` (Q, K).
    """

    predictions: dict[str, Ids]
    neighbours: Ids
    similarities: Floats


def retrieval_accuracy(
    key_embeddings: ArrayLike,
    key_labels: Mapping[str, Sequence[str | None]],
    query_embeddings: ArrayLike,
    query_labels: Mapping[str, Sequence[str | None]],
    *,
    top_k: Sequence[int] = (1, 3, 5),
    ties: str = "vote",
    device: str | torch.device = "cpu",
) -> Accuracies:
    """Micro and macro accuracy of the nearest keys, by exact search of the cosine.

    Micro counts queries. Macro is the mean over the taxa that occur among the queries. A query without a name at a
    rank does not count there; one whose taxon no key has is wrong.

    Args:
        key_embeddings: (N, D).
        key_labels: Rank -> names (N,), None where unknown.
        query_embeddings: (Q, D).
        query_labels: Rank -> names (Q,); its ranks are the ones that are measured.
        top_k: Numbers of keys among which one must be right, in any order.
        ties: "vote" or "parity", as the module says. Under "parity" the largest k decides which of equal keys count.
        device: Where the products are taken.

    Returns:
        {"micro": {k: {rank: x}}, "macro": {k: {rank: x}}}, x in [0, 1], None where no query has a name.

    Raises:
        ValueError: for an unknown tie rule, a rank that the keys lack, fewer keys than k, sizes that do not fit, and
            embeddings that are NaN, infinite or zero (their rows are named).

    Example:
        >>> keys, queries = [[1, 0], [0, 1]], [[2, 1], [1, 3]]
        >>> retrieval_accuracy(keys, {"order": ["A", "B"]}, queries, {"order": ["A", "A"]}, top_k=[1])
        {'micro': {1: {'order': 0.5}}, 'macro': {1: {'order': 0.5}}}
    """
    ks = check_top_k(top_k)
    check_ranks(query_labels, key_labels)
    index = build_index(key_embeddings, {rank: key_labels[rank] for rank in query_labels})
    found = retrieve(index, query_embeddings, k=ks[-1], ties=ties, device=device)
    return accuracies(index, found, query_labels, ks)


def retrieve(
    index: RetrievalIndex,
    queries: ArrayLike,
    *,
    k: int = 5,
    ties: str = "vote",
    ids: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> Retrieval:
    """The `k` nearest keys of each query and their taxa.

    Args:
        queries: (Q, D).
        ids: Names of the queries, for error messages.
        device: Where the products of an exact index are taken.

    Raises:
        ValueError: as `retrieval_accuracy`.
    """
    if ties not in TIES:
        raise ValueError(f"Unknown tie rule {ties!r}. There are {' and '.join(map(repr, TIES))}.")
    if not 1 <= k <= len(index):
        raise ValueError(f"k={k} neighbours of {len(index)} keys: k must lie between 1 and their number.")
    x = unit_vectors(queries, "queries", ids)
    if x.shape[1] != index.vectors.shape[1]:
        raise ValueError(
            f"The queries have {x.shape[1]} dimensions and the keys {index.vectors.shape[1]}: both must come from the "
            f"same space."
        )
    tables = {rank: _labels_of_groups(index, rank, k) for rank in index.codes} if ties == "vote" else {}
    members = _members(index)
    first_rows = _first_rows(index, members, k)
    predictions = {rank: np.full((len(x), k), UNKNOWN, np.int64) for rank in index.codes}
    neighbours, similarities = np.full((len(x), k), UNKNOWN, np.int64), np.full((len(x), k), -np.inf, np.float32)
    for rows, sims, groups in _candidates(index, x, k, TOLERANCE if ties == "vote" else 0.0, device):
        places = _expand(np.arange(groups.shape[1])[None].repeat(len(groups), 0), first_rows, groups, k)
        if ties == "parity":
            found = _by_parity(sims, groups, first_rows, k)
        else:
            found = _expand(None, first_rows, groups, k)
        neighbours[rows] = found
        group_of = np.where(places >= 0, np.take_along_axis(groups, places.clip(0), 1), -1)
        similarities[rows] = np.where(group_of >= 0, np.take_along_axis(sims, places.clip(0), 1), -np.inf)
        for rank, codes in index.codes.items():
            if ties == "parity":
                predictions[rank][rows] = np.where(found >= 0, codes[found.clip(0)], UNKNOWN)
            else:
                predictions[rank][rows] = _by_vote(sims, groups, tables[rank], codes, members, k)
    return Retrieval(predictions, neighbours, similarities)


def accuracies(
    index: RetrievalIndex, found: Retrieval, query_labels: Mapping[str, Sequence[str | None]], top_k: Sequence[int]
) -> Accuracies:
    """Micro and macro accuracy of what `retrieve` found, as `retrieval_accuracy` returns it."""
    result: Accuracies = {"micro": {k: {} for k in top_k}, "macro": {k: {} for k in top_k}}
    for rank, names in query_labels.items():
        true = query_codes(index, rank, names, len(found.neighbours))
        for k in top_k:
            scores = top_k_accuracy(found.predictions[rank][:, :k], true)
            result["micro"][k][rank] = scores["micro_accuracy"]
            result["macro"][k][rank] = scores["macro_accuracy"]
    return result


def chance_accuracies(
    index: RetrievalIndex, query_labels: Mapping[str, Sequence[str | None]], top_k: Sequence[int]
) -> Accuracies:
    """The same of k different keys drawn at random: what embeddings that know nothing come to, on average.

    Of N keys, n of them right, k draws miss with the probability (N - n)! (N - k)! / ((N - n - k)! N!).
    """
    result: Accuracies = {"micro": {k: {} for k in top_k}, "macro": {k: {} for k in top_k}}
    for rank, names in query_labels.items():
        true = query_codes(index, rank, names, len(names))
        true = true[true != UNKNOWN]
        known = index.codes[rank][index.codes[rank] != UNKNOWN]
        right = np.bincount(known, minlength=max(true, default=0) + 1)[true]
        classes = np.unique(true, return_inverse=True)[1].reshape(-1)
        for k in top_k:
            steps = np.arange(k)
            hit = 1 - (np.clip(len(index) - right[:, None] - steps, 0, None) / (len(index) - steps)).prod(axis=1)
            per_class = np.bincount(classes, weights=hit) / np.bincount(classes) if len(true) else hit
            result["micro"][k][rank] = float(hit.mean()) if len(true) else None
            result["macro"][k][rank] = float(per_class.mean()) if len(true) else None
    return result


def class_accuracies(
    index: RetrievalIndex, found: Retrieval, rank: str, names: Sequence[str | None], k: int = 1
) -> dict[str, float]:
    """Taxon -> share of its queries that are right at `k`, for the taxa of the queries, in alphabetical order."""
    true = query_codes(index, rank, names, len(found.neighbours))
    hits = (found.predictions[rank][:, :k] == true[:, None]).any(axis=1)
    totals: dict[str, list[bool]] = {}
    for name, hit in zip(names, hits.tolist(), strict=True):
        if name is not None:
            totals.setdefault(name, []).append(hit)
    return {name: sum(totals[name]) / len(totals[name]) for name in sorted(totals)}


def prototypes(
    embeddings: ArrayLike, labels: Mapping[str, Sequence[str | None]], rank: str = "species"
) -> tuple[Floats, dict[str, list[str | None]]]:
    """One key for each taxon: the direction of the mean of its unit vectors, and its labels.

    Specimens without a name at `rank` are left out. At the other ranks a prototype has the name that most of its
    specimens have, if any; of equally many, the first in the alphabet.

    Args:
        embeddings: (N, D).
        labels: Rank -> names (N,).

    Returns:
        Unit vectors (taxa, D) in alphabetical order, and rank -> names (taxa,).

    Raises:
        ValueError: for a rank without labels or names, and vectors of a taxon that cancel out.
    """
    check_ranks({rank: ()}, labels)
    index = build_index(embeddings, labels)
    codes, classes = index.codes[rank], index.classes[rank]
    if not classes:
        raise ValueError(f"No key has a name at the rank {rank!r}: there is nothing to make prototypes of.")
    sums = np.zeros((len(classes), index.vectors.shape[1]), np.float64)
    for part in slices(len(codes), QUERIES_AT_ONCE):
        named = part.start + np.flatnonzero(codes[part] != UNKNOWN)
        np.add.at(sums, codes[named], index.vectors.numpy()[index.group[named]])
    found: dict[str, list[str | None]] = {}
    for other, names in index.classes.items():
        votes = np.zeros((len(classes), 2), np.int64) + [UNKNOWN, 0]
        both = (codes != UNKNOWN) & (index.codes[other] != UNKNOWN)
        pairs, counts = np.unique(np.stack([codes[both], index.codes[other][both]]), axis=1, return_counts=True)
        for (taxon, name), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            if count > votes[taxon, 1]:
                votes[taxon] = name, count
        found[other] = [None if code == UNKNOWN else names[code] for code in votes[:, 0]]
    return unit_vectors(sums, "prototypes", classes), found


def query_codes(index: RetrievalIndex, rank: str, names: Sequence[str | None], queries: int) -> Ids:
    """Codes of the names of queries (Q,): those of the keys, -1 for None, and new ones for names that no key has."""
    if len(names) != queries:
        raise ValueError(f"The queries have {len(names)} labels at the rank {rank!r}, and there are {queries}.")
    if rank not in index.codes:
        raise ValueError(f"The keys have no rank {rank!r}. They have {', '.join(index.codes)}.")
    place: dict[str | None, int] = {name: code for code, name in enumerate(index.classes[rank])}
    place[None] = UNKNOWN
    return np.fromiter((place.setdefault(name, len(place) - 1) for name in names), np.int64, len(names))


def check_top_k(top_k: Sequence[int]) -> list[int]:
    """The numbers in ascending order, each once.

    Raises:
        ValueError: for none, and for one below 1.
    """
    ks = sorted(set(top_k))
    if not ks or ks[0] < 1:
        raise ValueError(f"top_k holds numbers of keys, 1 or more; got {list(top_k)}.")
    return ks


def check_ranks(wanted: Mapping[str, Any] | Sequence[str], labels: Mapping[str, Any]) -> None:
    """Raises ValueError for no rank, and for ranks that `labels` lacks."""
    missing = [rank for rank in wanted if rank not in labels]
    if missing or not wanted:
        raise ValueError(f"Unknown rank: {', '.join(missing) or 'none given'}. The keys have {', '.join(labels)}.")


def _candidates(
    index: RetrievalIndex, x: Floats, k: int, tolerance: float, device: str | torch.device
) -> Iterator[tuple[Ids, Floats, Ids]]:
    """Rows of queries (b,), similarities (b, W) and groups (b, W) that hold all keys which tie with the k-th nearest.

    An approximate index gives what it finds, and a little more than `k`.
    """
    distinct = len(index.vectors)
    for chunk in slices(len(x), QUERIES_AT_ONCE):
        pending, width = np.arange(chunk.start, chunk.stop), min(k + 3, distinct)
        while len(pending):
            rest = []
            for part in slices(len(pending), max(1, CANDIDATES_AT_ONCE // width)):
                rows = pending[part]
                sims, groups = search(index, x[rows], width, device)
                order = np.lexsort((groups, -sims), axis=1)  # equal ones in one order, whatever the search does
                sims, groups = np.take_along_axis(sims, order, 1), np.take_along_axis(groups, order, 1)
                done = np.full(len(rows), True)
                if width < distinct and index.approximate is None:
                    done = sims[:, -1] < sims[:, min(k, width) - 1] - tolerance
                if done.any():
                    yield rows[done], sims[done], groups[done]
                rest.append(rows[~done])
            pending, width = np.concatenate(rest), min(4 * width, distinct)


def _by_vote(sims: Floats, groups: Ids, table: NDArray[np.int32], codes: Ids, members: tuple[Ids, Ids], k: int) -> Ids:
    found = _expand(None, table, groups, k)
    near = min(k, sims.shape[1] - 1)
    tied = (sims[:, 1 : near + 1] >= sims[:, :near] - TOLERANCE) & (groups[:, 1 : near + 1] >= 0)
    for row in np.flatnonzero(tied.any(axis=1)):
        found[row] = _vote_of_row(sims[row], groups[row], codes, members, k)
    return found


def _vote_of_row(sims: Floats, groups: Ids, codes: Ids, members: tuple[Ids, Ids], k: int) -> Ids:
    """Codes of the first `k` keys of one query (k,), where different vectors tie."""
    order, starts = members
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


def _by_parity(sims: Floats, groups: Ids, first_rows: Ids, k: int) -> Ids:
    """Rows of the keys (b, k) in the order of the published search."""
    found = _expand(None, first_rows, groups, k)
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
    return found


def _expand(values: Ids | None, table: NDArray[Any], groups: Ids, k: int) -> Ids:
    """First `k` entries (b, k) of the groups in `table`, or as many of `values` (b, W); -1 at the end."""
    near = groups[:, :k]
    taken = np.where((near >= 0)[:, :, None], table[near.clip(0)], PAD).reshape(len(near), -1)
    order = np.argsort(taken == PAD, axis=1, kind="stable")[:, :k]
    entries = taken if values is None else np.where(taken == PAD, PAD, values[:, :k].repeat(table.shape[1], axis=1))
    found = np.take_along_axis(entries, order, 1).astype(np.int64)
    return np.where(found == PAD, UNKNOWN, found)


def _members(index: RetrievalIndex) -> tuple[Ids, Ids]:
    """Keys sorted by group, each group in its order (N,), and where each group begins (U + 1,)."""
    sizes = np.bincount(index.group, minlength=len(index.vectors))
    return np.argsort(index.group, kind="stable"), np.concatenate([[0], np.cumsum(sizes)])


def _first_rows(index: RetrievalIndex, members: tuple[Ids, Ids], k: int) -> Ids:
    """First `k` keys of each group (U, k), PAD after the last."""
    order, starts = members
    position = np.arange(len(order)) - starts[index.group[order]]
    table = np.full((len(starts) - 1, k), PAD, np.int64)
    table[index.group[order][position < k], position[position < k]] = order[position < k]
    return table


def _labels_of_groups(index: RetrievalIndex, rank: str, k: int) -> NDArray[np.int32]:
    """Labels of the first `k` keys of each group by vote (U, k), -1 where they have none, PAD after the last."""
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
