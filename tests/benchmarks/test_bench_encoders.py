"""The benchmark of encoders: scores by hand, turns of equal work, and models of another benchmark."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))  # it imports its neighbour
        spec = importlib.util.spec_from_file_location("bench_encoders", BENCHMARKS / "bench_encoders.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_scores_by_hand(bench):
    """Two keys in two directions. One of three queries of test is wrong; both genera of test_unseen are right.

    Four species of test and test_unseen in four directions: Ward finds them all.
    """
    axes = np.eye(8, dtype=np.float32)
    vectors = {"train": axes[:2], "test": axes[[0, 0, 1]], "test_unseen": axes[[0, 1]] + 2 * axes[[2, 3]]}
    rows = {
        "train": {"species": np.array([0, 1]), "genus": np.array([0, 1])},
        "test": {"species": np.array([0, 0, 0]), "genus": np.array([0, 0, 0])},
        "test_unseen": {"species": np.array([2, 3]), "genus": np.array([0, 1])},
    }
    found = bench.scores(vectors, rows)
    assert found["species of test"]["micro_accuracy"] == pytest.approx(2 / 3)
    assert found["genus of test_unseen"]["micro_accuracy"] == found["genus of test_unseen"]["macro_accuracy"] == 1
    assert found["genus of test_unseen"]["micro_accuracy_interval"] == [1, 1]
    rows["test"]["species"] = np.array([0, 0, 1])
    found = bench.scores(vectors, rows)
    assert (found["ami_of_species"], found["clusters"]) == (pytest.approx(1), 4)


def test_equal_encoders_have_equal_speed(bench):
    """6-mers beside themselves take once their CPU, and a rate is the rows by the seconds."""
    kmers = bench.opened("kmer:6")
    assert kmers[2] is torch.float32
    barcodes = ["".join(row) for row in np.random.default_rng(0).choice(list("ACGT"), (256, 300))]
    found = bench.speeds({bench.PEER: kmers, "again": kmers}, barcodes)
    assert found[bench.PEER]["times_the_cpu_of_6_mers"] == 1
    assert all(one["barcodes_per_cpu_second"] > 0 for one in found.values())


def test_finished_models_of_the_other_benchmark_are_used(bench, tmp_path, monkeypatch):
    """A folder with results is taken; the others are trained here; each row tells its steps."""
    finished = tmp_path / "objectives/masked_autoencoder_0"
    finished.mkdir(parents=True)
    (finished / "results.json").write_text('{"steps": 500}')

    def train(source, folder, options, steps, seed):
        folder.mkdir(exist_ok=True)
        if not (folder / "results.json").is_file():
            (folder / "results.json").write_text(json.dumps({"steps": steps}))

    monkeypatch.setattr(bench, "train", train)
    for name in ("fit_aligned", "fit_classifier", "untrained"):
        monkeypatch.setattr(bench, name, lambda *args, **options: None)
    work = tmp_path / "work"
    work.mkdir()
    args = Namespace(work=work, objectives=tmp_path / "objectives", steps=7, epochs=2)
    found = bench.prepared(args, tmp_path / "split.csv", {})
    assert found["BarcodeMAE"] == (str(finished), "500 steps, no labels")
    assert found["BarcodeMAE+, with genera"] == (str(work / "BarcodeMAE+_with_genera"), "7 steps, genera")
    assert found["BarcodeMamba, published block"][1] == "7 steps, no labels"
    assert {bench.PEER, "4-mer counts", "CNN", "aligned, whole profile"} < found.keys()
