"""The photos of a BIOSCAN-5M release, read from folders or from zips of millions of members without unpacking them.

A zip's central directory is read once into a sorted table on disk, which every process maps: a process needs no memory
of its own for it, where `zipfile` takes about 600 bytes a member. This is a part of `release`.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from ..schema import IMAGE_PACKAGES, image_path
from .tables import ReleaseError

#: Parts of the published zips that come in several files: of a package, or of the pretrain split of one.
PARTS = {"cropped": 2, "original_full": 5, "pretrain": 2}

_ENTRY = np.dtype([("offset", "u8"), ("bytes", "u8"), ("crc", "u4"), ("method", "u2"), ("flags", "u2")])
_CENTRAL = struct.Struct("<4s4xHH4xIIIHHHH6xI")  # signature to offset of the local header, 46 bytes
_STORED, _DEFLATED = 0, 8
#: Bytes that a photo is believed to have at most; the largest original has a few million.
LARGEST_PHOTO = 256 * 2**20

_CHUNK = 1 << 22


# ---- which photos there are ----------------------------------------------------------------------------------------


def _parse_name(name: str) -> tuple[str, str | None, int | None] | None:
    """Package, group of splits and number of the part of a zip by its published name, None if it is none."""
    packages = "|".join(sorted(IMAGE_PACKAGES, key=len, reverse=True))
    match = re.fullmatch(rf"BIOSCAN_5M_({packages})(?:_(pretrain|train|eval))?(?:\.(\d\d))?\.zip", name)
    return None if match is None else (match[1], match[2], None if match[3] is None else int(match[3]))


def _zips(root: Path, package: str) -> dict[tuple[str | None, int | None], Path]:
    """(group of splits, part) -> zip of a package."""
    found = {}
    for path in sorted(root.glob("BIOSCAN_5M_*.zip")):
        parsed = _parse_name(path.name)
        if parsed is not None and parsed[0] == package:
            found[parsed[1:]] = path
    return found


def packages(root: str | Path) -> list[str]:
    """Image packages of which a release folder holds photos, in the order of `IMAGE_PACKAGES`."""
    root = Path(root)
    places = (root / "bioscan5m/images", root / "images")
    return [name for name in IMAGE_PACKAGES if _zips(root, name) or any((place / name).is_dir() for place in places)]


def missing_zips(root: str | Path, package: str, splits: Iterable[str]) -> dict[str, list[str]]:
    """Split -> names of the zips that lack for its photos; a split that is there, whole, is not in it.

    A split is there as a folder, in the zip of its group (pretrain, train, eval) or its parts, or in the zip of the
    whole package or its parts.
    """
    root, found = Path(root), _zips(Path(root), package)

    def lacking(group: str | None, parts: int) -> list[str]:
        stem = f"BIOSCAN_5M_{package}" + (f"_{group}" if group else "")
        if (group, None) in found:
            return []
        present = {part for own, part in found if own == group and part is not None}
        if not present and (group or parts == 1):
            return [f"{stem}.zip"]
        return [f"{stem}.{part:02d}.zip" for part in range(1, max([parts, *present]) + 1) if part not in present]

    lacks: dict[str, list[str]] = {}
    for split in splits:
        group = split if split in ("pretrain", "train") else "eval"
        whole = lacking(None, PARTS.get(package, 1))
        own = lacking(group, PARTS.get(group, 1))
        folders = (root / "bioscan5m/images" / package / split, root / "images" / package / split)
        if whole and own and not any(folder.is_dir() for folder in folders):
            lacks[split] = whole if package in PARTS else own
    return lacks


# ---- zips ----------------------------------------------------------------------------------------------------------


@dataclass
class ZipIndex:
    """The members of one file, ascending by name.

    Attributes:
        path: The file in which the bytes lie.
        label: What messages call it.
        names: (m,) ASCII or UTF-8 names.
        entries: (m,) where each member is, and how it is packed.
    """

    path: Path
    label: str
    names: NDArray[np.bytes_]
    entries: NDArray[np.void]


def _central_directory(file: IO[bytes], start: int, end: int) -> tuple[int, int, int]:
    """Position, bytes and shift (what to add to an offset) of the central directory of a zip in file[start:end]."""
    tail = min(end - start, (1 << 16) + 22)
    file.seek(end - tail)
    data = file.read(tail)
    place = data.rfind(b"PK\5\6")
    if place < 0 or len(data) - place < 22:
        raise BadZipFile("it has no central directory; has it been cut off?")
    disk, size, offset = struct.unpack_from("<H6xII", data, place + 4)
    where = end - tail + place
    if place >= 20 and data[place - 20 : place - 16] == b"PK\6\7":
        where = start + struct.unpack_from("<Q", data, place - 12)[0]
        file.seek(where)
        record = file.read(56)
        if record[:4] != b"PK\6\6":  # bytes before the zip have moved it to right in front of its locator
            where = end - tail + place - 76
            file.seek(where)
            record = file.read(56)
        if record[:4] != b"PK\6\6":
            raise BadZipFile("its zip64 record is missing")
        disk, size, offset = struct.unpack_from("<I20xQQ", record, 16)
    if disk not in (0, 0xFFFF):
        raise BadZipFile("it is one disk of a split archive: join the pieces first (zip -s 0)")
    if where - size < start:
        raise BadZipFile("its central directory is incomplete")
    return where - size, size, where - size - offset


def _members(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int, int, int, int]]:
    """Name, offset in `file`, bytes, crc, method and flags of each member of the zip in file[start:end]."""
    place, left, shift = _central_directory(file, start, end)
    file.seek(place)
    data, at = b"", 0
    while left or at < len(data):
        if len(data) - at < 1 << 18 and left:
            more = file.read(min(_CHUNK, left))
            if not more:
                raise BadZipFile("its central directory is cut off")
            data, at, left = data[at:] + more, 0, left - len(more)
        if len(data) - at < 46:
            raise BadZipFile("its central directory is cut off")
        signature, flags, method, crc, packed, size, n, extra, comment, _, offset = _CENTRAL.unpack_from(data, at)
        if signature != b"PK\1\2":
            raise BadZipFile("its central directory is damaged")
        name = data[at + 46 : at + 46 + n]
        if 0xFFFFFFFF in (packed, size, offset):
            packed, offset = _zip64(data[at + 46 + n : at + 46 + n + extra], size, packed, offset)
        yield name, offset + shift, packed, crc, method, flags
        at += 46 + n + extra + comment


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int]:
    """Packed bytes and offset where the 32-bit fields overflow."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            values = [next(wide, 0) if value == 0xFFFFFFFF else value for value in (size, packed, offset)]
            return values[1], values[2]
        at += 4 + length
    raise BadZipFile("a member lacks its zip64 sizes")


def _index(path: Path, label: str, start: int, end: int, folder: Path) -> Iterator[dict[str, str]]:
    """Writes the index of the zip in path[start:end], and those of zips inside it, to `folder`; yields what to map."""
    nested: list[tuple[bytes, Any]] = []
    names: list[NDArray[np.bytes_]] = []
    entries: list[NDArray[np.void]] = []
    some: list[tuple[bytes, int, int, int, int, int]] = []
    with open(path, "rb") as file:
        for member in _members(file, start, end):
            if member[0].endswith(b".zip"):
                nested.append((member[0], member[1:]))
            elif not member[0].endswith(b"/"):
                some.append(member)
                if len(some) == 100_000:
                    names.append(np.array([entry[0] for entry in some]))
                    entries.append(np.array([entry[1:] for entry in some], dtype=_ENTRY))
                    some.clear()
    if some:
        names.append(np.array([entry[0] for entry in some]))
        entries.append(np.array([entry[1:] for entry in some], dtype=_ENTRY))
    if names:
        every = np.concatenate(names)
        names.clear()
        order = np.argsort(every, kind="stable")
        stem = folder / f"{len(list(folder.iterdir())):04d}"
        np.save(f"{stem}.names.npy", every[order])
        np.save(f"{stem}.entries.npy", np.concatenate(entries)[order])
        yield {"path": str(path), "label": label, "stem": str(stem)}
    for name, values in nested:
        inner = f"{label}:{name.decode(errors='replace')}"
        entry = np.array([values], dtype=_ENTRY)[0]
        if entry["method"] == _STORED:
            with open(path, "rb") as file:
                first = _data_start(file, entry, name)
            yield from _index(path, inner, first, first + int(entry["bytes"]), folder)
        else:  # a packed zip cannot be read at any place, so it waits unpacked beside the index
            copy = folder / f"{len(list(folder.iterdir())):04d}.zip"
            with open(path, "rb") as source, open(copy, "wb") as target:
                _inflate(source, entry, name, target)
            yield from _index(copy, inner, 0, copy.stat().st_size, folder)


def _inflate(source: IO[bytes], entry: NDArray[np.void], name: bytes, target: IO[bytes]) -> None:
    """Writes the content of a compressed member to `target`, its CRC checked."""
    _check_packing(entry)
    source.seek(_data_start(source, entry, name))
    unpack, left, crc = zlib.decompressobj(-15), int(entry["bytes"]), 0
    while left:
        packed = source.read(min(_CHUNK, left))
        if not packed:
            raise BadZipFile(f"it ends inside {name.decode(errors='replace')}")
        left -= len(packed)
        while True:  # a part that unpacks to thousands of times its size must not fill the memory
            data = unpack.decompress(packed, _CHUNK)
            packed = unpack.unconsumed_tail
            crc = zlib.crc32(data, crc)
            target.write(data)
            if not packed and len(data) < _CHUNK:
                break
    if crc != int(entry["crc"]):
        raise BadZipFile(f"Bad CRC-32 of {name.decode(errors='replace')}")


def index_zips(paths: Iterable[Path], folder: Path) -> None:
    """Writes an index of zips, and of zips that are members of them, to `folder`, from where `read_index` maps it.

    Members that are zips themselves are read in place where they are stored, and unpacked to `folder` where they are
    compressed (which then needs their size on disk).

    Raises:
        ReleaseError: if a file is no zip, or its directory is damaged.
    """
    found: list[dict[str, str]] = []
    for path in paths:
        try:
            found += _index(path, path.name, 0, path.stat().st_size, folder)
        except (BadZipFile, OSError, struct.error, zlib.error) as error:
            raise ReleaseError(f"{path} is no readable zip ({error}): download it again.") from error
    (folder / "index.json").write_text(json.dumps(found), encoding="utf-8")


def read_index(folder: Path) -> list[ZipIndex]:
    """The index that `index_zips` wrote, mapped into memory: its pages are shared by all processes that read it."""
    return [
        ZipIndex(
            Path(part["path"]),
            part["label"],
            np.asarray(np.load(f"{part['stem']}.names.npy", mmap_mode="r")),
            np.asarray(np.load(f"{part['stem']}.entries.npy", mmap_mode="r")),
        )
        for part in json.loads((folder / "index.json").read_text(encoding="utf-8"))
    ]


def _data_start(file: IO[bytes], entry: NDArray[np.void], name: bytes) -> int:
    """Where the bytes of a member begin, by its local header."""
    file.seek(int(entry["offset"]))
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise BadZipFile("its header is damaged")
    n, extra = struct.unpack_from("<HH", header, 26)
    if file.read(n) != name:
        raise BadZipFile("its header names another file")
    return int(entry["offset"]) + 30 + n + extra


def _check_packing(entry: NDArray[np.void]) -> None:
    if entry["flags"] & 1 or entry["method"] not in (_STORED, _DEFLATED):
        raise BadZipFile(f"it is encrypted or packed by method {entry['method']}; only stored and deflated are read")


def read_member(file: IO[bytes], entry: NDArray[np.void], name: bytes) -> bytes:
    """Content of a member, its CRC checked.

    Raises:
        BadZipFile: if it is damaged, encrypted, or packed otherwise than stored or deflated.
    """
    _check_packing(entry)
    file.seek(_data_start(file, entry, name))
    data = file.read(int(entry["bytes"]))
    if len(data) < int(entry["bytes"]):
        raise EOFError("the file ends inside it")
    if entry["method"] == _DEFLATED:
        data = zlib.decompressobj(-15).decompress(data, LARGEST_PHOTO + 1)
        if len(data) > LARGEST_PHOTO:
            raise BadZipFile(f"it unpacks to more than a photo, {LARGEST_PHOTO:,} bytes")
    if zlib.crc32(data) != int(entry["crc"]):
        raise BadZipFile("Bad CRC-32")
    return data


# ---- photos --------------------------------------------------------------------------------------------------------


class Photos:
    """The photos of one package: in folders under the release's root, or as members of its zips, opened on demand.

    Args:
        index: Folder for the index of the zips, or one that another process has filled; by default a temporary one,
            which `close` removes.

    Raises:
        FileNotFoundError: if the release holds no photo of the package, saying which packages it has.
    """

    def __init__(self, root: str | Path, package: str, index: str | Path | None = None):
        self.root, self.package = Path(root), package
        self.folder = next(
            (f for f in (self.root / "bioscan5m/images" / package, self.root / "images" / package) if f.is_dir()), None
        )
        self.zips = list(_zips(self.root, package).values())
        if self.folder is None and not self.zips:
            here = packages(self.root)
            raise FileNotFoundError(
                f"No photos of {package!r} in {str(self.root)!r}: neither bioscan5m/images/{package}/ nor "
                f"BIOSCAN_5M_{package}*.zip. It holds {', '.join(here) if here else 'no photos at all'}."
            )
        self._place = None if index is None else Path(index)
        self._temporary: TemporaryDirectory[str] | None = None
        self._index: list[ZipIndex] | None = None
        self._open: dict[Path, IO[bytes]] = {}

    def check(self, splits: Iterable[str]) -> None:
        """Raises FileNotFoundError unless every one of `splits` has its photos, naming the zips that lack."""
        lacks = missing_zips(self.root, self.package, splits)
        if lacks:
            zips = sorted({name for names in lacks.values() for name in names})
            raise FileNotFoundError(
                f"{str(self.root)!r} has no {self.package!r} photos of {', '.join(lacks)}: {', '.join(zips)} missing. "
                f"Download them, or name the splits to build (--split)."
            )

    def open(self) -> None:
        """Reads the index of the zips, or makes it: about 3 s and 84 MB on disk for a million members."""
        if self._index is not None:
            return
        if self._place is None:
            self._temporary = TemporaryDirectory(prefix="bioscan_hf-")
            self._place = Path(self._temporary.name)
        if not (self._place / "index.json").is_file():
            self._place.mkdir(parents=True, exist_ok=True)
            index_zips(self.zips, self._place)
        self._index = read_index(self._place)

    def read(self, processid: str, split: str) -> bytes:
        """JPEG bytes of one specimen, as they lie in the release.

        Raises:
            ReleaseError: if the photo is missing, cut off, or not a JPEG; the message says which file.
        """
        name = image_path(processid, split, self.package)
        data, where = self._from_folder(name), name
        if data is None:
            data, where = self._from_zip(name)
        check_jpeg(data, where)
        return data

    def _from_folder(self, name: str) -> bytes | None:
        if self.folder is None:
            return None
        path = self.folder / name.split(f"/{self.package}/", 1)[1]
        return path.read_bytes() if path.is_file() else None

    def _from_zip(self, name: str) -> tuple[bytes, str]:
        self.open()
        key = name.encode()
        for part in self._index or ():
            i = int(np.searchsorted(part.names, np.array(key, dtype=part.names.dtype)))
            if i == len(part.names) or part.names[i] != key:
                continue
            if part.path not in self._open:
                self._open[part.path] = open(part.path, "rb")  # noqa: SIM115 (closed by `close`)
            try:
                return read_member(self._open[part.path], part.entries[i], key), f"{part.label}:{name}"
            except (BadZipFile, OSError, EOFError, zlib.error) as error:
                raise ReleaseError(f"{part.label}:{name} cannot be read ({error})") from error
        places = [path.name for path in self.zips] or [str(self.folder)]
        raise ReleaseError(f"no photo {name} in {', '.join(places)}")

    def close(self) -> None:
        """Closes the zips, and removes a temporary index."""
        for file in self._open.values():
            file.close()
        self._open, self._index = {}, None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary, self._place = None, None


def check_jpeg(data: bytes, where: str) -> None:
    """Raises ReleaseError unless `data` starts, reads and ends like a JPEG; the pixels are not decoded."""
    if not data.startswith(b"\xff\xd8"):
        raise ReleaseError(f"{where} is no JPEG (it starts with {data[:4]!r})")
    try:
        PILImage.open(io.BytesIO(data), formats=["JPEG"])
    except (UnidentifiedImageError, OSError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise ReleaseError(f"{where} is a damaged JPEG ({error})") from error
    if b"\xff\xd9" not in data[-64:]:
        raise ReleaseError(f"{where} is a damaged JPEG: cut off before its end mark ({len(data)} bytes)")
