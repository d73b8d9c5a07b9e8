"""An index of keys, found by cosine: exact, or approximate (HNSW, IVF-PQ) through faiss; on disk with its labels.

Equal key vectors, such as those of one barcode, are kept once: then they are equally near to a query to the last bit,
however a matrix product sums. An approximate index proposes keys, and their similarities are computed exactly.
A folder of an index holds `index.json`, `vectors.safetensors`, `labels.parquet` and, if approximate, `index.faiss`.
Shape letters: N = keys, U = distinct key vectors, Q = queries, D = embedding size, W = neighbours.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files import read_json

KINDS = ("exact", "hnsw", "ivfpq")

#: Code of a key or query whose taxon is unknown.
UNKNOWN = -1

KEYS_AT_ONCE = 65_536
QUERIES_AT_ONCE = 1024

#: An approximate index proposes so many keys, or four times those that are wanted; the nearest of them are kept.
CANDIDATES = 128

#: Vectors from which an approximate index learns; more take longer and help little.
TRAINING_VECTORS = 262_144

#: An IVF-PQ index learns 256 centroids of each part of a vector; a reliable one takes 39 vectors (faiss).
FEWEST_FOR_IVFPQ = 39 * 256

FORMAT = 1

#: Field of `index.json` -> its type.
FIELDS = {"format": int, "kind": str, "keys": int, "distinct": int, "dim": int}

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RetrievalIndex:
    """Keys that can be searched.

    Attributes:
        vectors: Distinct unit vectors (U, D), float32; memory-mapped if the index was loaded.
        group: Row of `vectors` that belongs to each key (N,).
        codes: Rank -> place in `classes` (N,), -1 where unknown.
        classes: Rank -> names of its taxa, in ascending order.
        ids: Names of the keys, such as processids.
        kind: "exact", "hnsw" or "ivfpq".
        approximate: The faiss index, None if exact.
    """

    vectors: Tensor
    group: Ids
    codes: dict[str, Ids]
    classes: dict[str, list[str]]
    ids: list[str]
    kind: str
    approximate: Any

    def __len__(self) -> int:
        return len(self.group)


def build_index(
    embeddings: ArrayLike,
    labels: Mapping[str, Sequence[str | None]],
    *,
    ids: Sequence[str] | None = None,
    kind: str = "exact",
    links: int = 32,
    effort: int = 128,
) -> RetrievalIndex:
    """An index of keys.

    Args:
        embeddings: (N, D), of any length but 0; unit vectors are made of them.
        labels: Rank -> names (N,), None where unknown.
        ids: Names of the keys (N,); their row numbers if not given.
        kind: "exact" compares a query with every key. "hnsw" follows a graph of near keys: fast, and larger than the
            vectors. "ivfpq" compares within some cells, by vectors cut to an eighth of a byte per number of 4 bytes:
            for millions of keys, 9,984 or more. Both need faiss. What they miss is told by `measure_recall`.
        links: HNSW: neighbours of a key in its graph.
        effort: HNSW: keys that a search keeps in view. IVF-PQ: cells that it looks into. More is slower, and misses
            less.

    Raises:
        ValueError: for an unknown kind, labels or ids of another length, NaN or infinite embeddings and zero vectors
            (the keys are named), and fewer keys than "ivfpq" learns from.
        ModuleNotFoundError: without faiss, unless exact.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of index {kind!r}. There are {', '.join(KINDS)}.")
    x = unit_vectors(embeddings, "keys", ids)
    names = [str(row) for row in range(len(x))] if ids is None else [str(name) for name in ids]
    for what, column in (("ids", names), *labels.items()):
        if len(column) != len(x):
            raise ValueError(f"{what!r} has {len(column)} entries for {len(x)} keys: each key needs one.")
    encoded = {rank: encode_names(column) for rank, column in labels.items()}
    group, first = distinct_rows(x)
    distinct = x if len(first) == len(x) else x[first]
    return RetrievalIndex(
        vectors=torch.from_numpy(distinct),
        group=group,
        codes={rank: codes for rank, (codes, _) in encoded.items()},
        classes={rank: classes for rank, (_, classes) in encoded.items()},
        ids=names,
        kind=kind,
        approximate=None if kind == "exact" else _approximate(distinct, kind, links, effort),
    )


def search(
    index: RetrievalIndex, queries: Floats, width: int, device: str | torch.device = "cpu"
) -> tuple[Floats, Ids]:
    """Similarities (Q, W) of the nearest distinct vectors, descending, and their rows in `index.vectors` (Q, W).

    An approximate index that finds fewer fills up with the similarity -inf and the row -1.

    Args:
        queries: Unit vectors (Q, D).
        width: W, at most the distinct vectors.
        device: Where the products are taken. At most 1,024 x 65,536 similarities exist at a time.
    """
    if index.approximate is None:
        return _search_exact(index.vectors, queries, width, torch.device(device))
    return _search_approximate(index, queries, width)


def measure_recall(index: RetrievalIndex, queries: ArrayLike, k: int = 5) -> dict[str, float | int]:
    """What an approximate search misses, and what it takes, beside the exact search of the same keys.

    Returns:
        recall: share of the `k` nearest distinct vectors that are found, up to 1e-6 of similarity, in [0, 1]; nearest:
            the same for the nearest one; queries, distinct_keys; seconds and exact_seconds of the two searches.

    Raises:
        ValueError: for a `k` that is not between 1 and the distinct vectors, and queries of another width or without
            a direction.
    """
    x = unit_vectors(queries, "queries", None)
    if not 1 <= k <= len(index.vectors) or x.shape[1] != index.vectors.shape[1]:
        raise ValueError(
            f"k={k} neighbours of {x.shape[1]} dimensions, but there are {len(index.vectors)} distinct vectors of "
            f"{index.vectors.shape[1]}: k must lie between 1 and their number, and both be as wide."
        )
    start = time.perf_counter()
    found, _ = search(index, x, k)
    middle = time.perf_counter()
    exact, _ = _search_exact(index.vectors, x, k, torch.device("cpu"))
    end = time.perf_counter()
    return {
        "recall": float((found >= exact[:, -1:] - 1e-6).mean()),
        "nearest": float((found[:, 0] >= exact[:, 0] - 1e-6).mean()),
        "k": k,
        "queries": len(x),
        "distinct_keys": len(index.vectors),
        "seconds": middle - start,
        "exact_seconds": end - middle,
    }


def save_index(index: RetrievalIndex, folder: str | Path) -> Path:
    """Writes an index with its labels; `index.json` comes last, and a folder without it is no index.

    Raises:
        FileExistsError: if the folder holds an index.
    """
    folder = Path(folder)
    if (folder / "index.json").exists():
        raise FileExistsError(f"{folder} holds an index. Choose another folder, or delete this one.")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"vectors": index.vectors.contiguous(), "group": torch.from_numpy(index.group)}
    _replace(folder / "vectors.safetensors", lambda path: save_file(tensors, path))
    table = pa.table({"id": index.ids} | {f"rank:{rank}": _names(index, rank) for rank in index.codes})
    _replace(folder / "labels.parquet", lambda path: pq.write_table(table, path))
    if index.approximate is not None:
        _replace(folder / "index.faiss", lambda path: _faiss().write_index(index.approximate, str(path)))
    about = {
        "format": FORMAT,
        "kind": index.kind,
        "keys": len(index),
        "distinct": index.vectors.shape[0],
        "dim": index.vectors.shape[1],
    }
    _replace(folder / "index.json", lambda path: path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8"))
    return folder


def load_index(folder: str | Path) -> RetrievalIndex:
    """An index that `save_index` wrote. Its vectors stay on disk until they are read.

    Raises:
        FileNotFoundError: if the folder holds no index.
        ValueError: if its files do not belong together, or are of another format; what is wrong is named.
        ModuleNotFoundError: for an approximate index without faiss.
    """
    folder = Path(folder)
    if not (folder / "index.json").exists():
        raise FileNotFoundError(f"{folder} has no index.json: it is no folder that save_index wrote to its end.")
    about = read_json(folder / "index.json", FIELDS)
    if about["format"] != FORMAT:
        raise ValueError(f"{folder} is an index of the format {about['format']}; this version reads {FORMAT}.")
    if about["kind"] not in KINDS:
        raise ValueError(f"'kind' in {folder}/index.json is {about['kind']!r}. There are {', '.join(KINDS)}.")
    tensors, table = load_file(folder / "vectors.safetensors"), pq.read_table(folder / "labels.parquet")
    _check_tables(folder, tensors, table)
    approximate = None if about["kind"] == "exact" else _faiss().read_index(str(folder / "index.faiss"))
    found = {
        "keys": {len(tensors["group"]), table.num_rows},
        "distinct": {len(tensors["vectors"])} | (set() if approximate is None else {approximate.ntotal}),
        "dim": {tensors["vectors"].shape[1]},
    }
    wrong = [f"{name} {about[name]} in index.json, {values} in the files" for name, values in found.items()]
    wrong = [text for text, (name, values) in zip(wrong, found.items(), strict=True) if values != {about[name]}]
    if wrong:
        raise ValueError(f"The files of {folder} do not belong together: {'; '.join(wrong)}.")
    columns = [name for name in table.column_names if name.startswith("rank:")]
    encoded = {name.removeprefix("rank:"): encode_names(table[name].to_pylist()) for name in columns}
    return RetrievalIndex(
        vectors=tensors["vectors"],
        group=tensors["group"].numpy(),
        codes={rank: codes for rank, (codes, _) in encoded.items()},
        classes={rank: classes for rank, (_, classes) in encoded.items()},
        ids=table["id"].to_pylist(),
        kind=about["kind"],
        approximate=approximate,
    )


def _check_tables(folder: Path, tensors: Mapping[str, Tensor], table: pa.Table) -> None:
    """Raises ValueError unless the files of an index hold what `save_index` writes."""
    for name, dimensions, dtype in (("vectors", 2, torch.float32), ("group", 1, torch.int64)):
        found = tensors.get(name)
        if found is None or found.ndim != dimensions or found.dtype != dtype:
            what = "absent" if found is None else f"{found.dtype} of the shape {tuple(found.shape)}"
            raise ValueError(
                f"{name!r} in {folder}/vectors.safetensors is {what}, but has to be {dtype} of {dimensions} "
                f"dimensions."
            )
    group, distinct = tensors["group"], len(tensors["vectors"])
    if len(group) and not 0 <= int(group.min()) <= int(group.max()) < distinct:
        raise ValueError(f"'group' in {folder}/vectors.safetensors names rows beyond its {distinct} vectors.")
    if "id" not in table.column_names:
        raise ValueError(f"{folder}/labels.parquet has no column 'id'; it has {', '.join(table.column_names)}.")


def push_index(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Uploads what `save_index` wrote to a dataset repository of the Hub, which is created if need be; its commit.

    A card (README.md, as `hub_protocols.index_card` renders it) in the folder goes with it.
    """
    from huggingface_hub import HfApi

    load_index(folder)  # a folder that cannot be loaded must not be published
    api = HfApi()
    repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    files = ["index.json", "vectors.safetensors", "labels.parquet", "index.faiss", "README.md"]
    done = api.upload_folder(folder_path=folder, repo_id=repo, repo_type="dataset", allow_patterns=files)
    return done.oid


def unit_vectors(embeddings: ArrayLike, name: str, ids: Sequence[str] | None) -> Floats:
    """Rows divided by their length, in float32.

    Raises:
        ValueError: for what is no matrix, and for rows that have no direction (NaN, infinite, or all zeros), named.
    """
    x = np.asarray(embeddings)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"The embeddings of the {name} must be a matrix (rows, dimensions), not empty; got {x.shape}."
        )
    unit, broken = np.empty(x.shape, np.float32), []
    for part in slices(len(x), KEYS_AT_ONCE):
        rows = x[part].astype(np.float64)
        length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
        broken += (part.start + np.flatnonzero(~(np.isfinite(length) & (length > 0)))).tolist()
        unit[part] = np.divide(rows, length, out=np.zeros_like(rows), where=np.isfinite(length) & (length > 0))
    if broken:
        named = ", ".join(str(row) if ids is None else f"{row} ({ids[row]})" for row in broken[:5])
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise ValueError(
            f"The embeddings of the {name} are NaN, infinite or zero in the rows {named}{more}: leave these rows out, "
            f"or find out why the encoder gave them."
        )
    unit += 0.0  # -0 becomes 0, so that equal rows have equal bytes
    return unit


def distinct_rows(x: Floats) -> tuple[Ids, Ids]:
    """Number of the group of equal rows that each row is in (N,), and the first row of each (U,), ascending."""
    factors = np.random.default_rng(0).integers(0, 2**63, x.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(x), np.uint64)
    for part in slices(len(x), 4096):
        bits = np.ascontiguousarray(x[part]).view(np.uint32).astype(np.uint64)
        bits ^= bits >> np.uint64(15)
        hashes[part] = (bits * factors).sum(axis=1, dtype=np.uint64)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    for part in slices(len(x), KEYS_AT_ONCE):
        if not np.array_equal(x[part], x[first[group[part]]]):  # two rows of one hash: about one in 10^6 of 5 M keys
            _, first, group = np.unique(x, axis=0, return_index=True, return_inverse=True)
            break
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[group.reshape(-1)], first[order].astype(np.int64)


def encode_names(names: Sequence[str | None]) -> tuple[Ids, list[str]]:
    """Places of names in their ascending list (n,), -1 for None, and that list.

    Raises:
        ValueError: for a label that is neither a name nor None.
    """
    wrong = next((name for name in names if not (name is None or isinstance(name, str))), None)
    if wrong is not None:
        raise ValueError(
            f"A label is {wrong!r} ({type(wrong).__name__}): labels are names, None where unknown. Turn ids into "
            f"names with LabelMaps.decode."
        )
    classes = sorted({name for name in names if name is not None})
    place: dict[str | None, int] = {name: code for code, name in enumerate(classes)}
    place[None] = UNKNOWN
    return np.fromiter((place[name] for name in names), np.int64, len(names)), classes


def slices(rows: int, size: int) -> Iterator[slice]:
    """Consecutive slices that cover `rows`."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _search_exact(vectors: Tensor, queries: Floats, width: int, device: torch.device) -> tuple[Floats, Ids]:
    best = torch.full((len(queries), width), -torch.inf, device=device)
    found = torch.full((len(queries), width), -1, dtype=torch.int64, device=device)
    x = torch.from_numpy(np.ascontiguousarray(queries)).to(device)
    for chunk in slices(len(vectors), KEYS_AT_ONCE):
        keys = vectors[chunk].to(device)
        for part in slices(len(x), QUERIES_AT_ONCE):
            values, places = (x[part] @ keys.T).topk(min(width, len(keys)), dim=1)
            values, places = torch.cat([best[part], values], 1), torch.cat([found[part], places + chunk.start], 1)
            best[part], order = values.topk(width, dim=1)
            found[part] = places.gather(1, order)
    return best.cpu().numpy(), found.cpu().numpy()


def _search_approximate(index: RetrievalIndex, queries: Floats, width: int) -> tuple[Floats, Ids]:
    wanted = min(max(CANDIDATES, 4 * width), len(index.vectors))
    best, found = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
    for part in slices(len(queries), QUERIES_AT_ONCE // 8):  # a query brings its candidates with it
        _, rows = index.approximate.search(np.ascontiguousarray(queries[part]), wanted)
        used, place = np.unique(rows, return_inverse=True)
        near = index.vectors[torch.from_numpy(used.clip(0))].numpy()[place.reshape(rows.shape)]  # (queries, wanted, D)
        similarity = np.where(rows >= 0, np.einsum("qd,qwd->qw", queries[part], near), -np.inf).astype(np.float32)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :width]
        best[part], found[part] = np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1)
    return best, found


def _approximate(x: Floats, kind: str, links: int, effort: int) -> Any:
    faiss, dim = _faiss(), x.shape[1]
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = max(200, 2 * links), effort
        graph.add(x)
        return graph
    if len(x) < FEWEST_FOR_IVFPQ:
        raise ValueError(
            f"An index 'ivfpq' learns from {FEWEST_FOR_IVFPQ:,} distinct keys or more, and there are {len(x):,}: "
            f"use 'exact' or 'hnsw'."
        )
    cells = int(min(4 * len(x) ** 0.5, len(x) // 39))
    bytes_of_key = next(parts for parts in range(max(1, dim // 8), 0, -1) if dim % parts == 0)
    coarse = faiss.IndexFlatIP(dim)
    cellular = faiss.IndexIVFPQ(coarse, dim, cells, bytes_of_key, 8, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).permutation(len(x))[:TRAINING_VECTORS]
    cellular.train(x[np.sort(sample)])
    for part in slices(len(x), KEYS_AT_ONCE):
        cellular.add(x[part])
    cellular.nprobe = min(effort, cells)
    return cellular


def _names(index: RetrievalIndex, rank: str) -> pa.Array:
    codes = pa.array(index.codes[rank], mask=index.codes[rank] == UNKNOWN)
    return pa.array(index.classes[rank], pa.string()).take(codes)


def _replace(path: Path, write: Any) -> None:
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Approximate indexes need faiss: pip install 'bioscan_hf[index]'. An index of the kind 'exact' does not."
        ) from error
    return faiss
