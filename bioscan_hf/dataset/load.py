"""`load_bioscan5m`: BIOSCAN-5M as a `datasets.Dataset`, from every kind of source.

Chosen columns and taxa, cut barcodes, label ids, one specimen per barcode.
Source: https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..labels import LabelMaps
from ..schema import LABEL_COLUMNS, MAX_NUCLEOTIDES, check_config, resolve_splits
from .request import Request, Taxon, check_row_options, combine, index_columns, prepare
from .sources import load_label_maps, resolve, source_kind

__all__ = ["labels_of", "load_bioscan5m", "load_label_maps", "parse_taxon", "rows_of", "source_kind"]


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
    """A `Dataset`, or an `IterableDataset` if streamed, of BIOSCAN-5M.

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
        source: Hub id ("user/name"), folder of Parquet shards, folder of a release, or a metadata CSV. Rows without
            a split are in "all", and in a split called "unassigned".
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

    Raises:
        ValueError: for an unknown config, split, rank, column or taxon, or one that the source does not hold; the
            message lists the alternatives.
        FileNotFoundError: if there is nothing at `source`.
    """
    _check_arguments(config, split, columns, ranks)
    check_row_options(max_nucleotides, unique_barcodes, streaming)
    found = resolve(source)
    labels = found.label_maps(config, streaming) if ranks or taxon else LabelMaps({})
    maps = labels.select(ranks or ())
    read = kept = None
    if columns is not None:
        computed_from = [*maps.columns, *(("dna_barcode",) if unique_barcodes else ())]
        read = tuple(dict.fromkeys([*columns, *computed_from]))
        kept = [*dict.fromkeys(columns), *index_columns(maps)]
    request = Request(config, split, read, _check_taxon(taxon or {}, labels), maps, max_nucleotides)
    parts: Mapping[str, Any]
    if streaming:
        parts = found.stream(request)
    else:
        parts = {name: prepare(part, maps, max_nucleotides) for name, part in found.open(request).items()}
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
        _check_rank(rank)
        taxon.setdefault(rank, []).append(name)
    return taxon


def rows_of(
    source: str | Path, split: str, processids: Sequence[str], columns: Sequence[str], ranks: Sequence[str] = ()
) -> pa.Table:
    """Columns of specimens, and the label ids of `ranks`, in the order of `processids`.

    Raises:
        ValueError: if a specimen is not in that split of the source.
    """
    columns = ["processid", *columns]
    data = load_bioscan5m(source, "dna", split, columns=columns, ranks=ranks, max_nucleotides=None)
    table = data.with_format("arrow")[:]
    places = pc.index_in(pa.array(processids, pa.string()), value_set=table["processid"].combine_chunks())
    if places.null_count:
        first = list(processids)[pc.index(pc.is_null(places), True).as_py()]
        raise ValueError(
            f"{first!r} and {places.null_count - 1} more are not in the split {split!r} of {str(source)!r}."
        )
    return table.take(places)


def labels_of(source: str | Path, split: str, processids: Sequence[str]) -> dict[str, np.ndarray]:
    """Rank (and "dna_bin") -> label ids (n,) of specimens; arguments and errors of `rows_of`."""
    table = rows_of(source, split, processids, (), LABEL_COLUMNS)
    return {rank: table[f"{rank}_index"].to_numpy() for rank in LABEL_COLUMNS}


def _check_arguments(
    config: str, split: str | None, columns: Sequence[str] | None, ranks: Sequence[str] | None
) -> None:
    if split is not None:
        resolve_splits(split)
    check_config(config)
    for rank in ranks or ():
        _check_rank(rank)
    if isinstance(columns, str) or (columns is not None and not columns):
        raise ValueError(f"columns is {columns!r}; give a list of at least one name, or None for all columns.")


def _check_rank(rank: str) -> None:
    if rank not in LABEL_COLUMNS:
        raise ValueError(f"Unknown rank {rank!r}. Label ids exist for {', '.join(LABEL_COLUMNS)}.")


def _check_taxon(taxon: Mapping[str, str | Sequence[str]], labels: LabelMaps) -> Taxon:
    """The names of each rank as a sorted tuple; raises ValueError for a name that does not occur."""
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
