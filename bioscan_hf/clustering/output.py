"""Figures, maps and tables of a clustering, written beside its results.

Shape letters: N = specimens, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow.parquet as pq
from datasets import Image

from ..dataset.load import load_bioscan5m
from ..files import delete_inside, writing
from ..models.pixels import photo_bytes
from ..plots import png
from .figures import FIGURE_RANKS, ami_by_rank, cluster_map, plane
from .map import MOST_SPECIMENS, write_map
from .protocol import CLUSTERS_FILE, JoinedSpecimens, clustered_vectors
from .report import REPORT_FILES, cluster_report, write_report

#: Ranks of the static maps.
MAP_RANKS = ("order", "family", "species")

FIGURE_FILE, PAGE_FILE = "ami_by_rank.png", "map.html"

#: Every file that `write_output` can write.
FILES = (FIGURE_FILE, *(f"map_{rank}.png" for rank in MAP_RANKS), PAGE_FILE, *REPORT_FILES)


class SpecimenPhotos(Sequence[bytes | None]):
    """Encoded photos of specimens in their order, read when used.

    None where there is no photo."""

    def __init__(self, source: str | Path, config: str, split: str, processids: Sequence[str]):
        """Opens the photos of a split, or of several joined by "+"."""
        data = load_bioscan5m(source, config, split, columns=["processid", "image"])
        self.data = data.cast_column("image", Image(decode=False)).with_format("arrow")
        names = self.data.select_columns(["processid"])[:]["processid"].to_pylist()
        rows = {name: row for row, name in enumerate(names)}
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
    specimens: JoinedSpecimens,
    *,
    photos: Sequence[bytes | None] | None = None,
    reducer: str = "umap",
) -> list[Path]:
    """Writes ami_by_rank.png, map_RANK.png, map.html and the tables of `write_report`; returns their paths.

    A rank without any name has no map, and without a score at any rank there is no figure. Files of an earlier
    clustering are deleted. A page has at most 50,000 specimens: of more, a random sample is shown, and its title says
    so.

    Args:
        folder: Folder of `cluster_embeddings`, with clusters.parquet.
        results: Name -> results. The figure compares them; the maps and tables are those of the first.
        specimens: Specimens of the first.
        photos: Encoded photos (N,) for the page, such as `SpecimenPhotos`.
        reducer: "umap" or "pca": how the embeddings are laid out in a plane.

    Raises:
        ValueError: as `cluster_report`, `plane`, `cluster_map` and `write_map`.
    """
    folder, first = Path(folder), next(iter(results.values()))
    clusters = pq.read_table(folder / CLUSTERS_FILE, columns=["cluster"])["cluster"].to_numpy()
    vectors, seed = clustered_vectors(specimens, first), first["seeds"][0]
    report = cluster_report(clusters, specimens.labels, specimens.processids, vectors)
    points = plane(vectors, reducer, seed=seed)
    figures = {}
    if any(one["metrics"].get(rank, {}).get("ami") is not None for one in results.values() for rank in FIGURE_RANKS):
        figures[FIGURE_FILE] = ami_by_rank(results)
    for rank in MAP_RANKS:
        if any(specimens.labels.get(rank, ())):
            figures[f"map_{rank}.png"] = cluster_map(points, specimens.labels[rank], rank)
    clear_output(folder)
    for name, figure in figures.items():
        with writing(folder / name, "wb") as file:
            file.write(png(figure))
    rows, title = np.arange(len(clusters)), "Map of specimens"
    if len(rows) > MOST_SPECIMENS:
        rows = np.sort(np.random.default_rng(seed).choice(len(clusters), MOST_SPECIMENS, replace=False))
        title += f": {MOST_SPECIMENS:,} of {len(clusters):,}, drawn at random"
    write_map(
        folder / PAGE_FILE,
        points[rows],
        [specimens.processids[i] for i in rows.tolist()],
        {rank: [names[i] for i in rows.tolist()] for rank, names in specimens.labels.items()},
        clusters[rows],
        photos=photos if len(rows) == len(clusters) else None,
        title=title,
    )
    return [*(folder / name for name in figures), folder / PAGE_FILE, *write_report(folder, report)]


def clear_output(folder: str | Path) -> None:
    """Deletes what `write_output` wrote for an earlier clustering."""
    for name in FILES:
        delete_inside(folder, name)
