"""Sources of BIOSCAN-5M: a dataset on the Hub, a folder of Parquet shards, or a release.

`resolve` decides once what a source is. Each kind opens or streams what a `Request` asks for: columns that are not
asked for are not read, and row groups whose statistics exclude the taxa are skipped.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from datasets import Dataset, IterableDataset, load_dataset

from ..files import read_json, replacing
from ..labels import LabelMaps
from ..schema import LABEL_COLUMNS, SPLITS, UNASSIGNED
from .manifest import LABELS_FILE, MANIFEST_FILE
from .parquet import open_files, stream_files
from .release_source import Release, cache_folder
from .request import Request, prepare_stream

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

    def label_maps(self, config: str = "dna") -> LabelMaps:
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
        return open_files(self._chosen(request), request)

    def stream(self, request: Request) -> dict[str, IterableDataset]:
        """A stream of each chosen split."""
        return stream_files(self._chosen(request), request)


def _split_of(file_name: str) -> str:
    return file_name.removesuffix(".parquet").split("-")[0]


def _shard_order(file_name: str) -> tuple[int, str]:
    order = (*SPLITS, UNASSIGNED)
    split = _split_of(file_name)
    return (order.index(split) if split in order else len(order), file_name)


# ---- the Hub -------------------------------------------------------------------------------------------------------


class HubDataset:
    """A dataset repository on the Hub that `publish` made. Only the chosen splits are downloaded."""

    kind = "hub"

    def __init__(self, name: str):
        self.name = name

    def _file(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.name, name, repo_type="dataset"))

    def label_maps(self, config: str = "dna") -> LabelMaps:
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
        return open_files({split: shards[split] for split in splits}, request)

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
        folder = cache_folder(config, f"{self.name}@{revision}:{columns}:{dict(request.taxon)}")
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
