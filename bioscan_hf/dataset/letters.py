"""Letters of the sequences in a file: which are allowed, and what each becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..barcodes import AMBIGUOUS, GAPS
from ..schema import MISSING_TAXA

CLEANINGS = ("none", "barcode", "any")
WHITE_SPACE = b" \t\n\r\v\f"

#: Letters of amino acids that are not of nucleotides, about a third of a protein; sequences that are looked at.
_NO_BASES, _LOOKED_AT = b"EFILPQefilpq", 100

_MARKERS = {marker.encode() for marker in MISSING_TAXA}
_LONGEST_MARKER = max(map(len, _MARKERS)) + 2  # with a line end

#: (number of a record, position of a character in it or -1 for its header) -> "line 12".
Place = Callable[[int, int], str]


class Rules(NamedTuple):
    """How the letters of a sequence are read."""

    table: bytes  # what each byte becomes
    removed: bytes  # bytes that are left out
    allowed: bytes  # bytes that may remain
    rtrim: bytes  # bytes that are cut off at the end


def rules(clean: str = "none") -> Rules:
    """The rules of `read_sequences` for `clean`; "any" turns what is not DNA into N, without digits."""
    if clean not in CLEANINGS:
        raise ValueError(f"clean={clean!r} is unknown. Choose {', '.join(CLEANINGS)}.")
    spelling = bytes(range(256)).upper().replace(b"U", b"T")
    removed = WHITE_SPACE + GAPS.encode()
    if clean == "any":
        dna = b"ACGTN" + AMBIGUOUS.encode()
        numbered = removed + b"0123456789"  # lines of GenBank begin with a number
        return Rules(bytes(byte if byte in dna else ord("N") for byte in spelling), numbered, dna, b"")
    if clean == "none":
        return Rules(spelling, removed, b"ACGTN" + AMBIGUOUS.encode(), b"")
    n = spelling.translate(bytes.maketrans(AMBIGUOUS.encode(), b"N" * len(AMBIGUOUS)))
    return Rules(n, removed, b"ACGTN", b"N")


@dataclass(frozen=True)
class SequenceFile:
    """A file of sequences and how it is read."""

    path: Path
    letters: Rules
    encoding: str  # of the ids and names
    block_bytes: int  # that are read at a time
    longest: int  # bytes of the largest record that is read

    def encoding_error(self, error: Exception) -> ValueError:
        """The error for bytes that are not in the encoding."""
        return ValueError(
            f"{str(self.path)!r} holds ids or names that are not {self.encoding} ({error}). Give the encoding of the "
            f"file, such as --encoding latin-1 (in Python encoding='latin-1')."
        )

    def decode(self, text: bytes) -> str:
        """A header or id as text."""
        try:
            return text.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise self.encoding_error(error) from error

    def rows(self, ids: pa.ChunkedArray, sequences: pa.ChunkedArray, first: int) -> pa.Table:
        """`barcodes` of columns of text. `first` is the number of their first row; a row without an id is refused."""
        missing = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True)
        if pc.any(missing).as_py():
            raise ValueError(f"{str(self.path)!r} has no id in row {first + pc.index(missing, True).as_py()}.")
        bodies = [body or b"" for body in sequences.cast(pa.binary()).to_pylist()]
        return self.barcodes(ids.combine_chunks(), bodies, lambda record, character: f"row {first + record}")

    def barcodes(self, ids: pa.Array, bodies: list[bytes], place: Place) -> pa.Table:
        """Table of ids and barcodes; raises ValueError for the first letter that is not allowed."""
        table, removed, allowed, rtrim = self.letters
        self._refuse_proteins(ids, bodies)
        barcodes = []
        for number, body in enumerate(bodies):
            if len(body) <= _LONGEST_MARKER and body.strip().lower() in _MARKERS:
                barcodes.append(b"")
                continue
            barcode = body.translate(table, removed)
            if barcode.translate(None, allowed):
                raise self._letter_error(ids[number].as_py(), body, number, place)
            barcodes.append(barcode.rstrip(rtrim) if rtrim else barcode)
        return pa.table({"processid": ids, "dna_barcode": pa.array(barcodes, pa.binary()).cast(pa.string())})

    def _refuse_proteins(self, ids: pa.Array, bodies: list[bytes]) -> None:
        """Raises ValueError if most of the first sequences are of amino acids."""
        first = [body.translate(None, WHITE_SPACE) for body in bodies[:_LOOKED_AT]]
        proteins = [
            number
            for number, body in enumerate(first)
            if len(body) > 20 and len(body.translate(None, _NO_BASES)) < 0.8 * len(body)
        ]
        if 2 * len(proteins) > len(first):
            name, body = ids[proteins[0]].as_py(), first[proteins[0]].decode("latin-1")
            raise ValueError(
                f"{str(self.path)!r} seems to hold proteins: {name!r} is {body[:20]!r}... Give their nucleotides."
            )

    def _letter_error(self, name: str, body: bytes, number: int, place: Place) -> ValueError:
        table, removed, allowed, rtrim = self.letters
        at = next(i for i, byte in enumerate(body) if byte not in removed and table[byte] not in allowed)
        letter = chr(body[at])
        return ValueError(
            f"{name!r} in {str(self.path)!r} is not DNA: {place(number, at)} holds {letter!r}. Allowed are A, C, G, "
            f"T, U, N, the IUPAC codes and gaps."
        )
