"""Tables as Arrow tables of strings: CSV, TSV, text separated by semicolons, JSON-LD, also in a zip or gzipped.

Every table that this package reads comes through `read_strings`.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.csv as pacsv

from ..schema import COLUMNS, ID_NAMES, LABEL_NAMES, SEQUENCE_NAMES
from . import zips
from .catalogue import METADATA_NAME
from .column_names import listed, separators
from .columns import unquoted
from .jsonld import first_keys, json_tables
from .layout import TABLE_NAME
from .problems import Problem, ReleaseError, is_utf16, not_utf8, other_format, stop
from .records import LONGEST_RECORD, Bad, Block, Dialect, read_blocks

_BLOCK_BYTES = 4 << 20  # larger blocks do not fit the processor's cache: half the speed
_UNREADABLE = (pa.ArrowInvalid, *zips.UNREADABLE)
_AHEAD = 2  # blocks that are parsed ahead
_TOGETHER = 4  # blocks in one table
_DELIMITERS = ",\t;|"
_MOST_COLUMNS = 10_000
_OF_A_MAC = re.compile(r"(^|/)(__MACOSX/|\._[^/]*$)")
_SEPARATOR = re.compile(r'"?sep=([,;|\t])"?', re.IGNORECASE)
_COMMENT = re.compile(rb"^# Constructed from biom file\r?\n")
_KNOWN = {*(name.lower() for name in COLUMNS), *ID_NAMES, *SEQUENCE_NAMES, *LABEL_NAMES}

Report = Callable[[Problem], None]


class Header(NamedTuple):
    """Column names of a table and how it is written."""

    names: list[str]
    dialect: Dialect | None  # None for JSON-LD
    line: int  # after the header


# ---- bytes ---------------------------------------------------------------------------------------------------------


@contextmanager
def _open(path: Path, encoding: str) -> Iterator[tuple[_Text, str]]:
    """The text of a table, decompressed and in UTF-8, and the ending of its name."""
    with open(path, "rb") as file:
        start = file.read(4096)
    if found := other_format(start, zips=True):
        raise ReleaseError(f"{path} {found}.")
    if start.startswith(b"PK\x03\x04"):
        with ZipFile(path) as archive:
            member = _table_of(archive, path)
            with archive.open(member) as packed:
                yield _Text(packed, path, encoding), _kind(member)
        return
    compression = "gzip" if start.startswith(b"\x1f\x8b") else None
    with pa.input_stream(str(path), compression=compression) as stream:
        yield _Text(stream, path, encoding), _kind(path.name)


def _table_of(archive: ZipFile, path: Path) -> str:
    """Name of the table in a zip; what a Mac adds to it is passed over."""
    names = [name for name in archive.namelist() if TABLE_NAME.search(name) and not _OF_A_MAC.search(name)]
    if not names:
        raise ReleaseError(f"{path} has no metadata: none of its files is a CSV, TSV or JSON-LD. Unpack others.")
    ranks = [(("csv", "tsv", "json").index(_kind(name)), METADATA_NAME not in name) for name in names]
    found = [name for name, rank in zip(names, ranks, strict=True) if rank == min(ranks)]
    if len(found) > 1:
        raise ReleaseError(f"{path} holds several tables, such as {found[0]} and {found[1]}. Unpack it, and give one.")
    return found[0]


def _kind(name: str) -> str:
    match = TABLE_NAME.search(name)
    return "csv" if match is None else "json" if match[1].lower().startswith("json") else match[1].lower()


class _Text:
    """A stream of text in UTF-8 with "\\n" or "\\r\\n" as line ends."""

    def __init__(self, stream: IO[bytes], path: Path, encoding: str):
        try:
            self.plain = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
        except LookupError:
            raise ReleaseError(
                f"Unknown encoding {encoding!r}. Give a name such as utf-8, latin-1 or cp1252."
            ) from None
        self._stream, self._path, self._encoding = stream, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._waiting = stream.read(_BLOCK_BYTES)
        if self._waiting.startswith(codecs.BOM_UTF8):  # whatever else was said
            self.plain, self._waiting = True, self._waiting[len(codecs.BOM_UTF8) :]
        if self._waiting.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and self.plain:
            raise ReleaseError(
                f"{path} is text in UTF-16. Save it as UTF-8, or give its encoding by --encoding utf-16 "
                f"(in Python encoding='utf-16')."
            )
        self._old_mac = b"\r" in self._waiting and b"\n" not in self._waiting
        self._waiting = self._decoded(self._waiting).removeprefix(codecs.BOM_UTF8)  # that of UTF-16, decoded

    def _decoded(self, data: bytes) -> bytes:
        if not self.plain:
            try:
                data = self._decoder.decode(data, final=not data).encode()
            except UnicodeError as error:
                raise ReleaseError(f"{self._path} is not text in {self._encoding} ({error}).") from error
        return data.replace(b"\r", b"\n") if self._old_mac else data

    def peek(self) -> bytes:
        """The next bytes, which stay."""
        return self._waiting

    def read(self, size: int = -1) -> bytes:
        """At most about `size` bytes, b"" only at the end."""
        data, self._waiting = self._waiting, b""
        while not data:
            more = self._stream.read(_BLOCK_BYTES if size < 0 else size)
            data = self._decoded(more)
            if not more:
                break
        if 0 <= size < len(data):
            data, self._waiting = data[:size], data[size:]
        return data


# ---- header --------------------------------------------------------------------------------------------------------


def csv_columns(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """Column names: the first line of a CSV or TSV, or the keys of the first object of JSON-LD.

    Raises ReleaseError if two columns have one name.
    """
    path = Path(path)
    try:
        with _open(path, encoding) as (text, kind):
            return _header(path, text, kind).names
    except _UNREADABLE as error:
        raise ReleaseError(f"{path} is not a readable table ({error}).") from error


def _header(path: Path, text: _Text, kind: str) -> Header:
    """Reads the first line, which names the columns; of JSON-LD nothing is taken from the text."""
    if kind == "json":
        return Header(_checked(path, first_keys(path, text.peek())), None, 1)
    start = text.peek()
    blank = len(start) - len(_COMMENT.sub(b"", start, count=1).lstrip(b"\r\n"))
    end = start.find(b"\n", blank) + 1 or len(start)
    if b"\0" in start[:end]:
        why = "it seems to be in UTF-16: save it as UTF-8" if is_utf16(start) else "its first line is not text"
        raise ReleaseError(f"{path} is not a table: {why}.")
    if start.startswith(b">", blank):
        raise ReleaseError(f"{path} is a FASTA. A table is needed, with the sequences in a column.")
    if not start[blank:end].strip():
        raise ReleaseError(f"{path} is empty: its first line should name the columns.")
    if end - blank > LONGEST_RECORD:
        raise ReleaseError(f"{path} is not a table: its first line is longer than {LONGEST_RECORD:,} bytes.")
    _check_utf8(path, start[blank:end], "its first line")
    line, said = start[blank:end].decode().rstrip("\r\n"), None
    if match := _SEPARATOR.fullmatch(line):  # of Excel
        said, blank = match[1], end
        end = start.find(b"\n", blank) + 1 or len(start)
        _check_utf8(path, start[blank:end], "its second line")
        line = start[blank:end].decode().rstrip("\r\n")
    delimiter = said or _find_delimiter(line, "\t" if kind == "tsv" else ",")
    try:
        names = _cells_of_line(line, delimiter)
    except csv.Error as error:
        raise ReleaseError(f"{path} is not a table: its first line does not name the columns ({error}).") from None
    bare = [name[1:-1] if name[:1] == name[-1:] == '"' and len(name) > 1 else name for name in names]
    quoted = delimiter == "\t" and all(name != one for name, one in zip(names, bare, strict=True))  # as R writes them
    text.read(end)
    dialect, names = Dialect(delimiter, len(names), quoted), bare if delimiter == "\t" else names
    return Header(_checked(path, names), dialect, start.count(b"\n", 0, end) + 1)


def _find_delimiter(line: str, usual: str) -> str:
    """The delimiter that gives most known names of columns, and then most cells."""
    outside = "".join(line.split('"')[::2]) or line

    def known(delimiter: str) -> int:
        try:
            cells = _cells_of_line(line, delimiter)
        except csv.Error:
            return 0
        return len(_KNOWN & {cell.strip('" ').lower() for cell in cells})

    return max(_DELIMITERS, key=lambda letter: (known(letter), outside.count(letter), letter == usual))


def _cells_of_line(line: str, delimiter: str) -> list[str]:
    """Cells of one line. Raises csv.Error."""
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    return next(csv.reader([line], delimiter=delimiter, quoting=quoting), [])


def _checked(path: Path, names: list[str]) -> list[str]:
    """Names of columns without white space around them; raises ReleaseError if they cannot be used."""
    names = [name.strip() for name in names]
    if len(names) > _MOST_COLUMNS:
        raise ReleaseError(f"{path} has {len(names):,} columns; at most {_MOST_COLUMNS:,} are read.")
    counts = Counter(names)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated and not repeated[0]:
        raise ReleaseError(
            f"{path} has {counts['']} columns without a name. Its first line should name the columns: is it a title? "
            f"Remove it, or the columns."
        )
    if repeated:
        raise ReleaseError(f"{path} has {counts[repeated[0]]} columns {repeated[0]!r}. Rename or remove one.")
    return names


def _check_utf8(path: Path, data: bytes, where: str) -> None:
    if (error := _not_decoded(data)) is not None:
        raise not_utf8(path, where, data[max(0, error.start - 20) : error.end + 20])


# ---- rows ----------------------------------------------------------------------------------------------------------


def read_strings(
    path: str | Path,
    required: Sequence[str] = COLUMNS,
    columns: Sequence[str] | None = None,
    report: Report = stop,
    *,
    encoding: str = "utf-8",
) -> Iterator[tuple[int, pa.Table]]:
    """Streams a table as Arrow tables of strings, null where a cell is empty.

    The delimiter (comma, tab, semicolon or |) is found in the first line. JSON-LD is an array or a sequence of
    objects, one per row; keys that contain "@" or ":" are ignored. Rows are counted twice, by line ends and by the
    parser.

    Args:
        required: Columns that must exist.
        columns: Columns to read; all by default.
        report: Called with each malformed record and its line in the file. It is left out if the call returns.

    Yields:
        Number of the table's first row (the first is 1; records left out do not count), and the table.

    Raises:
        ReleaseError: if a column is missing, two have one name, a cell is not in the encoding, or the file is cut
            off.
    """
    path = Path(path)
    try:
        with _open(path, encoding) as (text, kind):
            header = _header(path, text, kind)
            missing = [name for name in required if name not in header.names]
            if missing:
                raise ReleaseError(
                    f"{path} has no column {', '.join(map(repr, missing))} (its columns: {listed(header.names)})."
                    f"{separators(header.names)}"
                )
            wanted = header.names if columns is None else list(columns)
            if header.dialect is None:
                tables = json_tables(path, text, header.names, wanted)
            else:
                tables = _csv_tables(path, text, header, wanted, report)
            first_row = 1
            for table in tables:
                if len(table):
                    yield first_row, table
                first_row += len(table)
    except _UNREADABLE as error:
        raise ReleaseError(f"{path} cannot be read to its end ({error}). Is it complete?") from error


def _csv_tables(path: Path, text: _Text, header: Header, wanted: list[str], report: Report) -> Iterator[pa.Table]:
    assert header.dialect is not None
    waiting: deque[Future[tuple[pa.Table | None, list[Bad]]]] = deque()
    found: list[pa.Table] = []
    blocks = read_blocks(text, header.dialect, header.line, _BLOCK_BYTES)
    with ThreadPoolExecutor(1) as parser:  # parses a block while the next is scanned
        for block in chain(blocks, [None] * _AHEAD):
            if block is not None:
                waiting.append(parser.submit(_parse, path, block, header, wanted))
            if waiting and (block is None or len(waiting) > _AHEAD):
                table, bad = waiting.popleft().result()
                if table is not None:
                    found.append(table)
                if found and (bad or len(found) == _TOGETHER):
                    yield pa.concat_tables(found)
                    found.clear()
                for line, what, start in bad:
                    report(Problem(path.name, None, None, f"line {line} {what}: {start!r}", "left out"))
    if found:
        yield pa.concat_tables(found)


def _parse(path: Path, block: Block, header: Header, wanted: list[str]) -> tuple[pa.Table | None, list[Bad]]:
    """The cells of a block (None without rows), and its malformed records.

    Raises ReleaseError unless there are as many rows as were counted.
    """
    dialect = header.dialect
    assert dialect is not None
    if block.unchecked:
        if _not_decoded(block.data) is None:
            try:
                table = _table(block, header, dialect, wanted)
                if len(table) == len(block.lines):
                    return table, []
            except pa.ArrowInvalid:  # a line has another number of cells
                pass
        block = block.checked(dialect)
    if (error := _not_decoded(block.data)) is not None:
        raise _encoding_error(path, block, header, dialect, error.start)
    if not len(block.lines):
        return None, block.bad
    table = _table(block, header, dialect, wanted)
    if len(table) != len(block.lines):
        raise ReleaseError(
            f"{path}: lines {block.lines[0]} to {block.lines[-1]} hold {len(block.lines):,} rows, but {len(table):,} "
            f"were read. Check their quotes."
        )
    return table, block.bad


def _not_decoded(data: bytes) -> UnicodeDecodeError | None:
    """The error for the first byte that is not UTF-8."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return error
    return None


def _table(block: Block, header: Header, dialect: Dialect, wanted: list[str]) -> pa.Table:
    table = pacsv.read_csv(
        pa.BufferReader(block.data),
        pacsv.ReadOptions(column_names=header.names, block_size=len(block.data) + 1),
        pacsv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if dialect.quoted else False,
            newlines_in_values=block.several,
        ),
        pacsv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(header.names, pa.string()),
            include_columns=wanted,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return table if dialect.quoted or b'"' not in block.data else unquoted(table)


def _encoding_error(path: Path, block: Block, header: Header, dialect: Dialect, place: int) -> ReleaseError:
    """The error for bytes at `place` of a block that are not UTF-8."""
    before = block.data[:place]
    row = before.count(b"\n")  # as lines, which are rows unless cells have line breaks
    start = before.rfind(b"\n") + 1
    end = block.data.find(b"\n", place)
    try:
        cells = _cells_of_line(block.data[start : max(end, place)].decode("latin-1"), dialect.delimiter)
        column = len(_cells_of_line(before[start:].decode("latin-1") + "x", dialect.delimiter)) - 1
    except csv.Error:  # a carriage return, or a cell of over 128 KiB
        cells, column = [], 0
    line = int(block.lines[min(row, len(block.lines) - 1)])
    name = header.names[min(column, len(header.names) - 1)]
    cell = cells[column] if column < len(cells) else ""
    return not_utf8(path, f"line {line}, column {name}", cell.encode("latin-1"))


def read_table(path: str | Path, required: Sequence[str] = COLUMNS, *, encoding: str = "utf-8") -> pa.Table:
    """A whole metadata file as a table of strings, null where a cell is empty."""
    parts = [table for _, table in read_strings(path, required, encoding=encoding)]
    if not parts:
        raise ReleaseError(f"{path} has no rows.")
    return pa.concat_tables(parts)
