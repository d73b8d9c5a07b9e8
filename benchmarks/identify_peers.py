"""Names of reads by vsearch, SINTAX, and BLAST+ with a lowest common ancestor, for `bench_confidence.py`.

Each gives a name and a score at every rank; without a name the score is 0. vsearch aligns 32 candidates on both
strands; the name is that of the best hit, the score its identity. SINTAX scores by its bootstrap. BLAST (megablast)
takes the hits within a share of the best bit score; a rank on which they agree has a name, with the identity of the
best hit over the whole read as its score. That share is the one of `BANDS` which is best for BLAST on the very reads
that are compared.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bioscan_hf.identification.sequence_search import search_nearest, sintax

#: Shares of the best bit score within which hits count.
BANDS = (0.0, 0.01, 0.02, 0.05, 0.1)

#: Identities of the common rule: species from the first, genus from the second.
RULE = {"species": 0.97, "genus": 0.94}

HITS = 50


@dataclass
class Told:
    """Names of n reads.

    Attributes:
        codes: Rank -> class id (n,), -1 without a name.
        scores: Rank -> score (n,), higher is surer.
        seconds: Wall time.
    """

    codes: dict[str, NDArray[np.int64]]
    scores: dict[str, NDArray[np.float64]]
    seconds: float


def by_vsearch(references: Sequence[str], taxa: Mapping[str, NDArray[np.int64]], reads: Sequence[str]) -> Told:
    """The best hit."""
    found = search_nearest(references, reads, k=1, threads=2, candidates=32, both_strands=True)
    rows, identity = found.neighbours[:, 0], np.nan_to_num(found.identities[:, 0]).astype(np.float64)
    codes = {rank: np.where(rows >= 0, own[rows.clip(0)], -1) for rank, own in taxa.items()}
    return Told(codes, dict.fromkeys(taxa, identity), found.seconds)


def by_sintax(references: Sequence[str], taxa: Mapping[str, NDArray[np.int64]], reads: Sequence[str]) -> Told:
    """The bootstrap."""
    found = sintax(references, taxa, reads, threads=2, both_strands=True)
    scores = {rank: score.astype(np.float64) for rank, score in found.confidences.items()}
    return Told(dict(found.taxa), scores, found.seconds)


def by_blast(
    references: Sequence[str], taxa: Mapping[str, NDArray[np.int64]], reads: Sequence[str]
) -> dict[float, Told]:
    """Share of the best bit score -> the lowest common ancestor of the hits within it."""
    start = time.perf_counter()
    query, reference, identity, bits = _hits(references, reads)
    seconds = time.perf_counter() - start
    best = np.zeros(len(reads))
    np.maximum.at(best, query, bits)
    top = np.zeros(len(reads))
    np.maximum.at(top, query, np.where(bits >= best[query], identity, 0))
    found = {}
    for band in BANDS:
        kept = bits >= (1 - band) * best[query] - 1e-9
        codes, scores = {}, {}
        for rank, own in taxa.items():
            low, high = np.full(len(reads), np.iinfo(np.int64).max), np.full(len(reads), -1)
            np.minimum.at(low, query[kept], own[reference[kept]])
            np.maximum.at(high, query[kept], own[reference[kept]])
            codes[rank] = np.where(low == high, high, -1)
            scores[rank] = np.where(codes[rank] >= 0, top, 0.0)
        found[band] = Told(codes, scores, seconds)
    return found


def _hits(
    references: Sequence[str], reads: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Queries, references, identities over the shorter of read and reference, and bit scores of the hits of BLAST."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, sequences in (("references", references), ("reads", reads)):
            lines = (f">{row}\n{sequence}\n" for row, sequence in enumerate(sequences))
            (folder / file).write_text("".join(lines), encoding="ascii")
        index = ["makeblastdb", "-in", "references", "-dbtype", "nucl", "-out", "index"]
        search = [
            *("blastn", "-task", "megablast", "-query", "reads", "-db", "index", "-out", "hits"),
            *("-outfmt", "6 qseqid sseqid nident bitscore", "-max_target_seqs", str(HITS), "-max_hsps", "1"),
            *("-num_threads", "2", "-dust", "no"),
        ]
        for command in (index, search):
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        table = np.loadtxt(folder / "hits", ndmin=2)
    if not len(table):
        table = np.zeros((0, 4))
    query, reference = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    lengths = np.minimum(np.array([len(reads[q]) for q in query]), np.array([len(references[r]) for r in reference]))
    return query, reference, table[:, 2] / np.maximum(lengths, 1), table[:, 3]


def coverage(right: NDArray[np.bool_], score: NDArray[np.float64], error: float = 0.01) -> float:
    """The largest share of reads that can be named with at most this share of wrong names, by a bound on the score."""
    return float(coverages(right, score, np.ones((1, len(right)), np.int64), error)[0])


def coverages(
    right: NDArray[np.bool_], score: NDArray[np.float64], weight: NDArray[np.int64], error: float = 0.01
) -> NDArray[np.float64]:
    """`coverage` (m,) of reads that are there several times each (m, n)."""
    order = np.argsort(-score, kind="stable")[: int((score > 0).sum())]
    if not len(order):
        return np.zeros(len(weight))
    last = np.append(score[order][1:] != score[order][:-1], True)  # reads with one score are named together
    count = weight[:, order].cumsum(1)
    wrong = (weight[:, order] * ~right[order]).cumsum(1)
    allowed = last & (wrong <= error * count)
    return np.asarray(np.where(allowed, count, 0).max(1) / weight.sum(1).clip(1))
