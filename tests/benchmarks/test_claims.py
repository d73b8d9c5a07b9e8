"""Benchmarks exit with 1 where their claim does not hold: checked on the results files, and on worse numbers."""

import copy
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    """A function that imports a benchmark by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith("bench_"):
            del sys.modules[name]


def metrics(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))["metrics"]


def test_real_coi(bench):
    missed, found = bench("bench_real_coi").missed, metrics("real_coi")
    assert missed(found) == []
    worse = copy.deepcopy(found)
    worse["aligned, whole profile"]["genus of test_unseen"]["micro_accuracy"] = 0.5
    assert len(missed(worse)) == 3 and "50.0%, vsearch, 8 candidates 80.9%" in missed(worse)[0]
    worse = copy.deepcopy(found)
    worse["aligned, whole profile"]["genus of val_unseen"]["micro_accuracy"] = 0.5
    assert missed(worse) == [], "val is for choosing"


def test_real_clustering(bench):
    missed, found = bench("bench_real_clustering").missed, metrics("real_clustering")
    assert missed(found) == []
    found["4-mer counts"]["Ward, number of species"]["ami"]["species"] = 0.9
    (line,) = missed(found)
    assert line.startswith("4-mer counts: AMI of species 0.900 without UMAP")


def test_retrieval(bench):
    missed, rows = bench("bench_retrieval").missed, metrics("retrieval")["indexes"]
    assert missed(rows, 16) == []
    rows[0]["recall_of_nearest"] = 0.9
    assert missed(rows, 16) == [f"hnsw: 90.0% of the nearest, {rows[0]['speedup']:.1f} times as fast"]


def test_taxa_loss(bench):
    missed, found = bench("bench_taxa_loss").missed, metrics("taxa_loss")
    assert missed(found) == []
    for seed in found["class weights"]:
        seed["genus of test_unseen"]["alone"]["macro_accuracy"] = 0.5
    assert missed(found) == ["genus of test_unseen: 50.0% with class weights, 59.5% without"]


def test_encoders(bench):
    missed, found = bench("bench_encoders").missed, metrics("encoders")
    assert missed(found) == []
    found["6-mer counts"]["species of test"]["micro_accuracy"] = 0.995
    lines = missed(found)
    assert len(lines) == 2 and all("6-mer counts 99.5%" in line and "species of test" in line for line in lines)
    whole = found["aligned, whole profile"]["genus of test_unseen"]["micro_accuracy"]
    found["4-mer counts"]["genus of test_unseen"]["micro_accuracy"] = whole
    assert any(line.startswith("genus of test_unseen: aligned, whole profile") for line in missed(found))


def test_objectives(bench):
    module = bench("bench_objectives")
    found = {name: {"genus of test_unseen": {"micro_accuracy": 0.5}} for name in module.OBJECTIVES}
    found["random weights"] = {"genus of test_unseen": {"micro_accuracy": 0.4}}
    assert module.missed(found) == []
    found["masked k-mers"]["genus of test_unseen"]["micro_accuracy"] = 0.4
    assert module.missed(found) == ["genus of test_unseen: masked k-mers 40.0%, random weights 40.0%"]


def test_clibd_fused(bench):
    module = bench("bench_clibd_fused")

    def tables(fused):
        asked = {name: 0.7 for name in module.COMBINATIONS} | {name: fused for name in module.FUSED}
        return {name: {part: {"accuracy": value} for part in ("seen", "unseen")} for name, value in asked.items()}

    found = {name: {"none": tables(0.7), "all": tables(0.8)} for name in module.MODELS}
    assert module.missed(found) == []
    found["fusion"]["all"] = tables(0.6)
    del found["fusion"]["all"]["image->image"]  # errors in barcodes do not change photos
    assert len(module.missed(found)) == 6
    assert module.missed(found)[0] == "fusion, seen, all errors: fused 60.0%, image->image 70.0%"


def test_small_libraries(bench):
    missed = bench("bench_small_libraries").missed
    own = {"known_to_species": 0.9, "right_of_named": 0.99, "interval": [0.95, 1.0]}
    found = {"few": {"with": own, "foreign": {"reads": 600, "named": 0}}}
    assert missed(found) == []
    found["few"] = {
        "with": {"known_to_species": 0.7, "right_of_named": 0.96, "interval": [0.92, 1.0]},
        "foreign": {"reads": 600, "named": 1},
    }
    assert missed(found) == [
        "few: 70.0% of known reads named to species",
        "few: 96.0% right, from 92.0%",
        "few: 1 of 600 foreign sequences named",
    ]


def test_names_example(bench):
    module, found = bench("bench_names_example"), metrics("names_example")
    truth = {
        row["id"]: ("", {row["rank"]: row["name"], "species": found["species"][row["id"]]}) for row in found["rows"]
    }
    assert module.missed(found["rows"], truth) == []
    truth["whole"][1]["species"] = "Apis mellifera"
    assert module.missed(found["rows"], truth) == ["whole: Acleris macdunnoughi (Apis mellifera)"]
