"""Barcodes that are copies of a reference although their letters differ: strand, unknown letters, an inserted letter.

Copies that equal a reference or lie inside one are found by `substrings`. Barcodes that differ by a substitution are
no copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..barcodes import complement
from .hashes import HashSet, hashed, text_hashes
from .substrings import ANCHOR, Mask, overlapping
from .unknown import agreeing


class Copies(NamedTuple):
    """Queries that are copies of a reference; each is of the first kind that fits.

    Attributes:
        reversed: Queries (n,) whose other strand equals a reference, is a part of one, or contains one.
        unknown: Queries (n,) that agree with a reference where one of them has unknown letters (`agreeing`).
        indel: Queries (n,) that equal a reference but for one inserted or deleted letter.
    """

    reversed: Mask
    unknown: Mask
    indel: Mask

    def told(self) -> str:
        """Number of each kind."""
        return (
            f"{self.reversed.sum():,} on the other strand, {self.unknown.sum():,} equal up to unknown letters, "
            f"{self.indel.sum():,} with one letter more or less"
        )


def find_copies(queries: Sequence[str], references: Sequence[str]) -> Copies:
    """Finds the queries that are copies of a reference with other letters.

    Copies with unknown letters, or with one letter more or less, are found on both strands; a copy that has both is
    not found. Barcodes of fewer than `ANCHOR` letters are not looked for. Time grows with the number of letters, not
    of pairs; for the exception see `unknown`.

    Args:
        queries, references: Barcodes in their one spelling, without N at their ends. No query equals a reference, is
            a part of one, or contains one.
    """
    kinds = np.zeros((3, len(queries)), np.bool_)
    left = np.array([number for number, query in enumerate(queries) if len(query) >= ANCHOR], np.int64)
    references = [reference for reference in references if len(reference) >= ANCHOR]
    turned = [complement(queries[number]) for number in left.tolist()]
    known = set(references)
    equal = np.array([query in known for query in turned], np.bool_)
    kinds[0, left] = equal | overlapping(turned, references)
    for kind, find in ((1, agreeing), (2, one_letter_apart)):
        left = left[~kinds[kind - 1, left]]
        strands = [queries[number] for number in left.tolist()]
        strands += map(complement, strands[:])
        kinds[kind, left] = find(strands, references).reshape(2, -1).any(0)
    return Copies(*kinds)


def one_letter_apart(queries: Sequence[str], references: Sequence[str]) -> Mask:
    """Which queries (n,) become a reference if one letter is deleted, or inserted at any place."""
    return _without_one(queries, references)[0] | _without_one(references, queries)[1]


def _without_one(longer: Sequence[str], shorter: Sequence[str]) -> tuple[Mask, Mask]:
    """Which longer texts (n,) become a shorter one without one letter, and which shorter ones (m,) they become."""
    wanted, sizes = set(shorter), set(map(len, shorter))
    found: set[str] = set()
    becoming = np.zeros(len(longer), np.bool_)
    asked = [number for number, text in enumerate(longer) if len(text) - 1 in sizes]
    if asked:
        hashes = HashSet(text_hashes(shorter))
        for first, block in hashed([longer[number] for number in asked]):
            texts, places = block.places(hashes.find(block.without_each()))
            for number, place in zip(texts.tolist(), places.tolist(), strict=True):
                text = longer[asked[first + number]]
                less = text[:place] + text[place + 1 :]
                if less in wanted:
                    found.add(less)
                    becoming[asked[first + number]] = True
    return becoming, np.array([text in found for text in shorter], np.bool_)
