"""`read_sequences`: DNA sequences from FASTA, FASTQ, CSV or TSV files as a table of ids and barcodes.

A file is read in blocks, also if it is gzipped. Its kind is found from its content. Every record is read, or named in
an error.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ..files import replacing
from ..progress import Progress, silent
from ..schema import COLUMNS, LABEL_COLUMNS, RANKS
from .fasta import normalized, read_fasta, read_fastq
from .letters import WHITE_SPACE, SequenceFile, rules

#: Names of a column of sequences, in any case.
SEQUENCE_NAMES = ("dna_barcode", "nucleotides", "nucraw", "nuc", "sequence", "seq", "barcode", "dna", "dna_sequence")

#: Names of a column of ids, in any case. If a table has several, the first one here is used.
ID_NAMES = ("processid", "process_id", "record_id", "sequence_id", "seq_id", "seqid", "id", "sampleid", "accession")

#: Column names in other tables of barcodes -> ours.
LABEL_NAMES = {**{name: name for name in LABEL_COLUMNS}, **{f"{rank}_name": rank for rank in RANKS}} | {
    "bin_uri": "dna_bin"
}

_BLOCK_BYTES = 1 << 23
_LONGEST = 1 << 26  # far longer than a mitochondrial genome; bounds the memory for a file without line ends
_FASTA_SUFFIXES = (".fasta", ".fa", ".fas", ".fna", ".ffn", ".fsa", ".aln", ".fastq", ".fq")
_OTHER_FORMATS = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstandard"}


def is_sequence_file(path: str | Path) -> bool:
    """Whether `read_sequences` reads the file, and not `load_bioscan5m`.

    True for a FASTA, a FASTQ, and a table without one of the columns of the published metadata of BIOSCAN-5M. False
    for a table with all of them, JSON, a folder, and a path that does not exist.

    Raises:
        ValueError: if the file is empty or of an unknown kind.
    """
    path = Path(path)
    if not path.is_file() or path.name.removesuffix(".gz").endswith((".json", ".jsonl", ".jsonld", ".zip")):
        return False
    with _opened(path) as stream:
        return _kind(stream, path) != "table" or not set(COLUMNS) <= set(_header(stream, "utf-8")[0])


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
    progress: Progress = silent,
) -> pa.Table:
    """Table of the columns `processid` and `dna_barcode`, one row per record.

    A table of labels also keeps its ranks and `dna_bin`.

    The processid is the first word of a FASTA or FASTQ header, or the cell of the id column. White space in a sequence
    is removed. `embed` takes the result.

    Args:
        clean: "none" allows capital IUPAC codes and "-" only, and keeps them; "barcode" also allows lower case and U,
            and turns all letters into A, C, G, T and N: IUPAC codes and "-" become N, and N at the end is cut.
        remove_gaps: Removes "-" and ".", as in the rows of an alignment.
        duplicates: "error", or "keep" for several records with one id.
        empty: "error", or "keep" for records without a sequence, as "".
        id_column: Column of the ids in a table; None takes the first of `ID_NAMES`.
        sequence_column: Column of the sequences in a table; None takes that of `SEQUENCE_NAMES`.
        encoding: Encoding of the ids and names, such as "latin-1".
        arrow_file: File to write the table to; the result is then mapped from it and not held in memory.
        progress: Called with "records", the records read so far, and None.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file of another kind or an incomplete one, a letter that is not a nucleotide, a record
            without an id or sequence, an id that occurs twice, or a table without these columns. The message names
            the place and what to do.
    """
    path = Path(path)
    letters = rules(clean, remove_gaps=remove_gaps)
    for name, value in (("duplicates", duplicates), ("empty", empty)):
        if value not in ("error", "keep"):
            raise ValueError(f"{name}={value!r} is unknown. Choose error or keep.")
    if not path.is_file():
        raise FileNotFoundError(f"No file of sequences at {str(path)!r}.")
    file = SequenceFile(path, letters, encoding, _BLOCK_BYTES, _LONGEST)

    def check(table: pa.Table) -> None:
        if empty == "error":
            _refuse_empty(table, path)
        if duplicates == "error":
            _refuse_duplicates(table["processid"], path)

    blocks = _blocks(file, id_column, sequence_column, progress)
    first = next((block for block in blocks if len(block)), None)
    if first is None:
        raise ValueError(f"{str(path)!r} does not hold any sequence.")
    if arrow_file is None:
        table = pa.concat_tables([first, *blocks])
        check(table)
        return table
    with replacing(arrow_file) as part:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            for block in chain([first], blocks):
                writer.write_table(block)
        check(_mapped(part))
    return _mapped(arrow_file)


def _mapped(file: str | Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _blocks(
    file: SequenceFile, id_column: str | None, sequence_column: str | None, progress: Progress
) -> Iterator[pa.Table]:
    done = 0
    with _opened(file.path) as stream:
        kind = _kind(stream, file.path)
        if kind == "table":
            found = _read_table(file, stream, id_column, sequence_column)
        elif id_column or sequence_column:
            raise ValueError(f"{str(file.path)!r} is a {kind.upper()}: it has no columns to choose from.")
        else:
            found = (read_fasta if kind == "fasta" else read_fastq)(file, normalized(stream, file.block_bytes))
        for block in found:
            done += len(block)
            progress("records", done, None)
            yield block


# ---- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file, decompressed, as a buffered stream of bytes. Errors while it is read name the file."""
    with open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        opened: BinaryIO = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[assignment]
        try:
            yield io.BufferedReader(opened, _BLOCK_BYTES)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{str(path)!r} cannot be decompressed to its end ({error}). Is it complete?") from error


def _kind(stream: io.BufferedReader, path: Path) -> str:
    """ "fasta", "fastq" or "table", from the first characters; skips a byte order mark."""
    start = stream.peek(4096)[:4096]
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise ValueError(f"{str(path)!r} is compressed with {name}. Decompress it, or use gzip.")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{str(path)!r} is text in UTF-16. Save it as UTF-8.")
    if start.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
        start = start[3:]
    start = start.lstrip(WHITE_SPACE)
    if not start:
        raise ValueError(f"{str(path)!r} is empty.")
    if start.startswith((b">", b"@")):
        return "fasta" if start.startswith(b">") else "fastq"
    if path.name.lower().removesuffix(".gz").endswith(_FASTA_SUFFIXES) or b"\0" in start:
        raise ValueError(
            f"{str(path)!r} is not a FASTA or FASTQ: it begins with {start[:20].decode('latin-1')!r} instead of > or "
            f"@."
        )
    return "table"


# ---- tables --------------------------------------------------------------------------------------------------------


def _header(stream: io.BufferedReader, encoding: str) -> tuple[list[str], str]:
    """Column names and delimiter of a table; the position of the stream does not change."""
    line = stream.peek(_BLOCK_BYTES).lstrip(WHITE_SPACE).splitlines()[0].decode(encoding, "replace")
    delimiter = max("\t,;", key=line.count)
    return [cell.strip('"') for cell in line.split(delimiter)], delimiter


def _read_table(
    file: SequenceFile, stream: io.BufferedReader, id_column: str | None, sequence_column: str | None
) -> Iterator[pa.Table]:
    names, delimiter = _header(stream, file.encoding)
    ids = _column(names, id_column, ID_NAMES, "ids", "id_column", file.path)
    barcodes = _column(names, sequence_column, SEQUENCE_NAMES, "sequences", "sequence_column", file.path)
    found = {LABEL_NAMES[name.lower()]: name for name in names if name.lower() in LABEL_NAMES}
    labels = {rank: found[rank] for rank in LABEL_COLUMNS if rank in found}
    row = 1
    try:
        reader = pacsv.open_csv(
            stream,
            pacsv.ReadOptions(block_size=_BLOCK_BYTES, encoding=file.encoding, use_threads=False),
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
                first = row + pc.index(pc.is_null(cells), True).as_py()
                raise ValueError(f"{str(file.path)!r} has no id in row {first}.")
            bodies = [body or b"" for body in batch.column(barcodes).cast(pa.binary()).to_pylist()]
            block = file.barcodes(cells, bodies, place)
            for rank, name in labels.items():
                block = block.append_column(rank, batch.column(name))
            yield block
            row += len(batch)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
            raise file.encoding_error(error) from error
        raise ValueError(f"{str(file.path)!r} is not a complete table, separated by {delimiter!r}: {error}") from error


def _column(names: list[str], given: str | None, known: Sequence[str], what: str, option: str, path: Path) -> str:
    """The given column, or the one with a known name."""
    advice = f"Its columns are {', '.join(map(repr, names))}. Choose one by {option} (--{option.replace('_', '-')})."
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
            f"{str(path)!r} has ids that occur more than once: {_named(repeated)}. Make them unique, or keep them all "
            f"by duplicates='keep' (--keep-duplicates)."
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(map(repr, names[:5]))}{more}"
