"""Accuracy of retrieval: the taxon of a query is that of its nearest keys.

Protocol: CLIBD (https://arxiv.org/abs/2405.17537), Task III of BIOSCAN-5M (https://arxiv.org/abs/2406.12723).
Shape letters: N = keys, Q = queries, D = embedding size, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray

from ..losses.rows import process_count
from ..metrics import top_k_accuracy
from ..search.exact import QUERIES_AT_ONCE
from ..search.index import UNKNOWN, RetrievalIndex, build_index
from ..search.retrieve import Retrieval, retrieve
from ..search.vectors import Floats, Ids, slices, unit_vectors
from .intervals import Interval, species_intervals

#: {"micro" or "macro": {k: {rank: accuracy in [0, 1], None where no query has a name}}}
Accuracies = dict[str, dict[int, dict[str, float | None]]]

Labels = Mapping[str, Sequence[str | None]]


def retrieval_accuracy(
    key_embeddings: ArrayLike,
    key_labels: Labels,
    query_embeddings: ArrayLike,
    query_labels: Labels,
    *,
    top_k: Sequence[int] = (1, 3, 5),
    ties: str = "vote",
    device: str | torch.device = "cpu",
) -> Accuracies:
    """Micro and macro accuracy of the nearest keys by cosine, by exact search.

    Micro is the share of the queries, macro the mean over the taxa of the queries. A query without a name at a rank
    does not count there; a query whose taxon no key has is wrong.

    Args:
        key_embeddings, query_embeddings: (N, D) and (Q, D).
        key_labels, query_labels: Rank -> names, None where unknown; the ranks of the queries are measured.
        top_k: Numbers of nearest keys among which one must be right.
        ties: "vote" or "parity" (published), see `search.retrieve.retrieve`, with the largest k.

    Returns:
        {"micro": {k: {rank: x}}, "macro": {k: {rank: x}}}, x in [0, 1], None where no query has a name.

    Raises:
        ValueError: as `retrieve`, and for a rank that the keys do not have and sizes that do not match.

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


def retrieve_together(
    index: RetrievalIndex,
    queries: ArrayLike,
    *,
    k: int,
    ties: str,
    ids: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> Retrieval:
    """`search.retrieve.retrieve`, for which each process of torch.distributed searches its share of the queries.

    All processes call this with the same index and queries, and get all results. More than 1,024 queries are divided
    into the blocks that one process would search, so that the similarities are the same to the last bit.

    Args:
        queries: (Q, D).
        device: Of this process; also for the exchange of the results.
    """
    x, processes = np.asarray(queries), process_count()
    if processes == 1:
        return retrieve(index, x, k=k, ties=ties, ids=ids, device=device)
    block = QUERIES_AT_ONCE if len(x) > QUERIES_AT_ONCE else -(-len(x) // processes)
    rows = np.flatnonzero(np.arange(len(x)) // block % processes == dist.get_rank())
    none = np.empty((0, k), np.int64)
    own = Retrieval(dict.fromkeys(index.codes, none), none, np.empty((0, k), np.float32))
    if len(rows):
        names = None if ids is None else [ids[row] for row in rows.tolist()]
        own = retrieve(index, x[rows], k=k, ties=ties, ids=names, device=device)

    def everywhere(part: NDArray[Any]) -> NDArray[Any]:
        """Rows (Q, k) of all processes: each adds its own to zeros."""
        whole = np.zeros((len(x), k), part.dtype)
        whole[rows] = part
        shared = torch.from_numpy(whole).to(device)
        dist.all_reduce(shared)
        return shared.cpu().numpy()

    predictions = {rank: everywhere(codes) for rank, codes in own.predictions.items()}
    return Retrieval(predictions, everywhere(own.neighbours), everywhere(own.similarities))


def accuracies(index: RetrievalIndex, found: Retrieval, query_labels: Labels, top_k: Sequence[int]) -> Accuracies:
    """Micro and macro accuracy of the result of `retrieve`."""
    result: Accuracies = {"micro": {k: {} for k in top_k}, "macro": {k: {} for k in top_k}}
    for rank, names in query_labels.items():
        true = query_codes(index, rank, names, len(found.neighbours))
        for k in top_k:
            scores = top_k_accuracy(found.predictions[rank][:, :k], true)
            result["micro"][k][rank] = scores["micro_accuracy"]
            result["macro"][k][rank] = scores["macro_accuracy"]
    return result


def top1_intervals(index: RetrievalIndex, found: Retrieval, query_labels: Labels) -> dict[str, dict[str, Interval]]:
    """95 % intervals of the top-1 accuracy by a bootstrap over species: "micro" or "macro" -> rank -> [low, high].

    Without species in `query_labels`, taxa of their last rank are drawn.
    """
    owner = "species" if "species" in query_labels else list(query_labels)[-1]
    queries = len(found.neighbours)
    groups = query_codes(index, owner, query_labels[owner], queries)
    result: dict[str, dict[str, Interval]] = {"micro": {}, "macro": {}}
    for rank, names in query_labels.items():
        true = query_codes(index, rank, names, queries)
        ends = species_intervals(found.predictions[rank][:, 0] == true, true, groups)
        for average in result:
            result[average][rank] = ends[f"{average}_accuracy_interval"]
    return result


def chance_accuracies(index: RetrievalIndex, query_labels: Labels, top_k: Sequence[int]) -> Accuracies:
    """Expected accuracies of k different keys drawn at random.

    Of N keys of which n are right, k draws all miss with the probability (N - n)! (N - k)! / ((N - n - k)! N!).
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
    """Taxon of the queries, in alphabetical order, -> share of its queries that are right at `k`."""
    true = query_codes(index, rank, names, len(found.neighbours))
    hits = (found.predictions[rank][:, :k] == true[:, None]).any(axis=1)
    taxa, places = np.unique([name or "" for name in names], return_inverse=True)
    shares = np.bincount(places, weights=hits) / np.bincount(places)
    return {name: share for name, share in zip(taxa.tolist(), shares.tolist(), strict=True) if name}


def prototypes(
    embeddings: ArrayLike, labels: Labels, rank: str = "species"
) -> tuple[Floats, dict[str, list[str | None]]]:
    """One key per taxon, the mean direction of its specimens: unit vectors (taxa, D), and rank -> names (taxa,).

    Specimens without a name at `rank` are left out. At the other ranks a prototype has the most frequent name of its
    specimens, if any; of equally frequent names, the first in the alphabet.

    Raises:
        ValueError: for a rank without labels or names, and a taxon whose vectors cancel out.
    """
    check_ranks({rank: ()}, labels)
    index = build_index(embeddings, labels)
    codes, classes = index.codes[rank], index.classes[rank]
    if not classes:
        raise ValueError(f"No key has a name at the rank {rank!r}, so there are no prototypes.")
    sums = np.zeros((len(classes), index.dim), np.float64)
    for part in slices(len(codes), 16_384):
        named = part.start + np.flatnonzero(codes[part] != UNKNOWN)
        np.add.at(sums, codes[named], index.vectors.numpy()[index.group[named]])
    found: dict[str, list[str | None]] = {}
    for other, names in index.classes.items():
        both = (codes != UNKNOWN) & (index.codes[other] != UNKNOWN)
        pairs, counts = np.unique(np.stack([codes[both], index.codes[other][both]]), axis=1, return_counts=True)
        found[other] = [None] * len(classes)
        for taxon, name in pairs[:, np.lexsort((-pairs[1], counts))].T.tolist():  # the most frequent comes last
            found[other][taxon] = names[name]
    return unit_vectors(sums, "prototypes", classes), found


def query_codes(index: RetrievalIndex, rank: str, names: Sequence[str | None], queries: int) -> Ids:
    """Codes (Q,) of the names of queries: those of the keys, -1 where unknown, new ones for names that no key has."""
    if len(names) != queries:
        raise ValueError(f"The queries have {len(names)} labels at the rank {rank!r}, and there are {queries}.")
    if rank not in index.codes:
        raise ValueError(f"The keys have no rank {rank!r}. They have {', '.join(index.codes)}.")
    place = {name: code for code, name in enumerate(index.classes[rank])}
    return np.fromiter((place.setdefault(name, len(place)) if name else UNKNOWN for name in names), np.int64, queries)


def check_top_k(top_k: Sequence[int]) -> list[int]:
    """The distinct numbers in ascending order; ValueError without a number, and for one below 1."""
    ks = sorted(set(top_k))
    if not ks or ks[0] < 1:
        raise ValueError(f"The values of k are {list(top_k)}; give numbers of keys, 1 or more.")
    return ks


def check_ranks(wanted: Mapping[str, Any] | Sequence[str], labels: Mapping[str, Any]) -> None:
    """Raises ValueError for no rank, and for unknown ranks."""
    missing = [rank for rank in wanted if rank not in labels]
    if missing or not wanted:
        raise ValueError(f"Unknown rank: {', '.join(missing) or 'none given'}. The keys have {', '.join(labels)}.")
