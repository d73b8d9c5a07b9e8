"""Barcodes of queries that are in the references: equal, or one a part of the other.

A nearest-neighbour probe finds such queries by their sequence alone. A part is a trimmed copy, such as a read without
its ends. Source: the audit of BarcodeMAE+, https://github.com/bioscan-ml/BarcodeMAE-plus
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..partition.substrings import Mask, contained


class Leaks(NamedTuple):
    """Queries that are in the references.

    Attributes:
        exact: Queries (n,) that equal a reference.
        substring: Other queries (n,) that are a part of a reference or contain one.
    """

    exact: Mask
    substring: Mask

    @property
    def any(self) -> Mask:
        """Queries (n,) of either kind."""
        return self.exact | self.substring


def find_leaks(references: Sequence[str], queries: Sequence[str]) -> Leaks:
    """Finds the queries that equal a reference, are a part of one, or contain one.

    N at the ends of barcodes is left out. Parts shorter than 24 letters are not looked for, and barcodes without
    letters are never a leak. Time grows with the number of letters, not of pairs.

    Args:
        references, queries: Barcodes in their one spelling, as datasets hold them.
    """
    ours, places = np.unique([query.strip("N") for query in queries], return_inverse=True)
    theirs = set(one.strip("N") for one in references) - {""}
    parts, wholes = ours.tolist(), sorted(theirs)
    exact = np.array([query in theirs for query in parts], np.bool_)
    others = [query for query, same in zip(parts, exact, strict=True) if not same and query]
    inside = contained(others, wholes)[0] | contained(wholes, others)[1]
    found = dict(zip(others, inside.tolist(), strict=True))
    substring = np.array([found.get(query, False) for query in parts], np.bool_)
    places = places.reshape(-1)
    return Leaks(exact[places], substring[places]) if len(queries) else Leaks(*np.zeros((2, 0), np.bool_))
