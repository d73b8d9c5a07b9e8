"""Barcodes that agree with a part of another where one of them has unknown letters: N, or another IUPAC code.

Time grows with the number of letters, and with the pairs of a barcode with unknown letters and another that have a
block in common. Memory is bounded: only so many barcodes are compared at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .hashes import FACTOR, Hashes, HashSet, blocks_of_texts
from .substrings import ANCHOR, Mask

#: Least share of the letters of the shorter barcode that are known in both.
LEAST_KNOWN = 0.5

#: A base is a bit; an IUPAC code has the bits of its bases. Other letters agree with nothing.
_BASES = {"A": 1, "C": 2, "G": 4, "T": 8, "R": 5, "Y": 10, "S": 6, "W": 9, "K": 12, "M": 3}
_BASES |= {"B": 14, "D": 13, "H": 11, "V": 7, "N": 15}
_BITS, _PADDING = np.zeros(128, np.uint8), 31
_BITS[[ord(letter) for letter in _BASES]] = list(_BASES.values())
_DIGIT = np.full(32, 4, np.uint8)  # 4: not known
_DIGIT[[1, 2, 4, 8]] = range(4)

_AHEAD = np.arange(1, 9)  # blocks that are compared first
_ANCHORED = 1 << 25  # letters of barcodes that are looked for at once
_PAIRS, _LETTERS = 1 << 20, 1 << 22  # pairs, and letters of pairs, that are compared at once

Places = NDArray[np.int64]


def agreeing(queries: Sequence[str], references: Sequence[str]) -> Mask:
    """Which queries (n,) agree with a reference where one of the two has unknown letters.

    Two barcodes agree if the shorter, laid at some place of the longer, has a base in common with it at each letter:
    N with any, R with A, G and W, but A not with G. At least `LEAST_KNOWN` of its letters have to be A, C, G or T in
    both, and so do all letters of one of the blocks of `ANCHOR` letters into which it is cut from its beginning on.
    """
    ours, theirs = _unclear(queries), _unclear(references)
    found = np.zeros(len(queries), np.bool_)
    for some, others in ((ours, np.ones(len(references), np.bool_)), (~ours, theirs)):
        for pairs in _inside(queries, some, references, others):
            found[pairs[0]] = True
    for some, others in ((theirs, ~found), (~theirs, ours & ~found)):
        for pairs in _inside(references, some, queries, others, longer=1):
            found[pairs[1]] = True
    return found


def _unclear(texts: Sequence[str]) -> Mask:
    """Which texts have another letter than A, C, G and T."""
    return np.array([bool(text.encode().translate(None, b"ACGT")) for text in texts], np.bool_)


def _inside(
    parts: Sequence[str], some: Mask, wholes: Sequence[str], others: Mask, *, longer: int = 0
) -> Iterator[Places]:
    """Pairs (2, p) of a part and a whole, of those named by the masks, where the part agrees with a place of it.

    Pairs in which the whole is not `longer` than the part by so many letters may be left out.
    """
    numbers = np.flatnonzero(others)
    most = max((len(wholes[number]) for number in numbers.tolist()), default=0) - longer
    rows = np.array([row for row in np.flatnonzero(some).tolist() if len(parts[row]) <= most], np.int64)
    for chunk in _chunks(parts, rows) if len(numbers) else ():
        for first, texts in blocks_of_texts([wholes[number] for number in numbers.tolist()]):
            scanned = _Scanned(texts)
            for candidates in _candidates(chunk, scanned):
                pairs = _compared(chunk, scanned, candidates)
                yield np.stack([chunk.rows[pairs[0]], numbers[first + pairs[1]]])


def _chunks(texts: Sequence[str], rows: Places) -> Iterator[_Anchored]:
    """Some texts, by length, in parts of `_ANCHORED` letters with padding."""
    lengths = np.array([len(texts[row]) for row in rows.tolist()], np.int64)
    rows, lengths = rows[np.argsort(lengths, kind="stable")], np.sort(lengths)
    start = int(np.searchsorted(lengths, ANCHOR))
    while start < len(rows):
        sizes = lengths[start:] * np.arange(1, len(rows) - start + 1)
        end = start + max(1, int(np.searchsorted(sizes, _ANCHORED, side="right")))
        yield _Anchored(rows[start:end], [texts[row] for row in rows[start:end].tolist()])
        start = end


class _Index(NamedTuple):
    """Blocks of anchored barcodes by their letters: barcode, block, letters (ascending), and `_prints`."""

    rows: Places
    blocks: Places
    letters: Hashes
    prints: Hashes
    set: HashSet


class _Anchored:
    """Barcodes in L positions and K blocks of `ANCHOR` letters.

    Attributes:
        rows: Numbers of the barcodes (n,).
        lengths: Their letters (n,).
        bits: Bases of each position (n, L).
        letters: Letters of each block (n, K): a number of base 4, times `FACTOR`; 0 where not all are known.
        whole: Blocks in which all letters are known (n, K).
    """

    def __init__(self, rows: Places, texts: list[str]):
        self.rows = rows
        self.lengths = np.array([len(one) for one in texts])
        width = int(self.lengths.max())
        self.bits = np.full((len(texts), width), _PADDING, np.uint8)
        self.bits[np.arange(width) < self.lengths[:, None]] = _bits(texts)
        digits = _DIGIT[self.bits[:, : width // ANCHOR * ANCHOR]].reshape(len(texts), -1, ANCHOR)
        self.whole: Mask = np.all(digits < 4, axis=2)
        self.letters = np.zeros(self.whole.shape, np.uint64)
        for place in range(ANCHOR):
            self.letters *= np.uint64(4)
            self.letters += digits[:, :, place]
        self.letters *= FACTOR
        self.letters *= self.whole

    @cached_property
    def all(self) -> _Index:
        """All whole blocks."""
        return self._index(self.whole)

    @cached_property
    def leading(self) -> _Index:
        """Whole blocks behind one that is not whole, or none."""
        before = np.pad(self.whole[:, :-1], ((0, 0), (1, 0)))
        return self._index(self.whole & ~before)

    @cached_property
    def first(self) -> _Index:
        """The first whole block of each barcode that has unknown letters."""
        unclear = (_DIGIT[self.bits] == 4).sum(1) > self.bits.shape[1] - self.lengths
        return self._index(self.whole & (self.whole.cumsum(1) == 1) & unclear[:, None])

    def _index(self, chosen: NDArray[np.bool_]) -> _Index:
        rows, blocks = np.nonzero(chosen)
        letters = self.letters[rows, blocks]
        order = np.argsort(letters, kind="stable")
        rows, blocks = rows[order], blocks[order]
        ahead = np.pad(self.letters, ((0, 0), (0, len(_AHEAD))))
        prints = _prints(ahead[rows[:, None], blocks[:, None] + _AHEAD])
        return _Index(rows, blocks, letters[order], prints, HashSet(letters))


class _Scanned:
    """Barcodes in one row of letters.

    Attributes:
        starts, ends: Of the barcodes (n,).
        clear: Which have no unknown letter (n,).
        bits: Bases of each letter.
        of: Barcode of each letter.
        letters: Of the window of `ANCHOR` letters from each place on, as those of blocks; 0 where not known.
        known: Which windows have known letters of one barcode only.
    """

    def __init__(self, texts: list[str]):
        lengths = np.array([len(one) for one in texts])
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        self.bits = _bits(texts)
        digits = _DIGIT[self.bits]
        count = max(0, len(digits) - ANCHOR + 1)
        letters, known = (digits & 3).astype(np.uint64), digits < 4
        totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(~known)])
        self.clear = totals[self.ends] == totals[self.starts]
        self.known = totals[ANCHOR:] == totals[:count]
        for end in self.ends.tolist():
            self.known[max(0, end - ANCHOR + 1) : end] = False
        eight = letters
        for size in (1, 2, 4):
            eight = _joined(eight, eight, size)
        self.letters = (_joined(_joined(eight, eight, 8), eight, 16, 8) * FACTOR)[:count] * self.known
        self.of = np.repeat(np.arange(len(texts)), lengths)


def _joined(left: Hashes, right: Hashes, size: int, right_size: int | None = None) -> Hashes:
    """Numbers of windows of `size` letters, each followed by the window of `right_size` letters behind it."""
    right_size = right_size or size
    return (left[: max(0, len(right) - size)] << np.uint64(2 * right_size)) | right[size:]


def _prints(letters: Hashes) -> Hashes:
    """A byte of each of 8 blocks (n, 8), and which of them are known: (2, n)."""
    prints = np.stack([letters >> np.uint64(56), np.uint64(255) * (letters != 0)]).astype(np.uint8)
    return prints.view(np.uint64)[..., 0]


def _bits(texts: list[str]) -> NDArray[np.uint8]:
    return _BITS[np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)]


class _Candidates(NamedTuple):
    """Barcodes (p,) of which a whole block equals a window: the barcode, the block, the place of the window."""

    rows: Places
    blocks: Places
    windows: Places

    def only(self, chosen: NDArray[np.bool_]) -> _Candidates:
        """Some of them."""
        return _Candidates(*(part[chosen] for part in self))


def _candidates(anchored: _Anchored, scanned: _Scanned) -> Iterator[_Candidates]:
    """Each place of a pair once: by the first block that is known in both. One of the two is unclear."""
    of = scanned.of[: len(scanned.known)]
    clear = scanned.clear[of]
    places = np.arange(len(of)) - ANCHOR
    behind_unknown = (places >= scanned.starts[of]) & ~scanned.known[places]  # then no block before is known in both
    for index, asked in (("first", clear), ("all", ~clear & behind_unknown), ("leading", ~clear & ~behind_unknown)):
        windows = np.flatnonzero(asked & scanned.known)
        found: _Index | None = getattr(anchored, index) if len(windows) else None
        if found is None or not len(found.rows):
            continue
        windows = windows[found.set.find(scanned.letters[windows])]
        prints = _prints(scanned.letters[np.minimum(windows[:, None] + ANCHOR * _AHEAD, len(of) - 1)])
        for near, at in _equal(found.letters, scanned.letters[windows]):
            ours, theirs = found.prints[:, near], prints[:, at]
            alike = (ours[0] ^ theirs[0]) & ours[1] & theirs[1] == 0
            near, at = near[alike], at[alike]
            some = _Candidates(found.rows[near], found.blocks[near], windows[at])
            texts = of[some.windows]
            start = some.windows - ANCHOR * some.blocks
            fits = (start >= scanned.starts[texts]) & (start + anchored.lengths[some.rows] <= scanned.ends[texts])
            yield _first_block(anchored, scanned, some.only(fits)) if index != "first" else some.only(fits)


def _first_block(anchored: _Anchored, scanned: _Scanned, some: _Candidates) -> _Candidates:
    """Those without a block before that is known in both."""
    back = 1
    while len(behind := np.flatnonzero(some.blocks >= back)):
        rows, blocks, windows = (part[behind] for part in some)
        before = anchored.whole[rows, blocks - back] & scanned.known[windows - ANCHOR * back]
        first = np.ones(len(some.rows), np.bool_)
        first[behind[before]] = False
        some, back = some.only(first), back + 1
    return some


def _equal(ascending: Hashes, asked: Hashes) -> Iterator[tuple[Places, Places]]:
    """Places of equal values in both, in parts."""
    low = np.searchsorted(ascending, asked)
    counts = np.searchsorted(ascending, asked, side="right") - low
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // _PAIRS)) + 1
    for part in np.split(np.arange(len(asked)), cuts):
        sizes = counts[part]
        steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield np.repeat(low[part], sizes) + steps, np.repeat(part, sizes)


def _compared(anchored: _Anchored, scanned: _Scanned, some: _Candidates) -> Places:
    """Pairs (2, p) that agree at all letters: barcodes of `anchored` and of `scanned`."""
    count = anchored.whole.shape[1]
    for ahead in range(1, count):
        block = np.minimum(some.blocks + ahead, count - 1)
        ours = anchored.letters[some.rows, block]
        theirs = scanned.letters[np.minimum(some.windows + ANCHOR * (block - some.blocks), len(scanned.known) - 1)]
        some = some.only((ours == theirs) | (ours == 0) | (theirs == 0))
    pairs = []
    width = anchored.bits.shape[1]
    positions = np.arange(width)
    step = max(1, _LETTERS // width)
    for start in range(0, len(some.rows), step):
        rows, blocks, windows = (part[start : start + step] for part in some)
        letters = (windows - ANCHOR * blocks)[:, None] + positions
        ours, theirs = anchored.bits[rows], scanned.bits[np.minimum(letters, len(scanned.bits) - 1)]
        agree = ((ours & theirs > 0) | (ours == _PADDING)).all(1)
        known = ((_DIGIT[ours] < 4) & (_DIGIT[theirs] < 4)).sum(1)
        agree &= known >= LEAST_KNOWN * anchored.lengths[rows]
        pairs.append(np.stack([rows[agree], scanned.of[windows[agree]]]))
    return np.concatenate([np.zeros((2, 0), np.int64), *pairs], axis=1)
