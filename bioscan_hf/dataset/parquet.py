"""Opening and streaming Parquet files of splits, with the columns and taxa of a `Request`."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, IterableDataset, Value, concatenate_datasets
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub import HfFileSystem

from ..release.columns import value_type
from ..release.problems import ReleaseError
from ..release.rows import Changes, cleaning
from ..schema import COLUMNS, LABEL_COLUMNS, ROW_COLUMN
from .request import TEXT_ROWS, Request, Taxon, prepare_stream

#: Bytes of photos whose copy is told beforehand, and bytes that a disk is assumed to copy in a second.
LARGE_COPY, COPIED_PER_SECOND = 10**9, 150 * 10**6

_LOGGER = logging.getLogger(__name__)

_CLEANED = {*LABEL_COLUMNS, "taxon", "dna_barcode"}


def check_files(files: Sequence[str | Path]) -> list[pa.Schema]:
    """Schemas of Parquet files; ReleaseError if one cannot be read, or has other columns than the first."""
    schemas: list[pa.Schema] = []
    for file in files:
        try:
            schemas.append(pq.read_schema(file))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise unreadable(file, error) from error
        if repeated := [name for name in schemas[-1].names if schemas[-1].names.count(name) > 1]:
            raise ReleaseError(f"{file} has {len(repeated)} columns {repeated[0]!r}. Rename or remove one.")
        if other := set(schemas[-1].names) ^ set(schemas[0].names):
            raise ReleaseError(
                f"{files[0]} and {file} have different columns: only one has {min(other)!r}. Are they of one dataset?"
            )
    return schemas


@dataclass(frozen=True)
class _Plan:
    """How to read files of one schema, by the Parquet builder of `datasets`."""

    options: dict[str, Any]
    taxon: Taxon  # left to filter after reading: filters of Arrow know plain strings only, as they are

    @classmethod
    def of(cls, schema: pa.Schema, request: Request, columns: tuple[str, ...] | None) -> _Plan:
        request.check_columns(schema.names)
        for column in [*request.taxon, *request.maps.columns]:
            if column not in schema.names:
                raise ValueError(f"There is no column {column!r}; there are {', '.join(schema.names)}.")
        options: dict[str, Any] = {"features": _plain_features(schema)}
        late = request.clean or any(not pa.types.is_string(schema.field(one).type) for one in request.taxon)
        if request.taxon and not late:
            options["filters"] = request.filters
        if columns is None and ROW_COLUMN in schema.names:
            columns = tuple(name for name in schema.names if name != ROW_COLUMN)
        if columns is not None:
            options["columns"] = list(dict.fromkeys([*columns, *(request.taxon if late else ())]))
        return cls(options, request.taxon if late else {})

    def mask(self, table: pa.Table) -> np.ndarray:
        """(n,) whether each row has the names that are left to filter."""
        good = np.ones(len(table), dtype=bool)
        for column, names in self.taxon.items():
            good &= pc.is_in(table[column].cast(pa.string()), pa.array(names, pa.string())).to_numpy()
        return good


def _plain_features(schema: pa.Schema) -> Features | None:
    """Features with strings for all kinds of text, for published columns of text that hold numbers or dates, such as
    processids, and for empty columns, and images; None if the schema has these."""
    found = Features.from_arrow_schema(schema)
    plain = dict(found)
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_null(kind):  # no cell of the column has a value
            plain[field.name] = Value(value_type(field.name))
        elif pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or kind != field.type:
            plain[field.name] = Value("string")
        elif not pa.types.is_nested(kind) and field.name in COLUMNS and value_type(field.name) == "string":
            plain[field.name] = Value("string")
    if "image" in plain:
        plain["image"] = Image()
    return Features(plain) if plain != found else None


class _Parquet(Parquet):
    """The Parquet builder of `datasets`, which names a file that cannot be read."""

    def _generate_tables(self, files: Sequence[str], *groups: Any, **more: Any) -> Iterator[Any]:
        last = ""

        def told() -> Iterator[str]:
            nonlocal last
            for last in files:  # noqa: UP028 (the file that is being read)
                yield last

        try:
            for key, table in super()._generate_tables(told(), *groups, **more):
                table.validate(full=True)  # text that is not UTF-8 would fail where a row is read
                yield key, table
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and type(error) is not OSError:  # of the network
                raise
            raise unreadable(last, error) from error


def unreadable(file: str | Path, error: Exception) -> ReleaseError:
    """The error for a file that is damaged, or not Parquet."""
    return ReleaseError(
        f"{file} is not a readable Parquet file ({str(error)[:300]}). Copy, download or build it again."
    )


def _builder(split: str, paths: Sequence[str], stats: Sequence[Any], request: Request, **options: Any) -> Parquet:
    """The Parquet builder of `datasets`, for files as they are named: `load_dataset` would take "[" for a pattern."""
    files = DataFilesDict({split: DataFilesList(list(paths), list(stats))})
    return _Parquet(cache_dir=request.cache_dir, data_files=files, **options)


def open_split(split: str, files: Sequence[Path], request: Request) -> Dataset:
    """A split as memory-mapped Arrow files in the cache of `datasets`, which are written once.

    Photos are copied there only if "image" is among the columns, and then with all columns, so that they are copied
    once for all sets of columns; the caller selects the columns.

    Raises:
        ReleaseError: if a file cannot be read.
        ValueError: if a column is missing.
    """
    schema = check_files(files)[0]
    photos = "image" in (schema.names if request.columns is None else request.columns)
    plan = _Plan.of(schema, request, None if photos else request.columns)
    # The Hub's cache names a file by its content, so a new revision does not copy old shards again.
    paths = [os.path.realpath(file) for file in files]
    stats = [(os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    writing = {} if photos else {"writer_batch_size": TEXT_ROWS}
    builder = _builder(split, paths, stats, request, **plan.options, **writing)
    if photos and not os.path.isdir(builder.cache_dir):
        _tell_of_copy(split, sum(size for size, _ in stats), builder.cache_dir)
    try:
        builder.download_and_prepare(num_proc=request.num_proc)
    except DatasetGenerationError as error:
        raise error.__cause__ if isinstance(error.__cause__, ReleaseError) else error from error.__cause__
    if not builder.info.splits[split].num_examples:
        features = builder.info.features  # `as_dataset` refuses a split without rows
        return Dataset.from_dict({name: [] for name in features}, features=features)
    data = builder.as_dataset(split=split)
    if request.clean:
        data = _cleaned(data, paths[0])
    if not plan.taxon:
        return data
    return data.select(np.flatnonzero(plan.mask(data.select_columns(list(plan.taxon)).with_format("arrow")[:])))


def _tell_of_copy(split: str, size: int, folder: str) -> None:
    """Tells the disk space and the time that a copy of photos takes, if it takes long."""
    if size >= LARGE_COPY:
        minutes = size / COPIED_PER_SECOND / 60
        there = next(parent for parent in Path(folder).absolute().parents if parent.is_dir())
        _LOGGER.warning(
            "The photos of %s are copied once to %s: %.1f GB (%.1f GB are free), about %.0f minutes. `open_rows` and "
            "streaming read them without a copy.",
            *(split, folder, size / 1e9, shutil.disk_usage(there).free / 1e9, max(1, minutes)),
        )


def stream_split(split: str, files: Sequence[Path], request: Request) -> IterableDataset:
    """A stream of a split. Its shards are row groups, which the workers of a DataLoader share."""
    return _stream(split, [os.path.realpath(file) for file in files], check_files(files)[0], "local", request)


def stream_urls(
    split: str, urls: Sequence[str], request: Request, token: str | None, storage: Mapping[str, Any]
) -> IterableDataset:
    """The same for files on the Hub (hf://...), with options of its file system."""
    with HfFileSystem(token=token, **storage).open(urls[0]) as file:
        schema = pq.read_schema(file)
    return _stream(split, urls, schema, "hub", request, token=token, storage_options={"hf": dict(storage)})


def _stream(
    split: str, paths: Sequence[str], schema: pa.Schema, where: str, request: Request, **options: Any
) -> IterableDataset:
    plan = _Plan.of(schema, request, request.columns)
    builder = _builder(split, paths, [(where,)], request, **plan.options, **options)
    data = builder.as_streaming_dataset(split=split).reshard()
    if request.clean:
        data = data.with_format("arrow").map(clean_table, batched=True, features=data.features).with_format(None)
    if plan.taxon:
        chosen = data.with_format("arrow").map(
            lambda table: table.filter(pa.array(plan.mask(table))), batched=True, features=data.features
        )
        data = chosen.with_format(None)
    return prepare_stream(data, request.maps, request.max_nucleotides)


# ---- names and barcodes of files that `build` has not written ------------------------------------------------------


def clean_table(table: pa.Table, changes: Changes | None = None, file: str = "The dataset") -> pa.Table:
    """The table with names of taxa and barcodes in the one spelling that a release has.

    Raises ReleaseError if one of these columns of `file` does not hold text.
    """
    for i, name in enumerate(table.column_names):
        if name in _CLEANED:
            column = as_text(table, name, file)
            new = cleaning(name)(column)
            if changes is not None and new is not column:
                changes.add(name, column, new)
            table = table.set_column(i, name, new)
    return table


def as_text(table: pa.Table, name: str, file: str | Path) -> pa.ChunkedArray:
    """A column as text; ReleaseError for lists and other types without one."""
    try:
        return table[name].cast(pa.string())
    except pa.ArrowException:
        raise ReleaseError(f"{file}: the column {name!r} holds {table[name].type}, not text.") from None


def _cleaned(data: Dataset, file: str) -> Dataset:
    """The dataset with names and barcodes in one spelling. What is changed is told the first time."""
    names, changes = data.column_names, Changes()
    texts = [name for name in names if name in _CLEANED]
    if not texts:
        return data
    new = data.select_columns(texts).with_format("arrow")
    new = new.map(
        lambda table: clean_table(table, changes, file),
        batched=True,
        batch_size=TEXT_ROWS,
        writer_batch_size=TEXT_ROWS,
        features=Features({name: data.features[name] for name in texts}),
        new_fingerprint=hashlib.sha256(f"clean 1:{data._fingerprint}".encode()).hexdigest()[:16],
        desc="names and barcodes",
    )
    for problem in changes.problems(file):
        _LOGGER.warning("%s", problem)
    rest = data.remove_columns(texts)
    pieces = [piece for piece in (rest, new.with_format(None)) if piece.column_names]
    return concatenate_datasets(pieces, axis=1).select_columns(names)
