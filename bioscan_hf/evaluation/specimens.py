"""Embeddings on disk as `Specimens` with their labels, for retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..dataset.load import rows_of
from ..encoders.stored import MANIFEST, load_embeddings, modalities_of
from ..files import read_json
from ..schema import LABEL_COLUMNS
from .retrieval_protocol import MODALITIES, Specimens


def load_specimens(folder: str | Path) -> Specimens:
    """Embeddings of all modalities of a split, as `embed_clibd` wrote them.

    Raises FileNotFoundError if the folder has no such embeddings. Raises ValueError as `load_embeddings`, and if the
    modalities have different specimens.
    """
    folder = Path(folder)
    there = modalities_of(folder)
    parts = {name: load_embeddings(folder, name) for name in (*MODALITIES, "fused") if name in there}
    if not parts:
        raise FileNotFoundError(f"{folder} has no {MANIFEST} of embeddings of {', '.join(MODALITIES)}.")
    one, first = next(iter(parts.items()))
    for name, part in parts.items():
        if part.processids != first.processids:
            raise ValueError(
                f"{str(folder)!r} has other specimens for {name!r} than for {one!r}: delete the older and embed again."
            )
    labels = {rank: first.columns[rank] for rank in LABEL_COLUMNS}
    embeddings = {name: part.embeddings for name, part in parts.items()}
    return Specimens(embeddings, labels, {name: part.valid for name, part in parts.items()}, first.processids)


def embedded_specimens(folder: str | Path, source: str | Path, split: str) -> Specimens:
    """Embeddings of the barcodes or photos of a split, with their labels.

    Raises ValueError if a specimen is not in that split of `source`, which is as `load_bioscan5m` takes it.
    """
    found = load_embeddings(folder)
    table = rows_of(source, split, found.processids, LABEL_COLUMNS)
    labels = {rank: table[rank].to_pylist() for rank in LABEL_COLUMNS}
    modality = "image" if read_json(Path(folder) / MANIFEST).get("column") == "image" else "dna"
    return Specimens({modality: found.embeddings}, labels, {modality: found.valid}, found.processids)


def joined(parts: Sequence[Specimens]) -> Specimens:
    """Specimens of several splits, with the modalities and ranks they share."""
    shared = [name for name in parts[0].embeddings if all(name in part.embeddings for part in parts)]
    ranks = [rank for rank in parts[0].labels if all(rank in part.labels for part in parts)]
    present = {
        name: np.concatenate([part.present.get(name, np.ones(len(part.ids), np.bool_)) for part in parts])
        for name in shared
    }
    return Specimens(
        {name: np.concatenate([np.asarray(part.embeddings[name]) for part in parts]) for name in shared},
        {rank: [name for part in parts for name in part.labels[rank]] for rank in ranks},
        present,
        [name for part in parts for name in part.ids],
    )
