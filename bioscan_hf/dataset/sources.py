"""Sources of BIOSCAN-5M: a dataset on the Hub, a folder of Parquet files, or a release.

`resolve` decides once what a source is. Each kind opens or streams what a `Request` asks for: columns that are not
asked for are not read, and row groups whose statistics exclude the taxa are skipped.
"""

from __future__ import annotations

from pathlib import Path

from ..files import is_missing_path
from ..labels import LabelMaps
from ..release.layout import find_metadata
from ..schema import CONFIGS
from .hub_dataset import HubDataset
from .parquet_folder import ParquetFolder, parquet_names
from .release_source import Release


def resolve(
    source: str | Path, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> HubDataset | ParquetFolder | Release:
    """The source behind a Hub id, a folder or a file.

    A folder with Parquet files in folders of configs, such as dna/, is one of Parquet even if it has metadata too.
    What is built from a release goes to `cache_dir`, by default the cache of `datasets`.

    Raises:
        FileNotFoundError: if it is none of these.
        ValueError: if it is a file of another kind, or has no revisions.
    """
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise ValueError(f"{str(source)!r} is on this machine, so it has no revision {revision!r}.")
        return _local(path, cache_dir)
    named = isinstance(source, str) and source.count("/") == 1 and source[0] not in "./~"
    if named and (revision is not None or not is_missing_path(str(source))):
        return HubDataset(str(source), revision, token)
    raise FileNotFoundError(
        f"There is nothing at {str(source)!r}. Give a Hub id (user/name), a folder of Parquet shards, the folder of a "
        f"release, or its metadata CSV."
    )


def _local(path: Path, cache_dir: str | None) -> ParquetFolder | Release:
    if path.is_file():
        return ParquetFolder(path) if path.suffix == ".parquet" else Release(path, cache_dir)
    names = list(parquet_names(path))
    if any(name.split("/")[0] in CONFIGS for name in names):
        return ParquetFolder(path)
    try:
        find_metadata(path)
    except FileNotFoundError:
        if names:
            return ParquetFolder(path)
    return Release(path, cache_dir)


def source_kind(source: str | Path) -> str:
    """Kind of a source: "parquet" (a folder), "release" (folder or metadata), or "hub"; errors as of `resolve`."""
    return resolve(source).kind


def load_label_maps(source: str | Path, *, revision: str | None = None, token: str | None = None) -> LabelMaps:
    """The label ids of a release, from any source that `load_bioscan5m` takes.

    Raises:
        ValueError: if the source is a part of a release that has no labels.json.
    """
    return resolve(source, revision, token).label_maps()
