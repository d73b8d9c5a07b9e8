"""`read_references`: named sequences in any of the common formats of reference libraries, as one table.

Formats: tables of BOLD (BCDM and version 3) and Darwin Core, plain tables, CRABS; FASTA of BOLD (also of version 5),
NCBI, SINTAX, QIIME 2, UNITE, DADA2, RDP, SILVA, MIDORI2, PR2 and OBITools, with names alone, with or without a table
of taxonomy, also of mothur; and datasets of this package. A format is recognised from its content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..dataset.fasta import normalized, read_fasta
from ..dataset.letters import SequenceFile, rules
from ..dataset.sequences import (
    BARCODE_MARKER,
    file_kind,
    is_sequence_file,
    may_hold_sequences,
    opened,
    read_sequences,
)
from ..files import TEMPORARY
from ..labels import taxon_name
from ..release.column_names import our_columns, spelt
from ..release.tables import csv_columns, read_strings
from ..schema import ID_NAMES, LABEL_COLUMNS, RANKS, SEQUENCE_NAMES
from .forms import from_any_case, in_one_form
from .lineages import (
    HEADERS,
    POSITIONAL,
    Lineage,
    by_position,
    from_name,
    header_format,
    named,
    prefixed,
)
from .records import counted, once

#: Columns of the references.
COLUMNS = ("processid", "dna_barcode", *LABEL_COLUMNS)

FORMATS = ("table", "crabs", *HEADERS, "fasta", "dataset")

#: Names of the columns with the lineage of a record, and with its name, whatever its rank, as `spelt`.
_TAXON_COLUMNS = ("taxon", "taxonomy", "lineage")
_NAME_COLUMNS = ("scientificname", "scientific_name", "organism", "organism_name", "species_name", "taxon_name")
_EPITHETS = "specificepithet"

#: Formats whose names of records give way to those of a table of taxonomy.
_NAMES_ALONE = ("fasta", "ncbi", "bold", "names")

_DNA = re.compile(r"[ACGTUNRYSWKMBDHVacgtunryswkmbdhv.-]{50,}")
_BLOCK_BYTES = 1 << 23
_LONGEST = 1 << 24


@dataclass
class Found:
    """What was read from the files of a reference library.

    Attributes:
        table: Columns `COLUMNS`; null where a rank is missing.
        formats: File -> name of its format.
        notes: Lines for people: what was left out, and why.
    """

    table: pa.Table
    formats: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_references(
    files: Sequence[str | Path],
    *,
    format: str | None = None,
    ranks: Sequence[str] | None = None,
    marker: str | None = BARCODE_MARKER,
    encoding: str = "utf-8",
    split: str | None = None,
) -> Found:
    """Reads the records of reference libraries.

    Args:
        files: FASTA, tables and tables of taxonomy, also gzipped; folders and Hub ids of datasets of this package. A
            table without sequences is the taxonomy of the FASTA files beside it.
        format: One of `FORMATS`, for files whose format is not recognised.
        ranks: Ranks of the names in lineages without prefixes, the highest first, "" for one that is not kept.
        marker: Records of other markers are left out; None reads all.
        split: Splits of a dataset, such as "train+key_unseen"; all records by default.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: for an unknown format, files without sequences, and taxonomy of other ids than the FASTA's.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"The format {format!r} is unknown. Choose {', '.join(FORMATS)}.")
    found = Found(pa.table({}))
    tables: list[pa.Table] = []
    taxonomies: list[pa.Table] = []
    plain: list[pa.Table] = []
    for file in files:
        name, part = _read_one(file, format, ranks, marker, encoding, split, found)
        found.formats[str(file)] = name
        (taxonomies if name == "taxonomy" else plain if name in _NAMES_ALONE else tables).append(part)
    if plain and taxonomies:
        tables += [_joined(part, taxonomies, found) for part in plain]
    elif unnamed := [file for file, kind in found.formats.items() if kind == "fasta"]:
        first = next(part["header"][0].as_py() for part in plain if "header" in part.column_names)
        raise ValueError(
            f"{', '.join(unnamed)} holds ids without names of taxa, such as {first[:80]!r}. Give the table of "
            f"taxonomy beside it, or name the format ({', '.join(HEADERS)})."
        )
    elif taxonomies and tables:
        raise ValueError("A table of taxonomy is of a FASTA with ids, and the other files have names of their own.")
    elif taxonomies:
        raise ValueError("Only tables of taxonomy were given. Give the FASTA with their sequences as well.")
    else:
        tables += plain
    found.table, notes = once([_complete(table, found) for table in tables])
    found.notes += notes
    empty = pc.equal(pc.fill_null(pc.binary_length(found.table["dna_barcode"]), 0), 0)
    if count := pc.sum(empty).as_py():
        found.notes.append(f"left out {counted(count)} without a sequence")
        found.table = found.table.filter(pc.invert(empty))
    if not len(found.table):
        raise ValueError(f"{', '.join(map(str, files))}: no record with a sequence.")
    if all(found.table[name].null_count == len(found.table) for name in LABEL_COLUMNS):
        raise ValueError(
            f"{', '.join(map(str, files))}: no record has a name of a taxon or a BIN, so reads would get none. Give a "
            f"table with columns such as family, genus and species, or name the format ({', '.join(FORMATS)})."
        )
    return found


def _read_one(
    file: str | Path,
    format: str | None,
    ranks: Sequence[str] | None,
    marker: str | None,
    encoding: str,
    split: str | None,
    found: Found,
) -> tuple[str, pa.Table]:
    """Format and records of a file, a folder or a Hub id."""
    path = Path(file)
    if format == "dataset" or path.is_dir() or (format is None and _is_dataset(file, split)):
        return "dataset", _read_dataset(file, split, encoding)
    if not path.is_file():
        raise FileNotFoundError(f"The file of references {str(file)!r} does not exist.")
    with opened(path) as stream:
        kind = file_kind(stream, path, encoding)
        if kind == "fasta":
            source = SequenceFile(path, rules("none"), encoding, _BLOCK_BYTES, _LONGEST)
            table = pa.concat_tables(read_fasta(source, normalized(stream, _BLOCK_BYTES), headers=True))
            return _named_fasta(table, format, ranks, marker, found, path)
        start = stream.peek(1 << 16)[: 1 << 16].decode("latin-1")
    lines = [line.split("\t") for line in start.splitlines()[:20]]
    if format == "crabs" or (format is None and _is_crabs(lines)):
        return "crabs", _read_crabs(path, encoding)
    if len(lines[0]) == 2 and re.search(r"(^|;\s*)[kdp]__|;.*;", lines[0][1]):
        return "taxonomy", _read_taxonomy(path, ranks, encoding, header=False)
    columns = {spelt(name) for name in csv_columns(path, encoding)}  # "" names the names of rows of R
    names = set(our_columns(path, list(columns))) & {*LABEL_COLUMNS, *_TAXON_COLUMNS, *_NAME_COLUMNS}
    if columns & {*ID_NAMES, ""} and names and not columns & set(SEQUENCE_NAMES) and not _has_dna(start):
        return "taxonomy", _read_taxonomy(path, ranks, encoding)
    return "table", _read_table(path, marker, ranks, encoding, found)


def _read_table(path: Path, marker: str | None, ranks: Sequence[str] | None, encoding: str, found: Found) -> pa.Table:
    """A table with sequences, and columns of ranks, lineages or names."""
    how: dict[str, Any] = {"duplicates": "keep", "empty": "keep", "marker": marker, "encoding": encoding}
    try:
        table = read_sequences(path, tell=found.notes.append, **how)
        names = {spelt(name): name for name in csv_columns(path, encoding)}
        kept = [names[name] for name in (*_TAXON_COLUMNS, *_NAME_COLUMNS, _EPITHETS) if name in names]
        if "species" in table.column_names or not kept:
            return table
        return _filled(read_sequences(path, kept=kept, **how), ranks)
    except ValueError as error:  # references have no such option
        raise ValueError(re.sub(r" Choose one by --[\w-]+ \([^)]*\)", " Rename one in the file", str(error))) from None


def _filled(table: pa.Table, ranks: Sequence[str] | None) -> pa.Table:
    """A table with the ranks that it lacks, from its columns of lineages, names and epithets."""
    texts = {spelt(name): [text or "" for text in table[name].to_pylist()] for name in table.column_names}
    found = [_lineages(texts[name], ranks) for name in (*_TAXON_COLUMNS, *_NAME_COLUMNS) if name in texts]
    if _EPITHETS in texts and "genus" in texts:
        pairs = zip(texts["genus"], texts[_EPITHETS], strict=True)
        found.append([named({"genus": g, "species": epithet}) if g and epithet else {} for g, epithet in pairs])
    for lineages in found:
        own = set(table.column_names)
        table = _with_lineages(table, [{r: name for r, name in one.items() if r not in own} for one in lineages])
    return table


def _is_dataset(file: str | Path, split: str | None) -> bool:
    """Whether a source is read by `load_bioscan5m`: a Hub id, Parquet, or a table of which splits are asked for."""
    path = Path(file)
    if not path.exists():
        return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(file))) and not path.parent.is_dir()
    if path.suffix == TEMPORARY:
        return False
    return not (is_sequence_file(path) if split else may_hold_sequences(path))


def _read_dataset(source: str | Path, split: str | None, encoding: str) -> pa.Table:
    """The columns of `COLUMNS` that a dataset has."""
    if Path(source).is_file() and encoding.lower() not in ("utf-8", "utf8"):
        raise ValueError(
            f"{str(source)!r} is read as a dataset, in UTF-8: build it by `bioscan-hf build {source} dataset "
            f"--encoding {encoding}`, and give that."
        )
    from ..dataset.dataset_barcodes import read_labelled

    return read_labelled(source, split, columns=COLUMNS)


def _named_fasta(
    table: pa.Table,
    format: str | None,
    ranks: Sequence[str] | None,
    marker: str | None,
    found: Found,
    path: Path,
) -> tuple[str, pa.Table]:
    """Format and records of a FASTA with whole headers."""
    headers = table["header"].to_pylist()
    name = format if format in HEADERS else header_format(headers[:1000])
    if name is None:
        return "fasta", table
    pattern, read = HEADERS[name]
    if name in POSITIONAL and not ranks and not any(map(pattern.match, headers)):
        raise ValueError(f"{str(path)!r}: no header is one of {name}, such as {headers[0][:80]!r}.")
    if name == "bold":
        notes: list[str] = []
        records = read_sequences(path, duplicates="keep", empty="keep", marker=marker, tell=notes.append)
        found.notes += notes
        species = records["species"].to_pylist() if "species" in records.column_names else [None] * len(records)
        return name, _with_lineages(
            records.select(["processid", "dna_barcode"]), [from_name(s or "") for s in species]
        )
    lineages = read(headers, ranks) if name in POSITIONAL else read(headers)
    pairs = zip(headers, lineages, strict=True)
    if others := [header for header, lineage in pairs if not lineage and pattern.match(header) is None]:
        found.notes.append(f"{counted(len(others))} without a name in the form of {name}, such as {others[0][:60]!r}")
    ids = [_id_of(header) for header in headers]
    if name == "dada2":
        ids = [f"record_{number}" for number in range(1, len(headers) + 1)]
    records = table.select(["dna_barcode"]).add_column(0, "processid", pa.array(ids, pa.string()))
    if not any(lineages):
        raise ValueError(
            f"{str(path)!r}: no header holds a name that can be read as {name}, such as {headers[0][:80]!r}."
        )
    records = _with_lineages(records, lineages)
    if name == "bold5" and marker is not None:
        own = pa.array([header.split("|")[1:2] == [marker] for header in headers])
        if others := len(own) - pc.sum(own).as_py():
            found.notes.append(f"left out {counted(others)} of markers other than {marker} (--marker)")
            records = records.filter(own)
    return name, records


def _id_of(header: str) -> str:
    """The id at the beginning of a header; of NCBI's gi|1|gb|AB1.1| and of UNITE the accession."""
    first = re.split(r"###|[;\s]", header, maxsplit=1)[0]
    first = re.sub(r"\|?kraken:taxid\|\d+\|?", "", first) if "kraken" in first else first
    if match := re.search(r"(?:^|\|)(?:gb|emb|dbj|ref)\|([^|]+)|^[^|]+\|([^|]+)\|SH\d+", first):
        return match[1] or match[2]
    return first.partition("|")[0] or first


def _with_lineages(records: pa.Table, lineages: Sequence[Lineage]) -> pa.Table:
    for rank in RANKS:
        column = pa.array([lineage.get(rank) for lineage in lineages], pa.string())
        if column.null_count < len(column):
            records = records.append_column(rank, column)
    return records


def _is_crabs(lines: list[list[str]]) -> bool:
    return bool(lines) and all(len(cells) == 11 and _DNA.fullmatch(cells[-1].strip()) for cells in lines[:-1] or lines)


def _read_crabs(path: Path, encoding: str) -> pa.Table:
    """The table of CRABS: id, name, taxid, seven ranks, sequence, without names of columns."""
    rows = _cells(path, encoding)
    if wrong := [number for number, row in enumerate(rows, 1) if len(row) != 11]:
        raise ValueError(
            f"{str(path)!r} is read as CRABS, whose lines have 11 cells; line {wrong[0]} has another number."
        )
    order = ("", "phylum", "class", "order", "family", "genus", "species")
    lineages = [named({rank: name for rank, name in zip(order, row[3:10], strict=True) if rank}) for row in rows]
    ids, letters = pa.array([row[0] for row in rows]), [row[10].encode() for row in rows]
    source = SequenceFile(path, rules("none"), encoding, _BLOCK_BYTES, _LONGEST)
    return _with_lineages(source.barcodes(ids, letters, lambda record, _: f"line {record + 1}"), lineages)


def _cells(path: Path, encoding: str) -> list[list[str]]:
    """Cells of the lines of a file without names of columns, separated by tabs, without blank lines."""
    file = SequenceFile(path, rules("none"), encoding, _BLOCK_BYTES, _LONGEST)
    with opened(path) as stream:
        return [file.decode(line).rstrip("\r\n").split("\t") for line in stream if line.strip()]


def _has_dna(text: str) -> bool:
    return any(
        _DNA.fullmatch(cell.strip().strip('"')) for line in text.splitlines()[:3] for cell in re.split(r"[\t,;]", line)
    )


def _read_taxonomy(path: Path, ranks: Sequence[str] | None, encoding: str, header: bool = True) -> pa.Table:
    """A table of ids and lineages, or of ids and a column for each rank."""
    if header:
        if not (blocks := [block for _, block in read_strings(path, (), encoding=encoding)]):
            raise ValueError(f"{str(path)!r} has names of columns and no rows.")
        table = pa.concat_tables(blocks)
        names = {spelt(name): name for name in table.column_names}
        ids = table[next((names[name] for name in ID_NAMES if name in names), table.column_names[0])]
        ours = {our: name for our, name in our_columns(path, table.column_names).items() if our in RANKS}
        rows = table.select(list(ours.values())).rename_columns(list(ours)).to_pylist()
        others = {name: table[names[name]] for name in (*_TAXON_COLUMNS, *_NAME_COLUMNS) if name in names}
        found = pa.table({"processid": ids} | ({} if "species" in ours else others))
        return _filled(_with_lineages(found, [named({r: t or "" for r, t in row.items()}) for row in rows]), ranks)
    cells = _cells(path, encoding)
    if wrong := next((number for number, row in enumerate(cells, 1) if len(row) != 2), None):
        raise ValueError(f"{str(path)!r} is read as ids and lineages; line {wrong} has not 2 cells.")
    ids, texts = zip(*cells, strict=True)
    return _with_lineages(pa.table({"processid": ids}), _lineages(texts, ranks))


def _lineages(texts: Sequence[str], ranks: Sequence[str] | None) -> list[Lineage]:
    """Ranks of lineages with prefixes or without, or of single names."""
    there = [text for text in texts if taxon_name(text)]
    if 2 * sum(re.search(r"(^|[;,|]\s*)([a-z]{1,2}|D_\d)(__|:)", text) is not None for text in there) > len(there):
        return prefixed(texts)
    if 2 * sum(";" in text for text in there) > len(there) or ranks:
        return by_position(texts, ranks)
    return [from_any_case(text) for text in texts]


def _joined(records: pa.Table, taxonomies: list[pa.Table], found: Found) -> pa.Table:
    """Records with the lineages of their ids, if need be without ".1" or ";size=3"; others keep their names."""
    taxonomy = pa.concat_tables(taxonomies, promote_options="default")
    taxonomy = taxonomy.select([name for name in taxonomy.column_names if name in ("processid", *RANKS)])
    taxonomy = taxonomy.group_by(taxonomy.column_names, use_threads=False).aggregate([])
    counts = pc.value_counts(taxonomy["processid"])
    if several := counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist():
        more = f" and {len(several) - 1} more" if len(several) > 1 else ""
        raise ValueError(f"The taxonomy names {several[0]!r}{more} in two ways. Keep one line for each id.")
    ids, known = records["processid"], taxonomy["processid"].combine_chunks()
    place = pc.coalesce(
        pc.index_in(ids, known), pc.index_in(pc.replace_substring_regex(ids, r"(\.\d+|;.*)$", ""), known)
    )
    if place.null_count == len(place) and not set(records.column_names) & set(RANKS):
        raise ValueError(
            f"No id of the FASTA is in the table of taxonomy: {ids[0].as_py()!r} against {known[0].as_py()!r}."
        )
    if place.null_count:
        are = "is" if place.null_count == 1 else "are"
        found.notes.append(f"{counted(place.null_count)} {are} not in the table of taxonomy")
    there = pc.is_valid(place)
    for rank in RANKS:
        theirs = taxonomy[rank].take(place) if rank in taxonomy.column_names else pa.nulls(len(ids), pa.string())
        own = records[rank] if rank in records.column_names else pa.nulls(len(ids), pa.string())
        records = records.drop_columns([rank] if rank in records.column_names else [])
        records = records.append_column(rank, pc.if_else(there, theirs, own))
    return records


def _complete(table: pa.Table, found: Found) -> pa.Table:
    """All columns as large strings, in their order, and names in their one form."""
    there = {name: table[name].cast(pa.large_string()) for name in COLUMNS if name in table.column_names}
    there |= in_one_form(there, found.notes)
    return pa.table({name: there.get(name, pa.nulls(len(table), pa.large_string())) for name in COLUMNS})
