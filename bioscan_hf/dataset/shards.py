"""Single Parquet files of a build: metadata, or photos with their rows; whole or invisible. A part of `build`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import file_hash
from ..release.check import Photos, Problem, ReleaseError, features, stop
from ..schema import COLUMNS

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


def read_rows(files: Sequence[str], first: int, end: int) -> pa.Table:
    """Rows [first, end) of Parquet files that follow each other; of each only the row groups that hold some."""
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


def write_photo_shard(
    config: str,
    split: str,
    metadata_files: list[str],
    rows: tuple[int, int],
    path: str,
    *,
    root: str,
    index: str,
    stop_at_problem: bool,
) -> tuple[dict[str, Any], list[Problem]]:
    """Writes one shard: rows [first, end) of a split with their photos. Returns its entry and its problems."""
    problems: list[Problem] = []
    photos = Photos(root, config, index)
    table = read_rows(metadata_files, *rows)
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
    return shard.close(), problems
