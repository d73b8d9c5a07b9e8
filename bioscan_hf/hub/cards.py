"""Cards of models, rendered from results files. The templates are in `model_cards/`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import PureWindowsPath
from typing import Any

from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData

from ..cards import cell, escape, settings_table, table
from ..files import is_hub_id

TAGS = ["biology", "biodiversity", "dna-barcode", "bioscan"]

#: Task of a barcode model -> (task of the Hub, pipeline tag).
BARCODE_TASKS = {
    "barcodebert/pretrain": ("fill-mask", "feature-extraction"),
    "barcodebert/finetune": ("text-classification", "text-classification"),
    "barcodes/contrast": ("feature-extraction", "feature-extraction"),
}

#: Encoder family -> (link to the paper, files with citations).
FAMILIES = {
    "barcodebert": ("[BarcodeBERT](https://arxiv.org/abs/2311.02401)", ("barcodebert", "bioscan5m")),
    "barcodemae": ("[BarcodeMAE](https://arxiv.org/abs/2502.18405)", ("barcodemae", "barcodebert", "bioscan5m")),
    "barcodemamba": ("[BarcodeMamba](https://arxiv.org/abs/2412.11084)", ("barcodemamba", "barcodebert", "bioscan5m")),
    "alignedbarcode": ("the profiles of sequence alignment", ("bioscan5m",)),
}

#: Modality -> (its name, how it is passed to the processor).
CLIBD_INPUTS = {
    "image": ("photos", 'images=["specimen.jpg"]'),
    "dna": ("DNA barcodes", 'dna=["AACATTATATTTTATTTTTGGAATTTGAGCAGGA"]'),
    "text": ("taxonomy", 'text=[{"order": "Diptera", "family": "Sciaridae"}]'),
}

#: Column of a classifier's table -> key of its metric.
CLASSIFIER_COLUMNS = {
    "specimens": "support",
    "coverage": "coverage",
    "accuracy": "micro_accuracy",
    "macro accuracy": "macro_accuracy",
    "macro F1": "f1_macro",
    "calibration error": "expected_calibration_error",
    "cross-entropy, nats": "cross_entropy_nats",
}

#: Metric of a classifier -> the Hub's name of its kind.
METRIC_TYPES = {"micro_accuracy": "accuracy", "macro_accuracy": "balanced_accuracy", "f1_macro": "f1"}

#: Groups of queries that retrieval tables show.
PARTS = ("seen", "unseen", "harmonic_mean")


# ---- barcode models ------------------------------------------------------------------------------------------------


def barcodebert_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a barcode model, with its results as `model-index` in the YAML.

    `results` is the content of results.json; ValueError if a field is missing or its task is not in `BARCODE_TASKS`.
    """
    model, family = _check_barcode_results(results)
    classifies = results["task"] == "barcodebert/finetune"
    hub_task, pipeline = BARCODE_TASKS[results["task"]]
    if classifies and len(model["classes"]) > 1:
        pipeline = "feature-extraction"  # "text-classification" gives one label
    paper, citations = FAMILIES[family]
    tags = ["biology", "dna", "dna-barcode", "bioscan", family]
    data = _model_data(title, results, pipeline, tags, hub_task, _barcode_metrics(results))
    base = str(results["options"].get("model"))
    data.base_model = base if is_hub_id(base) else None
    classes = model["classes"] if classifies else {}
    plain = [(str(key), _plain(value)) for key, value in results["metrics"].items()]
    return render(
        ModelCard,
        data,
        "barcodebert.md",
        citations,
        title=escape(title),
        contrast=results["task"] == "barcodes/contrast",
        k=escape(model["k"]),
        paper=paper,
        hidden=escape(model.get("output_size", model.get("hidden_size"))),
        shape=escape(_shape(model)),
        parameters=cell(model["parameters"]),
        ranks=escape(", ".join(classes)),
        classes=escape(", ".join(f"{cell(n)} classes of rank {rank}" for rank, n in classes.items())),
        several=len(classes) > 1,
        training=settings_table(results),
        results=_classifier_results(results["metrics"]) if classifies else table(("metric", "value"), plain),
    )


def _check_barcode_results(results: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The model of the results and its family, after checking that the card has all it needs."""
    check_task(results, *BARCODE_TASKS)
    require(results, {"": ("model", "dataset", "splits", "options", "metrics"), "model": (), "options": ()})
    model = results["model"]
    told = {"positions": "alignedbarcode", "state_size": "barcodemamba", "decoder_num_hidden_layers": "barcodemae"}
    family = next((name for key, name in told.items() if key in model), "barcodebert")
    shape: tuple[str, ...] = ("hidden_size", "num_hidden_layers")
    if family == "alignedbarcode":
        shape = ("positions", "embedding_size", "output_size", "profile_weight")
    require(results, {"model": ("k", "parameters", *shape), "metrics": ()})
    if results["task"] == "barcodebert/finetune":
        require(results, {"model": ("classes",), "metrics": ("train_loss_nats", "independent", "consistent")})
    return model, family


def _shape(model: Mapping[str, Any]) -> str:
    """Size of the encoder in words."""
    if "positions" in model:
        size, weight = model["embedding_size"], model["profile_weight"]
        learned = f"{size} learned dimensions" if size else "no learned dimensions"
        return f"{model['positions']} positions, {learned}, the profile counts {weight:.0%} of the cosine"
    heads = [f"{model['num_attention_heads']} heads"] if "num_attention_heads" in model else []
    decoder = [f"{layers} layers of decoder"] if (layers := model.get("decoder_num_hidden_layers")) else []
    return ", ".join([f"{model['num_hidden_layers']} layers", *heads, f"hidden size {model['hidden_size']}", *decoder])


def _barcode_metrics(results: Mapping[str, Any]) -> Iterator[tuple[Any, str, str, Any]]:
    """(split, name, type, value) of each metric of a barcode model that the Hub shows."""
    metrics = results["metrics"]
    if results["task"] == "barcodebert/finetune":
        for split, rank, values in _rows(metrics["independent"]):
            for key, kind in METRIC_TYPES.items():
                yield split, f"{rank} {key.replace('_', ' ')}", kind, values[key]
        return
    for key, value in metrics.items():
        if results["task"] == "barcodebert/pretrain" and key.endswith("_accuracy"):
            name = key.removeprefix("validation_").removesuffix("_accuracy")
            yield results["options"].get("validation_split"), f"{name} k-mer accuracy", "accuracy", value
        elif results["task"] == "barcodes/contrast" and " of " in key:
            rank, split = key.split(" of ")
            yield split, f"1-NN {rank} accuracy", "accuracy", value


def _plain(value: Any) -> str:
    return "not run" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _loss(metrics: Mapping[str, Any]) -> str:
    loss = metrics["train_loss_nats"]
    shown = "not run" if loss is None else f"{escape(_plain(loss))} nats"
    return f"Loss of the last logged training step: {shown}."


def _classifier_results(metrics: Mapping[str, Any]) -> str:
    """Tables of a classifier: independent ranks, then consistent ranks."""
    if not metrics["independent"]:
        return f"Not evaluated. {_loss(metrics)}"
    text = [
        "In percent where no unit is given, over the specimens that are labelled at the rank. A specimen whose taxon "
        "is not among the classes counts as wrong.",
        _classifier_table(metrics["independent"]),
    ]
    if metrics["consistent"]:
        text += [
            "With consistent ranks, where a species implies its genus and so on (`predict_taxa`):",
            _classifier_table(metrics["consistent"]),
        ]
    return "\n\n".join([*text, _loss(metrics)])


def _classifier_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per split and rank. "-" is a metric that does not apply; "none" one without specimens."""
    rows = []
    for split, rank, values in _rows(scores):
        shown = [values.get(key, "-") for key in CLASSIFIER_COLUMNS.values()]
        nats = values.get("cross_entropy_nats")
        shown[-1] = f"{nats:.3f}" if isinstance(nats, float) else shown[-1]
        rows.append((split, rank, *("none" if value is None else value for value in shown)))
    return table(("split", "rank", *CLASSIFIER_COLUMNS), rows)


def _rows(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    return ((split, rank, values) for split, ranks in scores.items() for rank, values in ranks.items())


# ---- CLIBD ---------------------------------------------------------------------------------------------------------


#: Line of the example of a model with fusion.
FUSED = "\nfused = output.fused_embeds  # photo and barcode together, (1, dimensions)"


def clibd_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a CLIBD model, with its results as `model-index` in the YAML.

    `results` is the content of results.json; ValueError if a field is missing or the task is another one.
    """
    check_task(results, "clibd/train")
    require(results, {"": ("model", "dataset", "splits", "options", "metrics"), "options": ()})
    require(results, {"model": ("modalities", "projection_dim", "parameters", "trained_parameters")})
    require(results, {"metrics": ("train_loss_nats", "retrieval")})
    results = json.loads(json.dumps(results))  # as in the file: every key is a string
    model, metrics = results["model"], results["metrics"]
    present: Sequence[str] = model["modalities"]
    if not present or not set(present) <= set(CLIBD_INPUTS):
        raise ValueError(f"modalities of these results are {present}; allowed are {', '.join(CLIBD_INPUTS)}.")
    shown = (
        (part, f"{question} {rank} macro top-1", "balanced_accuracy", found[part]["macro"]["1"].get(rank))
        for question, found in metrics["retrieval"].items()
        for part in ("seen", "unseen")
        for rank in found[part]["macro"]["1"]
    )
    task, tags = "feature-extraction", [*TAGS, "clibd", "contrastive", "multimodal"]
    data = _model_data(title, results, task, tags, task, shown)
    kinds = [CLIBD_INPUTS[modality][0] for modality in present]
    return render(
        ModelCard,
        data,
        "clibd.md",
        ("clibd", "bioscan5m"),
        title=escape(title),
        modalities=" and ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1]))),
        dimensions=f"{model['projection_dim']:,}",
        parameters=f"{model['parameters']:,}",
        trained=f"{model['trained_parameters']:,}",
        inputs=", ".join(CLIBD_INPUTS[modality][1] for modality in present),
        pair=f"output.{present[0]}_embeds @ output.{present[-1]}_embeds.T",
        fused=FUSED if results["options"].get("fusion_weight") else "",
        training=settings_table(results),
        results=_clibd_results(metrics),
    )


def _clibd_results(metrics: Mapping[str, Any]) -> str:
    """Table of each combination of queries and keys, with chance."""
    if not metrics["retrieval"]:
        return f"Not evaluated. {_loss(metrics)}"
    rows = []
    for question, found in metrics["retrieval"].items():
        columns = [found[part]["macro"]["1"] for part in PARTS] + [found["seen"]["chance"]["macro"]["1"]]
        rows += [(question, rank, *(column.get(rank) for column in columns)) for rank in columns[0]]
    text = (
        "Macro top-1 accuracy in percent: the share of queries whose nearest key has their taxon, averaged over taxa. "
        "Species of the queries were named in training (seen) or not (unseen); the keys hold both. Chance is the "
        "accuracy of a random key, for seen queries."
    )
    header = ("query->key", "rank", "seen", "unseen", "harmonic mean", "chance")
    return "\n\n".join([text, table(header, rows), _loss(metrics)])


# ---- what the cards share ------------------------------------------------------------------------------------------


def render(
    card: type[ModelCard] | type[DatasetCard], data: Any, template: str, citations: Sequence[str], /, **fields: Any
) -> str:
    """Text of a card. The fields must be escaped already."""
    made = card.from_template(
        data,
        template_str=_text(template),
        limits=_text("limits.md").strip(),
        citation="\n".join(_text(f"citation_{name}.md") for name in citations).strip(),
        **fields,
    )
    return f"{str(made).rstrip()}\n"


def _text(name: str) -> str:
    return files("bioscan_hf.model_cards").joinpath(name).read_text(encoding="utf-8")


def _model_data(
    title: str,
    results: Mapping[str, Any],
    pipeline: str,
    tags: list[str],
    hub_task: str,
    metrics: Iterable[tuple[Any, str, str, Any]],
) -> ModelCardData:
    """The YAML of a card, with the metrics (split, name, type, value) that are not None."""
    dataset = str(results["dataset"])
    name, on_hub = PureWindowsPath(dataset).name, is_hub_id(dataset)
    evaluations = [
        EvalResult(
            task_type=hub_task,
            dataset_type=dataset if on_hub else name,
            dataset_name=name,
            dataset_split=split,
            metric_type=kind,
            metric_name=metric,
            metric_value=value,
        )
        for split, metric, kind, value in metrics
        if value is not None
    ]
    return ModelCardData(
        model_name=" ".join(title.split()),
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag=pipeline,
        tags=tags,
        datasets=[dataset] if on_hub else None,
        eval_results=evaluations or None,
    )


def check_task(results: Mapping[str, Any], *tasks: str) -> None:
    """Raises ValueError unless the results are of one of these tasks."""
    if results.get("task") not in tasks:
        wanted = " or ".join(map(repr, tasks))
        raise ValueError(f"The results are of the task {results.get('task')!r}; give results of {wanted}.")


def require(results: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError unless each part of the results ("" is the whole) is an object with the given names."""
    for part, names in wanted.items():
        content = results[part] if part else results
        if not isinstance(content, Mapping):
            raise ValueError(f"{part!r} of these results is a {type(content).__name__} instead of an object.")
        missing = [".".join(filter(None, (part, name))) for name in names if name not in content]
        if missing:
            raise ValueError(
                f"These results of {results.get('task')!r} have no {', '.join(missing)}: another version of the "
                f"package wrote them. Render the card with that version, or run the task again."
            )
