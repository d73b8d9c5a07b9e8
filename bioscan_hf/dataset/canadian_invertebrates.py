"""Canadian Invertebrates as a `datasets.Dataset` with the columns of BIOSCAN-5M.

A column that it does not have is null; other columns (sequence_len) follow. `bioscan-hf download FOLDER --dataset
canadian-invertebrates` fetches its file: 965,289 specimens at most, about 40 % with a species, without photos.
Source: https://arxiv.org/abs/2311.02401.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..barcodes import kept_by_shuffle, published_digests
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
    unique_barcodes: bool | Literal["published"] = False,
) -> Any:
    """Loads Canadian Invertebrates as a `Dataset`, or an `IterableDataset` if streamed.

    Without `split`, the result is a dict of datasets.

    Args:
        source: CanInv_metadata.csv, or the folder that holds it (or CanadianInvertebrates/ with it).
        config: "dna"; there are no photos.
        split: pretrain, train, val (or validation), test, test_unseen, "seen" (train, val, test), "unseen"
            (test_unseen), "all", or several joined by "+".
        ranks, streaming, max_nucleotides: As in `load_bioscan5m`; there is no subfamily.
        unique_barcodes: True keeps the first specimen of each barcode in a split. "published" keeps those that
            `bioscan-dataset` keeps with `reduce_repeated_barcodes=True`: it cuts the barcodes to `max_nucleotides`,
            shuffles the whole file with seed 0, takes the first of each barcode, restores the order, and only then
            takes the split. So a barcode occurs once in all splits together. Label ids are of the whole file.

    Raises:
        ValueError: for an unknown split, rank or rule of unique barcodes, or a config with photos.
        FileNotFoundError: if the CSV is not there.
        ReleaseError: for a damaged file.
    """
    if config != "dna":
        raise ValueError(f"Canadian Invertebrates has no config {config!r}: it has no photos. Use config='dna'.")
    if unique_barcodes not in (False, True, "published"):
        raise ValueError(f"unique_barcodes is {unique_barcodes!r}; choose True, False or 'published'.")
    if unique_barcodes == "published":
        found = _source(source, {"unique": True, "cut": max_nucleotides})
        return load(found, split, streaming, ranks, max_nucleotides, False)
    return load(_source(source), split, streaming, ranks, max_nucleotides, bool(unique_barcodes))


def canadian_invertebrates_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of Canadian Invertebrates, over all rows."""
    return _source(source).scan()[0]


def _source(source: str | Path, unique: dict[str, Any] | None = None) -> BlockSource:
    path = find_file(source, (CSV, f"CanadianInvertebrates/{CSV}"))
    columns = [NAMES.get(name, name) for name in csv_columns(path)]
    return BlockSource(
        "Canadian Invertebrates",
        _read,
        {"path": str(path), "config": "dna", **(unique or {})},
        features("dna", [name for name in columns if name not in COLUMNS]),
        SPLITS,
        (path,),
        metasplits={"all": SPLITS, "seen": METASPLITS["seen"], "unseen": ("test_unseen",)},
        aliases={alias: (name,) for alias, name in SPLIT_ALIASES.items()},
        whole={"unique": False},
    )


def _read(
    path: str, config: str, splits: Sequence[str], unique: bool = False, cut: int | None = None
) -> Iterator[pa.Table]:
    kept = _published_rows(path, Path(path).stat().st_mtime_ns, cut) if unique else None
    start = 0
    for table in read_tables(path, ("processid", "split"), NAMES):
        check_splits(table["split"], SPLITS, "split", path)
        if kept is not None:
            rows = kept[np.searchsorted(kept, start) : np.searchsorted(kept, start + len(table))] - start
            start += len(table)
            table = table.take(pa.array(rows))
        yield to_columns(in_splits(table, splits))


@lru_cache(maxsize=1)
def _published_rows(path: str, mtime_ns: int, cut: int | None) -> npt.NDArray[np.int64]:
    """Positions in the file of the rows that the published rule keeps, ascending."""
    found = [published_digests(table["dna_barcode"], cut) for table in read_tables(path, ("processid",), NAMES)]
    return kept_by_shuffle(np.concatenate(found))
