"""The commands references and identify: names for your own sequences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from ..terminal import WIDTH
from .command import Output, Result, command
from .identify_files import (
    Abundance,
    CountsFile,
    DarwinCore,
    Files,
    Html,
    Krona,
    Qiime,
    SampleColumn,
    SizeColumn,
    counts_of,
    sizes_of,
    tell_repeated,
)
from .identify_photos import Keys, Photos, SourceSplit, are_photos, identify_photos, library_of_photos, opening_of
from .identify_summary import Summary, show
from .options import (
    SEQUENCES,
    Encoding,
    Force,
    IdColumn,
    Seed,
    SequenceColumn,
    check_encoding,
    check_encoding_of_dataset,
    check_model,
    check_source,
    no_library_bars,
    plural,
    refuse_inputs,
    refuse_to_replace,
    shell,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from ..identification.base import Library
    from ..identification.library import ReferenceLibrary

_LIBRARY = "References"
_REFERENCES = "FASTA, table, dataset or Hub id with names, or a folder that `bioscan-hf references` wrote"

Formats = Literal[
    "table",
    "crabs",
    "sintax",
    "obitools",
    "midori2",
    "rdp",
    "qiime",
    "pr2",
    "bold5",
    "ncbi",
    "bold",
    "dada2",
    "names",
    "fasta",
    "dataset",
]
Specimens = Annotated[
    str,
    Argument(
        help="FASTA, FASTQ, CSV or TSV with sequences, also .gz; a dataset (folder, Parquet or Hub id); a folder of "
        "photos; or a table with a column `photo`."
    ),
]
NovelShare = Annotated[
    float | None,
    Option(metavar="SHARE", help="Share of sequences whose species has no reference. Default: estimated."),
]
Format = Annotated[
    Formats | None,
    Option(help="Format of the references, if it is not recognised.", rich_help_panel=_LIBRARY),
]
Ranks = Annotated[
    str | None,
    Option(
        metavar="LIST",
        help="Ranks of names in lineages without prefixes, such as kingdom,phylum,class,order,family,genus,species.",
        rich_help_panel=_LIBRARY,
    ),
]
Marker = Annotated[
    str, Option(help="Use the references of this marker; all: of every marker.", rich_help_panel=_LIBRARY)
]
Split = Annotated[
    list[str] | None,
    Option(help="Split of a dataset of references, repeatable. Default: all.", rich_help_panel=_LIBRARY),
]
Model = Annotated[
    str | None,
    Option(
        help="Folder or Hub id of a fitted barcode encoder. Default: one is fitted to the references. For photos: a "
        "CLIBD model or another encoder of photos.",
        rich_help_panel=_LIBRARY,
    ),
]


@command(
    "Names for specimens",
    "bioscan-hf references bold.tsv library",
    "bioscan-hf references dataset photo_library --config cropped_256 --model clibd",
)
def references(
    sources: Annotated[list[str], Argument(metavar="FILES... OUTPUT", help=f"{_REFERENCES}; last, the new folder.")],
    format: Format = None,
    ranks: Ranks = None,
    marker: Marker = "COI-5P",
    split: Split = None,
    model: Model = None,
    config: Photos = "dna",
    keys: Keys = "image",
    encoding: Encoding = "utf-8",
    seed: Seed = 0,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Make a library of references with names, and calibrate the confidences of names.

    audit.csv in the folder lists suspicious references, such as equal sequences with different names. They stay in the
    library. With --config, the library is of photos, embedded by --model.
    """
    given = dict(locals())
    if len(sources) < 2:
        raise ValueError("Give one or more files of references, and last the folder of the new library.")
    *files, folder = sources
    output = Path(folder)
    refuse_inputs(files, output)
    refuse_to_replace(force, output / "library.json")
    check_encoding(encoding)
    _check_paths(files, model, photos=config != "dna")
    from ..identification.audit import counted
    from ..identification.tables import write_answers

    if config != "dna":
        photos = library_of_photos(files, given, out)
        photos.save_pretrained(output)
        _tell(photos, out)
        out.wrote(output)
        return {"output": str(output), **_facts(photos)}
    library = _made(files, given, out)
    library.save_pretrained(output)
    _tell(library, out)
    audit = library.audit()
    write_answers(audit, output / "audit.csv")
    _tell_audit(counted(audit), out)
    out.wrote(output, output / "audit.csv", next=shell("identify", "reads.fasta", "names.csv", "--references", output))
    return {"output": str(output), **_facts(library), "audit": counted(audit)}


@command(
    "Names for specimens",
    "bioscan-hf identify reads.fasta names.csv --references bold.tsv",
    "bioscan-hf identify photos names.csv --references photo_library --model clibd",
)
def identify(
    source: Specimens,
    output: Annotated[Path, Argument(help="Table to write: .csv, .tsv, .json, .parquet or .xlsx; - for the screen.")],
    references: Annotated[list[str], Option(metavar="FILE", help=f"{_REFERENCES}, repeatable.")],
    least: Annotated[float, Option(help="Lowest confidence of a name in the column `name`.")] = 0.95,
    novel_share: NovelShare = None,
    format: Format = None,
    ranks: Ranks = None,
    marker: Marker = "COI-5P",
    split: Split = None,
    model: Model = None,
    config: Photos = "dna",
    keys: Keys = "image",
    source_split: SourceSplit = None,
    seed: Seed = 0,
    force: Force = False,
    id_column: IdColumn = None,
    sequence_column: SequenceColumn = None,
    sample_column: SampleColumn = None,
    size_column: SizeColumn = None,
    counts: CountsFile = None,
    encoding: Encoding = "utf-8",
    html: Html = None,
    abundance: Abundance = None,
    darwincore: DarwinCore = None,
    krona: Krona = None,
    qiime: Qiime = None,
    *,
    out: Output,
) -> Result:
    """Name your own sequences or photos by the nearest references, with a confidence at every rank.

    To name specimens by photo and sequence together, give a library of each by --references.
    """
    given = dict(locals())
    files = Files(html, abundance, darwincore, krona, qiime)
    refuse_inputs([source, *references, *([counts] if counts else [])], output, *files.wanted)
    if str(output) != "-":
        refuse_to_replace(force, output)
    check_encoding(encoding)
    _check_paths([source, *references], model, photos=config != "dna" or Path(source).is_dir())
    from ..identification.tables import check_ending, write_answers

    check_ending(output)
    files.check(output, force)
    numbers = counts_of(given, out)
    with TemporaryDirectory() as folder:
        parts, library, reads, photos = _answers(given | {"counts": numbers}, files, Path(folder), out)
        answers = None
        if files.wanted:  # which need all answers
            import pyarrow as pa

            answers = pa.concat_tables(parts)
            parts = iter([answers])
        summary = Summary(library.ranks)
        write_answers(summary.of(parts), output)
        if answers is not None:
            page = {"title": f"Names of {Path(source).name}", "least": least, "photos": photos}
            files.write(answers, library, reads, numbers, **page)
    result = summary.result()
    if str(output) != "-":
        show(summary, result, library, out)
        out.wrote(output, *files.wanted)
    return {"output": str(output), "references": len(library), "least": least, **result}


def _check_paths(files: list[str], model: str | None, *, photos: bool) -> None:
    """Raises FileNotFoundError for a file or model that does not exist, before libraries are imported."""
    for file in files:
        check_source(file, SEQUENCES)
    if model is not None:
        check_model(model, photos=photos)


def _answers(
    given: dict[str, Any], files: Files, folder: Path, out: Output
) -> tuple[Iterator[pa.Table], Any, Any, Any]:
    """Answers, the library that gave them, ids and sequences, and photos or None; `given` are the options by name."""
    for flag, name in (("--least", "least"), ("--novel-share", "novel_share")):
        if given[name] is not None and not 0 <= given[name] <= 1:
            raise ValueError(f"{flag} {given[name]} is not a share: give a number from 0 to 1.")
    if not are_photos(*(given[name] for name in ("source", "config", "references", "model", "encoding"))):
        return *_sequences(given, files, folder, out), None
    for name in ("sample_column", "size_column", "counts"):
        if given[name] is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for sequences. Leave it out for photos.")
    from ..identification.samples import with_samples

    answers, library, reads, photos = identify_photos(given, files, out)
    return iter([with_samples(answers)]), library, reads, photos


def _sequences(
    given: dict[str, Any], files: Files, folder: Path, out: Output
) -> tuple[Iterator[pa.Table], ReferenceLibrary, pa.Table]:
    """Answers for sequences, which are kept in a folder, the library and the sequences."""
    reads = _reads(given, folder / "reads.arrow", out)
    files.check_reads(reads)
    tell_repeated(reads["processid"], out)
    sizes = sizes_of(given, reads, out)
    library = _made(given["references"], given, out)
    return _named(given, folder / "reads.arrow", reads, sizes, library, files, out), library, reads


def _named(
    given: dict[str, Any],
    file: Path,
    reads: pa.Table,
    sizes: pa.Array | None,
    library: ReferenceLibrary,
    files: Files,
    out: Output,
) -> Iterator[pa.Table]:
    """Answers for the reads of a file, in parts. `sizes` are their numbers (n,), if ids do not tell them."""
    from ..identification.answers import restored
    from ..identification.samples import Annotations, with_samples

    column = given["sample_column"]
    known = Annotations.of(reads["processid"], reads[column] if column else None)
    if files.abundance is not None and sizes is None and not known.sizes:
        out.say("No numbers of reads are given, so each sequence counts as one: see --counts and --size-column.")
    how = {name: given[name] for name in ("least", "novel_share")}
    samples = (part for table in restored(file) for part in (table[column].to_pylist() if column else ()))
    with out.progress() as progress:
        how |= {"neighbours": files.neighbours, "progress": progress, "total": len(reads)}
        start = 0
        for part in library.identify_batches(restored(file), **how):
            own = None if sizes is None else sizes.slice(start, len(part)).to_pylist()
            yield with_samples(part, list(islice(samples, len(part))) if column else None, known, own)
            start += len(part)


def _reads(given: dict[str, Any], file: Path, out: Output) -> pa.Table:
    """All records of the source, also repeated and empty ones; they stay in `file`."""
    from ..dataset.sequences import read_sequences

    source, split = given["source"], given["source_split"]
    how = {name: given[name] for name in ("id_column", "sequence_column")}
    how["kept"] = [given[name] for name in ("sample_column", "size_column") if given[name]]
    if _is_dataset(source, split):
        check_encoding_of_dataset(source, given["encoding"])
        from ..dataset.dataset_barcodes import read_barcodes

        no_library_bars(out)
        with out.progress() as progress:
            return read_barcodes(source, "+".join(split) if split else None, arrow_file=file, progress=progress, **how)
    if split:
        raise ValueError(f"{source!r} is a sequence file without splits: leave out --source-split.")
    with out.progress() as progress:
        return read_sequences(
            source,
            clean="any",
            duplicates="keep",
            empty="keep",
            encoding=given["encoding"],
            arrow_file=file,
            progress=progress,
            tell=out.say,
            **how,
        )


def _made(files: list[str], given: dict[str, Any], out: Output) -> ReferenceLibrary:
    """The library of the references, opened or made; `given` are the options by name."""
    from ..identification.opening import open_references
    from ..identification.stored import is_library

    # A finished library needs none of the libraries that draw bars.
    if given["model"] or len(files) > 1 or not is_library(files[0]):
        no_library_bars(out)
    with out.progress() as progress:
        return open_references(files, progress=progress, **opening_of(given))


def _facts(library: Library) -> Result:
    calibration = library.calibration
    return {
        "records": len(library),
        "taxa": {rank: len(library.taxa[rank]) for rank in library.ranks},
        "formats": library.info["formats"],
        "notes": library.info["notes"],
        "calibrated": calibration.asked if calibration else None,
    }


def _tell(library: Library, out: Output) -> None:
    formats = ", ".join(f"{name} ({number})" for name, number in library.info["formats"].items())
    taxa = ", ".join(f"{len(library.taxa[rank]):,} {rank}" for rank in library.ranks)
    out.say(f"{len(library):,} references, read as {formats}: {taxa}.")
    for note in library.info["notes"]:
        out.say(f"  {note}")
    if library.calibration is None:
        few = "Fewer than 20 (of COI of insects, 2) have a name at species or genus"
        out.say(f"{few}, so names by them have no confidence.")


def _tell_audit(found: dict[str, int], out: Output) -> None:
    from ..identification.audit import FINDINGS

    lines = [
        line
        for name, text in FINDINGS.items()
        if name in found
        for line in wrap(text, WIDTH, initial_indent=f"  {name:<18}{found[name]:>7,}  ", subsequent_indent=" " * 29)
    ]
    if lines:
        out.say("Suspicious references, which stay in the library (audit.csv):", *lines)
    if found["species_in_several_bins"]:
        number = found["species_in_several_bins"]
        out.say(f"{plural(number, 'species', 'species')} {'is' if number == 1 else 'are'} in several BINs.")


def _is_dataset(source: str, split: list[str] | None) -> bool:
    """Whether a source is read as a dataset; the rows of a table with splits only if some of them are asked for."""
    from ..dataset.sequences import is_sequence_file, may_hold_sequences

    return not (is_sequence_file(source) if split else may_hold_sequences(source))
