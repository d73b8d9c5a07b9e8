"""`build`: writes a release as sharded Parquet that `datasets.load_dataset` reads by name, without our code.

Each shard is written under a temporary name, renamed when it is complete, and entered in a manifest. A build that was
killed therefore continues where it stopped, and an incomplete shard is never visible.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..files import delete_inside, delete_temporaries, locked
from ..progress import Progress, silent
from ..release.check import Scan, read_typed, scan
from ..release.columns import features
from ..release.layout import find_boxes, find_metadata, packages, photo_root
from ..release.photos import Photos
from ..schema import ROW_COLUMN, SPLITS, UNASSIGNED, check_config
from .card import dataset_card, write_card
from .executors import in_order
from .manifest import LABELS_FILE, ROWS_PER_SHARD, Manifest, fingerprint
from .problems import ProblemList
from .shards import METADATA_ROWS_PER_GROUP, PhotoShard, SplitShards, write_photo_shard

_INDEX_PREFIX = ".zip-index-"


def build(
    source: str | Path,
    output: str | Path,
    configs: Sequence[str] | None = None,
    *,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    keep_going: bool = False,
    force: bool = False,
    unassigned: bool = False,
    rows_per_shard: dict[str, int] | None = None,
    encoding: str = "utf-8",
    progress: Progress = silent,
) -> Manifest:
    """Writes a release as sharded Parquet that `datasets.load_dataset(output, config, split=...)` reads by name.

    Run again after an interruption, it completes the same output. Rows of a split are in the order of the metadata.
    Boxes are joined if the release has their table (`BOXES_TSV`).

    Args:
        source: Folder of a release, or its metadata (CSV, TSV, JSON-LD, or the zip of them).
        output: New folder, or that of an interrupted build of the same source.
        configs: "dna" is always written; by default also every image package that the source holds.
        splits: Splits to write, such as those whose photos are there; by default all that have rows. Label ids are
            always those of the whole release.
        workers: Processes that write shards of photos.
        executor: Any `concurrent.futures.Executor` that writes the shards of photos instead, such as Dask's for
            several machines. All machines must see `source` and `output` under the same paths.
        keep_going: List problems in problems.csv and go on; by default the first problem stops the build.
        force: Replace what an earlier build has written to `output`, and allow other files beside it.
        unassigned: Accept rows without a split; they go to a split called "unassigned".
        rows_per_shard: Config -> rows, instead of `ROWS_PER_SHARD`.
        encoding: Text encoding of the metadata, such as "latin-1".
        progress: Called with the config, its rows written so far, and all its rows.

    Raises:
        FileExistsError: if `output` holds something else.
        FileNotFoundError: if the source has no metadata, none of the photos asked for, or not those of a split.
        ReleaseError: at the first problem, unless `keep_going`.
        RuntimeError: if another build is writing to `output`.
        ValueError: for an unknown config, or a split that is unknown or has no rows.
    """
    metadata, root, output = find_metadata(source), photo_root(source), Path(output)
    wanted = ["dna", *(packages(root) if configs is None else [c for c in configs if c != "dna"])]
    _check(root, wanted, splits)
    sizes = {**ROWS_PER_SHARD, **(rows_per_shard or {})}
    boxes = find_boxes(metadata)
    about = {
        "source": {"name": metadata.name, "bytes": metadata.stat().st_size, "modified": metadata.stat().st_mtime_ns},
        "boxes": None if boxes is None else {"name": boxes.name, "bytes": boxes.stat().st_size},
        "configs": wanted,
        "splits": None if splits is None else sorted(set(splits)),
        "rows_per_shard": {config: sizes[config] for config in wanted},
        "keep_going": keep_going,
        "unassigned": unassigned,
        "encoding": encoding,
    }
    manifest = Manifest.open(output, about, force)
    if manifest.is_whole():
        return manifest
    found, checked = ProblemList(keep_going), None
    if not manifest.has_metadata():  # before anything is written
        checked = scan(metadata, found.report, unassigned=unassigned, photos=len(wanted) > 1, encoding=encoding)
        _restrict(checked.counts, splits)
        for config in wanted[1:]:
            Photos(root, config).check(checked.counts)
        for note in checked.notes:
            found.note(note)
    with locked(output, "build"):
        manifest = Manifest.open(output, about, force)  # another process may have written since
        _clean(output, manifest.replaced)
        manifest.complete = False
        problems = manifest.problems = ProblemList(keep_going, [*manifest.problems, *found])
        if checked is not None:
            _write_metadata(metadata, checked, manifest, problems, progress)
        for config in wanted[1:]:
            tasks = _photo_shards(root, config, manifest, list(manifest.counts), keep_going)
            _write_photos(tasks, manifest, problems, progress, workers=workers, executor=executor)
        problems.write(output)
        fingerprints = {config: fingerprint(manifest.shards, config) for config in wanted}
        write_card(output, dataset_card(metadata.name, wanted, manifest.counts, fingerprints))
        manifest.complete = True
        manifest.save()
    return manifest


def _check(root: Path, configs: Sequence[str], splits: Sequence[str] | None) -> None:
    for config in configs:
        check_config(config)
    for config in configs[1:]:
        Photos(root, config).close()  # raises if there are none
    for split in splits or ():
        if split not in (*SPLITS, UNASSIGNED):
            raise ValueError(f"Unknown split {split!r}. Splits to build are some of {', '.join(SPLITS)}.")


def _restrict(counts: dict[str, int], splits: Sequence[str] | None) -> None:
    """Leaves only `splits` in `counts`."""
    empty = [split for split in splits or () if split not in counts]
    if empty:
        raise ValueError(f"No rows of split {empty[0]!r} in the metadata; they have {', '.join(counts)}.")
    for split in [split for split in counts if splits is not None and split not in splits]:
        del counts[split]


def _clean(output: Path, replaced: Iterable[str]) -> None:
    """Deletes the files of a build that is replaced, and what killed builds have left."""
    for name in replaced:
        delete_inside(output, name)
    delete_temporaries(output)
    for path in output.glob(f"{_INDEX_PREFIX}*"):
        shutil.rmtree(path)


def _write_metadata(
    metadata: Path, checked: Scan, manifest: Manifest, problems: ProblemList, progress: Progress
) -> None:
    """Writes the missing shards of the config `dna`, in one pass, and the label ids."""
    manifest.counts = checked.counts
    manifest.save()
    schema = features("dna", [*checked.extra_columns, ROW_COLUMN]).arrow_schema
    shards = {split: SplitShards(manifest, split, schema) for split in checked.counts}
    read, total = 0, sum(checked.counts.values())
    largest = max(checked.counts, key=lambda split: checked.counts[split])
    waiting: list[pa.Table] = []  # rows of the other splits, which are told apart some blocks at a time
    for _, table in read_typed(metadata, checked, problems.report):
        table = table.append_column(ROW_COLUMN, pa.array(np.arange(read, read + len(table), dtype=np.int32)))
        of_largest = pc.equal(pc.fill_null(table["split"], UNASSIGNED), largest)
        shards[largest].add(table.filter(of_largest))
        waiting.append(table.filter(pc.invert(of_largest)))
        if sum(map(len, waiting)) >= METADATA_ROWS_PER_GROUP:
            _add(shards, waiting)
        read += len(table)
        progress("dna", read, total)
    _add(shards, waiting)
    for writer in shards.values():
        writer.flush(last=True)
    checked.labels.save(manifest.path.parent / LABELS_FILE)


def _add(shards: Mapping[str, SplitShards], waiting: list[pa.Table]) -> None:
    """Gives the rows that wait to the shards of their splits; those of splits that are not built are left out."""
    if waiting:
        table = pa.concat_tables(waiting)
        splits = pc.fill_null(table["split"], UNASSIGNED)
        for split in pc.unique(splits).to_pylist():
            if split in shards:
                shards[split].add(table.filter(pc.equal(splits, split)))
        waiting.clear()


def add_photos(folder: Path, root: Path, config: str, splits: Sequence[str], workers: int = 1) -> Manifest:
    """Adds the missing photo shards of some splits to a complete build of metadata; returns its manifest.

    Args:
        folder: The build.
        root: Folder of the release.
        workers: Processes that write.

    Raises:
        FileNotFoundError: if the release does not have the photos of these splits.
        ReleaseError: at the first photo that cannot be read.
        RuntimeError: if another build is writing to `folder`.
    """
    with closing(Photos(root, config)) as photos:
        photos.check(splits)
    with locked(folder, "build"):
        manifest = Manifest.read(folder)
        _clean(folder, ())
        tasks = _photo_shards(root, config, manifest, splits, False)
        _write_photos(tasks, manifest, ProblemList(False), silent, workers=workers)
    return manifest


def _photo_shards(
    root: Path, config: str, manifest: Manifest, splits: Sequence[str], keep_going: bool
) -> list[PhotoShard]:
    """The missing shards of some splits of an image package. Paths are absolute, for workers in other folders."""
    size, metadata = manifest.rows_per_shard(config), manifest.names("dna")
    return [
        PhotoShard(
            *(config, split, name),
            rows=(i * size, min((i + 1) * size, manifest.counts[split])),
            output=manifest.path.parent.absolute(),
            metadata=tuple(metadata[split]),
            root=root.absolute(),
            index="",
            keep_going=keep_going,
        )
        for split, names in manifest.names(config).items()
        for i, name in enumerate(names)
        if split in splits and not manifest.holds(name)
    ]


def _write_photos(
    tasks: Sequence[PhotoShard], manifest: Manifest, problems: ProblemList, progress: Progress, **how: Any
) -> None:
    """Writes shards of one image package, with rows from the shards of `dna`."""
    if not tasks:
        return
    output, root, config = tasks[0].output, tasks[0].root, tasks[0].config
    # Inside `output`, so that other machines see it too.
    with TemporaryDirectory(prefix=_INDEX_PREFIX, dir=output) as index:
        with closing(Photos(root, config, index, {task.split for task in tasks})) as photos:
            photos.open()  # makes the index
        tasks = [replace(task, index=index) for task in tasks]
        total = sum(manifest.counts.values())
        done = total - sum(task.rows[1] - task.rows[0] for task in tasks)
        with closing(in_order(write_photo_shard, tasks, **how)) as results:
            for task, (name, entry, found) in zip(tasks, results, strict=True):
                for problem in found:
                    problems.report(problem)
                manifest.shards[name] = entry
                manifest.save()
                done += task.rows[1] - task.rows[0]
                progress(config, done, total)
    delete_temporaries(output)  # of workers that were lost
