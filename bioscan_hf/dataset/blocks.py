"""A data set that is read in blocks, as a `datasets.Dataset` with the columns of BIOSCAN-5M.

The blocks go into an Arrow file for each split, in the cache of `datasets`, that is then memory-mapped; a stream reads
them as it goes. Used by `other_sources`; loading behaves as `data.load_bioscan5m` does.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, concatenate_datasets
from numpy.typing import NDArray

from ..barcodes import first_of_each_barcode
from ..labels import LabelMaps
from ..release.check import UNASSIGNED, Problem, ReleaseError, features
from ..release.tables import ids_of, places_in
from ..schema import LABEL_COLUMNS
from .load import encode_labels, label_ids

#: Names of BIOSCAN-5M and what CLIBD calls them; of several, the first that a file has.
CLIBD_ALIASES = {
    "pretrain": ("no_split",),
    "train": ("train_seen", "seen_keys"),
    "val": ("val_seen",),
    "validation": ("val_seen",),
    "test": ("test_seen",),
    "key_unseen": ("unseen_keys", "test_unseen_keys"),
}

#: Rows read at once where they come with photos.
PHOTO_ROWS = 256


@dataclass(frozen=True)
class Source:
    """A data set that is read in blocks: `read(**about, splits=...)` yields tables of the rows of some splits."""

    name: str
    read: Callable[..., Iterator[pa.Table]]
    about: dict[str, Any]
    features: Features
    splits: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[str, ...] = LABEL_COLUMNS
    metasplits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Whether every split has rows, and no row is without a split.
    complete: bool = False
    #: Folder of files NAME.txt that hold the sampleids of a split or metasplit in its published order.
    order: Path | None = None


def load(
    source: Source,
    split: str | None,
    streaming: bool,
    ranks: Sequence[str] | None,
    max_nucleotides: int | None,
    unique_barcodes: bool,
) -> Any:
    """What `load_bioscan5m` returns for the same arguments, of a `source`."""
    names = None if split is None else _resolve(split, source)
    for rank in ranks or ():
        if rank not in source.labels:
            raise ValueError(f"Unknown rank {rank!r}. {source.name} has label ids for {', '.join(source.labels)}.")
    if unique_barcodes and streaming:
        raise ValueError("unique_barcodes compares all barcodes, which a stream cannot: use streaming=False.")
    if max_nucleotides is not None and max_nucleotides < 1:
        raise ValueError(f"max_nucleotides is {max_nucleotides}; give a positive number, or None for whole barcodes.")

    # A metasplit that has an order of its own, unlike "all" and what is joined by "+".
    whole = next((name for name in source.metasplits if name != "all" and name == (split or "").strip()), None)
    scanned = bool(ranks) or (streaming and not source.complete)
    maps, present = scan(source) if scanned else (LabelMaps({}), list(source.splits))
    maps = maps.select(ranks or ())
    if streaming:
        loaded = {name: _stream(source, name, maps, max_nucleotides) for name in present}
    else:
        loaded = _memory_map(source, names, max_nucleotides)
        for rank in maps.columns:
            loaded = {name: encode_labels(data, rank, maps) for name, data in loaded.items()}
        if source.order is not None and whole is None:
            loaded = {name: _in_order(data, source.order, name) for name, data in loaded.items()}
    if split is None or names is None:
        if unique_barcodes:
            loaded = {name: data.select(first_of_each_barcode(data)) for name, data in loaded.items()}
        return IterableDatasetDict(loaded) if streaming else DatasetDict(loaded)

    # Parts of a metasplit may be absent, a split asked for by name not.
    asked = {_alias(part.strip(), source) for part in split.split("+")} & set(names)
    if not loaded or not asked <= set(loaded):
        absent = ", ".join(sorted(asked - set(loaded))) or split
        raise ValueError(f"No rows of split {absent!r} in {source.files[0]}; try {', '.join(source.splits)}.")
    parts = [loaded[name] for name in names if name in loaded]
    joined = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    if source.order is not None and whole is not None and not streaming:
        joined = _in_order(joined, source.order, whole)
    return joined.select(first_of_each_barcode(joined)) if unique_barcodes else joined


def _alias(part: str, source: Source) -> str:
    if part in source.splits or part in source.metasplits:
        return part
    return next((name for name in source.aliases.get(part, ()) if name in source.splits), part)


def _resolve(split: str, source: Source) -> tuple[str, ...]:
    """The splits that "a+b" names, each once, metasplits expanded and aliases turned into names."""
    names: list[str] = []
    for part in split.split("+"):
        name = _alias(part.strip(), source)
        if name not in (*source.splits, *source.metasplits, UNASSIGNED):
            aliases = [alias for alias in source.aliases if _alias(alias, source) != alias]
            raise ValueError(
                f"Unknown split {part.strip()!r} in {split!r}. {source.name} has {', '.join(source.splits)}; "
                f"{', '.join([*source.metasplits, *aliases])} are other names, and 'a+b' joins two."
            )
        expanded = source.metasplits.get(name, (name,))
        names += [one for one in expanded if one not in names]
    if "all" in source.metasplits and "all" in [part.strip() for part in split.split("+")]:
        names.append(UNASSIGNED)
    return tuple(names)


def scan(source: Source) -> tuple[LabelMaps, list[str]]:
    """Label ids over every row of a source, and the splits that have rows; photos are not read."""
    names: dict[str, set[str]] = {column: set() for column in source.labels}
    present: set[str] = set()
    splits = (*source.splits, UNASSIGNED)
    for table in source.read(**{**source.about, "config": "dna"}, splits=splits):
        for column, known in names.items():
            known.update(table[column].unique().drop_null().to_pylist())
        present.update(pc.fill_null(table["split"], UNASSIGNED).unique().to_pylist())
    return LabelMaps(names), [split for split in splits if split in present]


def _cut(table: pa.Table, max_nucleotides: int | None) -> pa.Table:
    if max_nucleotides is None:
        return table
    cut = pc.utf8_slice_codeunits(table["dna_barcode"], 0, max_nucleotides)
    return table.set_column(table.column_names.index("dna_barcode"), "dna_barcode", cut)


def _stream(source: Source, split: str, maps: LabelMaps, max_nucleotides: int | None) -> IterableDataset:
    types = source.features.copy()
    types.update({f"{rank}_index": datasets.Value("int64") for rank in maps.columns})
    about = {"read": source.read, "about": source.about, "maps": maps, "max_nucleotides": max_nucleotides}
    return IterableDataset.from_generator(_rows, features=types, gen_kwargs={**about, "split": split})


def _rows(
    read: Callable[..., Iterator[pa.Table]],
    about: dict[str, Any],
    maps: LabelMaps,
    max_nucleotides: int | None,
    split: str,
) -> Iterator[dict[str, Any]]:
    for table in read(**about, splits=(split,)):
        table = _cut(table, max_nucleotides)
        for rank in maps.columns:
            table = table.append_column(f"{rank}_index", label_ids(table[rank], rank, maps))
        yield from table.to_pylist()


def _memory_map(source: Source, names: Sequence[str] | None, max_nucleotides: int | None) -> dict[str, Dataset]:
    """The splits that have rows, from Arrow files in the cache of `datasets`; missing ones are written first."""
    splits = names or (*source.splits, UNASSIGNED)
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in source.files]
    key = hashlib.sha256(repr((source.about, stats, max_nucleotides)).encode()).hexdigest()[:16]
    slug = re.sub(r"\W+", "-", source.name.lower())
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "bioscan_hf" / f"{slug}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [split for split in splits if not (folder / f"{split}.arrow").is_file()]
    if missing:
        parts = {split: folder / f"{split}.arrow.{os.getpid()}.part" for split in missing}
        try:
            _write(source, parts, max_nucleotides)
            for split, part in parts.items():
                os.replace(part, folder / f"{split}.arrow")
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
    loaded = {split: Dataset.from_file(str(folder / f"{split}.arrow")) for split in splits}
    return {split: data for split, data in loaded.items() if len(data)}


def _write(source: Source, files: Mapping[str, Path], max_nucleotides: int | None) -> None:
    schema = source.features.arrow_schema
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(pa.ipc.new_stream(stack.enter_context(open(file, "wb")), schema))
            for split, file in files.items()
        }
        for table in source.read(**source.about, splits=tuple(files)):
            table = pa.table(_cut(table, max_nucleotides).columns, schema=schema)
            splits = pc.fill_null(table["split"], UNASSIGNED)
            for split in splits.unique().to_pylist():
                writers[split].write_table(table.filter(pc.equal(splits, split)))


def _in_order(data: Dataset, folder: Path, name: str) -> Dataset:
    """The rows of a split in the order of its file NAME.txt."""
    if name == UNASSIGNED:
        return data
    ids = read_ids(folder / f"{name}.txt")
    have = data.select_columns("sampleid").with_format("arrow")[:]["sampleid"].combine_chunks()
    places = pc.index_in(ids, value_set=have)
    if places.null_count or len(places) != len(have):
        lost = ids.filter(pc.is_null(places)).to_pylist()
        what = f"{lost[0]!r} and {len(lost) - 1} more are not in the metadata" if lost else "it lacks specimens"
        raise ReleaseError(f"{folder / name}.txt does not fit the metadata: {what}. Are they of one release?")
    return data.select(places.to_numpy())


def refuse(problem: Problem) -> None:
    """Handles a problem of a table by raising it; these loaders leave nothing out."""
    raise ReleaseError(f"{problem}. Repair the file, or fetch it again.")


def to_columns(table: pa.Table, extra: Sequence[str]) -> pa.Table:
    """The columns of BIOSCAN-5M and then `extra`, with their types; null where the table has none."""
    schema = features("dna", extra).arrow_schema
    columns = [
        pc.cast(table[one.name], one.type) if one.name in table.column_names else pa.nulls(len(table), one.type)
        for one in schema
    ]
    return pa.table(columns, names=schema.names)


def read_ids(path: Path) -> pa.Array:
    """The lines of a file of ids."""
    try:
        ids = pa.array(path.read_text(encoding="utf-8").split(), pa.string())
    except OSError as error:
        raise FileNotFoundError(f"No list of specimens at {path} ({error.strerror}).") from error
    if len(ids) != len(ids.unique()):
        raise ReleaseError(f"{path} names a specimen twice.")
    return ids


class Values(NamedTuple):
    """A value for each id; the ids ascend.

    Attributes:
        ids: (m,) bytes.
        values: (m,) strings.
        where: The file or folder they are from.
    """

    ids: NDArray[np.bytes_]
    values: pa.Array
    where: Path


def values_by_id(ids: pa.ChunkedArray, values: pa.ChunkedArray, where: Path) -> Values:
    """Ids and their values, put in order for `lookup`; an id that occurs twice is a ReleaseError."""
    everything = ids_of(ids)
    order = np.argsort(everything, kind="stable")
    everything = everything[order]
    repeated = everything[1:][everything[1:] == everything[:-1]]
    if len(repeated) or not len(everything):
        what = f"names {repeated[0].decode()!r} twice" if len(repeated) else "names no specimen"
        raise ReleaseError(f"{where} {what}.")
    return Values(everything, values.combine_chunks().take(pa.array(order)), where)


def lookup(ids: pa.ChunkedArray, known: Values) -> pa.Array:
    """The value of each id.

    Raises:
        ReleaseError: naming an id that has none.
    """
    places, found = places_in(known.ids, ids_of(ids))
    if not found.all():
        lost = ids.filter(pa.array(~found)).to_pylist()
        raise ReleaseError(f"{known.where} knows nothing of {lost[0]!r} and {len(lost) - 1} more. Is it of this data?")
    return known.values.take(pa.array(places))


def check_splits(table: pa.Table, column: str, known: Sequence[str], path: Path) -> None:
    """Raises ReleaseError if the column of a table names a split that is not `known`; a cell may be empty."""
    unknown = [name for name in table[column].unique().drop_null().to_pylist() if name not in known]
    if unknown:
        raise ReleaseError(f"{path}: unknown split {unknown[0]!r} in {column!r}; allowed are {', '.join(known)}.")


def find_file(source: str | Path, places: Sequence[str]) -> Path:
    """`source` itself if it is a file, or the first of some places in a folder."""
    source = Path(source)
    found = next((path for path in (source, *(source / place for place in places)) if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"Nothing to read in {str(source)!r}: neither a file nor a folder that holds {' or '.join(places)}."
        )
    return found
