"""Cards of a clustering and of an index; the file for a leaderboard; what is text in a card, and what is a path."""

import minihub
import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from bioscan_hf.cards import escape, eval_results_yaml, is_hub_id, setting, without_folder, write_card
from bioscan_hf.dataset.publish import push_metric
from bioscan_hf.hub.model_cards import barcodebert_card
from bioscan_hf.hub.protocol_cards import clustering_card, index_card
from bioscan_hf.search.index import build_index, save_index

SCORES = {
    "labelled": 1234,
    "missing": 5,
    "classes": 67,
    "ami": 0.8123,
    "ami_labelled": 0.9012,
    "homogeneity_labelled": 0.7,
    "completeness_labelled": None,
}
CLUSTERED = {
    "task": "bioscan5m/clustering",
    "protocol": "bioscan5m",
    "dataset": "/data/of/someone/release",
    "splits": {"test": 1000, "test_unseen": 239},
    "specimens": 1239,
    "modalities": {"dna": 768},
    "options": {"reducer": "umap", "clusterer": "ward"},
    "seeds": [0, 1, 2],
    "metrics": {"species": SCORES, "separation": {"n_clusters": 67}},
}
PRETRAINED = {
    "task": "barcodebert/pretrain",
    "model": {"k": 4, "num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 128, "parameters": 464_000},
    "dataset": "bioscan-ml/BIOSCAN-5M",
    "splits": {"pretrain": 12_345},
    "options": {"validation_split": "val"},
    "metrics": {"validation_masked_accuracy": 0.25},
}


def test_the_card_of_a_clustering():
    """Its numbers are those of the results, and its YAML tells `load_dataset` where the rows are."""
    text = clustering_card("Clusters", CLUSTERED)
    assert "| species | 1,234 | 67 | 81.2 | 90.1 | 70.0 | not run |" in text and "separation" not in text
    assert "Clusters of 1,239 arthropod specimens" in text and "mean over 3 runs of other seeds" in text
    assert "| data | release |" in text and "/data/of" not in text and "| clusterer | ward |" in text
    data = DatasetCard(text).data
    assert data.configs == [{"config_name": "default", "data_files": "clusters.parquet"}]
    assert data.size_categories == ["1K<n<10K"] and minihub.card_errors("dataset", text) == []


def test_results_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="for the task 'bioscan5m/clustering', not 'x'"):
        clustering_card("x", {"task": "x"})
    with pytest.raises(ValueError, match="have no seeds: another version"):
        clustering_card("x", {key: value for key, value in CLUSTERED.items() if key != "seeds"})
    with pytest.raises(ValueError, match="have no species.ami|have no .*ami"):
        clustering_card("x", CLUSTERED | {"metrics": {"species": {"labelled": 1, "classes": 1}}})
    with pytest.raises(ValueError, match="'metrics' of these results is a list"):
        clustering_card("x", CLUSTERED | {"metrics": []})


def part(value):
    return {"macro": {"1": {"species": value}, "3": {"species": 1.0}}}


def test_the_card_of_an_index(tmp_path):
    """Two keys of one vector and one without a name: 3 keys, 2 distinct vectors, 2 named, 1 name."""
    folder = tmp_path / "index"
    save_index(build_index(np.eye(2)[[0, 0, 1]], {"species": ["A", "A", None]}), folder)
    text = index_card("Keys", folder)
    assert "An index of 3 reference specimens (2 distinct vectors of 2 numbers, kind `exact`)" in text
    assert "| species | 2 | 1 |" in text and "Not evaluated." in text and "no results file was given" in text
    tables = {"dna->dna": {"seen": part(0.9012), "unseen": part(0.5), "harmonic_mean": part(0.643)}}
    results = {"task": "clibd/retrieval", "dataset": "a/b", "splits": {"test": 9}, "options": {"model": "/home/x/m"}}
    for metrics in (tables, {"model": {"tables": tables, "absent": {}}}):
        text = index_card("Keys", folder, results | {"metrics": metrics})
        assert "| model | dna->dna | species | top-1 | 90.1 | 50.0 | 64.3 |" in text
        assert "| model | m |" in text and "/home/x" not in text
    assert DatasetCard(text).data.source_datasets == ["a/b"] and minihub.card_errors("dataset", text) == []
    with pytest.raises(ValueError, match="comes of the task 'clibd/retrieval', not 'x'"):
        index_card("Keys", folder, {"task": "x"})
    with pytest.raises(FileNotFoundError, match="no index.json"):
        index_card("Keys", tmp_path)


def test_the_example_of_an_index_runs(tmp_path, monkeypatch):
    folder = save_index(build_index(np.eye(3), {"species": ["A", "B", None]}), tmp_path / "index")
    code = index_card("Keys", folder).split("```python\n")[1].split("```")[0]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, repo_type: folder)
    made = {}
    exec(code, made)
    assert len(made["names"]["species"]) == 2 and set(made["names"]["species"]) <= {"A", "B", None}


def test_results_on_a_dataset_of_the_hub_have_a_file_for_its_leaderboard(tmp_path):
    """The value is that of the results; a run on a folder has none."""
    write_card(tmp_path / "README.md", barcodebert_card("x", PRETRAINED))
    (entry,) = yaml.safe_load((tmp_path / ".eval_results/bioscan_hf.yaml").read_text())
    assert entry["dataset"] == {"id": "bioscan-ml/BIOSCAN-5M", "task_id": "val_masked_k_mer_accuracy"}
    assert entry["value"] == 0.25 and "fraction" in entry["notes"]
    assert eval_results_yaml(barcodebert_card("x", PRETRAINED | {"dataset": "release"})) is None
    write_card(tmp_path / "other/README.md", barcodebert_card("x", PRETRAINED | {"dataset": "release"}))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["README.md"]


def test_the_metadata_of_a_card_survive_the_hubs_own_round_trip():
    """model-index -> EvalResult -> model-index; and a card without results has no model-index, which would be
    refused."""
    text = barcodebert_card("x", PRETRAINED)
    header = yaml.safe_load(text.split("---")[1])
    name, found = model_index_to_eval_results(header["model-index"])
    assert eval_results_to_model_index(name, found) == header["model-index"] and found[0].metric_value == 0.25
    assert header["datasets"] == ["bioscan-ml/BIOSCAN-5M"] and minihub.card_errors("model", text) == []
    unrun = barcodebert_card("x", PRETRAINED | {"metrics": {"validation_masked_accuracy": None}})
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
        ("dataset", "- a list", "no mapping"),
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
        ("one / the other", "one / the other"),
        ({"model": ["/a/b", 1234, None, True]}, "model: b, 1,234, None, True"),
    ],
)
def test_a_path_is_shown_by_its_last_part(value, shown):
    assert setting(value) == shown


def test_an_id_of_the_hub_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "runs/a").mkdir(parents=True)
    assert is_hub_id("runs/a") and without_folder("runs/a") == "runs/a"
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("runs/a") and without_folder("runs/a") == "a"
    assert not any(map(is_hub_id, ("a", "../a", "./a", "a/b/c", "a/<b>", "a" * 97 + "/b")))


def test_text_of_a_value_is_text():
    assert escape("<b>&\n| [x](y) `z`") == "&lt;b>&amp; \\| \\[x](y) \\`z\\`"


def test_a_folder_without_a_metric_is_not_pushed(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of a metric"):
        push_metric(tmp_path, "tester/x")
