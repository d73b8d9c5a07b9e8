"""Figures, maps and tables of a clustering, written beside its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Image

from ..dataset.load import load_bioscan5m
from ..files import delete_inside, writing
from ..models.pixels import photo_bytes
from ..plots import png
from .embeddings import side_by_side
from .figures import FIGURE_RANKS, ami_by_rank, cluster_map, plane, species_ceiling
from .map import MOST_SPECIMENS, write_map
from .protocol import CLUSTERS_FILE, JoinedSpecimens
from .report import REPORT_FILES, cluster_report, write_report

#: Ranks of the static maps.
MAP_RANKS = ("order", "family", "species")

FIGURE_FILE, PAGE_FILE = "ami_by_rank.png", "map.html"

#: Every file that `write_output` can write.
FILES = (FIGURE_FILE, *(f"map_{rank}.png" for rank in MAP_RANKS), PAGE_FILE, *REPORT_FILES)


class SpecimenPhotos(Sequence[bytes | None]):
    """Encoded photos of specimens, read when used; None where missing."""

    def __init__(self, source: str | Path, config: str, split: str, processids: Sequence[str]):
        data = load_bioscan5m(source, config, split, columns=["processid", "image"])
        self.data = data.cast_column("image", Image(decode=False)).with_format("arrow")
        names = self.data.select_columns(["processid"])[:]["processid"].combine_chunks()
        self.rows = pc.index_in(pa.array(processids, pa.string()), value_set=names).to_pylist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> bytes | None:  # type: ignore[override]
        row = self.rows[i]
        found = self.data[row : row + 1]["image"] if row is not None else None
        return photo_bytes(found)[0][0] if found is not None and found.null_count == 0 else None


def write_output(
    folder: str | Path,
    results: Mapping[str, Mapping[str, Any]],
    specimens: JoinedSpecimens,
    *,
    photos: Sequence[bytes | None] | None = None,
    reducer: str = "umap",
    title: str = "Map of specimens",
) -> list[Path]:
    """Writes ami_by_rank.png, map_RANK.png, map.html and the tables of `write_report`; returns their paths.

    A rank without any name has no map, and without a score at any rank there is no figure. Files of an earlier
    clustering are deleted. Of more than 50,000 specimens the page shows a random sample, and its title says so. Raises
    ValueError as `cluster_report`, `plane`, `cluster_map` and `write_map`.

    Args:
        folder: Folder of `cluster_embeddings`, with clusters.parquet.
        results: Name -> results. The figure compares them; the maps and tables are those of the first.
        specimens: Specimens of the first.
        photos: Encoded photos (N,) for the page, such as `SpecimenPhotos`.
        reducer: "umap" or "pca": how the embeddings are laid out in a plane.
        title: Heading of the page.
    """
    folder, first = Path(folder), next(iter(results.values()))
    clusters = pq.read_table(folder / CLUSTERS_FILE, columns=["cluster"])["cluster"].to_numpy()
    vectors, seed = side_by_side(specimens.embeddings, first["options"]["normalization"]), first["seeds"][0]
    report = cluster_report(clusters, specimens.labels, specimens.processids, vectors)
    points = plane(vectors, reducer, seed=seed)
    figures = {}
    if any(one["metrics"].get(rank, {}).get("ami") is not None for one in results.values() for rank in FIGURE_RANKS):
        figures[FIGURE_FILE] = ami_by_rank(results, species_ceiling(specimens.labels))
    for rank in MAP_RANKS:
        if any(specimens.labels.get(rank, ())):
            figures[f"map_{rank}.png"] = cluster_map(points, specimens.labels[rank], rank)
    clear_output(folder)
    for name, figure in figures.items():
        with writing(folder / name, "wb") as file:
            file.write(png(figure))
    rows = np.arange(len(clusters))
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
