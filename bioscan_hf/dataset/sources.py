"""Sources of BIOSCAN-5M: a dataset on the Hub, a folder of Parquet shards, or a release.

`resolve` decides once what a source is. Each kind opens or streams what a `Request` asks for: columns that are not
asked for are not read, and row groups whose statistics exclude the taxa are skipped.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, Features, IterableDataset, load_dataset, load_dataset_builder

from ..files import locked, read_json, replacing
from ..labels import LabelMaps
from ..release.check import Scan, extra_columns, read_typed, scan
from ..release.columns import features
from ..release.layout import find_boxes, find_metadata, photo_root
from ..release.photos import Photos
from ..schema import LABEL_COLUMNS, SPLITS, UNASSIGNED
from .build import build
from .manifest import LABELS_FILE, MANIFEST_FILE
from .request import TEXT_ROWS, Request, prepare_stream, prepare_table, with_index_columns

#: Bytes that are fetched beyond the requested range of a file on the Hub. The default, 5 MB, is mostly photos.
READ_AHEAD = 1 << 16


def resolve(source: str | Path) -> HubDataset | ParquetFolder | Release:
    """The source behind a Hub id, a folder or a file.

    Raises:
        FileNotFoundError: if it is none of these.
        ValueError: if it is a file of another kind.
    """
    path = Path(source)
    if path.is_dir() and any(path.glob("*/*.parquet")):
        return ParquetFolder(path)
    if path.exists():
        return Release(source)
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith("."):
        return HubDataset(source)
    raise FileNotFoundError(
        f"There is nothing at {str(source)!r}. Give a Hub id (user/name), a folder of Parquet shards, the folder of a "
        f"release, or its metadata CSV."
    )


def source_kind(source: str | Path) -> str:
    """Kind of a source: "parquet" (a folder), "release" (folder or metadata), or "hub".

    Raises:
        FileNotFoundError, ValueError: as `resolve`.
    """
    return resolve(source).kind


def load_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of a release, from any source that `load_bioscan5m` takes."""
    return resolve(source).label_maps("dna")


# ---- a folder of Parquet -------------------------------------------------------------------------------------------


class ParquetFolder:
    """A folder of Parquet shards, CONFIG/SPLIT-*.parquet, such as `build` writes."""

    kind = "parquet"

    def __init__(self, path: Path):
        self.path = path

    def label_maps(self, config: str, streaming: bool = False) -> LabelMaps:
        """The label ids in labels.json; without that file, of the names in all shards."""
        if (self.path / LABELS_FILE).is_file():
            return LabelMaps.load(self.path / LABELS_FILE)
        names: dict[str, set[str]] = {column: set() for column in LABEL_COLUMNS}
        for file in sorted(self.path.glob("*/*.parquet")):
            for column, values in zip(LABEL_COLUMNS, pq.read_table(file, columns=list(LABEL_COLUMNS)), strict=True):
                names[column].update(values.unique().drop_null().to_pylist())
        return LabelMaps(names)

    def shards(self, config: str) -> dict[str, list[Path]]:
        """Split -> files of a config, both in the order of the build.

        Raises:
            ValueError: if the build is not complete, a shard is missing, or the config is not there.
        """
        folder, manifest = self.path, self.path / MANIFEST_FILE
        if manifest.is_file() and not read_json(manifest, {"complete": bool})["complete"]:
            raise ValueError(f"The build in {str(folder)!r} is not complete: run `bioscan-hf build` again to go on.")
        shards: dict[str, list[Path]] = {}
        for file in sorted((folder / config).glob("*.parquet"), key=lambda file: _shard_order(file.name)):
            shards.setdefault(_split_of(file.name), []).append(file)
        if not shards:
            built = sorted(path.name for path in folder.iterdir() if any(path.glob("*.parquet")))
            raise ValueError(f"{str(folder)!r} has no config {config!r}; it has {', '.join(built)}.")
        for split, files in shards.items():
            of = re.search(r"-of-(\d+)\.parquet$", files[0].name)
            if of and len(files) != int(of[1]):
                raise ValueError(
                    f"{str(folder)!r} holds {len(files)} of the {int(of[1])} shards of {config}/{split}: "
                    f"copy or build the others."
                )
        return shards

    def _chosen(self, request: Request) -> dict[str, list[Path]]:
        shards = self.shards(request.config)
        return {split: shards[split] for split in request.choose(list(shards), str(self.path))}

    def open(self, request: Request) -> dict[str, Dataset]:
        """The chosen splits."""
        return _open(self._chosen(request), request)

    def stream(self, request: Request) -> dict[str, IterableDataset]:
        """A stream of each chosen split."""
        paths, options, _ = _parquet_options(self._chosen(request), request)
        loaded = load_dataset("parquet", data_files=paths, streaming=True, **options)
        return {split: prepare_stream(part, request.maps, request.max_nucleotides) for split, part in loaded.items()}


def _split_of(file_name: str) -> str:
    return file_name.removesuffix(".parquet").split("-")[0]


def _shard_order(file_name: str) -> tuple[int, str]:
    order = (*SPLITS, UNASSIGNED)
    split = _split_of(file_name)
    return (order.index(split) if split in order else len(order), file_name)


def _parquet_options(
    files: Mapping[str, list[Path]], request: Request
) -> tuple[dict[str, list[str]], dict[str, Any], bool]:
    """Paths and options for the Parquet builder of `datasets`, and whether photos are read."""
    available = pq.read_schema(next(iter(files.values()))[0]).names
    request.check_columns(available)
    options: dict[str, Any] = {} if request.columns is None else {"columns": list(request.columns)}
    if request.filters:
        options["filters"] = request.filters
    # The Hub's cache names a file by its content, so a new revision does not copy old shards again.
    paths = {split: [os.path.realpath(file) for file in some] for split, some in files.items()}
    return paths, options, "image" in (available if request.columns is None else request.columns)


def _open(files: Mapping[str, list[Path]], request: Request) -> dict[str, Dataset]:
    paths, options, with_photos = _parquet_options(files, request)
    if not with_photos:
        options["writer_batch_size"] = TEXT_ROWS
    builder = load_dataset_builder("parquet", data_files=paths, **options)
    builder.download_and_prepare()
    features = builder.info.features
    return {
        split: builder.as_dataset(split=split)
        if builder.info.splits[split].num_examples
        # `as_dataset` refuses a split without rows.
        else Dataset.from_dict({name: [] for name in features}, features=features)
        for split in paths
    }


def _cache_folder(config: str, content: str) -> Path:
    """Folder for a config in the cache of `datasets`, named by a hash of `content`."""
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Path(datasets.config.HF_DATASETS_CACHE) / "bioscan_hf" / f"{config}-{key}"


# ---- the Hub -------------------------------------------------------------------------------------------------------


class HubDataset:
    """A dataset repository on the Hub that `publish` made. Only the chosen splits are downloaded."""

    kind = "hub"

    def __init__(self, name: str):
        self.name = name

    def _file(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.name, name, repo_type="dataset"))

    def label_maps(self, config: str, streaming: bool = False) -> LabelMaps:
        """The label ids in labels.json."""
        return LabelMaps.load(self._file(LABELS_FILE))

    def open(self, request: Request) -> dict[str, Dataset]:
        """The chosen splits. Photos are downloaded only if they are among the columns."""
        from huggingface_hub import snapshot_download

        card = self._file("README.md").read_text(encoding="utf-8")
        configs = {entry["config_name"]: entry for entry in yaml.safe_load(card.split("---")[1])["configs"]}
        if request.config not in configs:
            raise ValueError(f"{self.name!r} has no config {request.config!r}; it has {', '.join(configs)}.")
        splits = request.choose([entry["split"] for entry in configs[request.config]["data_files"]], self.name)
        if request.config != "dna" and request.columns is not None and "image" not in request.columns:
            folder = self._read_columns(splits, request)
        else:
            patterns = [f"{request.config}/{split}-*.parquet" for split in splits]
            folder = Path(snapshot_download(self.name, repo_type="dataset", allow_patterns=patterns))
        shards = ParquetFolder(folder).shards(request.config)
        return _open({split: shards[split] for split in splits}, request)

    def stream(self, request: Request) -> dict[str, IterableDataset]:
        """A stream of each chosen split."""
        options: dict[str, Any] = {"storage_options": {"hf": {"block_size": READ_AHEAD}}}
        if request.filters:
            options["filters"] = request.filters
        loaded = load_dataset(self.name, request.config, streaming=True, **options)
        if request.columns is not None:
            request.check_columns(list(next(iter(loaded.values())).features))
            columns = list(request.columns)
            loaded = load_dataset(self.name, request.config, streaming=True, columns=columns, **options)
        return {
            split: prepare_stream(loaded[split], request.maps, request.max_nucleotides)
            for split in request.choose(list(loaded), self.name)
        }

    def _read_columns(self, splits: list[str], request: Request) -> Path:
        """A folder, in the cache of `datasets`, with the chosen columns and taxa of some splits."""
        from huggingface_hub import HfApi, HfFileSystem

        config, columns = request.config, sorted({*(request.columns or ()), *request.taxon})
        revision = HfApi().dataset_info(self.name).sha
        files = HfFileSystem(block_size=READ_AHEAD)
        folder = _cache_folder(config, f"{self.name}@{revision}:{columns}:{dict(request.taxon)}")
        for split in splits:
            for remote in files.glob(f"datasets/{self.name}@{revision}/{config}/{split}-*.parquet"):
                local = folder / config / Path(remote).name
                if local.is_file():
                    continue
                with files.open(remote) as file:
                    request.check_columns(pq.read_schema(file).names)
                    table = pq.read_table(file, columns=columns, filters=request.filters)
                with replacing(local) as part:
                    pq.write_table(table, part)
        return folder


# ---- a release -----------------------------------------------------------------------------------------------------


class Release:
    """A release folder or metadata file, built to Parquet in the cache of `datasets`, or streamed as it is."""

    kind = "release"

    def __init__(self, source: str | Path):
        self.source = str(source)
        self.metadata = find_metadata(source)
        self.photo_root = photo_root(source)

    @cached_property
    def scanned(self) -> Scan:
        """Splits, labels and rows to leave out, by one pass over the metadata."""
        return scan(self.metadata, unassigned=True)

    def label_maps(self, config: str, streaming: bool = False) -> LabelMaps:
        """The label ids of all rows, from the build of `config` unless streamed."""
        return self.scanned.labels if streaming else self.built(config).label_maps(config)

    def built(self, config: str) -> ParquetFolder:
        """The cached build of a config. If several processes ask at once, one builds it."""
        metadata = self.metadata.resolve()
        read = [metadata, *filter(None, [find_boxes(metadata)])]
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in read]
        folder = _cache_folder(config, f"{stats}:{config}")
        with locked(folder.parent, "build", wait=True, name=f"{folder.name}.lock"):
            build(self.source, folder, [config], unassigned=True)
        return ParquetFolder(folder)

    def open(self, request: Request) -> dict[str, Dataset]:
        """The chosen splits, from the build."""
        files = self.built(request.config).shards(request.config)
        return _open({split: files[split] for split in request.choose(list(files), self.source)}, request)

    def stream(self, request: Request) -> dict[str, IterableDataset]:
        """A stream of each chosen split, read from the release as it is."""
        types = self.features(request.config)
        request.check_columns(types)
        if request.columns is not None:
            types = Features({name: kind for name, kind in types.items() if name in request.columns})
        about = {"columns": tuple(types), "request": request, "source": self}
        types = with_index_columns(types, request.maps)
        return {
            split: IterableDataset.from_generator(_rows, features=types, gen_kwargs={**about, "split": split})
            for split in request.choose(list(self.scanned.counts), self.source)
        }

    def features(self, config: str) -> Features:
        """Types of the columns of a config."""
        return features(config, extra_columns(self.metadata))

    def rows(self, config: str, split: str) -> Iterator[dict[str, Any]]:
        """Rows of one split as dicts; a photo is `{"bytes": ..., "path": ...}`."""
        return _rows(self, tuple(self.features(config)), Request(config), split)


def _rows(source: Release, columns: tuple[str, ...], request: Request, split: str) -> Iterator[dict[str, Any]]:
    """Rows of one split. Only the photos of these rows are read."""
    photos = Photos(source.photo_root, request.config) if "image" in columns else None
    if photos is not None:
        photos.check((split,))
    values = [column for column in columns if column != "image"]
    for _, table in read_typed(source.metadata, source.scanned):
        table = table.filter(pc.equal(pc.fill_null(table["split"], UNASSIGNED), split))
        for rank, names in request.taxon.items():
            table = table.filter(pc.is_in(table[rank], pa.array(names, pa.string())))
        rows = prepare_table(table.select(values), request.maps, request.max_nucleotides).to_pylist()
        for processid, row in zip(table["processid"].to_pylist(), rows, strict=True):
            if photos is not None:
                row["image"] = {"bytes": photos.read(processid, split), "path": f"{processid}.jpg"}
            yield row
    if photos is not None:
        photos.close()
