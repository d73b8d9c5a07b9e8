"""Files of photos: folders of them, and tables that name them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

#: Endings of files in a folder of photos.
ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")

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
    """Photos in a folder and the folders below it."""
    return (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and not path.name.startswith("."))
