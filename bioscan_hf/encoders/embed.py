"""Embeddings of a whole dataset by any encoder: in memory, or on disk in shards that several processes share.

A folder of embeddings holds `manifest.json` and `embeddings-00000-of-000NN.parquet` with the columns processid,
embedding (D numbers) and valid. A run that was interrupted goes on where it stopped.
The protocol is BarcodeBERT's (https://arxiv.org/abs/2311.02401): one vector per barcode, in float32, not normalised.
Photos go the same way, batch by batch.
Shape letters: n = rows, B = batch, L = tokens, D = embedding size.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Dataset
from huggingface_hub.utils import tqdm
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from ..files import read_json
from ..models.pixels import photo_bytes
from .batches import Known, embed_barcodes, embed_photos, encode, inference, resolve_dtype

MANIFEST = "manifest.json"

#: Entries of a model's config that do not change its output.
INERT = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a dataset, in its order.

    Attributes:
        processids: n of them.
        embeddings: (n, D); zeros where `valid` is False.
        valid: (n,) False where the barcode held no whole token, such as one shorter than k.
    """

    processids: list[str]
    embeddings: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.processids)


def embed(
    model: nn.Module,
    processor: Callable[..., Any],
    dataset: Any,
    *,
    batch_size: int = 256,
    output: str | Path | None = None,
    column: str = "dna_barcode",
    shard_size: int = 8192,
    dtype: str = "auto",
) -> Embeddings:
    """Embeddings of every row, in order, with the rows' processids.

    The model runs where it is, in inference mode, and gets its training flags back. Equal barcodes are computed once,
    as far as they lie in one shard or in the last 256 MB of vectors. Under accelerate each process computes every
    W-th shard, and all return the whole.

    Args:
        model: `model(**inputs).pooler_output` is (B, D). Padding is cut off if `model.config.pooling` is "masked_mean"
            and the processor encodes columns, which changes an embedding by about 1e-6.
        processor: `processor(barcodes)` is a mapping of arrays or tensors with a row for each. A tokenizer of
            transformers is called with `return_tensors="pt"` (for more options pass a `functools.partial` with them
            and this one); a `ColumnTokenizer` encodes whole columns at once. For photos it is
            `processor(photos, names)`: their bytes, and what to call each in an error. See `load_image_encoder`.
        dataset: A map-style `datasets.Dataset` or an Arrow table, with the columns processid and `column`.
        output: Folder to write to, and to resume from. None keeps all in memory.
        column: Column of the barcodes, or of photos (`datasets.Image`), of which a batch is in memory.
        shard_size: Rows in a file.
        dtype: "float32", "bfloat16" (autocast; about 3 digits, several times as fast on a CPU that multiplies in it),
            or "auto": bfloat16 on CUDA, float32 elsewhere. In float32 an embedding is within 1e-5 of that of its
            barcode alone, whatever the batch size; the vectors that are returned and written are float32 always.

    Raises:
        ValueError: for an unknown dtype, a missing column, barcode or photo, an empty dataset, a photo that cannot be
            decoded, a model that gives NaN (its processids are named), an `output` with other embeddings (what differs
            is named), and several processes without `output`.
        TypeError: for a streamed dataset.
    """
    if batch_size < 1 or shard_size < 1:
        raise ValueError(f"batch_size and shard_size must be 1 or more; got {batch_size} and {shard_size}.")
    precision = resolve_dtype(model, dtype)
    source = _source(dataset, column)
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if output is None and state.num_processes > 1:
        raise ValueError(
            f"{state.num_processes} processes embed one dataset and meet on disk: pass output=FOLDER that all see."
        )
    starts = range(0, len(source), shard_size)
    mine = range(state.process_index, len(starts), state.num_processes)
    total = sum(min(shard_size, len(source) - starts[shard]) for shard in mine)
    bar = tqdm(total=total, desc="Embedding", unit=" rows", delay=2, disable=not state.is_main_process)
    known: Known = {}
    photos = _holds_photos(source, column)

    def compute(shard: int) -> Embeddings:
        if photos:
            rows = range(starts[shard], min(starts[shard] + shard_size, len(source)))
            batches = _photo_batches(source, column, rows, batch_size)
            vectors = embed_photos(model, processor, batches, dtype=precision, advance=bar.update)
            return _computed(_processids(source, rows), vectors, np.ones(len(rows), np.bool_))
        processids, barcodes = _rows(source, column, starts[shard], shard_size)
        options: dict[str, Any] = {"batch_size": batch_size, "dtype": precision, "known": known, "advance": bar.update}
        return _computed(processids, *embed_barcodes(model, processor, barcodes, **options))

    with bar, inference(model):
        if output is None:
            return _concatenated([compute(shard) for shard in mine])
        folder = Path(output)
        digests = [_digest(source, column, start, shard_size) for start in starts]
        identity = {
            "rows": len(source),
            "shard_size": shard_size,
            "column": column,
            "dataset": _hash(*digests),
            **_encoder_identity(model, processor, source, column, precision),
        }
        _check_folder(folder, identity)
        if state.is_main_process and not (folder / MANIFEST).exists():
            _write_manifest(folder, identity)
        for shard in mine:
            path = _shard_path(folder, shard, len(starts))
            fingerprint = _hash(json.dumps(identity), digests[shard])
            if _is_written(path, fingerprint):
                bar.update(min(shard_size, len(source) - starts[shard]))
            else:
                _write_shard(path, compute(shard), fingerprint)
    state.wait_for_everyone()
    embeddings = load_embeddings(folder)
    if state.is_main_process:
        _write_manifest(folder, identity | {"dim": embeddings.embeddings.shape[1]})
    return embeddings


def load_embeddings(folder: str | Path) -> Embeddings:
    """Embeddings that `embed` wrote to `folder`, in the order of the dataset.

    Raises:
        FileNotFoundError: if there is no manifest.
        ValueError: if shards are missing (they are named), or the manifest lacks a field or holds it in another type.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(f"{folder} has no {MANIFEST}: it is no folder that embed(..., output=FOLDER) wrote.")
    manifest = read_json(folder / MANIFEST, {"rows": int, "shard_size": int})
    rows, size = manifest["rows"], manifest["shard_size"]
    if min(rows, size) < 1:
        raise ValueError(f"'rows' and 'shard_size' in {str(folder / MANIFEST)!r} have to be 1 or more.")
    shards = -(-rows // size)
    paths = [_shard_path(folder, shard, shards) for shard in range(shards)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"{folder} lacks {len(missing)} of its {shards} shards: {', '.join(missing[:5])}{more}. "
            f"Run embed with the same model, data and output again: it computes what is missing."
        )
    dim = pq.read_schema(paths[0]).field("embedding").type.list_size
    embeddings, valid = np.empty((rows, dim), np.float32), np.empty(rows, np.bool_)
    processids: list[str] = []
    for shard, path in enumerate(paths):
        table, part = pq.read_table(path), slice(shard * size, min((shard + 1) * size, rows))
        vectors = table["embedding"].combine_chunks().flatten()
        embeddings[part] = vectors.to_numpy().reshape(-1, dim)
        valid[part] = table["valid"].to_numpy()
        processids += table["processid"].to_pylist()
    return Embeddings(processids, embeddings, valid)


def model_fingerprint(model: nn.Module) -> str:
    """sha256 of a model's class and `extra_repr`, of its weights, and of what its config says about its output.

    It does not change when the model is saved and loaded, or moved to another device.
    """
    digest = hashlib.sha256(f"{type(model).__qualname__}{model.extra_repr()}".encode())
    if isinstance(model, PreTrainedModel):
        config = {key: value for key, value in model.config.to_dict().items() if key not in INERT}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _source(dataset: Any, column: str) -> Any:
    """The two columns of an Arrow table, or of a Dataset whose slices are Arrow tables."""
    if not isinstance(dataset, (Dataset, pa.Table)):
        raise TypeError(
            f"embed takes a datasets.Dataset or an Arrow table, which have a length; got {type(dataset).__name__}. "
            f"Choose a split of a DatasetDict, and load without streaming."
        )
    columns = dataset.column_names
    for name in ("processid", column):
        if name not in columns:
            raise ValueError(f"The dataset has no column {name!r}; it has {', '.join(columns)}.")
    if len(dataset) == 0:
        raise ValueError("The dataset is empty: there is nothing to embed.")
    names = ["processid", column]
    return (
        dataset.select(names) if isinstance(dataset, pa.Table) else dataset.select_columns(names).with_format("arrow")
    )


def _slice(source: Any, start: int, size: int) -> pa.Table:
    return source.slice(start, size) if isinstance(source, pa.Table) else source[start : start + size]


def _holds_photos(source: Any, column: str) -> bool:
    kind = _slice(source, 0, 1)[column].type
    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _processids(source: Any, rows: range) -> list[str]:
    return _slice(source, rows.start, len(rows))["processid"].to_pylist()


def _photo_batches(source: Any, column: str, rows: range, size: int) -> Iterator[tuple[list[str], list[bytes]]]:
    """Processids and photos, as they are stored, of batches of the rows."""
    for start in rows[::size]:
        processids, values = _rows(source, column, start, min(size, rows.stop - start))
        yield processids, photo_bytes(values)[0]


def _digest(source: Any, column: str, start: int, size: int) -> str:
    """sha256 of the rows from `start` on. Of photos their lengths count, so that they need not all be read for it."""
    if not _holds_photos(source, column):
        return _hash(*chain(*_rows(source, column, start, size)))
    table = _slice(source, start, size)
    lengths = pc.binary_length(pc.struct_field(table[column], "bytes")).to_pylist()
    paths = pc.struct_field(table[column], "path").to_pylist()
    return _hash(*table["processid"].to_pylist(), *map(str, lengths), *map(str, paths))


def _rows(source: Any, column: str, start: int, size: int) -> tuple[list[str], list[Any]]:
    """Processids and barcodes, or photos, of the rows from `start` on."""
    table = _slice(source, start, size)
    processids, barcodes = table["processid"].to_pylist(), table[column].to_pylist()
    if None in barcodes or None in processids:
        missing = [name for name, barcode in zip(processids, barcodes, strict=True) if name is None or barcode is None]
        raise ValueError(
            f"{_named(missing)}: the processid or the value of {column!r} is missing. Filter these rows out first."
        )
    return processids, barcodes


def _computed(processids: list[str], vectors: NDArray[np.float32], valid: NDArray[np.bool_]) -> Embeddings:
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{_named([processids[i] for i in broken])}: the model gives NaN or infinite embeddings. "
            f"Look at these specimens, and at the model's weights and precision."
        )
    return Embeddings(processids, vectors, valid)


def _concatenated(parts: list[Embeddings]) -> Embeddings:
    return Embeddings(
        [processid for part in parts for processid in part.processids],
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.valid for part in parts]),
    )


def _encoder_identity(
    model: nn.Module, processor: Callable[..., Any], source: Any, column: str, precision: torch.dtype
) -> dict[str, str]:
    """What tells one encoder from another. A processor is known by what it makes of the first barcodes or photos."""
    if _holds_photos(source, column):
        names, photos = next(_photo_batches(source, column, range(min(4, len(source))), 4))
        made = {name: torch.as_tensor(x) for name, x in processor(photos, names).items()}
        parts = [
            f"{name} {x.dtype} {tuple(x.shape)} {hashlib.sha256(x.contiguous().numpy().data).hexdigest()}"
            for name, x in sorted(made.items())
        ]
    else:
        inputs, _ = encode(processor, _rows(source, column, 0, 64)[1])
        parts = [f"{name} {x.dtype} {tuple(x.shape)} {x.tolist()}" for name, x in sorted(inputs.items())]
    return {
        "model": model_fingerprint(model),
        "processor": _hash(*parts),
        "precision": str(precision).removeprefix("torch."),
    }


def _hash(*parts: str) -> str:
    """sha256 of texts, which does not confuse where one ends and the next begins."""
    lengths = ",".join(str(len(part)) for part in parts)
    return hashlib.sha256("\n".join([lengths, *parts]).encode()).hexdigest()


def _named(processids: list[str]) -> str:
    more = f" and {len(processids) - 5} more" if len(processids) > 5 else ""
    return f"{', '.join(map(str, processids[:5]))}{more}"


def _shard_path(folder: Path, shard: int, shards: int) -> Path:
    return folder / f"embeddings-{shard:05d}-of-{shards:05d}.parquet"


def _check_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Raises ValueError if `folder` has a manifest of other embeddings than those of `identity`."""
    if not (folder / MANIFEST).exists():
        return
    found = read_json(folder / MANIFEST)
    other = [
        f"{key} ({found.get(key)} there, {value} now)" for key, value in identity.items() if found.get(key) != value
    ]
    if other:
        raise ValueError(
            f"{folder} holds other embeddings. What differs: {'; '.join(other)}. "
            f"Choose another output folder, or delete this one to compute it anew."
        )


def _write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes it whole or not at all. It is there from the start; `dim` is added when every shard is."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("bioscan_hf", "torch", "transformers", "datasets", "pyarrow")}
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(content | {"versions": versions}, indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / MANIFEST)


def _is_written(path: Path, fingerprint: str) -> bool:
    """Whether `path` is a whole shard of these data and this model."""
    try:
        metadata = pq.read_metadata(path).metadata
    except (FileNotFoundError, pa.ArrowInvalid):  # absent, or cut short
        return False
    return metadata[b"fingerprint"].decode() == fingerprint


def _write_shard(path: Path, part: Embeddings, fingerprint: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # a process may come here before the first one writes the manifest
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.embeddings.reshape(-1)), part.embeddings.shape[1])
    table = pa.table({"processid": part.processids, "embedding": vectors, "valid": part.valid})
    temporary = path.with_name(path.name + ".part")
    table = table.replace_schema_metadata({"fingerprint": fingerprint})
    # Vectors hardly shrink: neither a dictionary nor compression pays.
    pq.write_table(table, temporary, compression="none", use_dictionary=False)
    os.replace(temporary, path)
