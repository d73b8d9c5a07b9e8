"""Finds query barcodes that are in the references: equal, a part of one, or a copy.

A nearest-neighbour probe finds such queries by their sequence alone. A part is a trimmed copy, such as a read without
its ends. Other copies are on the other strand, have unknown letters, or one letter more or less. Source of the first
two: the audit of BarcodeMAE+, https://github.com/bioscan-ml/BarcodeMAE-plus
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..partition.copies import Copies, find_copies
from ..partition.substrings import Mask, overlapping


class Leaks(NamedTuple):
    """Queries that are in the references; each is of the first kind that fits.

    Attributes:
        exact: Queries (n,) that equal a reference.
        substring: Queries (n,) that are a part of a reference or contain one.
        reversed: Queries (n,) whose other strand equals a reference, is a part of one, or contains one.
        unknown: Queries (n,) that agree with a reference where one of them has unknown letters.
        indel: Queries (n,) that equal a reference but for one inserted or deleted letter.
    """

    exact: Mask
    substring: Mask
    reversed: Mask
    unknown: Mask
    indel: Mask

    @property
    def any(self) -> Mask:
        """Queries (n,) of any kind."""
        found: Mask = np.logical_or.reduce(self)
        return found

    @property
    def copies(self) -> Copies:
        """The kinds of copies with other letters."""
        return Copies(self.reversed, self.unknown, self.indel)

    def counts(self) -> dict[str, int]:
        """Kind -> number of queries."""
        return {kind: int(mask.sum()) for kind, mask in self._asdict().items()}


def find_leaks(references: Sequence[str], queries: Sequence[str]) -> Leaks:
    """Finds the queries that equal a reference, are a part of one, contain one, or are another copy (`find_copies`).

    N at the ends of barcodes is left out. Barcodes that differ by a substitution do not count. Parts and copies of
    fewer than 24 letters are not looked for, and barcodes without letters are never a leak. Time grows with the number
    of letters, not of pairs.

    Args:
        references, queries: Barcodes in their one spelling, as datasets hold them.
    """
    kinds = np.zeros((len(Leaks._fields), len(queries)), np.bool_)
    if not len(queries):
        return Leaks(*kinds)
    ours, places = np.unique([query.strip("N") for query in queries], return_inverse=True)
    theirs = set(one.strip("N") for one in references) - {""}
    parts, wholes = ours.tolist(), sorted(theirs)
    found = np.zeros((len(kinds), len(parts)), np.bool_)
    found[0] = [query in theirs for query in parts]
    left = np.flatnonzero(~found[0])
    found[1, left] = overlapping([parts[number] for number in left.tolist()], wholes)
    left = np.flatnonzero(~found[:2].any(0))
    found[2:, left] = find_copies([parts[number] for number in left.tolist()], wholes)
    return Leaks(*found[:, places.reshape(-1)])
