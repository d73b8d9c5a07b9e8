"""The rates of data loaders in the guide are those of the results file."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_cores_in_the_guide_follow_from_the_rates():
    """Cores of a GPU are the rate of its training step / the rate of one core."""
    loaders = json.loads((ROOT / "benchmarks/results/loaders.json").read_text(encoding="utf-8"))["metrics"]
    steps = json.loads((ROOT / "benchmarks/results/gpu_run.json").read_text(encoding="utf-8"))["metrics"]
    barcodes = steps["steps"]["rows"]["4-4-4 fast, batch 1024"]["samples_per_second"]
    photos = steps["clibd"]["rows"]["ours, batch 500"]["samples_per_second"]
    guide = (ROOT / "docs/guides/reproduce.md").read_text(encoding="utf-8")
    rates = loaders["specimens_per_second_of_a_core"]
    assert list(rates) == [
        "masked k-mers",
        "altered reads",
        "photos and barcodes",
        "photos and barcodes, crops on the GPU",
    ]
    for name, rate in rates.items():
        step = photos if "photos" in name else barcodes if name == "masked k-mers" else None
        cells = [name, f"{rate:,}", "-", "-", "-"]
        if step is not None:
            cells[2:] = [f"{step:,.0f}", f"{step / rate:.1f}", f"{8 * step / rate:.1f}"]
        assert f"| {' | '.join(cells)} |" in guide, cells
    (megabytes,) = re.findall(r"reads ([\d.]+) MB/s of photos for each core", guide)
    assert float(megabytes) == loaders["photo_megabytes_per_second"]
