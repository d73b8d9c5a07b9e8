"""Further files of the command identify: exports, abundances and the report."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from .options import refuse_to_replace

if TYPE_CHECKING:
    import pyarrow as pa

    from ..identification.base import Library

_PANEL = "Further files"

Abundance = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Table of the reads of each taxon in each sample. Sizes and samples: ;size=12;sample=A in the ids, or "
        "--sample-column.",
        rich_help_panel=_PANEL,
    ),
]
DarwinCore = Annotated[
    Path | None,
    Option("--darwincore", metavar="FILE", help="Table of occurrences in Darwin Core.", rich_help_panel=_PANEL),
]
Krona = Annotated[Path | None, Option(metavar="FILE", help="Text for ktImportText of Krona.", rich_help_panel=_PANEL)]
Qiime = Annotated[Path | None, Option(metavar="FILE", help="Taxonomy of QIIME 2, as TSV.", rich_help_panel=_PANEL)]
Html = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Web page of the results, which opens from disk: summary, taxa, samples, and each sequence with its "
        "nearest references and an alignment, or each photo.",
        rich_help_panel=_PANEL,
    ),
]
SampleColumn = Annotated[
    str | None,
    Option(help="Column of a table with the sample of each sequence.", rich_help_panel="Your own sequences"),
]


@dataclass(frozen=True)
class Files:
    """Files to write besides the table of names; None for those that are not wanted."""

    html: Path | None = None
    abundance: Path | None = None
    darwincore: Path | None = None
    krona: Path | None = None
    qiime: Path | None = None

    @property
    def wanted(self) -> list[Path]:
        """The files that are written."""
        return [path for path in (getattr(self, field.name) for field in fields(self)) if path is not None]

    def check(self, output: Path, force: bool) -> None:
        """Raises an error for a file that exists, two of one name, and an ending that is not a table's."""
        from ..identification.tables import check_ending

        refuse_to_replace(force, *self.wanted)
        paths = [path.resolve() for path in (output, *self.wanted)]
        if repeated := [path for path in self.wanted if paths.count(path.resolve()) > 1]:
            raise ValueError(f"{str(repeated[0])!r} is given for two files. Give each its own name.")
        for path in (self.abundance, self.darwincore):
            if path is not None:
                check_ending(path)
                if str(path) == "-":
                    raise ValueError("Only the table of names goes to the screen. Give a name that ends in .csv.")

    def check_reads(self, reads: pa.Table) -> None:
        """Raises an error for ids that a format refuses, before the reads are named."""
        from ..identification.exports import check_unique

        if self.qiime is not None:
            check_unique(reads["processid"].to_pylist())

    @property
    def neighbours(self) -> int:
        """Nearest references of each sequence that the files need."""
        from ..identification.report import SHOWN

        return SHOWN if self.html is not None else 0

    def write(
        self, answers: pa.Table, library: Library, reads: pa.Table, title: str, least: float, photos: Any = None
    ) -> None:
        """Writes the files. `title` is that of the page, `least` the confidence that names have at least."""
        from ..identification.exports import WRITERS
        from ..identification.report import write_report
        from ..identification.samples import abundance
        from ..identification.tables import write_answers

        if self.html is not None:
            write_report(self.html, answers, library, reads["dna_barcode"], photos=photos, title=title, least=least)
        if self.abundance is not None:
            write_answers(abundance(answers), self.abundance)
        for name, write in WRITERS.items():
            if (path := getattr(self, name)) is not None:
                write(answers, path)
