"""`load_bioscan5m`: BIOSCAN-5M as a `datasets.Dataset`, from every kind of source.

Chosen columns and taxa, cut barcodes, label ids, one specimen per barcode.
Source: https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from ..labels import LabelMaps
from ..schema import LABEL_COLUMNS, MAX_NUCLEOTIDES, check_config, resolve_splits
from .request import Request, Taxon, check_ranks, check_row_options, combine, index_columns, prepare, split_name
from .sources import load_label_maps, resolve, source_kind

__all__ = ["labels_of", "load_bioscan5m", "load_label_maps", "parse_taxon", "rows_of", "source_kind"]


class LoadOptions(TypedDict, total=False):
    """Keyword arguments of `load_bioscan5m` that do not change the type of its result."""

    columns: Sequence[str] | None
    taxon: Mapping[str, str | Sequence[str]] | None
    ranks: Sequence[str] | None
    max_nucleotides: int | None
    unique_barcodes: bool
    revision: str | None
    token: str | None
    cache_dir: str | Path | None
    num_proc: int | None
    labels: LabelMaps | str | Path | None


Source: TypeAlias = str | Path


@overload
def load_bioscan5m(
    source: Source,
    config: str = "dna",
    split: None = None,
    *,
    streaming: Literal[False] = False,
    **options: Unpack[LoadOptions],
) -> DatasetDict: ...
@overload
def load_bioscan5m(
    source: Source,
    config: str = "dna",
    split: None = None,
    *,
    streaming: Literal[True],
    **options: Unpack[LoadOptions],
) -> IterableDatasetDict: ...
@overload
def load_bioscan5m(
    source: Source,
    config: str = "dna",
    split: str = ...,
    *,
    streaming: Literal[False] = False,
    **options: Unpack[LoadOptions],
) -> Dataset: ...
@overload
def load_bioscan5m(
    source: Source,
    config: str = "dna",
    split: str = ...,
    *,
    streaming: Literal[True],
    **options: Unpack[LoadOptions],
) -> IterableDataset: ...
@overload
def load_bioscan5m(
    source: Source,
    config: str = "dna",
    split: str | None = None,
    *,
    streaming: bool,
    **options: Unpack[LoadOptions],
) -> Dataset | IterableDataset | DatasetDict | IterableDatasetDict: ...
def load_bioscan5m(
    source: str | Path,
    config: str = "dna",
    split: str | None = None,
    *,
    streaming: bool = False,
    columns: Sequence[str] | None = None,
    taxon: Mapping[str, str | Sequence[str]] | None = None,
    ranks: Sequence[str] | None = None,
    max_nucleotides: int | None = MAX_NUCLEOTIDES,
    unique_barcodes: bool = False,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    labels: LabelMaps | str | Path | None = None,
) -> Dataset | IterableDataset | DatasetDict | IterableDatasetDict:
    """Loads BIOSCAN-5M as a `Dataset`, or as an `IterableDataset` if streamed.

    Without `split`, the result is a dict of datasets. Rows and features are the same from every kind of source. A
    release folder or CSV is built to Parquet once, in the cache of `datasets`, unless it is streamed. Only the splits
    asked for are downloaded, and of Parquet only the needed columns and row groups are read: photos are not fetched
    unless "image" is among the columns.

    A stream continues exactly where its `state_dict` was taken, unless it is shuffled: then the rows in the shuffle
    buffer are lost. For training that must resume, shuffle a map-style dataset. Several processes share a stream by
    `datasets.distributed.split_dataset_by_node(stream, rank, world_size)`: each row is read by one rank, but ranks can
    get different numbers of rows, so end training by steps and not by the end of the data. `accelerate` prepares a
    stream so that rank 0 reads everything; `DataLoaderConfiguration(dispatch_batches=False)` lets each rank read its
    own shards.

    Args:
        source: Hub id ("user/name"), Parquet file or folder, folder of a release, or a metadata CSV. Rows without a
            split are in "all", and in a split called "unassigned". Parquet files are found as CONFIG/SPLIT-*.parquet,
            as CONFIG/SPLIT/*.parquet, or outside of such folders, where they stand for every config; if their names
            are not those of splits, their column `split` tells the split.
        config: "dna" (no photos), or an image package such as "cropped_256".
        split: A split, "seen", "unseen", "all", or several joined by "+"; None gives all splits in a dict.
        streaming: Returns an iterable dataset that reads while it is iterated.
        columns: Columns to keep, in this order; the label ids of `ranks` follow them. None keeps all.
        taxon: Rank, or "dna_bin", -> name or names; other rows are left out. See `parse_taxon`.
        ranks: Ranks, or "dna_bin", whose label ids are added as columns `<rank>_index`: int64, -1 where missing. The
            ids are the same in every split and for every `taxon` (see `load_label_maps`).
        max_nucleotides: Length to which barcodes are cut; None keeps them whole.
        unique_barcodes: Keeps the first specimen of each barcode. Barcodes are compared after cutting and without
            trailing N.
        revision: Branch, tag or commit of a dataset on the Hub. Labels and rows are those of one commit.
        token: Token for a private dataset on the Hub; by default that of `hf auth login`.
        cache_dir: Folder for builds and memory-mapped files; by default the cache of `datasets`. Files of the Hub are
            in the cache of `huggingface_hub`.
        num_proc: Processes that prepare a dataset that is not streamed.
        labels: Label ids to use, or a file labels.json. Needed for `ranks` if the source is a part of a release that
            has no labels.json.

    Raises:
        ConnectionError: if the Hub cannot be reached and its cache does not hold what is needed.
        FileNotFoundError: if there is nothing at `source`.
        PermissionError: if the Hub refuses the token.
        ValueError: for an unknown config, split, rank, column or taxon, or one that the source does not hold; the
            message lists the alternatives. Also for shards that are missing in a split asked for.
    """
    split = split_name(split)
    _check_arguments(config, split, columns, ranks)
    check_row_options(max_nucleotides, unique_barcodes, streaming, num_proc)
    folder = None if cache_dir is None else str(cache_dir)
    found = resolve(source, revision, token, folder)
    if labels is not None and not isinstance(labels, LabelMaps):
        labels = LabelMaps.load(labels)
    if ranks and labels is None:
        labels = found.label_maps()
    maps = labels.select(ranks) if labels is not None and ranks else LabelMaps({})
    read = kept = None
    if columns is not None:
        computed_from = [*maps.columns, *(("dna_barcode",) if unique_barcodes else ())]
        read = tuple(dict.fromkeys([*columns, *computed_from]))
        kept = [*dict.fromkeys(columns), *index_columns(maps)]
    request = Request(config, split, read, {}, maps, max_nucleotides, folder, num_proc)
    if taxon:
        request = replace(request, taxon=_check_taxon(taxon, labels or found.taxon_names(request)))
    parts: Mapping[str, Any]
    if streaming:
        parts = found.stream(request)
    else:
        opened = found.open(request)
        parts = {name: prepare(part, maps, max_nucleotides, num_proc) for name, part in opened.items()}
    return combine(parts, split, streaming=streaming, unique_barcodes=unique_barcodes, columns=kept)


def parse_taxon(texts: Iterable[str]) -> dict[str, list[str]]:
    """Turns "order=Diptera", "family=Sciaridae" into the `taxon` of `load_bioscan5m`.

    Several names of one rank are alternatives; a row must match every rank that is given.

    Raises:
        ValueError: if a text is not rank=name, or its rank is unknown.
    """
    taxon: dict[str, list[str]] = {}
    for text in texts:
        rank, equals, name = (part.strip() for part in text.partition("="))
        if not (equals and name):
            raise ValueError(f"{text!r} is not a taxon. Write a rank and a name, such as order=Diptera.")
        check_ranks([rank], LABEL_COLUMNS)
        taxon.setdefault(rank, []).append(name)
    return taxon


def rows_of(
    source: str | Path,
    split: str,
    processids: Sequence[str],
    columns: Sequence[str],
    ranks: Sequence[str] = (),
    labels: LabelMaps | str | Path | None = None,
) -> pa.Table:
    """Columns of specimens, and the label ids of `ranks`, in the order of `processids`.

    Args:
        labels: As in `load_bioscan5m`.

    Raises:
        ValueError: if a specimen is not in that split of the source.
    """
    columns = ["processid", *columns]
    data = load_bioscan5m(source, "dna", split, columns=columns, ranks=ranks, max_nucleotides=None, labels=labels)
    table = data.with_format("arrow")[:]
    places = pc.index_in(pa.array(processids, pa.string()), value_set=table["processid"].combine_chunks())
    if places.null_count:
        first = list(processids)[pc.index(pc.is_null(places), True).as_py()]
        raise ValueError(
            f"{first!r} and {places.null_count - 1} more are not in the split {split!r} of {str(source)!r}."
        )
    return table.take(places)


def labels_of(
    source: str | Path, split: str, processids: Sequence[str], labels: LabelMaps | str | Path | None = None
) -> dict[str, np.ndarray]:
    """Rank (and "dna_bin") -> label ids (n,) of specimens; arguments and errors of `rows_of`."""
    table = rows_of(source, split, processids, (), LABEL_COLUMNS, labels)
    return {rank: table[f"{rank}_index"].to_numpy() for rank in LABEL_COLUMNS}


def _check_arguments(
    config: str, split: str | None, columns: Sequence[str] | None, ranks: Sequence[str] | None
) -> None:
    if split is not None:
        resolve_splits(split)
    check_config(config)
    check_ranks(ranks, LABEL_COLUMNS)
    if isinstance(columns, str) or (columns is not None and not columns):
        raise ValueError(f"columns is {columns!r}; give a list of at least one name, or None for all columns.")


def _check_taxon(taxon: Mapping[str, str | Sequence[str]], labels: LabelMaps) -> Taxon:
    """The names of each rank as a sorted tuple; raises ValueError for a name that does not occur."""
    if not isinstance(taxon, Mapping):
        raise ValueError(f"taxon is {taxon!r}; give a dict, such as {{'order': 'Diptera'}}.")
    chosen = {}
    for rank, given in taxon.items():
        check_ranks([rank], LABEL_COLUMNS)
        names = sorted({given} if isinstance(given, str) else set(given or ()))
        if not names:
            raise ValueError(f"taxon has no name for the rank {rank!r}; leave the rank out to keep all of its taxa.")
        known = labels.names(rank)
        for name in sorted(set(names) - set(known)):
            close = difflib.get_close_matches(name, known, n=3)
            advice = f"Similar names: {', '.join(close)}." if close else f"There are {len(known):,} names."
            raise ValueError(f"No specimen has the {rank} {name!r}. {advice}")
        chosen[rank] = tuple(names)
    return chosen
