"""Quality of a read: its strand, its place in the region, insertions, deletions and stop codons.

Shape letters: n = reads, P = positions of the region.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .alignment import unknown_letters
from .chimeras import Parents
from .region import LEAST_SCORE
from .similarity import Matches, References
from .strips import differences

#: Statuses, the gravest first. Only reads with the last five get names.
STATUSES = (
    *("empty", "too_short", "too_few_letters", "not_coi", "chimera", "far", "possible_numt"),
    *("indel", "short", "reversed", "ok"),
)

#: Statuses of photos, besides "far" and "ok".
PHOTO_STATUSES = ("no_photo", "unreadable")

#: Statuses of reads and photos without names: nothing like them was learned.
UNNAMED = frozenset([*STATUSES[:6], *PHOTO_STATUSES])

#: Fewest nucleotides, and smallest share of A, C, G and T, of a read that is compared.
SHORTEST, LEAST_LETTERS = 60, 0.5

#: Reads that cover less of the region than this are "short".
WHOLE = 0.75

#: Below this identity, a read that has no place in the region is of another gene.
FOREIGN = 0.7

#: Share of the differences of a read that has no place in the region, above which insertions and deletions are why.
GAPS = 0.3

#: Steps of `strips.differences`, and those at the ends, where one sequence goes beyond the other.
_STEP, _ENDS = re.compile(r"\*[A-Z]|\+[A-Z]+|-\d+\."), re.compile(r"^(?:\+[A-Z]+|-\d+\.)|(?:\+[A-Z]+|-\d+\.)$")

#: Genetic codes by NCBI number -> stop codons.
STOPS = {1: ("TAA", "TAG", "TGA"), 2: ("TAA", "TAG", "AGA", "AGG"), 5: ("TAA", "TAG")}

#: The genetic code of invertebrate mitochondria.
CODE = 5

_NOTES = {
    "empty": "no sequence",
    "too_short": "fewer than 60 nucleotides",
    "too_few_letters": "more than half of the letters are not A, C, G or T",
    "not_coi": "of another gene or organism than the references, or not DNA of an organism",
    "far": "of the same gene, but farther from all references than anything that was learned from them",
    "chimera": "its two ends are of different taxa, joined in the PCR: like {first} and then like {last}",
    "possible_numt": "a stop codon in the reading frame: perhaps a copy in the nucleus, or an error of sequencing",
    "indel": "an insertion or deletion that shifts the reading frame: probably an error of sequencing",
    "short": "covers less than three quarters of the region",
    "reversed": "was on the other strand",
}


@dataclass(frozen=True)
class Frame:
    """Reading frame of the references.

    Attributes:
        first: Position of the first nucleotide of a codon, 0 to 2.
        code: Genetic code, a number of NCBI.
    """

    first: int
    code: int = CODE

    @classmethod
    def of(cls, aligned: NDArray[np.uint8], code: int = CODE) -> Frame | None:
        """The frame in which aligned references (n, P) have stop codons in fewer than 20 %; None if there is none.

        In another gene, or in the other frames, nearly all of them have some; so have references with a frameshift.
        """
        shares = [float(stops(aligned, first, code).mean()) for first in range(3)]
        best = int(np.argmin(shares))
        return cls(best, code) if shares[best] < 0.2 and sorted(shares)[1] > 0.5 else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def stops(aligned: NDArray[np.uint8], first: int, code: int = CODE) -> NDArray[np.bool_]:
    """Whether aligned reads (n, P) have a stop codon in a frame."""
    count = (aligned.shape[1] - first) // 3
    codons = aligned[:, first : first + 3 * count].reshape(len(aligned), count, 3)
    number = codons[..., 0] * np.uint8(25) + codons[..., 1] * np.uint8(5) + codons[..., 2]
    wanted = [sum("ACGT".index(letter) * 5**place for place, letter in enumerate(stop[::-1])) for stop in STOPS[code]]
    is_stop = np.zeros(125, np.bool_)
    is_stop[wanted] = True
    return np.asarray(is_stop[number].any(1))


@dataclass
class Quality:
    """Quality of n reads.

    Attributes:
        status: One of `STATUSES` for each read.
        note: Why, for people; "" if all is well.
        strand: "+", "-", or "" for reads that were not compared.
    """

    status: list[str]
    note: list[str]
    strand: list[str]


def unusable(reads: Sequence[str]) -> list[str | None]:
    """The status of reads that cannot be compared, None for the others."""
    found: list[str | None] = []
    for read in reads:
        known = len(read) - unknown_letters(read)
        if not read:
            found.append("empty")
        elif known < SHORTEST:
            found.append("too_short" if len(read) < 2 * SHORTEST else "too_few_letters")
        else:
            found.append("too_few_letters" if known < LEAST_LETTERS * len(read) else None)
    return found


def _shifted(
    found: Matches, references: References, frame: Frame | None, alike: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether insertions or deletions shift the reading frame of reads (n,).

    Genes without a reading frame have no frameshifts. A raw nanopore read can have so many gaps that its place in the
    region is not found; such a read is aligned with its nearest reference, and the gaps are counted.
    """
    gapped, placed = found.shifted.copy(), references.placed
    if frame is None or placed is None:
        return np.zeros(len(alike), np.bool_)
    rows = found.rows[:, 0]
    asked = np.flatnonzero(alike & (found.score < LEAST_SCORE) & (placed.score[rows.clip(0)] >= LEAST_SCORE))
    for i in asked.tolist():
        steps = _STEP.findall(_ENDS.sub("", differences(found.reads[i], references.sequences[int(rows[i])])[2]))
        gaps = sum(len(step) - 1 if step[0] == "+" else int(step[1:-1]) for step in steps if step[0] != "*")
        gapped[i] = gaps > GAPS * (gaps + sum(step[0] == "*" for step in steps))
    return gapped


def judged(
    reads: Sequence[str],
    refused: Sequence[str | None],
    usable: NDArray[np.int64],
    found: Matches,
    references: References,
    frame: Frame | None,
    least_identity: float,
    parents: Parents,
) -> Quality:
    """Status, note and strand of reads.

    Args:
        refused: As `unusable`.
        usable: Positions of the reads that were compared.
        found: Their matches.
        least_identity: Smallest identity for which confidences were learned.
        parents: Of chimeras among the reads that were compared.
    """
    status, strand = [text or "ok" for text in refused], ["" for _ in reads]
    identity = found.identity[:, 0]
    stopped = np.zeros(len(usable), np.bool_)
    if frame is not None and found.aligned is not None:
        stopped = stops(found.aligned, frame.first, frame.code)
    whole = references.region.positions if references.region is not None else 0
    unlike = (found.rows[:, 0] < 0) | ((found.score < LEAST_SCORE) & (identity < FOREIGN)) | (identity < 0.6)
    conditions = [
        (unlike, "not_coi"),
        (np.isin(np.arange(len(usable)), list(parents)), "chimera"),
        (identity < least_identity, "far"),
        (_shifted(found, references, frame, ~unlike), "indel"),
        (stopped & (found.score >= LEAST_SCORE), "possible_numt"),
        (found.within < WHOLE * whole, "short"),
        (found.turned, "reversed"),
    ]
    for place, turned in zip(usable.tolist(), found.turned.tolist(), strict=True):
        strand[place] = "-" if turned else "+"
    for holds, name in reversed(conditions):  # the gravest is set last
        for place in usable[holds].tolist():
            status[place] = name
    notes = [_NOTES.get(text, "") for text in status]
    for i, (first, last) in parents.items():
        notes[usable[i]] = notes[usable[i]].replace("{first}", first).replace("{last}", last)
    return Quality(status, notes, strand)
