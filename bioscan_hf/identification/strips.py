"""Differences of reads and their nearest references, as short texts that a page turns into alignments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .alignment import EQUAL_LETTERS
from .region import complement
from .similarity import References, overlapping

#: Part of the alignment in the reference, from and to, and the differences of the read.
Strip = tuple[int, int, str]

_STEP = re.compile(r"(\d+)([=XID])")


def strips(
    references: References, reads: Sequence[str], turned: Sequence[bool], rows: Sequence[int]
) -> list[Strip | None]:
    """The alignment of each read with a reference, see `differences`.

    Args:
        reads: Spelled reads as they came (n,).
        turned: Reads that came on the other strand (n,).
        rows: Reference of each read (n,), -1 for none; such reads give None.
    """
    forward = [complement(read) if turn else read for read, turn in zip(reads, turned, strict=True)]
    own = references.region.place(forward) if references.region is not None and len(forward) else None
    found: list[Strip | None] = []
    for i, (read, row) in enumerate(zip(forward, rows, strict=True)):
        if row < 0 or not read:
            found.append(None)
            continue
        part, key = overlapping(read, references, own, i, row)
        found.append(differences(part, key))
    return found


def differences(read: str, reference: str) -> Strip:
    """The best place of the shorter inside the longer sequence.

    Returns:
        First and last + 1 nucleotide of the reference, and a text for the read along them: "120" for equal letters,
        "*G" for another letter, "+AC" for letters that the reference lacks, "-3." for missing ones.
    """
    import edlib

    inside = len(reference) < len(read)
    short, long = (reference, read) if inside else (read, reference)
    plain = not (set(short) | set(long)) - set("ACGT")
    equal = None if plain else EQUAL_LETTERS
    found = edlib.align(short, long, mode="HW", task="path", additionalEqualities=equal)
    begin = int(found["locations"][0][0])
    i, j = (begin, 0) if inside else (0, begin)
    first, steps, same = j, [], 0

    def put(text: str) -> None:
        nonlocal same
        if same:
            steps.append(str(same))
        steps.append(text)
        same = 0

    for number, kind in _STEP.findall(found["cigar"]):
        count = int(number)
        if kind in "=X":
            for a, b in zip(read[i : i + count], reference[j : j + count], strict=True):
                if a == b:
                    same += 1
                else:
                    put(f"*{a}")
            i, j = i + count, j + count
        elif (kind == "I") != inside:
            put(f"+{read[i : i + count]}")
            i += count
        else:
            put(f"-{count}.")
            j += count
    if same:
        steps.append(str(same))
    return first, j, "".join(steps)
