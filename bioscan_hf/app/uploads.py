"""What visitors paste or upload: read within limits, and never kept or executed."""

from __future__ import annotations

import csv
import gzip
import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import pyarrow as pa
import pyarrow.compute as pc

from ..dataset.sequences import read_sequences
from ..identification.photo_files import ENDINGS

#: Bytes of an upload, of what is unpacked from it, and of a pasted text.
MOST_BYTES, MOST_UNPACKED, MOST_TEXT = 20 << 20, 100 << 20, 5 << 20

#: Sequences of a visit, letters of a sequence and of all together, and photos.
MOST_READS, MOST_LETTERS, MOST_TOGETHER, MOST_PHOTOS = 5000, 20_000, 5_000_000, 50

#: Advice to choose a column by an option, which a visitor does not have.
_CHOOSE = re.compile(r"Choose one by --(\w+)-column \([^)]*\)\.")

#: Cells of a row of a sheet.
_MOST_COLUMNS = 200

_TABLES = (".csv", ".tsv", ".txt", ".xlsx", ".gz", ".fasta", ".fa", ".fas", ".fna", ".ffn", ".fsa", ".aln")
SEQUENCE_ENDINGS = (*_TABLES, ".fastq", ".fq")

LIMITS = (
    f"At most {MOST_READS:,} sequences of {MOST_LETTERS:,} letters or {MOST_PHOTOS} photos, in files of "
    f"{MOST_BYTES >> 20} MB. They are deleted within 15 minutes, and never run or kept."
)


def read_text(text: str) -> pa.Table:
    """Ids and sequences of a pasted text: FASTA, FASTQ, a table, or a sequence on each line.

    Raises:
        ValueError: if it is empty, too large or has no sequences.
    """
    if len(text.encode()) > MOST_TEXT:
        raise ValueError(f"The text has {len(text):,} letters. Paste at most {MOST_TEXT >> 20} MB, or give a file.")
    lines = text.strip().splitlines()
    if not lines:
        raise ValueError("There is nothing to name. Paste sequences, or give a file.")
    if lines[0][0] not in ">@" and not any(mark in lines[0] for mark in ",;\t"):
        lines = [f">sequence{number}\n{line}" for number, line in enumerate(filter(str.strip, lines), 1)]
    with TemporaryDirectory(prefix="bioscan_hf-app-") as folder:
        path = Path(folder) / "text"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return _read(path, "The text")


def read_upload(path: str | Path) -> pa.Table:
    """Ids and sequences of an upload: FASTA, FASTQ, CSV, TSV, also .gz, or XLSX.

    Raises:
        ValueError: if it is of another kind, damaged, too large, or has no sequences.
    """
    path = Path(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; at most {MOST_BYTES >> 20} MB are read.")
    with TemporaryDirectory(prefix="bioscan_hf-app-") as folder:
        with open(path, "rb") as file:
            start = file.read(4)
        plain = Path(folder) / path.name.removesuffix(".gz")
        if start.startswith(b"\x1f\x8b"):
            _unpack(path, plain)
        elif start == b"PK\x03\x04":
            plain = plain.with_suffix(".csv")
            _sheet_to_csv(path, plain)
        else:
            shutil.copyfile(path, plain)
        return _read(plain, path.name)


def photos_of(paths: Sequence[str | Path]) -> tuple[list[str], list[bytes]]:
    """Names and encoded photos of uploads.

    Raises:
        ValueError: for too many or too large ones.
    """
    files = [Path(path) for path in paths]
    if len(files) > MOST_PHOTOS:
        raise ValueError(f"There are {len(files):,} photos; at most {MOST_PHOTOS} are named at once.")
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        raise ValueError(f"The photos have more than {MOST_BYTES >> 20} MB together. Give fewer or smaller ones.")
    stems = [file.stem for file in files]
    names = [file.name if stems.count(file.stem) > 1 else file.stem for file in files]
    return names, [file.read_bytes() for file in files]


def are_photos(paths: Sequence[str | Path]) -> bool:
    """Whether uploads are photos, by their names."""
    return bool(paths) and all(Path(path).suffix.lower() in ENDINGS for path in paths)


def _read(path: Path, what: str) -> pa.Table:
    try:
        table = read_sequences(path, clean="any", duplicates="keep", empty="keep", tell=lambda text: None)
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not text in UTF-8. Save it as UTF-8.") from None
    except ValueError as error:
        words = str(error).replace(repr(str(path)), what).replace(str(path), what)
        raise ValueError(_CHOOSE.sub(r"Name one of them '\1'.", words)) from None
    if len(table) > MOST_READS:
        raise ValueError(f"{what} has {len(table):,} sequences; at most {MOST_READS:,} are named at once.")
    lengths = pc.binary_length(table["dna_barcode"])
    longest, together = pc.max(lengths).as_py() or 0, pc.sum(lengths).as_py() or 0
    if longest > MOST_LETTERS:
        raise ValueError(f"{what} has a sequence of {longest:,} letters; at most {MOST_LETTERS:,} are compared.")
    if together > MOST_TOGETHER:
        raise ValueError(f"{what} has {together:,} letters; at most {MOST_TOGETHER:,} are compared at once.")
    return table.select(["processid", "dna_barcode"])


def _unpack(path: Path, plain: Path) -> None:
    """Writes the content of a gzip file, which may be far larger than the file."""
    written = 0
    try:
        with gzip.open(path) as source, open(plain, "wb") as target:
            while part := source.read(1 << 20):
                written += len(part)
                if written > MOST_UNPACKED:
                    raise ValueError(f"{path.name} holds more than {MOST_UNPACKED >> 20} MB. Give a smaller file.")
                target.write(part)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} cannot be unpacked ({error}). Is it complete?") from None


def _sheet_to_csv(path: Path, plain: Path) -> None:
    """Writes the first sheet of an XLSX as CSV. Formulas are not computed: their stored values are read."""
    from openpyxl import load_workbook

    try:
        with ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_UNPACKED:
            raise ValueError(f"{path.name} holds more than {MOST_UNPACKED >> 20} MB. Give a smaller file.")
        book = load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, KeyError, OSError, zlib.error) as error:
        raise ValueError(f"{path.name} is not a sheet of XLSX ({error}).") from None
    with open(plain, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        width = 0
        for number, row in enumerate(book.worksheets[0].iter_rows(values_only=True, max_col=_MOST_COLUMNS)):
            if number > MOST_READS:
                raise ValueError(f"{path.name} has more than {MOST_READS:,} rows; so many are named at once.")
            cells = ["" if cell is None else str(cell) for cell in row]
            width = width or len(cells) - next((i for i, cell in enumerate(reversed(cells)) if cell), len(cells))
            if any(cells[:width]):
                writer.writerow(cells[:width])
    book.close()
