"""manifest.json of a build: its source and options, and the shards that are complete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from ..release.problems import Problem
from ..schema import CONFIGS, SPLITS, UNASSIGNED
from .problems import PROBLEMS_FILE

LABELS_FILE = "labels.json"
MANIFEST_FILE = "manifest.json"

#: Rows of one Parquet shard: about 500 MB at the published sizes of the photos, less for metadata.
ROWS_PER_SHARD = {
    "dna": 2_000_000,
    "cropped_256": 25_000,
    "original_256": 25_000,
    "cropped": 25_000,
    "original_full": 12_000,
}

#: Most shards of a build.
MOST_SHARDS = 1_000_000

_SHARD = re.compile(rf"({'|'.join(CONFIGS)})/({'|'.join((*SPLITS, UNASSIGNED))})-\d{{5,}}-of-\d{{5,}}\.parquet")
_PROBLEM = tuple(one.name for one in fields(Problem))
_FIELDS = {"complete": bool, "rows": dict, "shards": dict, "problems": list}


@dataclass
class Manifest:
    """The state of a build, and its file."""

    path: Path
    about: dict[str, Any]  # source and options; if they differ, it is another build
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)  # complete file -> rows, bytes, sha256
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # split -> rows, once the metadata is checked
    complete: bool = False
    replaced: tuple[str, ...] = ()  # files of another build in the folder that this one replaces

    @classmethod
    def open(cls, folder: Path, about: dict[str, Any], force: bool) -> Manifest:
        """The manifest of an interrupted build of the same source and options, or a new one.

        Raises FileExistsError if the folder holds anything else, unless `force`.
        """
        manifest = cls(folder / MANIFEST_FILE, about)
        if not manifest.path.is_file():
            others = sorted(path.name for path in folder.glob("[!.]*"))
            if others and not force:
                raise FileExistsError(
                    f"{str(folder)!r} holds something else ({others[0]!r}, ...). "
                    f"Give a new folder, or --force (in Python force=True) to write into this one."
                )
            return manifest
        old = read_manifest(manifest.path, _FIELDS)
        old.setdefault("encoding", "utf-8")  # earlier versions did not write it
        if different := [key for key in about if old.get(key) != about[key]]:
            if not force:
                raise FileExistsError(
                    f"{str(folder)!r} holds a build with another {' and '.join(different)}. "
                    f"Give a new folder, or --force (in Python force=True) to replace that build."
                )
            manifest.replaced = (*old["shards"], PROBLEMS_FILE, LABELS_FILE)
            return manifest
        manifest.complete, manifest.counts, manifest.shards = old["complete"], old["rows"], old["shards"]
        if manifest.has_metadata():  # otherwise the metadata is checked again
            manifest.problems = [Problem(**problem) for problem in old["problems"]]
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a build that is there."""
        old = read_manifest(folder / MANIFEST_FILE, {**_FIELDS, "rows_per_shard": dict})
        about = {key: value for key, value in old.items() if key not in _FIELDS}
        return cls.open(folder, about, force=False)

    def save(self) -> None:
        """Writes the file."""
        state = {"complete": self.complete, "rows": self.counts, "shards": self.shards}
        write_json(self.path, {**self.about, **state, "problems": [vars(problem) for problem in self.problems]})

    def holds(self, name: str) -> bool:
        """Whether a shard is complete: listed, and a file of the listed size."""
        file = self.path.parent / name
        return name in self.shards and file.is_file() and file.stat().st_size == self.shards[name]["bytes"]

    def names(self, config: str) -> dict[str, list[str]]:
        """Split -> names of the Parquet files of a config, relative to the folder."""
        return shard_names(config, self.counts, self.rows_per_shard(config))

    def rows_per_shard(self, config: str) -> int:
        """Rows of one shard of a config."""
        return int(self.about["rows_per_shard"].get(config, ROWS_PER_SHARD[config]))

    def files(self, config: str, splits: Sequence[str]) -> dict[str, list[Path]]:
        """Split -> its Parquet files of a config."""
        names = self.names(config)
        return {split: [self.path.parent / name for name in names[split]] for split in splits}

    def has_metadata(self) -> bool:
        """Whether every shard of the config `dna` and the label ids are written."""
        names = [name for split in self.names("dna").values() for name in split]
        return bool(names) and all(map(self.holds, names)) and (self.path.parent / LABELS_FILE).is_file()

    def is_whole(self) -> bool:
        """Whether the build is complete and every shard is still there."""
        return self.complete and all(map(self.holds, self.shards))


def read_manifest(path: str | Path, fields: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Content of a manifest.json, with the required fields, which may have been changed since it was written.

    Raises ValueError if it is not JSON, or one of its fields has another form than `build` writes.
    """
    content = read_json(path, {"complete": bool, **(fields or {})})
    for name, fits in _FORMS.items():
        if name in content and not fits(content[name]):
            raise ValueError(
                f"The field {name!r} of {str(path)!r} is damaged. Build the dataset again in a new folder."
            )
    rows, sizes = content.get("rows", {}), content.get("rows_per_shard", {})
    if sum(rows.values()) > MOST_SHARDS * min(sizes.values(), default=1):
        raise ValueError(f"{str(path)!r} tells of more than {MOST_SHARDS:,} shards. Build the dataset again.")
    return content


def _is_problem(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) == set(_PROBLEM)


def _are_counts(value: Any, names: Sequence[str], least: int) -> bool:
    return isinstance(value, dict) and all(
        name in names and type(count) is int and count >= least for name, count in value.items()
    )


def _is_shard(name: str, entry: Any) -> bool:
    kinds = {"rows": int, "bytes": int, "sha256": str}
    return (
        bool(_SHARD.fullmatch(name))
        and isinstance(entry, dict)
        and all(type(entry.get(key, kind())) is kind for key, kind in kinds.items())
        and "bytes" in entry
    )


#: Field -> whether a value has its form. Names of shards stay inside of the folder.
_FORMS: dict[str, Callable[[Any], bool]] = {
    "configs": lambda value: isinstance(value, list) and set(map(str, value)) <= set(CONFIGS),
    "source": lambda value: isinstance(value, dict) and isinstance(value.get("name"), str),
    "rows": lambda value: _are_counts(value, (*SPLITS, UNASSIGNED), 0),
    "rows_per_shard": lambda value: _are_counts(value, CONFIGS, 1),
    "shards": lambda value: isinstance(value, dict) and all(_is_shard(*one) for one in value.items()),
    "problems": lambda value: isinstance(value, list) and all(map(_is_problem, value)),
}


def shard_names(config: str, counts: Mapping[str, int], rows_per_shard: int) -> dict[str, list[str]]:
    """Split -> names of its Parquet files, relative to the dataset's folder."""
    names = {}
    for split, count in counts.items():
        n = -(-count // rows_per_shard)
        names[split] = [f"{config}/{split}-{i:05d}-of-{n:05d}.parquet" for i in range(n)]
    return names


def fingerprint(shards: Mapping[str, Mapping[str, Any]], config: str) -> str:
    """Twelve hexadecimal digits that identify the content of a config."""
    digests = [f"{name}:{shard['sha256']}" for name, shard in sorted(shards.items()) if name.startswith(f"{config}/")]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]
