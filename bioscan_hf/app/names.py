"""Names for what a visitor pastes or uploads, as a report and as files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from ..identification.base import Library
from ..identification.embeddings import EmbeddingLibrary
from ..identification.library import ReferenceLibrary
from ..identification.report import SHOWN, write_report
from ..identification.samples import with_samples
from ..identification.tables import write_answers
from .uploads import are_photos, photos_of, read_text, read_upload

#: Files that a visitor can download.
FILES = ("names.csv", "names.xlsx", "names.html")


@dataclass
class Namer:
    """The libraries that name sequences and photos; one visit at a time uses each."""

    sequences: ReferenceLibrary | None = None
    photos: EmbeddingLibrary | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self, text: str, uploads: Sequence[str | Path], least: float) -> tuple[pa.Table, Library, Any, str]:
        """Answers, the library that gave them, the reads of sequences, and a title.

        Raises:
            ValueError: for what cannot be read, is too large, or has no library that names it.
        """
        if uploads and text.strip():
            raise ValueError("There are a text and a file. Clear one of them.")
        if are_photos(uploads):
            if self.photos is None:
                raise ValueError("This page names sequences, not photos. Give a FASTA, FASTQ, CSV, TSV or XLSX.")
            ids, photos = photos_of(uploads)
            with self._lock:
                return self.photos.identify(photos, ids, least=least), self.photos, None, "Names of photos"
        if len(uploads) > 1:
            raise ValueError("Give one file of sequences at a time, or photos alone.")
        if self.sequences is None:
            raise ValueError("This page names photos, not sequences. Give JPEG or PNG files.")
        reads = read_upload(uploads[0]) if uploads else read_text(text)
        title = f"Names of {Path(uploads[0]).name}" if uploads else "Names of sequences"
        with self._lock:
            found = self.sequences.identify(reads, least=least, neighbours=SHOWN)
        return found, self.sequences, reads["dna_barcode"], title

    def example(self) -> str:
        """A FASTA of four references, one of them with changed letters and one cut."""
        if self.sequences is None:
            return ""
        records = self.sequences.records
        rows = [int(i * (len(records) - 1) / 4) for i in range(4)]
        reads = records["dna_barcode"].take(pa.array(rows)).to_pylist()
        reads[1] = reads[1][:100] + "".join("ACGT"["TGCA".find(x)] for x in reads[1][100:112]) + reads[1][112:]
        reads[2] = reads[2][150:450]
        return "".join(f">example{i}\n{read}\n" for i, read in enumerate(reads, 1))


def write_files(folder: Path, answers: pa.Table, library: Library, reads: Any, title: str, least: float) -> str:
    """Writes `FILES`, and returns the report as HTML."""
    answers = with_samples(answers)
    table = answers.drop_columns("neighbours") if "neighbours" in answers.column_names else answers
    for name in FILES[:2]:
        write_answers(table, folder / name)
    write_report(folder / FILES[2], answers, library, reads, title=title, least=least)
    return (folder / FILES[2]).read_text(encoding="utf-8")


def new_folder() -> TemporaryDirectory[str]:
    """A folder for files that are copied to the visitor's downloads and then deleted."""
    return TemporaryDirectory(prefix="bioscan_hf-app-")
