"""A release as a source of `load_bioscan5m`.

Its metadata are built to Parquet once, in the cache of `datasets`. Photos are added to that build split by split, or,
for a stream, read from the release as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, IterableDataset

from ..files import locked
from ..labels import LabelMaps
from ..release.check import extra_columns
from ..release.columns import features
from ..release.layout import find_boxes, find_metadata, photo_root
from ..release.photos import Photos
from ..schema import ROW_COLUMN
from .build import add_photos, build
from .manifest import LABELS_FILE, Manifest
from .parquet import open_split, stream_split
from .request import Request, prepare_table, with_index_columns

#: Rows of one shard of a stream with photos.
STREAM_ROWS = 1_000

#: Changes when builds in the cache must be made anew.
_VERSION = "release 3"


def cache_folder(config: str, content: str, cache_dir: str | None = None) -> Path:
    """Folder for a config in a cache, by default that of `datasets`, named by a hash of `content`."""
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "bioscan_hf" / f"{config}-{key}"


def stats(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of files."""
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


class Release:
    """A release folder or metadata file. Instances are small and picklable: they name files, and hold no rows."""

    kind = "release"

    def __init__(self, source: str | Path, cache_dir: str | None = None):
        self.source, self.cache_dir = str(source), cache_dir
        self.metadata = find_metadata(source)
        self.photo_root = photo_root(source)

    def built(self) -> Manifest:
        """The cached build of the metadata. If several processes ask at once, one builds it."""
        boxes = find_boxes(self.metadata)
        read = [self.metadata, *([] if boxes is None else [boxes])]
        folder = cache_folder("release", f"{_VERSION}{stats(read)}", self.cache_dir)
        with locked(folder.parent, "build", wait=True, name=f"{folder.name}.lock"):
            return build(self.source, folder, ["dna"], unassigned=True)

    def label_maps(self) -> LabelMaps:
        """The label ids of all rows."""
        return cached_labels(str(self.built().path.with_name(LABELS_FILE)))

    def taxon_names(self, request: Request) -> LabelMaps:
        """Names that the rows can have."""
        return self.label_maps()

    def features(self, config: str) -> Features:
        """Types of the columns of a config."""
        return features(config, extra_columns(self.metadata))

    def _chosen(self, request: Request) -> tuple[Manifest, list[str], list[str]]:
        """The build, the chosen splits and the chosen columns."""
        available = list(self.features(request.config))
        request.check_columns([*available, ROW_COLUMN])
        if request.config != "dna":
            Photos(self.photo_root, request.config).close()  # raises if there are none
        built = self.built()
        columns = [name for name in available if request.columns is None or name in request.columns]
        return built, request.choose(list(built.counts), self.source), columns

    def open(self, request: Request) -> dict[str, Dataset]:
        """The chosen splits. Photos of other splits are not needed; they are read only if a column asks for them."""
        return {split: open_split(split, files, request) for split, files in self._built_files(request).items()}

    def files(self, config: str, split: str | None = None) -> list[Path]:
        """Files of the splits asked for, in the cached build."""
        return [file for files in self._built_files(Request(config, split)).values() for file in files]

    def _built_files(self, request: Request) -> Mapping[str, Sequence[Path]]:
        """Split -> its files in the cached build, to which photos are added if a column asks for them."""
        built, splits, columns = self._chosen(request)
        if "image" not in columns:
            return built.files("dna", splits)
        folder = built.path.parent
        with locked(folder.parent, "build", wait=True, name=f"{folder.name}.lock"):
            built = add_photos(folder, self.photo_root, request.config, splits, request.num_proc or 1)
        return built.files(request.config, splits)

    def stream(self, request: Request) -> dict[str, IterableDataset]:
        """A stream of each chosen split: row groups of the cached metadata, and photos from the release."""
        built, splits, columns = self._chosen(request)
        files = built.files("dna", splits)
        if "image" not in columns:
            return {split: stream_split(split, some, request) for split, some in files.items()}
        photos = _PhotosOf(self, request.config, splits)
        about = {
            "photos": photos,
            "columns": tuple(columns),
            "taxon": tuple(request.taxon.items()),
            "labels": str(built.path.with_name(LABELS_FILE)),
            "ranks": request.maps.columns,
            "max_nucleotides": request.max_nucleotides,
        }
        types = self.features(request.config)
        types = with_index_columns(Features({name: types[name] for name in columns}), request.maps)
        return {
            split: IterableDataset.from_generator(
                _rows, features=types, gen_kwargs={**about, "split": split, "pieces": _pieces(some)}
            )
            for split, some in files.items()
        }

    def splits(self) -> list[str]:
        """Splits that have rows."""
        return list(self.built().counts)

    def rows(self, config: str, split: str) -> Iterator[dict[str, Any]]:
        """Rows of one split as dicts; a photo is `{"bytes": ..., "path": ...}`."""
        [files] = self.built().files("dna", [split]).values()
        photos = None if config == "dna" else _PhotosOf(self, config, [split])
        yield from _rows(_pieces(files), photos, tuple(self.features(config)), split)


class _PhotosOf:
    """Photos of a config of a release, for other processes to open. The index of the zips is made once, and cached."""

    def __init__(self, source: Release, config: str, splits: Sequence[str]):
        photos = Photos(source.photo_root, config, splits=splits)
        photos.check(splits)
        self.root, self.config, self.splits = source.photo_root, config, tuple(splits)
        self.index = cache_folder("zip-index", f"{_VERSION}{stats(photos.zips)}", source.cache_dir)
        if photos.zips:
            with locked(self.index.parent, "index", wait=True, name=f"{self.index.name}.lock"):
                photos = self.open()
                photos.open()
                photos.close()

    def open(self) -> Photos:
        return Photos(self.root, self.config, self.index, self.splits)


_Piece = tuple[str, int, int, int]  # file, row group, its first row here, and the row after the last


def _pieces(files: Sequence[Path]) -> list[_Piece]:
    """Parts of at most `STREAM_ROWS` rows of Parquet files: the shards of a stream."""
    pieces: list[_Piece] = []
    for path in files:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            pieces += [
                (str(path), group, start, min(start + STREAM_ROWS, rows)) for start in range(0, rows, STREAM_ROWS)
            ]
    return pieces


@lru_cache(maxsize=1)
def _row_group(path: str, group: int, columns: tuple[str, ...]) -> pa.Table:
    """A row group. The last one is kept, since a stream reads it piece after piece."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=list(columns))


@lru_cache(maxsize=2)
def cached_labels(path: str, ranks: tuple[str, ...] | None = None) -> LabelMaps:
    """Label ids of a file, of some ranks or of all. The last ones are kept, since streams open them shard by shard."""
    maps = LabelMaps.load(path)
    return maps if ranks is None else maps.select(ranks)


def _rows(
    pieces: list[_Piece],
    photos: _PhotosOf | None,
    columns: tuple[str, ...],
    split: str,
    labels: str = "",
    ranks: tuple[str, ...] = (),
    taxon: Sequence[tuple[str, tuple[str, ...]]] = (),
    max_nucleotides: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of some pieces of one split, and the photos of these rows."""
    values = [column for column in columns if column != "image"]
    needed = tuple(dict.fromkeys([*values, "processid", *ranks, *(rank for rank, _ in taxon)]))
    maps = cached_labels(labels, ranks) if ranks else LabelMaps({})
    opened = None if photos is None else photos.open()
    try:
        for path, group, start, end in pieces:
            table = _row_group(path, group, needed).slice(start, end - start)
            for rank, names in taxon:
                table = table.filter(pc.is_in(table[rank], pa.array(names, pa.string())))
            indexed = prepare_table(table, maps, max_nucleotides)
            rows = indexed.select([*values, *(f"{rank}_index" for rank in ranks)]).to_pylist()
            for processid, row in zip(table["processid"].to_pylist(), rows, strict=True):
                if opened is not None:
                    row["image"] = {"bytes": opened.read(processid, split), "path": f"{processid}.jpg"}
                yield row
    finally:
        if opened is not None:
            opened.close()
