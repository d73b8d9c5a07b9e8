"""Cards of clusterings and retrieval indexes, which are dataset repositories. Templates: `model_cards/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from ..cards import cell, escape, settings_table, size_category, table
from ..files import is_hub_id, read_json
from .cards import PARTS, TAGS, check_task, render, require

#: Column of a clustering's table -> key of its metric.
CLUSTERING_COLUMNS = {
    "AMI": "ami",
    "AMI (named)": "ami_labelled",
    "homogeneity (named)": "homogeneity_labelled",
    "completeness (named)": "completeness_labelled",
}


def clustering_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a folder with `clusters.parquet`, with the YAML that `load_dataset` reads.

    `results` is the content of results.json of `cluster_embeddings`; ValueError if a field is missing.
    """
    check_task(results, "bioscan5m/clustering")
    wanted = ("dataset", "splits", "options", "metrics", "seeds", "specimens", "protocol", "modalities")
    require(results, {"": wanted, "options": (), "metrics": (), "modalities": ()})
    ranks = {rank: scores for rank, scores in results["metrics"].items() if rank != "separation"}
    keys = CLUSTERING_COLUMNS.values()
    require(results["metrics"], {rank: ("labelled", "classes", *keys) for rank in ranks})
    rows = [(rank, *(scores[key] for key in ("labelled", "classes", *keys))) for rank, scores in ranks.items()]
    told = {"protocol": results["protocol"], "modalities": results["modalities"], **results["options"]}
    runs = len(results["seeds"])
    return render(
        DatasetCard,
        _dataset_data(title, results["dataset"], "clusters.parquet", ["clustering"], results["specimens"]),
        "clustering.md",
        ("bioscan5m",),
        title=escape(title),
        specimens=cell(results["specimens"]),
        training=settings_table({**results, "options": told}),
        runs="one run" if runs == 1 else f"{runs} runs with different seeds",
        results=table(("rank", "named specimens", "names", *CLUSTERING_COLUMNS), rows),
    )


def index_card(title: str, folder: str | Path, results: Mapping[str, Any] | None = None) -> str:
    """README.md of a retrieval index that `save_index` wrote to `folder`.

    `results` is the content of the results.json of its evaluation (`task` "clibd/retrieval"), if there is one.

    Raises:
        FileNotFoundError: if the folder has no index.
        ValueError: if the results are of another task or a field is missing.
    """
    folder = Path(folder)
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no index.json: save_index did not write it.")
    about = read_json(folder / "index.json", {"keys": int, "distinct": int, "dim": int, "kind": str})
    labels = pq.read_table(folder / "labels.parquet")
    ranks = {name.removeprefix("rank:"): labels[name] for name in labels.column_names if name.startswith("rank:")}
    rows = [(rank, len(names) - names.null_count, pc.count_distinct(names).as_py()) for rank, names in ranks.items()]
    training, found = "Unknown: no results file was given.", "Not evaluated."
    if results is not None:
        check_task(results, "clibd/retrieval")
        require(results, {"": ("dataset", "splits", "options", "metrics"), "options": (), "metrics": ()})
        training, found = settings_table(results), _retrieval_results(results["metrics"])
    dataset = "" if results is None else results["dataset"]
    return render(
        DatasetCard,
        _dataset_data(title, dataset, "labels.parquet", ["retrieval", "feature-extraction"], about["keys"]),
        "index.md",
        ("bioscan5m",),
        title=escape(title),
        **{name: cell(about[name]) for name in ("keys", "distinct", "dim")},
        kind=escape(about["kind"]),
        width=about["dim"],
        names=table(("rank", "named keys", "names"), rows),
        training=training,
        results=found,
    )


def _retrieval_results(metrics: Mapping[str, Any]) -> str:
    """Macro accuracy of each combination of queries and keys, for each evaluated encoder."""
    metrics = json.loads(json.dumps(metrics))  # as in the file: every key is a string
    one_encoder = any("->" in name for name in metrics)
    models = {"model": metrics} if one_encoder else {name: about["tables"] for name, about in metrics.items()}
    if not any(models.values()):
        return "Not evaluated."
    rows = []
    for name, combinations in models.items():
        for question, parts in combinations.items():
            k = min(parts["seen"]["macro"], key=int)
            columns = [parts[part]["macro"][k] for part in PARTS]
            rows += [(name, question, rank, f"top-{k}", *(one.get(rank) for one in columns)) for rank in columns[0]]
    text = "Macro accuracy in percent, over taxa, for queries of seen and unseen species. The keys hold both."
    return "\n\n".join([text, table(("encoder", "query->key", "rank", "", "seen", "unseen", "harmonic mean"), rows)])


def _dataset_data(title: str, dataset: Any, file: str, tags: list[str], rows: Any) -> DatasetCardData:
    return DatasetCardData(
        license="other",  # that of the data is not known here
        pretty_name=" ".join(title.split()),
        tags=[*TAGS, *tags],
        size_categories=[size_category(int(rows))],
        source_datasets=[str(dataset)] if is_hub_id(str(dataset)) else None,
        configs=[{"config_name": "default", "data_files": file}],
    )
