"""The nearest references of reads: a shortlist from two sides, then alignment.

One side is the vectors of the common region, the other the share of common words, which also finds short reads, reads
with insertions, and barcodes inside longer sequences. The shortlist is ordered by identity: matches over the overlap
in the region, or the edit distance of the shorter inside the longer sequence (Šošić and Šikić 2017, edlib).
Shape letters: n = reads, N = references, C = candidates, P = positions of the region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..barcodes import complement
from .alignment import edit_distance, unknown_letters
from .letters import NOTHING, WORD, Codes, blocks, codes_of, words_of
from .mending import mended
from .packed import Packed, compared
from .region import LEAST_SCORE, Placed, Region, oriented
from .shortlist import MANY, READS_AT_ONCE, Cells, LeftOut, Words, nearest

__all__ = ["LeftOut", "Matches", "References", "compared", "lower_bound", "match"]

#: Candidates of each side.
CANDIDATES = 15

#: Reads with a candidate of at least this identity in the region are not searched by words, and `FEW` are aligned.
NEAR, FEW = 0.93, 5

#: From this identity in the region, nothing is aligned.
CLEAR = 0.985

#: A read whose identity with a reference grows by more than this when it is aligned may have an insertion or deletion.
MENDED = 0.02

#: References that such a read is mended along, and their least share of the longest overlap.
ALONG, LONG = 5, 0.8

#: Below this identity, candidates are ordered by the vectors of the region.
DISTANT = 0.93

#: Candidates whose whole profiles are compared; all of distant reads.
PROFILES = 3

#: Standard errors by which an identity is lowered for the order, so that a short overlap has to be more alike.
CAUTION = 2.0

#: Edit distances beyond this share of the length are not told apart.
LARGEST_DISTANCE = 0.45


def nothing() -> None:
    """Releases nothing: references in memory are not mapped from a file. A lambda could not be pickled."""


@dataclass
class References:
    """What is searched.

    Attributes:
        sequences: Spelled sequences (N,).
        region: Their common region; None if they have none.
        placed: Where they lie in it, as bits.
        words: Their words.
        cells: Their vectors in cells; None if there are few.
        release: Gives back memory that is mapped from a file.
    """

    sequences: Sequence[str]
    region: Region | None
    placed: Placed[Packed] | None
    words: Words
    cells: Cells | None = None
    release: Callable[[], None] = nothing

    @classmethod
    def of(cls, sequences: Sequence[str], region: Region | None) -> References:
        """Places sequences in their region, and finds their words."""
        words = Words.of(words_of(sequences))
        if region is None:
            return cls(sequences, None, None, words)
        found = region.place(sequences, vectors=True)
        placed = Placed(Packed.of(found.aligned), found.start, found.score, found.vectors)
        good = placed.score >= LEAST_SCORE
        many = len(sequences) >= MANY and good.any()
        return cls(sequences, region, placed, words, Cells.of(placed.vectors, good) if many else None)

    def __len__(self) -> int:
        return len(self.sequences)

    @cached_property
    def good(self) -> Tensor:
        """Whether a reference lies in the region (N,)."""
        assert self.placed is not None
        return torch.from_numpy(self.placed.score >= LEAST_SCORE)

    def nearest(self, queries: Tensor, left_out: LeftOut | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """References with the nearest vectors (n, C), -1 after the last, and their cosines minus 1."""
        assert self.placed is not None
        search = nearest if self.cells is None else self.cells.nearest
        self.release()
        found = search(queries, self.placed.vectors, self.good, min(CANDIDATES, len(self)), left_out)
        self.release()
        return found


@dataclass
class Matches:
    """Candidates of reads, the best first.

    Attributes:
        rows: References (n, C); -1 after the last candidate.
        identity: Share of equal letters of the overlap (n, C), in [0, 1]; 0 after the last candidate.
        overlap: Nucleotides that were compared (n, C).
        cosine: Cosine of the vectors of the region (n, C); 0 without a region.
        turned: Reads that came on the other strand (n,).
        score: Alignment score in the region (n,); 1 without a region.
        reads: The reads on the strand of the references (n,).
        aligned: Codes of the reads in the region (n, P); None without a region.
        within: Nucleotides inside of the region (n,), or of the whole read without one.
        shifted: Reads with an insertion or deletion that shifts the reading frame (n,).
    """

    rows: NDArray[np.int64]
    identity: NDArray[np.float32]
    overlap: NDArray[np.int32]
    cosine: NDArray[np.float32]
    turned: NDArray[np.bool_]
    score: NDArray[np.float32]
    reads: list[str]
    aligned: NDArray[np.uint8] | None
    within: NDArray[np.int32]
    shifted: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> Matches:
        """Those of some reads (m,)."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        parts["reads"] = [self.reads[i] for i in rows.tolist()] if self.reads else []
        arrays = {name: part[rows] for name, part in parts.items() if isinstance(part, np.ndarray)}
        return Matches(**(parts | arrays))


def match(references: References, reads: Sequence[str], left_out: LeftOut | None = None) -> Matches:
    """The candidates of reads among references.

    Args:
        reads: Spelled reads with at least one nucleotide.
        left_out: References that the reads may not match.
    """
    search = _Search(references, reads, left_out)
    everyone = np.arange(len(reads))
    if search.own is not None:
        search.by_region(everyone[search.score >= LEAST_SCORE])
    straight = search.identity.max(1)
    close = (straight >= NEAR) & search.covered(straight)
    search.align(everyone[close & (straight < CLEAR)], FEW)
    rest = everyone[~close]
    search.by_words(rest)
    search.align(rest, 2 * CANDIDATES)
    if search.own is not None:
        search.mend(everyone[~close | (straight < CLEAR)])
    return search.result()


class _Search:
    """Candidates of reads while they are found: the first `CANDIDATES` columns by the region, the others by words."""

    def __init__(self, references: References, reads: Sequence[str], left_out: LeftOut | None) -> None:
        n = len(reads)
        self.references, self.left_out = references, left_out
        self.reads, self.turned = list(reads), np.zeros(n, np.bool_)
        self.rows = np.full((n, 2 * CANDIDATES), -1, np.int64)
        self.identity, self.overlap = np.zeros(self.rows.shape, np.float32), np.zeros(self.rows.shape, np.int32)
        self.cosine = np.zeros(self.rows.shape, np.float32)
        self.score: NDArray[np.float32] = np.ones(n, np.float32)
        self.gaps, self.shifted = np.zeros(n, np.int32), np.zeros(n, np.bool_)
        self.own: Placed[Codes] | None = None
        if references.region is not None and references.placed is not None:
            self.reads, self.turned, self.own = oriented(references.region, reads)
            self.score = self.own.score

    def by_region(self, some: NDArray[np.int64]) -> None:
        """Sets the candidates of some reads by their vectors, and compares them position by position."""
        assert self.own is not None and self.references.placed is not None
        keys = self.references.placed
        for part in _parts(some):
            asked = self.own.vectors[torch.from_numpy(part)]
            near, cosine = self.references.nearest(asked, _of(self.left_out, part))
            width = near.shape[1]
            self.rows[part, :width], self.cosine[part, :width] = near, np.where(near >= 0, cosine + 1, 0)
            equal, overlap = compared(self.own.aligned[part], keys.aligned, near)
            share = equal / np.maximum(overlap + self.gaps[part, None], 1)
            self.identity[part, :width], self.overlap[part, :width] = share, overlap
            self._whole_profiles(part, np.arange(min(PROFILES, width)))
            first = self.cosine[part, :PROFILES].max(1, keepdims=True)
            self.cosine[part, PROFILES:width] = np.minimum(self.cosine[part, PROFILES:width], first)
            self._whole_profiles(part[share.max(1) < DISTANT], np.arange(PROFILES, width))

    def _whole_profiles(self, some: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        """Sets the cosines of some reads and candidates to those of their whole profiles."""
        assert self.own is not None and self.references.placed is not None and self.references.region is not None
        for part in np.array_split(some, -(-len(some) // 256)) if len(some) else []:
            rows = self.rows[part[:, None], columns]
            keys = self.references.placed.aligned[rows.clip(0)]
            cosine = self.references.region.cosines(self.own.aligned[part], keys)
            if cosine is not None:
                self.cosine[part[:, None], columns] = np.where(rows >= 0, cosine, 0)

    def covered(self, best: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether the best candidate of each read was compared over nearly all of what both could share."""
        region = self.references.region
        if region is None:
            return np.zeros(len(best), np.bool_)
        lengths = np.fromiter(map(len, self.reads), np.int64, len(self.reads))
        wanted = 0.9 * np.minimum(lengths, region.positions)[:, None]
        return np.asarray(((self.identity >= best[:, None]) & (self.overlap >= wanted)).any(1))

    def by_words(self, some: NDArray[np.int64]) -> None:
        """Sets the other candidates of some reads by their words; turns reads round that then fit better.

        The other strand is tried where the region does not tell it.
        """
        if not len(some):
            return
        words, k = self.references.words, min(CANDIDATES, len(self.references))
        found, share = words.most_shared(words_of([self.reads[i] for i in some]), k, _of(self.left_out, some))
        known = self.references.region is not None
        doubtful = np.flatnonzero(self.score[some] < LEAST_SCORE) if known else np.arange(len(some))
        if len(doubtful):
            others = [complement(self.reads[i]) for i in some[doubtful]]
            back, other_share = words.most_shared(words_of(others), k, _of(self.left_out, some[doubtful]))
            better = other_share[:, 0] > share[doubtful, 0]
            found[doubtful[better]] = back[better]
            for place in np.flatnonzero(better).tolist():
                i = some[doubtful[place]]
                self.reads[i], self.turned[i] = others[place], ~self.turned[i]
        self.references.release()
        self.rows[some, CANDIDATES : CANDIDATES + k] = found
        if self.own is not None and self.references.placed is not None:
            for part in _parts(some):
                keys = self.references.placed.vectors[torch.from_numpy(self.rows[part, CANDIDATES:].clip(0))]
                cosine = _cosines(self.own.vectors[torch.from_numpy(part)], keys)
                self.cosine[part, CANDIDATES:] = np.where(self.rows[part, CANDIDATES:] >= 0, cosine, 0)
            self._whole_profiles(some, np.arange(CANDIDATES, CANDIDATES + k))

    def align(self, some: NDArray[np.int64], most: int) -> None:
        """Sets identity and overlap of at most `most` candidates of some reads by their edit distances."""
        for number, i in enumerate(some):
            if number % 64 == 0:
                self.references.release()
            best, rows = LARGEST_DISTANCE, self.rows[i]
            at = np.flatnonzero(rows >= 0)
            at = at[np.sort(np.unique(rows[at], return_index=True)[1])]
            for place in at[np.argsort(-self.identity[i][at], kind="stable")][:most].tolist():
                read, key = overlapping(self.reads[i], self.references, self.own, int(i), int(rows[place]))
                unknown, straight = sum(map(unknown_letters, (read, key))), float(self.identity[i, place])
                length = min(len(read), len(key)) - unknown
                if length < WORD:
                    continue
                bound = min(best + 0.1, 1 - straight)  # a larger distance is of no use
                share = min(edit_distance(read, key, int(bound * length) + 1, plain=unknown == 0) / length, 1.0)
                best = min(best, share)
                if 1 - share >= straight:
                    self.identity[i, place], self.overlap[i, place] = 1 - share, length

    def mend(self, some: NDArray[np.int64]) -> None:
        """Takes insertions and deletions out of the place of some reads in the region, and searches them again.

        A reference that overlaps little of a read is not asked: it does not tell what lies beside it.
        """
        assert self.own is not None and self.references.placed is not None and self.references.region is not None
        keys, some = self.references.placed, some[self.score[some] >= LEAST_SCORE]
        rows, identity, overlap = self.rows[some], self.identity[some], self.overlap[some]
        overlap = np.where((rows >= 0) & (keys.score[rows.clip(0)] >= LEAST_SCORE), overlap, 0)
        overlap = np.minimum(overlap, self.references.region.positions)
        bound = np.where(overlap >= LONG * overlap.max(1, keepdims=True), lower_bound(identity, overlap), 0)
        order = np.argsort(-bound, axis=1, kind="stable")[:, :ALONG]
        near, bound = np.take_along_axis(rows, order, 1), np.take_along_axis(bound, order, 1)
        equal, straight = compared(self.own.aligned[some], keys.aligned, near[:, :1])
        grown = identity[np.arange(len(some)), order[:, 0]] > (equal / np.maximum(straight, 1))[:, 0] + MENDED
        wanted = np.flatnonzero(grown & (bound[:, 0] > 0))
        for part in blocks([self.reads[i] for i in some[wanted]]):
            here = wanted[part]
            at = some[here]
            codes = codes_of([self.reads[i] for i in at])
            found = mended(codes, self.own.start[at], keys.aligned[near[here, 0]])
            for place in range(1, near.shape[1]):
                other = np.where(bound[here, place] > 0, near[here, place], near[here, 0])
                found.take_better(mended(codes, self.own.start[at], keys.aligned[other]))
            changed = found.gaps > 0
            at = at[changed]
            if len(at):
                self.own.aligned[at], self.gaps[at] = found.aligned[changed], found.gaps[changed]
                self.shifted[at] = found.shifted[changed]
                self._search_again(at)

    def _search_again(self, some: NDArray[np.int64]) -> None:
        """Searches mended reads by the region; the best candidates stay, for reads whose gaps were not all found."""
        assert self.own is not None and self.references.region is not None
        best = np.argsort(-lower_bound(self.identity[some], self.overlap[some]), axis=1, kind="stable")[:, :FEW]
        tables: tuple[NDArray[Any], ...] = (self.rows, self.identity, self.overlap, self.cosine)
        kept = [table[some[:, None], best] for table in tables]
        vectors = self.references.region.vectors([self.reads[i] for i in some], self.own.aligned[some])
        self.own.vectors[torch.from_numpy(some)] = vectors
        self.by_region(some)
        for table, values in zip(tables, kept, strict=True):
            table[some[:, None], np.arange(CANDIDATES - FEW, CANDIDATES)] = values

    def result(self) -> Matches:
        """All candidates in their order, each once."""
        rows, identity, overlap, cosine = self.rows, self.identity, self.overlap, self.cosine
        n, own = len(rows), self.own
        inside = np.fromiter(map(len, self.reads), np.int64, n)
        if own is not None:
            inside = (own.aligned != NOTHING).sum(1)
        _drop_repeats(rows, identity)
        order = _in_order(identity, overlap, cosine, rows)
        return Matches(
            np.take_along_axis(rows, order, 1),
            np.take_along_axis(identity, order, 1),
            np.take_along_axis(overlap, order, 1),
            np.take_along_axis(cosine, order, 1),
            self.turned,
            self.score,
            self.reads,
            None if own is None else own.aligned,
            inside.astype(np.int32),
            self.shifted,
        )


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows in parts that bound the memory."""
    return np.array_split(rows, -(-len(rows) // READS_AT_ONCE)) if len(rows) else []


def _of(left_out: LeftOut | None, rows: NDArray[np.int64]) -> LeftOut | None:
    return None if left_out is None else left_out.of(rows)


def _cosines(queries: Tensor, keys: Tensor) -> NDArray[np.float32]:
    """Cosines (n, C) of queries (n, D) and the keys of each (n, C, D)."""
    minus = torch.tensor(-1.0, dtype=queries.dtype)
    return np.asarray(torch.baddbmm(minus, keys, queries[:, :, None])[:, :, 0].float().numpy()) + 1


def overlapping(read: str, references: References, own: Placed[Codes] | None, i: int, row: int) -> tuple[str, str]:
    """The parts of a read and a reference that can overlap in the region; the whole where the place is unknown."""
    key, placed = references.sequences[row], references.placed
    if own is None or placed is None or references.region is None:
        return read, key
    if min(own.score[i], placed.score[row]) < LEAST_SCORE:
        return read, key
    begin, first = own.start[i], placed.start[row]
    if begin < first and begin + len(read) < first + len(key):
        return read[first - begin :], key
    if begin > first and begin + len(read) > first + len(key):
        return read[: first + len(key) - begin], key
    return read, key


def _drop_repeats(rows: NDArray[np.int64], identity: NDArray[np.float32]) -> None:
    """Keeps the better of a reference that both sides found."""
    order = np.lexsort((-identity, rows), axis=1)
    sorted_rows = np.take_along_axis(rows, order, 1)
    again = np.zeros(rows.shape, np.bool_)
    again[:, 1:] = sorted_rows[:, 1:] == sorted_rows[:, :-1]
    mask = np.zeros_like(again)
    np.put_along_axis(mask, order, again, 1)
    rows[mask], identity[mask] = -1, 0


def _in_order(
    identity: NDArray[np.float32], overlap: NDArray[np.int32], cosine: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Order of candidates: by the lower bound of their identity, or by cosine if none is near; then by the row."""
    bound = lower_bound(identity, overlap)
    distant = (identity.max(1, keepdims=True) < DISTANT) & (cosine.max(1, keepdims=True) > 0)
    first = np.where(distant & (identity > identity.max(1, keepdims=True) - 0.05), 1 + cosine, bound)
    return np.lexsort((rows, -first, rows < 0), axis=1)


def lower_bound(identity: NDArray[np.float32], overlap: NDArray[np.int32]) -> NDArray[np.float64]:
    """Lower bound of identities over their overlaps (Wilson 1927), which trusts a short overlap less."""
    n, z = np.maximum(overlap, 1).astype(np.float64), CAUTION
    spread = z * np.sqrt(identity * (1 - identity) / n + z * z / (4 * n * n))
    return np.where(overlap > 0, (identity + z * z / (2 * n) - spread) / (1 + z * z / n), 0.0)
