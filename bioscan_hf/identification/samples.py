"""Numbers of reads and samples, from ids or columns, and the reads of each taxon in each sample."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..schema import RANKS

#: Annotations of vsearch and usearch in ids: ";size=12", ";sample=A", ";barcodelabel=A".
_SIZE = re.compile(r";size=(\d+)")
_TOO_LARGE = r";size=\d{13}"
_SAMPLE = re.compile(r"(?:^|;)(?:sample|barcodelabel)=([^;]*)")

#: Name of the column of reads without a sample, and of reads where no sample is known.
NO_SAMPLE, READS = "no sample", "reads"

Lineage = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Annotations:
    """What is known of reads besides their sequences.

    Attributes:
        sizes: Whether an id tells a size.
        samples: Whether an id, or a column, tells a sample.
    """

    sizes: bool
    samples: bool

    @classmethod
    def of(cls, ids: pa.ChunkedArray, samples: pa.ChunkedArray | None = None) -> Annotations:
        """Those of reads, whose ids can hold ";size=12" and ";sample=A" or ";barcodelabel=A".

        Raises ValueError for a size of a trillion or more.
        """
        if pc.any(large := pc.match_substring_regex(ids, _TOO_LARGE)).as_py():
            first = ids.filter(large)[0].as_py()
            raise ValueError(f"The size in {first!r} is too large for a number of reads. Correct the id.")
        sizes = pc.any(pc.match_substring_regex(ids, _SIZE.pattern)).as_py()
        if samples is None:
            told = pc.match_substring_regex(ids, r"(?:^|;)(?:sample|barcodelabel)=\s*[^;\s]")
        else:
            told = pc.greater(pc.binary_length(samples.cast(pa.string())), 0)
        return cls(bool(sizes), bool(pc.any(told).as_py()))


def with_samples(
    answers: pa.Table,
    samples: Sequence[str | None] | None = None,
    known: Annotations | None = None,
    sizes: Sequence[int] | None = None,
) -> pa.Table:
    """Answers with the columns `sample` and `size` behind the ids, where they are known.

    Args:
        answers: A table of answers, or a part of it.
        samples: Sample of each row; by default those of the ids.
        known: Of the whole table.
        sizes: Reads of each row; by default those of the ids.

    Raises:
        ValueError: for other numbers of samples or sizes than of answers.
    """
    ids = answers["id"].to_pylist()
    for what, values in (("samples", samples), ("sizes", sizes)):
        if values is not None and len(values) != len(ids):
            raise ValueError(f"There are {len(ids):,} answers and {len(values):,} {what}.")
    known = known or Annotations.of(answers["id"], None if samples is None else pa.chunked_array([samples]))
    if known.sizes and sizes is None:
        sizes = [int(match[1]) if (match := _SIZE.search(name)) else 1 for name in ids]
    if sizes is not None:
        answers = answers.add_column(1, "size", pa.array(sizes, pa.int64()))
    if known.samples and samples is None:
        samples = [(match[1].strip() or None) if (match := _SAMPLE.search(name)) else None for name in ids]
    return answers.add_column(1, "sample", pa.array(samples, pa.string())) if known.samples else answers


def sizes_of(answers: pa.Table) -> list[int]:
    """Reads of each answer: the column `size`, or 1."""
    return answers["size"].to_pylist() if "size" in answers.column_names else [1] * len(answers)


def lineages_of(answers: pa.Table) -> list[Lineage]:
    """Ranks and names of each answer, down to the rank of its name; () without a name."""
    ranks = [rank for rank in RANKS if rank in answers.column_names]
    columns = [answers[rank].to_pylist() for rank in ranks]
    found: list[Lineage] = []
    for row, rank in enumerate(answers["rank"].to_pylist()):
        last = ranks.index(rank) if rank is not None else -1
        named = zip(ranks[: last + 1], columns[: last + 1], strict=True)
        found.append(tuple((name, column[row]) for name, column in named if column[row]))
    return found


def abundance(answers: pa.Table, also: Sequence[str] = ()) -> pa.Table:
    """Reads of each taxon in each sample.

    Columns: name and rank of the taxon, null for reads without a name; the ranks; and the reads of each sample, or
    `reads` if no sample is known. The sum of all cells is the number of reads. Most frequent taxa come first.

    Args:
        answers: A table of answers, with the columns of `with_samples`.
        also: Samples that have a column even without a read, such as blanks.
    """
    sizes, n = sizes_of(answers), len(answers)
    known = "sample" in answers.column_names
    samples = [name or NO_SAMPLE for name in answers["sample"].to_pylist()] if known else [READS] * n
    reads: defaultdict[Lineage, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for lineage, sample, size in zip(lineages_of(answers), samples, sizes, strict=True):
        reads[lineage][sample] += size
    taxa = sorted(reads, key=lambda lineage: (not lineage, -sum(reads[lineage].values()), lineage))
    ranks = [rank for rank in RANKS if rank in answers.column_names]
    columns = {
        "name": pa.array([lineage[-1][1] if lineage else None for lineage in taxa], pa.string()),
        "rank": pa.array([lineage[-1][0] if lineage else None for lineage in taxa], pa.string()),
    }
    columns |= {rank: pa.array([dict(lineage).get(rank) for lineage in taxa], pa.string()) for rank in ranks}
    for sample in sorted({*samples, *also}, key=lambda name: (name == NO_SAMPLE, name)):
        title = f"sample {sample}" if sample in columns else sample
        columns[title] = pa.array([reads[lineage][sample] for lineage in taxa], pa.int64())
    return pa.table(columns)
