"""Photos of a release, read from folders or from its zips without unpacking them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import numpy as np

from ..models import photos
from ..models.photos import is_jpeg
from ..schema import image_path
from .layout import missing_zips, packages, photo_folder, photo_zips
from .problems import ReleaseError
from .zips import LARGEST_PHOTO, UNREADABLE, ZipIndex, index_zips, read_index, read_member


class Photos:
    """Photos of one image package: files of its folder, or members of its zips, opened on demand.

    Args:
        index: Folder for the index of the zips, or one that another process has filled; by default a temporary one,
            which `close` removes.
        splits: Splits to read; zips that hold none of them are not opened. None reads all.

    Raises:
        FileNotFoundError: if the release has no photos of the package; the message says which packages it has.
    """

    def __init__(
        self,
        root: str | Path,
        package: str,
        index: str | Path | None = None,
        splits: Collection[str] | None = None,
    ):
        self.root, self.package = Path(root), package
        self.folder = photo_folder(self.root, package)
        self.zips = photo_zips(self.root, package, splits)
        if self.folder is None and not photo_zips(self.root, package):
            here = packages(self.root)
            raise FileNotFoundError(
                f"No photos of {package!r} in {str(self.root)!r}: it has neither bioscan5m/images/{package}/ nor "
                f"BIOSCAN_5M_{package}*.zip. It has {', '.join(here) if here else 'no photos at all'}."
            )
        self._place = None if index is None else Path(index)
        self._temporary: TemporaryDirectory[str] | None = None
        self._index: list[ZipIndex] | None = None
        self._open: dict[Path, IO[bytes]] = {}

    def check(self, splits: Iterable[str]) -> None:
        """Raises FileNotFoundError if a zip of one of `splits` is missing, naming it."""
        missing = missing_zips(self.root, self.package, splits)
        if missing:
            zips = sorted({name for names in missing.values() for name in names})
            raise FileNotFoundError(
                f"{str(self.root)!r} has no {self.package} photos of {', '.join(missing)}: {', '.join(zips)} missing. "
                f"Download them, or ask for splits whose photos are there."
            )

    def open(self) -> None:
        """Reads or makes the index of the zips: about 3 s and 84 MB on disk per million members."""
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
        """JPEG bytes of one specimen, unchanged.

        Raises ReleaseError, with the file, if the photo is missing, cut off, or not a JPEG, or the processid cannot be
        a file name.
        """
        try:
            name = image_path(processid, split, self.package)
        except ValueError as error:
            raise ReleaseError(str(error).removesuffix(".")) from error
        if self.folder is not None and (path := self.folder / name.split(f"/{self.package}/", 1)[1]).is_file():
            data, where = read_file(path, LARGEST_PHOTO), name
        else:
            data, where = self._from_zip(name)
        check_jpeg(data, where)
        return data

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
            except UNREADABLE as error:
                raise ReleaseError(f"{part.label}:{name} cannot be read ({error})") from error
        places = [path.name for path in self.zips] or [str(self.folder)]
        raise ReleaseError(f"no photo {name} in {', '.join(places)}")

    def close(self) -> None:
        """Closes the zips and removes a temporary index."""
        for file in self._open.values():
            file.close()
        self._open, self._index = {}, None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary, self._place = None, None


def read_file(path: Path, largest: int) -> bytes:
    """Content of a file; ReleaseError if it has more bytes than `largest`, or cannot be read."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise ReleaseError(f"{path.name} has {size:,} bytes; photos of at most {largest:,} bytes are read")
        return path.read_bytes()
    except OSError as error:
        raise ReleaseError(f"{path.name} cannot be read ({error.strerror})") from error


def check_jpeg(data: bytes, where: str) -> None:
    """Raises ReleaseError unless `data` is a whole JPEG that every decoder reads, see `models.photos.check_jpeg`."""
    if not is_jpeg(data):
        raise ReleaseError(f"{where} is not a JPEG (it starts with {data[:4]!r})")
    try:
        photos.check_jpeg(data)
    except ValueError as error:
        raise ReleaseError(f"{where} is a damaged JPEG: {error} ({len(data):,} bytes)") from error
