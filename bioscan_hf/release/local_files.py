"""Checks the published files in a folder against their sizes and digests, without the network."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from ..progress import Progress, silent
from .catalogue import CSV_CHECKSUM, METADATA_CSV, PROJECT, SAMPLE_PHOTOS, Checksum, Need, PublishedFile, needs
from .layout import photo_folder

#: File in the release folder that keeps digests computed here and checksums reported by the Hub.
CHECKED_FILE = ".bioscan_hf_checked.json"

USABLE = ("right", "unpacked", "unverified")


@dataclass(frozen=True)
class FileState:
    """State of one published file in a folder."""

    name: str
    state: str  # "right" (checksum as published), "unpacked", "unverified", "partial", "damaged" or "missing"
    size: int  # bytes present
    detail: str
    fetched: int = 0  # bytes transferred by this download

    @property
    def usable(self) -> bool:
        """Whether the file is present and no fault is known."""
        return self.state in USABLE

    def __str__(self) -> str:
        return f"{self.name}: {self.state}" + (f" ({self.detail})" if self.detail else "")


class Checked:
    """Digests computed here and checksums reported by the Hub, in `CHECKED_FILE` of the release folder.

    New ones are written to it if `keep`; digests of earlier runs are ignored if `reread`. Raises ValueError if the
    file is damaged.
    """

    def __init__(self, root: str | Path, keep: bool, reread: bool = False):
        self.root, self.keep = Path(root), keep
        self._content: dict[str, dict[str, Any]] = {"digests": {}, "hub": {}}
        path = self.root / CHECKED_FILE
        if path.is_file():
            try:
                self._content = read_json(path, {"digests": dict, "hub": dict})
            except ValueError as error:
                raise ValueError(f"{error} Delete the file; the digests are computed again.") from None
        if reread:
            self._content["digests"] = {}

    def _save(self) -> None:
        if self.keep and os.access(self.root, os.W_OK):  # a read-only shared folder is checked each time
            write_json(self.root / CHECKED_FILE, self._content)

    def add_hub_checksum(self, name: str, checksum: Checksum) -> None:
        """Keeps what the Hub reported at the file's own revision."""
        self._content["hub"][name] = asdict(checksum)
        self._save()

    def with_hub_checksum(self, file: PublishedFile) -> PublishedFile:
        """`file` with the sha256 that the Hub reported at its own revision, if an earlier download asked for it."""
        reported = self._content["hub"].get(file.name)
        return file if reported is None else replace(file, checksums=(*file.checksums, Checksum(**reported)))

    def digest(self, path: Path, name: str, algorithm: str, progress: Progress) -> str:
        """Digest of a file; an earlier one if size and modification time are unchanged."""
        about = {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
        known = self._content["digests"].get(name, {})
        if any(known.get(key) != value for key, value in about.items()):
            known = about
        if algorithm not in known:
            digest, done = hashlib.new(algorithm, usedforsecurity=False), 0
            with open(path, "rb") as file:
                while block := file.read(2**22):
                    digest.update(block)
                    done += len(block)
                    progress(f"checking {name}", done, about["size"])
            known = {**known, algorithm: digest.hexdigest()}
            self._content["digests"][name] = known
            self._save()
        return str(known[algorithm])


def check(
    root: str | Path,
    config: str = "dna",
    split: str = "all",
    *,
    boxes: bool = False,
    dataset: str = "bioscan-5m",
    reread: bool = False,
    progress: Progress = silent,
) -> list[FileState]:
    """States of the files that `config` and `split` need, compared with what is published.

    It uses no network and writes nothing. Digests that a download has kept in `CHECKED_FILE` are used while size and
    modification time are unchanged. A zip without a published checksum is accepted if it ends as a zip does.

    Args:
        reread: Computes all digests again, which finds changes that the modification time does not show.
        progress: Called with ("checking NAME", bytes, bytes in total).
    """
    checked = Checked(root, keep=False, reread=reread)
    states: dict[str, FileState] = {}
    for need in needs(config, split, boxes=boxes, dataset=dataset):
        unpacked, note = unpacked_state(checked, config, need, progress)
        if unpacked is not None:
            states[unpacked.name] = unpacked
            continue
        for file in choose(need, checked.root):
            state = file_state(checked, checked.with_hub_checksum(file), progress)
            states[file.name] = replace(state, detail="; ".join(filter(None, (state.detail, note))))
    return list(states.values())


def choose(
    need: Need, root: Path, offers: Callable[[PublishedFile], bool] = lambda file: True
) -> tuple[PublishedFile, ...]:
    """The variant of a need that is most complete in `root`; else the first variant that is offered."""

    def share(files: tuple[PublishedFile, ...]) -> float:
        present = [(root / f.name).exists() + 0.5 * part_of(root / f.name).exists() for f in files]
        return sum(present) / len(present)

    best = max(need.variants, key=share)  # the first of equals
    if share(best) or len(need.variants) == 1:
        return best
    return next((files for files in need.variants if offers(files[0])), best)


def file_state(checked: Checked, file: PublishedFile, progress: Progress = silent, part: bool = False) -> FileState:
    """State of a file (or of its .part) in the release folder."""
    path = part_of(checked.root / file.name) if part else checked.root / file.name
    if not path.is_file():
        if begun := size_of(part_of(path)):
            return FileState(file.name, "partial", begun, f"{begun:,} bytes of {file.size}; a download continues it")
        where = f", only on the Google Drive linked at {PROJECT}" if "drive" in file.hosts else ""
        return FileState(file.name, "missing", 0, file.size + where)
    size = path.stat().st_size
    wrong = []
    for published in file.checksums:
        if published.size not in (None, size):
            wrong.append(f"it has {size:,} bytes, published are {published.size:,}")
        elif published.algorithm is not None:
            found = checked.digest(path, file.name, published.algorithm, progress)
            if found == published.digest:
                return FileState(file.name, "right", size, f"{published.algorithm} as published")
            wrong.append(f"its {published.algorithm} is {found}, published is {published.digest}")
    if not wrong and file.name.endswith(".zip") and not zipfile.is_zipfile(path):
        wrong.append("the end of the zip is missing")
    if wrong:
        return FileState(file.name, "damaged", size, "; ".join(wrong))
    return FileState(file.name, "unverified", size, "no checksum is published")


def part_of(path: Path) -> Path:
    """File that a download of `path` grows in."""
    return path.with_name(path.name + ".part")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0


def unpacked_state(checked: Checked, config: str, need: Need, progress: Progress) -> tuple[FileState | None, str]:
    """State of the unpacked data if they are usable, and a note on unpacked data that are not."""
    if need.what == "metadata":
        return _unpacked_metadata(checked, progress)
    folder = photo_folder(checked.root, config)
    if not need.splits or folder is None or not all((folder / split).is_dir() for split in need.splits):
        return None, ""
    name, how = str(folder.relative_to(checked.root)), "no checksum is published"
    if config == "cropped_256":
        samples = {photo: md5 for photo, md5 in SAMPLE_PHOTOS.items() if photo.split("/")[0] in need.splits}
        for photo, md5 in samples.items():
            path = folder / photo
            if not path.is_file():
                return None, f"the folder {name} is incomplete: it has no {photo}"
            found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            if found != md5:
                return None, f"{name}/{photo} is not the published photo: its md5 is {found}, published is {md5}"
        how = f"{len(samples)} sample photos as published"
    return FileState(f"{name} ({', '.join(need.splits)})", "unpacked", 0, how), ""


def _unpacked_metadata(checked: Checked, progress: Progress) -> tuple[FileState | None, str]:
    for folder in ("bioscan5m/metadata/csv", "metadata/csv", "."):
        path = checked.root / folder / METADATA_CSV
        if path.is_file():
            name = path.relative_to(checked.root).as_posix()
            found = checked.digest(path, name, "md5", progress)
            if found == CSV_CHECKSUM.digest:
                return FileState(name, "unpacked", path.stat().st_size, "md5 as published"), ""
            return None, f"{name} is not the published file: its md5 is {found}, published is {CSV_CHECKSUM.digest}"
    return None, ""
