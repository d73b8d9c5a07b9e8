"""`crop_folder`: crops a folder of photos or a release, with a table of the boxes.

The output for a release is a package in the published layout (bioscan5m/images/cropped_256/...). The table of boxes
has the published columns. It is also the record of an interrupted run, which continues from it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..dataset.executors import in_order
from ..dataset.problems import ProblemList
from ..files import delete_temporaries, locked, read_json, write_json, writing
from ..models.photos import decode_photo
from ..progress import Progress, silent
from ..release.boxes import Boxes, places_in, read_boxes
from ..release.layout import packages, photo_root
from ..release.photos import Photos
from ..release.problems import Problem, ReleaseError
from ..schema import BOX_TABLE_COLUMNS, resolve_splits
from .boxes import area_fraction, crop, find_style, resize_shorter_side, scale_box, scale_factor
from .detector import Detector
from .sources import Photo, photos_of_folder, photos_of_release

MANIFEST_FILE = "crops.json"
ORIGINALS = ("original_full", "original_256")


@dataclass(frozen=True)
class CropOptions:
    """How crops are made.

    Attributes:
        style: See `boxes.STYLES`.
        size: Shorter side in pixels; None keeps the size that the crop has in the photo.
        quality: Of the JPEGs, 1 to 95.
    """

    style: str = "bioscan5m"
    size: int | None = 256
    quality: int = 95

    def __post_init__(self) -> None:
        find_style(self.style)
        if not 1 <= self.quality <= 95 or (self.size is not None and self.size < 1):
            raise ValueError(
                f"The quality is {self.quality} and the size {self.size}; allowed are a quality of 1 to 95 and a "
                f"positive size."
            )


class Cropped(NamedTuple):
    """Result of a run: crops written, crops that were there before, and files without a crop."""

    written: int
    present: int
    problems: list[Problem]


def crop_folder(
    source: str | Path,
    output: str | Path,
    boxes: Boxes | Detector,
    *,
    package: str | None = None,
    split: str = "all",
    options: CropOptions = CropOptions(),  # noqa: B008 (immutable)
    workers: int = 1,
    executor: Executor | None = None,
    keep_going: bool = False,
    encoding: str = "utf-8",
    progress: Progress = silent,
) -> Cropped:
    """Crops every photo of a folder or release.

    Run again, it continues where it stopped and replaces nothing. Beside the crops, `output` gets the table of boxes
    (boxes.tsv, once the run is complete) and, if some files have no crop, problems.csv. Photos are upright, also those
    with an EXIF orientation, and so are boxes. A box from a table is in pixels of the photo in which it was found; it
    is scaled to a smaller photo (original_256) of the same shape, and refused for another shape. This process reads
    the photos, runs the detector and writes the files; workers decode, crop and encode.

    Args:
        source: Folder of photos, or a release with original photos.
        boxes: Table of boxes, or a detector that finds them.
        package: Of the release: "original_full" or "original_256"; None is the first of them that it holds.
        split: Of the release, see `resolve_splits`.
        workers: Processes that crop.
        executor: Any `concurrent.futures.Executor` that crops instead; it needs no access to the files.
        keep_going: List photos that cannot be read or have no box, and go on; by default the first one stops the run.
        encoding: Text encoding of the metadata of a release.
        progress: Called with "photos", the photos that are done, and None.

    Raises:
        ValueError: for an unknown package, or two photos with one name.
        FileNotFoundError: if there are no photos.
        FileExistsError: if `output` holds anything but crops made with the same options.
        ReleaseError: at the first problem, unless `keep_going`.
        RuntimeError: if another run is writing to `output`.
    """
    source, output = Path(source), Path(output)
    package = _find_package(source, package)
    if isinstance(boxes, Boxes):
        digest = hashlib.sha256(boxes.ids.tobytes() + boxes.values.tobytes()).hexdigest()
    else:
        digest = boxes.digest()
    about = {"package": package, **vars(options), "boxes": digest}
    problems = ProblemList(keep_going, command="crop")
    opened = None if package is None else Photos(photo_root(source), package, splits=resolve_splits(split))
    if opened is None:
        photos = photos_of_folder(source, problems.note, skip=output)
    else:
        target = "cropped" if options.size is None else f"cropped_{options.size}"
        photos = photos_of_release(source, opened, target, split, problems.report, encoding=encoding)
    _check_output(output, about)
    written = 0
    with locked(output, "crop run"), nullcontext() if opened is None else closing(opened):
        _check_output(output, about)
        delete_temporaries(output)
        write_json(output / MANIFEST_FILE, about)
        with _Record(output) as record:
            tasks = _tasks(photos, boxes, options, record, problems)
            with closing(in_order(cut, tasks, workers, executor)) as results:
                for task, result in results:
                    if isinstance(result, str):
                        problems.report(Problem(task.file, None, task.processid, result, "no crop"))
                    else:
                        record.add(task)
                        _save(output / task.file, result)
                        written += 1
                    progress("photos", written + record.present + len(problems), None)
            problems.write(output)
            record.finish()
    return Cropped(written, record.present, list(problems))


def _find_package(source: Path, package: str | None) -> str | None:
    """The package of original photos in a release, or None for a folder that is not a release."""
    if package not in (None, *ORIGINALS):
        raise ValueError(f"The package {package!r} cannot be cropped: choose {' or '.join(ORIGINALS)}.")
    held = packages(photo_root(source) if source.is_file() else source)
    if package is None and held and not set(held) & set(ORIGINALS):
        raise FileNotFoundError(f"{str(source)!r} is a release without original photos; it holds {', '.join(held)}.")
    return package or next((name for name in ORIGINALS if name in held), None)


def _check_output(output: Path, about: dict[str, Any]) -> None:
    """Raises FileExistsError if a folder holds anything but crops made in the same way."""
    if (output / MANIFEST_FILE).is_file():
        earlier = read_json(output / MANIFEST_FILE)
        if different := [key for key in about if earlier.get(key) != about[key]]:
            raise FileExistsError(
                f"{str(output)!r} holds crops made with another {' and '.join(different)}. Give a new folder."
            )
    elif others := sorted(path.name for path in output.glob("[!.]*")):
        raise FileExistsError(f"{str(output)!r} holds something else ({others[0]!r}, ...). Give a new folder.")


# ---- crops ---------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """A photo to crop, as a worker gets it.

    Attributes:
        processid: The specimen.
        file: File of the crop, relative to the output.
        photo: The photo: its file, or its pixels where a detector has seen them.
        box: x0, y0, x1, y1, and width and height of the photo in which the box was found; None if it is not known yet.
        options: How the crop is made.
    """

    processid: str
    file: str
    photo: bytes | np.ndarray
    box: np.ndarray | None
    options: CropOptions


def cut(task: Task) -> tuple[Task, bytes | str]:
    """The task without its photo, and the JPEG of the crop; a text says why there is no crop."""
    photo, box, options = task.photo, task.box, task.options
    task = task._replace(photo=b"")
    assert box is not None
    try:
        image = _decode(photo) if isinstance(photo, bytes) else Image.fromarray(photo)
    except ReleaseError as error:
        return task, f"cannot be read ({error})"
    try:
        picture = crop(image, scale_box(box, image.size), options.style)
        picture = picture if options.size is None else resize_shorter_side(picture, options.size)
    except ValueError as error:
        return task, str(error).removesuffix(".")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=options.quality)
    return task, buffer.getvalue()


def _decode(photo: bytes) -> Image.Image:
    """The upright photo; by Pillow, so that crops do not depend on other decoders being installed."""
    try:
        return Image.fromarray(decode_photo(photo, decoder="pillow"))
    except ValueError as error:
        raise ReleaseError(str(error.__cause__ or error)) from error


def _save(path: Path, jpeg: bytes) -> None:
    with writing(path, "wb") as file:
        file.write(jpeg)


def _tasks(
    photos: Iterator[Photo],
    boxes: Boxes | Detector,
    options: CropOptions,
    record: _Record,
    problems: ProblemList,
) -> Iterator[Task]:
    """A task for each photo without a crop. Photos that cannot be read or have no box are reported."""

    def report(photo: Photo | Task, what: str) -> None:
        problems.report(Problem(photo.file, None, photo.processid, what, "no crop"))

    while batch := list(islice(photos, boxes.batch_size if isinstance(boxes, Detector) else 1)):
        tasks = []
        for photo in batch:
            if not record.has_crop(photo):
                try:
                    tasks.append(Task(photo.processid, photo.file, photo.read(), record.find(photo), options))
                except (ReleaseError, OSError) as error:
                    report(photo, f"cannot be read ({error})")
        yield from _with_boxes(tasks, boxes, report)


def _with_boxes(
    tasks: list[Task], boxes: Boxes | Detector, report: Callable[[Photo | Task, str], None]
) -> Iterator[Task]:
    """The tasks with a box: their own, that of the table, or a detected one."""
    found: dict[str, Task] = {task.processid: task for task in tasks if task.box is not None}
    unknown = [task for task in tasks if task.box is None]
    if isinstance(boxes, Detector):
        images = {}
        for task in unknown:
            assert isinstance(task.photo, bytes)
            try:
                images[task.processid] = _decode(task.photo)
            except ReleaseError as error:
                report(task, f"cannot be read ({error})")
        for task, box in zip(
            [task for task in unknown if task.processid in images], boxes.find(list(images.values())), strict=True
        ):
            found[task.processid] = task._replace(photo=np.asarray(images[task.processid]), box=box)
    else:
        for task in unknown:
            if (box := _find(boxes, task.processid)) is not None:
                found[task.processid] = task._replace(box=box)
            else:
                report(task, "no box in the table")
    yield from (found[task.processid] for task in tasks if task.processid in found)


# ---- the table of boxes --------------------------------------------------------------------------------------------


def _find(boxes: Boxes | None, processid: str) -> np.ndarray | None:
    """x0, y0, x1, y1, width and height of the photo of a specimen; None without a complete box."""
    if boxes is None:
        return None
    place, found = places_in(boxes.ids, np.array([processid.encode()]))
    box = boxes.values[place[0]]
    return box if found[0] and (box != np.iinfo(box.dtype).min).all() else None


class _Record:
    """The table of boxes of a run. A later run knows its crops by it.

    Attributes:
        present: Photos so far that had a crop.
    """

    def __init__(self, output: Path):
        self.output, self.present = output, 0
        self._earlier: Boxes | None = None
        self._finished, self._path = output / "boxes.tsv", output / "boxes.part.tsv"
        if self._finished.is_file():
            os.replace(self._finished, self._path)
        if self._path.is_file():
            content = self._path.read_bytes()
            os.truncate(self._path, content.rfind(b"\n") + 1)  # without an incomplete line
            if content.count(b"\n") > 1:
                self._earlier = read_boxes(self._path)

    def __enter__(self) -> _Record:
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `__exit__`)
        if not self._file.tell():
            self._file.write("\t".join(BOX_TABLE_COLUMNS) + "\n")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def find(self, photo: Photo | Task) -> np.ndarray | None:
        """The box that an earlier run used."""
        return _find(self._earlier, photo.processid)

    def has_crop(self, photo: Photo) -> bool:
        """Whether an earlier run has cropped the photo."""
        exists = (self.output / photo.file).exists()
        if exists and self.find(photo) is None:
            raise FileExistsError(
                f"{self.output / photo.file} exists and is not a crop of this run. Give a new folder."
            )
        self.present += exists
        return exists

    def add(self, task: Task) -> None:
        """Adds the box of a crop that is about to be written."""
        if self.find(task) is None and task.box is not None:
            x0, y0, x1, y1, width, height = map(int, task.box)
            box = (x0, y0, x1, y1)
            values = (width, height, *box, scale_factor(box), area_fraction(box, (width, height)))
            self._file.write("\t".join([task.processid, *map(str, values)]) + "\n")
            self._file.flush()

    def finish(self) -> None:
        """Gives the table its final name."""
        self._file.close()
        os.replace(self._path, self._finished)
