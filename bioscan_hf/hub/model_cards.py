"""What the Hub shows: the card of a dataset from its build, the card of a model from its results file.

The templates are `dataset_script/dataset_card.md` and `model_cards/*.md`; no number of a run in them is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..cards import cell, escape, is_hub_id, named_dataset, require, settings_table, table, template

#: Task -> (template of the card's first part, task of the Hub, tag of the Hub's model pages).
BARCODEBERT_CARDS = {
    "barcodebert/pretrain": ("barcodebert_encoder.md", "fill-mask", "feature-extraction"),
    "barcodebert/finetune": ("barcodebert_classifier.md", "text-classification", "text-classification"),
    "barcodes/contrast": ("barcode_contrast.md", "feature-extraction", "feature-extraction"),
}

#: Family of encoders -> the paper that it is after.
PAPERS = {
    "barcodebert": "[BarcodeBERT](https://arxiv.org/abs/2311.02401)",
    "barcodemamba": "[BarcodeMamba](https://arxiv.org/abs/2412.11084)",
    "alignedbarcode": "the profiles of sequence alignment",
}

#: Family of encoders -> what a card cites.
CITATIONS = {
    "barcodebert": ("citation_barcodebert.md", "citation_bioscan5m.md"),
    "barcodemamba": ("citation_barcodemamba.md", "citation_barcodebert.md", "citation_bioscan5m.md"),
    "alignedbarcode": ("citation_bioscan5m.md",),
}


def barcodebert_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a folder that one of the trainers of barcodes wrote, with the results as `model-index` in its YAML.

    Args:
        results: Content of its results.json: `task` (a key of `BARCODEBERT_CARDS`), `model`, `dataset`, `splits`,
            `options` and `metrics`.

    Raises:
        ValueError: if something of that is missing, as in a file of another task or of an older version.
    """
    _check_results(results)
    opening, task, pipeline = BARCODEBERT_CARDS[results["task"]]
    model, classifies = results["model"], results["task"] == "barcodebert/finetune"
    family, title = _family(model), " ".join(title.split())
    dataset, base = str(results["dataset"]), str(results["options"].get("model"))
    header = ModelCardData(
        model_name=title,
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag=pipeline,
        tags=["biology", "dna", "dna-barcode", "bioscan", family],
        datasets=[dataset] if is_hub_id(dataset) else None,
        base_model=base if is_hub_id(base) else None,
        eval_results=_evaluations(results, task) or None,
    )
    fields = {
        "k": escape(model["k"]),
        "paper": PAPERS[family],
        "hidden": escape(model.get("output_size", model.get("hidden_size"))),
        "shape": escape(_shape(model)),
        "parameters": cell(model["parameters"]),
        **(_classes(model) if classifies else {}),
    }
    return template("barcodebert.md").substitute(
        header=header.to_yaml(),
        title=escape(title),
        opening=template(opening).substitute(fields).strip(),
        training=settings_table(results),
        results=_classification(results["metrics"]) if classifies else _plain_table(results["metrics"]),
        limits=template("limits.md").substitute().strip(),
        citation="".join(template(name).substitute() for name in CITATIONS[family]).strip(),
    )


def _check_results(results: Mapping[str, Any]) -> None:
    """Raises ValueError unless the card can be rendered."""
    task = results.get("task")
    if not isinstance(task, str) or task not in BARCODEBERT_CARDS:
        known = " and ".join(map(repr, BARCODEBERT_CARDS))
        raise ValueError(f"There is no card for the task {task!r} of these results; there is one for {known}.")
    require(results, {"": ("model", "dataset", "splits", "options", "metrics"), "model": (), "options": ()})
    aligned = _family(results["model"]) == "alignedbarcode"
    shape = ("positions", "embedding_size", "output_size") if aligned else ("hidden_size", "num_hidden_layers")
    classifies = task == "barcodebert/finetune"
    require(
        results,
        {
            "model": ("k", "parameters", *shape, *(("classes",) if classifies else ())),
            "metrics": ("train_loss_nats", "independent", "consistent") if classifies else (),
        },
    )


def _family(model: Mapping[str, Any]) -> str:
    """The family of encoders, by what tells its shape."""
    return "alignedbarcode" if "positions" in model else "barcodemamba" if "state_size" in model else "barcodebert"


def _shape(model: Mapping[str, Any]) -> str:
    """The encoder's size in words."""
    if "positions" in model:
        learned = (
            f"a learned part of {model['embedding_size']} numbers" if model["embedding_size"] else "nothing learned"
        )
        return (
            f"{model['positions']} positions, {learned}, {model['profile_weight']:.0%} of the cosine from the profile"
        )
    parts = [f"{model['num_hidden_layers']} layers"]
    if "num_attention_heads" in model:  # a state-space encoder has none
        parts.append(f"{model['num_attention_heads']} heads")
    return ", ".join([*parts, f"hidden size {model['hidden_size']}"])


def _classes(model: Mapping[str, Any]) -> dict[str, str]:
    """What the card of a classifier says of its classes, rank -> their number."""
    counts = model["classes"]
    several = len(counts) > 1
    answer = "taxa = model.predict_taxa(logits)  # rank -> ids and probabilities; a species implies its genus"
    return {
        "ranks": escape(", ".join(counts)),
        "classes": escape(", ".join(f"{cell(n)} classes of rank {rank}" for rank, n in counts.items())),
        "answer": answer if several else "name = model.config.id2label[int(logits.argmax())]",
    }


def _plain_table(metrics: Mapping[str, Any]) -> str:
    return table(("metric", "value"), [(str(key), _plain(value)) for key, value in metrics.items()])


def _plain(value: Any) -> str:
    return "not run" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


#: Column of the table of a classifier's results -> its key. Fractions are shown as percent.
COLUMNS = {
    "specimens": "support",
    "coverage": "coverage",
    "accuracy": "micro_accuracy",
    "macro accuracy": "macro_accuracy",
    "macro F1": "f1_macro",
    "calibration error": "expected_calibration_error",
    "cross-entropy, nats": "cross_entropy_nats",
}


def _classification(metrics: Mapping[str, Any]) -> str:
    """Tables of a classifier: each rank on its own, and ranks that agree with each other."""
    loss = f"Loss of the last logged training step: {escape(_plain(metrics['train_loss_nats']))} nats."
    if not metrics["independent"]:
        return f"Not evaluated. {loss}"
    text = [
        "In percent where no unit is given, over the specimens that are labelled at the rank. "
        "A specimen whose taxon is no class counts as wrong.",
        _scores_table(metrics["independent"]),
    ]
    if metrics["consistent"]:
        text += [
            "The same, where the answers at the ranks imply each other (`predict_taxa`):",
            _scores_table(metrics["consistent"]),
        ]
    return "\n\n".join([*text, loss])


def _scores_table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """One row for each split and rank."""
    lines = [(split, rank, *(_score(row, key) for key in COLUMNS.values())) for split, rank, row in _rows(scores)]
    return table(("split", "rank", *COLUMNS), lines)


def _rows(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    return ((split, rank, values) for split, ranks in scores.items() for rank, values in ranks.items())


def _score(values: Mapping[str, Any], key: str) -> Any:
    """Cell of a table: what is no metric of these predictions is "-", what has no specimen "none"."""
    if key not in values:
        return "-"
    value = values[key]
    if value is None:
        return "none"
    return f"{value:.3f}" if key.endswith("_nats") else value


#: Metric of a classifier -> the Hub's name of its kind.
METRIC_TYPES = {"micro_accuracy": "accuracy", "macro_accuracy": "balanced_accuracy", "f1_macro": "f1"}


def _evaluations(results: Mapping[str, Any], task: str) -> list[EvalResult]:
    """The results as the Hub's model pages read them; what was not run is left out."""
    metrics = results["metrics"]
    kind_of_data, name = named_dataset(results["dataset"])
    if results["task"] == "barcodebert/pretrain":
        split = results["options"].get("validation_split")
        found = [
            (split, f"{key.removeprefix('validation_').removesuffix('_accuracy')} k-mer accuracy", "accuracy", value)
            for key, value in metrics.items()
            if key.endswith("_accuracy")
        ]
    elif results["task"] == "barcodes/contrast":
        found = [
            (split, f"1-NN {rank} accuracy", "accuracy", value)
            for question, value in metrics.items()
            if " of " in question
            for rank, split in [question.split(" of ")]
        ]
    else:
        found = [
            (split, f"{rank} {key.replace('_', ' ')}", kind, values[key])
            for split, rank, values in _rows(metrics["independent"])
            for key, kind in METRIC_TYPES.items()
        ]
    return [
        EvalResult(
            task_type=task,
            dataset_type=kind_of_data,
            dataset_name=name,
            dataset_split=split,
            metric_type=kind,
            metric_name=metric,
            metric_value=value,
        )
        for split, metric, kind, value in found
        if value is not None
    ]
