"""Crops of folders and releases: complete, resumable, nothing replaced, nothing lost."""

import csv
import io
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from bioscan_hf.crops import detector
from bioscan_hf.crops import run as crop_files
from bioscan_hf.crops.boxes import crop, resize_shorter_side
from bioscan_hf.crops.detector import Detector
from bioscan_hf.crops.run import CropOptions, crop_folder
from bioscan_hf.release.boxes import read_boxes
from bioscan_hf.release.catalogue import BOXES_TSV, METADATA_CSV
from bioscan_hf.release.photos import Photos
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.schema import image_path


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A simulated release of 50 specimens with both packages of original photos."""
    from bioscan_hf.simulate.release import simulate_release

    folder = tmp_path_factory.mktemp("originals") / "release"
    return simulate_release(folder, specimens=50, seed=2, packages=("original_full", "original_256"))


def table(path):
    with open(path, newline="") as file:
        return {row["processid"]: row for row in csv.DictReader(file, delimiter="\t")}


def specimens(release):
    with open(release / "bioscan5m/metadata/csv" / METADATA_CSV, newline="") as file:
        return {row["processid"]: row["split"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def cropped(originals, tmp_path_factory):
    output = tmp_path_factory.mktemp("cropped") / "crops"
    done = []
    counts = crop_folder(
        originals, output, read_boxes(originals / BOXES_TSV), progress=lambda *call: done.append(call)
    )
    assert counts == (50, 0, []) and done == [("photos", i, None) for i in range(1, 51)]
    return output


def test_a_release_becomes_the_package_cropped_256(originals, cropped):
    """In the published layout, each photo is the crop of its box; the table of boxes is the release's own."""
    boxes, splits = table(originals / BOXES_TSV), specimens(originals)
    assert table(cropped / "boxes.tsv") == boxes
    assert not list(cropped.rglob("*.part*")) and not (cropped / "problems.csv").exists()
    whole, crops = Photos(originals, "original_full"), Photos(cropped, "cropped_256")
    for processid, split in list(splits.items())[:10]:
        image = Image.open(io.BytesIO(whole.read(processid, split)))
        box = [int(boxes[processid][name]) for name in ("x0", "y0", "x1", "y1")]
        expected = np.asarray(resize_shorter_side(crop(image, box))).astype(int)
        found = Image.open(io.BytesIO(crops.read(processid, split)))
        assert min(found.size) == 256
        assert np.abs(np.asarray(found).astype(int) - expected).mean() < 2  # JPEG at quality 95
    whole.close()


def test_boxes_are_scaled_to_smaller_photos(originals, cropped, tmp_path):
    """From original_256 the crops show the same as from original_full, only softer."""
    boxes = read_boxes(originals / BOXES_TSV)
    crop_folder(originals, tmp_path / "crops", boxes, package="original_256", split="train+test")
    splits = specimens(originals)
    compared = 0
    for processid, split in splits.items():
        path = tmp_path / "crops" / image_path(processid, split, "cropped_256")
        assert path.exists() == (split in ("train", "test"))
        if path.exists():
            small = Image.open(path).resize((64, 48))
            large = Image.open(cropped / image_path(processid, split, "cropped_256")).resize((64, 48))
            difference = np.abs(np.asarray(small).astype(int) - np.asarray(large).astype(int))
            assert difference.mean() < 8
            compared += 1
    assert compared > 5
    rows, all_rows = table(tmp_path / "crops/boxes.tsv"), table(originals / BOXES_TSV)
    assert rows == {processid: all_rows[processid] for processid in rows} and len(rows) == compared


def test_an_interrupted_run_goes_on(originals, cropped, tmp_path, monkeypatch):
    """Stopped while a crop is being written, in the middle of a line of the table: no file twice, the same result."""
    boxes, output = read_boxes(originals / BOXES_TSV), tmp_path / "crops"
    saved = []
    save = crop_files._save

    def save_until_killed(path, jpeg):
        if len(saved) == 17:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, jpeg)

    monkeypatch.setattr(crop_files, "_save", save_until_killed)
    with pytest.raises(KeyboardInterrupt):
        crop_folder(originals, output, boxes)
    assert not (output / "boxes.tsv").exists()
    with open(output / "boxes.part.tsv", "a") as file:
        file.write("BROKEN-20\t10")
    before = {path: path.stat().st_mtime_ns for path in saved}
    monkeypatch.setattr(crop_files, "_save", save)
    assert crop_folder(originals, output, boxes) == (33, 17, [])
    assert {path: path.stat().st_mtime_ns for path in saved} == before
    assert table(output / "boxes.tsv") == table(cropped / "boxes.tsv")
    for path in cropped.rglob("*.jpg"):
        assert (output / path.relative_to(cropped)).read_bytes() == path.read_bytes()
    assert crop_folder(originals, output, boxes) == (0, 50, [])


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_makes_the_same_crops(originals, cropped, tmp_path, kind):
    """Threads, and processes of the caller: the files of a run in one process."""
    options = {} if kind is ThreadPoolExecutor else {"mp_context": get_context("spawn")}
    output = tmp_path / "crops"
    with kind(2, **options) as executor:
        assert crop_folder(originals, output, read_boxes(originals / BOXES_TSV), executor=executor) == (50, 0, [])
        assert executor.submit(len, "abc").result() == 3, "it can be used again"
    assert table(output / "boxes.tsv") == table(cropped / "boxes.tsv")
    for path in cropped.rglob("*.jpg"):
        assert (output / path.relative_to(cropped)).read_bytes() == path.read_bytes()


def test_two_runs_into_one_folder(originals, tmp_path):
    """The second one is refused while the first one writes."""
    boxes, refused = read_boxes(originals / BOXES_TSV), []

    def meanwhile(stage, done, total):
        if not refused:
            with pytest.raises(RuntimeError, match="Another crop run is writing to"):
                crop_folder(originals, tmp_path / "crops", boxes)
            refused.append(stage)

    assert crop_folder(originals, tmp_path / "crops", boxes, progress=meanwhile).written == 50 and refused


@pytest.fixture
def folder(tmp_path):
    """A folder of three photos, one of them below another folder, and their boxes."""
    place = tmp_path / "photos"
    (place / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for name in ("A-20", "B-20", "more/C-20"):
        Image.fromarray(noise).resize((400, 300)).save(place / f"{name}.jpg")
    lines = ["processid\twidth_original\theight_original\tx0\ty0\tx1\ty1"]
    lines += [f"{name}-20\t400\t300\t100\t100\t200\t180" for name in "ABC"]
    (tmp_path / "boxes.tsv").write_text("\n".join(lines) + "\n")
    return place


def test_problems_stop_or_are_reported(folder, tmp_path):
    """A damaged photo and one without a box stop the run, or with keep_going are listed; mended, they are cropped."""
    data = (folder / "A-20.jpg").read_bytes()
    (folder / "A-20.jpg").write_bytes(data[:500])
    table_ = tmp_path / "boxes.tsv"
    table_.write_text("\n".join(line for line in table_.read_text().splitlines() if "B-20" not in line) + "\n")
    boxes, output = read_boxes(table_), tmp_path / "crops"
    with pytest.raises(ReleaseError, match=r"A-20.*cannot be read"):
        crop_folder(folder, output, boxes)
    counts = crop_folder(folder, output, boxes, keep_going=True)
    assert (counts.written, counts.present) == (1, 0)
    assert [(problem.processid, problem.what[:14]) for problem in counts.problems] == [
        ("A-20", "cannot be read"),
        ("B-20", "no box in the "),
    ]
    with open(output / "problems.csv", newline="") as file:
        assert [row["processid"] for row in csv.DictReader(file)] == ["A-20", "B-20"]
    assert [path.relative_to(output).as_posix() for path in output.rglob("*.jpg")] == ["more/C-20.jpg"]
    (folder / "A-20.jpg").write_bytes(data)
    (folder / "B-20.jpg").unlink()
    assert crop_folder(folder, output, boxes) == (1, 1, [])
    assert not (output / "problems.csv").exists()


def test_detected_boxes_are_found_once(folder, tmp_path, monkeypatch):
    """With a model, the table holds its boxes and their sizes, and a second run does not ask it again.

    The stand-in always finds (40, 30, 140, 90): 100 x 60 of 400 x 300 = 0.05; 60 / 256 = 0.2344.
    """
    import torch

    calls = []

    def detect(model, image_processor, images):
        calls.append(len(images))
        return np.array([[40.0, 30.0, 140.0, 90.0]] * len(images)).reshape(-1, 4)

    monkeypatch.setattr(detector, "detect_boxes", detect)
    model, output = torch.nn.Linear(2, 2), tmp_path / "crops"
    assert crop_folder(folder, output, Detector(model, object(), batch_size=2)).written == 3
    assert calls == [2, 1]
    row = table(output / "boxes.tsv")["C-20"]
    assert tuple(row.values()) == ("C-20", "400", "300", "40", "30", "140", "90", "0.2344", "0.05")
    (output / "A-20.jpg").unlink()
    assert crop_folder(folder, output, Detector(model, object()))[:2] == (1, 2)
    assert sum(calls) == 3
    with pytest.raises(FileExistsError, match="another boxes"):
        crop_folder(folder, output, Detector(torch.nn.Linear(2, 2), object()))


def test_nothing_is_replaced(folder, tmp_path):
    """Other options, a folder with something else, and a file of the same name are refused."""
    boxes, output = read_boxes(tmp_path / "boxes.tsv"), tmp_path / "crops"
    crop_folder(folder, output, boxes)
    with pytest.raises(FileExistsError, match="crops made with another style and size"):
        crop_folder(folder, output, boxes, options=CropOptions("bioscan1m", size=None))
    with pytest.raises(FileExistsError, match="holds something else"):
        crop_folder(folder, folder, boxes)
    shutil.copy(folder / "A-20.jpg", folder / "D-20.jpg")
    shutil.copy(folder / "A-20.jpg", output / "D-20.jpg")
    with pytest.raises(FileExistsError, match="D-20.jpg exists and is not a crop of this run"):
        crop_folder(folder, output, boxes)
    assert (output / "D-20.jpg").read_bytes() == (folder / "D-20.jpg").read_bytes()


def test_unusable_arguments_are_refused_before_anything_is_written(folder, release, tmp_path):
    boxes, output = read_boxes(tmp_path / "boxes.tsv"), tmp_path / "crops"
    with pytest.raises(ValueError, match="Unknown style"):
        CropOptions("x")
    for wrong in ({"quality": 100}, {"size": 0}):
        with pytest.raises(ValueError, match="a quality of 1 to 95 and a positive size"):
            CropOptions(**wrong)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Detector(None, None, batch_size=0)
    with pytest.raises(ValueError, match="choose original_full or original_256"):
        crop_folder(folder, output, boxes, package="cropped")
    with pytest.raises(FileNotFoundError, match="without original photos; it holds cropped_256"):
        crop_folder(release, output, boxes)
    assert not output.exists()
    shutil.copy(folder / "A-20.jpg", folder / "more/A-20.jpg")
    with pytest.raises(ValueError, match="Two photos below .* are called 'A-20'"):
        crop_folder(folder, output, boxes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No JPEGs in"):
        crop_folder(tmp_path / "empty", tmp_path / "crops2", boxes)
