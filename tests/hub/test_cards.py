"""Model cards show the numbers of a results file and no others, in the form that the Hub reads."""

import copy
import re

import minihub
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from bioscan_hf.cards import escape, eval_results_yaml, setting, write_card
from bioscan_hf.evaluation.retrieval_protocol import Specimens, evaluate_retrieval
from bioscan_hf.files import is_hub_id
from bioscan_hf.hub.cards import barcodebert_card, clibd_card

MODEL = {"k": 4, "num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 128, "parameters": 464_000}
PRETRAINED = {
    "task": "barcodebert/pretrain",
    "model": MODEL,
    "dataset": "/data/of/someone/release",
    "splits": {"pretrain": 12_345, "val": 6},
    "options": {"mask_ratio": 0.5, "validation_split": "val", "bf16": True},
    "metrics": {"validation_masked_loss_nats": 3.14159, "validation_masked_accuracy": 0.25},
}
ON_THE_HUB = PRETRAINED | {
    "dataset": "bioscan-ml/BIOSCAN-5M",
    "splits": {"pretrain": 12_345},
    "options": {"validation_split": "val"},
    "metrics": {"validation_masked_accuracy": 0.25},
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
def test_a_card_is_complete(results):
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
    """A state-space encoder has no heads."""
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
        (("task",), "of the task None; give results of 'barcodebert/pretrain' or 'barcodebert/finetune'"),
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


def specimens(species, seed):
    """Random photo embeddings, and barcode embeddings that identify the species."""
    random = np.random.default_rng(seed)
    barcodes = np.eye(4)[species] + random.normal(0, 0.01, (len(species), 4))
    return Specimens(
        embeddings={"image": random.normal(size=(len(species), 4)), "dna": barcodes},
        labels={"species": [f"Aus s{i}" for i in species]},
        present={name: np.ones(len(species), bool) for name in ("image", "dna")},
        ids=[f"P{i}" for i in range(len(species))],
    )


@pytest.fixture(scope="module")
def clibd_results():
    keys, queries = specimens([0, 1, 2, 3], 0), {"seen": specimens([0, 1], 1), "unseen": specimens([2, 3], 2)}
    return {
        "task": "clibd/train",
        "model": {
            "modalities": ["image", "dna"],
            "projection_dim": 24,
            "parameters": 1_234_567,
            "trained_parameters": 890,
        },
        "dataset": "/home/me/simulated",
        "splits": {"pretrain+train": 1200, "seen": 2},
        "options": {"learning_rate": 5e-05, "freeze": ["image"], "lora_rank": 0},
        "metrics": {
            "train_loss_nats": 0.12345,
            "retrieval": evaluate_retrieval(keys, queries, combinations=["dna->dna"], ranks=["species"], top_k=[1]),
        },
    }


def test_clibd_card_shows_the_numbers_of_its_results(clibd_results):
    """Barcodes identify the species, so all are right; chance is one in four keys."""
    card = clibd_card("My CLIBD", clibd_results)
    assert "| dna->dna | species | 100.0 | 100.0 | 100.0 | 25.0 |" in card
    assert "Embeds photos and DNA barcodes of arthropods in one space of 24 dimensions" in card
    assert "1,234,567 parameters, of which 890 were trained" in card
    assert "0.1235 nats" in card and "| split sizes | pretrain+train: 1,200, seen: 2 |" in card
    assert "similarity = output.image_embeds @ output.dna_embeds.T" in card and "text=[" not in card
    data = ModelCard(card).data
    found = {(result.dataset_split, result.metric_name): result.metric_value for result in data.eval_results}
    assert found == {("seen", "dna->dna species macro top-1"): 1.0, ("unseen", "dna->dna species macro top-1"): 1.0}
    assert data.eval_results[0].dataset_name == "simulated"


def test_clibd_card_without_evaluation_or_with_other_results(clibd_results):
    card = clibd_card("x", clibd_results | {"metrics": {"train_loss_nats": None, "retrieval": {}}})
    assert "Not evaluated. Loss of the last logged training step: not run." in card
    with pytest.raises(ValueError, match="of the task 'barcodebert/pretrain'; give results of 'clibd/train'"):
        clibd_card("x", clibd_results | {"task": "barcodebert/pretrain"})
    with pytest.raises(ValueError, match="have no model.projection_dim, model.trained_parameters"):
        clibd_card("x", clibd_results | {"model": {"modalities": ["dna"], "parameters": 1}})
    with pytest.raises(ValueError, match="have no metrics"):
        clibd_card("x", {key: value for key, value in clibd_results.items() if key != "metrics"})


def test_results_on_a_hub_dataset_are_written_for_its_leaderboard(tmp_path):
    """Results on a folder are not."""
    write_card(tmp_path / "README.md", barcodebert_card("x", ON_THE_HUB))
    (entry,) = yaml.safe_load((tmp_path / ".eval_results/bioscan_hf.yaml").read_text())
    assert entry["dataset"] == {"id": "bioscan-ml/BIOSCAN-5M", "task_id": "val_masked_k_mer_accuracy"}
    assert entry["value"] == 0.25 and "fraction" in entry["notes"]
    assert eval_results_yaml(barcodebert_card("x", ON_THE_HUB | {"dataset": "release"})) is None
    write_card(tmp_path / "other/README.md", barcodebert_card("x", ON_THE_HUB | {"dataset": "release"}))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["README.md"]


def test_card_metadata_survive_a_round_trip_of_huggingface_hub():
    """A card without results has no model-index: the Hub would refuse an empty one."""
    text = barcodebert_card("x", ON_THE_HUB)
    header = yaml.safe_load(text.split("---")[1])
    name, found = model_index_to_eval_results(header["model-index"])
    assert eval_results_to_model_index(name, found) == header["model-index"] and found[0].metric_value == 0.25
    assert header["datasets"] == ["bioscan-ml/BIOSCAN-5M"] and minihub.card_errors("model", text) == []
    unrun = barcodebert_card("x", ON_THE_HUB | {"metrics": {"validation_masked_accuracy": None}})
    assert "model-index" not in unrun and minihub.card_errors("model", unrun) == []
    assert ModelCard(unrun).data.model_name == "x"


def test_the_checks_of_the_test_hub_can_fail():
    for kind, header, message in (
        ("model", "license: Apache 2", "license"),
        ("model", "model-index: [{name: x, results: []}]", "a name and results"),
        (
            "model",
            "model-index: [{name: x, results: [{task: {type: a}, dataset: {name: b}, metrics: []}]}]",
            "dataset",
        ),
        ("space", "title: x", "sdk"),
        ("dataset", "configs: [{data_files: x}]", "names"),
        ("dataset", "- a list", "not a mapping"),
    ):
        (error,) = minihub.card_errors(kind, f"---\n{header}\n---\n# x\n")
        assert message in error
    assert minihub.card_errors("model", "# x") == ["the card has no YAML"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/data", "data"),
        ("C:\\Users\\me\\data", "data"),
        ("~/data", "data"),
        ("../runs/a", "a"),
        ("runs/a/b", "b"),
        ("bioscan-ml/BIOSCAN-5M", "bioscan-ml/BIOSCAN-5M"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("train+val", "train+val"),
        ("\\\\server\\our data\\x.csv", "x.csv"),
        ("no photo in /home/me/my data/x.zip, row 3", "no photo in x.zip, row 3"),
        ("one / the other", "one / the other"),
        ({"model": ["/a/b", 1234, None, True]}, "model: b, 1,234, None, True"),
    ],
)
def test_a_path_is_shown_without_folders(value, shown):
    assert setting(value) == shown


def test_a_hub_id_is_not_a_folder(tmp_path, monkeypatch):
    (tmp_path / "runs/a").mkdir(parents=True)
    assert is_hub_id("runs/a") and setting("runs/a") == "runs/a"
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("runs/a") and setting("runs/a") == "a"
    assert not any(map(is_hub_id, ("a", "../a", "./a", "a/b/c", "a/<b>", "a" * 97 + "/b")))


def test_markup_in_a_value_is_escaped():
    assert escape("<b>&\n| [x](y) `z`") == "&lt;b>&amp; \\| \\[x](y) \\`z\\`"
