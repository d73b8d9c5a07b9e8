"""What `bioscan-hf cluster` found: map, likely new species, likely mislabelled specimens, and agreement with BINs."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..clustering.output import PAGE_FILE, SpecimenPhotos, write_output
from ..clustering.protocol import CLUSTERS_FILE, RESULTS_FILE, cluster_embeddings, read_specimens
from ..clustering.report import NOISE, REPORT_FILES
from ..encoders.stored import MANIFEST
from ..files import read_json
from ..progress import Progress, silent
from ..schema import SPLITS

#: Largest map that the page shows, in bytes.
MOST_BYTES = 30 << 20

#: Rows of a table on the page.
MOST_ROWS = 200

Row = dict[str, str]


@dataclass(frozen=True)
class Bins:
    """How clusters and BINs fit.

    Attributes:
        equal: BINs that are one cluster, and nothing else is in it.
        split: BIN -> cluster -> specimens, of BINs in several clusters.
        joined: Cluster -> BIN -> specimens, of clusters with several BINs.
        without: Specimens without a BIN.
    """

    equal: int
    split: dict[str, Counter[int]]
    joined: dict[int, Counter[str]]
    without: int


@dataclass(frozen=True)
class Found:
    """A clustering.

    Attributes:
        results: Of results.json.
        sizes: Cluster -> specimens.
        bins: Agreement with BINs.
        new: Rows of likely new species.
        members: Cluster of a likely new species -> processids.
        suspects: Rows of likely mislabelled specimens.
        map: The page with the map; why there is none.
    """

    results: dict[str, Any]
    sizes: Counter[int]
    bins: Bins
    new: list[Row]
    members: dict[str, list[str]]
    suspects: list[Row]
    map: str | None
    remark: str

    @classmethod
    def read(cls, folder: str | Path) -> Found:
        """Reads the output of `bioscan-hf cluster`.

        Raises:
            FileNotFoundError: if the folder is none.
        """
        folder = Path(folder)
        if not (folder / CLUSTERS_FILE).is_file():
            raise FileNotFoundError(
                f"{str(folder)!r} has no {CLUSTERS_FILE}: give the output of `bioscan-hf cluster`, or of `bioscan-hf "
                f"embed` to cluster it now."
            )
        table = pq.read_table(folder / CLUSTERS_FILE)
        clusters = table["cluster"].to_pylist()
        names = table["dna_bin"].to_pylist() if "dna_bin" in table.column_names else [None] * len(clusters)
        report, suspects, _ = (_rows(folder / name) for name in REPORT_FILES)
        new = [row for row in report if row.get("likely_new_species") == "yes"]
        members: dict[str, list[str]] = {row["cluster"]: [] for row in new}
        for processid, cluster in zip(table["processid"].to_pylist(), clusters, strict=True):
            if str(cluster) in members:
                members[str(cluster)].append(processid)
        page, remark = folder / PAGE_FILE, ""
        if not page.is_file():
            remark = "This clustering was made without a map (--map none)."
        elif page.stat().st_size > MOST_BYTES:
            remark = f"The map has {page.stat().st_size >> 20:,} MB, too much for this page: open {PAGE_FILE} itself."
        return cls(
            read_json(folder / RESULTS_FILE),
            Counter(clusters),
            compared(clusters, names),
            new,
            members,
            suspects,
            None if remark else page.read_text(encoding="utf-8"),
            remark,
        )


def compared(clusters: list[int], names: list[str | None]) -> Bins:
    """Compares clusters with BINs (N,); specimens marked as noise are left out."""
    of_bin: dict[str, Counter[int]] = {}
    of_cluster: dict[int, Counter[str]] = {}
    for cluster, name in zip(clusters, names, strict=True):
        if name is not None and cluster != NOISE:
            of_bin.setdefault(name, Counter())[cluster] += 1
            of_cluster.setdefault(cluster, Counter())[name] += 1
    equal = sum(len(inside) == 1 and len(of_cluster[next(iter(inside))]) == 1 for inside in of_bin.values())
    return Bins(
        equal,
        {name: inside for name, inside in of_bin.items() if len(inside) > 1},
        {cluster: inside for cluster, inside in of_cluster.items() if len(inside) > 1},
        sum(name is None for name in names),
    )


def cluster_now(source: str, embeddings: Path, output: Path, photos: str | None, progress: Progress = silent) -> None:
    """Clusters the output of `bioscan-hf embed` by Ward, without names, and writes what `Found.read` reads.

    The number of clusters is chosen by the silhouette.

    Raises:
        FileNotFoundError, ValueError: as `cluster_embeddings` and `read_specimens`.
    """
    splits = [name for name in SPLITS if (embeddings / name).is_dir()]
    specimens = read_specimens(source, {embeddings.name: embeddings}, splits=splits, missing="drop")
    how: dict[str, Any] = {"reducer": "none", "n_clusters": "silhouette", "progress": progress}
    results = cluster_embeddings(specimens, output, **how)
    shown = None if photos is None else SpecimenPhotos(source, photos, "+".join(splits), specimens.processids)
    write_output(output, {embeddings.name: results}, specimens, photos=shown, reducer="pca")


def are_embeddings(folder: Path) -> bool:
    """Whether a folder is the output of `bioscan-hf embed` of a dataset."""
    return any((folder / name / MANIFEST).is_file() for name in SPLITS)


def _rows(path: Path) -> list[Row]:
    if not path.is_file() or path.suffix != ".csv":
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def labels_of(row: Row) -> str:
    """The lowest name of a cluster above the species."""
    return next((row[rank] for rank in ("genus", "subfamily", "family", "order", "class") if row.get(rank)), "")
