"""Files of photos: folders of them, and tables that name them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

#: Endings of photos that are read.
ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")

#: Endings of photos that are not read: they are listed as unreadable, so that none is passed over in silence.
NOT_READ = (".heic", ".heif", ".avif", ".jp2", ".cr2", ".cr3", ".nef", ".arw", ".dng")

#: Names of the column of photos in a table, in lower case.
PHOTO_NAMES = ("photo", "image", "image_file", "photo_file", "file_name", "filename", "file", "path")


def is_folder_of_photos(path: str | Path) -> bool:
    """Whether a folder holds photos and is not a dataset or a release."""
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet")):
        return False
    return next(photos_of(folder), None) is not None and not any(folder.rglob("*_metadata*.*"))


def has_photo_column(path: str | Path, encoding: str = "utf-8") -> bool:
    """Whether a CSV or TSV has a column of photos."""
    path = Path(path)
    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    with open(path, encoding=encoding, errors="replace") as file:
        line = file.readline(1 << 16)
    names = {name.strip().strip('"').lower() for name in line.replace("\t", ",").split(",")}
    return bool(names & set(PHOTO_NAMES))


def photos_of(folder: Path) -> Iterator[Path]:
    """Photos in a folder and the folders below it, also of kinds that are not read."""
    endings = (*ENDINGS, *NOT_READ)
    files = (path for path in folder.rglob("*") if path.suffix.lower() in endings and not path.name.startswith("."))
    return (path for path in files if not path.is_dir())


def named_photos(folder: Path) -> dict[str, Path]:
    """Id -> photo of a folder, in the order of the paths.

    The id is the path without its ending; with it where several photos are equal but for it. A photo of a kind that is
    not read, such as a raw one beside its JPEG, is left out where another has its name.
    """
    files = sorted(photos_of(folder))
    read = {path.with_suffix("") for path in files if path.suffix.lower() in ENDINGS}
    files = [path for path in files if path.suffix.lower() in ENDINGS or path.with_suffix("") not in read]
    number = Counter(path.with_suffix("") for path in files)
    names = (path if number[path.with_suffix("")] > 1 else path.with_suffix("") for path in files)
    return {name.relative_to(folder).as_posix(): path for name, path in zip(names, files, strict=True)}
