"""Opening and streaming Parquet files of splits, with the columns and taxa of a `Request`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, load_dataset, load_dataset_builder

from .request import TEXT_ROWS, Request, prepare_stream

Files = Mapping[str, Sequence[Path]]


def _paths(files: Sequence[Path]) -> list[str]:
    # The Hub's cache names a file by its content, so a new revision does not copy old shards again.
    return [os.path.realpath(file) for file in files]


def _columns(files: Files, request: Request) -> list[str]:
    """All columns of the files, checked against the request."""
    available = pq.read_schema(next(iter(files.values()))[0]).names
    request.check_columns(available)
    return available


def open_files(files: Files, request: Request) -> dict[str, Dataset]:
    """The splits as memory-mapped Arrow files in the cache of `datasets`, which are written once.

    Each split has its own cache. Photos are copied there only if "image" is among the columns, and then with all
    columns, so that they are copied once for all sets of columns; the caller selects the columns.
    """
    available = _columns(files, request)
    options: dict[str, Any] = {"filters": request.filters} if request.filters else {}
    if "image" not in (available if request.columns is None else request.columns):
        options["writer_batch_size"] = TEXT_ROWS
        if request.columns is not None:
            options["columns"] = list(request.columns)
    return {split: _open(split, _paths(some), options) for split, some in files.items()}


def _open(split: str, paths: list[str], options: Mapping[str, Any]) -> Dataset:
    builder = load_dataset_builder("parquet", data_files={split: paths}, **options)
    builder.download_and_prepare()
    if builder.info.splits[split].num_examples:
        return builder.as_dataset(split=split)
    features = builder.info.features  # `as_dataset` refuses a split without rows
    return Dataset.from_dict({name: [] for name in features}, features=features)


def stream_files(files: Files, request: Request) -> dict[str, IterableDataset]:
    """A stream of each split. Its shards are row groups, which the workers of a DataLoader share."""
    _columns(files, request)
    options: dict[str, Any] = {} if request.columns is None else {"columns": list(request.columns)}
    if request.filters:
        options["filters"] = request.filters
    paths = {split: _paths(some) for split, some in files.items()}
    loaded = load_dataset("parquet", data_files=paths, streaming=True, **options)
    return {
        split: prepare_stream(part.reshard(), request.maps, request.max_nucleotides) for split, part in loaded.items()
    }
