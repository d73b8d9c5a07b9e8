"""The command cluster: clusters of embeddings, compared with taxa."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from .command import Output, Result, command
from .options import Force, Labels, PhotoConfig, no_library_bars, refuse_to_replace

Reducer = Literal["none", "pca", "umap"]
Clusterer = Literal["ward", "graph-ward", "hdbscan", "leiden"]
Normalization = Literal["none", "l2", "l2_corrected", "elementwise_zscore", "average_zscore"]
NumberOfClusters = Annotated[
    str | None,
    Option(
        metavar="K",
        help="A number; a rank: as many as it has names (published: species); or silhouette: from the data.",
    ),
]
Modalities = Annotated[
    list[str] | None,
    Option("--with", metavar="NAME=FOLDER", help="Another modality of the same specimens, repeatable."),
]
Preset = Annotated[
    Literal["bioscan5m", "caninv"],
    Option(help="Published protocol, which other options override. bioscan5m is UMAP and Ward."),
]


@command(
    "Clusters of embeddings",
    "bioscan-hf cluster dataset embeddings --output clusters",
    "bioscan-hf cluster dataset image=photos --with dna=embeddings --output both",
)
def cluster(
    source: Labels,
    embeddings: Annotated[
        str, Argument(metavar="FOLDER", help="Output of `bioscan-hf embed`; NAME=FOLDER names the modality.")
    ],
    output: Annotated[Path, Option(help="Folder for results, clusters and figures.")],
    also: Modalities = None,
    preset: Preset = "bioscan5m",
    reducer: Annotated[Reducer | None, Option(help="Dimension reduction.")] = None,
    clusterer: Annotated[Clusterer | None, Option(help="Clustering method.")] = None,
    n_clusters: NumberOfClusters = None,
    distance_threshold: Annotated[
        float | None, Option(help="Merge clusters up to this distance, instead of to a number of clusters.")
    ] = None,
    normalization: Annotated[Normalization | None, Option(help="Normalization of the embeddings.")] = None,
    split: Annotated[list[str] | None, Option(help="Split, repeatable. Default: test, test_unseen.")] = None,
    seed: Annotated[list[int] | None, Option(help="Repeatable: one run each; mean and spread are shown.")] = None,
    missing: Annotated[
        Literal["error", "drop"], Option(help="Specimens without a modality: an error, or left out.")
    ] = "error",
    map: Annotated[
        Literal["umap", "pca", "none"], Option(help="Layout of the maps; none writes no figures.")
    ] = "umap",
    photos: Annotated[PhotoConfig | None, Option(help="Show these photos in the map.")] = None,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Cluster embeddings and compare the clusters with the taxa of every rank."""
    from ..clustering.output import FILES, SpecimenPhotos, clear_output, write_output
    from ..clustering.protocol import cluster_embeddings, read_specimens

    refuse_to_replace(force, *(output / name for name in ("results.json", "clusters.parquet", *FILES)))
    no_library_bars(out)
    folders, splits = _named_folders((embeddings, *(also or ()))), split or ["test", "test_unseen"]
    _check_photos(source, photos, splits, map)
    how: dict[str, Any] = {"reducer": reducer, "clusterer": clusterer, "normalization": normalization}
    how |= {"distance_threshold": distance_threshold}
    how |= {"n_clusters": int(n_clusters) if n_clusters and n_clusters.isdecimal() else n_clusters}
    specimens = read_specimens(source, folders, splits=splits, missing=missing)
    with out.progress() as progress:
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
        shown = None if photos is None else SpecimenPhotos(source, photos, "+".join(splits), specimens.processids)
        write_output(output, {" + ".join(folders): results}, specimens, photos=shown, reducer=map)
    out.wrote(output)
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
    for rank in (rank for rank in results["metrics"] if rank != "separation"):
        scores, spread = results["metrics"][rank], results["spread"][rank]["ami"]
        ami = "no names" if scores["ami"] is None else f"{100 * scores['ami']:.1f}"
        more = "" if spread is None else f" +- {100 * spread:.1f}"
        yield f"{rank:<10} AMI {ami}{more}  ({scores['classes']:,} names, {scores['missing']:,} missing)"
    found = results["chosen"][0]
    oracle = f", the true number of names of {found['rank']}" if found["oracle"] else ""
    yield f"{results['metrics']['separation']['n_clusters']:,.0f} clusters{oracle}"
    for name, those in results["dropped"].items():
        yield f"Left out: {len(those):,} specimens without {name!r}"


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
