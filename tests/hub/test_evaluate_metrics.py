"""The metrics of metrics/ give the numbers of the functions, however they are loaded, combined or distributed."""

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml

import bioscan_hf.hub.evaluate_metrics as classes
import bioscan_hf.metrics as functions
from bioscan_hf.metrics import accuracy, adjusted_mutual_information, hierarchical_accuracy, top_k_accuracy

FOLDER = Path(__file__).parents[2] / "metrics"
NAMES = {
    "topk_accuracy": "TopkAccuracy",
    "harmonic_mean": "HarmonicMean",
    "adjusted_mutual_information": "AdjustedMutualInformation",
    "hierarchical_accuracy": "HierarchicalAccuracy",
}


def drawn(shape, high=6, seed=0):
    return np.random.default_rng(seed).integers(-1, high, shape)


INPUTS = {
    "topk_accuracy": {"predictions": drawn((40, 5)), "references": drawn(40, seed=1)},
    "harmonic_mean": {"predictions": drawn(40), "references": drawn(40, seed=1), "seen": drawn(40, 1, 2) < 0},
    "adjusted_mutual_information": {"predictions": drawn(40), "references": drawn(40, seed=1)},
    "hierarchical_accuracy": {"predictions": drawn((40, 7), 2), "references": drawn((40, 7), 2, 1)},
}


def test_every_folder_is_known():
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_loaded_by_path_and_by_class(name, tmp_path):
    """All at once and in batches, with the same numbers; the numbers are Python floats and ints."""
    loaded = evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path / "loaded"))
    made = getattr(classes, NAMES[name])(cache_dir=str(tmp_path / "made"))
    assert loaded.name == made.name == name
    expected = made.compute(**INPUTS[name])
    assert len(set(map(str, expected.values()))) > 2, "the inputs must tell numbers apart"
    assert {type(value) for value in expected.values()} <= {float, int}
    for part in (slice(0, 7), slice(7, 40)):
        loaded.add_batch(**{key: values[part] for key, values in INPUTS[name].items()})
    assert loaded.compute() == expected


def test_numbers_are_those_of_the_functions(tmp_path):
    """The classes return the numbers of the functions under flat names."""
    guesses, true = INPUTS["topk_accuracy"].values()
    scores = classes.TopkAccuracy(cache_dir=str(tmp_path)).compute(predictions=guesses, references=true)
    for k in (1, 3, 5):
        found = top_k_accuracy(guesses[:, :k], true)
        assert (scores[f"micro_top_{k}"], scores[f"macro_top_{k}"], scores["support"]) == (
            found["micro_accuracy"],
            found["macro_accuracy"],
            found["support"],
        )
    ranked = classes.TopkAccuracy(cache_dir=str(tmp_path)).compute(
        predictions=np.stack([guesses, guesses[::-1]], 1),
        references=np.stack([true, true], 1),
        ranks=["genus", "species"],
    )
    assert ranked["genus_macro_top_3"] == scores["macro_top_3"]
    assert ranked["species_micro_top_5"] == top_k_accuracy(guesses[::-1], true)["micro_accuracy"]

    predicted, true, seen = INPUTS["harmonic_mean"].values()
    scores = classes.HarmonicMean(cache_dir=str(tmp_path)).compute(**INPUTS["harmonic_mean"])
    a, b = (accuracy(predicted[part], true[part])["macro_accuracy"] for part in (seen, ~seen))
    assert scores["macro_harmonic_mean"] == 2 * a * b / (a + b) and scores["unseen_macro_accuracy"] == b

    tree = INPUTS["hierarchical_accuracy"]
    columns = [dict(enumerate(values.T)) for values in tree.values()]
    scores = classes.HierarchicalAccuracy(cache_dir=str(tmp_path)).compute(**tree)
    found = hierarchical_accuracy(*columns)
    assert scores["ranks_right"] == found["ranks_right"]
    assert scores["deepest_species"] == found["deepest"][6] and scores["deepest_none"] == found["deepest"]["none"]


def test_mutual_information_with_and_without_the_unlabelled():
    """Clusters equal to the classes give 1 without the unlabelled specimen, and less with it, as it shares a cluster.
    Without labels the score is None."""
    clusters, true = [0, 0, 1, 1, 1], [5, 5, 7, 7, -1]
    found = adjusted_mutual_information(clusters, true)
    assert found["ami_labelled"] == 1.0 and 0 < found["ami"] < 1 and found["support"] == 4
    assert adjusted_mutual_information([0, 1], [-1, -1]) == {"ami": None, "ami_labelled": None, "support": 0}
    chance = adjusted_mutual_information(drawn(3000, 20), drawn(3000, 20, 1))
    assert abs(chance["ami"]) < 0.01, "adjusted for chance"


def test_combined(tmp_path):
    """Names that several metrics share get the name of their metric in front."""
    pair = [evaluate.load(str(FOLDER / "adjusted_mutual_information"), cache_dir=str(tmp_path / "a"))]
    pair += [classes.HarmonicMean(cache_dir=str(tmp_path / "b")), classes.TaxonAccuracy(cache_dir=str(tmp_path / "c"))]
    both = evaluate.combine(pair)
    both.add_batch(**INPUTS["harmonic_mean"])
    scores = both.compute()
    assert scores["micro_accuracy"] == accuracy(*list(INPUTS["harmonic_mean"].values())[:2])["micro_accuracy"]
    assert {"ami", "micro_harmonic_mean", "adjusted_mutual_information_support", "taxon_accuracy_support"} <= set(
        scores
    )


@pytest.mark.parametrize("module", [functions, classes])
def test_examples_of_the_docstrings(module, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted >= 2


@pytest.mark.parametrize("name", NAMES)
def test_cards_are_complete_and_their_examples_run(name, tmp_path, monkeypatch):
    """The code of the card runs with the id filled in, and prints the values shown."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---")[1])
    assert {"evaluate", "metric"} <= set(header["tags"]) and header["sdk"] == "static" and header["license"]
    assert all(f"## {part}" in text for part in ("How to use", "Limits", "Citation"))
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace("PATH_OR_HUB_ID", str(FOLDER / name))
    example = doctest.DocTestParser().get_doctest(code, {}, name, None, 0)
    found = doctest.DocTestRunner().run(example)
    assert found.failed == 0 and found.attempted >= 3
    assert (FOLDER / name / "requirements.txt").read_text() == "bioscan_hf\n"


PROCESS = """
import json, sys
import numpy as np
import evaluate
path, cache, process, inputs = sys.argv[1:]
inputs = {name: np.array(values) for name, values in json.loads(inputs).items()}
metric = evaluate.load(path, num_process=2, process_id=int(process), experiment_id="both", cache_dir=cache)
for start in range(int(process) * 10, 40, 20):  # ten rows in turn
    metric.add_batch(**{name: values[start : start + 10] for name, values in inputs.items()})
print(json.dumps(metric.compute()))
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Each adds half of the rows in batches; the first returns the score of all rows, the other None."""
    name = "topk_accuracy"
    inputs = json.dumps({key: values.tolist() for key, values in INPUTS[name].items()})
    command = [sys.executable, "-c", PROCESS, str(FOLDER / name), str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(process), inputs], **pipes) for process in range(2)]
    answers = [one.communicate() for one in running]
    assert [one.returncode for one in running] == [0, 0], answers
    first, second = (json.loads(out) for out, _ in answers)
    alone = classes.TopkAccuracy(cache_dir=str(tmp_path / "alone")).compute(**INPUTS[name])
    assert first == alone and second is None


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("TopkAccuracy", {"predictions": [[1, 2], [1]], "references": [1, 2]}, "different numbers of guesses"),
        ("TopkAccuracy", {"predictions": [[1]], "references": [1], "top_k": [2]}, r"top_k is \[2\], .* 1 guesses"),
        ("TopkAccuracy", {"predictions": [[1]], "references": [1], "ranks": ["genus"]}, "Leave ranks out"),
        ("TopkAccuracy", {"predictions": [[[1], [2]]], "references": [[1, 2]]}, "There are 2 ranks.*Give ranks"),
        ("TopkAccuracy", {"predictions": [["Aus"]], "references": [1]}, "don't match the expected format"),
        ("HierarchicalAccuracy", {"predictions": [[1, 2], [1]], "references": [[1, 2], [1, 2]]}, "number of ranks"),
        ("HierarchicalAccuracy", {"predictions": [[1]], "references": [[1]], "ranks": ["a", "b"]}, "1 ranks, and"),
        (
            "TopkAccuracy",
            {"predictions": [[[1], [2]]], "references": [[1]], "ranks": ["a"]},
            "guesses of 2 ranks, but",
        ),
        ("TopkAccuracy", {"predictions": [[[1]], [[2]]], "references": [[1], [1, 2]]}, "number of ranks"),
        ("HierarchicalAccuracy", {"predictions": [], "references": []}, "give at least one specimen"),
        ("HarmonicMean", {"predictions": [1], "references": [1]}, "seen"),
    ],
)
def test_wrong_inputs_raise(name, inputs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        getattr(classes, name)(cache_dir=str(tmp_path)).compute(**inputs)
