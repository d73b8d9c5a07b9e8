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


def test_names_example(bench):
    module, found = bench("bench_names_example"), metrics("names_example")
    truth = {
        row["id"]: ("", {row["rank"]: row["name"], "species": found["species"][row["id"]]}) for row in found["rows"]
    }
    assert module.missed(found["rows"], truth) == []
    truth["whole"][1]["species"] = "Apis mellifera"
    assert module.missed(found["rows"], truth) == ["whole: Acleris macdunnoughi (Apis mellifera)"]
