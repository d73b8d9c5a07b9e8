"""Placeholder names of species, such as "Megaselia sp. 3BIO".

A placeholder contains a digit, a dot, a capital letter inside, "sp", "aff", "gen" and the like, or a spelling of
"Malaise", or begins with a lower-case letter. This is the published rule with its quirks: "Ethmia Janzeni" is a
placeholder because of its capital.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_MALAISE = "[mM]+[aA]+[lLiI]+[aA]+[iIlL]+[sSzZ]+[eE]+"  # the trap's name in any spelling
_OPEN_NOMENCLATURE = (
    r"\baff\b",
    r"\bn[\x08.\s]+sp\b",  # \x08: the published "\b" is inside brackets, where it means backspace
    r"\bsp[\x08\s]+ex\b",
    r"\bgen\b",
    r"\bsp\b\.?[\s\w\d]+",
    r"affinis\s+[0-9A-Z]+",
)
# Not published: "Apis sp" and "Apis cf mellifera" are names no more than "Apis sp." and "Apis cf. mellifera".
_WITHOUT_DOT = r" (?:(?:spp?|ssp|spec|indet|nsp)$|(?:cf|nr|near)\b)"
PLACEHOLDER_SPECIES = re.compile(
    "|".join((_MALAISE, "^[a-z]", "[0-9]", "[^$][A-Z]", r"[._?]", _WITHOUT_DOT, *_OPEN_NOMENCLATURE))
)
PLACEHOLDER_GENUS = re.compile("|".join((_MALAISE, "^(?!unclassified|unassigned)[a-z]", *_OPEN_NOMENCLATURE)))


def placeholder_species(names: Sequence[str]) -> np.ndarray:
    """Which names of species are placeholders; the last element is False, for the id -1."""
    return _matches(PLACEHOLDER_SPECIES, names)


def placeholder_genera(names: Sequence[str]) -> np.ndarray:
    """Which names of genera are placeholders; the last element is False, for the id -1."""
    return _matches(PLACEHOLDER_GENUS, names)


def _matches(pattern: re.Pattern[str], names: Sequence[str]) -> np.ndarray:
    return np.array([bool(pattern.search(name)) for name in names] + [False], dtype=bool)
