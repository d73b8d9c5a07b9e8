"""Model cards: what a results file says and nothing else, in the form that the Hub reads."""

import copy
import re

import pytest
from huggingface_hub import ModelCard

from bioscan_hf.hub.model_cards import barcodebert_card

MODEL = {"k": 4, "num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 128, "parameters": 464_000}
PRETRAINED = {
    "task": "barcodebert/pretrain",
    "model": MODEL,
    "dataset": "/data/of/someone/release",
    "splits": {"pretrain": 12_345, "val": 6},
    "options": {"mask_ratio": 0.5, "validation_split": "val", "bf16": True},
    "metrics": {"validation_masked_loss_nats": 3.14159, "validation_masked_accuracy": 0.25},
}
SCORES = {
    "support": 1_234,
    "classes": 7,
    "micro_accuracy": 0.9012,
    "macro_accuracy": 0.8123,
    "f1_macro": 0.7234,
    "coverage": 0.9556,
    "expected_calibration_error": 0.0345,
    "cross_entropy_nats": 0.4567,
}
NO_LABELS = {name: 0 if name in ("support", "classes") else None for name in SCORES}
FINETUNED = {
    "task": "barcodebert/finetune",
    "model": MODEL | {"classes": {"genus": 4_000, "species": 11_846}},
    "dataset": "bioscan-ml/BIOSCAN-5M",
    "splits": {"train": 289_203, "test": 39_373},
    "options": {"ranks": ["genus", "species"], "preset": "published"},
    "metrics": {
        "train_loss_nats": 0.125,
        "independent": {
            "test": {"genus": SCORES, "species": SCORES | {"micro_accuracy": 0.6543}},
            "val": {"genus": NO_LABELS},
        },
        "consistent": {"test": {"genus": {"support": 1_234, "micro_accuracy": 0.9111}}},
    },
}


@pytest.mark.parametrize("results", [PRETRAINED, FINETUNED])
def test_a_card_is_whole(results):
    card = barcodebert_card("Tiny", results)
    assert not re.search(r"\$\w", card), "a field of the template was left open"
    parsed = ModelCard(card).data
    assert (parsed.license, parsed.library_name, parsed.model_name) == ("apache-2.0", "transformers", "Tiny")
    for part in ("## Intended use", "## Training", "## Results", "## Limits", "## Licence and citation"):
        assert f"\n\n{part}\n\n" in card
    assert "464,000 parameters" in card and "4-mers" in card and "2 layers, 3 heads, hidden size 128" in card
    assert "2311.02401" in card and "gharaee2024bioscan5m" in card
    numbers = set(re.findall(r"\d+\.\d+", card.split("## Results")[1].split("## Limits")[0]))
    assert numbers and numbers <= {"3.1416", "0.2500"} | {"90.1", "81.2", "72.3", "95.6", "3.5", "0.457"} | {
        "65.4",
        "91.1",
        "0.1250",
    }


def test_the_card_of_a_pretrained_model():
    card = barcodebert_card("Tiny", PRETRAINED)
    assert "| validation_masked_loss_nats | 3.1416 |" in card and "| mask_ratio | 0.5 |" in card
    assert "| split sizes | pretrain: 12,345, val: 6 |" in card and "| bf16 | True |" in card
    (evaluation,) = ModelCard(card).data.eval_results
    assert (evaluation.task_type, evaluation.dataset_name, evaluation.dataset_type) == (
        "fill-mask",
        "release",
        "release",
    )
    assert (evaluation.dataset_split, evaluation.metric_type, evaluation.metric_value) == ("val", "accuracy", 0.25)
    unrun = copy.deepcopy(PRETRAINED)
    unrun["metrics"]["validation_masked_accuracy"] = None
    card = barcodebert_card("Tiny", unrun)
    assert "| validation_masked_accuracy | not run |" in card and not ModelCard(card).data.eval_results


def test_a_model_without_attention_heads_has_a_card():
    """A state-space encoder has none."""
    model = {name: value for name, value in MODEL.items() if name != "num_attention_heads"} | {"state_size": 64}
    results = PRETRAINED | {"model": model, "metrics": {"validation_next_accuracy": 0.5}}
    card = barcodebert_card("Tiny", results)
    assert "2 layers, hidden size 128" in card and "after [BarcodeMamba](https://arxiv.org/abs/2412.11084)" in card
    assert ModelCard(card).data.eval_results[0].metric_name == "next k-mer accuracy"


def test_the_card_of_a_classifier():
    card = barcodebert_card("Tiny", FINETUNED)
    assert "by genus, species after" in card
    assert "4,000 classes of rank genus, 11,846 classes of rank species" in card and "predict_taxa(logits)" in card
    assert "| test | genus | 1,234 | 95.6 | 90.1 | 81.2 | 72.3 | 3.5 | 0.457 |" in card
    assert "| val | genus | 0 | none | none | none | none | none | none |" in card
    assert "| test | genus | 1,234 | - | 91.1 | - | - | - | - |" in card
    assert "| ranks | genus, species |" in card
    found = ModelCard(card).data.eval_results
    assert {(result.dataset_type, result.dataset_name, result.dataset_split) for result in found} == {
        ("bioscan-ml/BIOSCAN-5M", "BIOSCAN-5M", "test")
    }
    assert [(result.metric_name, result.metric_type, result.metric_value) for result in found] == [
        ("genus micro accuracy", "accuracy", 0.9012),
        ("genus macro accuracy", "balanced_accuracy", 0.8123),
        ("genus f1 macro", "f1", 0.7234),
        ("species micro accuracy", "accuracy", 0.6543),
        ("species macro accuracy", "balanced_accuracy", 0.8123),
        ("species f1 macro", "f1", 0.7234),
    ]


def test_the_card_of_a_classifier_of_one_rank():
    results = copy.deepcopy(FINETUNED)
    results["model"]["classes"] = {"species": 3}
    results["metrics"] |= {"independent": {"test": {"species": SCORES}}, "consistent": {}}
    card = barcodebert_card("Tiny", results)
    assert "id2label[int(logits.argmax())]" in card and "imply each other" not in card
    results["metrics"]["independent"] = {}
    assert "Not evaluated. Loss of the last logged training step: 0.1250 nats." in barcodebert_card("Tiny", results)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("task",), "no card for the task None.*'barcodebert/pretrain' and 'barcodebert/finetune'"),
        (("splits",), "have no splits: another version"),
        (("model", "classes"), "have no model.classes"),
        (("metrics", "independent"), "have no metrics.independent"),
    ],
)
def test_results_of_another_shape_are_refused(path, message):
    results = copy.deepcopy(FINETUNED)
    part = results
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    with pytest.raises(ValueError, match=message):
        barcodebert_card("Tiny", results)
