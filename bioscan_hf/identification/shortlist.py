"""Shortlists of references for reads: the nearest by vectors, and those that share most words.

Few references are all compared with each read, in matrix products. Many references lie in cells (Sivic and Zisserman
2003, https://doi.org/10.1109/ICCV.2003.1238663), and only those of the nearest cells are compared: for vectors, the
cells of the nearest centres; for words, the cells of the representatives that share most words with the read.
Shape letters: n = reads, N = references, C = candidates, D = components, W = 4,096 words, R = representatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..search.cells import cell_centres
from .letters import Bits, bit_counts, unpacked

#: From this number of references they lie in cells.
MANY = 50_000

#: Cells of vectors that are searched; and vectors for each cell that the centres are learned from.
SEARCHED, LEARNED = 24, 40

#: Cells of words that are searched, and most of them.
WORD_CELLS, MOST_WORD_CELLS = 16, 4096

#: For at most so many reads, words are counted as bits.
FEW_READS = 24

#: References and reads that are compared at once.
REFERENCES_AT_ONCE, READS_AT_ONCE = 16_384, 2048

Ids = NDArray[np.int64]
Near = tuple[Ids, NDArray[np.float32]]


@dataclass
class LeftOut:
    """References that each of n reads may not match: its own record, and the records of its taxon.

    Attributes:
        rows: The own record (n,), -1 for none.
        level: Row of `taxa` (n,), -1 for none.
        code: Code of the taxon that is left out (n,), -1 for none.
        taxa: Codes of the references at each level (levels, N).
    """

    rows: Ids
    level: Ids
    code: Ids
    taxa: NDArray[np.int32]

    def of(self, some: Ids) -> LeftOut:
        """Those of some reads."""
        return LeftOut(self.rows[some], self.level[some], self.code[some], self.taxa)

    def allows(self, candidates: Ids) -> NDArray[np.bool_]:
        """Whether reads may match their candidates (n, C), or candidates that all share (C,)."""
        allowed = np.asarray(candidates != self.rows[:, None])
        for level in np.unique(self.level[(self.level >= 0) & (self.code >= 0)]).tolist():
            here = np.flatnonzero((self.level == level) & (self.code >= 0))
            own = self.taxa[level][candidates if candidates.ndim == 1 else candidates[here]]
            allowed[here] &= own != self.code[here, None]
        return allowed


def nearest(queries: Tensor, keys: Tensor, good: Tensor, k: int, left_out: LeftOut | None = None) -> Near:
    """The nearest keys of queries by cosine, (n, k), -1 after the last; and cosines minus 1.

    Args:
        queries: Unit vectors (n, D) bfloat16.
        keys: Unit vectors (N, D) bfloat16.
        good: Whether a key can be found (N,).
    """
    found = torch.full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
    for first in range(0, len(keys), REFERENCES_AT_ONCE):
        part = slice(first, first + REFERENCES_AT_ONCE)
        similarity = cosines(queries, keys[part], good[part])
        if left_out is not None:
            rows = np.arange(first, first + similarity.shape[1])
            similarity.masked_fill_(torch.from_numpy(~left_out.allows(rows)), -torch.inf)
        found = _joined(found, similarity, torch.arange(first, first + similarity.shape[1]))
    return found[1].numpy(), found[0].numpy()


def cosines(queries: Tensor, keys: Tensor, good: Tensor | None = None) -> Tensor:
    """Cosines minus 1, (n, N): near 0, bfloat16 is finer than near 1, where its step is 0.004.

    -inf for keys that are not good (N,).
    """
    minus = torch.tensor(-1.0) if good is None else torch.where(good, -1.0, -torch.inf)
    return torch.addmm(minus.to(queries.dtype), queries, keys.T)


def _joined(found: tuple[Tensor, Tensor], values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest values and their rows among those found (n, k) and new ones (n, m)."""
    k = found[0].shape[1]
    best, place = values.topk(min(k, values.shape[1]), dim=1)
    best = best.float()
    if not torch.isfinite(found[0]).any() and best.shape[1] == k:
        joined, at = best, rows[place]
    else:
        joined, order = torch.cat([found[0], best], 1).topk(k, dim=1)
        at = torch.cat([found[1], rows[place]], 1).gather(1, order)
    return joined, at.masked_fill(joined == -torch.inf, -1)


@dataclass
class Cells:
    """References in cells.

    Attributes:
        centres: Unit vectors (cells, D) bfloat16.
        order: References, those of each cell together.
        starts: Place of the first of each cell in `order`, and the last place (cells + 1,).
    """

    centres: Tensor
    order: NDArray[np.int32]
    starts: Ids

    @classmethod
    def of(cls, vectors: Tensor, good: NDArray[np.bool_], seed: int = 0) -> Cells:
        """Cells of the good ones of vectors (N, D); about the square root of N."""
        rows = np.flatnonzero(good)
        number = max(1, int(len(rows) ** 0.5))
        some = np.sort(np.random.default_rng(seed).choice(rows, min(len(rows), LEARNED * number), replace=False))
        sample = vectors[torch.from_numpy(some)].float().numpy()
        centres = cell_centres(sample, number, seed=seed).to(torch.bfloat16)
        parts = [cosines(part, centres).max(1).indices.numpy() for part in vectors.split(REFERENCES_AT_ONCE)]
        return cls(centres, *_grouped(np.concatenate(parts), rows, number))

    def nearest(self, queries: Tensor, keys: Tensor, good: Tensor, k: int, left_out: LeftOut | None = None) -> Near:
        """As `nearest`, among the keys of the nearest cells; of all cells for queries that find fewer than `k`."""
        searched = min(SEARCHED, len(self.centres))
        chosen = cosines(queries, self.centres).topk(searched, dim=1).indices.numpy()
        values = torch.full((len(queries), searched, k), -torch.inf)
        rows = torch.full((len(queries), searched, k), -1)
        for cell, reads, ranks in _by_cell(chosen, len(self.centres)):
            members = self.order[self.starts[cell] : self.starts[cell + 1]].astype(np.int64)
            if not len(members):
                continue
            at = torch.from_numpy(reads)
            several = torch.from_numpy(_padded(reads)), torch.from_numpy(_padded(members))
            similarity = cosines(queries[several[0]], keys[several[1]])[: len(reads), : len(members)]
            if left_out is not None:
                similarity.masked_fill_(torch.from_numpy(~left_out.of(reads).allows(members)), -torch.inf)
            best, place = similarity.topk(min(k, len(members)), dim=1)
            values[at, torch.from_numpy(ranks), : best.shape[1]] = best.float()
            rows[at, torch.from_numpy(ranks), : best.shape[1]] = torch.from_numpy(members)[place]
        best, order = values.flatten(1).topk(k, dim=1)
        found = rows.flatten(1).gather(1, order).masked_fill(best == -torch.inf, -1).numpy()
        cosine = best.numpy()
        few = np.flatnonzero((found < 0).any(1))
        if len(few) and len(keys) > k:
            some = None if left_out is None else left_out.of(few)
            found[few], cosine[few] = nearest(queries[torch.from_numpy(few)], keys, good, k, some)
        return found, cosine


def _padded(rows: Ids) -> Ids:
    """Rows with the first one again, up to one of few lengths: a product of each new shape is compiled and kept."""
    step = max(16, 1 << max(len(rows).bit_length() - 2, 0))
    return np.concatenate([rows, np.full(-len(rows) % step, rows[0])])


def _grouped(cell: Ids, rows: Ids, number: int) -> tuple[NDArray[np.int32], Ids]:
    """`order` and `starts` of `Cells` for some rows, from the cell of every reference (N,)."""
    order = rows[np.argsort(cell[rows], kind="stable")].astype(np.int32)
    return order, np.concatenate([[0], np.bincount(cell[rows], minlength=number).cumsum()]).astype(np.int64)


def _by_cell(chosen: Ids, number: int) -> Iterator[tuple[int, Ids, Ids]]:
    """Each cell that is chosen (n, searched), the reads that chose it, and where."""
    flat = chosen.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(number + 1))
    for cell in np.flatnonzero(np.diff(starts)).tolist():
        places = order[starts[cell] : starts[cell + 1]]
        yield cell, places // chosen.shape[1], places % chosen.shape[1]


class Words:
    """Words of references.

    Args:
        bits: Whether each reference has each word (N, W / 64); also mapped from a file.
        representatives: References in whose cells the others lie (R,).
        order, starts: Members of the cells, as in `Cells`.
    """

    def __init__(
        self,
        bits: Bits,
        representatives: Ids | None = None,
        order: NDArray[np.int32] | None = None,
        starts: Ids | None = None,
    ) -> None:
        self.bits, self.representatives, self.order, self.starts = bits, representatives, order, starts
        self._kept: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, bits: Bits, seed: int = 0) -> Words:
        """Words of references, in cells if there are many."""
        if len(bits) < MANY:
            return cls(bits)
        number = min(MOST_WORD_CELLS, int(4 * len(bits) ** 0.5))
        chosen = np.sort(np.random.default_rng(seed).choice(len(bits), number, replace=False))
        table, counts = _table(bits[chosen])
        cell = np.empty(len(bits), np.int64)
        for first in range(0, len(bits), READS_AT_ONCE):
            shared = unpacked(bits[first : first + READS_AT_ONCE]) @ table.T
            cell[first : first + READS_AT_ONCE] = (shared.float() / counts.clamp(min=1).sqrt()).max(1).indices.numpy()
        return cls(bits, chosen, *_grouped(cell, np.arange(len(bits)), number))

    def most_shared(self, reads: Bits, k: int, left_out: LeftOut | None = None) -> Near:
        """References that share most words with reads (n, W / 64), (n, k), and the shares; -1 after the last.

        The share is of the words of the one that has fewer.
        """
        found = np.full((len(reads), k), -1), np.full((len(reads), k), -1, np.float32)
        for first in range(0, len(reads), READS_AT_ONCE):
            part = np.arange(first, min(first + READS_AT_ONCE, len(reads)))
            some = None if left_out is None else left_out.of(part)
            how = self._among_all if self.representatives is None else self._in_cells
            found[0][part], found[1][part] = how(reads[part], k, some)
        return found

    def _among_all(self, reads: Bits, k: int, left_out: LeftOut | None) -> Near:
        own, count = _table(reads)
        found = torch.full((len(reads), k), -torch.inf), torch.full((len(reads), k), -1)
        for first in range(0, len(self.bits), REFERENCES_AT_ONCE):
            share = _share(own, count, *self._part(first))
            rows = np.arange(first, first + share.shape[1])
            if left_out is not None:
                share.masked_fill_(torch.from_numpy(~left_out.allows(rows)), -torch.inf)
            found = _joined(found, share, torch.from_numpy(rows))
        return found[1].numpy(), found[0].numpy()

    def _part(self, first: int) -> tuple[Tensor, Tensor]:
        """Words (n, W) of the references from one on, and their numbers (n,); kept if all fit in one part."""
        if self._kept is not None:
            return self._kept
        found = _table(self.bits[first : first + REFERENCES_AT_ONCE])
        if len(self.bits) <= REFERENCES_AT_ONCE:
            self._kept = found
        return found

    def _in_cells(self, reads: Bits, k: int, left_out: LeftOut | None) -> Near:
        assert self.representatives is not None and self.order is not None and self.starts is not None
        if self._kept is None:
            self._kept = _table(self.bits[self.representatives])
        share = _share(*_table(reads), *self._kept)
        if left_out is not None:
            share.masked_fill_(torch.from_numpy(~left_out.allows(self.representatives)), -torch.inf)
        searched = min(WORD_CELLS, share.shape[1])
        chosen = share.topk(searched, dim=1).indices.numpy()
        rows = np.full((len(reads), searched, k), -1)
        values = np.full((len(reads), searched, k), -np.inf, np.float32)
        for cell, asked, ranks in _by_cell(chosen, len(self.representatives)):
            members = self.order[self.starts[cell] : self.starts[cell + 1]].astype(np.int64)
            near = _share_of(reads[asked], self.bits[members])
            if left_out is not None:
                near.masked_fill_(torch.from_numpy(~left_out.of(asked).allows(members)), -torch.inf)
            best, place = near.topk(min(k, len(members)), dim=1)
            values[asked, ranks, : best.shape[1]] = best.numpy()
            rows[asked, ranks, : best.shape[1]] = members[place.numpy()]
        flat = torch.from_numpy(values.reshape(len(reads), -1))
        top, order = flat.topk(k, dim=1)
        found = np.take_along_axis(rows.reshape(len(reads), -1), order.numpy(), 1)
        return np.where(torch.isneginf(top).numpy(), -1, found), top.numpy()


def _table(bits: Bits) -> tuple[Tensor, Tensor]:
    """Words (n, W) bfloat16 and their numbers (n,)."""
    return unpacked(bits), torch.from_numpy(bit_counts(bits)).float()


def _share_of(reads: Bits, keys: Bits) -> Tensor:
    """Shares of words (n, N) by counting bits if there are few reads, for which a table would take longer."""
    if len(reads) > FEW_READS:
        return _share(*_table(reads), *_table(keys))
    shared = np.stack([np.bitwise_count(keys & read).sum(1, dtype=np.int32) for read in reads])
    count, numbers = bit_counts(reads)[:, None], bit_counts(keys)
    share = shared / np.maximum(np.minimum(count, numbers), 1).astype(np.float32)
    share[numbers < 0.1 * count] = -np.inf
    return torch.from_numpy(share.astype(np.float32))


def _share(own: Tensor, count: Tensor, keys: Tensor, numbers: Tensor) -> Tensor:
    """Shares of words (n, N); -inf for references of a few letters, which are found anywhere."""
    shared = (own @ keys.T).float()
    shared /= torch.minimum(count[:, None], numbers).clamp(min=1)
    return shared.masked_fill_(numbers < 0.1 * count[:, None], -torch.inf)
