"""`read_sequences`: DNA sequences from FASTA, FASTQ, CSV or TSV files as a table of ids and barcodes.

A file is read in blocks, also if it is gzipped. Its kind is found from its content. Every record is read, or named in
an error.
"""

from __future__ import annotations

import codecs
import gzip
import io
import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from ..files import replacing
from ..labels import taxon_name
from ..progress import Progress, silent
from ..release.column_names import listed, our_columns, separators, spelt
from ..release.columns import without_markers
from ..release.problems import is_utf16, other_format, refuse
from ..release.rows import read_rows
from ..release.tables import csv_columns
from ..schema import ID_NAMES, LABEL_COLUMNS, SEQUENCE_NAMES
from .fasta import normalized, read_fasta, read_fastq
from .letters import WHITE_SPACE, SequenceFile, rules
from .sequence_tables import SequenceTable, sequence_table

logger = logging.getLogger(__name__)

#: The marker that is a barcode of animals.
BARCODE_MARKER = "COI-5P"

#: Names of the column of markers, in any case.
MARKER_NAMES = ("marker_code", "markercode", "marker")

_BLOCK_BYTES = 1 << 23
_LONGEST = 1 << 24  # far longer than a mitochondrial genome; bounds the memory for a file without line ends
_NO_SEQUENCES = (".json", ".jsonl", ".jsonld", ".zip", ".parquet")
_OTHERS = {
    rb"LOCUS  +\S": "a file of GenBank",
    rb"ID   \w+[; ]": "a file of EMBL",
    rb"(?i:#nexus)": "NEXUS",
    rb"(?i:#mega)": "a file of MEGA",
    rb"(?i:# stockholm)": "an alignment in Stockholm format",
    rb"(?i:clustal[ w])": "an alignment of Clustal",
    rb"(?i:muscle \()": "an alignment of MUSCLE",
    rb"\d+[ \t]+\d+[ \t]*[IiSs]?\r?\n(?!\S{20,}[ \t]+\d)": "an alignment in PHYLIP format",
    rb"%PDF": "a PDF",
    rb"ABIF": "a trace (AB1)",
    rb"(?i:<!doctype|<html)": "a page of the web",
    rb"@(HD|SQ)\t": "SAM",
    rb"BAM\x01": "BAM",
    rb"RDX\d\n|X\n\x00\x00\x00": "a file of R (write.csv writes tables)",
}
_FASTA_SUFFIXES = (".fasta", ".fa", ".fas", ".fna", ".ffn", ".fsa", ".aln", ".fastq", ".fq")


def may_hold_sequences(path: str | Path) -> bool:
    """Whether a path is that of a file of a kind that `read_sequences` reads, by its name: not JSON, a zip or
    Parquet."""
    path = Path(path)
    return path.is_file() and not path.name.lower().removesuffix(".gz").endswith(_NO_SEQUENCES)


def is_sequence_file(path: str | Path) -> bool:
    """Whether `read_sequences` reads the file, and not `load_bioscan5m`.

    True for a FASTA, a FASTQ, and a table without a column `split`. False for a table of specimens with splits, JSON,
    a folder, and a path that does not exist.

    Raises:
        ValueError: if the file is empty or of an unknown kind.
    """
    path = Path(path)
    if not may_hold_sequences(path):
        return False
    with opened(path) as stream:
        marked = stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        kind = file_kind(stream, path, "utf-16")
    names = csv_columns(path, "utf-16" if marked else "latin-1") if kind == "table" else []
    return not {"processid", "dna_barcode", "split"} <= our_columns(path, names).keys()


def read_sequences(
    path: str | Path,
    *,
    clean: str = "none",
    duplicates: str = "error",
    empty: str = "error",
    id_column: str | None = None,
    sequence_column: str | None = None,
    marker: str | None = BARCODE_MARKER,
    kept: Sequence[str] = (),
    encoding: str = "utf-8",
    arrow_file: str | Path | None = None,
    progress: Progress = silent,
    tell: Callable[[str], object] = logger.warning,
) -> pa.Table:
    """Table of the columns `processid` and `dna_barcode`, one row per record.

    A table of labels also keeps its ranks and `dna_bin`, a FASTA of BOLD its species, and one of OBITools its numbers
    of reads (`count=12;`) as the text `size`.

    The processid is the first word of a FASTA or FASTQ header (up to the first "|" in a FASTA of BOLD), or the cell of
    the id column. Sequences get their one spelling: upper case, T for U, without white space and gaps. `embed` takes
    the result. Of the records of BOLD, those of other markers and those without a sequence are left out and counted.

    Args:
        clean: "none" keeps IUPAC codes; "barcode" turns them into N, and cuts N at the end; "any" turns letters that
            are not DNA into N, and leaves out digits, instead of raising an error.
        duplicates: "error", or "keep" for several records with one id.
        empty: "error", or "keep" for records without a sequence, as "".
        id_column: Column of the ids in a table; None takes the first of `ID_NAMES`.
        sequence_column: Column of the sequences in a table; None takes that of `SEQUENCE_NAMES`.
        marker: The marker that is read from records that name theirs; None reads all.
        kept: Other columns of a table that the result has too, as text.
        encoding: Encoding of the ids and names, such as "latin-1".
        arrow_file: File to write the table to; the result is then mapped from it and not held in memory.
        progress: Called with "records", the records read so far, and None.
        tell: Called with a line about the records that are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file of another kind or an incomplete one, a letter that is not a nucleotide, a record
            without an id or sequence, an id that occurs twice, or a table without these columns. The message names
            the place and what to do.
    """
    path = Path(path)
    letters = rules(clean)
    for name, value in (("duplicates", duplicates), ("empty", empty)):
        if value not in ("error", "keep"):
            raise ValueError(f"{name}={value!r} is unknown. Choose error or keep.")
    if not path.is_file():
        raise FileNotFoundError(f"No file of sequences at {str(path)!r}.")
    file = SequenceFile(path, letters, encoding, _BLOCK_BYTES, _LONGEST)
    left_out: Counter[str] = Counter()

    def check(table: pa.Table) -> None:
        if empty == "error":
            _refuse_empty(table, path)
        if duplicates == "error":
            _refuse_duplicates(table["processid"], path)
        if left_out:
            tell(f"{path.name}: left out {counted(left_out)}.")

    found = _blocks(file, id_column, sequence_column, kept, progress)
    blocks = (_barcodes(block, marker, left_out) for block in found)
    first = next((block for block in blocks if len(block)), None)
    if first is None:
        why = f", but {counted(left_out)}" if left_out else ""
        raise ValueError(f"{str(path)!r} does not hold any sequence{why}.")
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


def counted(left_out: Counter[str]) -> str:
    """The records that were left out, and why."""
    return ", ".join(f"{n:,} record{'s' * (n > 1)} {what}" for what, n in left_out.items())


def _barcodes(block: pa.Table, marker: str | None, left_out: Counter[str]) -> pa.Table:
    """The records of a marker, without the column of markers."""
    if "marker" not in block.column_names:
        return block
    if marker is not None:
        block = block.filter(of_marker(block, "marker", marker, left_out))
    return block.drop_columns("marker")


def of_marker(block: pa.Table, column: str, marker: str, left_out: Counter[str]) -> pa.ChunkedArray:
    """Mask of the records of a marker or of none. Others are counted, and so are records without a sequence."""
    names = without_markers(block[column])
    other = pc.fill_null(pc.not_equal(pc.utf8_upper(names), marker.upper()), False)
    for name, count in Counter(names.filter(other).to_pylist()).items():
        left_out[f"of the marker {name}"] += count
    lengths = pc.fill_null(pc.binary_length(block["dna_barcode"]), 0)
    empty = pc.and_(pc.invert(other), pc.equal(lengths, 0))
    if count := pc.sum(empty).as_py():
        left_out["without a sequence"] += count
    return pc.invert(pc.or_(other, empty))


def _mapped(file: str | Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _blocks(
    file: SequenceFile, id_column: str | None, sequence_column: str | None, kept: Sequence[str], progress: Progress
) -> Iterator[pa.Table]:
    done = 0
    with opened(file.path) as stream:
        kind = file_kind(stream, file.path, file.encoding)
        if kind == "table":
            named = None if id_column or sequence_column or kept else sequence_table(stream, file.path, file.encoding)
            found = (
                _read_table(file, id_column, sequence_column, kept) if named is None else iter([_asvs(file, named)])
            )
        elif id_column or sequence_column or kept:
            raise ValueError(f"{str(file.path)!r} is a {kind.upper()}: it has no columns to choose from.")
        else:
            found = (read_fasta if kind == "fasta" else read_fastq)(file, normalized(stream, file.block_bytes))
        for block in found:
            done += len(block)
            progress("records", done, None)
            yield block


# ---- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file, decompressed, as a buffered stream of bytes. Errors while it is read name the file."""
    with open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        opened: BinaryIO = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[assignment]
        try:
            yield io.BufferedReader(opened, _BLOCK_BYTES)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{str(path)!r} cannot be decompressed to its end ({error}). Is it complete?") from error


def file_kind(stream: io.BufferedReader, path: Path, encoding: str = "utf-8") -> str:
    """ "fasta", "fastq" or "table", from the first characters; skips a byte order mark."""
    start = stream.peek(4096)[:4096]
    if found := other_format(start):
        raise ValueError(f"{str(path)!r} {found}.")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        fasta = start[2:40].replace(b"\0", b"").lstrip(WHITE_SPACE).startswith((b">", b"@"))
        if encoding.lower().startswith("utf-16") and not fasta:
            return "table"
        more = "" if fasta else ", or give its encoding by --encoding utf-16 (in Python encoding='utf-16')"
        raise ValueError(f"{str(path)!r} is text in UTF-16. Save it as UTF-8{more}.")
    if is_utf16(start) and not encoding.lower().startswith("utf-16"):
        raise ValueError(f"{str(path)!r} seems to be text in UTF-16. Save it as UTF-8.")
    if start.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
        start = start[3:]
    start = start.lstrip(WHITE_SPACE)
    if not start:
        raise ValueError(f"{str(path)!r} is empty.")
    if other := next((name for first, name in _OTHERS.items() if re.match(first, start)), None):
        raise ValueError(f"{str(path)!r} is {other}, not a table, FASTA or FASTQ. Save its sequences as FASTA.")
    if start.startswith((b">", b"@")):
        return "fasta" if start.startswith(b">") else "fastq"
    comment = start.startswith((b";", b"#")) and b"\n>" in start
    named = path.name.lower().removesuffix(".gz").endswith(_FASTA_SUFFIXES)
    if comment or named or b"\0" in start.partition(b"\n")[0]:
        what = " Delete the lines above the first record." if comment else ""
        raise ValueError(
            f"{str(path)!r} is not a FASTA or FASTQ: it begins with {start[:20].decode('latin-1')!r} instead of > or "
            f"@.{what}"
        )
    return "table"


# ---- tables --------------------------------------------------------------------------------------------------------


def _read_table(
    file: SequenceFile, id_column: str | None, sequence_column: str | None, kept: Sequence[str]
) -> Iterator[pa.Table]:
    names = csv_columns(file.path, file.encoding)
    ids = chosen_column(names, id_column, ID_NAMES, "ids", "id_column", file.path)
    barcodes = chosen_column(names, sequence_column, SEQUENCE_NAMES, "sequences", "sequence_column", file.path)
    if ids == barcodes:
        raise ValueError(f"{str(file.path)!r}: the column {ids!r} cannot hold both the ids and the sequences.")
    chosen = {ids: "processid", barcodes: "dna_barcode"}
    found = our_columns(file.path, names, chosen)
    labels = [column for column in LABEL_COLUMNS if column in found]
    markers = [name for name in names if name.lower() in MARKER_NAMES][:1]
    ours = {theirs: name for name, theirs in found.items()}
    if lacking := [name for name in kept if name not in ours]:
        raise ValueError(f"{str(file.path)!r} has no column {lacking[0]!r}. Its columns are {listed(names)}.")
    others = {name: ours[name] for name in kept}
    wanted = list(dict.fromkeys(["processid", "dna_barcode", *labels, *markers, *others.values()]))
    for row, table in read_rows(file.path, wanted, refuse, encoding=file.encoding, names=chosen):
        block = file.rows(table["processid"], table["dna_barcode"], row)
        for rank in labels:
            block = block.append_column(rank, table[rank])
        for name in markers:
            block = block.append_column("marker", table[name])
        for name, our in others.items():
            if name not in block.column_names:
                block = block.append_column(name, table[our])
        yield block


def chosen_column(
    names: Sequence[str], given: str | None, known: Sequence[str], what: str, option: str, path: Path
) -> str:
    """The given column, or the one with a known name."""
    advice = f"Its columns are {listed(names)}. Choose one by --{option.replace('_', '-')} (in Python {option}=)."
    if given is not None:
        if names.count(given) != 1:
            raise ValueError(f"{str(path)!r} has {names.count(given)} columns {given!r}. {advice}")
        return given
    found = sorted((known.index(spelt(name)), name) for name in names if spelt(name) in known)
    if not found:
        advice += separators(names)
        raise ValueError(f"{str(path)!r} has no column of {what} (none of {', '.join(known)}). {advice}")
    if len(found) > 1 and known is SEQUENCE_NAMES or [place for place, _ in found].count(found[0][0]) > 1:
        raise ValueError(f"{str(path)!r} has several columns of {what}: {', '.join(n for _, n in found)}. {advice}")
    return found[0][1]


def _asvs(file: SequenceFile, table: SequenceTable) -> pa.Table:
    """The sequences that name columns or rows of a table of reads, with its columns of labels."""
    bodies = [sequence.encode() for sequence in table.sequences]
    block = file.barcodes(pa.array(table.ids), bodies, lambda record, _: f"sequence {record + 1}")
    for name, column in our_columns(file.path, list(table.columns)).items():
        if name in LABEL_COLUMNS:
            block = block.append_column(
                name, pa.array([taxon_name(cell) for cell in table.columns[column]], pa.string())
            )
    return block


def _refuse_empty(block: pa.Table, path: Path) -> None:
    empty = pc.equal(pc.binary_length(block["dna_barcode"]), 0)
    if pc.any(empty).as_py():
        names = block["processid"].filter(empty).to_pylist()
        raise ValueError(
            f"{str(path)!r} has {len(names):,} record{'s' * (len(names) > 1)} without a sequence: {_named(names)}. "
            f"Remove them, or keep them by --keep-empty (in Python empty='keep'); embed leaves them out with "
            f"--missing drop."
        )


def _refuse_duplicates(ids: pa.ChunkedArray, path: Path) -> None:
    counts = pc.value_counts(ids)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    if repeated:
        raise ValueError(
            f"{str(path)!r} has ids that occur more than once: {_named(repeated)}. Make them unique, or keep them all "
            f"by --keep-duplicates (in Python duplicates='keep')."
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(map(repr, names[:5]))}{more}"
