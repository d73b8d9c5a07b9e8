"""Retrieval protocol of CLIBD (https://arxiv.org/abs/2405.17537): queries and keys of every modality.

Besides image, DNA and text there are "averaged" (mean of the unit vectors of image and DNA), "concatenated" (both side
by side), "fused" (both by the gate of a model with fusion) and, for keys only, "all" (one key per modality of a
specimen).
Shape letters: N = specimens, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..metrics import harmonic_mean
from ..schema import REPORTED_RANKS
from ..search.index import RetrievalIndex, build_index
from ..search.retrieve import Retrieval, retrieve
from ..search.vectors import Floats, unit_vectors
from .retrieval import (
    Accuracies,
    accuracies,
    chance_accuracies,
    check_ranks,
    check_top_k,
    prototypes,
    retrieve_together,
    top1_intervals,
)

MODALITIES = ("image", "dna", "text")
QUERY_TYPES = (*MODALITIES, "averaged", "concatenated", "fused")
KEY_TYPES = (*QUERY_TYPES, "all")

#: Combinations in the tables of the paper.
REPORTED = ("dna->dna", "image->image", "image->dna")


@dataclass(frozen=True)
class Specimens:
    """Embeddings of specimens and their labels.

    Attributes:
        embeddings: "image", "dna", "text" or "fused" -> (N, D).
        labels: Rank -> names (N,), None where unknown.
        present: Modality -> which specimens have it (N,); all if the modality is not named. Embeddings of absent
            specimens are ignored.
        ids: Names of the specimens (N,), such as processids; their row numbers if empty.
    """

    embeddings: Mapping[str, ArrayLike]
    labels: Mapping[str, Sequence[str | None]]
    present: Mapping[str, NDArray[np.bool_]]
    ids: Sequence[str] = ()


class Rows(NamedTuple):
    """Vectors (n, D) of the specimens that have one modality, with their labels (n,) and names (n,)."""

    vectors: Floats
    labels: dict[str, list[str | None]]
    ids: list[str]


def rows_of(specimens: Specimens, kind: str, ranks: Sequence[str]) -> Rows:
    """Vectors of one of `KEY_TYPES`, for the specimens that have its modalities; ValueError if none has them."""
    check_ranks(ranks, specimens.labels)
    if kind == "all":
        parts = [rows_of(specimens, name, ranks) for name in MODALITIES if name in specimens.embeddings]
        labels = {rank: list(chain.from_iterable(part.labels[rank] for part in parts)) for rank in ranks}
        ids = list(chain.from_iterable(part.ids for part in parts))
        return Rows(np.concatenate([part.vectors for part in parts]), labels, ids)
    rows = _rows_with(specimens, kind)
    needed = _needed(kind)
    if not rows:
        raise ValueError(f"No specimen has {' and '.join(needed)}, which {kind!r} needs.")
    names = list(specimens.ids) or [str(row) for row in range(len(_present(specimens, needed[0])))]
    ids = [names[row] for row in rows]
    units = [unit_vectors(np.asarray(specimens.embeddings[name])[rows], f"modality {name!r}", ids) for name in needed]
    vectors: Floats = units[0]
    if kind == "averaged":
        vectors = np.mean(units, axis=0, dtype=np.float32)
    elif kind == "concatenated":
        vectors = np.concatenate(units, axis=1)
    return Rows(vectors, {rank: [specimens.labels[rank][row] for row in rows] for rank in ranks}, ids)


def _needed(kind: str) -> tuple[str, ...]:
    """Modalities of which the vectors of `kind` are made."""
    return ("image", "dna") if kind in ("averaged", "concatenated") else (kind,)


def _rows_with(specimens: Specimens, kind: str) -> list[int]:
    """Rows of the specimens that have the modalities of `kind`; ValueError if these embeddings are missing."""
    if kind not in KEY_TYPES or any(name not in specimens.embeddings for name in _needed(kind)):
        raise ValueError(f"{kind!r} needs other embeddings than those given: {', '.join(specimens.embeddings)}.")
    return np.flatnonzero(np.logical_and.reduce([_present(specimens, name) for name in _needed(kind)])).tolist()


def combinations_of(modalities: Sequence[str]) -> tuple[str, ...]:
    """Every "query->key" of equal dimensions that can be compared: 21 for three modalities.

    Example:
        >>> combinations_of(["image", "dna"])[:3]
        ('image->image', 'image->dna', 'image->averaged')
    """
    singles = [name for name in MODALITIES if name in modalities]
    both = [name for name in ("averaged", "concatenated") if {"image", "dna"} <= set(singles)]
    both += ["fused"] if "fused" in modalities else []
    keys = [*singles, *both, *(["all"] if len(singles) == 3 else [])]
    pairs = product([*singles, *both], keys)
    return tuple(f"{query}->{key}" for query, key in pairs if (query == "concatenated") == (key == "concatenated"))


def evaluate_retrieval(
    keys: Specimens,
    queries: Mapping[str, Specimens],
    *,
    combinations: Sequence[str] | None = None,
    ranks: Sequence[str] = REPORTED_RANKS,
    top_k: Sequence[int] = (1, 3, 5),
    ties: str = "vote",
    kind: str = "exact",
    prototype_rank: str | None = None,
    device: str | torch.device = "cpu",
    across_processes: bool = False,
) -> dict[str, dict[str, Any]]:
    """Accuracies of every combination of modalities, and the accuracies of chance.

    Args:
        keys: Reference specimens, of seen and unseen species together.
        queries: "seen" and "unseen" -> specimens; other names are allowed too.
        combinations: Such as "image->dna". None: all that are possible.
        ranks: Ranks of `keys.labels` to measure.
        top_k: Numbers of nearest keys among which one must be right.
        ties: "vote" or "parity" (published), see `search.retrieve.retrieve`.
        kind: Kind of index: "exact", "hnsw" or "ivfpq".
        prototype_rank: Uses one key per taxon of this rank instead of one per specimen.
        device: Where the products of an exact index are computed.
        across_processes: Whether every process of torch.distributed calls this with the same specimens: then each
            searches its share of the queries, and all get the result.

    Returns:
        Combination -> {"keys": n, name of the queries -> {"queries": n, "labelled": {rank: n}, "micro" and "macro":
        {k: {rank: x}}, "top1_intervals": {"micro" and "macro": {rank: [low, high]}}, "chance": {"micro", "macro"}},
        "harmonic_mean": {"micro" and "macro"} of seen and unseen}. Intervals are of 95 %, by a bootstrap over species.

    Raises:
        ValueError: for an unknown combination, rank, tie rule or index, fewer keys than k, and bad embeddings.
    """
    ks = check_top_k(top_k)
    possible = combinations_of(list(keys.embeddings))
    wanted = possible if combinations is None else tuple(combinations)
    unknown = [name for name in wanted if name not in possible]
    if unknown or not wanted:
        raise ValueError(f"Unknown combination {', '.join(unknown) or '(none)'}. Choose from {', '.join(possible)}.")
    search = partial(retrieve_together if across_processes else retrieve, k=ks[-1], ties=ties, device=device)
    found: dict[str, dict[str, Any]] = {}
    all_ranks = [*ranks] if prototype_rank in (None, *ranks) else [*ranks, str(prototype_rank)]
    for key_kind in dict.fromkeys(name.split("->")[1] for name in wanted):
        vectors, labels, ids = rows_of(keys, key_kind, all_ranks)
        if prototype_rank is not None:
            vectors, labels = prototypes(vectors, labels, prototype_rank)
            ids = [str(name) for name in labels[prototype_rank]]
        index = build_index(vectors, labels, ids=ids, kind=kind)
        for name in (name for name in wanted if name.split("->")[1] == key_kind):
            table: dict[str, Any] = {"keys": len(index)}
            for split, specimens in queries.items():
                query_kind = name.split("->")[0]
                if not _rows_with(specimens, query_kind):
                    table[split] = _no_table(ranks, ks)
                    continue
                asked = rows_of(specimens, query_kind, ranks)
                table[split] = _table(index, asked, search(index, asked.vectors, ids=asked.ids), ks)
            if {"seen", "unseen"} <= set(queries):
                table["harmonic_mean"] = harmonic_means(table["seen"], table["unseen"])
            found[name] = table
    return {name: found[name] for name in wanted}


def harmonic_means(seen: Accuracies, unseen: Accuracies) -> Accuracies:
    """Harmonic means of the accuracies of seen and unseen species."""
    return {
        average: {
            k: {rank: harmonic_mean(x, unseen[average][k][rank]) for rank, x in of_rank.items()}
            for k, of_rank in seen[average].items()
        }
        for average in ("micro", "macro")
    }


def two_stage_names(
    image_keys: RetrievalIndex,
    dna_keys: RetrievalIndex,
    queries: ArrayLike,
    ranks: Sequence[str],
    *,
    threshold: float,
    k: int = 1,
    ties: str = "parity",
) -> dict[str, list[list[str | None]]]:
    """Rank -> names (Q, k) of photos, from photos of seen species or barcodes of unseen ones.

    This is CLIBD's method when barcodes of further species are available: answer i is the i-th nearest image key if
    its cosine is above `threshold`, and the i-th nearest DNA key otherwise.

    Args:
        queries: Embeddings of photos (Q, D).
        threshold: Cosine, chosen on validation queries.
    """
    indexes = (image_keys, dna_keys)
    found = [retrieve(index, queries, k=k, ties=ties) for index in indexes]
    near = found[0].similarities > threshold

    def names(place: int, rank: str) -> NDArray[Any]:
        return np.array([*indexes[place].classes[rank], None], object)[found[place].predictions[rank]]

    return {rank: np.where(near, names(0, rank), names(1, rank)).tolist() for rank in ranks}


def _table(index: RetrievalIndex, asked: Rows, found: Retrieval, ks: Sequence[int]) -> dict[str, Any]:
    return {
        "queries": len(asked.ids),
        "labelled": {rank: sum(name is not None for name in names) for rank, names in asked.labels.items()},
        **accuracies(index, found, asked.labels, ks),
        "top1_intervals": top1_intervals(index, found, asked.labels),
        "chance": chance_accuracies(index, asked.labels, ks),
    }


def _no_table(ranks: Sequence[str], ks: Sequence[int]) -> dict[str, Any]:
    """The table of queries of which none has the modality: all accuracies are None."""
    nothing: Accuracies = {average: {k: dict.fromkeys(ranks) for k in ks} for average in ("micro", "macro")}
    intervals = {average: dict.fromkeys(ranks) for average in ("micro", "macro")}
    numbers = {"queries": 0, "labelled": dict.fromkeys(ranks, 0)}
    return {**numbers, **nothing, "top1_intervals": intervals, "chance": nothing}


def _present(specimens: Specimens, modality: str) -> NDArray[np.bool_]:
    rows = len(np.asarray(specimens.embeddings[modality]))
    mask = np.asarray(specimens.present.get(modality, np.ones(rows, np.bool_)), np.bool_)
    if len(mask) != rows or any(len(names) != rows for names in specimens.labels.values()):
        raise ValueError(
            f"There are {rows} embeddings of {modality!r}, {len(mask)} entries in `present`, and labels: "
            f"{', '.join(f'{rank} {len(names)}' for rank, names in specimens.labels.items())}. All must be equal."
        )
    return mask
