"""Rows and columns that a caller asks for, and the functions that apply them to tables."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, concatenate_datasets

from ..barcodes import first_of_each_barcode
from ..labels import LabelMaps
from ..schema import MISSING, SPLIT_ALIASES, SPLITS, UNASSIGNED, resolve_splits

#: Rank, or another column, -> names. A row must have one of the names at each rank; None stands for a missing name.
Taxon = Mapping[str, tuple[str | None, ...]]

#: Rows of a record batch of text. A cached dataset is opened batch by batch, and the default, 1,000 rows, is slow.
TEXT_ROWS = 50_000


class MissingSplit(ValueError):
    """A split that a source does not have."""


@dataclass(frozen=True)
class Request:
    """Rows and columns to read, and how to change them."""

    config: str  # one of `schema.CONFIGS`
    split: str | None = None  # a split, a metasplit or several joined by "+"; None is all
    columns: tuple[str, ...] | None = None  # None reads all
    taxon: Taxon = field(default_factory=dict)  # names to which the rows are restricted
    maps: LabelMaps = field(default_factory=lambda: LabelMaps({}))  # label ids to add
    max_nucleotides: int | None = None  # to which barcodes are cut; None keeps them whole
    cache_dir: str | None = None  # None is the cache of `datasets`
    num_proc: int | None = None  # processes that prepare
    clean: bool = False  # whether `build` has not written the files, so that names and barcodes are respelled

    @property
    def filters(self) -> list[tuple[str, str, list[str | None]]] | None:
        """`taxon` as filters of pyarrow."""
        return [(rank, "in", list(names)) for rank, names in self.taxon.items()] or None

    def choose(self, available: Sequence[str], source: str) -> list[str]:
        """Splits to open, of those that are `available` in `source`."""
        if self.split is None:
            return list(available)
        names = resolve_splits(self.split)
        if UNASSIGNED in available and names == SPLITS:
            names = (*names, UNASSIGNED)
        asked = {SPLIT_ALIASES.get(part.strip(), part.strip()) for part in self.split.split("+")}
        return present_splits(names, asked & set(names), available, self.split, source)

    def check_columns(self, available: Collection[str]) -> None:
        """Raises ValueError for a column that is not available."""
        for column in self.columns or ():
            if column not in available:
                raise ValueError(f"Unknown column {column!r}. The config {self.config!r} has {', '.join(available)}.")


def present_splits(
    names: Sequence[str], asked: set[str], available: Collection[str], split: str, source: str
) -> list[str]:
    """The splits of `names` that are available; parts of a metasplit may be absent.

    Raises MissingSplit for those that were `asked` for by name; `split` and `source` are as the caller gave them.
    """
    present = [name for name in names if name in available]
    if not present or not asked <= set(present):
        absent = ", ".join(sorted(asked - set(present))) or split
        advice = " Partition it first: `bioscan-hf split IN.csv OUT.csv`." if UNASSIGNED in available else ""
        raise MissingSplit(f"No rows of split {absent!r} in {source!r}; it holds {', '.join(available)}.{advice}")
    return present


def check_row_options(
    max_nucleotides: int | None, unique_barcodes: bool, streaming: bool, num_proc: int | None = None
) -> None:
    """Raises ValueError for options that cannot be used, alone or together."""
    if unique_barcodes and streaming:
        raise ValueError("unique_barcodes compares all barcodes, which a stream cannot do. Use streaming=False.")
    if max_nucleotides is not None and (not isinstance(max_nucleotides, Integral) or max_nucleotides < 1):
        raise ValueError(
            f"max_nucleotides is {max_nucleotides}; give a positive whole number, or None for whole barcodes."
        )
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"num_proc is {num_proc}; give 1 process or more.")


def split_name(split: Any) -> str | None:
    """A split as text, also of `datasets.Split`; raises ValueError for several splits in a list."""
    if split is None or isinstance(split, str | datasets.NamedSplit):
        return None if split is None else str(split)
    raise ValueError(f"split is {split!r}; give one name, such as 'train', or several joined by '+'.")


def check_ranks(ranks: Sequence[str] | None, labels: Sequence[str], name: str = "") -> None:
    """Raises ValueError for ranks without label ids; `name` is that of the dataset."""
    if isinstance(ranks, str):
        raise ValueError(f"ranks is {ranks!r}; give a list of names, such as [{ranks!r}].")
    for rank in ranks or ():
        if rank not in labels:
            whose = f"{name} has label ids" if name else "Label ids exist"
            raise ValueError(f"Unknown rank {rank!r}. {whose} for {', '.join(labels)}.")


def combine(
    parts: Mapping[str, Any],
    split: str | None,
    *,
    streaming: bool,
    unique_barcodes: bool,
    columns: Sequence[str] | None = None,
) -> Any:
    """The result of a loader: one dataset for a `split`, a dict of datasets for None."""
    if split is not None:
        datasets_ = list(parts.values())
        parts = {split: datasets_[0] if len(datasets_) == 1 else concatenate_datasets(datasets_)}
    if unique_barcodes:
        if any("dna_barcode" not in part.column_names for part in parts.values()):
            raise ValueError("There is no column 'dna_barcode', so barcodes cannot be unique.")
        parts = {name: part.select(first_of_each_barcode(part)) for name, part in parts.items()}
    if columns is not None:
        parts = {name: part.select_columns(list(columns)) for name, part in parts.items()}
    if split is not None:
        return parts[split]
    return (IterableDatasetDict if streaming else DatasetDict)(parts)


# ---- changed and added columns -------------------------------------------------------------------------------------


def index_columns(maps: LabelMaps) -> list[str]:
    """Names of the columns of label ids."""
    return [f"{rank}_index" for rank in maps.columns]


def with_index_columns(features: datasets.Features, maps: LabelMaps) -> datasets.Features:
    """`features` and the columns of label ids."""
    return datasets.Features({**features, **{name: datasets.Value("int64") for name in index_columns(maps)}})


def cut_barcodes(table: pa.Table, length: int | None) -> pa.Table:
    """The table with barcodes of at most `length` nucleotides, if it has the column."""
    if length is None or "dna_barcode" not in table.column_names:
        return table
    place = table.column_names.index("dna_barcode")
    return table.set_column(place, "dna_barcode", pc.utf8_slice_codeunits(table["dna_barcode"], 0, length))


def prepare_table(table: pa.Table, maps: LabelMaps, length: int | None) -> pa.Table:
    """The table with cut barcodes and the columns of label ids."""
    table = cut_barcodes(table, length)
    for rank in maps.columns:
        table = table.append_column(f"{rank}_index", label_ids(table[rank], rank, maps))
    return table


def label_ids(names: pa.ChunkedArray, rank: str, maps: LabelMaps) -> pa.ChunkedArray:
    """Label ids (int64, -1 where null) of a column of names; KeyError if a name is not in `maps`."""
    found = []
    for chunk in names.chunks:  # each different name is looked up once
        codes = chunk if pa.types.is_dictionary(chunk.type) else chunk.cast(pa.string()).dictionary_encode()
        ids = pa.array(maps.encode(rank, codes.dictionary.to_pylist()), pa.int64())
        found.append(pc.fill_null(ids.take(codes.indices), MISSING))
    return pa.chunked_array(found, pa.int64())


def prepare(data: Dataset, maps: LabelMaps, length: int | None, num_proc: int | None = None) -> Dataset:
    """The dataset with cut barcodes and the columns of label ids. Other columns are not copied."""
    names = data.column_names
    # The lengths are the differences of the column's offsets, so this does not read the barcodes.
    too_long = (
        length is not None
        and "dna_barcode" in names
        and (pc.max(pc.binary_length(data.data.column("dna_barcode"))).as_py() or 0) > length
    )
    changed = [*(["dna_barcode"] if too_long else []), *index_columns(maps)]
    if not changed:
        return data
    features = with_index_columns(data.features, maps)
    if not len(data):  # `map` and `concatenate_datasets` return such a dataset unchanged
        return Dataset.from_dict({name: [] for name in features}, features=features)
    new = data.select_columns(["dna_barcode"] * too_long + list(maps.columns)).with_format("arrow")
    new = new.map(
        lambda table: prepare_table(table, maps, length).select(changed),
        batched=True,
        batch_size=TEXT_ROWS,
        writer_batch_size=TEXT_ROWS,
        remove_columns=list(maps.columns),
        features=datasets.Features({name: features[name] for name in changed}),
        new_fingerprint=_fingerprint(data, maps, length),
        num_proc=num_proc,
        desc="barcodes and label ids",
    )
    new = new.with_format(None)
    place = names.index("dna_barcode") if too_long else len(names)
    pieces = [  # in the order of the columns
        data.select_columns(names[:place]),
        new.select_columns(["dna_barcode"] * too_long),
        data.select_columns(names[place + 1 :]),
        new.select_columns(index_columns(maps)),
    ]
    return concatenate_datasets([piece for piece in pieces if piece.column_names], axis=1)


def _fingerprint(data: Dataset, maps: LabelMaps, length: int | None) -> str:
    """Name of the cached result of `prepare`; `datasets` would pickle and hash the maps for it."""
    digest = hashlib.sha256(f"prepare 1:{data._fingerprint}:{length}".encode())
    for column in maps.columns:
        digest.update("\n".join(["", column, *maps.names(column)]).encode())
    return digest.hexdigest()[:16]


def prepare_stream(data: IterableDataset, maps: LabelMaps, length: int | None) -> IterableDataset:
    """The same for a stream."""
    features = with_index_columns(data.features, maps)
    options = {"maps": maps, "length": length}
    # As Arrow tables, so that photos are not decoded on the way.
    stream = data.with_format("arrow").map(prepare_table, batched=True, fn_kwargs=options, features=features)
    return stream.with_format(None)
