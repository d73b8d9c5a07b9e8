"""Canadian Invertebrates as a `datasets.Dataset` with the columns of BIOSCAN-5M.

A column that it does not have is null; other columns (sequence_len) follow. Source: https://arxiv.org/abs/2311.02401.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..labels import LabelMaps
from ..release.columns import features
from ..release.tables import csv_columns
from ..schema import COLUMNS, MAX_NUCLEOTIDES, METASPLITS, SPLIT_ALIASES
from .blocks import BlockSource, check_splits, find_file, in_splits, load, read_tables, to_columns

CSV = "CanInv_metadata.csv"
SPLITS = ("pretrain", "train", "val", "test", "test_unseen")

#: Column of the CSV -> column of BIOSCAN-5M.
NAMES = {"bin_uri": "dna_bin", "nucleotides": "dna_barcode"}


def load_canadian_invertebrates(
    source: str | Path,
    config: str = "dna",
    split: str | None = None,
    *,
    streaming: bool = False,
    ranks: Sequence[str] | None = None,
    max_nucleotides: int | None = MAX_NUCLEOTIDES,
    unique_barcodes: bool = False,
) -> Any:
    """A `Dataset`, or an `IterableDataset` if streamed, of Canadian Invertebrates.

    Without `split`, the result is a dict of datasets.

    Args:
        source: CanInv_metadata.csv, or the folder that holds it (or CanadianInvertebrates/ with it).
        config: "dna"; there are no photos.
        split: pretrain, train, val (or validation), test, test_unseen, "seen" (train, val, test), "unseen"
            (test_unseen), "all", or several joined by "+".
        ranks, streaming, max_nucleotides, unique_barcodes: As in `load_bioscan5m`; there is no subfamily.

    Raises:
        ValueError: for an unknown split or rank, or a config with photos.
        FileNotFoundError: if the CSV is not there.
        ReleaseError: for a damaged file.
    """
    if config != "dna":
        raise ValueError(f"Canadian Invertebrates has no config {config!r}: it has no photos. Use config='dna'.")
    return load(_source(source), split, streaming, ranks, max_nucleotides, unique_barcodes)


def canadian_invertebrates_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of Canadian Invertebrates, over all rows."""
    return _source(source).scan()[0]


def _source(source: str | Path) -> BlockSource:
    path = find_file(source, (CSV, f"CanadianInvertebrates/{CSV}"))
    columns = [NAMES.get(name, name) for name in csv_columns(path)]
    return BlockSource(
        "Canadian Invertebrates",
        _read,
        {"path": str(path), "config": "dna"},
        features("dna", [name for name in columns if name not in COLUMNS]),
        SPLITS,
        (path,),
        metasplits={"all": SPLITS, "seen": METASPLITS["seen"], "unseen": ("test_unseen",)},
        aliases={alias: (name,) for alias, name in SPLIT_ALIASES.items()},
    )


def _read(path: str, config: str, splits: Sequence[str]) -> Iterator[pa.Table]:
    for table in read_tables(path, ("processid", "split"), NAMES):
        check_splits(table["split"], SPLITS, "split", path)
        yield to_columns(in_splits(table, splits))
