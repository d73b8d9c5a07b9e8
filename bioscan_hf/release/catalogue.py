"""The published files of BIOSCAN-5M: what there is, and what of it lies in a folder and is right. No network.

Names, sizes and md5: https://zenodo.org/records/11973457 and the PyPI package bioscan-dataset 1.3.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files import write_json
from ..schema import EVAL_SPLITS, IMAGE_PACKAGES, check_config, resolve_splits

HUB_REPO = "bioscan-ml/BIOSCAN-5M"

#: Commit of the Hub's repository whose files these are (bioscan-dataset pins it by its first seven digits).
REVISION = "eeefb301c2594124090842049cc38a0b0c7b2ecb"

PROJECT = "https://github.com/bioscan-ml/BIOSCAN-5M"
METADATA_ZIP = "BIOSCAN_5M_Insect_Dataset_metadata_MultiTypes.zip"
METADATA_CSV = "BIOSCAN_5M_Insect_Dataset_metadata.csv"
BOXES_TSV = "BIOSCAN_5M_Insect_bbox.tsv"
CHECKED_FILE = ".bioscan_hf_checked.json"

#: Called with what is done ("downloading NAME", "checking NAME"), bytes done, and bytes in all (None if unknown).
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Checksum:
    """Size in bytes and digest of a file as published; None is what was not."""

    size: int | None
    algorithm: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class PublishedFile:
    """One file of the release. It is right if any of `checksums` fits; `about` is its size in words."""

    name: str
    checksums: tuple[Checksum, ...] = ()
    about: str = "size not published"
    hosts: tuple[str, ...] = ("hub",)


def _md5(size: int | None, digest: str) -> tuple[Checksum, ...]:
    return (Checksum(size, "md5", digest),)


# Size and digest as the Hub told others at REVISION; not compared with the file itself here.
_CROPPED_SHA256 = Checksum(39119785806, "sha256", "609883a5a840d99f7ea3bd56f4c4f7739ee9fbe27e1e07b218c6ddbfee91eb2f")
_BOTH, _DRIVE = ("hub", "zenodo"), ("drive",)

#: Every published file. Those marked "drive" are on Google Drive alone; it also has the others, except the two parts
#: of pretrain. The md5 of the metadata, train and eval are those of Zenodo; that the Hub's copies are the same bytes
#: is claimed by bioscan-dataset only for the metadata, so the sha256 that the Hub tells is accepted as well.
INVENTORY = (
    PublishedFile(METADATA_ZIP, _md5(2065075527, "ac381b69fafdbaedc2f9cfb89e3571f7"), "2.1 GB", _BOTH),
    PublishedFile(BOXES_TSV, hosts=_DRIVE),
    PublishedFile("BIOSCAN_5M_cropped_256_pretrain.zip", about="35.4 GB"),
    PublishedFile(
        "BIOSCAN_5M_cropped_256_pretrain.01.zip",
        _md5(17914051002, "0e1cfa86dc7fa4d9c10036990992a2dd"),
        "17.9 GB",
        ("zenodo",),
    ),
    PublishedFile(
        "BIOSCAN_5M_cropped_256_pretrain.02.zip",
        _md5(17702405477, "ca3191d307957732e8108121b20a2059"),
        "17.7 GB",
        ("zenodo",),
    ),
    PublishedFile(
        "BIOSCAN_5M_cropped_256_train.zip", _md5(2224548648, "3f170db5d95610644883dafc73389049"), "2.2 GB", _BOTH
    ),
    PublishedFile(
        "BIOSCAN_5M_cropped_256_eval.zip", _md5(1467020347, "16a997f72a8cd08cbcf7becafe2dda50"), "1.5 GB", _BOTH
    ),
    PublishedFile("BIOSCAN_5M_cropped_256.zip", (_CROPPED_SHA256,), "39.1 GB"),
    PublishedFile("BIOSCAN_5M_original_256_pretrain.zip"),
    PublishedFile("BIOSCAN_5M_original_256_train.zip", about="2.1 GB"),
    PublishedFile("BIOSCAN_5M_original_256_eval.zip", about="1.5 GB"),
    PublishedFile("BIOSCAN_5M_original_256.zip", about="37.8 GB"),
    *(PublishedFile(f"BIOSCAN_5M_cropped.{i:02}.zip", about="about 40 GB", hosts=_DRIVE) for i in (1, 2)),
    *(PublishedFile(f"BIOSCAN_5M_original_full.{i:02}.zip", about="under 40 GB", hosts=_DRIVE) for i in range(1, 6)),
)

#: The metadata of METADATA_ZIP, unpacked.
CSV_CHECKSUM = Checksum(None, "md5", "603020b433ef566946efba7a08dbb23d")

#: md5 of the first and last photo of each split (pretrain: and one between) of cropped_256, unpacked.
SAMPLE_PHOTOS = {
    "pretrain/00/AACTA1040-20.jpg": "053311d26acb22a4726b867e558147ce",
    "pretrain/ff/YGEN686-22.jpg": "053df72d6162d7d7512bc6d5571b52bd",
    "pretrain/fe/YGEN2059-22.jpg": "5e0798d46efb11f6450150d07d185e7d",
    "train/0/AACTA1026-20.jpg": "a0746c803d07cbc7a87d808db763b8dc",
    "train/f/YGEN986-22.jpg": "42f3e0873cd924a0084adb31eb263fd2",
    "val/AACTA161-20.jpg": "43834d843e992b546abbcb0c6d6f0d43",
    "val/YGEN925-22.jpg": "c523319d0201306bd6fe530c362efeef",
    "test/AACTA1436-20.jpg": "dbe6de711585d84d5dd526dd42ce735d",
    "test/YGEN995-22.jpg": "e369efbe1ef0a4259fc8ba42d8cb4b4c",
    "key_unseen/AACTA5263-20.jpg": "856411c5ecfa238ce2dac607a1207784",
    "key_unseen/YGEN2149-22.jpg": "6d804a23ae6582e7d0ce9f296ad4390e",
    "val_unseen/ABOTH8801-22.jpg": "31e04be94df9f470ea79ff1266e36888",
    "val_unseen/YGEN2173-22.jpg": "8f63d89962ed4092bd205274bc24036f",
    "test_unseen/BCMIN4148-23.jpg": "d3542d6cc943256723a1a39a18f845e5",
    "test_unseen/YDBB974-21.jpg": "9cff547b03468b1552fb1647001d202f",
    "other_heldout/0/ABSSI1639-22.jpg": "82506b391cc33aa08b86f4c930c401a1",
    "other_heldout/f/YDBB6502-21.jpg": "0ea33145fcb57997605ea450a979e5d2",
}


@dataclass(frozen=True)
class Need:
    """Something that a config needs, and the variants in which it is published: each a set of files."""

    what: str
    variants: tuple[tuple[PublishedFile, ...], ...]
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileState:
    """What a folder has of a published file.

    `state` is "right" (checksum as published), "unpacked", "unverified" (there, but no checksum is published),
    "partial", "damaged" or "missing"; `size` counts the bytes there, `fetched` those that came by this download.
    """

    name: str
    state: str
    size: int
    detail: str
    fetched: int = 0

    @property
    def usable(self) -> bool:
        """Whether the file is there, and nothing is known to be wrong with it."""
        return self.state in ("right", "unpacked", "unverified")

    def __str__(self) -> str:
        return f"{self.name}: {self.state}" + (f" ({self.detail})" if self.detail else "")


def needs(config: str = "dna", split: str = "all", *, boxes: bool = False) -> list[Need]:
    """What `config` needs for `split`: metadata, the photos, and (`boxes`) the bounding boxes.

    Raises:
        ValueError: for an unknown config or split.
    """
    check_config(config)
    wanted = resolve_splits(split)
    files = {file.name: file for file in INVENTORY}
    found = [Need("metadata", ((files[METADATA_ZIP],),))]
    if boxes:
        found.append(Need("bounding boxes", ((files[BOXES_TSV],),)))
    if config in IMAGE_PACKAGES and not config.endswith("_256"):
        parts = tuple(file for name, file in files.items() if name.startswith(f"BIOSCAN_5M_{config}."))
        return [*found, Need(f"photos of {config}", (parts,), wanted)]
    archives = (("pretrain", ("pretrain",)), ("train", ("train",)), ("eval", EVAL_SPLITS))
    for archive, splits in archives if config != "dna" else ():
        name = f"BIOSCAN_5M_{config}_{archive}"
        variants = ((f"{name}.zip",), (f"{name}.01.zip", f"{name}.02.zip"), (f"BIOSCAN_5M_{config}.zip",))
        published = tuple(tuple(files[n] for n in names) for names in variants if all(n in files for n in names))
        inside = tuple(name for name in wanted if name in splits)
        if inside:
            found.append(Need(f"{config} photos of {archive}", published, inside))
    return found


def choose(
    need: Need, root: Path, offers: Callable[[PublishedFile], bool] = lambda file: True
) -> tuple[PublishedFile, ...]:
    """The variant of a need of which most lies in `root`; if nothing does, the first whose first file is offered."""

    def share(files: tuple[PublishedFile, ...]) -> float:
        there = [(root / f.name).exists() + 0.5 * part_of(root / f.name).exists() for f in files]
        return sum(there) / len(there)

    best = max(need.variants, key=share)  # of equals, the first
    if share(best) or len(need.variants) == 1:
        return best
    return next((files for files in need.variants if offers(files[0])), best)


# ---- what is there -------------------------------------------------------------------------------------------------


def check(
    root: str | Path,
    config: str = "dna",
    split: str = "all",
    *,
    boxes: bool = False,
    reread: bool = False,
    progress: Progress | None = None,
) -> list[FileState]:
    """What `root` has of the files that `config` and `split` need, compared with what is published. No network.

    Digests are kept in a small file in `root` beside size and time of change, and computed once. A zip without a
    published checksum counts as there if it ends as a zip does.

    Args:
        reread: Compute them again, which finds what changed on the disk without the file system's knowledge.
    """
    root = Path(root)
    if reread:
        write_json(root / CHECKED_FILE, {**read_checked(root), "digests": {}})
    states: dict[str, FileState] = {}
    for need in needs(config, split, boxes=boxes):
        unpacked, note = unpacked_state(root, config, need, progress)
        if unpacked is not None:
            states[unpacked.name] = unpacked
            continue
        for file in choose(need, root):
            state = file_state(root, with_hub_checksum(root, file), progress)
            states[file.name] = replace(state, detail="; ".join(filter(None, (state.detail, note))))
    return list(states.values())


def file_state(root: Path, file: PublishedFile, progress: Progress | None = None, part: bool = False) -> FileState:
    """Compares a file (or its .part) in `root` with what is published of it."""
    path = part_of(root / file.name) if part else root / file.name
    if not path.is_file():
        begun = size_of(part_of(path))
        if begun:
            return FileState(file.name, "partial", begun, f"{begun:,} bytes of {how_large(file)}; download continues")
        where = "" if "drive" not in file.hosts else f", only from the Google Drive linked at {PROJECT}"
        return FileState(file.name, "missing", 0, how_large(file) + where)
    size = path.stat().st_size
    wrong = []
    for published in file.checksums:
        if published.size not in (None, size):
            wrong.append(f"it has {size:,} bytes, published are {published.size:,}")
        elif published.algorithm is not None:
            found = _digest(root, path, file.name, published.algorithm, progress)
            if found == published.digest:
                return FileState(file.name, "right", size, f"{published.algorithm} as published")
            wrong.append(f"its {published.algorithm} is {found}, published is {published.digest}")
    if wrong:
        return FileState(file.name, "damaged", size, "; ".join(wrong))
    if file.name.endswith(".zip") and not zipfile.is_zipfile(path):
        return FileState(file.name, "damaged", size, "the end of the zip is missing")
    return FileState(file.name, "unverified", size, "no checksum is published")


def how_large(file: PublishedFile) -> str:
    """The published size, in bytes or else in words."""
    size = next((checksum.size for checksum in file.checksums if checksum.size is not None), None)
    return file.about if size is None else f"{size:,} bytes"


def part_of(path: Path) -> Path:
    """Where a download of `path` grows."""
    return path.with_name(path.name + ".part")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def read_checked(root: Path) -> dict[str, dict[str, Any]]:
    """Digests computed here ("digests") and checksums told by the Hub ("hub"), both by file name."""
    path = root / CHECKED_FILE
    if not path.is_file():
        return {"digests": {}, "hub": {}}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is not readable ({error}). Delete it: digests are computed anew.") from error


def with_hub_checksum(root: Path, file: PublishedFile) -> PublishedFile:
    """`file` with the sha256 that the Hub has told of it at REVISION, if an earlier download asked."""
    told = read_checked(root)["hub"].get(file.name)
    return file if told is None else replace(file, checksums=(*file.checksums, Checksum(**told)))


def _digest(root: Path, path: Path, name: str, algorithm: str, progress: Progress | None) -> str:
    """Digest of a file, from CHECKED_FILE if size and time of change are those of its entry `name`."""
    about = {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    checked = read_checked(root)
    known = checked["digests"].get(name, {})
    if any(known.get(key) != value for key, value in about.items()):
        known = about
    if algorithm not in known:
        digest, done = hashlib.new(algorithm, usedforsecurity=False), 0
        with open(path, "rb") as file:
            while block := file.read(2**22):
                digest.update(block)
                done += len(block)
                if progress:
                    progress(f"checking {name}", done, about["size"])
        known = {**known, algorithm: digest.hexdigest()}
        checked["digests"][name] = known
        if os.access(root, os.W_OK):  # a folder shared read-only is checked too, each time
            write_json(root / CHECKED_FILE, checked)
    return str(known[algorithm])


def unpacked_state(root: Path, config: str, need: Need, progress: Progress | None) -> tuple[FileState | None, str]:
    """State of what was unpacked from the zips, if it serves; and a note on what lies there and does not."""
    if need.what == "metadata":
        return _unpacked_metadata(root, progress)
    if not need.splits:
        return None, ""
    folders = [folder for folder in (root / "bioscan5m/images" / config, root / "images" / config) if folder.is_dir()]
    if not folders or not all((folders[0] / split).is_dir() for split in need.splits):
        return None, ""
    name = str(folders[0].relative_to(root))
    samples = {photo: md5 for photo, md5 in SAMPLE_PHOTOS.items() if photo.split("/")[0] in need.splits}
    for photo, md5 in samples.items() if config == "cropped_256" else ():
        path = folders[0] / photo
        if not path.is_file():
            return None, f"the folder {name} is incomplete: it lacks {photo}"
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if found != md5:
            return None, f"{name}/{photo} is not the published photo: its md5 is {found}, published is {md5}"
    how = f"{len(samples)} sample photos as published" if config == "cropped_256" else "no checksum is published"
    return FileState(f"{name} ({', '.join(need.splits)})", "unpacked", 0, how), ""


def _unpacked_metadata(root: Path, progress: Progress | None) -> tuple[FileState | None, str]:
    for folder in ("bioscan5m/metadata/csv", "metadata/csv", "."):
        path = root / folder / METADATA_CSV
        if path.is_file():
            name = str(path.relative_to(root))
            found = _digest(root, path, name, "md5", progress)
            if found == CSV_CHECKSUM.digest:
                return FileState(name, "unpacked", path.stat().st_size, "md5 as published"), ""
            return None, f"{name} is not the published one: its md5 is {found}, published is {CSV_CHECKSUM.digest}"
    return None, ""
