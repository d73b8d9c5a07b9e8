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

from ..dataset.load import load_bioscan5m
from ..models.pixels import photo_bytes
from ..plots import png
from .figures import FIGURE_RANKS, ami_by_rank, cluster_map, plane
from .map import MOST_SPECIMENS, write_map
from .report import CLUSTERS_FILE, RULES_FILE, SUSPECTS_FILE, cluster_report, write_report

#: Ranks of the maps that do not move.
MAP_RANKS = ("order", "family", "species")

FIGURE_FILE, PAGE_FILE = "ami_by_rank.png", "map.html"

#: All that `write_output` may write.
FILES = (FIGURE_FILE, *(f"map_{rank}.png" for rank in MAP_RANKS), PAGE_FILE, CLUSTERS_FILE, SUSPECTS_FILE, RULES_FILE)


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
        if row is None:
            return None
        found = self.data[row : row + 1]["image"]
        return photo_bytes(found)[0][0] if found.null_count == 0 else None


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

    A rank without any name has no map, and there is no figure if none of the results has a score at any rank. What an
    earlier clustering left there of `FILES` is gone then.

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
    report = cluster_report(ids, labels, processids, embeddings)
    points = plane(embeddings, reducer, seed=seed)
    scores = [one["metrics"].get(rank, {}).get("ami") for one in results.values() for rank in FIGURE_RANKS]
    pictures = {FIGURE_FILE: png(ami_by_rank(results))} if any(score is not None for score in scores) else {}
    for rank in MAP_RANKS:
        if any(name is not None for name in labels.get(rank, ())):
            pictures[f"map_{rank}.png"] = png(cluster_map(points, labels[rank], rank, title))
    clear_output(folder)
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
        folder / PAGE_FILE,
        points[rows],
        [processids[i] for i in rows.tolist()],
        {rank: [names[i] for i in rows.tolist()] for rank, names in labels.items()},
        ids[rows],
        photos=photos if len(rows) == len(ids) else None,
        title=heading,
    )
    tables = write_report(folder, report)
    return [*(folder / name for name in pictures), folder / PAGE_FILE, *tables]


def clear_output(folder: str | Path) -> None:
    """Deletes what `write_output` wrote of an earlier clustering: pictures never stand beside other results."""
    for name in FILES:
        (Path(folder) / name).unlink(missing_ok=True)
