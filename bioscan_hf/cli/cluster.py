"""The command cluster: clusters of embeddings, compared with taxa."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from .command import Output, Result, command
from .options import (
    Force,
    Labels,
    PhotoConfig,
    check_exists,
    check_source,
    no_library_bars,
    plural,
    refuse_to_replace,
    shell,
)

#: Files of every clustering.
RESULTS = ("results.json", "clusters.parquet")

Reducer = Literal["none", "pca", "umap"]
Clusterer = Literal["ward", "graph-ward", "hdbscan", "leiden"]
Normalization = Literal["none", "l2", "l2_corrected", "elementwise_zscore", "average_zscore"]
NumberOfClusters = Annotated[
    str | None,
    Option(
        metavar="K",
        help="A number; a rank, for as many as it has names; or silhouette, chosen from the data. Default: species; "
        "without names, silhouette.",
    ),
]
Embedded = Annotated[
    str, Argument(metavar="FOLDER", help="Output of `bioscan-hf embed`; NAME=FOLDER names the modality.")
]
DistanceThreshold = Annotated[
    float | None, Option(help="Merge clusters up to this distance, instead of --n-clusters.")
]
Modalities = Annotated[
    list[str] | None,
    Option("--with", metavar="NAME=FOLDER", help="Another modality of the same specimens, repeatable."),
]
Preset = Annotated[
    Literal["ward", "published", "caninv"],
    Option(
        help="Method: Ward's, or the published ones of BIOSCAN-5M and of the Canadian "
        "invertebrates, which reduce by UMAP first. Other options override it."
    ),
]


@command(
    "Clusters of embeddings",
    "bioscan-hf cluster dataset embeddings --output clusters",
    "bioscan-hf cluster dataset image=photos --with dna=embeddings --output both",
    "bioscan-hf cluster reads.fasta vectors --output groups",
)
def cluster(
    source: Labels,
    embeddings: Embedded,
    output: Annotated[Path, Option(help="Folder for results, clusters and figures.")],
    also: Modalities = None,
    preset: Preset = "ward",
    reducer: Annotated[Reducer | None, Option(help="Dimension reduction.")] = None,
    clusterer: Annotated[Clusterer | None, Option(help="Clustering method.")] = None,
    n_clusters: NumberOfClusters = None,
    distance_threshold: DistanceThreshold = None,
    normalization: Annotated[Normalization | None, Option(help="Normalization of the embeddings.")] = None,
    split: Annotated[list[str] | None, Option(help="Split, repeatable. Default: test, test_unseen.")] = None,
    seed: Annotated[list[int] | None, Option(help="Repeatable: one run per seed, shown as mean and spread.")] = None,
    missing: Annotated[
        Literal["error", "drop"], Option(help="Specimens without a modality: an error, or left out.")
    ] = "error",
    map: Annotated[
        Literal["umap", "pca", "none"] | None,
        Option(help="Layout of the maps; none writes no figures. Default: umap if it is installed, else pca."),
    ] = None,
    photos: Annotated[PhotoConfig | None, Option(help="Show these photos in the map.")] = None,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Cluster embeddings and compare the clusters with the taxa of every rank."""
    check_source(source, "file of sequences that was embedded")
    folders, splits = _named_folders((embeddings, *(also or ()))), split or ["test", "test_unseen"]
    check_exists(*folders.values())
    refuse_to_replace(force, *(output / name for name in (*RESULTS, "map.html", "ami_by_rank.png")))
    from ..clustering.output import FILES, SpecimenPhotos, clear_output, write_output
    from ..clustering.protocol import cluster_embeddings, read_specimens

    refuse_to_replace(force, *(output / name for name in FILES))
    no_library_bars(out)
    map = map or ("umap" if find_spec("umap") else "pca")
    _check_photos(source, photos, splits, map)
    how: dict[str, Any] = {"reducer": reducer, "clusterer": clusterer, "normalization": normalization}
    how |= {"distance_threshold": distance_threshold}
    how |= {"n_clusters": int(n_clusters) if n_clusters and n_clusters.isdecimal() else n_clusters}
    specimens = read_specimens(source, folders, splits=splits, missing=missing)
    with out.progress("clustering") as progress:
        results = cluster_embeddings(
            specimens,
            output,
            preset=preset,
            seeds=seed or None,
            force=force,
            progress=progress,
            **{name: value for name, value in how.items() if value is not None},
        )
    out.say(*_summary(results))
    clear_output(output)
    if map != "none":
        with out.progress("drawing maps"):
            shown = None if photos is None else SpecimenPhotos(source, photos, "+".join(splits), specimens.processids)
            write_output(output, {" + ".join(folders): results}, specimens, photos=shown, reducer=map)
    out.wrote(output, next=shell("card", output))
    return results


def _check_photos(source: str, photos: str | None, splits: list[str], map: str) -> None:
    """Raises an error now, before the long clustering, if the photos cannot be shown."""
    if photos is not None:
        from ..clustering.output import SpecimenPhotos

        if map == "none":
            raise ValueError("--photos are shown in the map, and --map none writes no map: leave one of them out.")
        SpecimenPhotos(source, photos, "+".join(splits), [])


def _summary(results: Result) -> Iterable[str]:
    """Lines with the agreement at each rank, the number of clusters and the specimens left out."""
    named = [rank for rank, scores in results["metrics"].items() if rank != "separation" and scores["ami"] is not None]
    if named:
        yield f"{'rank':<10} {'AMI':>6} {'':8}{'of named':>8} {'names':>9} {'missing':>9}"
    for rank in named:
        scores, spread = results["metrics"][rank], results["spread"][rank]["ami"]
        more = "" if spread is None else f"+-{spread:.1%}"
        counts = f"{scores['classes']:>9,.0f} {scores['missing']:>9,.0f}"
        yield f"{rank:<10} {scores['ami']:>6.1%} {more:8}{scores['ami_labelled']:>8.1%} {counts}"
    if any(results["metrics"][rank]["missing"] for rank in named):
        yield "AMI counts the unnamed as one more name; that of named leaves them out."
    if not named:
        yield "No names to compare the clusters with."
    found, number = results["chosen"][0], round(results["metrics"]["separation"]["n_clusters"])
    why = ", chosen by the silhouette" if found["by"] == "silhouette" else ""
    why = f" (as many as names of {found['rank']})" if found["oracle"] else why
    yield f"{plural(number, 'cluster')} of {plural(results['specimens'], 'specimen')}{why}"
    for name, those in results["dropped"].items():
        yield f"Left out: {plural(len(those), 'specimen')} without {name!r}"


def _named_folders(given: Iterable[str]) -> dict[str, Path]:
    """Name -> folder, from "NAME=FOLDER" or from a folder, whose own name is taken."""
    folders: dict[str, Path] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not folder or Path(text).is_dir():
            name, folder = Path(text).resolve().name, text
        if name in folders:
            raise ValueError(f"Two folders are named {name!r}: name them, such as dna=FOLDER and image=FOLDER.")
        folders[name] = Path(folder)
    return folders
