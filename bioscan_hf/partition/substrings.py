"""Which texts are a part of another, such as a trimmed copy of a barcode.

Time grows with the number of letters, not of pairs: a part is looked for by a window in its middle and by its length.
Windows are found by their hashes, and parts are compared letter by letter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .hashes import HashSet, hashed, text_hashes

#: Letters of the window by which a part is looked for. Shorter parts are not found.
ANCHOR = 24

Mask = NDArray[np.bool_]


def contained(parts: Sequence[str], wholes: Sequence[str]) -> tuple[Mask, Mask]:
    """Which parts (n,) occur in a longer whole, and which wholes (W,) hold a shorter part.

    Parts of fewer than `ANCHOR` letters are not looked for.
    """
    wanted = {part for part in parts if len(part) >= ANCHOR}
    lengths: defaultdict[str, set[int]] = defaultdict(set)  # window in the middle -> lengths of the parts that have it
    for part in wanted:
        middle = _middle(len(part))
        lengths[part[middle : middle + ANCHOR]].add(len(part))
    found: set[str] = set()
    holding = np.zeros(len(wholes), np.bool_)
    if not wanted:
        return np.zeros(len(parts), np.bool_), holding
    windows = HashSet(text_hashes(list(lengths)))
    least = min(map(len, wanted))
    longer = [number for number, whole in enumerate(wholes) if len(whole) > least]
    for first, block in hashed([wholes[number] for number in longer]):
        texts, places = block.places(windows.find(block.windows(ANCHOR)))
        for number, place in zip(texts.tolist(), places.tolist(), strict=True):
            whole = wholes[longer[first + number]]
            for length in lengths.get(whole[place : place + ANCHOR], ()):
                start = place - _middle(length)
                part = whole[max(start, 0) : start + length]
                if start >= 0 and len(part) < len(whole) and part in wanted:
                    found.add(part)
                    holding[longer[first + number]] = True
    return np.array([part in found for part in parts], np.bool_), holding


def overlapping(queries: Sequence[str], references: Sequence[str]) -> Mask:
    """Which queries (n,) are a part of a longer reference, or contain a shorter one."""
    return contained(queries, references)[0] | contained(references, queries)[1]


def _middle(length: int) -> int:
    """Place of the window in a part of this length."""
    return (length - ANCHOR) // 2
