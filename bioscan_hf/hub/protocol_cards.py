"""Cards of what the protocols leave: a clustering result and a retrieval index, each a dataset repository of the Hub.

The templates are model_cards/clustering.md and model_cards/index.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from ..cards import cell, escape, is_hub_id, require, settings_table, size_category, table, template
from ..files import read_json

#: Column of the table of a clustering -> its key.
CLUSTERING_COLUMNS = {
    "AMI": "ami",
    "AMI (named)": "ami_labelled",
    "homogeneity (named)": "homogeneity_labelled",
    "completeness (named)": "completeness_labelled",
}


def clustering_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a folder with `clusters.parquet`, by which `load_dataset` finds it.

    Args:
        results: Content of its results.json, as `clustering_protocol.cluster_embeddings` writes it.

    Raises:
        ValueError: if it is of another task, or something is missing.
    """
    if results.get("task") != "bioscan5m/clustering":
        raise ValueError(f"This card is for the task 'bioscan5m/clustering', not {results.get('task')!r}.")
    wanted = ("dataset", "splits", "options", "metrics", "seeds", "specimens", "protocol", "modalities")
    require(results, {"": wanted, "options": (), "metrics": (), "modalities": ()})
    ranks = {rank: scores for rank, scores in results["metrics"].items() if rank != "separation"}
    require(results["metrics"], {rank: ("labelled", "classes", *CLUSTERING_COLUMNS.values()) for rank in ranks})
    rows = [
        (escape(rank), scores["labelled"], scores["classes"], *(scores[key] for key in CLUSTERING_COLUMNS.values()))
        for rank, scores in ranks.items()
    ]
    told = {"protocol": results["protocol"], "modalities": results["modalities"], **results["options"]}
    runs = len(results["seeds"])
    return template("clustering.md").substitute(
        header=_header(title, results["dataset"], "clusters.parquet", ["clustering"], results["specimens"]),
        title=escape(title),
        specimens=cell(results["specimens"]),
        training=settings_table({**results, "options": told}),
        runs="one run" if runs == 1 else f"{runs} runs of other seeds",
        results=table(("rank", "named specimens", "names", *CLUSTERING_COLUMNS), rows),
        limits=template("limits.md").substitute().strip(),
        citation=template("citation_bioscan5m.md").substitute().strip(),
    )


def index_card(title: str, folder: str | Path, results: Mapping[str, Any] | None = None) -> str:
    """README.md of an index that `retrieval_index.save_index` wrote to `folder`.

    Args:
        results: Content of the results.json of the evaluation that made it (`task` "clibd/retrieval"); None if there
            is none, which the card then says.

    Raises:
        FileNotFoundError: if the folder holds no index.
        ValueError: if the results are of another task, or something is missing.
    """
    folder = Path(folder)
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no index.json: it is no folder that save_index wrote.")
    about = read_json(folder / "index.json", {"keys": int, "distinct": int, "dim": int, "kind": str})
    labels = pq.read_table(folder / "labels.parquet")
    ranks = [name for name in labels.column_names if name.startswith("rank:")]
    rows = [
        (escape(name.removeprefix("rank:")), len(column) - column.null_count, pc.count_distinct(column).as_py())
        for name, column in ((name, labels[name]) for name in ranks)
    ]
    training, found = "Not told: no results file was given.", "Not evaluated."
    if results is not None:
        if results.get("task") != "clibd/retrieval":
            raise ValueError(f"An index comes of the task 'clibd/retrieval', not {results.get('task')!r}.")
        require(results, {"": ("dataset", "splits", "options", "metrics"), "options": (), "metrics": ()})
        training, found = settings_table(results), _retrieval_tables(results["metrics"])
    dataset = "" if results is None else results["dataset"]
    return template("index.md").substitute(
        header=_header(title, dataset, "labels.parquet", ["retrieval", "feature-extraction"], about["keys"]),
        title=escape(title),
        **{name: cell(about[name]) for name in ("keys", "distinct", "dim")},
        kind=escape(about["kind"]),
        width=about["dim"],
        labels=table(("rank", "named keys", "names"), rows),
        training=training,
        results=found,
        limits=template("limits.md").substitute().strip(),
        citation=template("citation_bioscan5m.md").substitute().strip(),
    )


def _header(title: str, dataset: Any, file: str, tags: list[str], rows: Any) -> str:
    data = DatasetCardData(
        license="apache-2.0",
        pretty_name=" ".join(title.split()),
        tags=["biology", "biodiversity", "dna-barcode", "bioscan", *tags],
        size_categories=[size_category(int(rows))],
        source_datasets=[str(dataset)] if is_hub_id(str(dataset)) else None,
        configs=[{"config_name": "default", "data_files": file}],
    )
    return data.to_yaml()


def _retrieval_tables(metrics: Mapping[str, Any]) -> str:
    """Macro accuracy of each combination, of each encoder that was evaluated."""
    metrics = json.loads(json.dumps(metrics))  # as in the file, where every key is a string
    alone = any("->" in name for name in metrics)  # the tables of one encoder
    models = {"model": metrics} if alone else {name: about["tables"] for name, about in metrics.items()}
    if not any(models.values()):
        return "Not evaluated."
    lines = []
    for name, combinations in models.items():
        for question, parts in combinations.items():
            k = min(parts["seen"]["macro"], key=int)
            for rank in parts["seen"]["macro"][k]:
                scores = (parts[part]["macro"][k].get(rank) for part in ("seen", "unseen", "harmonic_mean"))
                lines.append((name, question, rank, f"top-{k}", *scores))
    told = "Macro accuracy in percent, over taxa, of queries of seen and unseen species; keys of both lie together."
    return "\n\n".join([told, table(("encoder", "query->key", "rank", "", "seen", "unseen", "harmonic mean"), lines)])
