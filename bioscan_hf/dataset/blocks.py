"""Loading of data sets that are read in blocks of rows, with the columns of BIOSCAN-5M.

The blocks are written to one Arrow file per split, in the cache of `datasets`, which is then memory-mapped; a stream
reads them while it is iterated. The loaders of BIOSCAN-1M, Canadian Invertebrates and CLIBD's HDF5 files use this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset

from ..files import delete_temporaries, locked, read_json, replacing, write_json
from ..labels import LabelMaps
from ..release.boxes import ids_of, places_in
from ..release.columns import features
from ..release.problems import Problem, ReleaseError
from ..release.tables import read_strings
from ..schema import COLUMNS, LABEL_COLUMNS, UNASSIGNED
from .manifest import LABELS_FILE
from .release_source import cache_folder, cached_labels, stats
from .request import (
    check_ranks,
    check_row_options,
    combine,
    cut_barcodes,
    prepare,
    prepare_table,
    present_splits,
    split_name,
    with_index_columns,
)

#: Names of BIOSCAN-5M -> names of CLIBD. If there are several, the first that a file has is used.
CLIBD_ALIASES = {
    "pretrain": ("no_split",),
    "train": ("train_seen", "seen_keys"),
    "val": ("val_seen",),
    "validation": ("val_seen",),
    "test": ("test_seen",),
    "key_unseen": ("unseen_keys", "test_unseen_keys"),
}

#: Rows in a block with photos.
PHOTO_ROWS = 256


@dataclass(frozen=True)
class BlockSource:
    """A data set that is read in blocks."""

    name: str  # for errors
    read: Callable[..., Iterator[pa.Table]]  # `read(**about, splits=...)` yields tables of the rows of these splits
    about: dict[str, Any]  # options of `read`, which must include "config"
    features: Features  # types of the columns
    splits: tuple[str, ...]
    files: tuple[Path, ...]  # that are read; if one changes, the cache is not used
    labels: tuple[str, ...] = LABEL_COLUMNS  # columns that can have label ids
    metasplits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> its splits
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # other name -> names here
    complete: bool = False  # whether every split has rows, and every row a split
    order: Path | None = None  # folder of files NAME.txt with the sampleids of a split or metasplit in its order
    whole: Mapping[str, Any] = field(default_factory=dict)  # options of `read` for label ids

    def alias(self, part: str) -> str:
        """The name of a split or metasplit here."""
        if part in self.splits or part in self.metasplits:
            return part
        return next((name for name in self.aliases.get(part, ()) if name in self.splits), part)

    def resolve_splits(self, split: str) -> tuple[str, ...]:
        """The splits in "a+b", each once; metasplits are expanded."""
        names: list[str] = []
        for part in split.split("+"):
            name = self.alias(part.strip())
            if name not in (*self.splits, *self.metasplits, UNASSIGNED):
                aliases = [alias for alias in self.aliases if self.alias(alias) != alias]
                raise ValueError(
                    f"Unknown split {part.strip()!r} in {split!r}. {self.name} has {', '.join(self.splits)}; "
                    f"{', '.join([*self.metasplits, *aliases])} are other names, and 'a+b' joins two."
                )
            expanded = (*self.splits, UNASSIGNED) if name == "all" else self.metasplits.get(name, (name,))
            names += [one for one in expanded if one not in names]
        return tuple(names)

    def scan(self) -> tuple[LabelMaps, list[str]]:
        """Label ids over all rows, and the splits that have rows. Photos are not read."""
        names: dict[str, set[str]] = {column: set() for column in self.labels}
        present: set[str] = set()
        splits = (*self.splits, UNASSIGNED)
        for table in self.read(**{**self.about, "config": "dna", **self.whole}, splits=splits):
            for column, known in names.items():
                known.update(table[column].unique().drop_null().to_pylist())
            present.update(pc.fill_null(table["split"], UNASSIGNED).unique().to_pylist())
        return LabelMaps(names), [split for split in splits if split in present]


def load(
    source: BlockSource,
    split: str | None,
    streaming: bool,
    ranks: Sequence[str] | None,
    max_nucleotides: int | None,
    unique_barcodes: bool,
) -> Any:
    """The result of `load_bioscan5m` for the same arguments, of a `source`."""
    split = split_name(split)
    names = None if split is None else source.resolve_splits(split)
    check_ranks(ranks, source.labels, source.name)
    check_row_options(max_nucleotides, unique_barcodes, streaming)
    # A metasplit with its own order: not "all", and not several joined by "+".
    whole = next((name for name in source.metasplits if name != "all" and name == (split or "").strip()), None)
    maps, present, labels = LabelMaps({}), list(source.splits), ""
    if ranks or (streaming and not source.complete):
        maps, present, labels = _scanned(source)
    maps = maps.select(ranks or ())
    parts: dict[str, Any]
    if streaming:
        parts = {name: _stream(source, name, maps, labels, max_nucleotides) for name in present}
    else:
        parts = _memory_map(source, names, max_nucleotides)
        parts = {name: prepare(data, maps, None) for name, data in parts.items()}
        if source.order is not None and whole is None:
            parts = {name: _in_order(data, source.order, name) for name, data in parts.items()}
    if names is not None and split is not None:
        asked = {source.alias(part.strip()) for part in split.split("+")} & set(names)
        parts = {name: parts[name] for name in present_splits(names, asked, parts, split, str(source.files[0]))}
    if source.order is not None and whole is not None and not streaming:
        parts = {whole: _in_order(combine(parts, whole, streaming=False, unique_barcodes=False), source.order, whole)}
    return combine(parts, split, streaming=streaming, unique_barcodes=unique_barcodes)


def _cache(source: BlockSource, *more: Any) -> Path:
    """Folder in the cache of `datasets` for what is made of the files as they are now."""
    slug = re.sub(r"\W+", "-", source.name.lower())
    return cache_folder(slug, repr((source.about, stats(source.files), *more)))


def _scanned(source: BlockSource) -> tuple[LabelMaps, list[str], str]:
    """The result of `scan`, kept in the cache, and the file of the label ids there."""
    folder = _cache(source, "scan")
    labels, splits = folder / LABELS_FILE, folder / "splits.json"
    with locked(folder, "scan", wait=True):
        if not splits.is_file():
            maps, present = source.scan()
            maps.save(labels)
            write_json(splits, {"splits": present})
    return LabelMaps.load(labels), read_json(splits, {"splits": list})["splits"], str(labels)


def _stream(
    source: BlockSource, split: str, maps: LabelMaps, labels: str, max_nucleotides: int | None
) -> IterableDataset:
    """A stream of one split. `datasets` hashes its arguments: the file of the label ids instead of their names."""
    about = {"read": source.read, "about": source.about, "labels": labels, "ranks": maps.columns}
    return IterableDataset.from_generator(
        _rows,
        features=with_index_columns(source.features, maps),
        gen_kwargs={**about, "max_nucleotides": max_nucleotides, "split": split},
    )


def _rows(
    read: Callable[..., Iterator[pa.Table]],
    about: dict[str, Any],
    labels: str,
    ranks: tuple[str, ...],
    max_nucleotides: int | None,
    split: str,
) -> Iterator[dict[str, Any]]:
    maps = cached_labels(labels, ranks) if ranks else LabelMaps({})
    for table in read(**about, splits=(split,)):
        yield from prepare_table(table, maps, max_nucleotides).to_pylist()


def _memory_map(source: BlockSource, names: Sequence[str] | None, max_nucleotides: int | None) -> dict[str, Dataset]:
    """The splits that have rows, from Arrow files in the cache of `datasets`. Missing files are written first."""
    splits = names or (*source.splits, UNASSIGNED)
    folder = _cache(source, max_nucleotides)
    files = {split: folder / f"{split}.arrow" for split in splits}
    with locked(folder, "load", wait=True):
        delete_temporaries(folder)
        if missing := {split: file for split, file in files.items() if not file.is_file()}:
            _write(source, missing, max_nucleotides)
    loaded = {split: Dataset.from_file(str(file)) for split, file in files.items()}
    return {split: data for split, data in loaded.items() if len(data)}


def _write(source: BlockSource, files: Mapping[str, Path], max_nucleotides: int | None) -> None:
    schema = source.features.arrow_schema
    with ExitStack() as stack:
        writers = {}
        for split, file in files.items():
            part = stack.enter_context(open(stack.enter_context(replacing(file)), "wb"))
            writers[split] = stack.enter_context(pa.ipc.new_stream(part, schema))
        for table in source.read(**source.about, splits=tuple(files)):
            table = pa.table(cut_barcodes(table, max_nucleotides).columns, schema=schema)
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
        what = f"{lost[0]!r} and {len(lost) - 1} more are not in the metadata" if lost else "specimens are missing"
        raise ReleaseError(f"{folder / name}.txt does not fit the metadata: {what}. Are they of one release?")
    return data.select(places.to_numpy())


# ---- reading -------------------------------------------------------------------------------------------------------


def refuse(problem: Problem) -> None:
    """Raises a problem of a table; these loaders leave nothing out."""
    raise ReleaseError(f"{problem}. Repair the file, or download it again.")


def read_tables(path: str | Path, required: Sequence[str], names: Mapping[str, str]) -> Iterator[pa.Table]:
    """Blocks of a CSV or TSV as strings, with columns renamed by `names`."""
    for _, table in read_strings(path, required, report=refuse):
        yield table.rename_columns([names.get(name, name) for name in table.column_names])


def in_splits(table: pa.Table, splits: Sequence[str]) -> pa.Table:
    """The rows whose `split` is one of `splits`; null counts as "unassigned"."""
    return table.filter(pc.is_in(pc.fill_null(table["split"], UNASSIGNED), pa.array(splits)))


def to_columns(table: pa.Table) -> pa.Table:
    """The columns of BIOSCAN-5M and then the others, with their types. Missing columns are null."""
    schema = features("dna", [name for name in table.column_names if name not in COLUMNS]).arrow_schema
    columns = [
        pc.cast(table[one.name], one.type) if one.name in table.column_names else pa.nulls(len(table), one.type)
        for one in schema
    ]
    return pa.table(columns, names=schema.names)


def add_photos(table: pa.Table, photos: Sequence[bytes]) -> pa.Table:
    """The table with the JPEG of each row as its first column, `image`, named by `image_file`."""
    files = table["image_file"].to_pylist()
    images = [{"bytes": data, "path": file} for data, file in zip(photos, files, strict=True)]
    return table.add_column(0, "image", pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})))


def find_file(source: str | Path, places: Sequence[str]) -> Path:
    """`source` itself if it is a file, or the first of some places in a folder that is one."""
    source = Path(source)
    found = next((path for path in (source, *(source / place for place in places)) if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"Nothing to read in {str(source)!r}: neither a file nor a folder that holds {' or '.join(places)}."
        )
    return found


def check_splits(splits: pa.ChunkedArray, known: Sequence[str], column: str, path: str | Path) -> None:
    """Raises ReleaseError if a column holds a split that is not `known`; a cell may be empty."""
    unknown = [name for name in splits.unique().drop_null().to_pylist() if name not in known]
    if unknown:
        raise ReleaseError(f"{path}: unknown split {unknown[0]!r} in {column!r}; allowed are {', '.join(known)}.")


def read_ids(path: Path) -> pa.Array:
    """The lines of a file of ids."""
    try:
        ids = pa.array(path.read_text(encoding="utf-8").split(), pa.string())
    except OSError as error:
        raise FileNotFoundError(f"No list of specimens at {path} ({error.strerror}).") from error
    if len(ids) != len(ids.unique()):
        raise ReleaseError(f"{path} names a specimen twice.")
    return ids


class Values:
    """A value for each id, of a file or folder `where`; ReleaseError if an id occurs twice, or there are none."""

    def __init__(self, ids: pa.ChunkedArray, values: pa.ChunkedArray, where: Path):
        everything = ids_of(ids)
        order = np.argsort(everything, kind="stable")
        self.ids, self.where = everything[order], where
        repeated = self.ids[1:][self.ids[1:] == self.ids[:-1]]
        if len(repeated) or not len(everything):
            what = f"names {repeated[0].decode()!r} twice" if len(repeated) else "does not name any specimen"
            raise ReleaseError(f"{where} {what}.")
        self.values = values.combine_chunks().take(pa.array(order))

    def of(self, ids: pa.ChunkedArray) -> pa.Array:
        """The value of each id; ReleaseError for an id without one."""
        places, found = places_in(self.ids, ids_of(ids))
        if not found.all():
            lost = ids.filter(pa.array(~found)).to_pylist()
            raise ReleaseError(f"{self.where} does not name {lost[0]!r} and {len(lost) - 1} more. Is it of this data?")
        return self.values.take(pa.array(places))
