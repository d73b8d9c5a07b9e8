"""Records of delimited text: where each begins and ends, counted without the parser that reads their cells.

The text is cut into blocks of whole records. Malformed records are taken out and named by the line of the file, so
the parser gets only records with the right number of cells, and has to return as many rows as were counted here.

Cells are quoted as in RFC 4180: a quote opens a cell only as its first letter; inside an unquoted cell it is a
letter. Tab-separated files (BOLD) do not use quotes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

#: Longest record that is read, in bytes.
LONGEST_RECORD = 1 << 20

_NEWLINE, _RETURN, _QUOTE = b'\n\r"'


class Bytes(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""


class Bad(NamedTuple):
    """A record that is left out: its line in the file, what is wrong with it, and its first letters."""

    line: int
    what: str
    text: str


@dataclass
class Block:
    """Whole records, without the malformed ones.

    Attributes:
        data: The records, each with a line end.
        lines: Line of the file in which each record begins.
        several: Whether a record has line breaks in its cells.
        ends: Lines of the file that the block covers.
    """

    data: bytes
    lines: NDArray[np.int64]
    bad: list[Bad] = field(default_factory=list)
    several: bool = False
    ends: int = 0


@dataclass(frozen=True)
class Dialect:
    """How the cells of a file are separated.

    Attributes:
        delimiter: One letter.
        cells: Cells of a record.
    """

    delimiter: str
    cells: int = 0

    @property
    def quoted(self) -> bool:
        """Whether cells can be quoted."""
        return self.delimiter != "\t"

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]:
        d = re.escape(self.delimiter.encode())
        quoted = rb'"[^"]*+(?:""[^"]*+)*+"'
        cell = rb'(?:%s|[^"%s\r\n][^%s\r\n]*+|)' % (quoted, d, d)
        record = re.compile(rb"%s(?:%s%s)*+\r?\n" % (cell, d, cell))
        begun = re.compile(rb'(?:%s%s)*+(?:%s|"[^"]*+(?:""[^"]*+)*+|[^"%s\r\n][^%s\r\n]*+|)' % (cell, d, quoted, d, d))
        return record, begun, re.compile(rb"(?:(?<=%s)|^)%s(?=%s|\r?$)" % (d, quoted, d))

    def record(self, data: bytes, start: int) -> int:
        """End of the well-formed record that begins at `start`; -1 if it is not well-formed."""
        match = self._patterns[0].match(data, start)
        return match.end() if match else -1

    def begun(self, data: bytes, start: int) -> int:
        """End of the part of a record that is well-formed so far."""
        match = self._patterns[1].match(data, start)
        return match.end() if match else start

    def count(self, line: bytes) -> int:
        """Cells of one line of the file, read by itself."""
        return self._patterns[2].sub(b"", line.rstrip(b"\r")).count(self.delimiter.encode()) + 1

    def swallows(self, record: bytes) -> bool:
        """Whether every line of a record with line breaks is a whole record by itself.

        Then a stray quote has opened a cell, and one of a later record has closed it.
        """
        return self.cells > 1 and all(self.count(line) == self.cells for line in record.rstrip(b"\r\n").split(b"\n"))


def read_blocks(stream: Bytes, dialect: Dialect, line: int, block_bytes: int) -> Iterator[Block]:
    """Blocks of whole records.

    Args:
        line: Line of the file at which the stream begins.
    """
    rest, more = b"", True
    while more:
        read = stream.read(block_bytes)
        more = bool(read)
        data = rest + read
        if not more and data and not data.endswith(b"\n"):
            data += b"\n"
        while data:
            found = _vectorised(data, dialect, line) or _by_record(data, dialect, line, last=not more)
            if not found[1] and (not more or len(data) > LONGEST_RECORD):  # a line without end
                found = _by_record(data, dialect, line, last=not more)
            block, end = found
            line += block.ends
            data = data[end:]
            if len(block.lines) or block.bad:
                yield block
            if more:
                break
        rest = data


# ---- well-formed blocks --------------------------------------------------------------------------------------------


def _vectorised(data: bytes, dialect: Dialect, line: int) -> tuple[Block, int] | None:
    """Records of a block, and its end. None if its quotes have to be read one by one."""
    letters = np.frombuffer(data, np.uint8)
    delimiter = ord(dialect.delimiter)
    special = (letters == _NEWLINE) | (letters == delimiter)
    quoted = dialect.quoted and b'"' in data
    if quoted:
        special |= letters == _QUOTE
    places = np.flatnonzero(special)
    kinds = letters[places]
    newlines, ending = places[kinds == _NEWLINE], kinds == _NEWLINE
    if quoted:
        outside = np.cumsum(kinds == _QUOTE) % 2 == 0
        ending &= outside
    ends = places[ending]
    if not len(ends):
        return None if quoted else (Block(b"", np.zeros(0, np.int64)), 0)
    separating = kinds == delimiter
    if quoted:
        separating &= outside
        quotes = places[kinds == _QUOTE]
        if not _well_formed(letters, quotes[quotes < ends[-1]], delimiter):
            return None
    cells = np.diff(np.cumsum(separating)[ending], prepend=0) + 1
    ends = ends + 1
    starts = np.concatenate([[0], ends[:-1]])
    before = np.searchsorted(newlines, starts) if len(newlines) > len(ends) else np.arange(len(ends))
    empty = (ends - starts == 1) | ((ends - starts == 2) & (letters[starts] == _RETURN))
    wrong = (cells != dialect.cells) & ~empty | (ends - starts > LONGEST_RECORD)
    lines = int(before[-1]) + data.count(b"\n", int(starts[-1]), int(ends[-1]))
    several = np.flatnonzero(np.diff(before, append=lines) > 1)
    if any(wrong[i] or dialect.swallows(data[starts[i] : ends[i]]) for i in several.tolist()):
        return None
    breaks = len(several) > 0
    for place in _not_text(data, letters):
        if quoted and letters[place] and np.searchsorted(quotes, place) % 2:
            breaks = True  # a carriage return inside a quoted cell
        elif place < ends[-1]:
            wrong[np.searchsorted(ends, place, side="right")] = True
    bad, pieces, kept = [], [], 0
    for i in np.flatnonzero(wrong).tolist():
        bad.append(_describe(data[starts[i] : ends[i]], dialect, line + int(before[i])))
        pieces.append(data[kept : starts[i]])
        kept = int(ends[i])
    pieces.append(data[kept : int(ends[-1])])
    block = Block(b"".join(pieces), line + before[~(wrong | empty)], bad, breaks, lines)
    return block, int(ends[-1])


def _well_formed(letters: NDArray[np.uint8], quotes: NDArray[np.int64], delimiter: int) -> bool:
    """Whether quotes open, close and stand in pairs as in RFC 4180, so that every second one opens or follows one."""
    if not len(quotes):
        return True
    opening, closing = quotes[::2], quotes[1::2]
    if len(opening) != len(closing):
        return False
    outside = np.isin(letters[opening - 1], [delimiter, _NEWLINE]) | (opening == 0)
    escaped = np.concatenate([[False], opening[1:] == closing[:-1] + 1])
    after = letters[np.minimum(closing + 1, len(letters) - 1)]
    ends = np.isin(after, [delimiter, _NEWLINE])
    returns = np.flatnonzero(after == _RETURN)
    ends[returns] = letters[np.minimum(closing[returns] + 2, len(letters) - 1)] == _NEWLINE
    return bool((outside | escaped).all() and (ends | np.append(escaped[1:], False)).all())


def _not_text(data: bytes, letters: NDArray[np.uint8]) -> list[int]:
    """Places of NUL, and of carriage returns that do not end a line."""
    places: list[int] = []
    if b"\0" in data:
        places += np.flatnonzero(letters == 0).tolist()
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        returns = np.flatnonzero(letters[:-1] == _RETURN)
        places += returns[letters[returns + 1] != _NEWLINE].tolist()
    return places


# ---- other blocks --------------------------------------------------------------------------------------------------


def _by_record(data: bytes, dialect: Dialect, line: int, last: bool) -> tuple[Block, int]:
    """The same, record by record, for blocks with stray quotes. `last` blocks are read to their end."""
    pieces: list[bytes] = []
    lines: list[int] = []
    bad: list[Bad] = []
    place, several, begin = 0, False, line
    while place < len(data):
        first = data.find(b"\n", place) + 1 or len(data)  # end of its first line
        end = dialect.record(data, place)
        if end < 0 and not last and dialect.begun(data, place) == len(data) and len(data) - place <= LONGEST_RECORD:
            break
        record = data[place : max(end, first)]
        cells = _cells(record, dialect) if end > 0 else 0
        if end < 0 or end > first and (cells != dialect.cells or dialect.swallows(record)):
            end = first  # its other lines can be records
            bad.append(Bad(line, _stray_quote(data, dialect, place, end), _start(record)))
        elif cells != dialect.cells and record.strip(b"\r\n") or b"\0" in record:
            bad.append(_describe(record, dialect, line))
        elif record.strip(b"\r\n"):
            pieces.append(record)
            lines.append(line)
            several |= end > first or b"\r" in record
        line += data.count(b"\n", place, end)
        place = end
    return Block(b"".join(pieces), np.array(lines, np.int64), bad, several, line - begin), place


def _stray_quote(data: bytes, dialect: Dialect, start: int, end: int) -> str:
    if start + LONGEST_RECORD < end:
        return f"is longer than {LONGEST_RECORD:,} bytes"
    if dialect.record(data, start) > 0 or b'"' in data[start:end]:
        stop = max(dialect.record(data, start), dialect.begun(data, start))
        swallowed = data.count(b"\n", start, stop) - (data[stop - 1 : stop] == b"\n")
        if swallowed > 0:
            return f"has a quote that is not closed: it swallows the next {swallowed:,} line{'s' * (swallowed != 1)}"
        return "has a quote that is closed inside a cell: write two quotes for one inside a quoted cell"
    return "holds a carriage return that does not end a line"


def _describe(record: bytes, dialect: Dialect, line: int) -> Bad:
    text, cells = _start(record), _cells(record, dialect)
    if len(record) > LONGEST_RECORD:
        return Bad(line, f"is longer than {LONGEST_RECORD:,} bytes", text)
    if b"\0" in record:
        return Bad(line, "holds a NUL character", text)
    if cells == dialect.cells:
        return Bad(line, "holds a carriage return that does not end a line", text)
    cut = " (has the file been cut off?)" if cells < dialect.cells else ""
    return Bad(line, f"has {cells} cell{'s' * (cells != 1)} instead of {dialect.cells}{cut}", text)


def _cells(record: bytes, dialect: Dialect) -> int:
    """Number of cells of a record."""
    if not dialect.quoted or b'"' not in record:
        return record.count(dialect.delimiter.encode()) + 1
    lines = io.StringIO(record.decode("latin-1"), newline="")
    return len(next(csv.reader(lines, delimiter=dialect.delimiter), []))


def _start(record: bytes) -> str:
    return record[:60].decode("utf-8", "replace").rstrip("\r\n")
