"""The model card of CLIBD, from the results file that its training wrote. The template is model_cards/clibd.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..cards import escape, is_hub_id, named_dataset, require, settings_table, table, template

#: Modality -> what a card calls it, and how it is given to the processor.
INPUTS = {
    "image": ("photos", 'images=["specimen.jpg"]'),
    "dna": ("DNA barcodes", 'dna=["AACATTATATTTTATTTTTGGAATTTGAGCAGGA"]'),
    "text": ("taxonomy", 'text=[{"order": "Diptera", "family": "Sciaridae"}]'),
}

#: Of the queries: what the tables show, in percent.
COLUMNS = ("seen", "unseen", "harmonic_mean")


def clibd_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a folder that `trainers/train_clibd.py` wrote, with its results as `model-index` in the YAML.

    Args:
        results: Content of its results.json: `model`, `dataset`, `splits`, `options` and `metrics`.

    Raises:
        ValueError: if it is of another task, or something of that is missing.
    """
    if results.get("task") != "clibd/train":
        raise ValueError(f"This card is for the task 'clibd/train', not {results.get('task')!r}.")
    require(results, {"": ("model", "dataset", "splits", "options", "metrics"), "options": ()})
    require(results, {"model": ("modalities", "projection_dim", "parameters", "trained_parameters")})
    require(results, {"metrics": ("train_loss_nats", "retrieval")})
    results = json.loads(json.dumps(results))  # as in the file, where every key is a string
    model = results["model"]
    present: Sequence[str] = model["modalities"]
    if not present or not set(present) <= set(INPUTS):
        raise ValueError(f"modalities of these results are {present}; there are {', '.join(INPUTS)}.")
    title, dataset = " ".join(title.split()), str(results["dataset"])
    header = ModelCardData(
        model_name=title,
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="feature-extraction",
        tags=["biology", "biodiversity", "dna-barcode", "bioscan", "clibd", "contrastive", "multimodal"],
        datasets=[dataset] if is_hub_id(dataset) else None,
        eval_results=_evaluations(results) or None,
    )
    kinds = [INPUTS[modality][0] for modality in present]
    pair = " @ ".join((f"output.{present[0]}_embeds", f"output.{present[-1]}_embeds.T"))
    return template("clibd.md").substitute(
        header=header.to_yaml(),
        title=escape(title),
        modalities=" and ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1]))),
        dimensions=f"{model['projection_dim']:,}",
        parameters=f"{model['parameters']:,}",
        trained=f"{model['trained_parameters']:,}",
        inputs=", ".join(INPUTS[modality][1] for modality in present),
        similarity=f"similarity = {pair}  # cosines, (1, 1)",
        training=settings_table(results),
        results=_results(results["metrics"]),
        limits=template("limits.md").substitute().strip(),
        citation=template("citation_bioscan5m.md").substitute().strip(),
    )


def _results(metrics: Mapping[str, Any]) -> str:
    """A table of each combination of queries and keys, beside chance."""
    loss = metrics["train_loss_nats"]
    told = "Loss of the last logged training step: " + ("not run." if loss is None else f"{loss:.4f} nats.")
    if not metrics["retrieval"]:
        return f"Not evaluated. {told}"
    rows = [
        (question, rank, *(_top1(of_question[part], rank) for part in COLUMNS), _chance(of_question, rank))
        for question, of_question in metrics["retrieval"].items()
        for rank in of_question["seen"]["macro"]["1"]
    ]
    return "\n\n".join(
        [
            "Macro top-1 accuracy in percent: the share of queries whose nearest key has their taxon, averaged over "
            "taxa. Queries are of species that training has named (seen) or not (unseen); keys of both lie together. "
            "Chance is that of a key drawn at random, for seen queries.",
            table(("query->key", "rank", "seen", "unseen", "harmonic mean", "chance"), rows),
            told,
        ]
    )


def _top1(scores: Mapping[str, Any], rank: str) -> float | None:
    return scores["macro"]["1"].get(rank)


def _chance(of_question: Mapping[str, Any], rank: str) -> float | None:
    return of_question["seen"]["chance"]["macro"]["1"].get(rank)


def _evaluations(results: Mapping[str, Any]) -> list[EvalResult]:
    """The results as the Hub's model pages read them."""
    kind, name = named_dataset(results["dataset"])
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=kind,
            dataset_name=name,
            dataset_split=part,
            metric_type="balanced_accuracy",
            metric_name=f"{question} {rank} macro top-1",
            metric_value=value,
        )
        for question, of_question in results["metrics"]["retrieval"].items()
        for part in ("seen", "unseen")
        for rank in of_question[part]["macro"]["1"]
        if (value := _top1(of_question[part], rank)) is not None
    ]
