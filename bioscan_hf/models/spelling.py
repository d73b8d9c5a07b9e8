"""The one spelling of a DNA barcode, for the tokenizer; the rule is that of `bioscan_hf.barcodes.spell` (tested).

Uploaded to the Hub beside the processor. Imports the standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase

import numpy as np
from numpy.typing import NDArray

#: Texts that stand for a missing barcode, in lower case.
MISSING = frozenset(
    {"", "na", "n/a", "#n/a", "n.a.", "nan", "none", "null", "-", "--", "?", "n", "nd", "unknown", "unidentified"}
    | {"undetermined", "not_classified", "not classified", "not identified", "unclassified", "unassigned", "missing"}
    | {"not available", "no match", "incertae sedis", "indet", "indet.", "sp", "sp.", "spp."}
)

#: Letters of a spelled barcode: bases, N, and IUPAC codes of several bases.
LETTERS = b"ACGTNRYSWKMBDHV"

#: Characters that are removed: gaps of an alignment, and white space as Python defines it.
REMOVED = "-." + "".join(chr(code) for code in range(0x3001) if chr(code).isspace())

_SPELLING = str.maketrans(ascii_lowercase + "U", ascii_uppercase.replace("U", "T") + "T", REMOVED)
_LONGEST_MARKER = max(len(marker) for marker in MISSING if not set(marker.upper().encode()) - set(LETTERS))


def spell(barcode: str) -> str:
    """A barcode in upper case, with T for U, without gaps and white space; "" for a missing one."""
    if barcode.strip().lower() in MISSING:
        return ""
    spelling = barcode.translate(_SPELLING)
    return "" if spelling.lower() in MISSING else spelling


def is_spelled(text: bytes, lengths: NDArray[np.int64]) -> bool:
    """Whether barcodes of these lengths, one after the other in `text`, are in their one spelling for sure."""
    short = (lengths > 0) & (lengths <= _LONGEST_MARKER)
    return not short.any() and not text.translate(None, LETTERS)


def spelled_text(barcodes: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Spelled barcodes one after the other, a byte for each character, and their offsets (n + 1,)."""
    spelled = [spell(barcode) for barcode in barcodes]
    ends = np.cumsum([0, *map(len, spelled)], dtype=np.int64)
    return np.frombuffer("".join(spelled).encode("ascii", "replace"), np.uint8), ends
