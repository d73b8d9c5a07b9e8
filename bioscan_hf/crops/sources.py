"""Photos to crop: those of a folder, or of a release."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..release.layout import find_metadata
from ..release.photos import Photos, read_file
from ..release.problems import Problem
from ..release.tables import read_strings
from ..schema import SPLITS, image_path, resolve_splits

#: Endings of the photos in a folder, in lower case.
ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")

#: Largest file that is read, in bytes.
LARGEST_FILE = 2**28

Report = Callable[[Problem], None]


class Photo(NamedTuple):
    """A photo to crop.

    Attributes:
        processid: Its specimen.
        file: File of its crop, relative to the output.
        read: Returns its bytes.
    """

    processid: str
    file: str
    read: Callable[[], bytes]


def photos_of_folder(folder: str | Path, note: Report, skip: str | Path | None = None) -> Iterator[Photo]:
    """The photos below a folder, in order. The name of a file, without its extension, is the processid.

    Args:
        note: Called for every other file, and once for those that an operating system adds (._NAME, __MACOSX).
        skip: A folder below it that is not read.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if two have the same name.
    """
    seen: set[str] = set()
    added: list[str] = []
    unread = None if skip is None else Path(skip).resolve()
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in [*folders]:
            if name.startswith(".") or name == "__MACOSX" or Path(place, name).resolve() == unread:
                folders.remove(name)
                if Path(place, name).resolve() != unread:
                    added.append(f"{name}/")
        for name in sorted(files):
            path = Path(place, name)
            file = path.relative_to(folder).as_posix()
            if name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini"):
                added.append(file)
            elif path.suffix.lower() not in ENDINGS:
                note(Problem(file, None, None, f"is not a photo ({' '.join(ENDINGS)})", "left out"))
            elif not path.stem.isprintable():
                note(Problem(file, None, None, "has a name with control characters", "left out"))
            elif path.stem in seen:
                raise ValueError(f"Two photos below {str(folder)!r} are called {path.stem!r}: {path} is the second.")
            else:
                seen.add(path.stem)
                crop = path.relative_to(folder).with_suffix(".jpg").as_posix()
                yield Photo(path.stem, crop, partial(read_file, path, LARGEST_FILE))
    if added:
        what = f"{len(added)} hidden file{'s' if len(added) > 1 else ''} or folders of the operating system"
        note(Problem(added[0], None, None, what, "passed over"))
    if not seen:
        raise FileNotFoundError(
            f"No photos ({' '.join(ENDINGS)}) in {str(folder)!r}, and no original photos of a release either."
        )


def photos_of_release(
    source: str | Path, photos: Photos, target: str, split: str, report: Report, *, encoding: str = "utf-8"
) -> Iterator[Photo]:
    """Photos of an open package, in the order of the metadata; their crops become the package `target`."""
    metadata, splits = find_metadata(source), resolve_splits(split)
    needed = ("processid", "split")
    for first, table in read_strings(metadata, needed, needed, report, encoding=encoding):
        for number, row in enumerate(table.to_pylist(), start=first):
            processid, part = row["processid"], row["split"]
            try:
                if processid is None or part not in SPLITS:
                    raise ValueError(f"no processid, or no split ({part})")
                file = image_path(processid, part, target)
            except ValueError as error:
                report(Problem(metadata.name, number, processid, str(error).removesuffix("."), "no crop"))
                continue
            if part in splits:
                yield Photo(processid, file, partial(photos.read, processid, part))
