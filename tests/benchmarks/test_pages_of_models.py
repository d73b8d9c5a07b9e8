"""Tables of encoders, of losses, and of photo and barcode fused, from made-up results files."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: The species of test are right in 75 %, the genera of test_unseen in 50 % (40 to 60), macro 25 % (20 to 30).
ANSWERS = {
    "species of test": {"micro_accuracy": 0.75},
    "genus of test_unseen": {
        "micro_accuracy": 0.5,
        "micro_accuracy_interval": [0.4, 0.6],
        "macro_accuracy": 0.25,
        "macro_accuracy_interval": [0.2, 0.3],
    },
}
ENCODER = ANSWERS | {"learned_from": "60 steps, no labels", "parameters": 1234, "ami_of_species": 0.625}
ENCODER |= {"barcodes_per_cpu_second": 2000.4, "times_the_cpu_of_6_mers": 1.25}


@pytest.fixture
def pages(monkeypatch, tmp_path):
    """Module name -> module of the pages, which read the results files of `tmp_path`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("real_coi", "gpu_run"):
        shutil.copy(ROOT / f"benchmarks/results/{name}.json", tmp_path)
    found = {name: importlib.import_module(f"pages.{name}") for name in ("barcodes", "clibd")}
    monkeypatch.setattr(sys.modules["pages.results"], "RESULTS", tmp_path)
    yield found
    for name in [name for name in sys.modules if name.split(".")[0] == "pages"]:
        del sys.modules[name]


def write(folder, name, metrics):
    (folder / f"{name}.json").write_text(json.dumps({"metrics": metrics}))


def test_a_table_says_that_nothing_was_measured(pages):
    for found in (pages["barcodes"].encoders(), pages["barcodes"].taxa_loss(), pages["clibd"].clibd_fused()):
        assert found.startswith("Not measured yet")


def test_encoders(pages, tmp_path):
    """A row of the file, then those of other runs, which are marked and have no speed."""
    write(tmp_path, "encoders", {"BarcodeMAE": ENCODER})
    header, _, first, *others = pages["barcodes"].encoders().splitlines()
    expected = "60 steps, no labels | 75.0 | 50.0 (40.0 to 60.0) | 25.0 (20.0 to 30.0) | 62.5 | 1,234 | 2,000 | 1.2 |"
    assert first == f"| BarcodeMAE | {expected}"
    assert len(others) == 9 and all(row.count("|") == header.count("|") for row in others)
    assert "| BarcodeBERT, masked k-mers (a) | 2,000 steps, no labels | 63.0 | 28.1 |" in others[1]
    assert "| BarcodeBERT, masked k-mers (b) | 167 s on a GPU, 6,800 steps | 83.0 | 52.9 | - |" in "\n".join(others)


def test_losses_are_means_over_seeds(pages, tmp_path):
    """Micro accuracies 0.75 and 0.25: 50 %; the interval is that of the first seed."""
    ends = {"micro_accuracy_interval": [0.7, 0.8], "macro_accuracy_interval": [0.1, 0.2]}
    seeds = [
        {"species of test": {"alone": ends | {"micro_accuracy": micro, "macro_accuracy": 0.125}}, "cpu_seconds": 3.0}
        for micro in (0.75, 0.25)
    ]
    write(tmp_path, "taxa_loss", {"plain": seeds})
    assert pages["barcodes"].taxa_loss().splitlines()[2] == "| plain | 50.0 (70.0 to 80.0) | 12.5 (10.0 to 20.0) |"


def test_photos_alone_have_no_errors(pages, tmp_path):
    clean, altered = ({part: {"accuracy": share} for part in ("seen", "unseen")} for share in (0.5, 0.25))
    write(
        tmp_path,
        "clibd_fused",
        {"fusion": {"none": {"image->image": clean, "dna->dna": clean}, "all": {"dna->dna": altered}}},
    )
    assert pages["clibd"].clibd_fused().splitlines()[2:] == [
        "| fusion | image to image | 50.0 | 50.0 | 50.0 | 50.0 |",
        "| fusion | dna to dna | 50.0 | 50.0 | 25.0 | 25.0 |",
    ]
