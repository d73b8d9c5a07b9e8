"""Index of zips with millions of members, and reading a member by its index entry.

The central directory is read once into a sorted table on disk, which all processes map into memory. `zipfile` would
take about 600 bytes per member in each process. Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import json
import lzma
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..files import delete_inside, write_text
from .problems import ReleaseError

#: Errors of `zipfile` and zlib for a damaged, encrypted or newer zip.
UNREADABLE = (
    *(BadZipFile, OSError, EOFError, RuntimeError, UnicodeDecodeError, struct.error, zlib.error, lzma.LZMAError),
)

_ENTRY = np.dtype([("offset", "u8"), ("bytes", "u8"), ("crc", "u4"), ("method", "u2"), ("flags", "u2")])
_CENTRAL = struct.Struct("<4s4xHH4xIIIHHHH6xI")  # signature to offset of the local header, 46 bytes
_STORED, _DEFLATED = 0, 8

#: Largest photo that is read from a release, in bytes; the largest original has a few million.
LARGEST_PHOTO = 64 * 2**20

#: Longest name of a member in bytes; the index keeps all names of a zip at the length of the longest.
LONGEST_NAME = 255

#: Most members of the zips in a file; the release has 5.15 million photos.
MOST_MEMBERS = 20_000_000

#: Levels of zips in zips, and how many zips a file may hold.
DEEPEST, MOST_ZIPS = 3, 1_000

#: A compressed zip in a zip may unpack to this many times the bytes of the file, and 1 MiB; JPEGs do not get smaller.
LARGEST_RATIO = 10

_CHUNK = 1 << 22
_MEMBERS = 100_000  # converted to arrays at a time


class Member(NamedTuple):
    """A member of a zip: its name, and the fields of its index entry."""

    name: bytes
    offset: int
    bytes: int
    crc: int
    method: int
    flags: int


@dataclass
class ZipIndex:
    """Members of one file, ascending by name."""

    path: Path  # file that holds the bytes
    label: str  # name of the zip in messages
    names: NDArray[np.bytes_]  # (m,) ASCII or UTF-8
    entries: NDArray[np.void]  # (m,) position and compression


def _central_directory(file: IO[bytes], start: int, end: int) -> tuple[int, int, int]:
    """Position and bytes of the central directory of the zip in file[start:end], and what to add to its offsets."""
    tail = min(end - start, (1 << 16) + 22)
    file.seek(end - tail)
    data = file.read(tail)
    place = data.rfind(b"PK\5\6")
    if place < 0 or len(data) - place < 22:
        raise BadZipFile("it has no central directory; has it been cut off?")
    disk, size, offset = struct.unpack_from("<H6xII", data, place + 4)
    where = end - tail + place
    if place >= 20 and data[place - 20 : place - 16] == b"PK\6\7":
        # The position in the locator; or right in front of the locator if bytes in front of the zip have moved it.
        for where in (start + struct.unpack_from("<Q", data, place - 12)[0], end - tail + place - 76):
            file.seek(where)
            record = file.read(56)
            if record[:4] == b"PK\6\6":
                break
        else:
            raise BadZipFile("its zip64 record is missing")
        disk, size, offset = struct.unpack_from("<I20xQQ", record, 16)
    if disk not in (0, 0xFFFF):
        raise BadZipFile("it is one disk of a split archive: join the pieces first (zip -s 0)")
    if where - size < start:
        raise BadZipFile("its central directory is incomplete")
    return where - size, size, where - size - offset


def _members(file: IO[bytes], place: int, left: int, shift: int) -> Iterator[Member]:
    """Members by their central directory, of which `left` bytes begin at `place`; offsets are positions in `file`."""
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
        if at + 46 + n + extra + comment > len(data):
            raise BadZipFile("its central directory is cut off")
        name = data[at + 46 : at + 46 + n]
        if 0xFFFFFFFF in (packed, size, offset):
            packed, offset = _zip64(data[at + 46 + n : at + 46 + n + extra], size, packed, offset)
        yield Member(name, offset + shift, packed, crc, method, flags)
        at += 46 + n + extra + comment


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int]:
    """Packed bytes and offset of a member whose 32-bit fields overflow."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            values = [next(wide, 0) if value == 0xFFFFFFFF else value for value in (size, packed, offset)]
            return values[1], values[2]
        at += 4 + length
    raise BadZipFile("a member has no zip64 sizes")


class _Indexer:
    """Writes the index of a zip, and of zips inside it, to a folder.

    `found` has the lines of index.json so far, `made` the files written so far.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.found, self.made = folder, list[dict[str, str]](), list[Path]()
        self._unpacked_left = LARGEST_RATIO * size + 2**20
        self._directory_left = size  # bytes of all central directories: more than the file has if they overlap
        self._zips, self._members = 0, 0

    def add(self, path: Path, label: str, start: int, end: int, depth: int = 1) -> None:
        """Indexes the zip in path[start:end], and the zips inside it."""
        self._zips += 1
        if depth > DEEPEST or self._zips > MOST_ZIPS:
            raise BadZipFile(f"it holds more than {DEEPEST} levels of zips, or more than {MOST_ZIPS:,} zips")
        with open(path, "rb") as file:
            nested = self._add_members(file, path, label, start, end)
            for member in nested:
                inner = f"{label}:{member.name.decode(errors='replace')}"
                entry = np.array([member[1:]], dtype=_ENTRY)[0]
                if member.method == _STORED:
                    first = _data_start(file, entry, member.name)
                    self.add(path, inner, first, first + member.bytes, depth + 1)
                else:  # a compressed zip has no random access, so it is unpacked beside the index
                    copy = self._unpack(file, entry, member.name)
                    self.add(copy, inner, 0, copy.stat().st_size, depth + 1)

    def _add_members(self, file: IO[bytes], path: Path, label: str, start: int, end: int) -> list[Member]:
        """Writes the names and entries of one zip; returns its members that are zips."""
        nested: list[Member] = []
        names: list[NDArray[np.bytes_]] = []
        entries: list[NDArray[np.void]] = []
        some: list[Member] = []

        def convert() -> None:
            if some:
                names.append(np.array([member.name for member in some]))
                entries.append(np.array([member[1:] for member in some], dtype=_ENTRY))
                some.clear()

        for member in self._counted(file, start, end):
            if member.name.endswith(b".zip"):
                nested.append(member)
                if len(nested) > MOST_ZIPS:
                    raise BadZipFile(f"it holds more than {MOST_ZIPS:,} zips")
            elif not member.name.endswith(b"/"):
                some.append(member)
            if len(some) == _MEMBERS:
                convert()
        convert()
        if names:
            all_names = np.concatenate(names)
            names.clear()
            order = np.argsort(all_names, kind="stable")
            stem = self.folder / f"{len(list(self.folder.iterdir())):04d}"
            for kind, values in (("names", all_names), ("entries", np.concatenate(entries))):
                self.made.append(self.folder / f"{stem.name}.{kind}.npy")
                np.save(self.made[-1], values[order])
            self.found.append({"path": str(path), "label": label, "stem": str(stem)})
        return nested

    def _counted(self, file: IO[bytes], start: int, end: int) -> Iterator[Member]:
        """Members of the zip in file[start:end], within the limits of names and numbers."""
        place, size, shift = _central_directory(file, start, end)
        self._directory_left -= size
        if self._directory_left < 0:
            raise BadZipFile("its zips overlap")
        for member in _members(file, place, size, shift):
            self._members += 1
            if self._members > MOST_MEMBERS:
                raise BadZipFile(f"it has more than {MOST_MEMBERS:,} members")
            if len(member.name) > LONGEST_NAME:
                raise BadZipFile(f"a member has a name of {len(member.name):,} bytes; at most {LONGEST_NAME} are read")
            if not start <= member.offset < end:
                raise BadZipFile("a member lies outside of the zip")
            yield member

    def _unpack(self, file: IO[bytes], entry: NDArray[np.void], name: bytes) -> Path:
        """A compressed zip, unpacked to the folder of the index."""
        copy = self.folder / f"{len(list(self.folder.iterdir())):04d}.zip"
        self.made.append(copy)
        with open(copy, "wb") as target:
            for block in _blocks(file, entry, name):
                self._unpacked_left -= len(block)
                if self._unpacked_left < 0:
                    raise BadZipFile(f"zips in it unpack to more than {LARGEST_RATIO} times its bytes")
                target.write(block)
        self._directory_left += copy.stat().st_size
        return copy


def index_zips(paths: Iterable[Path], folder: Path) -> None:
    """Writes an index of zips, and of zips inside them, to `folder`; `read_index` maps it into memory.

    Zips that are stored in a zip are read in place. Compressed ones are unpacked to `folder`, which needs space.

    Raises:
        ReleaseError: if a file is not a zip, its directory is damaged, or it exceeds a limit of this module. Nothing
            of it is left in `folder`.
    """
    found: list[dict[str, str]] = []
    for path in paths:
        size = path.stat().st_size
        indexer = _Indexer(folder, size)
        try:
            indexer.add(path, path.name, 0, size)
        except UNREADABLE as error:
            for part in indexer.made:
                delete_inside(folder, part.name)
            raise ReleaseError(f"{path} is not a readable zip ({error}): download it again.") from error
        found += indexer.found
    write_text(folder / "index.json", json.dumps(found))


def read_index(folder: Path) -> list[ZipIndex]:
    """The index that `index_zips` wrote, mapped into memory and shared by all processes that read it."""
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
    """Position of the first byte of a member, from its local header."""
    file.seek(int(entry["offset"]))
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise BadZipFile("its header is damaged")
    n, extra = struct.unpack_from("<HH", header, 26)
    if file.read(n) != name:
        raise BadZipFile("its header names another file")
    return int(entry["offset"]) + 30 + n + extra


def _blocks(file: IO[bytes], entry: NDArray[np.void], name: bytes) -> Iterator[bytes]:
    """Content of a member in blocks of bounded size; the CRC is checked at the end."""
    if entry["flags"] & 1 or entry["method"] not in (_STORED, _DEFLATED):
        raise BadZipFile(f"it is encrypted or uses method {entry['method']}; only stored and deflated are read")
    file.seek(_data_start(file, entry, name))
    unpack = zlib.decompressobj(-15) if entry["method"] == _DEFLATED else None
    left, crc = int(entry["bytes"]), 0
    while left:
        packed = file.read(min(_CHUNK, left))
        if not packed:
            raise BadZipFile(f"the file ends inside {name.decode(errors='replace')}")
        left -= len(packed)
        while packed:
            block = packed if unpack is None else unpack.decompress(packed, _CHUNK)
            packed = b"" if unpack is None else unpack.unconsumed_tail
            crc = zlib.crc32(block, crc)
            yield block
    while unpack is not None and (block := unpack.decompress(b"", _CHUNK)):  # output still held by zlib
        crc = zlib.crc32(block, crc)
        yield block
    if crc != int(entry["crc"]):
        raise BadZipFile("Bad CRC-32")


def read_member(file: IO[bytes], entry: NDArray[np.void], name: bytes) -> bytes:
    """Content of a member; its CRC is checked.

    Raises BadZipFile if it is damaged, encrypted, larger than `LARGEST_PHOTO`, or neither stored nor deflated.
    """
    data: list[bytes] = []
    size = 0
    for block in _blocks(file, entry, name):
        size += len(block)
        if size > LARGEST_PHOTO:
            raise BadZipFile(f"it unpacks to more than a photo, {LARGEST_PHOTO:,} bytes")
        data.append(block)
    return b"".join(data)
