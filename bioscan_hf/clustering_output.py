"""Everything that is to be looked at of a clustering, written into its folder: figure, maps, report.

`clustering_plots`, `clustering_map` and `clustering_report` make the parts. N = specimens, D = embedding size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from datasets import Image
from numpy.typing import ArrayLike

from .clustering_map import MOST_SPECIMENS, write_map
from .clustering_plots import ami_by_rank, cluster_map, plane
from .clustering_report import cluster_report, write_report
from .data import load_bioscan5m
from .photos import photo_bytes
from .plots import png

#: Ranks of the maps that do not move.
MAP_RANKS = ("order", "family", "species")


class SpecimenPhotos(Sequence[bytes | None]):
    """Encoded photos of specimens, in their order, None where there is none; each is read when it is asked for."""

    def __init__(self, source: str | Path, config: str, split: str, processids: Sequence[str]):
        """Opens the photos of a split, or of several joined by "+", as `load_bioscan5m` takes them."""
        data = load_bioscan5m(source, config, split, columns=["processid", "image"])
        self.data = data.cast_column("image", Image(decode=False)).with_format("arrow")
        rows = {
            name: row for row, name in enumerate(self.data.select_columns(["processid"])[:]["processid"].to_pylist())
        }
        self.rows = [rows.get(name) for name in processids]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> bytes | None: ...
    @overload
    def __getitem__(self, i: slice) -> list[bytes | None]: ...
    def __getitem__(self, i: int | slice) -> bytes | None | list[bytes | None]:
        """The photo of specimen `i`."""
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        row = self.rows[i]
        return None if row is None else photo_bytes(self.data[row : row + 1]["image"])[0][0]


def write_output(
    folder: str | Path,
    results: Mapping[str, Mapping[str, Any]],
    clusters: ArrayLike,
    labels: Mapping[str, Sequence[str | None]],
    processids: Sequence[str],
    embeddings: ArrayLike,
    *,
    photos: Sequence[bytes | None] | None = None,
    reducer: str = "umap",
    seed: int = 0,
    title: str = "",
) -> list[Path]:
    """Writes ami_by_rank.png, map_RANK.png, map.html and the tables of `write_report`; returns their paths.

    A page holds 50,000 specimens: of more, so many are drawn by `seed` for the page alone, and its title says so.

    Args:
        results: Name -> results file; the figure compares them.
        clusters: Cluster of each specimen (N,).
        labels: Rank, or "dna_bin", -> names (N,), None where unknown.
        embeddings: (N, D), which are laid out in a plane by `reducer`, "umap" or "pca", and of which the report tells
            distances.
        photos: Encoded photos (N,) for the page, such as `SpecimenPhotos`.

    Raises:
        ValueError: as the parts raise it.
    """
    folder, ids = Path(folder), np.asarray(clusters)
    points = plane(embeddings, reducer, seed=seed)
    pictures = {"ami_by_rank.png": png(ami_by_rank(results))}
    for rank in MAP_RANKS:
        if any(name is not None for name in labels.get(rank, ())):
            pictures[f"map_{rank}.png"] = png(cluster_map(points, labels[rank], rank, title))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        part = folder / f"{name}.part"
        part.write_bytes(content)
        os.replace(part, folder / name)
    rows, heading = np.arange(len(ids)), title or "Map of specimens"
    if len(rows) > MOST_SPECIMENS:
        rows = np.sort(np.random.default_rng(seed).choice(len(ids), MOST_SPECIMENS, replace=False))
        heading += f": {MOST_SPECIMENS:,} of {len(ids):,}, drawn by chance"
    write_map(
        folder / "map.html",
        points[rows],
        [processids[i] for i in rows.tolist()],
        {rank: [names[i] for i in rows.tolist()] for rank, names in labels.items()},
        ids[rows],
        photos=photos if len(rows) == len(ids) else None,
        title=heading,
    )
    tables = write_report(folder, cluster_report(ids, labels, processids, embeddings))
    return [*(folder / name for name in pictures), folder / "map.html", *tables]
