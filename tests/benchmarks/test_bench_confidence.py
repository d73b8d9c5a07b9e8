"""What `bench_confidence.py` makes of the answers of programs, on answers that were made up."""

import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("bench_confidence")


def test_coverage_of_reads_that_are_there_several_times(bench):
    """By hand: with one wrong name of four allowed, the four best; a wrong name that is there twice is too many."""
    right, score = np.array([True, False, True, True, False]), np.array([0.9, 0.8, 0.7, 0.6, 0.0])
    weight = np.array([[1, 1, 1, 1, 1], [1, 2, 1, 1, 1], [0, 0, 2, 0, 2]])
    assert bench.coverages(right, score, weight, 0.25).tolist() == [4 / 5, 1 / 6, 2 / 4]
    assert bench.coverage(right, score, 0.25) == 4 / 5
    tied = np.full(5, 0.5)  # names of one score are given together
    assert bench.coverage(right, tied, 0.25) == 0.0 and bench.coverage(right, tied, 0.4) == 1.0


def test_difference_to_a_peer(bench):
    """One program names all reads, the other half of them; species that are drawn again move both alike."""
    species = [f"species {i % 40}" for i in range(400)]
    everything = bench.Scored(np.ones(400, np.bool_), np.linspace(0.1, 1, 400), species)
    half = bench.Scored(np.ones(400, np.bool_), np.where(np.arange(400) % 2, everything.score, 0.0), species)
    kept = {"whole, as they are": {"genus": {"ours": [everything] * 2, "blast": [half, everything]}}}
    found = bench.differences(kept)["whole, as they are"]["genus"]["blast"]
    assert found["mean"] == 0.25
    assert found["interval"][0] < 0.25 < found["interval"][1] and 0.15 < found["interval"][0]
    behind = {"whole, as they are": {"genus": {"ours": [half], "blast": [everything]}}}
    program = {rank: {"coverage": 0.5, "right": 1.0, "interval": [0.9, 1.0]} for rank in bench.COMPARED}
    ahead = {name: {} for name in bench.COMPARED} | bench.differences(behind)["whole, as they are"]
    one = {"cells": {}, "foreign": {}, "peers": {"whole, as they are": {"ours": program, "blast": program}}}
    missed = bench.missed({"seed 1": one}, {"whole, as they are": ahead})
    assert len(missed) == 1 and missed[0].startswith(
        "whole, as they are, genus at 1 % wrong: 50.0%, blast 50.0% (diff"
    )
    assert "difference -50.0 points" in missed[0]
