"""Index of keys searched by cosine: exact, or approximate (HNSW, IVF-PQ) with faiss.

Equal key vectors, such as those of one barcode, are stored once, so that they are exactly equally near to a query.
An approximate index proposes keys, and their similarities are then computed exactly.
Shape letters: N = keys, U = distinct key vectors, Q = queries, D = embedding size, W = neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files import read_json, replacing, write_json
from ..labels import LabelMaps
from .exact import KEYS_AT_ONCE, Neighbours, nearest
from .vectors import Floats, Ids, check_query, distinct_rows, slices, unit_vectors

KINDS = ("exact", "hnsw", "ivfpq")

#: Code of an unknown taxon.
UNKNOWN = -1

#: An approximate index proposes at least this many keys, or four times the wanted number; the nearest are kept.
CANDIDATES = 128

#: Queries searched at once in an approximate index.
QUERIES_AT_ONCE = 128

#: Vectors used to train an IVF-PQ index; more take longer with little gain.
TRAINING_VECTORS = 262_144

#: Fewest vectors for an IVF-PQ index: faiss needs 39 for each of the 256 centroids of a part.
FEWEST_FOR_IVFPQ = 39 * 256

FORMAT = 1

#: Fields of `index.json` and their types.
FIELDS = {"format": int, "kind": str, "keys": int, "distinct": int, "dim": int}


@dataclass(frozen=True)
class RetrievalIndex:
    """Keys to search.

    Attributes:
        vectors: Distinct unit vectors (U, D), float32; memory-mapped if the index was loaded.
        group: Row of `vectors` of each key (N,).
        codes: Rank -> place in `classes` (N,), -1 where unknown.
        classes: Rank -> names of its taxa, in ascending order.
        ids: Names of the keys (N,), such as processids.
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

    @property
    def dim(self) -> int:
        """Dimensions of a vector, D."""
        return int(self.vectors.shape[1])


def build_index(
    embeddings: ArrayLike,
    labels: Mapping[str, Sequence[str | None]],
    *,
    ids: Sequence[str] | None = None,
    kind: str = "exact",
    links: int = 32,
    effort: int = 128,
) -> RetrievalIndex:
    """Builds an index of keys.

    Args:
        embeddings: (N, D) of any length except 0; converted to unit vectors.
        labels: Rank -> names (N,), None where unknown.
        ids: Names of the keys (N,); their row numbers by default.
        kind: "exact" compares a query with every key. "hnsw" searches a graph of near keys: fast, and larger than the
            vectors. "ivfpq" searches some cells with vectors compressed 32-fold: for millions of keys, at least 9,984.
            Both need faiss; `measure_recall` measures what they miss.
        links: HNSW: neighbours of each key in the graph.
        effort: HNSW: candidates kept during a search. IVF-PQ: cells searched. More is slower and misses less.

    Raises:
        ValueError: for an unknown kind, labels or ids of another length, NaN, infinite or zero embeddings, and too few
            keys for "ivfpq".
        ModuleNotFoundError: without faiss, unless exact.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of index {kind!r}. Choose one of {', '.join(KINDS)}.")
    x = unit_vectors(embeddings, "keys", ids)
    names = list(map(str, range(len(x)) if ids is None else ids))
    for what, column in (("ids", names), *labels.items()):
        if len(column) != len(x):
            raise ValueError(f"{what!r} has {len(column)} entries for {len(x)} keys: each key needs one.")
    group, first = distinct_rows(x)
    distinct = x if len(first) == len(x) else x[first]
    approximate = None if kind == "exact" else _approximate(distinct, kind, links, effort)
    return RetrievalIndex(torch.from_numpy(distinct), group, *encode_names(labels), names, kind, approximate)


def encode_names(labels: Mapping[str, Sequence[str | None]]) -> tuple[dict[str, Ids], dict[str, list[str]]]:
    """Rank -> places of the names in their ascending list (n,), -1 where unknown; and rank -> that list."""
    for names in labels.values():
        wrong = next((name for name in names if not (name is None or isinstance(name, str))), None)
        if wrong is not None:
            raise ValueError(
                f"A label is {wrong!r} ({type(wrong).__name__}): labels are names, None where unknown. Turn ids into "
                f"names with LabelMaps.decode."
            )
    maps = LabelMaps(labels)
    codes = {rank: np.array(maps.encode(rank, names), np.int64) for rank, names in labels.items()}
    return codes, {rank: list(maps.names(rank)) for rank in labels}


def search(index: RetrievalIndex, queries: Floats, width: int, device: str | torch.device = "cpu") -> Neighbours:
    """Rows of the nearest `index.vectors` (Q, W), and cosines. Of equally near vectors, the first row comes first.

    `queries` are unit vectors (Q, D), and `width` is W, at most U. An approximate index that finds fewer than W fills
    up with the row -1 and the similarity -inf.
    """
    if index.approximate is None:
        return nearest(queries, index.vectors.numpy(), width, metric="dot", device=device)
    wanted = min(max(CANDIDATES, 4 * width), len(index.vectors))
    best, found = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
    for part in slices(len(queries), QUERIES_AT_ONCE):
        _, rows = index.approximate.search(np.ascontiguousarray(queries[part]), wanted)
        used, place = np.unique(rows, return_inverse=True)
        near = index.vectors[torch.from_numpy(used.clip(0))].numpy()[place]  # (queries, wanted, D)
        similarity = np.where(rows >= 0, np.einsum("qd,qwd->qw", queries[part], near), -np.inf).astype(np.float32)
        order = np.lexsort((rows, -similarity), axis=1)[:, :width]
        best[part], found[part] = np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1)
    return Neighbours(found, best)


def measure_recall(index: RetrievalIndex, queries: ArrayLike, k: int = 5) -> dict[str, float | int]:
    """Recall and time of an approximate search against exact search.

    Returns:
        recall: share of the `k` nearest distinct vectors that are found, up to 1e-6 of similarity, in [0, 1]; nearest:
            the same for the nearest one; k, queries, distinct_keys; seconds and exact_seconds of the two searches.

    Raises:
        ValueError: as `search.retrieve.retrieve`.
    """
    x = unit_vectors(queries, "queries")
    check_query(x.shape[1], index.dim, k, len(index.vectors))
    start = time.perf_counter()
    found = search(index, x, k).similarities
    middle = time.perf_counter()
    exact = nearest(x, index.vectors.numpy(), k, metric="dot").similarities
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
    """Writes `vectors.safetensors`, `labels.parquet`, `index.faiss` if approximate, and last `index.json`.

    Raises:
        FileExistsError: if the folder holds an index.
    """
    folder = Path(folder)
    if (folder / "index.json").exists():
        raise FileExistsError(f"{folder} holds an index. Choose another folder, or delete this one.")
    with replacing(folder / "vectors.safetensors") as path:
        save_file({"vectors": index.vectors.contiguous(), "group": torch.from_numpy(index.group)}, path)
    columns: dict[str, Any] = {"id": index.ids}
    for rank, codes in index.codes.items():
        names = pa.array(index.classes[rank], pa.string())
        columns[f"rank:{rank}"] = names.take(pa.array(codes, mask=codes == UNKNOWN))
    with replacing(folder / "labels.parquet") as path:
        pq.write_table(pa.table(columns), path)
    if index.approximate is not None:
        with replacing(folder / "index.faiss") as path:
            _faiss().write_index(index.approximate, str(path))
    sizes = {"keys": len(index), "distinct": len(index.vectors), "dim": index.dim}
    write_json(folder / "index.json", {"format": FORMAT, "kind": index.kind, **sizes})
    return folder


def load_index(folder: str | Path) -> RetrievalIndex:
    """Loads an index that `save_index` wrote. Its vectors stay on disk until they are read.

    Raises:
        FileNotFoundError: if the folder holds no index.
        ValueError: if its files do not belong together, or are of another format.
    """
    folder = Path(folder)
    if not (folder / "index.json").exists():
        raise FileNotFoundError(f"{folder} has no index.json: it is not the folder of a complete index.")
    about = read_json(folder / "index.json", FIELDS)
    kind = about["kind"]
    if about["format"] != FORMAT:
        raise ValueError(f"{folder} is an index of format {about['format']}; this version reads format {FORMAT}.")
    if kind not in KINDS:
        raise ValueError(f"'kind' in {folder}/index.json is {kind!r}, but must be one of {', '.join(KINDS)}.")
    try:
        tensors, table = load_file(folder / "vectors.safetensors"), pq.read_table(folder / "labels.parquet")
        approximate = None if kind == "exact" else _faiss().read_index(str(folder / "index.faiss"))
    except (SafetensorError, pa.ArrowException, OSError, RuntimeError, UnicodeDecodeError) as error:
        told = " ".join(str(error)[:300].split())
        raise ValueError(f"A file of the index {folder} is damaged ({told}). Build the index again.") from error
    _check_tables(folder, tensors, table)
    vectors, group = tensors["vectors"], tensors["group"].numpy()
    distinct = {len(vectors)} if approximate is None else {len(vectors), approximate.ntotal}
    for name, sizes in (("keys", {len(group), len(table)}), ("distinct", distinct), ("dim", {vectors.shape[1]})):
        if sizes != {about[name]}:
            told = f"{name} {about[name]} in index.json, {sizes} in the files"
            raise ValueError(f"The files of {folder} do not belong together: {told}.")
    columns = [name for name in table.column_names if name.startswith("rank:")]
    names = encode_names({name.removeprefix("rank:"): table[name].to_pylist() for name in columns})
    return RetrievalIndex(vectors, group, *names, table["id"].to_pylist(), kind, approximate)


def push_index(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Uploads a saved index, and the README.md beside it, to a dataset repository; returns the commit hash.

    The repository is created if it does not exist.
    """
    from huggingface_hub import HfApi

    load_index(folder)  # a folder that cannot be loaded must not be published
    api = HfApi()
    repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    files = ["index.json", "vectors.safetensors", "labels.parquet", "index.faiss", "README.md"]
    return api.upload_folder(folder_path=folder, repo_id=repo, repo_type="dataset", allow_patterns=files).oid


def _check_tables(folder: Path, tensors: Mapping[str, Tensor], table: pa.Table) -> None:
    """Raises ValueError unless the files have the expected tensors and columns."""
    for name, dimensions, dtype in (("vectors", 2, torch.float32), ("group", 1, torch.int64)):
        found = tensors.get(name)
        if found is None or found.ndim != dimensions or found.dtype != dtype:
            what = "absent" if found is None else f"{found.dtype} of the shape {tuple(found.shape)}"
            raise ValueError(
                f"{name!r} in {folder}/vectors.safetensors is {what}, but must be {dtype} of {dimensions} dimensions."
            )
    group, distinct = tensors["group"], len(tensors["vectors"])
    if len(group) and not 0 <= int(group.min()) <= int(group.max()) < distinct:
        raise ValueError(f"'group' in {folder}/vectors.safetensors has rows beyond its {distinct} vectors.")
    if "id" not in table.column_names:
        raise ValueError(f"{folder}/labels.parquet has no column 'id'; it has {', '.join(table.column_names)}.")


def _approximate(x: Floats, kind: str, links: int, effort: int) -> Any:
    faiss, dim = _faiss(), x.shape[1]
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = max(200, 2 * links), effort
        graph.add(x)
        return graph
    if len(x) < FEWEST_FOR_IVFPQ:
        raise ValueError(
            f"An 'ivfpq' index needs at least {FEWEST_FOR_IVFPQ:,} distinct keys, and there are {len(x):,}: use "
            f"'exact' or 'hnsw'."
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


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Approximate indexes need faiss: pip install 'bioscan_hf[index]', or use the kind 'exact'."
        ) from error
    return faiss
