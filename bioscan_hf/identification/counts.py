"""Tables of reads: a row for each sequence (OTU, ASV), a column for each sample."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..dataset.sequence_tables import NO_SAMPLES, SequenceTable, sequence_table
from ..dataset.sequences import file_kind, may_hold_sequences, opened
from ..release.problems import refuse
from ..release.tables import csv_columns, read_strings

#: More reads than any sequence has; the sum of a table stays within 64 bits.
MOST_READS = 10**12

#: Numbers that are whole, and those that may be meant so: "1.000" is one or a thousand.
_WHOLE = re.compile(r"(?![1-9][0-9]{0,2}\.000$)[0-9]+(\.0*)?([eE]\+?[0-9]+)?")
_NUMBERS = re.compile(
    rf"{_WHOLE.pattern}|[1-9][0-9]{{0,2}}([,'’ \u00a0\u202f][0-9]{{3}})+|[0-9]+,0+|"
    r"[1-9][0-9]{0,2}(\.000|(\.[0-9]{3}){2,})"
)
_SHOWN = 3


@dataclass(frozen=True)
class Counts:
    """Reads of sequences in samples.

    Attributes:
        samples: Names of the samples (S,).
        reads: Id of a sequence -> its reads in each sample (S,).
        others: Columns of numbers that are not samples, by `NO_SAMPLES`.
    """

    samples: list[str]
    reads: dict[str, list[int]]
    others: tuple[str, ...] = ()

    def check(self, ids: Sequence[str]) -> int:
        """Number of the table's sequences that are not among the ids.

        Raises ValueError for an id without a row, and one that occurs twice, whose reads would count twice.
        """
        named = Counter(map(plain_id, ids))
        if len(named) < len(ids):
            twice = next(name for name, number in named.items() if number > 1)
            raise ValueError(
                f"Several sequences have the id {twice!r}, and the table of reads tells one: make ids unique."
            )
        if lacking := [name for name in dict.fromkeys(map(plain_id, ids)) if name not in self.reads]:
            shown = ", ".join(map(repr, lacking[:_SHOWN]))
            more = f" and {len(lacking) - _SHOWN:,} more" if len(lacking) > _SHOWN else ""
            there = ", ".join(map(repr, list(self.reads)[:_SHOWN]))
            if lacking[0] in self.samples:
                raise ValueError(
                    f"The table of reads has {lacking[0]!r} as a column. Turn it, so that sequences are rows."
                )
            raise ValueError(f"The table of reads has no row for {shown}{more}. Its first ids are {there}.")
        return len(self.reads.keys() - named.keys())

    def totals(self, ids: Sequence[str]) -> list[int]:
        """Reads of each sequence in all samples."""
        return [sum(self.reads[plain_id(name)]) for name in ids]


def plain_id(name: str) -> str:
    """The id without annotations such as ";size=12"."""
    return name.partition(";")[0]


def read_counts(path: str | Path, encoding: str = "utf-8") -> Counts:
    """Reads of sequences in samples: the first column has the ids, and each column of whole numbers is a sample.

    Columns of text, such as sequences and names, and those of `NO_SAMPLES` are passed over. Sequences in the place of
    ids, or of the names of columns, are ASV1, ASV2 and so on, as `read_sequences` names them.

    Raises:
        ValueError: for a table without a sample, a number that is not whole, and an id that occurs twice.
    """
    if (own := _sequence_table(path, encoding)) is not None:
        return _counts(
            path,
            own.ids,
            {
                name: pa.chunked_array([[cell or None for cell in cells]], pa.string())
                for name, cells in own.columns.items()
            },
        )
    names = csv_columns(path, encoding)
    if names[0].startswith("#Compressed Format"):
        raise ValueError(f"{str(path)!r} is compressed by mothur. Write it by count.seqs without compression.")
    if len(names) == 1 and names[0].startswith("#"):
        raise ValueError(f"{str(path)!r} begins with a comment. Delete the lines above the names of the columns.")
    parts = [part for _, part in read_strings(path, (), report=refuse, encoding=encoding)]
    if not parts:
        raise ValueError(f"{str(path)!r} has names of columns and no rows.")
    table = pa.concat_tables(parts)
    ids = [plain_id(name) if name else name for name in table[names[0]].to_pylist()]
    if None in ids:
        raise ValueError(f"{str(path)!r} has no id in row {ids.index(None) + 1}.")
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"{str(path)!r} has {twice!r} more than once in its first column, {names[0]!r}.")
    return _counts(path, ids, {name: table[name] for name in names[1:]})


def own_counts(source: str | Path, encoding: str = "utf-8") -> Counts | None:
    """Reads in the table that holds the sequences in the names of its columns or rows; None for another source."""
    if not may_hold_sequences(source) or _sequence_table(source, encoding) is None:
        return None
    return read_counts(source, encoding)


def _sequence_table(path: str | Path, encoding: str) -> SequenceTable | None:
    with opened(Path(path)) as stream:
        kind = file_kind(stream, Path(path), encoding)
        return sequence_table(stream, Path(path), encoding) if kind == "table" else None


def _counts(path: str | Path, ids: Sequence[str], table: Mapping[str, pa.ChunkedArray]) -> Counts:
    """Reads in the columns of whole numbers."""
    numbers = [
        name for name, cells in table.items() if any(_NUMBERS.fullmatch(cell or "") for cell in cells.to_pylist())
    ]
    chosen = [name for name in numbers if name.lower() not in NO_SAMPLES] or numbers
    if not chosen:
        raise ValueError(f"{str(path)!r} has no column of whole numbers, the reads of a sample, behind its first one.")
    columns = [whole_numbers(path, name, table[name], ids) for name in chosen]
    reads = {name: list(row) for name, row in zip(ids, zip(*columns, strict=True), strict=True)}
    return Counts(chosen, reads, tuple(name for name in numbers if name not in chosen))


def whole_numbers(path: str | Path, name: str, column: pa.ChunkedArray, ids: Sequence[str]) -> list[int]:
    """Numbers of reads, 0 for empty cells.

    Raises ValueError for a cell that is not a whole number; `path`, `name` of the column and `ids` are for it.
    """
    numbers = []
    for text, read in zip(column.to_pylist(), ids, strict=True):
        if text is not None and not (_WHOLE.fullmatch(text) and int(float(text)) <= MOST_READS):
            raise ValueError(
                f"{str(path)!r} has {text[:30]!r} reads of {read!r} in {name!r}: give a whole number without "
                f"separators."
            )
        numbers.append(int(float(text)) if text else 0)
    return numbers


def by_sample(answers: pa.Table, counts: Counts) -> pa.Table:
    """A row for each sequence and sample with reads of it: `id` is of both, `sample` and `size` are added.

    Args:
        answers: A table of answers.
        counts: Of all their ids.
    """
    found: dict[str, list[Any]] = {"row": [], "id": [], "sample": [], "size": []}
    for row, name in enumerate(map(plain_id, answers["id"].to_pylist())):
        for sample, number in zip(counts.samples, counts.reads[name], strict=True):
            if number:
                for column, value in zip(found.values(), (row, f"{name}:{sample}", sample, number), strict=True):
                    column.append(value)
    table = answers.drop_columns([name for name in ("id", "sample", "size") if name in answers.column_names])
    table = table.take(pa.array(found["row"], pa.int64()))
    for name, kind in (("size", pa.int64()), ("sample", pa.string()), ("id", pa.string())):
        table = table.add_column(0, name, pa.array(found[name], kind))
    return table
