"""Records of delimited text: where each begins and ends, counted without the parser that reads their cells.

The text is cut into blocks of whole records. Malformed records are taken out and named by the line of the file, so
the parser gets only records with the right number of cells, and has to return as many rows as were counted here.
Blocks in which every line is a record are first passed on as they are: only if the parser does not find as many rows
as lines, `Block.checked` looks at each record.

Cells are quoted as in RFC 4180: a quote opens a cell only as its first letter; inside an unquoted cell it is a
letter. Tab-separated files (BOLD) do not use quotes, unless all names of columns are quoted: a cell ends at the next
tab, and quotes around a whole cell are removed.
"""

from __future__ import annotations

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
_SMALLEST = 1 << 16  # bytes that are read record by record, before whole windows are tried again


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
    """Whole records, without the malformed ones."""

    data: bytes  # the records, each with a line end
    lines: NDArray[np.int64]  # of the file in which each record begins
    bad: list[Bad] = field(default_factory=list)
    several: bool = False  # whether a record has line breaks in its cells
    ends: int = 0  # lines of the file that the block covers
    unchecked: bool = False  # whether every line was taken for a record with the right number of cells

    def checked(self, dialect: Dialect) -> Block:
        """The block without its malformed records and blank lines."""
        if not self.unchecked:
            return self
        found = _vectorised(self.data, dialect, int(self.lines[0]))
        assert found is not None  # it has no quotes
        return found[0]


@dataclass(frozen=True)
class Dialect:
    """How the cells of a file are separated."""

    delimiter: str
    cells: int = 0  # of a record
    quotes: bool = False  # whether cells can be quoted although they are separated by tabs

    @property
    def quoted(self) -> bool:
        """Whether cells can be quoted."""
        return self.delimiter != "\t" or self.quotes

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

    def unfinished(self, data: bytes, start: int) -> bool:
        """Whether the record that begins at `start` can go on behind the end of `data`."""
        return self.begun(data, start) >= len(data) - data.endswith(b"\r")

    def count(self, line: bytes) -> int:
        """Cells of one line of the file read by itself, or of a record."""
        if self.quoted and b'"' in line:
            line = self._patterns[2].sub(b"", line.rstrip(b"\r\n"))
        return line.count(self.delimiter.encode()) + 1

    def swallows(self, record: bytes) -> bool:
        """Whether every line of a record with line breaks is a whole record by itself.

        Then a stray quote has opened a cell, and one of a later record has closed it.
        """
        return self.cells > 1 and all(self.count(line) == self.cells for line in record.rstrip(b"\r\n").split(b"\n"))


def read_blocks(stream: Bytes, dialect: Dialect, line: int, block_bytes: int) -> Iterator[Block]:
    """Blocks of whole records of a stream that begins at a line of the file."""
    rest, more, size = b"", True, block_bytes
    while more:
        read = stream.read(block_bytes)
        more = bool(read)
        whole_lines = read.rfind(b"\n") + 1
        data = b"".join((rest, memoryview(read)[:whole_lines]))  # copied once
        if not more and data and not data.endswith(b"\n"):
            data += b"\n"
        place, longer = 0, False
        while place < len(data):
            if more and len(data) - place <= LONGEST_RECORD and data.find(b"\n", place) < 0:
                break
            window = data if not place and size >= len(data) else data[place : place + size]
            whole = place + len(window) == len(data)
            found = _plain(window, dialect, line) or _vectorised(window, dialect, line)
            if found is None and size > _SMALLEST and len(window) > _SMALLEST and not longer:
                size = _SMALLEST
                continue
            if found is not None and not found[1] and not whole:  # a record longer than the window
                size, longer = 2 * size, True
                continue
            if found is None or not found[1] and (not more or len(window) > LONGEST_RECORD):
                found = _by_record(data, dialect, line, last=not more, start=place, stop=place + _SMALLEST)
            else:
                size = min(2 * size, 1 << 30)
            block, used = found
            line += block.ends
            place, longer = place + used, False
            if len(block.lines) or block.bad:
                yield block
            if not used:
                break
        rest = data[place:] + read[whole_lines:]


# ---- well-formed blocks --------------------------------------------------------------------------------------------


def _plain(data: bytes, dialect: Dialect, line: int) -> tuple[Block, int] | None:
    """Lines as they are, and their end. None if a quote, NUL, carriage return or long line has to be looked at."""
    if dialect.quoted and b'"' in data or b"\0" in data:
        return None
    end = data.rfind(b"\n") + 1
    if b"\r" in data and data.count(b"\r", 0, end) != data.count(b"\r\n", 0, end):
        return None
    half = LONGEST_RECORD // 2
    if not end or any(data.find(b"\n", start, start + half) < 0 for start in range(0, end, half)):
        return None
    rows = int(np.count_nonzero(np.frombuffer(data, np.uint8, end) == _NEWLINE))
    lines = np.arange(line, line + rows, dtype=np.int64)
    return Block(data[:end], lines, ends=rows, unchecked=True), end


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
    control = _not_text(data, letters)
    if quoted:
        inside = (letters[control] == _RETURN) & (np.searchsorted(quotes, control) % 2 == 1)
        breaks |= bool(inside.any())  # a carriage return inside a quoted cell
        control = control[~inside]
    wrong[np.searchsorted(ends, control[control < ends[-1]], side="right")] = True
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


def _not_text(data: bytes, letters: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Places of NUL, and of carriage returns that do not end a line."""
    places = [np.zeros(0, np.int64)]
    if b"\0" in data:
        places.append(np.flatnonzero(letters == 0))
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        returns = np.flatnonzero(letters[:-1] == _RETURN)
        places.append(returns[letters[returns + 1] != _NEWLINE])
    return np.concatenate(places)


# ---- other blocks --------------------------------------------------------------------------------------------------


def _by_record(data: bytes, dialect: Dialect, line: int, last: bool, start: int, stop: int) -> tuple[Block, int]:
    """The same, record by record, for windows with stray quotes: the records that begin in [start, stop).

    The text ends with `data` if it is the `last`.
    """
    pieces: list[bytes] = []
    lines: list[int] = []
    bad: list[Bad] = []
    place, several, begin = start, False, line
    while place < min(stop, len(data)):
        first = data.find(b"\n", place) + 1 or len(data)  # end of its first line
        end = dialect.record(data, place)
        if end < 0 and not last and len(data) - place <= LONGEST_RECORD:
            if data.find(b"\n", place) < 0 or dialect.unfinished(data, place):
                break
        record = data[place : max(end, first)]
        cells = dialect.count(record) if end > 0 else 0
        long = len(record) > LONGEST_RECORD
        if end < 0 or end > first and (cells != dialect.cells or long or dialect.swallows(record)):
            end = first  # its other lines can be records
            bad.append(Bad(line, _stray_quote(data, dialect, place, end), _start(record)))
        elif cells != dialect.cells and record.strip(b"\r\n") or long or b"\0" in record:
            bad.append(_describe(record, dialect, line))
        elif record.strip(b"\r\n"):
            pieces.append(record)
            lines.append(line)
            several |= end > first or b"\r" in record
        line += data.count(b"\n", place, end)
        place = end
    return Block(b"".join(pieces), np.array(lines, np.int64), bad, several, line - begin), place - start


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
    text, cells = _start(record), dialect.count(record)
    if len(record) > LONGEST_RECORD:
        return Bad(line, f"is longer than {LONGEST_RECORD:,} bytes", text)
    if b"\0" in record:
        return Bad(line, "holds a NUL character", text)
    if cells == dialect.cells:
        return Bad(line, "holds a carriage return that does not end a line", text)
    cut = " (has the file been cut off?)" if cells < dialect.cells else ""
    return Bad(line, f"has {cells} cell{'s' * (cells != 1)} instead of {dialect.cells}{cut}", text)


def _start(record: bytes) -> str:
    return record[:60].decode("utf-8", "replace").rstrip("\r\n")
