"""The nearest references of reads: a shortlist from two sides, then alignment.

One side is the vectors of the common region, the other the share of common words, which also finds short reads, reads
with insertions, and barcodes inside longer sequences. The shortlist is ordered by identity: matches over the overlap
in the region, or the edit distance of the shorter inside the longer sequence (Šošić and Šikić 2017, edlib).
Shape letters: n = reads, N = references, C = candidates, P = positions of the region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.modeling_alignedbarcode import NOTHING
from .alignment import edit_distance, unknown_letters
from .mending import mended
from .region import LEAST_SCORE, WORD, Placed, Region, blocks, complement, letters, oriented, words

#: Candidates of each side.
CANDIDATES = 15

#: Reads with a candidate of at least this identity in the region are not searched by words, and `FEW` are aligned.
NEAR, FEW = 0.93, 5

#: From this identity in the region, nothing is aligned.
CLEAR = 0.985

#: A read whose identity grows by more than this when it is aligned may have an insertion or deletion.
MENDED = 0.02

#: Below this identity, candidates are ordered by the vectors of the region.
DISTANT = 0.93

#: Standard errors by which an identity is lowered for the order, so that a short overlap has to be more alike.
CAUTION = 2.0

#: Edit distances beyond this share of the length are not told apart.
LARGEST_DISTANCE = 0.45

#: References that are compared by words at once, and reads.
REFERENCES_AT_ONCE, READS_AT_ONCE = 16_384, 1024


@dataclass
class References:
    """What is searched.

    Attributes:
        sequences: Spelled sequences (N,).
        region: Their common region; None if they have none.
        placed: Where they lie in it.
    """

    sequences: Sequence[str]
    region: Region | None
    placed: Placed | None
    _words: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, sequences: Sequence[str], region: Region | None) -> References:
        """Places sequences in their region."""
        return cls(sequences, region, region.place(sequences, vectors=True) if region else None)

    def __len__(self) -> int:
        return len(self.sequences)

    def words(self, part: slice) -> tuple[Tensor, Tensor]:
        """Words (n, W) of some references, and their numbers (n,); kept if all references fit in one part."""
        if self._words is not None:
            return self._words
        found = _word_table(self.sequences[part])
        if len(self) <= REFERENCES_AT_ONCE:
            self._words = found
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


def match(references: References, reads: Sequence[str], allowed: Tensor | None = None) -> Matches:
    """The candidates of reads among references.

    Args:
        reads: Spelled reads with at least one nucleotide.
        allowed: (n, N) bool: the references that each read may match; all by default.
    """
    search = _Search(references, reads, allowed)
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
        search.mend(everyone[(search.identity.max(1) > straight + MENDED) & (straight > 0)])
    return search.result()


class _Search:
    """Candidates of reads while they are found: the first `CANDIDATES` columns by the region, the others by words."""

    def __init__(self, references: References, reads: Sequence[str], allowed: Tensor | None) -> None:
        n = len(reads)
        self.references, self.allowed = references, allowed
        self.reads, self.turned = list(reads), np.zeros(n, np.bool_)
        self.rows = np.full((n, 2 * CANDIDATES), -1, np.int64)
        self.identity, self.overlap = np.zeros(self.rows.shape, np.float32), np.zeros(self.rows.shape, np.int32)
        self.score: NDArray[np.float32] = np.ones(n, np.float32)
        self.gaps, self.shifted = np.zeros(n, np.int32), np.zeros(n, np.bool_)
        self.own: Placed | None = None
        if references.region is not None and references.placed is not None:
            self.reads, self.turned, self.own = oriented(references.region, reads)
            self.score = self.own.score
            self.good = torch.from_numpy(references.placed.score >= LEAST_SCORE)

    def by_region(self, some: NDArray[np.int64]) -> None:
        """Sets the candidates of some reads by their vectors, and compares them position by position."""
        assert self.own is not None and self.references.placed is not None
        keys = self.references.placed
        for part in _parts(some):
            asked = self.own.vectors[torch.from_numpy(part)]
            near = _nearest(asked, keys.vectors, self.good, _of(self.allowed, part))
            width = near.shape[1]
            self.rows[part, :width] = near
            equal, overlap = compared(self.own.aligned[part], keys.aligned, near)
            share = equal / np.maximum(overlap + self.gaps[part, None], 1)
            self.identity[part, :width], self.overlap[part, :width] = share, overlap

    def covered(self, best: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether the best candidate of each read was compared over nearly all of what both could share."""
        region = self.references.region
        if region is None:
            return np.zeros(len(best), np.bool_)
        lengths = np.fromiter(map(len, self.reads), np.int64, len(self.reads))
        wanted = 0.9 * np.minimum(lengths, region.positions)[:, None]
        return np.asarray(((self.identity >= best[:, None]) & (self.overlap >= wanted)).any(1))

    def by_words(self, some: NDArray[np.int64]) -> None:
        """Sets the other candidates of some reads by their words; turns reads round that then fit better."""
        if not len(some):
            return
        reads = [self.reads[i] for i in some]
        found, swapped = _by_words(self.references, reads, self.score[some], _of(self.allowed, some))
        self.rows[some, CANDIDATES : CANDIDATES + found.shape[1]] = found
        for i in some[swapped]:
            self.reads[i], self.turned[i] = complement(self.reads[i]), ~self.turned[i]

    def align(self, some: NDArray[np.int64], most: int) -> None:
        """Sets identity and overlap of at most `most` candidates of some reads by their edit distances."""
        for i in some:
            best, rows = LARGEST_DISTANCE, self.rows[i]
            at = np.flatnonzero(rows >= 0)
            at = at[np.sort(np.unique(rows[at], return_index=True)[1])]
            for place in at[np.argsort(-self.identity[i][at], kind="stable")][:most]:
                read, key = _overlapping(self.reads[i], self.references, self.own, int(i), int(rows[place]))
                length = min(len(read), len(key)) - sum(map(unknown_letters, (read, key)))
                if length < WORD:
                    continue
                share = min(edit_distance(read, key, int((best + 0.1) * length) + 1) / length, 1.0)
                best = min(best, share)
                if 1 - share >= self.identity[i, place]:
                    self.identity[i, place], self.overlap[i, place] = 1 - share, length

    def mend(self, some: NDArray[np.int64]) -> None:
        """Takes insertions and deletions out of the place of some reads in the region, and searches them again."""
        assert self.own is not None and self.references.placed is not None and self.references.region is not None
        keys, best = self.references.placed, lower_bound(self.identity, self.overlap).argmax(1)
        near = self.rows[np.arange(len(best)), best]
        some = some[keys.score[near[some]] >= LEAST_SCORE]
        for part in blocks([self.reads[i] for i in some]):
            at = some[part]
            codes = letters([self.reads[i] for i in at]).numpy().astype(np.uint8)
            found, gaps, shifted = mended(codes, self.own.start[at], keys.aligned[near[at]])
            changed = gaps > 0
            at = at[changed]
            if not len(at):
                continue
            self.own.aligned[at], self.gaps[at] = found[changed], gaps[changed]
            self.shifted[at] = shifted[changed]
            vectors = self.references.region.vectors([self.reads[i] for i in at], self.own.aligned[at])
            self.own.vectors[torch.from_numpy(at)] = vectors
            self.by_region(at)

    def result(self) -> Matches:
        """All candidates in their order, each once."""
        rows, identity, overlap = self.rows, self.identity, self.overlap
        n, own, placed = len(rows), self.own, self.references.placed
        cosine = np.zeros(rows.shape, np.float32)
        inside = np.fromiter(map(len, self.reads), np.int64, n)
        if own is not None and placed is not None:
            inside = (own.aligned != NOTHING).sum(1)
            for part in _parts(np.arange(n)):
                keys = placed.vectors[torch.from_numpy(rows[part].clip(0))].float()
                cosine[part] = torch.einsum("nd,ncd->nc", own.vectors[torch.from_numpy(part)].float(), keys).numpy()
            cosine[rows < 0] = 0
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


def _of(allowed: Tensor | None, rows: NDArray[np.int64]) -> Tensor | None:
    return None if allowed is None else allowed[torch.from_numpy(rows)]


def _nearest(queries: Tensor, keys: Tensor, good: Tensor, allowed: Tensor | None) -> NDArray[np.int64]:
    """The nearest keys of queries by cosine, (n, C)."""
    similarity = (queries @ keys.T).float()
    similarity.masked_fill_(~good, -torch.inf)
    if allowed is not None:
        similarity.masked_fill_(~allowed, -torch.inf)
    values, places = similarity.topk(min(CANDIDATES, len(keys)), dim=1)
    return np.asarray(places.masked_fill_(values == -torch.inf, -1).numpy())


def compared(
    reads: NDArray[np.uint8], keys: NDArray[np.uint8], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Equal letters and overlap of aligned reads (n, P) and their candidates (n, C), position by position."""
    other = keys[rows.clip(0)]
    both = (other != NOTHING) & (reads[:, None] != NOTHING)
    overlap = both.sum(2, dtype=np.int32)
    equal = ((other == reads[:, None]) & both).sum(2, dtype=np.int32)
    overlap[rows < 0] = 0
    equal[rows < 0] = 0
    return equal, overlap


def _by_words(
    references: References, reads: list[str], score: NDArray[np.float32], allowed: Tensor | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """References that share most words with reads (n, C), and the reads that fit better turned round.

    The share is of the words of the one that has fewer. The other strand is tried where the region does not tell it.
    """
    strands = [reads]
    if references.region is None or (score < LEAST_SCORE).any():
        strands.append([complement(read) for read in reads])
    k = min(CANDIDATES, len(references))
    best = [torch.full((len(reads), k), -1.0) for _ in strands]
    rows = [torch.full((len(reads), k), -1) for _ in strands]
    asked = [[(block, *words(letters([strand[i] for i in block]))) for block in blocks(strand)] for strand in strands]
    for first in range(0, len(references), REFERENCES_AT_ONCE):
        keys, numbers = references.words(slice(first, first + REFERENCES_AT_ONCE))
        for strand, parts in enumerate(asked):
            for block, own, count in parts:
                at = torch.from_numpy(block)
                shared = (own @ keys.T).float()
                shared /= torch.minimum(count[:, None], numbers).clamp(min=1)
                shared.masked_fill_(numbers < 0.1 * count[:, None], -1)  # a few letters are found anywhere
                if allowed is not None:
                    shared.masked_fill_(~allowed[at][:, first : first + len(keys)], -1)
                values, places = shared.topk(min(k, shared.shape[1]), dim=1)
                values, places = (
                    torch.cat([best[strand][at], values], 1),
                    torch.cat([rows[strand][at], places + first], 1),
                )
                top, order = values.topk(k, dim=1)
                best[strand][at], rows[strand][at] = top, places.gather(1, order).masked_fill(top < 0, -1)
    if len(strands) == 1:
        return rows[0].numpy(), np.empty(0, np.int64)
    uncertain = (
        torch.from_numpy(score < LEAST_SCORE) if references.region else torch.ones(len(reads), dtype=torch.bool)
    )
    swap = (best[1][:, 0] > best[0][:, 0]) & uncertain
    return torch.where(swap[:, None], rows[1], rows[0]).numpy(), swap.nonzero().flatten().numpy()


def _word_table(sequences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Words of sequences (n, W), and their numbers (n,)."""
    parts = [(torch.from_numpy(block), *words(letters([sequences[i] for i in block]))) for block in blocks(sequences)]
    order = torch.cat([at for at, _, _ in parts]).argsort()
    return torch.cat([table for _, table, _ in parts])[order], torch.cat([count for _, _, count in parts])[order]


def _overlapping(read: str, references: References, own: Placed | None, i: int, row: int) -> tuple[str, str]:
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
