"""A dataset on the Hub as a source of `load_bioscan5m`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from huggingface_hub import HfApi, HfFileSystem

from ..files import replacing
from ..labels import LabelMaps
from .card import CARD_FILE
from .hub_errors import explained
from .layout import BY_COLUMN, check_shards, find_splits
from .manifest import LABELS_FILE, MANIFEST_FILE, read_manifest
from .parquet import open_split, stream_urls
from .parquet_folder import NO_LABELS, parquet_names
from .release_source import cache_folder
from .request import Request

#: Bytes that are fetched beyond the requested range of a file on the Hub. The default, 5 MB, is mostly photos.
READ_AHEAD = 1 << 16


class HubDataset:
    """A Parquet dataset on the Hub ("user/name"). Labels and shards are those of one commit."""

    kind = "hub"

    def __init__(self, name: str, revision: str | None = None, token: str | None = None):
        self.name, self.revision, self.token = name, revision, token

    @cached_property
    def snapshot(self) -> Path:
        """Folder with the small files of the commit that `revision` is now. Offline, that of the last download."""
        folder = self._download([CARD_FILE, LABELS_FILE, MANIFEST_FILE], self.revision)
        if not _manifest(folder).get("complete", True):
            raise ValueError(f"The upload of {self.name!r} is not finished: `bioscan-hf publish` goes on with it.")
        return folder

    @property
    def commit(self) -> str:
        """The commit that everything is read from."""
        return self.snapshot.name

    def _download(self, names: list[str], revision: str | None) -> Path:
        """Folder in the cache of the Hub with the files `names` that exist."""
        from huggingface_hub import snapshot_download

        patterns = [escape(name) for name in names]
        with explained(self.name, self.token, revision=revision):
            folder = snapshot_download(
                self.name, repo_type="dataset", revision=revision, token=self.token, allow_patterns=patterns
            )
        return Path(folder)

    @cached_property
    def names(self) -> list[str]:
        """Parquet files of the commit; offline, those in the cache."""
        folder = self.snapshot
        try:
            with explained(self.name, self.token, revision=self.commit):
                found = HfApi(token=self.token).list_repo_files(self.name, repo_type="dataset", revision=self.commit)
        except ConnectionError:
            found = list(_manifest(folder).get("shards") or parquet_names(folder))
            if not found:
                raise
        if not any(name.endswith(".parquet") for name in found):
            raise ValueError(f"The dataset {self.name!r} has no Parquet files, so it cannot be loaded.")
        return found

    def label_maps(self) -> LabelMaps:
        """The label ids in labels.json; ValueError if the dataset has no such file."""
        if not (self.snapshot / LABELS_FILE).is_file():
            raise ValueError(NO_LABELS.format(source=self.name, file=LABELS_FILE))
        return LabelMaps.load(self.snapshot / LABELS_FILE)

    def taxon_names(self, request: Request) -> LabelMaps:
        """Names that the rows can have."""
        return self.label_maps()

    def _chosen(self, request: Request) -> dict[str, list[str]]:
        """Split -> names of its files, for the splits asked for."""
        found = find_splits(self.names, request.config, self.name)
        if BY_COLUMN in found:
            raise ValueError(
                f"{self.name!r} holds {found[BY_COLUMN][0]}, whose name does not tell its split. Download the dataset "
                f"and load the folder, which is read by its column 'split'."
            )
        chosen = {split: found[split] for split in request.choose(list(found), self.name)}
        for split, names in chosen.items():
            check_shards(names, request.config, split, self.name)
        return chosen

    def _folder(self, chosen: Mapping[str, list[str]]) -> Path:
        """A folder with the files of the splits."""
        names = [name for some in chosen.values() for name in some]
        folder = self._download(names, self.commit)
        if absent := [name for name in names if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{absent[0]} of {self.name} and {len(absent) - 1} more files are not in the cache: load it once with "
                f"a connection to the Hub."
            )
        return folder

    def files(self, config: str, split: str | None = None) -> list[Path]:
        """Files of the splits asked for, downloaded."""
        chosen = self._chosen(Request(config, split))
        folder = self._folder(chosen)
        return [folder / name for names in chosen.values() for name in names]

    @property
    def built(self) -> bool:
        """Whether `build` has written the files: names and barcodes have one spelling."""
        return any((self.snapshot / name).is_file() for name in (LABELS_FILE, MANIFEST_FILE))

    def open(self, request: Request) -> dict[str, Dataset]:
        """The chosen splits. Photos are downloaded only if they are among the columns."""
        request = replace(request, clean=not self.built)
        chosen = self._chosen(request)
        if request.config != "dna" and request.columns is not None and "image" not in request.columns:
            folder = self._read_columns(chosen, request)
        else:
            folder = self._folder(chosen)
        paths = {split: [folder / name for name in names] for split, names in chosen.items()}
        return {split: open_split(split, files, request) for split, files in paths.items()}

    def stream(self, request: Request) -> dict[str, IterableDataset]:
        """A stream of each chosen split."""
        request = replace(request, clean=not self.built)
        start, storage = f"hf://datasets/{self.name}@{self.commit}", {"block_size": READ_AHEAD}
        chosen = self._chosen(request)
        with explained(self.name, self.token):
            return {
                split: stream_urls(split, [f"{start}/{name}" for name in names], request, self.token, storage)
                for split, names in chosen.items()
            }

    def _read_columns(self, chosen: Mapping[str, list[str]], request: Request) -> Path:
        """A folder, in the cache of `datasets`, with the chosen columns and taxa of some splits."""
        columns = sorted({*(request.columns or ()), *request.taxon})
        files = HfFileSystem(token=self.token, block_size=READ_AHEAD)
        content = f"{self.name}@{self.commit}:{columns}:{dict(request.taxon)}"
        folder = cache_folder(request.config, content, request.cache_dir)
        for name in [name for names in chosen.values() for name in names]:
            if (folder / name).is_file():
                continue
            with explained(self.name, self.token), files.open(f"datasets/{self.name}@{self.commit}/{name}") as file:
                request.check_columns(pq.read_schema(file).names)
                filters = None if request.clean else request.filters
                table = pq.read_table(file, columns=columns, filters=filters)
            with replacing(folder / name) as part:
                pq.write_table(table, part)
        return folder


def _manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a build; empty without it."""
    path = folder / MANIFEST_FILE
    return read_manifest(path) if path.is_file() else {}
