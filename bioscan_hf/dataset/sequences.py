"""DNA sequences of one's own, from FASTA, FASTQ, CSV or TSV files (also .gz), as a table of ids and barcodes.

A file is read in blocks; every record arrives or is named in an error. The kind of a file is told by its content.
Cleaning, where it is asked for, makes the letters that the tokenizers know: A, C, G, T and N.
Imports taxonomy alone of ours.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ..schema import COLUMNS, LABEL_COLUMNS, RANKS

#: Column names (in any case) that are taken for the sequence, and for the id; of several ids the first one here.
SEQUENCE_NAMES = ("dna_barcode", "nucleotides", "nucraw", "nuc", "sequence", "seq", "barcode", "dna", "dna_sequence")
ID_NAMES = ("processid", "process_id", "record_id", "sequence_id", "seq_id", "seqid", "id", "sampleid", "accession")

#: Column names in other tables of barcodes -> ours.
LABEL_NAMES = {**{name: name for name in LABEL_COLUMNS}, **{f"{rank}_name": rank for rank in RANKS}} | {
    "bin_uri": "dna_bin"
}

CLEANINGS = ("none", "barcode")

_BLOCK_BYTES = 1 << 23
_LONGEST = 1 << 26  # no barcode, nor a mitochondrion, comes near: a file without line ends must not fill the memory
_WHITE_SPACE = b" \t\n\r\v\f"
_AMBIGUOUS = b"RYSWKMBDHV"
_FASTA_SUFFIXES = (".fasta", ".fa", ".fas", ".fna", ".ffn", ".fsa", ".aln", ".fastq", ".fq")
_OTHER_FORMATS = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstandard"}

#: Where a character of a record lies: number of the record, and of the character (-1: its header) -> "line 12".
Place = Callable[[int, int], str]


class Rules(NamedTuple):
    """How the letters of a sequence are read.

    Attributes:
        table: What each byte becomes.
        removed: Bytes that are left out.
        allowed: Bytes that may remain.
        rtrim: Bytes that are cut off at the end.
    """

    table: bytes
    removed: bytes
    allowed: bytes
    rtrim: bytes


def rules(clean: str = "none", *, remove_gaps: bool = False) -> Rules:
    """The rules of `read_sequences` for `clean` and `remove_gaps`.

    Raises:
        ValueError: if there is no such cleaning.
    """
    if clean not in CLEANINGS:
        raise ValueError(f"clean={clean!r} is unknown. There are {', '.join(CLEANINGS)}.")
    removed = _WHITE_SPACE + (b"-." if remove_gaps else b"")
    if clean == "none":
        return Rules(bytes(range(256)), removed, b"ACGTN-" + _AMBIGUOUS, b"")
    unclear = _AMBIGUOUS + _AMBIGUOUS.lower() + b"n-"
    return Rules(bytes.maketrans(b"acgtuU" + unclear, b"ACGTTT" + b"N" * len(unclear)), removed, b"ACGTN", b"N")


def is_sequence_file(path: str | Path) -> bool:
    """Whether `read_sequences` reads the file, and not `load_bioscan5m`.

    True for a FASTA, a FASTQ, and a table that lacks a column of the published metadata of BIOSCAN-5M. False for a
    table with all of them, JSON, a folder, and what does not exist.

    Raises:
        ValueError: if the file is empty or of no known kind.
    """
    path = Path(path)
    if not path.is_file() or path.name.removesuffix(".gz").endswith((".json", ".jsonl", ".jsonld", ".zip")):
        return False
    with _opened(path) as stream:
        kind = _kind(stream, path)
        return kind != "table" or not set(COLUMNS) <= set(_header(stream, "utf-8")[0])


def read_sequences(
    path: str | Path,
    *,
    clean: str = "none",
    remove_gaps: bool = False,
    duplicates: str = "error",
    empty: str = "error",
    id_column: str | None = None,
    sequence_column: str | None = None,
    encoding: str = "utf-8",
    arrow_file: str | Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> pa.Table:
    """Strings `processid` and `dna_barcode` of every record, in order; of a table, also its ranks and `dna_bin`.

    The processid is the first word of a FASTA or FASTQ header, or the cell of the id column. White space in a sequence
    is left out. `embed` takes the result.

    Args:
        clean: "none" leaves the letters as they are and takes capital IUPAC codes and "-" alone; "barcode" also takes
            lower case and U, and makes A, C, G, T and N of all: IUPAC codes and "-" become N, and N at the end is cut.
        remove_gaps: Leaves "-" and "." out, as for the rows of an alignment.
        duplicates: "error", or "keep" for records of one id.
        empty: "error", or "keep" for records without a sequence, as "".
        id_column: Column of the ids in a table; None takes the first of `ID_NAMES`.
        sequence_column: Column of the sequences in a table; None takes that of `SEQUENCE_NAMES`.
        encoding: Of the ids and names, such as "latin-1".
        arrow_file: File to write the table to; it is then mapped into memory, not held there.
        progress: Called with the number of records of each block.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file of another kind or cut off, a letter that is no nucleotide, a record without an id or
            sequence, an id that comes twice, or a table without these columns; all name the place, and what to do.
    """
    path = Path(path)
    letters = rules(clean, remove_gaps=remove_gaps)
    for name, value in (("duplicates", duplicates), ("empty", empty)):
        if value not in ("error", "keep"):
            raise ValueError(f"{name}={value!r} is unknown. There are error, keep.")
    if not path.is_file():
        raise FileNotFoundError(f"No file of sequences at {str(path)!r}.")

    def blocks() -> Iterator[pa.Table]:
        with _opened(path) as stream:
            kind = _kind(stream, path)
            if kind == "table":
                found = _tables(stream, path, letters, id_column, sequence_column, encoding)
            elif id_column or sequence_column:
                raise ValueError(f"{str(path)!r} is a {kind.upper()}: it has no columns to choose from.")
            else:
                parse = _fasta if kind == "fasta" else _fastq
                found = parse(_text(stream), path, letters, encoding)
            for block in found:
                if progress is not None:
                    progress(len(block))
                yield block

    def check(table: pa.Table) -> None:
        if empty == "error":
            _refuse_empty(table, path)
        if duplicates == "error":
            _refuse_duplicates(table["processid"], path)

    if arrow_file is not None:
        return _written(blocks(), check, path, Path(arrow_file))
    table = pa.concat_tables([_first(parts := blocks(), path), *parts])
    check(table)
    return table


def _first(blocks: Iterator[pa.Table], path: Path) -> pa.Table:
    for block in blocks:
        if len(block):
            return block
    raise ValueError(f"{str(path)!r} holds no sequence.")


def _written(blocks: Iterator[pa.Table], check: Callable[[pa.Table], None], path: Path, output: Path) -> pa.Table:
    """All blocks as one table, mapped from a file that is written, once it is checked, whole or not at all."""
    first = _first(blocks, path)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    try:
        with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
            for block in chain([first], blocks):
                writer.write_table(block)
        check(_mapped(part))
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)
    return _mapped(output)


def _mapped(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


# ---- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file, decompressed, as a buffered stream of bytes. What it raises while it is read names the file."""
    with open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        opened: BinaryIO = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[assignment]
        try:
            yield io.BufferedReader(opened, _BLOCK_BYTES)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{str(path)!r} cannot be decompressed to its end ({error}). Is it complete?") from error


def _kind(stream: io.BufferedReader, path: Path) -> str:
    """ "fasta", "fastq" or "table", by the first characters; the stream stays at its beginning, behind a BOM."""
    start = stream.peek(4096)[:4096]
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise ValueError(f"{str(path)!r} is packed by {name}. Unpack it, or pack it by gzip.")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{str(path)!r} is text in UTF-16. Save it as UTF-8.")
    if start.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
        start = start[3:]
    start = start.lstrip(_WHITE_SPACE)
    if not start:
        raise ValueError(f"{str(path)!r} is empty.")
    if start.startswith((b">", b"@")):
        return "fasta" if start.startswith(b">") else "fastq"
    if path.name.lower().removesuffix(".gz").endswith(_FASTA_SUFFIXES) or b"\0" in start:
        raise ValueError(
            f"{str(path)!r} is no FASTA or FASTQ: it begins with {start[:20].decode('latin-1')!r}, not with > or @."
        )
    return "table"


def _text(stream: io.BufferedReader) -> Iterator[bytes]:
    """Blocks of the stream with "\\n" for every line end, and one at the very end."""
    rest, last = b"", b""
    while block := stream.read(_BLOCK_BYTES):
        block = rest + block
        rest = b"\r" if block.endswith(b"\r") else b""  # perhaps the half of a line end
        block = block[: len(block) - len(rest)]
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        last = block or last
        yield block
    if rest or not last.endswith(b"\n"):
        yield b"\n"


def _fasta(blocks: Iterator[bytes], path: Path, letters: Rules, encoding: str) -> Iterator[pa.Table]:
    rest, line = b"", 1
    for block in blocks:
        text = rest + block
        cut = text.rfind(b"\n>") + 1
        if not cut and len(text) > _LONGEST:
            raise ValueError(f"{str(path)!r} has a record of over {_LONGEST:,} bytes at line {line}: no barcode.")
        whole, rest = text[:cut], text[cut:]
        if whole.strip():
            yield _fasta_table(whole, line, path, letters, encoding)
        line += whole.count(b"\n")
    if rest.strip():
        yield _fasta_table(rest, line, path, letters, encoding)


def _fasta_table(text: bytes, line: int, path: Path, letters: Rules, encoding: str) -> pa.Table:
    start = text.index(b">")  # only blank lines come before it
    line += text.count(b"\n", 0, start)
    records = text[start + 1 :].split(b"\n>")
    headers, bodies = [], []
    for record in records:
        header, _, body = record.partition(b"\n")
        headers.append(header)
        bodies.append(body)

    def place(record: int, character: int) -> str:
        number = line + sum(text.count(b"\n") + 1 for text in records[:record])
        if character >= 0:
            number += 1 + bodies[record].count(b"\n", 0, character)
        return f"line {number}"

    return _table(_ids(headers, place, path, encoding), bodies, letters, place, path)


def _fastq(blocks: Iterator[bytes], path: Path, letters: Rules, encoding: str) -> Iterator[pa.Table]:
    rest, line, started = b"", 1, False
    for block in blocks:
        text = rest + block
        if not started:
            line += len(text) - len(text.lstrip(b"\n"))
            text = text.lstrip(b"\n")
            started = bool(text)
        lines = text.split(b"\n")
        count = (len(lines) - 1) // 4  # the last piece is no whole line yet
        if not count and len(text) > _LONGEST:
            raise ValueError(f"{str(path)!r} has a record of over {_LONGEST:,} bytes at line {line}: no barcode.")
        rest = b"\n".join(lines[4 * count :])
        if count and any(lines[: 4 * count]):
            yield _fastq_table(lines[: 4 * count], line, path, letters, encoding)
        line += 4 * count
    if rest.strip():
        raise ValueError(f"{str(path)!r} breaks off in the record that begins at line {line}. Is it complete?")


def _fastq_table(lines: list[bytes], line: int, path: Path, letters: Rules, encoding: str) -> pa.Table:
    while not any(lines[-4:]):  # blank lines at the end of the file
        lines = lines[:-4]
    headers, bodies, marks, qualities = (lines[part::4] for part in range(4))

    def place(record: int, character: int) -> str:
        return f"line {line + 4 * record + (character >= 0)}"

    for number, (header, body, mark, quality) in enumerate(zip(headers, bodies, marks, qualities, strict=True)):
        if not header.startswith(b"@") or not mark.startswith(b"+") or len(body) != len(quality):
            raise ValueError(
                f"{str(path)!r} is no FASTQ of four lines a record at {place(number, -1)}: expected are @id, the "
                f"sequence, +, and as many qualities as nucleotides."
            )
    return _table(_ids([header[1:] for header in headers], place, path, encoding), bodies, letters, place, path)


def _ids(headers: list[bytes], place: Place, path: Path, encoding: str) -> pa.Array:
    """The first word of each header."""
    words = [header.split(None, 1) for header in headers]
    if [] in words:
        number = words.index([])
        raise ValueError(f"{str(path)!r} has a record without an id at {place(number, -1)}.")
    try:
        return pa.array([word[0].decode(encoding) for word in words], pa.string())
    except UnicodeDecodeError as error:
        raise _encoding_error(path, encoding, error) from error


def _encoding_error(path: Path, encoding: str, error: Exception) -> ValueError:
    return ValueError(
        f"{str(path)!r} holds ids or names that are not {encoding} ({error}). Give the encoding it was saved in, such "
        f"as encoding='latin-1'."
    )


# ---- tables --------------------------------------------------------------------------------------------------------


def _header(stream: io.BufferedReader, encoding: str) -> tuple[list[str], str]:
    """Column names and delimiter of a table, whose stream stays where it is."""
    line = stream.peek(_BLOCK_BYTES).lstrip(_WHITE_SPACE).splitlines()[0].decode(encoding, "replace")
    delimiter = max("\t,;", key=line.count)
    return [cell.strip('"') for cell in line.split(delimiter)], delimiter


def _tables(
    stream: io.BufferedReader, path: Path, letters: Rules, id_column: str | None, sequence: str | None, encoding: str
) -> Iterator[pa.Table]:
    names, delimiter = _header(stream, encoding)
    ids = _column(names, id_column, ID_NAMES, "ids", "id_column", path)
    barcodes = _column(names, sequence, SEQUENCE_NAMES, "sequences", "sequence_column", path)
    found = {LABEL_NAMES[name.lower()]: name for name in names if name.lower() in LABEL_NAMES}
    labels = {rank: found[rank] for rank in LABEL_COLUMNS if rank in found}
    row = 1
    try:
        reader = pacsv.open_csv(
            stream,
            pacsv.ReadOptions(block_size=_BLOCK_BYTES, encoding=encoding, use_threads=False),
            pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(dict.fromkeys([ids, barcodes, *labels.values()])),
                null_values=["", "NA", "NaN", "nan", "None"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:

            def place(record: int, character: int, row: int = row) -> str:
                return f"row {row + record}"

            cells = batch.column(ids)
            if cells.null_count:
                raise ValueError(f"{str(path)!r} has no id in row {row + pc.index(pc.is_null(cells), True).as_py()}.")
            bodies = [body or b"" for body in batch.column(barcodes).cast(pa.binary()).to_pylist()]
            block = _table(cells, bodies, letters, place, path)
            for rank, name in labels.items():
                block = block.append_column(rank, batch.column(name))
            yield block
            row += len(batch)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
            raise _encoding_error(path, encoding, error) from error
        raise ValueError(f"{str(path)!r} is no whole table, separated by {delimiter!r}: {error}") from error


def _column(names: list[str], given: str | None, known: Sequence[str], what: str, option: str, path: Path) -> str:
    """The column that is given, or has one of the known names."""
    advice = f"Its columns are {', '.join(map(repr, names))}. Name the one by {option} (--{option.replace('_', '-')})."
    if given is not None:
        if names.count(given) != 1:
            raise ValueError(f"{str(path)!r} has {names.count(given)} columns {given!r}. {advice}")
        return given
    found = sorted((known.index(name.lower()), name) for name in names if name.lower() in known)
    if not found:
        raise ValueError(f"{str(path)!r} has no column of {what} (none of {', '.join(known)}). {advice}")
    if len(found) > 1 and known is SEQUENCE_NAMES or len({name for _, name in found}) < len(found):
        raise ValueError(f"{str(path)!r} has several columns of {what}: {', '.join(n for _, n in found)}. {advice}")
    return found[0][1]


# ---- what is read --------------------------------------------------------------------------------------------------


def _table(ids: pa.Array, bodies: list[bytes], letters: Rules, place: Place, path: Path) -> pa.Table:
    """Ids and the bodies of their records by the rules; raises ValueError for the first letter that is not allowed."""
    table, removed, allowed, rtrim = letters
    barcodes = []
    for number, body in enumerate(bodies):
        barcode = body.translate(table, removed)
        if barcode.translate(None, allowed):
            raise _letter_error(ids[number].as_py(), number, body, letters, place, path)
        barcodes.append(barcode.rstrip(rtrim) if rtrim else barcode)
    return pa.table({"processid": ids, "dna_barcode": pa.array(barcodes, pa.binary()).cast(pa.string())})


def _letter_error(name: str, number: int, body: bytes, letters: Rules, place: Place, path: Path) -> ValueError:
    removed = set(letters.removed)
    at = next(i for i, byte in enumerate(body) if byte not in removed and letters.table[byte] not in letters.allowed)
    letter = body[at : at + 1]
    known = "A, C, G, T, N, the IUPAC codes and '-'"
    advice = f"Allowed are {known}."
    if letters.rtrim == b"" and letter in b"acgtnuU" + _AMBIGUOUS.lower():
        advice = f"Allowed are capital {known}; clean='barcode' reads lower case and U too."
    elif letter == b".":
        advice += " Gaps of an alignment are left out by remove_gaps=True."
    return ValueError(
        f"{name!r} in {str(path)!r} is no DNA: {place(number, at)} holds {letter.decode('latin-1')!r}. {advice}"
    )


def _refuse_empty(block: pa.Table, path: Path) -> None:
    empty = pc.equal(pc.binary_length(block["dna_barcode"]), 0)
    if pc.any(empty).as_py():
        names = block["processid"].filter(empty).to_pylist()
        raise ValueError(
            f"{str(path)!r} has records without a sequence: {_named(names)}. Remove them, or keep them by "
            f"empty='keep' (--keep-empty)."
        )


def _refuse_duplicates(ids: pa.ChunkedArray, path: Path) -> None:
    counts = pc.value_counts(ids)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    if repeated:
        raise ValueError(
            f"{str(path)!r} has ids that come more than once: {_named(repeated)}. Make them differ, or keep them all "
            f"by duplicates='keep' (--keep-duplicates)."
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(map(repr, names[:5]))}{more}"
