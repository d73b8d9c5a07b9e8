"""Writing the Parquet shards of a build: metadata, or photos with their rows.

A shard is visible under its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import file_hash, replacing
from ..release.columns import features
from ..release.photos import Photos
from ..release.problems import Problem, ReleaseError
from ..schema import COLUMNS, ROW_COLUMN
from .manifest import Manifest
from .problems import ProblemList

METADATA_ROWS_PER_GROUP = 50_000
PHOTO_ROWS_PER_GROUP = 1_000


class ParquetShard:
    """A Parquet file that is being written."""

    def __init__(self, path: Path, config: str, schema: pa.Schema):
        self.rows = 0
        self._replacing = replacing(path)
        self._part = self._replacing.__enter__()
        compression = {name: "zstd" for name in schema.names if name != "image"}
        if config != "dna":  # JPEGs do not get smaller
            compression |= {"image.bytes": "none", "image.path": "zstd"}
        options = {"compression": compression, "write_page_index": True, "use_content_defined_chunking": True}
        self._writer = pq.ParquetWriter(self._part, schema, **options)

    def write(self, table: pa.Table) -> None:
        """Writes a row group."""
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self.rows += len(table)

    def close(self) -> dict[str, Any]:
        """Makes the file visible; returns its entry for the manifest."""
        self._writer.close()
        entry = {"rows": self.rows, "bytes": self._part.stat().st_size, "sha256": file_hash(self._part)}
        self._replacing.__exit__(None, None, None)
        return entry


# ---- metadata ------------------------------------------------------------------------------------------------------


class SplitShards:
    """The shards of one split in the config `dna`, written while rows arrive. Shards that are complete are kept."""

    def __init__(self, manifest: Manifest, split: str, schema: pa.Schema):
        self.manifest, self.schema = manifest, schema
        self.names, self.count = manifest.names("dna")[split], manifest.counts[split]
        self.rows_per_shard = manifest.about["rows_per_shard"]["dna"]
        self._waiting: list[pa.Table] = []
        self._done = 0  # rows that were written, or are in a complete shard
        self._shard: ParquetShard | None = None

    def add(self, table: pa.Table) -> None:
        """Takes the next rows of the split."""
        if len(table):
            self._waiting.append(pa.Table.from_arrays(table.columns, schema=self.schema))
            if sum(map(len, self._waiting)) >= METADATA_ROWS_PER_GROUP:
                self.flush()

    def flush(self, last: bool = False) -> None:
        """Writes whole row groups; all rows if they are the `last`."""
        table = pa.concat_tables(self._waiting)
        group = min(METADATA_ROWS_PER_GROUP, self.rows_per_shard)
        while len(table) >= group or (last and len(table)):
            index, within = divmod(self._done, self.rows_per_shard)
            rows = table.slice(0, min(group, self.rows_per_shard - within))
            self._write(self.names[index], rows)
            table = table.slice(len(rows))
        self._waiting = [table]

    def _write(self, name: str, rows: pa.Table) -> None:
        if not self.manifest.holds(name):
            self._shard = self._shard or ParquetShard(self.manifest.path.parent / name, "dna", self.schema)
            self._shard.write(rows)
        self._done += len(rows)
        if self._shard is not None and (self._done % self.rows_per_shard == 0 or self._done == self.count):
            self.manifest.shards[name] = self._shard.close()
            self.manifest.save()
            self._shard = None


# ---- photos --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhotoShard:
    """A shard of photos to write: some rows of a split."""

    config: str
    split: str
    name: str  # of the file in `output`
    rows: tuple[int, int]  # first row of the split, and the row after the last
    output: Path  # folder of the build
    metadata: tuple[str, ...]  # names of the split's files of the config `dna`
    root: Path  # folder of the release
    index: str  # folder with the index of the release's zips
    keep_going: bool  # whether a photo that cannot be read is left out instead of raising ReleaseError


def write_photo_shard(task: PhotoShard) -> tuple[str, dict[str, Any], list[Problem]]:
    """Writes a shard of photos; returns its name, its entry for the manifest, and its problems."""
    problems = ProblemList(task.keep_going)
    photos = Photos(task.root, task.config, task.index)
    table = _read_rows([task.output / name for name in task.metadata], *task.rows)
    extra = [column for column in table.column_names if column not in (*COLUMNS, ROW_COLUMN)]
    schema = features(task.config, extra).arrow_schema
    shard = ParquetShard(task.output / task.name, task.config, schema)
    for start in range(0, len(table), PHOTO_ROWS_PER_GROUP):
        group = table.slice(start, PHOTO_ROWS_PER_GROUP)
        images: list[dict[str, Any]] = []
        kept: list[bool] = []
        for processid in group["processid"].to_pylist():
            try:
                images.append({"bytes": photos.read(processid, task.split), "path": f"{processid}.jpg"})
                kept.append(True)
            except ReleaseError as error:
                file = Path(task.name).name
                problems.report(Problem(file, None, processid, str(error), f"left out of {task.config}"))
                kept.append(False)
        column = pa.array(images, type=schema.field("image").type)
        group = group.filter(pa.array(kept)).add_column(0, "image", column)
        shard.write(group.select(schema.names).cast(schema))
    photos.close()
    return task.name, shard.close(), list(problems)


def _read_rows(files: Sequence[Path], first: int, end: int) -> pa.Table:
    """Rows [first, end) of consecutive Parquet files. Only row groups that hold some of them are read."""
    parts, start = [], 0
    for name in files:
        with pq.ParquetFile(name) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start < end and start + rows > first:
                    low, high = max(first - start, 0), min(end - start, rows)
                    parts.append(file.read_row_group(group).slice(low, high - low))
                start += rows
    return pa.concat_tables(parts)
