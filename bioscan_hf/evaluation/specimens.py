"""Embeddings on disk as `Specimens`, with their labels, for the protocol of retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..dataset.load import load_bioscan5m
from ..encoders.stored import MANIFEST, load_embeddings, modalities_of
from ..schema import LABEL_COLUMNS
from .retrieval_protocol import MODALITIES, Specimens


def load_specimens(folder: str | Path) -> Specimens:
    """Embeddings of all modalities of a split, as `embed_clibd` wrote them.

    Raises:
        FileNotFoundError: if the folder has no such embeddings.
        ValueError: as `load_embeddings`, and if the modalities have different specimens.
    """
    folder = Path(folder)
    there = modalities_of(folder)
    parts = {name: load_embeddings(folder, name) for name in MODALITIES if name in there}
    if not parts:
        raise FileNotFoundError(f"{folder} has no {MANIFEST} of embeddings of {', '.join(MODALITIES)}.")
    first = next(iter(parts.values()))
    for name, part in parts.items():
        if part.processids != first.processids:
            raise ValueError(
                f"{str(folder)!r} has other specimens for {name!r} than for {next(iter(parts))!r}. Delete the older "
                f"of the two and embed again."
            )
    labels = {rank: first.columns[rank] for rank in LABEL_COLUMNS}
    embeddings = {name: part.embeddings for name, part in parts.items()}
    return Specimens(embeddings, labels, {name: part.valid for name, part in parts.items()}, first.processids)


def barcode_specimens(folder: str | Path, source: str | Path, split: str) -> Specimens:
    """Embeddings of barcodes that `bioscan-hf embed` wrote, with the labels of their dataset.

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
    """Specimens of several splits, with the modalities and ranks they share."""
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
