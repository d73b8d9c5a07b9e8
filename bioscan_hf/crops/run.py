"""Crops of a whole folder of photos or of a release: resumable, one file at a time, with a table of the boxes.

The output of a release is a package in the published layout (bioscan5m/images/cropped_256/...). The table of boxes
has the published columns, and is what tells an interrupted run where to go on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from PIL import Image

from ..dataset.build import write_problems
from ..release.check import (
    Photos,
    Problem,
    ReleaseError,
    find_metadata,
    packages,
    photo_root,
    read_boxes,
    read_strings,
    stop,
)
from ..release.tables import Boxes, places_in
from ..schema import BOX_TABLE_COLUMNS, SPLITS, image_path, resolve_splits
from .boxes import area_fraction, crop, detect_boxes, find_style, resize_shorter_side, scale_factor

MANIFEST_FILE = "crops.json"
ORIGINALS = ("original_full", "original_256")


class Photo(NamedTuple):
    """One photo to crop: its specimen, the file (relative to the output) that its crop becomes, and how to read it."""

    processid: str
    file: str
    read: Callable[[], bytes]


def photos_of_folder(folder: str | Path) -> Iterator[Photo]:
    """The JPEGs below a folder, in order; the name of a file, without its ending, is the processid.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if two have the same name.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix.lower() in (".jpg", ".jpeg"):
                if path.stem in seen:
                    raise ValueError(
                        f"Two photos below {str(folder)!r} are called {path.stem!r}: {path} is the second."
                    )
                seen.add(path.stem)
                yield Photo(path.stem, path.relative_to(folder).with_suffix(".jpg").as_posix(), path.read_bytes)
    if not seen:
        raise FileNotFoundError(f"No JPEGs in {str(folder)!r}, and no original photos of a release either.")


def photos_of_release(source: str | Path, photos: Photos, target: str, split: str = "all") -> Iterator[Photo]:
    """Photos of an open package, in the order of the metadata; their crops become the package `target`."""
    metadata, splits = find_metadata(source), resolve_splits(split)
    for first, table in read_strings(metadata, columns=("processid", "split")):
        for number, row in enumerate(table.to_pylist(), start=first):
            processid, part = row["processid"], row["split"]
            if processid is None or part not in SPLITS:
                stop(Problem(metadata.name, number, processid, f"no processid, or no split ({part})", "left out"))
            if part in splits:
                yield Photo(processid, image_path(processid, part, target), partial(photos.read, processid, part))


#: A photo, decoded, with its box (as in `Boxes.values`) if an earlier run has found it.
Waiting = tuple[Photo, Image.Image, np.ndarray | None]


class Cropped(NamedTuple):
    """What a run did: crops written, crops that were there already, and the photos without a crop."""

    written: int
    present: int
    problems: list[Problem]


def crop_folder(
    source: str | Path,
    output: str | Path,
    *,
    boxes: Boxes | None = None,
    model: Any | None = None,
    image_processor: Any | None = None,
    package: str | None = None,
    split: str = "all",
    style: str = "bioscan5m",
    size: int | None = 256,
    quality: int = 95,
    batch_size: int = 8,
    shard: tuple[int, int] = (0, 1),
    keep_going: bool = False,
    progress: Callable[[int], None] = lambda photos: None,
) -> Cropped:
    """Crops every photo of a folder or release; run again, it goes on where it stopped, and replaces nothing.

    Beside the crops, `output` gets the table of boxes (`boxes.tsv`, complete when the run is) and, if some photos
    could not be cropped, `problems.csv`. A box from a table counts in pixels of the photo in which it was found, and
    is scaled to a smaller photo (original_256).

    Args:
        source: Folder of JPEGs, or a release with original photos.
        boxes: From a table; or else give `model` and `image_processor`, see `detect_boxes`.
        package: Of the release: "original_full" or "original_256"; None is the first of them that it holds.
        split: Of the release, see `resolve_splits`.
        style: See `cropping.STYLES`.
        size: Shorter side in pixels; None leaves the crops as large as they are in the photo.
        quality: Of the JPEGs, 1 to 95.
        batch_size: Photos in which the model looks for boxes together.
        shard: (i, n) takes every n-th photo from the i-th on, for n processes that write into the same output.
        keep_going: Report photos without a box or that cannot be read, and go on, instead of stopping at the first.
        progress: Called with the number of photos that were done.

    Raises:
        ValueError: for unusable arguments.
        FileNotFoundError: if there are no photos.
        FileExistsError: if `output` holds anything else than crops made in the same way.
        ReleaseError: at the first problem, unless `keep_going`.
    """
    source, output = Path(source), Path(output)
    find_style(style)
    if (boxes is None) == (model is None) or (model is None) != (image_processor is None):
        raise ValueError("Give either boxes, or a model and its image_processor.")
    if not (0 <= shard[0] < shard[1]) or batch_size < 1 or not 1 <= quality <= 95 or (size is not None and size < 1):
        raise ValueError(f"Unusable: {shard=} (i of n: 0 <= i < n), {batch_size=}, {quality=} (1 to 95) or {size=}.")
    package = _find_package(source, package)
    target = "cropped" if size is None else f"cropped_{size}"
    opened = None if package is None else Photos(photo_root(source), package)
    photos = photos_of_folder(source) if opened is None else photos_of_release(source, opened, target, split)

    where = hashlib.sha256(boxes.ids.tobytes() + boxes.values.tobytes()) if boxes else _weights_hash(model)
    about = {"package": package, "style": style, "size": size, "quality": quality, "boxes": where.hexdigest()}
    _claim(output, about)
    suffix = "" if shard[1] == 1 else f"-{shard[0]:05d}-of-{shard[1]:05d}"
    finished, journal = output / f"boxes{suffix}.tsv", output / f"boxes{suffix}.part.tsv"
    earlier = _earlier(finished, journal)
    counts, problems = np.zeros(2, int), list[Problem]()

    def report(problem: Problem) -> None:
        if not keep_going:
            stop(problem)
        problems.append(problem)

    find = partial(_find_boxes, boxes=boxes, model=model, image_processor=image_processor, report=report)
    mine = islice(photos, shard[0], None, shard[1])
    with open(journal, "a", encoding="utf-8") as lines, nullcontext() if opened is None else closing(opened):
        if not lines.tell():
            lines.write("\t".join(BOX_TABLE_COLUMNS) + "\n")
        while batch := list(islice(mine, batch_size)):
            counts += _crop_batch(batch, output, earlier, lines, find, style, size, quality, report)
            progress(len(batch))
    if problems:
        write_problems(output / f"problems{suffix}.csv", problems)
    else:
        (output / f"problems{suffix}.csv").unlink(missing_ok=True)
    os.replace(journal, finished)
    return Cropped(int(counts[0]), int(counts[1]), problems)


def _find_package(source: Path, package: str | None) -> str | None:
    """The package of original photos in a release, or None for a folder that is no release."""
    if package not in (None, *ORIGINALS):
        raise ValueError(f"Package {package!r} is not to be cropped: choose {' or '.join(ORIGINALS)}.")
    held = packages(photo_root(source) if source.is_file() else source)
    if package is None and held and not set(held) & set(ORIGINALS):
        raise FileNotFoundError(f"{str(source)!r} is a release without original photos; it holds {', '.join(held)}.")
    return package or next((name for name in ORIGINALS if name in held), None)


def _crop_batch(
    batch: list[Photo],
    output: Path,
    earlier: Boxes | None,
    lines: TextIO,
    find: Callable[[list[Waiting]], list[tuple[Waiting, np.ndarray]]],
    style: str,
    size: int | None,
    quality: int,
    report: Callable[[Problem], None],
) -> tuple[int, int]:
    """Crops what is not there yet; number of crops written and of those that were there."""
    written, present = 0, 0
    waiting: list[Waiting] = []
    for photo in batch:
        known = _find(earlier, photo.processid)
        if (output / photo.file).exists():
            if known is None:
                raise FileExistsError(f"{output / photo.file} is there, but no crop of this run. Give a new folder.")
            present += 1
        elif (image := _open(photo, report)) is not None:
            waiting.append((photo, image, known))
    for (photo, image, known), box in find(waiting):
        try:
            picture = crop(image, box[:4] * np.tile(image.size / box[4:], 2), style)
        except ValueError as error:
            report(Problem(photo.file, None, photo.processid, str(error), "no crop"))
            continue
        if known is None:
            lines.write(_line(photo.processid, box))
            lines.flush()  # before the crop, which thereby is known to be ours
        _save(picture if size is None else resize_shorter_side(picture, size), output / photo.file, quality)
        written += 1
    return written, present


def _claim(output: Path, about: dict[str, Any]) -> None:
    """Makes `output` the folder of these crops; refuses one with anything else."""
    manifest = output / MANIFEST_FILE
    if manifest.is_file():
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
        if different := [key for key in about if earlier.get(key) != about[key]]:
            raise FileExistsError(
                f"{str(output)!r} holds crops made with another {' and '.join(different)}. Give a new folder."
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    if others := [path.name for path in output.iterdir() if not path.name.endswith(".part")]:
        raise FileExistsError(f"{str(output)!r} holds something else ({others[0]!r}, ...). Give a new folder.")
    part = manifest.with_name(f"{manifest.name}.{os.getpid()}.part")  # several shards may start together
    part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    os.replace(part, manifest)


def _weights_hash(model: Any) -> Any:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest


def _earlier(finished: Path, journal: Path) -> Boxes | None:
    """Boxes of the crops of earlier runs, whose table becomes the journal again, without a line that broke off."""
    if finished.is_file():
        os.replace(finished, journal)
    if not journal.is_file():
        return None
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    os.truncate(journal, whole)
    return read_boxes(journal) if content.count(b"\n") > 1 else None


def _find(boxes: Boxes | None, processid: str) -> np.ndarray | None:
    """x0, y0, x1, y1, width and height of the photo of a specimen; None without a box, or with gaps in it."""
    if boxes is None:
        return None
    place, found = places_in(boxes.ids, np.array([processid.encode()]))
    box = boxes.values[place[0]]
    return box if found[0] and (box != np.iinfo(box.dtype).min).all() else None


def _open(photo: Photo, report: Callable[[Problem], None]) -> Image.Image | None:
    """The decoded photo, or None after a report."""
    try:
        return Image.open(io.BytesIO(photo.read())).convert("RGB")
    except (ReleaseError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        report(Problem(photo.file, None, photo.processid, f"cannot be read ({error})", "no crop"))
        return None


def _find_boxes(
    waiting: list[Waiting],
    boxes: Boxes | None,
    model: Any,
    image_processor: Any,
    report: Callable[[Problem], None],
) -> list[tuple[Waiting, np.ndarray]]:
    """Each photo that has a box, with (x0, y0, x1, y1, width, height)."""
    if boxes is None:
        new = [image for _, image, known in waiting if known is None]
        detected = iter(detect_boxes(model, image_processor, new))
    found = []
    for item in waiting:
        photo, image, box = item
        if box is None and boxes is None:
            box = np.concatenate([next(detected), image.size]).astype(np.int64)
        elif box is None:
            box = _find(boxes, photo.processid)
        if box is None:
            report(Problem(photo.file, None, photo.processid, "no box in the table", "no crop"))
        else:
            found.append((item, box))
    return found


def _line(processid: str, box: np.ndarray) -> str:
    """A line of the table of boxes."""
    x0, y0, x1, y1, width, height = map(int, box)
    sizes = (scale_factor(box[:4]), area_fraction(box[:4], (width, height)))
    return "\t".join([processid, *map(str, (width, height, x0, y0, x1, y1)), *map(str, sizes)]) + "\n"


def _save(image: Image.Image, path: Path, quality: int) -> None:
    """Writes a JPEG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        image.save(part, "JPEG", quality=quality)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
