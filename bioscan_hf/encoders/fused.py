"""Embeddings of photos and barcodes fused by CLIBD (https://arxiv.org/abs/2603.25573), from those on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from numpy.typing import NDArray

from ..files import locked, read_json
from ..models.modeling_clibd import ClibdModel
from .embed import Embeddings, model_fingerprint, write_manifest, write_shard
from .rows import text_hash
from .stored import MANIFEST, StoredEmbeddings, load_embeddings, shard_path


def fuse_vectors(
    model: ClibdModel,
    image: NDArray[np.float32],
    dna: NDArray[np.float32],
    image_present: NDArray[np.bool_],
    dna_present: NDArray[np.bool_],
    batch_size: int = 8192,
) -> NDArray[np.float32]:
    """Fused unit vectors (n, E) of embeddings (n, E), of which either may be missing; zeros without both.

    Args:
        image_present, dna_present: Which rows have a photo or a barcode, (n,).
    """
    parts = [np.zeros((0, image.shape[1]), np.float32)]
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(image), batch_size):
            part = slice(start, start + batch_size)
            values = [torch.from_numpy(rows[part].copy()).to(device) for rows in (image, dna)]
            masks = [torch.from_numpy(rows[part].copy()).to(device) for rows in (image_present, dna_present)]
            fused = model.fuse(values[0], values[1], image_present=masks[0], dna_present=masks[1])
            parts.append(fused.float().cpu().numpy())
    return np.concatenate(parts)


def embed_fused(model: ClibdModel, image: str | Path, dna: str | Path, output: str | Path) -> None:
    """Writes the fused embeddings of two folders that `embed` wrote for the same rows. The main process writes.

    Raises:
        ValueError: if the folders have different rows or shards, or the output has other embeddings.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.is_main_process:
        with locked(Path(output), "embedding"):
            _write(model, Path(image), Path(dna), Path(output))
    state.wait_for_everyone()


def _write(model: ClibdModel, image: Path, dna: Path, output: Path) -> None:
    photos, barcodes = load_embeddings(image), load_embeddings(dna)
    manifests = [read_json(folder / MANIFEST) for folder in (image, dna)]
    if len(photos.paths) != len(barcodes.paths) or photos.processids != barcodes.processids:
        raise ValueError(f"{str(image)!r} and {str(dna)!r} have other rows or shards: delete them and embed again.")
    identity = {
        "rows": len(photos),
        "shard_size": manifests[0]["shard_size"],
        "column": "image, dna_barcode",
        "dataset": text_hash(*(found["dataset"] for found in manifests)),
        "model": text_hash(model_fingerprint(model), *(found["model"] for found in manifests)),
        "dim": photos.dim,
    }
    if (output / MANIFEST).exists():
        found = read_json(output / MANIFEST)
        if any(found.get(key) != value for key, value in identity.items()):
            raise ValueError(f"{output} holds other embeddings. Choose another output folder, or delete this one.")
        return
    for shard, paths in enumerate(zip(photos.paths, barcodes.paths, strict=True)):
        one, other = (StoredEmbeddings([path], "embedding") for path in paths)
        vectors = fuse_vectors(model, one.embeddings, other.embeddings, one.valid, other.valid)
        part = Embeddings(one.processids, vectors, one.valid | other.valid, one.columns)
        write_shard(shard_path(output, shard, len(photos.paths)), part, identity["dataset"])
    write_manifest(output, identity, model)  # last: a folder with a manifest is complete
