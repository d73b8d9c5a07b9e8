"""Further files of the command identify: exports, abundances and the report."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from .command import Output
from .options import check_exists, plural, refuse_to_replace

if TYPE_CHECKING:
    import pyarrow as pa

    from ..identification.base import Library
    from ..identification.counts import Counts

_PANEL = "Further files"
_SAMPLES_SHOWN = 6

Abundance = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Table of the reads of each taxon in each sample. Reads and samples come from --counts, from ids such as "
        "otu1;size=12;sample=A, from --size-column and --sample-column, or from count=12 of OBITools.",
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
        help="Web page that opens offline: summary, taxa, samples, and each sequence with its nearest references "
        "and an alignment, or each photo.",
        rich_help_panel=_PANEL,
    ),
]
SampleColumn = Annotated[
    str | None,
    Option(help="Column of a table with the sample of each sequence.", rich_help_panel="Your own sequences"),
]


SizeColumn = Annotated[
    str | None,
    Option(help="Column of a table with the number of reads of each sequence.", rich_help_panel="Your own sequences"),
]
CountsFile = Annotated[
    Path | None,
    Option(
        "--counts",
        metavar="FILE",
        help="Table of reads (OTU or ASV table, CSV or TSV): a row for each sequence, a column for each sample.",
        rich_help_panel="Your own sequences",
    ),
]


def tell_repeated(ids: pa.ChunkedArray, out: Output) -> None:
    """Says how many sequences have the id of another one."""
    import pyarrow.compute as pc

    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counted = pc.value_counts(ids)
    counted = counted.filter(pc.greater(counted.field("counts"), 1))
    many, name = pc.sum(counted.field("counts")).as_py(), counted.field("values")[0].as_py()
    out.say(f"{many:,} sequences share their id with others, such as {name!r}. In a FASTA, the id ends at a space.")


def counts_of(given: dict[str, Any], out: Output) -> Counts | None:
    """The table --counts, or that of the sequences if it has both; what it holds is told. `given` are the options."""
    from ..identification.counts import own_counts, read_counts

    columns = [name for name in ("size_column", "sample_column") if given[name]]
    if (path := given["counts"]) is None:
        path = Path(given["source"])
        named = columns or given["id_column"] or given["sequence_column"]
        counts = None if named else own_counts(path, given["encoding"])
    elif columns:
        raise ValueError(f"--counts tells reads and samples: leave out --{columns[0].replace('_', '-')}.")
    else:
        check_exists(path)
        counts = read_counts(path, given["encoding"])
    if counts is None:
        return None
    total, samples = sum(map(sum, counts.reads.values())), counts.samples
    shown = ", ".join(samples[:_SAMPLES_SHOWN]) + (", ..." if len(samples) > _SAMPLES_SHOWN else "")
    many = plural(len(counts.reads), "sequence")
    out.say(f"{path.name}: {plural(total, 'read')} of {many} in {plural(len(samples), 'sample')} ({shown}).")
    if counts.others:
        out.say(f"  Columns that are not samples: {', '.join(counts.others)}.")
    return counts


def sizes_of(given: dict[str, Any], reads: pa.Table, out: Output) -> pa.Array | None:
    """Numbers of reads (n,) by --counts, --size-column or headers of OBITools; None without them.

    `given` has the counts that were read.
    """
    import pyarrow as pa

    from ..identification.counts import whole_numbers

    ids, counts = reads["processid"].to_pylist(), given["counts"]
    if counts is not None:
        if others := counts.check(ids):
            out.say(
                f"{plural(others, 'row')} of --counts {'is' if others == 1 else 'are'} of no sequence, and left out."
            )
        return pa.array(counts.totals(ids), pa.int64())
    column = given["size_column"] or "size"
    if column not in reads.column_names:
        return None
    return pa.array(whole_numbers(given["source"], column, reads[column], ids), pa.int64())


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

        for program, path in (("QIIME 2", self.qiime), ("Darwin Core", self.darwincore)):
            if path is not None:
                check_unique(reads["processid"].to_pylist(), program)

    @property
    def neighbours(self) -> int:
        """Nearest references of each sequence that the files need."""
        from ..identification.report import SHOWN

        return SHOWN if self.html is not None else 0

    def write(self, answers: pa.Table, library: Library, reads: pa.Table, counts: Counts | None, **page: Any) -> None:
        """Writes the files. `counts` are the reads in each sample, `page` options of `write_report`."""
        from ..identification.counts import by_sample
        from ..identification.exports import WRITERS
        from ..identification.report import write_report
        from ..identification.samples import abundance
        from ..identification.tables import write_answers

        spread = answers if counts is None else by_sample(answers, counts)
        if self.html is not None:
            write_report(self.html, answers, library, reads["dna_barcode"], samples=spread, **page)
        if self.abundance is not None:
            write_answers(abundance(spread, counts.samples if counts else ()), self.abundance)
        for name, write in WRITERS.items():
            if (path := getattr(self, name)) is not None:
                write(spread if name == "darwincore" else answers, path)
