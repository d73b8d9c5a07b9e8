"""Cards of a clustering and of a retrieval index."""

import minihub
import numpy as np
import pytest
from huggingface_hub import DatasetCard

from bioscan_hf.hub.dataset_cards import clustering_card, index_card
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


def test_the_card_of_a_clustering():
    """It shows the numbers of the results; `load_dataset` finds the rows by its YAML."""
    text = clustering_card("Clusters", CLUSTERED)
    assert "| species | 1,234 | 67 | 81.2 | 90.1 | 70.0 | not run |" in text and "separation" not in text
    assert "Clusters of 1,239 arthropod specimens" in text and "mean over 3 runs with different seeds" in text
    assert "| data | release |" in text and "/data/of" not in text and "| clusterer | ward |" in text
    data = DatasetCard(text).data
    assert data.configs == [{"config_name": "default", "data_files": "clusters.parquet"}]
    assert data.size_categories == ["1K<n<10K"] and minihub.card_errors("dataset", text) == []


def test_results_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="of the task 'x'; give results of 'bioscan5m/clustering'"):
        clustering_card("x", {"task": "x"})
    with pytest.raises(ValueError, match="have no seeds: another version"):
        clustering_card("x", {key: value for key, value in CLUSTERED.items() if key != "seeds"})
    with pytest.raises(ValueError, match="have no species.ami|have no .*ami"):
        clustering_card("x", CLUSTERED | {"metrics": {"species": {"labelled": 1, "classes": 1}}})
    with pytest.raises(ValueError, match="'metrics' of these results is a list instead"):
        clustering_card("x", CLUSTERED | {"metrics": []})


def part(value):
    return {"macro": {"1": {"species": value}, "3": {"species": 1.0}}}


def test_the_card_of_an_index(tmp_path):
    """Two keys of one vector and one without a name: 3 keys, 2 distinct vectors, 2 named, 1 name."""
    folder = tmp_path / "index"
    save_index(build_index(np.eye(2)[[0, 0, 1]], {"species": ["A", "A", None]}), folder)
    text = index_card("Keys", folder)
    assert "license: other" in text, "nobody has said under which licence the references are"
    assert "An index of 3 reference specimens (2 distinct vectors of 2 numbers, kind `exact`)" in text
    assert "| species | 2 | 1 |" in text and "Not evaluated." in text and "no results file was given" in text
    tables = {"dna->dna": {"seen": part(0.9012), "unseen": part(0.5), "harmonic_mean": part(0.643)}}
    results = {"task": "clibd/retrieval", "dataset": "a/b", "splits": {"test": 9}, "options": {"model": "/home/x/m"}}
    for metrics in (tables, {"model": {"tables": tables, "absent": {}}}):
        text = index_card("Keys", folder, results | {"metrics": metrics})
        assert "| model | dna->dna | species | top-1 | 90.1 | 50.0 | 64.3 |" in text
        assert "| model | m |" in text and "/home/x" not in text
    assert DatasetCard(text).data.source_datasets == ["a/b"] and minihub.card_errors("dataset", text) == []
    with pytest.raises(ValueError, match="of the task 'x'; give results of 'clibd/retrieval'"):
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
