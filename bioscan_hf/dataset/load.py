"""BIOSCAN-5M as a `datasets.Dataset`, from the Hub, a Parquet folder, a release folder or one metadata CSV.

Dataset in, Dataset out: chosen columns and taxa, truncated barcodes, label ids, one specimen per barcode.
Source: https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, concatenate_datasets

from ..barcodes import first_of_each_barcode
from ..labels import LabelMaps
from ..release.check import UNASSIGNED
from ..schema import LABEL_COLUMNS, MAX_NUCLEOTIDES, SPLITS, check_config, resolve_splits
from .sources import (
    TEXT_ROWS,
    Taxon,
    label_maps_of,
    load_label_maps,
    open_source,
    scan_release,
    source_kind,
    stream_release,
)

__all__ = [
    "encode_labels",
    "label_ids",
    "labels_of",
    "load_bioscan5m",
    "load_label_maps",
    "parse_taxon",
    "source_kind",
]


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
) -> Any:
    """A `Dataset` or, streamed, an `IterableDataset` of BIOSCAN-5M; without `split`, a dict of them.

    The rows and features are the same from every kind of source. A release folder or CSV is built to Parquet once, in
    the cache of `datasets`, unless it is streamed. Only the splits asked for are downloaded, and of Parquet only the
    columns and row groups that can matter are read: photos that are not among `columns` are not fetched.

    A stream goes on exactly where its `state_dict` was taken, unless it is shuffled: then the rows in the shuffle
    buffer are lost. For training that must resume, shuffle a map-style dataset. Several processes share a stream by
    `datasets.distributed.split_dataset_by_node(stream, rank, world_size)`: each row comes once, but the ranks can get
    different numbers of rows, so let steps, not the end of the data, stop a training. `accelerate` prepares a stream
    so that rank 0 reads everything; `DataLoaderConfiguration(dispatch_batches=False)` lets each rank read its shards.

    Args:
        source: Hub id ("user/name"), folder of Parquet shards, folder of a release, or a metadata CSV. The rows of a
            CSV without a partition are in "all", and in a split called "unassigned".
        config: "dna" (no photos), or an image package such as "cropped_256".
        split: A split, "seen", "unseen", "all", or several joined by "+"; None gives all of them in a dict.
        streaming: Gives an iterable dataset that reads as it goes.
        columns: Columns to keep, in this order; those of `ranks` are added behind. None keeps all.
        taxon: Rank, or "dna_bin", -> name or names; rows of other taxa are left out. See `parse_taxon`.
        ranks: Ranks, or "dna_bin", whose label ids are added as columns `<rank>_index`: int64, -1 where missing, the
            same ids in every split, whatever `taxon` is (see `load_label_maps`).
        max_nucleotides: Length to which barcodes are cut; None leaves them whole.
        unique_barcodes: Keeps the first specimen of each barcode among the rows asked for, compared after cutting and
            without trailing N.

    Raises:
        ValueError: unknown config, split, rank, column or taxon, or one that the source does not hold; the
            alternatives are listed.
        FileNotFoundError: if there is nothing at `source`.
    """
    names = None if split is None else resolve_splits(split)
    _check_arguments(config, streaming, columns, ranks, max_nucleotides, unique_barcodes)
    kind = source_kind(source)
    checked = scan_release(source) if kind == "release" and streaming else None
    labels = LabelMaps({})
    if ranks or taxon:
        labels = checked.labels if checked else label_maps_of(source, config)
    chosen = _check_taxon(taxon or {}, labels)
    maps = labels.select(ranks or ())
    read = columns
    if columns is not None:  # also what is only computed with
        read = list(dict.fromkeys([*columns, *maps.columns, *(("dna_barcode",) if unique_barcodes else ())]))

    def choose(available: Sequence[str]) -> Sequence[str]:
        return available if names is None or split is None else _choose(names, available, split, source)

    if checked:
        change = partial(_prepare_table, maps=maps, length=max_nucleotides)
        splits = choose(list(checked.counts))
        loaded = stream_release(source, config, checked, splits, read, chosen, change, _index_columns(maps))
    else:
        opened = open_source(source, config, choose, streaming, read, chosen)
        loaded = {name: _prepare(part, maps, max_nucleotides) for name, part in opened.items()}
    if split is not None:
        parts = list(loaded.values())
        loaded = {split: parts[0] if len(parts) == 1 else concatenate_datasets(parts)}
    if unique_barcodes:
        loaded = {name: part.select(first_of_each_barcode(part)) for name, part in loaded.items()}
    if columns is not None:
        kept = [*dict.fromkeys(columns), *_index_columns(maps)]
        loaded = {name: part.select_columns(kept) for name, part in loaded.items()}
    if split is not None:
        return loaded[split]
    return IterableDatasetDict(loaded) if streaming else DatasetDict(loaded)


def parse_taxon(texts: Iterable[str]) -> dict[str, list[str]]:
    """Turns "order=Diptera", "family=Sciaridae", "family=Phoridae" into the `taxon` of `load_bioscan5m`.

    Several names of one rank are alternatives; several ranks must all agree.

    Raises:
        ValueError: if a text is not rank=name, or its rank is unknown.
    """
    taxon: dict[str, list[str]] = {}
    for text in texts:
        rank, equals, name = (part.strip() for part in text.partition("="))
        if not (equals and name):
            raise ValueError(f"{text!r} is no taxon. Write a rank and a name, such as order=Diptera.")
        _check_rank(rank)
        taxon.setdefault(rank, []).append(name)
    return taxon


def _check_arguments(
    config: str,
    streaming: bool,
    columns: Sequence[str] | None,
    ranks: Sequence[str] | None,
    max_nucleotides: int | None,
    unique_barcodes: bool,
) -> None:
    check_config(config)
    for rank in ranks or ():
        _check_rank(rank)
    if isinstance(columns, str) or (columns is not None and not columns):
        raise ValueError(f"columns is {columns!r}; give a list of at least one name, or None for all columns.")
    if unique_barcodes and streaming:
        raise ValueError("unique_barcodes compares all barcodes, which a stream cannot: use streaming=False.")
    if max_nucleotides is not None and max_nucleotides < 1:
        raise ValueError(f"max_nucleotides is {max_nucleotides}; give a positive number, or None for whole barcodes.")


def _check_rank(rank: str) -> None:
    if rank not in LABEL_COLUMNS:
        raise ValueError(f"Unknown rank {rank!r}. Label ids exist for {', '.join(LABEL_COLUMNS)}.")


def _check_taxon(taxon: Mapping[str, str | Sequence[str]], labels: LabelMaps) -> Taxon:
    """The names of each rank as a sorted tuple; raises ValueError for one that does not occur, naming similar ones."""
    chosen = {}
    for rank, given in taxon.items():
        _check_rank(rank)
        names = sorted({given} if isinstance(given, str) else set(given))
        if not names:
            raise ValueError(f"taxon has no name for the rank {rank!r}; leave the rank out to keep all of its taxa.")
        known = labels.names(rank)
        for name in sorted(set(names) - set(known)):
            close = difflib.get_close_matches(name, known, n=3)
            advice = f"Similar names: {', '.join(close)}." if close else f"There are {len(known):,} names."
            raise ValueError(f"No specimen has the {rank} {name!r}. {advice}")
        chosen[rank] = tuple(names)
    return chosen


def _choose(names: Sequence[str], available: Sequence[str], split: str, source: str | Path) -> list[str]:
    """The splits `names` that are there. Parts of a metasplit may be absent, a split asked for by name not."""
    if UNASSIGNED in available and names == SPLITS:
        names = (*names, UNASSIGNED)
    present = [name for name in names if name in available]
    asked = {part.strip() for part in split.split("+")} & set(names)
    if not present or not asked <= set(present):
        absent = ", ".join(sorted(asked - set(present))) or split
        advice = " Partition it first: `bioscan-hf split IN.csv OUT.csv`." if UNASSIGNED in available else ""
        raise ValueError(f"No rows of split {absent!r} in {str(source)!r}; it holds {', '.join(available)}.{advice}")
    return present


def _prepare(
    data: Dataset | IterableDataset, maps: LabelMaps, max_nucleotides: int | None
) -> Dataset | IterableDataset:
    """Cuts the barcodes, if they are there, and adds the label ids of every column of `maps`."""
    length = max_nucleotides if "dna_barcode" in data.features else None
    if isinstance(data, IterableDataset):
        features = data.features.copy()
        features.update({name: datasets.Value("int64") for name in _index_columns(maps)})
        change = partial(_prepare_table, maps=maps, length=length)
        # As Arrow tables, so that no photo is decoded on the way.
        return data.with_format("arrow").map(change, batched=True, features=features).with_format(None)
    # Lengths alone are read here: they are the differences of the column's offsets.
    if length is not None and (pc.max(pc.binary_length(data.data.column("dna_barcode"))).as_py() or 0) > length:
        names = data.column_names
        place = names.index("dna_barcode")
        cut = data.select_columns("dna_barcode").with_format("arrow")
        rows = {"batch_size": TEXT_ROWS, "writer_batch_size": TEXT_ROWS}
        cut = cut.map(_cut_barcodes, batched=True, fn_kwargs={"length": length}, desc="cutting barcodes", **rows)
        # Side by side, so that no other column is copied (photos are large), in pieces that keep the columns' order.
        pieces = [data.select_columns(names[:place]), cut.with_format(None), data.select_columns(names[place + 1 :])]
        data = concatenate_datasets([piece for piece in pieces if piece.column_names], axis=1)
    for rank in maps.columns:
        data = encode_labels(data, rank, maps)
    return data


def _prepare_table(table: pa.Table, maps: LabelMaps, length: int | None) -> pa.Table:
    if length is not None and "dna_barcode" in table.column_names:
        table = _cut_barcodes(table, length)
    for rank in maps.columns:
        table = table.append_column(f"{rank}_index", label_ids(table[rank], rank, maps))
    return table


def _index_columns(maps: LabelMaps) -> list[str]:
    return [f"{rank}_index" for rank in maps.columns]


def _cut_barcodes(table: pa.Table, length: int) -> pa.Table:
    place = table.column_names.index("dna_barcode")
    return table.set_column(place, "dna_barcode", pc.utf8_slice_codeunits(table["dna_barcode"], 0, length))


def label_ids(names: pa.ChunkedArray, rank: str, maps: LabelMaps) -> pa.ChunkedArray:
    """Label ids (int64, -1 where null) of a column of names.

    Raises:
        KeyError: if a name is not in `maps`.
    """
    ids = pc.index_in(names, value_set=pa.array(maps.names(rank), pa.string()))
    unknown = pc.and_(pc.is_null(ids), pc.is_valid(names))
    if pc.any(unknown).as_py():
        maps.encode(rank, names.filter(unknown).to_pylist())  # raises, naming the first
    return pc.cast(pc.fill_null(ids, -1), pa.int64())


def encode_labels(data: Dataset, rank: str, maps: LabelMaps) -> Dataset:
    """Adds the column `<rank>_index`: int64 label ids, -1 where the label is missing."""
    features = datasets.Features({f"{rank}_index": datasets.Value("int64")})
    if not len(data):  # which `map` and `concatenate_datasets` leave as it is
        everything = datasets.Features({**data.features, **features})
        return Dataset.from_dict({name: [] for name in everything}, features=everything)
    names = data.select_columns(rank).with_format("arrow")
    ids = names.map(
        lambda table: pa.table({f"{rank}_index": label_ids(table[rank], rank, maps)}),
        batched=True,
        batch_size=TEXT_ROWS,
        writer_batch_size=TEXT_ROWS,
        remove_columns=rank,
        features=features,
        desc=f"ids of {rank}",
    )
    return concatenate_datasets([data, ids.with_format(None)], axis=1)


def labels_of(source: str | Path, split: str, processids: Sequence[str]) -> dict[str, np.ndarray]:
    """Rank (and "dna_bin") -> label ids (n,) of specimens, in the order of `processids`.

    Raises:
        ValueError: if a specimen is not in that split of the source.
    """
    data = load_bioscan5m(source, "dna", split, ranks=LABEL_COLUMNS, max_nucleotides=None)
    table = data.with_format("arrow")[:]
    places = pc.index_in(pa.array(processids, pa.string()), value_set=table["processid"].combine_chunks())
    if places.null_count:
        first = list(processids)[int(np.flatnonzero(np.isnan(places.to_numpy(zero_copy_only=False)))[0])]
        raise ValueError(
            f"{first!r} and {places.null_count - 1} more are not in the split {split!r} of {str(source)!r}."
        )
    return {rank: table[f"{rank}_index"].take(places).to_numpy() for rank in LABEL_COLUMNS}
