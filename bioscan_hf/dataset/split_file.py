"""`split_file`: partitions a table of specimens in a file into the splits of BIOSCAN-5M.

The file is read twice, so memory does not hold its rows: about 70 bytes of each, and the barcodes with a species.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..barcodes import LETTERS
from ..partition.assign import Assignment, assign, check_arguments, check_columns
from ..partition.counts import count_splits
from ..partition.specimens import NAMED_COLUMNS, Specimens
from ..release.check import ID, are_dna
from ..release.column_names import known_names, listed, separators
from ..release.problems import ReleaseError, refuse
from ..release.rows import Changes, read_rows, row_columns
from ..release.tables import csv_columns
from ..release.write import check_ending, writing_table
from ..schema import SPLITS
from .sequences import BARCODE_MARKER, MARKER_NAMES, counted, of_marker

logger = logging.getLogger(__name__)

_NEEDED = ("processid", "genus", "species", "dna_barcode")


def split_file(
    source: str | Path,
    output: str | Path,
    seed: int = 0,
    *,
    hold_out_species: float = 0.0,
    unlabel: float = 0.0,
    no_overlap: bool = False,
    encoding: str = "utf-8",
    tell: Callable[[str], object] = logger.info,
) -> list[dict[str, Any]]:
    """Partitions a table as `make_splits` does and writes all its columns, `split` filled, in the format of `output`.

    Columns have our names in the output. Of a table of BOLD with markers, records of other markers than COI-5P and
    records without a sequence are left out and counted.

    Returns:
        Samples, distinct barcodes and distinct species of each of the eight splits.

    Raises:
        ReleaseError: for a table that cannot be read, or a row that the other commands would refuse.
        ValueError: as `make_splits`, and for an ending of `output` that is not written.
    """
    source = Path(source)
    check_ending(output)
    check_arguments(seed, hold_out_species, unlabel)
    columns = _columns(source, encoding)
    specimens, changes, left_out = Specimens(), Changes(), Counter[str]()
    needed = [name for name in columns if name in {*_NEEDED, *NAMED_COLUMNS} or name.lower() in MARKER_NAMES]
    for first, block in read_rows(source, needed, refuse, encoding=encoding, changes=changes):
        changes.kept = _one_marker(block, left_out)
        _check_rows(source, block, first, changes.kept)
        specimens.add(block if changes.kept is None else block.filter(changes.kept))
    specimens.finish()
    if not specimens.count:
        left = f", but {counted(left_out)}" if left_out else ""
        raise ReleaseError(f"{source} has no rows to partition{left}.")
    for note in changes.problems(source.name):
        tell(str(note))
    if left_out:
        tell(f"Left out: {counted(left_out)}.")
    found = assign(specimens, seed, hold_out_species=hold_out_species, unlabel=unlabel, no_overlap=no_overlap)
    for line in found.notes:
        tell(line)
    with writing_table(output) as write:
        rows = {row["split"]: row for row in count_splits(_written(source, encoding, columns, found, write))}
    nothing = {"samples": 0, "barcodes": 0, "species": 0}
    return [rows.get(name, {"split": name, **nothing}) for name in SPLITS]


def _columns(source: Path, encoding: str) -> list[str]:
    """Columns of the table under our names."""
    row_columns(source, encoding)  # refuses names that loaded data use
    names = csv_columns(source, encoding)
    renamed = known_names(source, names)
    columns = [renamed.get(name, name) for name in names]
    if missing := [name for name in _NEEDED if name not in columns]:
        raise ReleaseError(
            f"{source} has no column {', '.join(map(repr, missing))}. A partition needs {', '.join(_NEEDED)}; the "
            f"table has {listed(names)}.{separators(names)}"
        )
    check_columns(columns)
    return columns


def _one_marker(block: pa.Table, left_out: Counter[str]) -> pa.ChunkedArray | None:
    """Mask of the records of COI-5P; None if the table has no markers."""
    names = [name for name in block.column_names if name.lower() in MARKER_NAMES]
    return of_marker(block, names[0], BARCODE_MARKER, left_out) if names else None


def _check_rows(source: Path, block: pa.Table, first: int, kept: pa.ChunkedArray | None) -> None:
    good = pc.fill_null(pc.match_substring_regex(block["processid"], ID), False)
    dna = are_dna(block["dna_barcode"])
    if kept is not None:  # whatever the other rows hold
        good = pc.or_(good, pc.invert(kept))
        dna |= ~kept.to_numpy()
    if not pc.all(good).as_py() and len(block):
        row = pc.index(good, False).as_py()
        name = block["processid"][row].as_py()
        raise ReleaseError(f"{source.name}, row {first + row}: {name!r} is not an id (printable ASCII, no spaces).")
    if not dna.all():
        row = int(dna.argmin())
        name, barcode = block["processid"][row].as_py(), block["dna_barcode"][row].as_py()
        letter = next(letter for letter in barcode if letter not in LETTERS)
        raise ReleaseError(
            f"{source.name}, row {first + row} ({name}): dna_barcode is not DNA: it contains {letter!r}."
        )


def _written(
    source: Path, encoding: str, columns: list[str], found: Assignment, write: Callable[[pa.Table], None]
) -> Iterator[pa.Table]:
    """Blocks of the result, each after it is written."""
    first = 0
    for _, block in read_rows(source, columns, refuse, encoding=encoding):
        kept = _one_marker(block, Counter())
        block = found.apply(block if kept is None else block.filter(kept), first)
        write(block)
        first += len(block)
        yield block.select(["split", "dna_barcode", "species"])
