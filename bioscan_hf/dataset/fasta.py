"""FASTA and FASTQ files, read in blocks into tables of ids and barcodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from .letters import Place, SequenceFile

#: Names of markers in BOLD.
MARKER = re.compile(
    r"CO[I1]{1,3}(-[53]P)?|COX[123I]+|CYTB|ITS[12]?|[12]?[0-9]S(-.+)?|H[34]|EF1.*|matK|rbcLa?|ND[1-6]L?|ATP[68]|CAD|WG",
    re.IGNORECASE,
)

#: Numbers of reads in headers of OBITools: "id count=12; ..." and "id {"count":12, ...}".
COUNT = re.compile(rb'[ ;]count=(\d+)(?:;|$)|[{,] ?"count": ?(\d+)')


def normalized(stream: BinaryIO, block_bytes: int) -> Iterator[bytes]:
    """Blocks of the stream with "\\n" for every line end, and one at the very end."""
    rest, last = b"", b""
    while block := stream.read(block_bytes):
        block = rest + block
        rest = b"\r" if block.endswith(b"\r") else b""  # may be the first half of a line end
        block = block[: len(block) - len(rest)]
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        last = block or last
        yield block
    if rest or not last.endswith(b"\n"):
        yield b"\n"


def read_fasta(file: SequenceFile, blocks: Iterator[bytes], *, headers: bool = False) -> Iterator[pa.Table]:
    """Tables of the records of a FASTA.

    If the first header is one of BOLD, processid|species|marker|accession, there are the columns species and marker;
    if it is one of OBITools with count=12, there is the column size.

    Args:
        headers: Gives the whole headers in a column `header` instead.
    """
    rest, line = b"", 1
    kind = "whole" if headers else ""

    def table(text: bytes) -> pa.Table:
        nonlocal kind
        kind = kind or _kind(text)
        return _fasta_table(file, text, line, kind)

    for block in blocks:
        text = rest + block
        cut = text.rfind(b"\n>") + 1
        if not cut:
            _check_length(file, text, line)
        whole, rest = text[:cut], text[cut:]
        if whole.strip():
            yield table(whole)
        line += whole.count(b"\n")
    if rest.strip():
        yield table(rest)


def _kind(text: bytes) -> str:
    header = text[text.index(b">") + 1 :].partition(b"\n")[0]
    if _bold_fields(header.decode("latin-1")) is not None:
        return "bold"
    return "obitools" if COUNT.search(header) else "plain"


def _bold_fields(header: str) -> tuple[str, str | None, str] | None:
    """Id, species and marker of a header of BOLD; None for another header."""
    fields = [field.strip() for field in header.split("|")]
    place = next((i for i, field in enumerate(fields[:4]) if i and MARKER.fullmatch(field)), 0)
    if not place or not fields[0] or " " in fields[0]:
        return None
    return fields[0], fields[1] if place > 1 else None, fields[place]


def _fasta_table(file: SequenceFile, text: bytes, line: int, kind: str) -> pa.Table:
    start = text.index(b">")  # only blank lines come before it
    line += text.count(b"\n", 0, start)
    records = text[start + 1 :].split(b"\n>")
    parts = [record.partition(b"\n") for record in records]
    bodies = [body for _, _, body in parts]

    def place(record: int, character: int) -> str:
        number = line + sum(text.count(b"\n") + 1 for text in records[:record])
        if character >= 0:
            number += 1 + bodies[record].count(b"\n", 0, character)
        return f"line {number}"

    headers = [header for header, _, _ in parts]
    if kind == "whole":
        table = file.barcodes(_ids(file, headers, place), bodies, place)
        return table.append_column("header", pa.array([file.decode(header) for header in headers], pa.string()))
    words = _ids(file, headers, place)
    if kind == "obitools":
        counts = [(match[1] or match[2]).decode() if (match := COUNT.search(header)) else "1" for header in headers]
        return file.barcodes(words, bodies, place).append_column("size", pa.array(counts, pa.string()))
    if kind == "plain":
        return file.barcodes(words, bodies, place)
    texts = [file.decode(header) for header in headers]
    found = [_bold_fields(text) or (word, None, None) for text, word in zip(texts, words.to_pylist(), strict=True)]
    ids, species, markers = (pa.array(column, pa.string()) for column in zip(*found, strict=True))
    return file.barcodes(ids, bodies, place).append_column("species", species).append_column("marker", markers)


def read_fastq(file: SequenceFile, blocks: Iterator[bytes]) -> Iterator[pa.Table]:
    """Tables of the records of a FASTQ with four lines per record."""
    rest, line, started = b"", 1, False
    for block in blocks:
        text = rest + block
        if not started:
            line += len(text) - len(text.lstrip(b"\n"))
            text = text.lstrip(b"\n")
            started = bool(text)
        lines = text.split(b"\n")
        count = (len(lines) - 1) // 4  # the last piece is not a whole line yet
        if not count:
            _check_length(file, text, line)
        rest = b"\n".join(lines[4 * count :])
        if count and any(lines[: 4 * count]):
            yield _fastq_table(file, lines[: 4 * count], line)
        line += 4 * count
    if rest.strip():
        raise ValueError(f"{str(file.path)!r} ends inside the record that begins at line {line}. Is it complete?")


def _fastq_table(file: SequenceFile, lines: list[bytes], line: int) -> pa.Table:
    while not any(lines[-4:]):  # blank lines at the end of the file
        lines = lines[:-4]
    headers, bodies, marks, qualities = (lines[part::4] for part in range(4))

    def place(record: int, character: int) -> str:
        return f"line {line + 4 * record + (character >= 0)}"

    for number, (header, body, mark, quality) in enumerate(zip(headers, bodies, marks, qualities, strict=True)):
        if not header.startswith(b"@") or not mark.startswith(b"+") or len(body) != len(quality):
            raise ValueError(
                f"{str(file.path)!r} is not a FASTQ of four lines per record at {place(number, -1)}: expected are "
                f"@id, the sequence, +, and as many qualities as nucleotides."
            )
    return file.barcodes(_ids(file, [header[1:] for header in headers], place), bodies, place)


def _check_length(file: SequenceFile, text: bytes, line: int) -> None:
    """Raises ValueError for an incomplete record that is already too long."""
    if len(text) > file.longest:
        raise ValueError(
            f"{str(file.path)!r} has a record of over {file.longest:,} bytes at line {line}, too long for a barcode."
        )


def _ids(file: SequenceFile, headers: list[bytes], place: Place) -> pa.Array:
    """The first word of each header."""
    words = [header.split(None, 1) for header in headers]
    if [] in words:
        raise ValueError(f"{str(file.path)!r} has a record without an id at {place(words.index([]), -1)}.")
    return pa.array([file.decode(word[0]) for word in words], pa.string())
