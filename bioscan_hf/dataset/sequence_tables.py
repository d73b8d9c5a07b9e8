"""`sequence_table`: tables of reads whose columns or rows are named by sequences, as `seqtab.nochim` of DADA2.

Samples are rows and sequences names of columns, or the other way round, as `write.csv` and `write.table` of R write
them: with or without a name above the names of rows.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path

from ..release.column_names import spelt
from ..schema import ID_NAMES, MISSING_MARKERS, SEQUENCE_NAMES

#: Columns of numbers that are not samples, where there are others.
NO_SAMPLES = (
    *("total", "sum", "size", "length", "seq_length", "count", "abundance", "identity", "quality", "cloud", "spread"),
    *("confidence", "amplicon", "otu", "id"),
)

_DNA = re.compile(r"[ACGTUNRYSWKMBDHV-]{20,}", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?")
_DELIMITERS = "\t,; "
_LONGEST_LINE = 1 << 26


@dataclass(frozen=True)
class SequenceTable:
    """A table of reads with its sequences.

    Attributes:
        sequences: As they are written.
        columns: Name of a sample, or of another column -> its cells, one for each sequence.
    """

    sequences: list[str]
    columns: dict[str, list[str]]

    @property
    def ids(self) -> list[str]:
        """ASV1, ASV2, ... in the order of the table."""
        return [f"ASV{number}" for number in range(1, len(self.sequences) + 1)]


def sequence_table(stream: BufferedReader, path: Path, encoding: str = "utf-8") -> SequenceTable | None:
    """The table in an opened file, None for a file of another kind.

    Raises:
        ValueError: for a row of another length, and two rows or columns of one name.
    """
    text = stream.peek(len(codecs.BOM_UTF8))
    if text.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    lines = (line for line in iter(lambda: stream.readline(_LONGEST_LINE), b"") if line.strip())
    start = list(islice(lines, 2))
    try:
        delimiter, header, row = _split(*(line.decode("latin-1") for line in start))
    except (TypeError, csv.Error, StopIteration):
        return None
    across = _is_across(header, row)
    if not across and not _are_reads(header, row):
        return None
    try:
        header = ["", *_cells(start[0].decode(encoding), delimiter)][-len(row) :]
        texts = (line.decode(encoding) for line in chain(start[1:], lines))
        rows = list(_rows(texts, delimiter, len(row), path))
    except UnicodeError as error:
        raise ValueError(
            f"{str(path)!r} is not text in {encoding} ({error}). Give its encoding, such as --encoding latin-1 (in "
            f"Python encoding='latin-1')."
        ) from None
    names = [cells[0] for cells in rows] if across else header[1:]
    if twice := next((name for name, number in Counter(names).items() if number > 1), None):
        raise ValueError(f"{str(path)!r} has the sample {twice[:40]!r} more than once. Make names unique.")
    if across:
        return SequenceTable(header[1:], {cells[0]: cells[1:] for cells in rows})
    columns = zip(*(cells[1:] for cells in rows), strict=True)
    return SequenceTable([cells[0] for cells in rows], dict(zip(names, map(list, columns), strict=True)))


def _split(first: str, second: str) -> tuple[str, list[str], list[str]]:
    """The delimiter that gives most cells, names of columns and first row; names of rows of R have no name."""
    found = [(letter, _cells(first, letter), _cells(second, letter)) for letter in _DELIMITERS]
    fitting = [one for one in found if len(one[2]) > 1 and len(one[2]) - len(one[1]) in (0, 1)]
    delimiter, header, row = max(fitting or found, key=lambda one: len(one[2]))
    return delimiter, ["", *header][-len(row) :], row


def _is_across(header: list[str], row: list[str]) -> bool:
    """Whether sequences are the names of columns, over numbers."""
    numbers = any(map(_NUMBER.fullmatch, row[1:])) and all(
        _NUMBER.fullmatch(cell) or cell.lower() in MISSING_MARKERS for cell in row[1:]
    )
    return numbers and len(header) == len(row) and all(map(_DNA.fullmatch, header[1:]))


def _are_reads(header: list[str], row: list[str]) -> bool:
    """Whether a row begins with a sequence, and samples follow: several, or one by a nameless column as R writes it.

    One column of numbers behind a column with a name can as well be a length, a year or an id.
    """
    if len(header) != len(row) or not _DNA.fullmatch(row[0]) or _DNA.fullmatch(header[0]):
        return False
    if {*map(spelt, header[1:])} & {*ID_NAMES, *SEQUENCE_NAMES}:
        return False
    named = zip(header[1:], row[1:], strict=True)
    samples = [name for name, cell in named if _NUMBER.fullmatch(cell) and name.lower() not in NO_SAMPLES]
    return len(samples) > (header[0] != "")


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter))


def _rows(lines: Iterable[str], delimiter: str, width: int, path: Path) -> Iterator[list[str]]:
    for number, cells in enumerate(csv.reader(lines, delimiter=delimiter), 1):
        if len(cells) != width:
            raise ValueError(f"{str(path)!r}: row {number} has {len(cells):,} cells instead of {width:,}.")
        yield cells
