"""Ids, barcodes and labels of a dataset, as `read_sequences` gives those of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa

from ..files import replacing
from ..progress import Progress, silent
from ..release.check import are_dna
from ..release.column_names import Rivals, listed, our_columns
from ..release.rows import NEEDED, cleaned, cleaning
from ..schema import ID_NAMES, LABEL_COLUMNS, SEQUENCE_NAMES
from .letters import SequenceFile, rules
from .load import load_bioscan5m
from .parquet import as_text, check_files
from .release_source import Release
from .request import TEXT_ROWS
from .sequences import chosen_column
from .sources import resolve

#: Columns of ids, barcodes and labels.
READ = (*NEEDED, *LABEL_COLUMNS)

_LONGEST = 1 << 24


def read_barcodes(
    source: str | Path,
    split: str | None = None,
    *,
    arrow_file: str | Path,
    id_column: str | None = None,
    sequence_column: str | None = None,
    kept: Sequence[str] = (),
    progress: Progress = silent,
) -> pa.Table:
    """Table of the columns `processid` and `dna_barcode`, one row per specimen, "" without a barcode.

    Letters that are not DNA become N. The table is mapped from `arrow_file`, to which it is written. Columns of
    Parquet files with ids and barcodes are by default those with a usual name; those to be `kept` are text. `progress`
    is called with "records", the records read so far, and all.

    Raises:
        FileNotFoundError, ConnectionError, PermissionError: as `load_bioscan5m`.
        ValueError: as `load_bioscan5m`; for columns that are missing or not text, and a specimen without an id.
    """
    names = _columns(source, split, id_column, sequence_column)
    wanted = list(dict.fromkeys([*names, *kept]))
    loaded = load_bioscan5m(source, "dna", split, columns=wanted, max_nucleotides=None)
    parts = [loaded] if split is not None else list(loaded.values())
    if not (number := sum(map(len, parts))):
        raise ValueError(f"{str(source)!r} does not hold any specimen.")
    file = SequenceFile(Path(source), rules("any"), "utf-8", 0, _LONGEST)
    arrow = chain.from_iterable(part.with_format("arrow").iter(TEXT_ROWS) for part in parts)
    blocks = _blocks(file, arrow, names, kept)
    first = next(blocks)
    done = 0
    with replacing(arrow_file) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, first.schema) as to:
        for block in chain([first], blocks):
            to.write_table(block)
            done += len(block)
            progress("records", done, number)
    return pa.ipc.open_file(pa.memory_map(str(arrow_file))).read_all()


def parquet_columns(source: str | Path, split: str | None = None) -> list[str] | None:
    """Columns of a source of Parquet files; None for a release, which has the published ones."""
    found = resolve(source)
    return None if isinstance(found, Release) else check_files(found.files("dna", split))[0].names


def read_labelled(source: str | Path, split: str | None = None, *, columns: Sequence[str] = READ) -> pa.Table:
    """Table of ids, barcodes and labels of a dataset, of those `columns` that it has under some name.

    Raises:
        FileNotFoundError, ConnectionError, PermissionError: as `load_bioscan5m`.
        ValueError: as `load_bioscan5m`; without ids or barcodes, and for columns that do not hold text, or mean the
            same and differ.
    """
    names = parquet_columns(source, split)
    ours = {name: name for name in columns} if names is None else our_columns(source, names)
    if names is not None and (lacking := [name for name in NEEDED if name not in ours]):
        raise ValueError(f"{str(source)!r} has no column {lacking[0]!r}. Its columns are {listed(names)}.")
    there = [name for name in columns if name in ours]
    rivals = Rivals(source, names or (), {name: ours[name] for name in there})
    wanted = list(dict.fromkeys([*(ours[name] for name in there), *rivals.all]))
    loaded = load_bioscan5m(source, "dna", split, columns=wanted, max_nucleotides=None)
    tables = []
    for part in [loaded] if split is not None else loaded.values():
        table = part.with_format("arrow")[:]
        texts = pa.table({name: as_text(table, name, source) for name in wanted})
        rivals.check(1, texts, cleaning)
        tables.append(cleaned({name: texts[ours[name]] for name in there}))
    table = pa.concat_tables(tables)
    if not (dna := are_dna(table["dna_barcode"])).all():
        row = int(dna.argmin())
        raise ValueError(
            f"{str(source)!r}: the barcode of {table['processid'][row].as_py()!r} is not DNA: "
            f"{table['dna_barcode'][row].as_py()[:40]!r}. Allowed are A, C, G, T, N and the IUPAC codes."
        )
    return table


def _columns(
    source: str | Path, split: str | None, id_column: str | None, sequence_column: str | None
) -> tuple[str, str]:
    """Columns of ids and of barcodes."""
    names = parquet_columns(source, split)
    if names is None:
        if id_column or sequence_column:
            raise ValueError(
                f"{str(source)!r} is a dataset with the columns processid and dna_barcode: leave out "
                f"--id-column and --sequence-column (in Python id_column= and sequence_column=)."
            )
        return "processid", "dna_barcode"
    path = Path(source)
    return (
        chosen_column(names, id_column, ID_NAMES, "ids", "id_column", path),
        chosen_column(names, sequence_column, SEQUENCE_NAMES, "sequences", "sequence_column", path),
    )


def _blocks(
    file: SequenceFile, tables: Iterator[pa.Table], names: tuple[str, str], kept: Sequence[str]
) -> Iterator[pa.Table]:
    row = 1
    for table in tables:
        ids, sequences = (as_text(table, name, file.path) for name in names)
        block = file.rows(ids, sequences, row)
        for name in kept:
            if name not in block.column_names:
                block = block.append_column(name, as_text(table, name, file.path))
        yield block
        row += len(table)
