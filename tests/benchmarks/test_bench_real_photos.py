"""The benchmark of real photos: intervals, leave-one-out, and photos of one specimen."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bioscan_hf.models.processing_clibd import ClibdProcessor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look a class up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos():
    return load("bench_real_photos")


def test_intervals(photos):
    """8 of 10: wider over 2 species (0.6 and 1) than over 10; no interval for one species."""
    hits = np.array([True] * 8 + [False] * 2)
    apart, two = (photos.interval(hits, owners) for owners in (np.arange(10), np.repeat([0, 1], 5)))
    assert apart["accuracy"] == two["accuracy"] == 0.8 and 0.4 <= apart["low"] <= 0.6 and apart["high"] == 1
    assert (two["low"], two["high"]) == (0.6, 1.0)
    assert photos.interval(hits, np.zeros(10, int)) == {"accuracy": 0.8, "low": None, "high": None}


def test_owners_and_clusters(photos):
    """Two photos of a specimen are one; photos of a species have one owner."""
    rows = [{"order": "A", "species": "A a"}, {"order": "A", "species": None}, {"order": "A", "species": None}]
    rows += [{"order": "B", "species": "B b"}, {"order": "B", "species": "B b"}, {"order": "A", "species": "A a"}]
    specimens = np.array([0, 1, 1, 3, 4, 5])
    owners = photos.owners_of(rows, specimens)
    assert len(set(owners)) == 3 and owners[0] == owners[5] and owners[1] == owners[2] and owners[3] == owners[4]
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.1], [0, 1], [0.1, 1], [1, 0.2]], np.float32)
    found = photos.clusters(vectors, rows, specimens, small=True)
    assert found["photos"] == 5 and found["none"]["clusters"] == 2 and found["none"]["order"] == pytest.approx(1)


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
def test_real_photos_of_every_figure(photos, real_data):
    """One photo of each figure, mask or crop is taken by the processor, and 97 of 202 have an order."""
    folder = (real_data / "images.csv").parent
    table = photos.read_table(folder)
    assert len(table) == 202 and sum(row["order"] is not None for row in table) == 97
    one = {row["figure"]: row["path"] for row in table}
    assert len(one) == 9
    pixels = ClibdProcessor()([*one.values(), *sorted((folder / "images").rglob("*.png"))[:1]])["pixel_values"]
    assert pixels.shape == (10, 3, 224, 224) and pixels.isfinite().all()
