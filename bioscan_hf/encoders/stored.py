"""Embeddings of a dataset, in memory or on disk.

Older folders of the evaluation of CLIBD are read as well: `specimens-*.parquet`, with a column for each modality
instead of the columns embedding and valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..files import read_json

MANIFEST = "manifest.json"

#: Most shards of a folder.
MOST_SHARDS = 1_000_000


@dataclass(eq=False)
class Embeddings:
    """Embeddings of a dataset, in its order.

    Attributes:
        processids: n of them.
        embeddings: (n, D); zeros where `valid` is False.
        valid: (n,) False where there is nothing to embed, such as a barcode shorter than k.
        columns: Further columns of the dataset that were kept, such as labels: name -> n values.
    """

    processids: list[str]
    embeddings: NDArray[np.float32]
    valid: NDArray[np.bool_]
    columns: Mapping[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def dim(self) -> int:
        """D."""
        return self.embeddings.shape[1]


class StoredEmbeddings(Embeddings):
    """Embeddings in a folder; each attribute is read on first use."""

    def __init__(self, paths: Sequence[Path], column: str):
        self.paths, self._column = list(paths), column
        with readable(paths[0]):
            self._schema = pq.read_schema(paths[0])

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Each shard in turn, with some of its columns or all."""
        for path in self.paths:
            with readable(path):
                table = pq.read_table(path, columns=columns)
            yield table

    def __len__(self) -> int:
        return sum(pq.read_metadata(path).num_rows for path in self.paths)

    @property
    def dim(self) -> int:
        return self._schema.field(self._column).type.list_size

    @cached_property
    def processids(self) -> list[str]:  # type: ignore[override]
        return self._read("processid")

    @cached_property
    def valid(self) -> NDArray[np.bool_]:  # type: ignore[override]
        if "valid" in self._schema.names:
            return np.array(self._read("valid"), np.bool_)
        return np.concatenate([table[self._column].is_valid().to_numpy() for table in self.tables([self._column])])

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:  # type: ignore[override]
        vectors = np.zeros((len(self), self.dim), np.float32)
        start = 0
        for table in self.tables([self._column]):
            column = table[self._column].combine_chunks()
            there = start + np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            vectors[there] = column.drop_null().flatten().to_numpy().reshape(-1, self.dim)
            start += len(table)
        return vectors

    @cached_property
    def columns(self) -> Mapping[str, list[Any]]:  # type: ignore[override]
        own = {"processid", "valid", *_vector_columns(self._schema)}
        return {name: self._read(name) for name in self._schema.names if name not in own}

    def _read(self, name: str) -> list[Any]:
        return [value for table in self.tables([name]) for value in table[name].to_pylist()]


def load_embeddings(folder: str | Path, modality: str | None = None) -> StoredEmbeddings:
    """Embeddings that `embed` wrote to `folder`, in the order of the dataset.

    Args:
        modality: For a folder with embeddings of several.

    Raises:
        FileNotFoundError: if there is no manifest.
        ValueError: if the manifest or shards are broken, shards are missing (they are named), or the folder has
            several modalities and not this one.
    """
    folder = folder_of(folder, modality)
    paths, first = _shards(folder)
    found = _vector_columns(first)
    if "embedding" in found:
        return StoredEmbeddings(paths, "embedding")
    if modality is None or modality not in found:
        raise ValueError(f"{str(folder)!r} has embeddings of {', '.join(found)}, but not of {modality!r}.")
    return StoredEmbeddings(paths, modality)


def modalities_of(folder: str | Path) -> list[str]:
    """Modalities of a folder of several; none for any other folder."""
    folder = Path(folder)
    found = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if found or not (folder / MANIFEST).exists():
        return found
    return [name for name in _vector_columns(_shards(folder)[1]) if name != "embedding"]


def folder_of(folder: str | Path, modality: str | None) -> Path:
    """`folder`/`modality` if that has a manifest, else `folder`."""
    folder = Path(folder)
    return folder / modality if modality and (folder / modality / MANIFEST).exists() else folder


def shard_path(folder: Path, shard: int, shards: int, prefix: str = "embeddings") -> Path:
    return folder / f"{prefix}-{shard:05d}-of-{shards:05d}.parquet"


def named(names: Sequence[str | None]) -> str:
    """The first 5 names, and how many more there are."""
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _vector_columns(schema: pa.Schema) -> list[str]:
    return [entry.name for entry in schema if pa.types.is_fixed_size_list(entry.type)]


def _shards(folder: Path) -> tuple[list[Path], pa.Schema]:
    """Paths of the shards in order, and the schema of the first."""
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(f"{folder} has no {MANIFEST}. Give a folder of one split that `embed` wrote.")
    manifest = read_json(folder / MANIFEST, {"rows": int, "shard_size": int})
    rows, size = manifest["rows"], manifest["shard_size"]
    if min(rows, size) < 1:
        raise ValueError(f"'rows' and 'shard_size' in {str(folder / MANIFEST)!r} have to be 1 or more.")
    shards = -(-rows // size)
    if shards > MOST_SHARDS:
        raise ValueError(f"{str(folder / MANIFEST)!r} tells of {shards:,} shards; at most {MOST_SHARDS:,} are read.")
    prefix = "specimens" if next(folder.glob("specimens-*.parquet"), None) else "embeddings"
    paths = [shard_path(folder, shard, shards, prefix) for shard in range(shards)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise ValueError(
            f"{folder} has not all of its {shards} shards; missing: {named(missing)}. Run embed again with the same "
            f"model, data and output: it computes them."
        )
    for shard, path in enumerate(paths):
        with readable(path):
            expected, found = min(size, rows - shard * size), pq.read_metadata(path).num_rows
        if found != expected:
            raise ValueError(f"{str(path)!r} has {found} instead of {expected} rows. Delete it, and run embed again.")
    with readable(paths[0]):
        return paths, pq.read_schema(paths[0])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises ValueError, with the name of the file, for errors of Arrow."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = " ".join(str(error)[:300].split())
        if "Expected all lists to be of size" in told:  # null vectors, as version 0.1 wrote them
            raise ValueError(f"{path} needs pyarrow 26 or newer (this is {pa.__version__}).") from error
        raise ValueError(f"{path} is damaged ({told}). Delete it, and run embed again.") from error
