"""The benchmarks of CLIBD: smoke tests, imports, counts and intervals."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look a class up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def steps():
    return load("bench_clibd_step")


@pytest.fixture(scope="module")
def photos():
    return load("bench_real_photos")


RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import bench_clibd_step
code = bench_clibd_step.main(["--small", "--repeats", "1", "--batches", "6", "--output", sys.argv[2]])
print(code, [name for name in ("datasets", "evaluate", "faiss", "umap") if name in sys.modules])
"""


def test_the_step_benchmark_imports_no_data_set_or_index(tmp_path):
    """The first losses of all ways are equal: they compute the same loss, in single or half precision."""
    command = [sys.executable, "-c", RUN, str(BENCHMARKS), str(tmp_path / "step.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 []"
    results = json.loads((tmp_path / "step.json").read_text())
    measured = results["metrics"]["6"]
    assert set(measured) == set(results["ways"]) and results["reached_samples_per_second"] is None
    first = [values["losses"][0] for values in measured.values()]
    assert first == pytest.approx([first[0]] * len(first), abs=0.1)
    assert all(values["ratio_wall"] > 0 for values in measured.values())


def test_published_and_our_steps_are_equal_without_dropout(steps):
    """Two steps in single precision, with the published loss or with the memory options: equal losses."""
    found = []
    for way in (
        steps.Way(bf16=False, attention="eager"),
        steps.Way(bf16=False, attention="eager", published_loss=True, anomaly_detection=True, fused_optimizer=False),
        steps.Way(bf16=False, rows_at_a_time=3, chunk_size=2),
        steps.Way(bf16=False, float_photos=True),
    ):
        step, model = steps.make_stepper(way, steps.SMALL, 7, torch.device("cpu"))
        model.eval()
        found.append([step().item(), step().item()])
        assert model.dna_model.config._attn_implementation == way.attention
    np.testing.assert_allclose(found, [found[0]] * 4, rtol=1e-4)
    assert found[0][0] != found[0][1]


def test_operations_of_the_published_sizes(steps):
    """35.1 + 23.4 + 0.5 GFLOP forward for ViT-B/16, 133 tokens of DNA and 20 of text: 59.0, and 177 to train."""
    with torch.device("meta"):
        model = ClibdModel(ClibdConfig(**steps.FULL))
    assert steps.gflop_per_sample(model) == pytest.approx(177.1, rel=0.005)
    assert steps.encoder_flop(1, 1, 2, 3) == 2 * (4 * 4 + 2 * 2 * 3) + 4 * 2


def test_the_real_sizes_need_a_gpu(steps, capsys):
    with pytest.raises(SystemExit):
        steps.main([])
    assert "give --device cuda, or --small" in capsys.readouterr().err


def test_intervals(photos):
    """Wilson's interval of 8 of 10: (0.8 + 0.1921 +- 1.96 sqrt(0.016 + 0.0096)) / 1.3841, that is 0.490 to 0.943."""
    found = photos.interval(8, 10)
    assert (found["accuracy"], round(found["low"], 3), round(found["high"], 3)) == (0.8, 0.490, 0.943)


def test_leave_one_out_by_hand(photos):
    """Four photos on a line: A, A of the same specimen, B, A. Photo 0 finds B, 1 finds B, 2 finds A, 3 finds B.

    So nothing is right at once; among five all A find an A of another specimen. B is alone, so not answerable. By
    chance: photos 0 and 1 have keys B, A: 1/2 each; 2 has none of B: 0; 3 has two of three right: 2/3; mean 5/12.
    """
    angles = np.array([0.0, 0.1, 0.5, 1.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    orders, specimens = ["A", "A", "B", "A"], np.array([0, 0, 1, 2])
    found = photos.leave_one_out(vectors, orders, specimens, None)
    assert (found["n"], found["n_answerable"], found["top_1"]["accuracy"]) == (4, 3, 0.0)
    assert found["top_5"]["accuracy"] == 0.75 and found["top_5_answerable"]["accuracy"] == 1.0
    assert found["chance_top_1"] == pytest.approx(5 / 12, abs=1e-4)
    apart = photos.leave_one_out(vectors, orders, specimens, ["x", "x", "x", "y"])  # 0 and 1 find 3, 3 finds 2
    assert (apart["n_answerable"], apart["top_1"]["accuracy"]) == (3, 0.5)


def test_photos_of_one_specimen(photos, tmp_path):
    """An original and its crop, by name; two pictures that are all but equal; and one that is another."""
    draw = np.random.default_rng(0)
    first, second, third = (draw.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(3))
    almost = np.clip(second.astype(int) + draw.integers(-3, 4, second.shape), 0, 255).astype(np.uint8)
    rows = []
    pictures = {"a": first, "cropped_resized_a": third, "b": second, "c": almost, "d": first[::-1]}
    for stem, pixels in pictures.items():
        name = f"{stem}.png"
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / name)
        rows.append({"file": name, "path": tmp_path / name})
    assert photos.specimens_of(rows).tolist() == [0, 0, 2, 2, 4]


def test_refused_photos_are_reported(photos, tmp_path):
    (tmp_path / "images/figure").mkdir(parents=True)
    Image.new("L", (20, 30)).save(tmp_path / "images/figure/mask.png")
    (tmp_path / "images/figure/broken.jpg").write_bytes(b"none")
    found = photos.check_files(ClibdProcessor(), tmp_path)
    assert (found["files"], found["taken"], found["forms"]) == (2, 1, {"PNG L": 1})
    assert "cannot be decoded" in found["refused"]["figure/broken.jpg"]


@pytest.mark.realdata
def test_real_photos_of_every_figure(photos, shared):
    """One photo of each figure, mask or crop is taken by the processor, and 97 of 202 have an order."""
    table = photos.read_table(shared / "data")
    assert len(table) == 202 and sum(row["order"] is not None for row in table) == 97
    one = {row["figure"]: row["path"] for row in table}
    assert len(one) == 9
    pixels = ClibdProcessor()([*one.values(), *sorted((shared / "data/images").rglob("*.png"))[:1]])["pixel_values"]
    assert pixels.shape == (10, 3, 224, 224) and pixels.isfinite().all()
