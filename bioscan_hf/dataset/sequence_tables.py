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
from ..schema import ID_NAMES, SEQUENCE_NAMES

_DNA = re.compile(r"[ACGTUNRYSWKMBDHV-]{20,}", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(\.0*)?([eE]\+?\d+)?")
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
        delimiter = max(_DELIMITERS, key=lambda letter: len(_cells(start[1].decode("latin-1"), letter)))
        header, row = (_cells(line.decode("latin-1"), delimiter) for line in start)
    except (IndexError, ValueError, csv.Error, StopIteration):
        return None
    header = ["", *header] if len(header) == len(row) - 1 else header
    if len(header) != len(row) or len(row) < 2:
        return None
    numbers = [_NUMBER.fullmatch(cell) is not None for cell in row[1:]]
    across = all(map(_DNA.fullmatch, header[1:])) and not any(map(_DNA.fullmatch, row[1:]))
    known = {*map(spelt, header[1:])} & {*ID_NAMES, *SEQUENCE_NAMES}
    if not across and (known or not _DNA.fullmatch(row[0]) or not any(numbers)):
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


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter))


def _rows(lines: Iterable[str], delimiter: str, width: int, path: Path) -> Iterator[list[str]]:
    for number, cells in enumerate(csv.reader(lines, delimiter=delimiter), 1):
        if len(cells) != width:
            raise ValueError(f"{str(path)!r}: row {number} has {len(cells):,} cells instead of {width:,}.")
        yield cells
