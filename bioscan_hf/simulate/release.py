"""Writes a small simulated BIOSCAN-5M release in the published layout.

Species are those of `taxa`, rows those of `specimens`, photos are drawn by `photos`. Layout:
https://arxiv.org/abs/2406.12723. No record or photo is real.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ..files import delete_inside, read_json, replacing, write_json, write_text, writing
from ..progress import Progress, silent
from ..release.catalogue import BOXES_TSV, METADATA_NAME, SPLIT_GROUPS, ZIP_PARTS, zip_name
from ..schema import BOX_TABLE_COLUMNS, IMAGE_PACKAGES, image_path
from .photos import HEIGHT, WIDTH, Specimen, draw_photo
from .specimens import BLOCK_ROWS, MOST_ROWS, Block, draw_block, make_world
from .splits import FEWEST_ROWS

CSV_PATH = f"bioscan5m/metadata/csv/{METADATA_NAME}.csv"
JSONLD_PATH = f"bioscan5m/metadata/jsonld/{METADATA_NAME}.jsonld"
BOXES_PATH = BOXES_TSV

#: Manifest of a simulated release: its arguments and files.
MANIFEST = "simulated_release.json"

_PARALLEL = 4_000  # photos from which on several processes are faster
_TASK = 100  # photos that a process draws at a time
_JSONLD = {
    "@context": {"@vocab": "http://rs.tdwg.org/dwc/terms/", "schema": "https://schema.org/"},
    "@type": "PreservedSpecimen",
}


class Shown(NamedTuple):
    """A specimen with a photo: its path, and what is drawn."""

    processid: str
    split: str
    specimen: Specimen

    def path(self, package: str) -> str:
        return image_path(self.processid, self.split, package)


def _claim(output: Path, arguments: dict[str, Any], files: Sequence[str], force: bool) -> None:
    """Deletes an earlier simulation in `output`, and writes the manifest.

    Raises:
        FileExistsError: if the folder holds other files, or a simulation with other arguments and not `force`.
    """
    manifest = output / MANIFEST
    if manifest.exists():
        earlier = read_json(manifest, {"arguments": dict, "files": list})
        if earlier["arguments"] != arguments and not force:
            raise FileExistsError(
                f"{output} holds a simulated release made with {earlier['arguments']}, not with {arguments}. "
                f"Choose another folder, or pass --force (in Python force=True) to replace it."
            )
        for name in earlier["files"]:
            delete_inside(output, name)
        foreign = [name for name in files if (output / name).exists()]
        if foreign:
            raise FileExistsError(f"{output} holds {foreign[0]}, which no simulation wrote. Choose another folder.")
    elif output.exists() and any(output.iterdir()):
        raise FileExistsError(
            f"{output} is not empty and is not a simulated release ({MANIFEST} is missing), so nothing in it is "
            f"replaced. Choose an empty or new folder."
        )
    write_json(manifest, {"made_by": "bioscan_hf.simulate.release", "arguments": arguments, "files": list(files)})


def _box_table(block: Block) -> pa.Table:
    n = len(block.table)
    columns = [block.table["processid"], pa.array(np.full(n, WIDTH)), pa.array(np.full(n, HEIGHT))]
    columns += [pa.array(block.boxes[:, i]) for i in range(4)]
    columns += [block.table["scale_factor"], block.table["area_fraction"]]
    return pa.table(dict(zip(BOX_TABLE_COLUMNS, columns, strict=True)))


def _with_decimals(table: pa.Table) -> pa.Table:
    """Turns float columns into strings such as "1.0", which pyarrow writes as "1"."""
    for i, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            text = pc.cast(table[field.name], pa.string())
            with_point = pc.binary_join_element_wise(text, "0", ".")
            table = table.set_column(i, field.name, pc.if_else(pc.match_substring(text, "."), text, with_point))
    return table


def _write_tables(output: Path, blocks: Iterable[Block], rows: int, progress: Progress) -> None:
    """Writes the CSV and the table of boxes, block by block."""
    with ExitStack() as stack:
        sinks = [stack.enter_context(writing(output / name, "wb")) for name in (CSV_PATH, BOXES_PATH)]
        writers: list[Any] = []
        done = 0
        for block in blocks:
            tables = [_with_decimals(table) for table in (block.table, _box_table(block))]
            for sink, table, delimiter in zip(sinks, tables, ",\t", strict=True) if not writers else ():
                sink.write(delimiter.join(table.column_names).encode() + b"\n")  # pyarrow would quote the names
                options = pacsv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
                writers.append(stack.enter_context(pacsv.CSVWriter(sink, table.schema, write_options=options)))
            for writer, table in zip(writers, tables, strict=True):
                writer.write_table(table)
            done += len(block.table)
            progress("rows", done, rows)


def _write_jsonld(path: Path, blocks: Iterable[Block]) -> None:
    """Writes an array with one object per line."""
    lines = []
    for row in (row for block in blocks for row in block.table.to_pylist()):
        filled = {name: "" if value is None else value for name, value in row.items()}
        lines.append(json.dumps({**_JSONLD, "schema:identifier": row["processid"], **filled}))
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _archives(shown: Sequence[Shown], package: str) -> dict[str, list[Shown]]:
    """Name of each published zip of `package` -> its specimens, sorted by path."""
    by_path = sorted(shown, key=lambda one: one.path(package))
    if package in ZIP_PARTS:
        parts = np.array_split(np.arange(len(shown)), ZIP_PARTS[package])
        return {zip_name(package, part=i): [by_path[j] for j in part] for i, part in enumerate(parts, 1)}
    return {
        zip_name(package, group): [one for one in by_path if one.split in splits]
        for group, splits in SPLIT_GROUPS.items()
    }


def _draw_photos(specimens: Sequence[Specimen], package: str) -> list[bytes]:
    return [draw_photo(specimen, package) for specimen in specimens]


def _write_zip(path: Path, photos: Iterator[tuple[str, bytes]]) -> None:
    """A zip without compression whose bytes depend on its members only."""
    with replacing(path) as part, ZipFile(part, "w", ZIP_STORED) as archive:
        for name, content in photos:
            member = ZipInfo(name, date_time=(2024, 6, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)


def _write_photos(
    output: Path, shown: Sequence[Shown], packages: Sequence[str], folders: bool, workers: int, progress: Progress
) -> None:
    done, total = 0, len(shown) * len(packages)
    with ExitStack() as stack:
        run: Any = map
        if workers > 1:  # spawned, because a fork of a process with threads may hang
            context = multiprocessing.get_context("spawn")
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context)).map

        def draw(members: Sequence[Shown], package: str) -> Iterator[tuple[str, bytes]]:
            nonlocal done
            tasks = [members[i : i + _TASK] for i in range(0, len(members), _TASK)]
            specimens = [[one.specimen for one in task] for task in tasks]
            for task, photos in zip(tasks, run(_draw_photos, specimens, [package] * len(tasks)), strict=True):
                yield from zip((one.path(package) for one in task), photos, strict=True)
                done += len(task)
                progress("photos", done, total)

        for package in packages:
            for name, members in _archives(shown, package).items():
                if not folders:
                    _write_zip(output / name, draw(members, package))
                    continue
                for path, photo in draw(members, package):
                    with replacing(output / path) as part:
                        part.write_bytes(photo)


def _check_arguments(specimens: int, seed: int, packages: Sequence[str], workers: int | None) -> None:
    if not FEWEST_ROWS <= specimens <= MOST_ROWS:
        raise ValueError(
            f"specimens is {specimens:,}; it must be from {FEWEST_ROWS} (to fill eight splits) to {MOST_ROWS:,}."
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or larger.")
    for package in packages:
        if package not in IMAGE_PACKAGES:
            raise ValueError(f"Unknown image package {package!r}. Choose from {', '.join(IMAGE_PACKAGES)}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1, or None to choose by the number of photos.")


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
    progress: Progress = silent,
) -> Path:
    """Writes a simulated release; returns its root, the folder that holds `bioscan5m/` and the zips.

    The same arguments give the same bytes, with any number of workers (for one version of numpy and Pillow). About
    60 % of the specimens are in pretrain, 75 % from 20,000 specimens on (91 % in the real release).

    Args:
        specimens: 50 to 17,576,000; one species per twelve of them, up to 6,000.
        packages: Image packages to draw; () for none.
        folders: Writes photos to folders, as after unpacking, instead of the published zips.
        workers: Processes that draw. None is 1 below 4,000 photos and one per CPU otherwise. With more than one, a
            script must call this function under `if __name__ == "__main__":`.
        force: Replaces an earlier simulation in `output` that has other arguments. Other files are never replaced.
        metadata_only: Writes only the CSV and the boxes, in bounded memory (about 0.8 GB of disk per million rows),
            with the split shares of BIOSCAN-5M. The first 50,000 rows do not depend on how many follow.
        progress: Called with ("rows", done, total) and ("photos", done, total).

    Raises:
        ValueError: if an argument is out of range.
        FileExistsError: if `output` holds other files than a simulation with the same arguments (or `force`).
    """
    _check_arguments(specimens, seed, packages, workers)
    output, files = Path(output), [CSV_PATH, BOXES_PATH]
    arguments: dict[str, Any] = {"specimens": specimens, "seed": seed}
    world = make_world(seed, None if metadata_only else specimens)
    sizes = [min(BLOCK_ROWS, specimens - first) for first in range(0, specimens, BLOCK_ROWS)]
    drawn = (draw_block(world, seed, number, size) for number, size in enumerate(sizes))
    if metadata_only:
        _claim(output, {**arguments, "metadata_only": True}, files, force)
        _write_tables(output, drawn, specimens, progress)
        return output
    blocks = list(drawn)
    shown = [
        Shown(*row)
        for number, block in enumerate(blocks)
        for row in zip(
            block.table["processid"].to_pylist(),
            block.table["split"].to_pylist(),
            block.specimens(world, seed, number * BLOCK_ROWS),
            strict=True,
        )
    ]
    files.append(JSONLD_PATH)
    for package in packages:
        files += [one.path(package) for one in shown] if folders else _archives(shown, package)
    _claim(output, {**arguments, "packages": list(packages), "folders": folders}, files, force)
    _write_tables(output, blocks, specimens, progress)
    _write_jsonld(output / JSONLD_PATH, blocks)
    if workers is None:
        workers = (os.cpu_count() or 1) if specimens * len(packages) >= _PARALLEL else 1
    _write_photos(output, shown, packages, folders, workers, progress)
    return output
