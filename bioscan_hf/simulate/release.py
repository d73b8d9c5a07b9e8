"""A small made-up BIOSCAN-5M release in exactly the published layout, to try and test everything that reads one.

Barcodes, looks and labels come from one tree (`simulate_taxa`), specimens and splits from `simulate_specimens`, photos
are drawn (`simulate_photos`), and `simulate_metadata` makes millions of rows without photos. This file writes what a
release consists of: metadata as CSV and JSON-LD, boxes as TSV, photos as zips or in folders. Layout after
https://arxiv.org/abs/2406.12723; no record or photo is real.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from bioscan_hf.schema import BOX_TABLE_COLUMNS, COLUMNS, EVAL_SPLITS, IMAGE_PACKAGES, image_path
from bioscan_hf.simulate.metadata import MOST_ROWS, write_metadata
from bioscan_hf.simulate.photos import HEIGHT, WIDTH, Specimen, draw_photo
from bioscan_hf.simulate.specimens import Row, Specimens, draw_specimens
from bioscan_hf.simulate.taxa import grow_taxa

from ..files import write_json

CSV_PATH = "bioscan5m/metadata/csv/BIOSCAN_5M_Insect_Dataset_metadata.csv"
JSONLD_PATH = "bioscan5m/metadata/jsonld/BIOSCAN_5M_Insect_Dataset_metadata.jsonld"
BOXES_PATH = "BIOSCAN_5M_Insect_bbox.tsv"

#: Says that a folder holds a simulated release, with which arguments, and which files are part of it.
MANIFEST = "simulated_release.json"

_FEWEST = 50
_PARALLEL = 4_000  # photos from which on starting processes pays
_TASK = 100  # photos that a process draws at a time
_PARTS = {"cropped": 2, "original_full": 5}  # zips of the packages that are not cut by split
_CONTEXT = {"@vocab": "http://rs.tdwg.org/dwc/terms/", "schema": "https://schema.org/"}


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and goes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _claim(output: Path, arguments: dict[str, Any], files: Sequence[str], force: bool) -> None:
    """Makes `output` the folder of this release: removes an earlier one of ours, and writes the manifest.

    Raises:
        FileExistsError: if it holds something else, or a release made otherwise and not `force`.
    """
    manifest = output / MANIFEST
    if manifest.exists():
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
        if earlier["arguments"] != arguments and not force:
            raise FileExistsError(
                f"{output} holds a simulated release made with {earlier['arguments']}, not with {arguments}. "
                f"Choose another folder, or pass force=True to replace it."
            )
        for name in earlier["files"]:
            path = output / name
            if path.resolve().is_relative_to(output.resolve()):
                path.unlink(missing_ok=True)
        foreign = [name for name in files if (output / name).exists()]
        if foreign:
            raise FileExistsError(f"{output} holds {foreign[0]}, which no simulation wrote. Choose another folder.")
    elif output.exists() and any(output.iterdir()):
        raise FileExistsError(
            f"{output} is not empty and holds no simulated release ({MANIFEST} is missing), so nothing there is "
            f"replaced. Choose an empty or new folder."
        )
    output.mkdir(parents=True, exist_ok=True)
    write_json(manifest, {"made_by": "bioscan_hf.simulate.release", "arguments": arguments, "files": list(files)})


def _write_metadata(output: Path, specimens: Specimens) -> None:
    """CSV, JSON-LD (an array with one object per line) and boxes."""
    with _whole(output / CSV_PATH) as part, open(part, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(specimens.rows)
    with _whole(output / JSONLD_PATH) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for i, row in enumerate(specimens.rows):
            about = {"@context": _CONTEXT, "@type": "PreservedSpecimen", "schema:identifier": row["processid"]}
            file.write(",\n" if i else "[\n")
            json.dump(about | {column: row[column] for column in COLUMNS}, file)
        file.write("\n]\n")
    with _whole(output / BOXES_PATH) as part, open(part, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter="\t", lineterminator="\n")
        lines.writerow(BOX_TABLE_COLUMNS)
        for row, box in zip(specimens.rows, specimens.boxes.tolist(), strict=True):
            lines.writerow([row["processid"], WIDTH, HEIGHT, *box, row["scale_factor"], row["area_fraction"]])


def _archives(rows: Sequence[Row], package: str) -> dict[str, list[int]]:
    """Name of each published zip of `package` -> its rows, in the order of the paths inside."""
    paths = [image_path(str(row["processid"]), str(row["split"]), package) for row in rows]
    by_path = sorted(range(len(rows)), key=paths.__getitem__)
    if package in _PARTS:
        parts = np.array_split(by_path, _PARTS[package])
        return {f"BIOSCAN_5M_{package}.{i:02d}.zip": part.tolist() for i, part in enumerate(parts, 1)}
    groups = {"pretrain": ("pretrain",), "train": ("train",), "eval": EVAL_SPLITS}
    return {
        f"BIOSCAN_5M_{package}_{group}.zip": [i for i in by_path if rows[i]["split"] in splits]
        for group, splits in groups.items()
    }


def _draw_photos(specimens: Sequence[Specimen], package: str) -> list[bytes]:
    return [draw_photo(specimen, package) for specimen in specimens]


def _photos(shown: Sequence[Specimen], package: str, pool: ProcessPoolExecutor | None) -> Iterator[bytes]:
    """Photos of the specimens, in order, drawn by the processes of `pool` where there is one."""
    tasks = [shown[i : i + _TASK] for i in range(0, len(shown), _TASK)]
    packages = [package] * len(tasks)
    for photos in map(_draw_photos, tasks, packages) if pool is None else pool.map(_draw_photos, tasks, packages):
        yield from photos


def _write_photos(
    output: Path, specimens: Specimens, seed: int, packages: Sequence[str], folders: bool, workers: int
) -> None:
    shown = [
        Specimen(order, traits, (x0, y0, x1, y1), angle, (seed, i))
        for i, (order, traits, (x0, y0, x1, y1), angle) in enumerate(
            zip(specimens.orders, specimens.traits, specimens.boxes.tolist(), specimens.angles.tolist(), strict=True)
        )
    ]
    with ExitStack() as stack:
        pool = None
        if workers > 1:  # spawned, since a fork of a process with threads may hang
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context))
        for package in packages:
            for name, members in _archives(specimens.rows, package).items():
                photos = _photos([shown[i] for i in members], package, pool)
                rows = [specimens.rows[i] for i in members]
                paths = [image_path(str(row["processid"]), str(row["split"]), package) for row in rows]
                if folders:
                    for path, photo in zip(paths, photos, strict=True):
                        with _whole(output / path) as part:
                            part.write_bytes(photo)
                else:
                    _write_zip(output / name, paths, photos)


def _write_zip(path: Path, names: Sequence[str], contents: Iterator[bytes]) -> None:
    """A zip without compression whose bytes depend on its members alone."""
    with _whole(path) as part, ZipFile(part, "w", ZIP_STORED) as archive:
        for name, content in zip(names, contents, strict=True):
            member = ZipInfo(name, date_time=(2024, 6, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)


def _simulate_metadata(output: Path, specimens: int, seed: int, force: bool, progress: Callable[[int], None]) -> Path:
    if specimens > MOST_ROWS:
        raise ValueError(f"specimens is {specimens:,}; a simulation has ids for {MOST_ROWS:,}. Ask for fewer.")
    arguments = {"specimens": specimens, "seed": seed, "metadata_only": True}
    _claim(output, arguments, [CSV_PATH, BOXES_PATH], force)
    with _whole(output / CSV_PATH) as table, _whole(output / BOXES_PATH) as boxes:
        write_metadata(table, boxes, specimens, seed, progress)
    return output


def simulate_release(
    output: str | Path,
    specimens: int = 2000,
    seed: int = 0,
    *,
    packages: Sequence[str] = ("cropped_256",),
    folders: bool = False,
    workers: int | None = None,
    force: bool = False,
    metadata_only: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Path:
    """Writes a made-up release and returns its root, the folder that holds `bioscan5m/` and the zips.

    The same arguments give the same bytes, whatever the number of workers (and with one version of numpy and Pillow).
    About 60 % of the specimens are in pretrain, 75 % from 20,000 specimens on (in the real release 91 %), so that a
    small one has enough with species.

    Args:
        specimens: At least 50; there is about one species per twelve of them.
        packages: Which of the four image packages to draw; () for none.
        folders: Whether photos lie in folders, as after unpacking, rather than in the published zips.
        workers: Processes that draw; None is one below 4,000 photos and one per CPU from there on. With more than one,
            a script must call this under `if __name__ == "__main__":`.
        force: Whether to replace an earlier simulation in `output` that was made with other arguments. Files that no
            simulation wrote are never replaced.
        metadata_only: Writes the CSV and the boxes alone, for millions of specimens in bounded memory (about 200,000
            rows/s, 0.8 GB per million); `packages`, `folders` and `workers` do not matter. It is another draw than
            with photos, and its splits have the sizes of the release; see `simulate_metadata` for its rules.
        progress: Called with each number of rows that `metadata_only` has written.

    Raises:
        ValueError: for too few specimens (or over 17,576,000), a negative seed, an unknown package or no worker.
        FileExistsError: if `output` holds anything but a simulation with the same arguments (or `force`).
    """
    if specimens < _FEWEST:
        raise ValueError(f"specimens is {specimens}; the eight splits need at least {_FEWEST}. Ask for more.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; a seed is an integer from 0 on. Choose another.")
    for package in packages:
        if package not in IMAGE_PACKAGES:
            raise ValueError(f"Unknown image package {package!r}. Choose among {', '.join(IMAGE_PACKAGES)}.")
    if workers is None:
        workers = (os.cpu_count() or 1) if specimens * len(packages) >= _PARALLEL else 1
    if workers < 1:
        raise ValueError(
            f"workers is {workers}; drawing needs at least 1. Pass None to leave it to the number of photos."
        )

    if metadata_only:
        return _simulate_metadata(Path(output), specimens, seed, force, progress)
    rng = np.random.default_rng(seed)
    made = draw_specimens(rng, grow_taxa(rng, max(40, specimens // 12)), specimens)
    output = Path(output)
    files = [CSV_PATH, JSONLD_PATH, BOXES_PATH]
    for package in packages:
        if folders:
            files += [image_path(str(row["processid"]), str(row["split"]), package) for row in made.rows]
        else:
            files += _archives(made.rows, package)
    arguments = {"specimens": specimens, "seed": seed, "packages": list(packages), "folders": folders}
    _claim(output, arguments, files, force)
    _write_metadata(output, made)
    _write_photos(output, made, seed, packages, folders, workers)
    return output
