"""Shared fixtures. Offline mode of the Hub libraries is set before they are imported."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from reference import FIXTURES, SHARED, Files, missing_data, missing_reference

_CACHE = tempfile.TemporaryDirectory(prefix="bioscan_hf-tests-")
os.environ.update(
    HF_HOME=_CACHE.name,
    OMP_NUM_THREADS="1",  # one order of sums, so equal runs give equal results; fewer threads per test process
    NUMBA_NUM_THREADS="1",  # numba (UMAP) would change the number of threads of torch
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Property tests draw the same examples in every run; BIOSCAN_HF_HYPOTHESIS=random draws others.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("random")
settings.load_profile(os.environ.get("BIOSCAN_HF_HYPOTHESIS", "fixed"))


@pytest.fixture(scope="session")
def reference() -> Files:
    """Reference numbers of published programs: tests/fixtures, then the fixtures of BIOSCAN_HF_SHARED."""
    return Files((FIXTURES, SHARED / "fixtures"), missing_reference)


@pytest.fixture(scope="session")
def real_data() -> Files:
    """Real data, which is not part of the repository."""
    return Files((SHARED / "data",), missing_data)


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    """A simulated release of 400 specimens, photos in zips. Tests that change it use a copy."""
    from bioscan_hf.simulate.release import simulate_release

    return simulate_release(tmp_path_factory.mktemp("simulated") / "release", specimens=400, seed=1)


@pytest.fixture(scope="session")
def dataset(release, tmp_path_factory) -> Path:
    """The same release as Parquet, in several shards per split."""
    from bioscan_hf.dataset.build import build

    output = tmp_path_factory.mktemp("built") / "dataset"
    build(release, output, rows_per_shard={"dna": 100, "cropped_256": 60})
    return output


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A demo of 300 specimens and 4 steps: its folder, result and messages."""
    from bioscan_hf.cli.demo import run_demo

    folder, said = tmp_path_factory.mktemp("demo") / "demo", []
    return folder, run_demo(folder, specimens=300, steps=4, seed=1, say=said.append), said
