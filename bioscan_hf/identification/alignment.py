"""Edit distances and alignments of two sequences by edlib (Šošić and Šikić 2017)."""

from __future__ import annotations

_IUPAC = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT"}
_IUPAC |= {"V": "ACG", "N": "ACGT"}
#: Pairs of letters that are equal: IUPAC codes and what they mean.
EQUAL_LETTERS = [(code, letter) for code, meant in _IUPAC.items() for letter in meant] + [
    (code, other) for code, meant in _IUPAC.items() for other, others in _IUPAC.items() if set(meant) & set(others)
]


def unknown_letters(sequence: str) -> int:
    """Number of letters other than A, C, G and T, which equal nearly anything."""
    return len(sequence.encode().translate(None, b"ACGT"))


def edit_distance(read: str, key: str, bound: int, *, plain: bool) -> int:
    """Edit distance of the shorter inside the longer, or `bound` if it is larger; IUPAC codes equal what they mean.

    Args:
        plain: Whether all letters are A, C, G and T.
    """
    import edlib

    short, long = sorted((read, key), key=len)
    found = edlib.align(
        short, long, mode="HW", task="distance", k=bound, additionalEqualities=None if plain else EQUAL_LETTERS
    )["editDistance"]
    return bound if found < 0 else int(found)
