"""A release as sharded Parquet that `datasets.load_dataset` reads by name, with no code of ours.

`build` works shard by shard: each is written under a temporary name, renamed when whole and entered in a manifest, so
a killed build goes on where it stood, and half a shard is never visible. Several machines may share the photos
(`shard`): each keeps a manifest of its own, and no two write one file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..files import write_json, write_text
from ..release.check import (
    UNASSIGNED,
    Photos,
    Problem,
    Scan,
    features,
    find_boxes,
    find_metadata,
    packages,
    photo_root,
    read_typed,
    scan,
    stop,
)
from ..schema import SPLITS, check_config
from .card import dataset_card
from .shards import ParquetShard, shard_names, write_photo_shard

LABELS_FILE = "labels.json"
MANIFEST_FILE = "manifest.json"
PROBLEMS_FILE = "problems.csv"

#: Rows of one Parquet shard: about 500 MB at the published sizes of the photos, less of metadata.
ROWS_PER_SHARD = {
    "dna": 2_000_000,
    "cropped_256": 25_000,
    "original_256": 25_000,
    "cropped": 25_000,
    "original_full": 12_000,
}
METADATA_ROWS_PER_GROUP = 50_000


@dataclass
class Manifest:
    """The state of a build, kept in the output folder: what it is made of, and which shards are whole.

    Attributes:
        counts: Split -> rows, once the metadata have been checked.
    """

    path: Path
    about: dict[str, Any]
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    complete: bool = False

    def save(self) -> None:
        state = {"complete": self.complete, "rows": self.counts, "shards": self.shards}
        write_json(self.path, {**self.about, **state, "problems": [vars(problem) for problem in self.problems]})

    def read(self, path: Path) -> None:
        """Takes over the state that a manifest of the same build has saved.

        Raises:
            FileExistsError: if it is of another build.
        """
        old = json.loads(path.read_text(encoding="utf-8"))
        different = [key for key in self.about if old.get(key) != self.about[key]]
        if different:
            raise FileExistsError(
                f"{str(self.path.parent)!r} holds a build with another {' and '.join(different)}. "
                f"Give a new folder, or force=True (--force) to replace that build."
            )
        self.complete, self.counts = old["complete"], old["rows"]
        self.shards |= old["shards"]
        known = set(self.problems)
        self.problems += [problem for problem in (Problem(**p) for p in old["problems"]) if problem not in known]

    def fingerprint(self, config: str) -> str:
        """Twelve hexadecimal digits that differ where the content of a config differs."""
        digests = [f"{name}:{shard['sha256']}" for name, shard in sorted(self.shards.items())]
        own = "\n".join(line for line in digests if line.startswith(f"{config}/"))
        return hashlib.sha256(own.encode()).hexdigest()[:12]

    def holds(self, name: str) -> bool:
        """Whether a shard is whole: entered here, and a file of the size that was entered."""
        file = self.path.parent / name
        return name in self.shards and file.is_file() and file.stat().st_size == self.shards[name]["bytes"]


def build(
    source: str | Path,
    output: str | Path,
    configs: Sequence[str] | None = None,
    *,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    shard: tuple[int, int] | None = None,
    keep_going: bool = False,
    force: bool = False,
    unassigned: bool = False,
    rows_per_shard: dict[str, int] | None = None,
    progress: Callable[[str, int], None] = lambda text, rows: None,
) -> Manifest:
    """Writes a release as sharded Parquet that `datasets.load_dataset(output, config, split=...)` reads by name.

    Started again after an interruption, it completes the same output. Shards are in the order of the metadata within
    a split. Boxes are joined if the release has their table (`release.BOXES_TSV`).

    On n machines that share a disk, call it with `shard=(0, n)` first, which writes the metadata and then photos; as
    soon as they are there (`labels.json` is), with `shard=(1, n)` to `(n - 1, n)` on the others; and when all have
    ended, without `shard`: that checks what they wrote, writes what lacks, and makes the folder complete.

    Args:
        source: Folder of a release, or its metadata (CSV, TSV, JSON-LD, or the zip of them).
        output: New folder, or one that an earlier, interrupted build has made from the same source.
        configs: "dna" is always written; by default with every image package that the source holds.
        splits: Those to write, such as the ones whose photos are there; by default all that have rows. Label ids are
            always those of the whole release.
        workers: Processes that read photos.
        shard: Number of this machine, from 0 on, and of all.
        keep_going: Report problems in `problems.csv` and go on, where the default stops at the first.
        force: Replace what an earlier build has written to `output`, and allow other files beside it.
        unassigned: Accept rows without a split; they go to a split called "unassigned".
        rows_per_shard: Config -> rows, instead of `ROWS_PER_SHARD`.
        progress: Called with what is done and the number of rows.

    Raises:
        FileExistsError: if `output` holds something else.
        FileNotFoundError: if the source holds no metadata, none of the photos asked for, or not those of a split; or
            if a later `shard` finds no metadata in `output`.
        ReleaseError: at the first problem, unless `keep_going`.
        ValueError: for an unknown config, a split that is unknown or has no rows, or a `shard` that is not one of n.
    """
    path, output = find_metadata(source), Path(output)
    root = photo_root(source)
    wanted = ["dna", *(packages(root) if configs is None else [c for c in configs if c != "dna"])]
    for config in wanted:
        check_config(config)
    for config in wanted[1:]:
        Photos(root, config).close()  # fails early
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard is {shard}; with n machines it is (0, n) to (n - 1, n) (--shard 0 --of n).")
    for split in splits or ():
        if split not in (*SPLITS, UNASSIGNED):
            raise ValueError(f"Unknown split {split!r}. Those to build are some of {', '.join(SPLITS)}.")

    about = _about(path, wanted, splits, {**ROWS_PER_SHARD, **(rows_per_shard or {})}, keep_going, unassigned)
    manifest = _open_manifest(output, about, force, shard)
    if manifest.complete and all(map(manifest.holds, manifest.shards)):
        return manifest
    manifest.complete = False
    known = set(manifest.problems)

    def report(problem: Problem) -> None:
        if not keep_going:
            stop(problem)
        if problem not in known:
            known.add(problem)
            manifest.problems.append(problem)

    if not _has_metadata(manifest):
        checked = scan(path, report, unassigned=unassigned)
        _restrict(checked.counts, splits)
        for config in wanted[1:]:
            Photos(root, config).check(checked.counts)
        output.mkdir(parents=True, exist_ok=True)
        if checked.strays is not None and checked.strays not in known:  # a note: it stops no build
            manifest.problems.append(checked.strays)
        manifest.counts = checked.counts
        manifest.save()
        _write_metadata(path, checked, manifest, report, progress)
        checked.labels.save(output / LABELS_FILE)
    if shard is not None:
        manifest.path = output / sidecar(*shard)
    for config in wanted[1:]:
        _write_photos(root, config, manifest, workers, shard, report, progress)
    if shard is None:
        _complete(path.name, manifest)
    return manifest


def _about(
    path: Path,
    configs: list[str],
    splits: Sequence[str] | None,
    sizes: dict[str, int],
    keep_going: bool,
    all_rows: bool,
) -> dict[str, Any]:
    """What a build is made of; where it differs, it is another build."""
    boxes = find_boxes(path)
    return {
        "source": {"name": path.name, "bytes": path.stat().st_size, "modified": path.stat().st_mtime_ns},
        "boxes": None if boxes is None else {"name": boxes.name, "bytes": boxes.stat().st_size},
        "configs": configs,
        "splits": None if splits is None else sorted(set(splits)),
        "rows_per_shard": {config: sizes[config] for config in configs},
        "keep_going": keep_going,
        "unassigned": all_rows,
    }


def _restrict(counts: dict[str, int], splits: Sequence[str] | None) -> None:
    """Leaves only `splits` in `counts`."""
    empty = [split for split in splits or () if split not in counts]
    if empty:
        raise ValueError(f"No rows of split {empty[0]!r} in the metadata; they have {', '.join(counts)}.")
    for split in [split for split in counts if splits is not None and split not in splits]:
        del counts[split]


def _has_metadata(manifest: Manifest) -> bool:
    """Whether every shard of the config `dna` and the label ids are written."""
    names = shard_names("dna", manifest.counts, manifest.about["rows_per_shard"]["dna"])
    whole = all(manifest.holds(name) for split in names.values() for name in split)
    return bool(names) and whole and (manifest.path.parent / LABELS_FILE).is_file()


def _complete(source_name: str, manifest: Manifest) -> None:
    """Writes the list of problems and the card, and makes the folder complete."""
    output, configs = manifest.path.parent, manifest.about["configs"]
    if manifest.problems:
        write_problems(output / PROBLEMS_FILE, manifest.problems)
    fingerprints = {config: manifest.fingerprint(config) for config in configs}
    write_text(output / "README.md", dataset_card(source_name, configs, manifest.counts, fingerprints))
    manifest.complete = True
    manifest.save()
    for path in output.glob(sidecar("*", "*")):
        path.unlink()


def sidecar(shard: int | str, of: int | str) -> str:
    """Name of the manifest of one of several machines."""
    number, total = (f"{value:05d}" if isinstance(value, int) else value for value in (shard, of))
    return f"manifest-{number}-of-{total}.json"


def _open_manifest(output: Path, about: dict[str, Any], force: bool, shard: tuple[int, int] | None) -> Manifest:
    """The manifest of an interrupted build of the same thing, or a new one; refuses a folder with anything else."""
    path = output / MANIFEST_FILE
    manifest = Manifest(path, about)
    if shard is not None and shard[0] > 0:
        if not path.is_file() or not (output / LABELS_FILE).is_file():
            raise FileNotFoundError(
                f"{str(output)!r} has no metadata yet: shard 0 writes them first. Start the others when {LABELS_FILE} "
                f"is there, on a disk that all machines share."
            )
        force = False
    if not output.exists() or not any(output.iterdir()):
        return manifest
    if not path.is_file():
        if not force:
            raise FileExistsError(
                f"{str(output)!r} holds something else ({next(output.iterdir()).name!r}, ...). "
                f"Give a new folder, or force=True (--force) to write into this one."
            )
        return manifest
    try:
        manifest.read(path)
    except FileExistsError:
        if not force:
            raise
        old = json.loads(path.read_text(encoding="utf-8"))
        for name in (*old["shards"], PROBLEMS_FILE, LABELS_FILE):
            (output / name).unlink(missing_ok=True)
        return Manifest(path, about)
    if not _has_metadata(manifest):
        manifest.problems.clear()  # the metadata are checked again
        (output / LABELS_FILE).unlink(missing_ok=True)
    own = sidecar("*", "*") if shard is None else sidecar(*shard)
    for part in sorted(output.glob(own)):
        manifest.read(part)
    if shard is None:
        for part in output.glob("*/*.part"):
            part.unlink()
    return manifest


def _write_metadata(
    path: Path,
    checked: Scan,
    manifest: Manifest,
    report: Callable[[Problem], None],
    progress: Callable[[str, int], None],
) -> None:
    """Writes the shards of the config `dna` that are missing, in one pass over the metadata."""
    rows_per_shard = manifest.about["rows_per_shard"]["dna"]
    names = shard_names("dna", checked.counts, rows_per_shard)
    schema = features("dna", checked.extra_columns).arrow_schema
    waiting: dict[str, list[pa.Table]] = {split: [] for split in names}
    done = dict.fromkeys(names, 0)  # rows of a split that have left the queue
    open_shards: dict[str, ParquetShard] = {}

    def flush(split: str, last: bool) -> None:
        table = pa.concat_tables(waiting[split])
        group = min(METADATA_ROWS_PER_GROUP, rows_per_shard)
        while len(table) >= group or (last and len(table)):
            index, within = divmod(done[split], rows_per_shard)
            rows = table.slice(0, min(group, rows_per_shard - within))
            name = names[split][index]
            if not manifest.holds(name):
                if split not in open_shards:
                    open_shards[split] = ParquetShard(manifest.path.parent / name, "dna", schema)
                open_shards[split].write(rows)
            done[split] += len(rows)
            table = table.slice(len(rows))
            if split in open_shards and (done[split] % rows_per_shard == 0 or done[split] == checked.counts[split]):
                manifest.shards[name] = open_shards.pop(split).close()
                manifest.save()
        waiting[split] = [table]

    for _, table in read_typed(path, checked, report):
        keys = pc.fill_null(table["split"], UNASSIGNED)
        for split in names:
            part = table.filter(pc.equal(keys, split)).cast(schema)
            if len(part):
                waiting[split].append(part)
                if sum(map(len, waiting[split])) >= METADATA_ROWS_PER_GROUP:
                    flush(split, last=False)
        progress("dna", len(table))
    for split in names:
        flush(split, last=True)


def _write_photos(
    root: Path,
    config: str,
    manifest: Manifest,
    workers: int,
    shard: tuple[int, int] | None,
    report: Callable[[Problem], None],
    progress: Callable[[str, int], None],
) -> None:
    """Writes the shards of an image config that are missing, or every n-th; rows come from those of `dna`."""
    output, sizes = manifest.path.parent, manifest.about["rows_per_shard"]
    metadata = shard_names("dna", manifest.counts, sizes["dna"])
    everything = [
        (split, name, i)
        for split, names in shard_names(config, manifest.counts, sizes[config]).items()
        for i, name in enumerate(names)
    ]
    first, step = (0, 1) if shard is None else shard
    tasks = []
    for split, name, i in everything[first::step]:
        rows = (i * sizes[config], min((i + 1) * sizes[config], manifest.counts[split]))
        if not manifest.holds(name):
            tasks.append((config, split, [str(output / file) for file in metadata[split]], rows, str(output / name)))
    if not tasks:
        return

    def finish(path: str, result: tuple[dict[str, Any], list[Problem]]) -> None:
        entry, problems = result
        for problem in problems:
            report(problem)
        manifest.shards[str(Path(path).relative_to(output).as_posix())] = entry
        manifest.save()
        progress(config, entry["rows"])

    with TemporaryDirectory(prefix="bioscan_hf-") as index:
        photos = Photos(root, config, index)
        photos.open()
        photos.close()
        only: dict[str, Any] = {"root": str(root), "index": index, "stop_at_problem": not manifest.about["keep_going"]}
        if workers <= 1:
            for task in tasks:
                finish(task[-1], write_photo_shard(*task, **only))
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(write_photo_shard, *task, **only) for task in tasks]
            try:
                for task, future in zip(tasks, futures, strict=True):
                    finish(task[-1], future.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Writes problems as CSV, one a line."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "row", "processid", "what", "consequence"])
        writer.writeheader()
        writer.writerows(vars(problem) for problem in problems)
    os.replace(part, path)
