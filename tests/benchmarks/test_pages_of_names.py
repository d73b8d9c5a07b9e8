"""Pages of names, from made-up results files in the form that `bench_confidence.py` and `bench_identify.py` write."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def names(monkeypatch, tmp_path):
    """pages/names.py, which reads made-up results."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    identify_reads = importlib.import_module("identify_reads")
    bench = importlib.import_module("bench_confidence")
    named = {"named": 0.5, "right_of_named": 0.9876}
    cell = {"reads": 10, **{rank: dict(named) for rank in identify_reads.RANKS}}
    cell["deepest"] = {"named": 0.75, "right_of_named": 0.98, "interval": [0.97, 1.0]}
    cell["novelty"] = {"species_new": {"auroc": 0.9, "fpr95": 0.2}, "distance": {"auroc": 0.8, "fpr95": 0.3}}
    against = {"coverage": 0.625, "right": 0.7, "interval": [0.6, 0.8]}
    program = {"seconds": 1.0, **{rank: against for rank in bench.COMPARED}}
    rules = {f"{rank}, {least:.0%} rule": named for rank, least in bench.RULE.items()}
    every = {"ours": program, "vsearch": program | rules, "sintax": program, "blast": program}
    variants = list(identify_reads.variants())
    one = {
        "cells": {f"{name}, {mix}": json.loads(json.dumps(cell)) for name in variants for mix in identify_reads.MIXES},
        "peers": {name: every for name in variants if name.endswith("as they are")},
        "foreign": {"random": {"reads": 2000, "named": 1}},
    }
    two = json.loads(json.dumps(one)) | {"peers": {}}  # the later seeds have no peers
    one["cells"]["whole, as they are, half new"]["deepest"] |= {"right_of_named": 0.94, "interval": [0.92, 0.96]}
    metrics = {"seed 1": one, "seed 2": two}
    even = {name: {"mean": 0.0, "interval": [-0.01, 0.01]} for name in ("vsearch", "sintax", "blast")}
    ahead = {name: dict.fromkeys(bench.COMPARED, even) for name in one["peers"]}
    folder = tmp_path / "results"
    shutil.copytree(ROOT / "benchmarks/results", folder)
    about = json.loads((folder / "real_coi.json").read_text(encoding="utf-8"))
    about |= {"claims": {"right": 0.95, "lower": 0.93}, "missed": bench.missed(metrics, ahead), "metrics": metrics}
    about["differences"] = ahead
    (folder / "confidence.json").write_text(json.dumps(about))
    part = {"reads_per_s": 5000.0, "reads_per_s_wall": 4000.0, "memory_gb": 1.25, "reads": 40_000}
    size = {"opened": {"records": 13_556}, "reads": part, "vsearch": part, "times_vsearch": 21.5}
    (folder / "identify_speed.json").write_text(json.dumps(about | {"missed": [], "metrics": {"small": size}}))
    found = importlib.import_module("pages.names")
    monkeypatch.setattr(sys.modules["pages.results"], "RESULTS", folder)
    yield found
    for name in [name for name in sys.modules if name.split(".")[0] in ("pages", "bench_confidence")]:
        del sys.modules[name]


def test_confidences(names):
    """Means of both partitions, and the lower of the lower ends."""
    blocks = names.BLOCKS
    assert (
        "| whole, as they are; half new | 50.0 | 98.8 | 50.0 | 98.8 | 75.0 | 96.0 | 92.0 |" in blocks["confidence"]()
    )
    assert "| whole, as they are | 75.0 | 96.0 | 92.0 | 90.0 | 80.0 |" in blocks["confidence_variants"]()
    verdict = blocks["confidence_verdict"]()
    cells = 2 * len(blocks["confidence_variants"]().splitlines()[2:]) * 6
    assert verdict.startswith(f"{cells} tests: {cells // 12} kinds of reads in 6 mixtures of known and new taxa, ")
    assert f"At least 95 % of the sure names (confidence of 95 % or more) are right in {cells - 1}, " in verdict
    assert f"the 95 % interval begins at 93 % or higher in {cells - 1}." in verdict
    assert "2 of 4,000 foreign reads get a sure name. 1 claim of the benchmark does not hold" in verdict
    assert blocks["confidence_behind"]() == "No other claim is missed."
    missed = blocks["confidence_missed"]()
    assert missed.splitlines()[2:] == ["| seed 1; whole, as they are, half new | 94.0 | 92.0 to 96.0 |"]


def test_peers_and_speed(names):
    blocks = names.BLOCKS
    assert "| first 200, as they are; genus | 62.5 | 62.5 | 62.5 | 62.5 |" in blocks["confidence_peers"]()
    assert blocks["confidence_ahead"]().startswith("In 0 of 27 comparisons (reads, rank and program) ")
    assert blocks["confidence_ahead"]().endswith(" above 0 in 0 and below 0 in 0.")
    assert blocks["confidence_peers_right"]().count("70.0 (60.0 to 80.0)") == 36
    assert "| whole, as they are; species, 97% rule | 50.0 | 98.8 |" in blocks["confidence_rules"]()
    assert "| random | 4,000 | 2 |" in blocks["confidence_foreign"]()
    assert (
        "| 13,556 references; bioscan-hf identify | 40,000 | 5,000 | 4,000 | 21.5 | 1.25 |"
        in blocks["identify_speed"]()
    )
    assert blocks["identify_speed_goals"]() == "Every goal of the benchmark is reached."
