"""The benchmark of objectives: seeds are counted together, and intervals are over species."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))  # it imports its neighbour
        spec = importlib.util.spec_from_file_location("bench_objectives", BENCHMARKS / "bench_objectives.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_accuracies_over_seeds_by_hand(bench):
    """Genera 5, 5, 5, 7 of two species: seed 0 has 3 of 4 right, seed 1 has 1: micro 4/8.

    Genus 5 has 2 + 1 of 6 and genus 7 has 1 + 0 of 2: macro 1/2 too. A draw of one species alone has 3/6 or 1/2.
    """
    labels = {"genus": np.array([5, 5, 5, 7]), "species": np.array([1, 1, 1, 2])}
    rows = {split: labels for split, _ in bench.QUESTIONS}
    hits = [np.array([True, True, False, True]), np.array([True, False, False, False])]
    found = bench.summarize([{f"{rank} of {split}": hit for split, rank in bench.QUESTIONS} for hit in hits], rows)
    genus = found["genus of test_unseen"]
    assert (genus["micro_accuracy"], genus["macro_accuracy"], genus["specimens"]) == (0.5, 0.5, 4)
    assert genus["micro_accuracy_of_each_seed"] == [0.75, 0.25]
    assert genus["micro_accuracy_interval"] == genus["macro_accuracy_interval"] == [0.5, 0.5]
