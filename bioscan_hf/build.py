"""A release as sharded Parquet that `datasets.load_dataset` reads by name, with no code of ours.

`build` works shard by shard: each is written under a temporary name, renamed when whole and entered in a manifest, so
a killed build goes on where it stood, and half a shard is never visible.
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
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .hub import dataset_card
from .release import (
    UNASSIGNED,
    Photos,
    Problem,
    ReleaseError,
    Scan,
    features,
    find_metadata,
    packages,
    photo_root,
    read_typed,
    scan,
    stop,
)
from .results import file_hash, write_json, write_text
from .taxonomy import COLUMNS, check_config

LABELS_FILE = "labels.json"
MANIFEST_FILE = "manifest.json"
PROBLEMS_FILE = "problems.csv"

#: Rows of one Parquet shard, about 500 MB at the published sizes of the photos.
ROWS_PER_SHARD = {
    "dna": 1_000_000,
    "cropped_256": 25_000,
    "original_256": 25_000,
    "cropped": 25_000,
    "original_full": 12_000,
}
METADATA_ROWS_PER_GROUP = 50_000
PHOTO_ROWS_PER_GROUP = 1_000


class ParquetShard:
    """One Parquet file, invisible under its name until it is whole."""

    def __init__(self, path: Path, config: str, schema: pa.Schema):
        self.path, self.rows = path, 0
        self._part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        compression = {name: "zstd" for name in schema.names if name != "image"}
        if config != "dna":  # JPEGs do not get smaller
            compression |= {"image.bytes": "none", "image.path": "zstd"}
        self._writer = pq.ParquetWriter(
            self._part,
            schema,
            compression=compression,
            write_page_index=True,
            use_content_defined_chunking=True,
        )

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self.rows += len(table)

    def close(self) -> dict[str, Any]:
        """Makes the file visible; returns its entry for the manifest."""
        self._writer.close()
        entry = {"rows": self.rows, "bytes": self._part.stat().st_size, "sha256": file_hash(self._part)}
        os.replace(self._part, self.path)
        return entry


def shard_names(config: str, counts: dict[str, int], rows_per_shard: int) -> dict[str, list[str]]:
    """Split -> names of its Parquet files, relative to the dataset's folder."""
    names = {}
    for split, count in counts.items():
        n = -(-count // rows_per_shard)
        names[split] = [f"{config}/{split}-{i:05d}-of-{n:05d}.parquet" for i in range(n)]
    return names


@dataclass
class Manifest:
    """The state of a build, kept in the output folder: what it is made of, and which shards are whole."""

    path: Path
    about: dict[str, Any]
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    complete: bool = False

    def save(self) -> None:
        problems = [vars(problem) for problem in self.problems]
        write_json(self.path, {**self.about, "complete": self.complete, "shards": self.shards, "problems": problems})

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
    workers: int = 1,
    keep_going: bool = False,
    force: bool = False,
    unassigned: bool = False,
    rows_per_shard: dict[str, int] | None = None,
    progress: Callable[[str, int], None] = lambda text, rows: None,
) -> Manifest:
    """Writes a release as sharded Parquet that `datasets.load_dataset(output, config, split=...)` reads by name.

    Started again after an interruption, it completes the same output. Shards are in CSV order within a split.

    Args:
        source: Folder of a release, or a metadata CSV.
        output: New folder, or one that an earlier, interrupted build has made from the same source.
        configs: "dna" is always written; by default with every image package that the source holds.
        workers: Processes that read photos.
        keep_going: Report problems in `problems.csv` and go on, where the default stops at the first.
        force: Replace what an earlier build has written to `output`, and allow other files beside it.
        unassigned: Accept rows without a split; they go to a split called "unassigned".
        rows_per_shard: Config -> rows, instead of `ROWS_PER_SHARD`.
        progress: Called with what is done and the number of rows.

    Raises:
        FileExistsError: if `output` holds something else.
        FileNotFoundError: if the source holds no metadata, or none of the photos asked for.
        ReleaseError: at the first problem, unless `keep_going`.
    """
    path, output = find_metadata(source), Path(output)
    wanted = ["dna", *(packages(photo_root(source)) if configs is None else [c for c in configs if c != "dna"])]
    for config in wanted:
        check_config(config)
    for config in wanted[1:]:
        Photos(photo_root(source), config).close()  # fails early

    sizes = {**ROWS_PER_SHARD, **(rows_per_shard or {})}
    stat = path.stat()
    about = {
        "source": {"name": path.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns},
        "configs": wanted,
        "rows_per_shard": {config: sizes[config] for config in wanted},
        "keep_going": keep_going,
        "unassigned": unassigned,
    }
    manifest = _open_manifest(output, about, force)
    if manifest.complete and all(map(manifest.holds, manifest.shards)):
        return manifest
    manifest.complete, manifest.problems = False, []

    def report(problem: Problem) -> None:
        if not keep_going:
            stop(problem)
        if problem not in manifest.problems:
            manifest.problems.append(problem)

    checked = scan(path, report, unassigned=unassigned)
    output.mkdir(parents=True, exist_ok=True)
    manifest.save()
    checked.labels.save(output / LABELS_FILE)
    _write_metadata(path, checked, manifest, sizes["dna"], report, progress)
    for config in wanted[1:]:
        _write_photos(photo_root(source), config, checked, manifest, sizes, workers, report, progress)
    if manifest.problems:
        write_problems(output / PROBLEMS_FILE, manifest.problems)
    card = dataset_card(path.name, wanted, checked.counts, {c: manifest.fingerprint(c) for c in wanted})
    write_text(output / "README.md", card)
    manifest.complete = True
    manifest.save()
    return manifest


def _open_manifest(output: Path, about: dict[str, Any], force: bool) -> Manifest:
    """The manifest of an interrupted build of the same thing, or a new one; refuses a folder with anything else."""
    path = output / MANIFEST_FILE
    manifest = Manifest(path, about)
    if not output.exists() or not any(output.iterdir()):
        return manifest
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if old is None and not force:
        raise FileExistsError(
            f"{str(output)!r} holds something else ({next(output.iterdir()).name!r}, ...). "
            f"Give a new folder, or force=True (--force) to write into this one."
        )
    if old is None:
        return manifest
    if {key: old.get(key) for key in about} == about:
        for part in output.glob("*/*.part"):
            part.unlink()
        manifest.shards, manifest.complete = old["shards"], old["complete"]
        manifest.problems = [Problem(**problem) for problem in old["problems"]]
        return manifest
    different = [key for key in about if old.get(key) != about[key]]
    if not force:
        raise FileExistsError(
            f"{str(output)!r} holds a build with another {' and '.join(different)}. "
            f"Give a new folder, or force=True (--force) to replace that build."
        )
    for name in (*old["shards"], PROBLEMS_FILE):
        (output / name).unlink(missing_ok=True)
    return manifest


def _write_metadata(
    path: Path,
    checked: Scan,
    manifest: Manifest,
    rows_per_shard: int,
    report: Callable[[Problem], None],
    progress: Callable[[str, int], None],
) -> None:
    """Writes the shards of the config `dna` that are missing, in one pass over the CSV."""
    names = shard_names("dna", checked.counts, rows_per_shard)
    if all(manifest.holds(name) for split in names.values() for name in split):
        return
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
    checked: Scan,
    manifest: Manifest,
    sizes: dict[str, int],
    workers: int,
    report: Callable[[Problem], None],
    progress: Callable[[str, int], None],
) -> None:
    """Writes the shards of an image config that are missing; each takes its rows from the `dna` shards."""
    output = manifest.path.parent
    metadata = shard_names("dna", checked.counts, sizes["dna"])
    tasks = []
    for split, names in shard_names(config, checked.counts, sizes[config]).items():
        for i, name in enumerate(names):
            first = i * sizes[config]
            rows = (first, min(first + sizes[config], checked.counts[split]))
            if not manifest.holds(name):
                files = [str(output / file) for file in metadata[split]]
                tasks.append((str(root), config, split, files, sizes["dna"], rows, str(output / name), name))

    def finish(result: tuple[str, dict[str, Any], list[Problem]]) -> None:
        name, entry, problems = result
        for problem in problems:
            report(problem)
        manifest.shards[name] = entry
        manifest.save()
        progress(config, entry["rows"])

    if workers <= 1:
        for task in tasks:
            finish(write_photo_shard(*task, stop_at_problem=not manifest.about["keep_going"]))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [
            pool.submit(write_photo_shard, *task, stop_at_problem=not manifest.about["keep_going"]) for task in tasks
        ]
        try:
            for future in futures:
                finish(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def write_photo_shard(
    root: str,
    config: str,
    split: str,
    metadata_files: list[str],
    metadata_rows_per_shard: int,
    rows: tuple[int, int],
    path: str,
    name: str,
    *,
    stop_at_problem: bool,
) -> tuple[str, dict[str, Any], list[Problem]]:
    """Writes one shard: rows [first, end) of a split with their photos. Returns name, manifest entry and problems."""
    problems: list[Problem] = []
    photos = Photos(root, config)
    first_file, last_file = rows[0] // metadata_rows_per_shard, (rows[1] - 1) // metadata_rows_per_shard
    parts = [pq.read_table(file) for file in metadata_files[first_file : last_file + 1]]
    table = pa.concat_tables(parts).slice(rows[0] - first_file * metadata_rows_per_shard, rows[1] - rows[0])
    extra = [column for column in table.column_names if column not in COLUMNS]
    schema = features(config, extra).arrow_schema
    shard = ParquetShard(Path(path), config, schema)
    for start in range(0, len(table), PHOTO_ROWS_PER_GROUP):
        group = table.slice(start, PHOTO_ROWS_PER_GROUP)
        images: list[dict[str, Any]] = []
        kept: list[bool] = []
        for processid in group["processid"].to_pylist():
            try:
                images.append({"bytes": photos.read(processid, split), "path": f"{processid}.jpg"})
                kept.append(True)
            except ReleaseError as error:
                problem = Problem(Path(path).name, None, processid, str(error), f"left out of {config}")
                if stop_at_problem:
                    stop(problem)
                problems.append(problem)
                kept.append(False)
        group = group.filter(pa.array(kept))
        column = pa.array(images, type=schema.field("image").type)
        shard.write(group.add_column(0, "image", column).select(schema.names).cast(schema))
    photos.close()
    return name, shard.close(), problems


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Writes problems as CSV, one a line."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "row", "processid", "what", "consequence"])
        writer.writeheader()
        writer.writerows(vars(problem) for problem in problems)
    os.replace(part, path)
