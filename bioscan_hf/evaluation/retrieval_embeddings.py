"""Embeddings of every modality of a dataset on disk, with the labels: what the protocol of retrieval is run over.

A folder holds `manifest.json` and `specimens-00000-of-000NN.parquet` with the columns processid, one for each rank and
the BIN, and one for each modality (D numbers, null where a specimen lacks it). An interrupted run goes on, and several
processes share the work.
Shape letters: n = rows, B = batch, D = embedding size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Image
from huggingface_hub.utils import tqdm
from torch import Tensor
from torch.utils.data import DataLoader

from ..dataset.load import load_bioscan5m
from ..encoders.batches import device_of, inference
from ..encoders.embed import load_embeddings, model_fingerprint
from ..files import read_json, write_json
from ..models.modeling_clibd import ClibdModel
from ..models.processing_clibd import photos_on_device
from ..schema import LABEL_COLUMNS
from .retrieval_protocol import MODALITIES, Specimens

MANIFEST = "manifest.json"

#: Columns that a collator of CLIBD reads, besides `image`.
COLUMNS = ("processid", *LABEL_COLUMNS, "dna_barcode")

Rows = Sequence[Mapping[str, Any]]


def embed_specimens(
    model: ClibdModel,
    collate: Callable[[Rows], dict[str, Tensor]],
    processor: Any,
    dataset: Any,
    output: str | Path,
    *,
    batch_size: int = 64,
    workers: int = 0,
    shard_size: int = 8192,
    dtype: torch.dtype = torch.float32,
) -> Specimens:
    """Embeddings of all modalities of every row, in order; written to `output`, and resumed from there.

    Under accelerate each process computes every W-th shard, and all return the whole.

    Args:
        model: A `ClibdModel`, where it is to run.
        collate: A `ClibdCollator` in the mode "eval", with the modalities that the model has.
        processor: The `ClibdProcessor` of both.
        dataset: A map-style `datasets.Dataset` with `COLUMNS`, and `image` for photos.
        workers: Processes that decode photos.
        shard_size: Rows in a file.
        dtype: Precision of the model's products (autocast); what is written is float32.

    Raises:
        ValueError: for an empty dataset, embeddings that are NaN or infinite (their processids are named), and an
            `output` with other embeddings.
    """
    if not len(dataset):
        raise ValueError("The dataset is empty: there is nothing to embed.")
    folder, state = Path(output), PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    columns = dataset.select_columns(list(COLUMNS)).with_format("arrow")[:]
    starts = range(0, len(dataset), shard_size)
    identity = {
        "rows": len(dataset),
        "shard_size": shard_size,
        "dataset": _hash_table(columns),
        "model": model_fingerprint(model),
        "processor": hashlib.sha256(processor.to_json_string().encode()).hexdigest(),
        "precision": str(dtype).removeprefix("torch."),
    }
    _check_folder(folder, identity)
    if state.is_main_process:
        write_json(folder / MANIFEST, identity)
    state.wait_for_everyone()
    if "image" in dataset.column_names:
        dataset = dataset.cast_column("image", Image(decode=False))  # the processor decodes, and names what it cannot
    mine = [shard for shard in range(len(starts)) if shard % state.num_processes == state.process_index]
    missing = [shard for shard in mine if not _shard_path(folder, shard, len(starts)).exists()]
    total = sum(min(shard_size, len(dataset) - starts[shard]) for shard in missing)
    with (
        tqdm(total=total, desc="Embedding", unit=" specimens", delay=2, disable=not state.is_main_process) as bar,
        inference(model),
    ):
        for shard in missing:
            rows = range(starts[shard], min(starts[shard] + shard_size, len(dataset)))
            loader = DataLoader(
                dataset.select(rows), batch_size=batch_size, num_workers=workers, collate_fn=_Listed(collate)
            )
            made = _embedded(model, processor, loader, dtype, bar.update)
            table = columns.slice(rows.start, len(rows)).drop_columns(["dna_barcode"])
            _write_shard(_shard_path(folder, shard, len(starts)), table, made)
    state.wait_for_everyone()
    return load_specimens(folder)


def load_specimens(folder: str | Path) -> Specimens:
    """What `embed_specimens` wrote, in the order of the dataset.

    Raises:
        FileNotFoundError: if the folder holds no such embeddings.
        ValueError: if shards are missing (they are named), or the manifest lacks a field or holds it in another type.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(f"{folder} has no {MANIFEST}: there are no embeddings of specimens.")
    manifest = read_json(folder / MANIFEST, {"rows": int, "shard_size": int})
    if min(manifest["rows"], manifest["shard_size"]) < 1:
        raise ValueError(f"'rows' and 'shard_size' in {str(folder / MANIFEST)!r} have to be 1 or more.")
    shards = -(-manifest["rows"] // manifest["shard_size"])
    paths = [_shard_path(folder, shard, shards) for shard in range(shards)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(f"{folder} lacks {', '.join(missing[:5])}{more}: run the embedding again, which goes on.")
    table = pa.concat_tables([pq.read_table(path) for path in paths], promote_options="permissive")
    embeddings, present = {}, {}
    for name in (name for name in MODALITIES if name in table.column_names):
        column = table[name].combine_chunks()
        present[name] = column.is_valid().to_numpy(zero_copy_only=False)
        embeddings[name] = np.zeros((len(column), column.type.list_size), np.float32)
        embeddings[name][present[name]] = column.drop_null().flatten().to_numpy().reshape(-1, column.type.list_size)
    labels = {rank: table[rank].to_pylist() for rank in LABEL_COLUMNS}
    return Specimens(embeddings, labels, present, table["processid"].to_pylist())


def barcode_specimens(folder: str | Path, source: str | Path, split: str) -> Specimens:
    """What `bioscan-hf embed` wrote, of barcodes alone, with the labels of the dataset it was made of.

    Args:
        folder: Of one split.
        source: As `load_bioscan5m` takes it.

    Raises:
        ValueError: if a specimen is not in that split of the source.
    """
    found = load_embeddings(folder)
    data = load_bioscan5m(source, "dna", split, columns=["processid", *LABEL_COLUMNS], max_nucleotides=None)
    table = data.with_format("arrow")[:]
    place = {processid: row for row, processid in enumerate(table["processid"].to_pylist())}
    strange = [processid for processid in found.processids if processid not in place]
    if strange:
        raise ValueError(
            f"{strange[0]!r} and {len(strange) - 1} more are not in the split {split!r} of {str(source)!r}."
        )
    taken = table.take([place[processid] for processid in found.processids])
    labels = {rank: taken[rank].to_pylist() for rank in LABEL_COLUMNS}
    return Specimens({"dna": found.embeddings}, labels, {"dna": found.valid}, found.processids)


def joined(parts: Sequence[Specimens]) -> Specimens:
    """Specimens of several splits as one; of the modalities and ranks that all of them have."""
    shared = [name for name in parts[0].embeddings if all(name in part.embeddings for part in parts)]
    ranks = [rank for rank in parts[0].labels if all(rank in part.labels for part in parts)]
    sizes = [len(part.ids) for part in parts]
    return Specimens(
        {name: np.concatenate([np.asarray(part.embeddings[name]) for part in parts]) for name in shared},
        {rank: [name for part in parts for name in part.labels[rank]] for rank in ranks},
        {
            name: np.concatenate(
                [part.present.get(name, np.ones(n, np.bool_)) for part, n in zip(parts, sizes, strict=True)]
            )
            for name in shared
        },
        [name for part in parts for name in part.ids],
    )


class _Listed:
    """Makes a batch, and remembers the names of its specimens."""

    def __init__(self, collate: Callable[[Rows], dict[str, Tensor]]):
        self.collate = collate

    def __call__(self, rows: Rows) -> tuple[list[str], dict[str, Tensor]]:
        return [row["processid"] for row in rows], self.collate(rows)


def _embedded(
    model: ClibdModel, processor: Any, loader: Any, dtype: torch.dtype, advance: Callable[[int], object]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Modality -> vectors (n, D), and which of them are there (n,)."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for processids, batch in loader:
        for name, (vectors, present) in _of_batch(model, processor, batch, dtype):
            broken = torch.isfinite(vectors).all(1).logical_not() & present
            if broken.any():
                named = [processids[row] for row in broken.nonzero().flatten().tolist()]
                raise ValueError(
                    f"{', '.join(named[:5])}{f' and {len(named) - 5} more' if len(named) > 5 else ''}: the model "
                    f"gives NaN or infinite embeddings of {name!r}. Look at these specimens, and at its weights."
                )
            parts.setdefault(name, []).append((vectors, present))
        advance(len(processids))
    return {
        name: (torch.cat([vectors for vectors, _ in of_name]), torch.cat([present for _, present in of_name]))
        for name, of_name in parts.items()
    }


def _of_batch(
    model: ClibdModel, processor: Any, batch: Mapping[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    device = device_of(model)
    there = {name: x.to(device, non_blocking=True) for name, x in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        for name in MODALITIES:
            if f"{name}_present" not in batch:
                continue
            if name == "image":
                vectors = model.get_image_features(photos_on_device(there, processor.image_processor))
            elif name == "dna":
                vectors = model.get_dna_features(there["dna_input_ids"], there["dna_attention_mask"])
            else:
                vectors = model.get_text_features(
                    there["text_input_ids"], there["text_attention_mask"], there.get("text_token_type_ids")
                )
            yield name, (vectors.float().cpu(), batch[f"{name}_present"])


def _write_shard(path: Path, table: pa.Table, made: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    for name, (vectors, present) in made.items():
        flat = pa.array(vectors.numpy().reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=pa.array(~present.numpy()))
        table = table.append_column(name, column)
    part = path.with_name(path.name + ".part")
    pq.write_table(table, part, compression="none", use_dictionary=list(LABEL_COLUMNS))
    os.replace(part, path)


def _check_folder(folder: Path, identity: dict[str, Any]) -> None:
    if not (folder / MANIFEST).exists():
        return
    found = read_json(folder / MANIFEST)
    other = [name for name in identity if found.get(name) != identity[name]]
    if other:
        raise ValueError(
            f"{folder} holds other embeddings; what differs: {', '.join(other)}. Choose another folder, or delete it."
        )


def _hash_table(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in table.column_names:
        for value in table[name].to_pylist():
            digest.update(b"\0" if value is None else b"\1" + str(value).encode() + b"\2")
    return digest.hexdigest()


def _shard_path(folder: Path, shard: int, shards: int) -> Path:
    return folder / f"specimens-{shard:05d}-of-{shards:05d}.parquet"
