"""A folder of Parquet files as a source of `load_bioscan5m`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset

from ..labels import LabelMaps
from ..release.problems import ReleaseError
from ..release.rows import split_name
from ..schema import LABEL_COLUMNS, SPLITS, UNASSIGNED
from .layout import BY_COLUMN, check_shards, find_splits, incomplete, split_order
from .manifest import LABELS_FILE, MANIFEST_FILE, read_manifest, shard_names
from .parquet import as_text, check_files, clean_table, open_split, stream_split
from .request import Request

NO_LABELS = (
    "{source!r} has no {file}, and label ids are those of a whole release, not of the files at hand. Copy {file} from "
    "the dataset that the files are from, or name it by --labels (in Python labels=)."
)


@dataclass(frozen=True)
class SplitFiles:
    """Files of a split, and the cells of the column `split` that its rows have; none if all rows are of the split."""

    files: tuple[Path, ...]
    cells: tuple[str | None, ...] = ()


class ParquetFolder:
    """Parquet files in one of the layouts of `layout`, or a single file. Splits do not depend on each other."""

    kind = "parquet"

    def __init__(self, path: str | Path):
        path = Path(path)
        self.source = str(path)
        self.path = path.parent if path.is_file() else path
        self.names = [path.name] if path.is_file() else list(parquet_names(path))

    @cached_property
    def manifest(self) -> Mapping[str, Any] | None:
        """manifest.json of a build; None if there is none, or if one file was given."""
        path = self.path / MANIFEST_FILE
        return read_manifest(path) if path.is_file() and self.source == str(self.path) else None

    @property
    def built(self) -> bool:
        """Whether `build` has written the files: names and barcodes have one spelling."""
        return self.manifest is not None or (self.path / LABELS_FILE).is_file()

    def label_maps(self) -> LabelMaps:
        """The label ids in labels.json, or else rebuilt from a build that is whole; ValueError without either."""
        if (self.path / LABELS_FILE).is_file():
            return LabelMaps.load(self.path / LABELS_FILE)
        about = self.manifest
        # With some splits or problems, the release has names that are not in the files.
        if about and about["complete"] and not about.get("splits") and not about.get("problems"):
            shards = {name: entry for name, entry in about["shards"].items() if name.startswith("dna/")}
            if shards and all(_holds(self.path / name, entry) for name, entry in shards.items()):
                return _names_in([self.path / name for name in shards])
        raise ValueError(NO_LABELS.format(source=self.source, file=LABELS_FILE))

    def taxon_names(self, request: Request) -> LabelMaps:
        """Names that the rows can have: those of the label ids, or else of the files of the splits asked for."""
        try:
            return self.label_maps()
        except ValueError:
            chosen = self._chosen(request).values()
            return _names_in(list(dict.fromkeys(file for part in chosen for file in part.files)))

    def splits(self, config: str) -> dict[str, SplitFiles]:
        """Split -> files of a config, which may be incomplete; ValueError if the config is not there."""
        found = find_splits(self.names, config, self.source)
        if BY_COLUMN in found:
            return self._splits_by_column(found)
        expected = self._expected(config)
        names = {split: expected.get(split) or found[split] for split in {**expected, **found}}
        ordered = sorted(names, key=split_order)
        return {split: SplitFiles(tuple(self.path / name for name in names[split])) for split in ordered}

    def _expected(self, config: str) -> dict[str, list[str]]:
        """Split -> names of the shards that the manifest promises."""
        about = self.manifest or {}
        if config not in about.get("rows_per_shard", {}) or not about.get("rows"):
            return {}
        return shard_names(config, about["rows"], about["rows_per_shard"][config])

    def _splits_by_column(self, found: Mapping[str, Sequence[str]]) -> dict[str, SplitFiles]:
        """Splits by the column `split` of files whose names are not those of splits."""
        files = [self.path / name for name in found[BY_COLUMN]]
        if len(found) > 1:
            named = next(split for split in found if split != BY_COLUMN)
            raise ValueError(
                f"{self.source!r} holds {files[0].name}, whose name is not a split, beside files of {named}. Move it "
                f"elsewhere, or name it by its split, such as train-00001.parquet."
            )
        splits: dict[str, dict[str | None, None]] = {}
        for file, schema in zip(files, check_files(files), strict=True):
            cells: list[str | None] = [None]
            if "split" in schema.names:
                cells = as_text(pq.read_table(file, columns=["split"]), "split", file).unique().to_pylist()
            for cell in cells:
                name = split_name(cell or "") or UNASSIGNED
                if name not in (*SPLITS, UNASSIGNED):
                    raise ReleaseError(f"{file}: unknown split {cell!r} (BIOSCAN-5M has {', '.join(SPLITS)}).")
                splits.setdefault(name, {})[cell] = None
        if not splits:
            raise ReleaseError(f"{self.source!r} holds no rows.")
        whole = all("split" not in schema.names for schema in check_files(files))
        return {
            split: SplitFiles(tuple(files), () if whole else tuple(splits[split]))
            for split in sorted(splits, key=split_order)
        }

    def _check(self, config: str, split: str, files: Sequence[Path]) -> None:
        """Raises ValueError unless every shard of a split is there, whole."""
        if self.manifest is not None:
            entries = self.manifest.get("shards", {})
            broken = [file for file in files if not _holds(file, entries.get(self._name(file)))]
            if (broken or not entries) and not self.manifest["complete"]:
                raise ValueError(
                    f"The build in {self.source!r} is not complete: run `bioscan-hf build` again to go on."
                )
            if broken and broken[0].is_file():
                size, wanted = broken[0].stat().st_size, entries[self._name(broken[0])]["bytes"]
                raise ValueError(f"{broken[0]} has {size:,} bytes instead of {wanted:,}: copy or build it again.")
            if broken:
                held = len(files) - len(broken)
                raise ValueError(incomplete(self.source, held, len(files), config, split))
        check_shards([file.name for file in files], config, split, self.source)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _chosen(self, request: Request) -> dict[str, SplitFiles]:
        """The splits asked for, complete."""
        splits = self.splits(request.config)
        chosen = {split: splits[split] for split in request.choose(list(splits), self.source)}
        for split, part in chosen.items():
            self._check(request.config, split, part.files)
        return chosen

    def files(self, config: str, split: str | None = None) -> list[Path]:
        """Files of the splits asked for, complete. Files without the name of a split can also hold rows of others."""
        chosen = self._chosen(Request(config, split))
        return list(dict.fromkeys(file for part in chosen.values() for file in part.files))

    def _fit(self, request: Request, part: SplitFiles) -> Request:
        """The request for one split: photos only in configs with photos, and rows by the column `split`."""
        available = check_files(part.files)[0].names
        if request.config != "dna" and "image" not in available:
            raise ValueError(
                f"{self.source!r} has no photos (no column 'image'), so there is no config {request.config!r}: "
                f"use 'dna'."
            )
        if request.config == "dna" and request.columns is None and "image" in available:
            request = replace(request, columns=tuple(name for name in available if name != "image"))
        request = replace(request, clean=not self.built)
        return replace(request, taxon={**request.taxon, "split": part.cells}) if part.cells else request

    def open(self, request: Request) -> dict[str, Dataset]:
        """The chosen splits."""
        chosen = self._chosen(request)
        return {split: open_split(split, part.files, self._fit(request, part)) for split, part in chosen.items()}

    def stream(self, request: Request) -> dict[str, IterableDataset]:
        """A stream of each chosen split."""
        chosen = self._chosen(request)
        return {split: stream_split(split, part.files, self._fit(request, part)) for split, part in chosen.items()}


def parquet_names(folder: Path) -> Iterable[str]:
    """Parquet files of a folder, at most two folders deep, relative to it."""
    for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet"):
        for path in folder.glob(pattern):
            yield path.relative_to(folder).as_posix()


def _holds(file: Path, entry: Mapping[str, Any] | None) -> bool:
    """Whether a file is there, with the size of its entry in the manifest if it has one."""
    return file.is_file() and (entry is None or file.stat().st_size == entry["bytes"])


def _names_in(files: Sequence[Path]) -> LabelMaps:
    """The names in the label columns of some files."""
    names: dict[str, set[str]] = {}
    for file, schema in zip(files, check_files(files), strict=True):
        for column in [column for column in LABEL_COLUMNS if column in schema.names]:
            table = clean_table(pq.read_table(file, columns=[column]))
            names.setdefault(column, set()).update(table[column].unique().drop_null().to_pylist())
    return LabelMaps(names)
