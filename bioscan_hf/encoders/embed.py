"""Embeddings of a dataset, in memory or in shards on disk.

A folder of embeddings holds `manifest.json` and `embeddings-00000-of-000NN.parquet` with the columns processid,
embedding (D numbers), valid, and the columns that are kept; `stored.py` reads it.
The protocol is BarcodeBERT's (https://arxiv.org/abs/2311.02401): one vector per row, float32, not normalised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from huggingface_hub.utils import tqdm
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from ..files import delete_inside, delete_temporaries, locked, read_json, replacing, write_json
from ..progress import Progress, silent
from .base import Encoder
from .batches import Known, embed_barcodes, embed_photos, encode, inference, resolve_dtype
from .rows import Rows, text_hash
from .stored import MANIFEST, Embeddings, load_embeddings, named, shard_path

__all__ = ["Embeddings", "embed", "load_embeddings", "model_fingerprint"]

#: Entries of a model's config that do not change its output.
INERT = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")


def embed(
    model: nn.Module,
    processor: Callable[..., Any],
    dataset: Any,
    *,
    batch_size: int = 256,
    output: str | Path | None = None,
    column: str | None = None,
    shard_size: int = 8192,
    dtype: str = "auto",
    keep: Sequence[str] = (),
    missing: str = "error",
    force: bool = False,
) -> Embeddings:
    """Embeds every row of a dataset, in order.

    The model runs on its device, in inference mode, and gets its training flags back. Equal barcodes are computed once
    if they are in one shard or among the last 256 MB of vectors. Under accelerate the processes share the shards, each
    on its own device, and none holds vectors of another: embeddings in a folder are read when they are first used.

    Args:
        model: `model(**inputs).pooler_output` is (B, D). Padding is cut off if `model.config.pooling` reads attended
            tokens only and the processor encodes columns; this changes an embedding by about 1e-6.
        processor: `processor(barcodes)` is a mapping of arrays or tensors with a row for each barcode. A tokenizer of
            transformers is called with `return_tensors="pt"` (for more options pass a `functools.partial` with them
            and this one); a `ColumnTokenizer` encodes whole columns at once. For photos it is
            `processor(photos, names)`: their bytes, and their names in errors. See `load_image_encoder`.
        dataset: A map-style `datasets.Dataset`, `ParquetRows` or an Arrow table, with the column processid and what is
            encoded.
        output: Folder to write to, and to resume from. None keeps all in memory.
        column: Column of barcodes or other texts, or of photos (`datasets.Image`), which are read batch by batch.
            None is what the encoder names, or "dna_barcode".
        shard_size: Rows per file.
        dtype: "float32", "bfloat16" (autocast; about 3 digits, several times as fast on a CPU with bfloat16 units),
            or "auto": bfloat16 on CUDA, float32 elsewhere. In float32 an embedding is within 1e-5 of that of its
            barcode alone, whatever the batch size. The vectors returned and written are always float32.
        keep: Further columns of the dataset to return and write with the embeddings, such as labels.
        missing: "error"; "invalid": a row without a value gets a vector of zeros and is not valid; or "drop": it is
            left out, also if its text is "".
        force: Whether other embeddings in `output` are replaced.

    Raises:
        ValueError: for an unknown option, a missing column or value, an empty dataset, a photo that cannot be decoded,
            a model that gives NaN (the processids are named), and an `output` with other embeddings.
        TypeError: for a streamed dataset.
        RuntimeError: if another run is writing to `output`.
    """
    if batch_size < 1 or shard_size < 1:
        raise ValueError(f"Batches and shards need 1 row or more; got {batch_size} and {shard_size}.")
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if output is None and state.num_processes > 1:
        raise ValueError(f"{state.num_processes} processes meet on disk: pass an output folder that all of them see.")
    if state.num_processes > 1 and state.device.type != "cpu":
        model = model.to(state.device)  # each process has its own; that of `model.cuda()` is the first one for all
    rows = Rows(dataset, model, column, keep, missing)
    encoding = _Encoding(model, processor, rows, batch_size, shard_size, resolve_dtype(model, dtype))
    with inference(model):
        if output is not None:
            return _embed_to(Path(output), encoding, state, force)
        with _bar(state, len(rows)) as bar:
            return _concatenated([encoding.compute(shard, _advance(bar)) for shard in range(encoding.shards)])


def _embed_to(folder: Path, encoding: _Encoding, state: PartialState, force: bool) -> Embeddings:
    """Writes the shards that are missing in a folder, each in one process, which alone holds its vectors."""
    with locked(folder, "embedding") if state.is_main_process else nullcontext():
        identity, digests = encoding.identity(state)
        found = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else identity
        other = [key for key, x in identity.items() if found.get(key) != x]
        if other and not force:
            hashes = ("dataset", "model", "processor")
            told = [key if key in hashes else f"{key} ({found.get(key)} there, {identity[key]} now)" for key in other]
            raise ValueError(
                f"{folder} holds other embeddings. What differs: {'; '.join(told)}. Choose another output folder, or "
                f"replace them with --force (in Python force=True)."
            )
        if other:
            state.wait_for_everyone()  # each process has read the manifest
        if state.is_main_process:
            delete_temporaries(folder)
            for path in [*folder.glob("embeddings-*.parquet"), folder / MANIFEST] if other else ():
                delete_inside(folder, path.name)
            if not (folder / MANIFEST).exists():
                write_manifest(folder, identity, encoding.model)
        paths = [shard_path(folder, shard, encoding.shards) for shard in range(encoding.shards)]
        fingerprints = [text_hash(json.dumps(identity), digest) for digest in digests]
        mine = _of_process(state, range(encoding.shards))
        # The processes share what is missing, so that none of them waits long for another.
        missing = sorted(gather_object([i for i in mine if not _is_written(paths[i], fingerprints[i])]))
        todo = _of_process(state, missing)
        with _bar(state, sum(map(encoding.size, todo))) as bar:
            for i in todo:
                write_shard(paths[i], encoding.compute(i, _advance(bar)), fingerprints[i])
        state.wait_for_everyone()
        embeddings = load_embeddings(folder)
        if state.is_main_process:
            write_manifest(folder, identity | {"dim": embeddings.dim}, encoding.model)
    return embeddings


@dataclass
class _Encoding:
    """An encoder and the rows that it encodes, shard by shard."""

    model: nn.Module
    processor: Callable[..., Any]
    rows: Rows
    batch_size: int
    shard_size: int
    precision: torch.dtype
    known: Known = field(default_factory=dict)

    @property
    def shards(self) -> int:
        return -(-len(self.rows) // self.shard_size)

    def size(self, shard: int) -> int:
        return min(self.shard_size, len(self.rows) - shard * self.shard_size)

    def compute(self, shard: int, progress: Progress) -> Embeddings:
        """Embeddings of a shard; ValueError for NaN or infinite ones."""
        rows, start, size = self.rows, shard * self.shard_size, self.size(shard)
        processids, there = rows.present(start, size)
        if there.any():
            vectors, whole = self._encode(start, size, progress)
        else:
            vectors, whole = np.zeros((0, self.dim), np.float32), np.zeros(0, np.bool_)
        broken = np.flatnonzero(there)[~np.isfinite(vectors).all(axis=1)]
        if len(broken):
            who = named([processids[i] for i in broken])
            raise ValueError(f"{who}: the model gives NaN or infinite embeddings of {rows.named}. Check its weights.")
        embeddings, valid = np.zeros((size, vectors.shape[1]), np.float32), np.zeros(size, np.bool_)
        embeddings[there], valid[there] = vectors, whole
        return Embeddings(processids, embeddings, valid, rows.kept(start, size))

    @cached_property
    def dim(self) -> int:
        """D, of the first rows that have a value."""
        return self._encode(self.rows.first(4), 4, silent)[0].shape[1]

    def _encode(self, start: int, size: int, progress: Progress) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of the values that these rows have, and which are valid."""
        if self.rows.photos:
            photos = self.rows.photo_batches(start, size, self.batch_size)
            vectors = embed_photos(self.model, self.processor, photos, dtype=self.precision, progress=progress)
            return vectors, np.ones(len(vectors), np.bool_)
        texts = [value for value in self.rows.values(start, size)[1] if value is not None]
        options: dict[str, Any] = {"batch_size": self.batch_size, "dtype": self.precision, "known": self.known}
        return embed_barcodes(self.model, self.processor, texts, progress=progress, **options)

    def identity(self, state: PartialState) -> tuple[dict[str, Any], list[str]]:
        """Manifest entries that must be equal to resume, and digests of shards, which the processes share.

        A processor is known by its output for the first barcodes or photos.
        """
        rows, mine = self.rows, _of_process(state, range(self.shards))
        found = dict(gather_object([(shard, rows.digest(shard * self.shard_size, self.shard_size)) for shard in mine]))
        digests = [found[shard] for shard in range(self.shards)]
        if rows.photos:
            names, photos = next(rows.photo_batches(rows.first(4), 4, 4))
            made = {name: torch.as_tensor(x) for name, x in self.processor(photos, names).items()}
            parts = [
                f"{name} {x.dtype} {tuple(x.shape)} {hashlib.sha256(x.contiguous().numpy().data).hexdigest()}"
                for name, x in sorted(made.items())
            ]
        else:
            first = rows.values(rows.first(64), 64)[1]
            inputs, _ = encode(self.processor, [value for value in first if value is not None])
            parts = [f"{name} {x.dtype} {tuple(x.shape)} {x.tolist()}" for name, x in sorted(inputs.items())]
        identity = {
            "rows": len(rows),
            "shard_size": self.shard_size,
            "column": ", ".join(rows.columns),
            "dataset": text_hash(*digests),
            "model": model_fingerprint(self.model),
            "processor": text_hash(*parts),
            "precision": str(self.precision).removeprefix("torch."),
        }
        return identity | ({"keep": rows.keep} if rows.keep else {}), digests


def model_fingerprint(model: nn.Module) -> str:
    """sha256 of a model's class, `extra_repr`, weights and relevant config.

    It stays the same when the model is saved and loaded, or moved to another device.
    """
    digest = hashlib.sha256(f"{type(model).__qualname__}{model.extra_repr()}".encode())
    network = model.network if isinstance(model, Encoder) else model
    if isinstance(network, PreTrainedModel):
        config = {key: value for key, value in network.config.to_dict().items() if key not in INERT}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _of_process(state: PartialState, items: Sequence[int]) -> Sequence[int]:
    """Every W-th item, of W processes."""
    return items[state.process_index :: state.num_processes]


def _bar(state: PartialState, rows: int) -> Any:
    return tqdm(total=rows, desc="Embedding", unit=" rows", delay=2, disable=not state.is_main_process)


def _advance(bar: Any) -> Progress:
    """Adds the progress of a shard to a bar."""
    start = bar.n
    return lambda stage, done, total: bar.update(start + done - bar.n)


def _concatenated(parts: Sequence[Embeddings]) -> Embeddings:
    return Embeddings(
        [processid for part in parts for processid in part.processids],
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.valid for part in parts]),
        {name: [value for part in parts for value in part.columns[name]] for name in parts[0].columns},
    )


def write_manifest(folder: Path, content: dict[str, Any], model: nn.Module) -> None:
    """Writes the manifest of a folder of embeddings: `content`, the encoder and versions of packages."""
    about = {
        "encoder": model.description if isinstance(model, Encoder) else type(model).__name__,
        "versions": {name: version(name) for name in ("bioscan_hf", "torch", "transformers", "datasets", "pyarrow")},
    }
    write_json(folder / MANIFEST, content | about)


def _is_written(path: Path, fingerprint: str) -> bool:
    """Whether `path` is a complete shard of these data and this model."""
    try:
        metadata = pq.read_metadata(path).metadata
    except (FileNotFoundError, pa.ArrowInvalid):  # absent, or cut short
        return False
    return metadata[b"fingerprint"].decode() == fingerprint


def write_shard(path: Path, part: Embeddings, fingerprint: str) -> None:
    """Writes a shard of embeddings with its columns; `fingerprint` tells shards of other rows apart."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.embeddings.reshape(-1)), part.dim)
    table = pa.table({"processid": part.processids, "embedding": vectors, "valid": part.valid})
    for name, values in part.columns.items():
        table = table.append_column(name, pa.array(values))
    table = table.replace_schema_metadata({"fingerprint": fingerprint})
    # A dictionary or compression does not make vectors smaller.
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="none", use_dictionary=list(part.columns))
