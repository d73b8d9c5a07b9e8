"""The benchmark of photo and barcode fused: accuracies of a results file."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))  # it imports its neighbour
        spec = importlib.util.spec_from_file_location("bench_clibd_fused", BENCHMARKS / "bench_clibd_fused.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_accuracies_of_a_table(bench):
    """Macro top-1 of species with its interval and chance, as in a results file."""
    part = {
        "macro": {"1": {"species": 0.5, "genus": 0.9}},
        "top1_intervals": {"macro": {"species": [0.4, 0.6]}, "micro": {"species": [0, 1]}},
        "chance": {"macro": {"1": {"species": 0.1}}},
    }
    found = bench.accuracies({"fused->text": {"keys": 9, "seen": part, "unseen": part}})
    expected = {"accuracy": 0.5, "interval": [0.4, 0.6], "chance": 0.1}
    assert found == {"fused->text": {"seen": expected, "unseen": expected}}
    assert not any("fused" in name for name in bench.COMBINATIONS), "the model without a gate is asked for it"
