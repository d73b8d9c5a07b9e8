"""Crops of folders and releases: complete, resumable, nothing replaced, nothing lost."""

import csv
import io
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from zipfile import ZipFile

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


@pytest.mark.slow
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
    with pytest.raises(ReleaseError, match=r"A-20.*cannot be read.*bioscan-hf crop --keep-going"):
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


def test_files_that_are_no_pictures_are_told_alike_in_each_run(folder, tmp_path):
    """Pillow's message has an address in memory."""
    (folder / "A-20.jpg").write_bytes(b"")
    (folder / "B-20.jpg").write_text("<html>not found</html>")
    counts = crop_folder(folder, tmp_path / "crops", read_boxes(tmp_path / "boxes.tsv"), keep_going=True)
    assert [problem.what for problem in counts.problems] == [
        "cannot be read (it is empty)",
        "cannot be read (it is none of JPEG, PNG, TIFF, BMP, WEBP, GIF, PPM)",
    ]


SQUARE = (60, 290, 120, 350)  # of red, in pixels of the photo as it is seen, 200 wide and 400 high


def with_square():
    """Grey noise with a red square."""
    pixels = np.random.default_rng(0).integers(90, 110, (400, 200, 3), dtype=np.uint8)
    pixels[SQUARE[1] : SQUARE[3], SQUARE[0] : SQUARE[2]] = (230, 20, 20)
    return Image.fromarray(pixels)


def write_boxes(path, boxes):
    lines = [
        "processid\twidth_original\theight_original\tx0\ty0\tx1\ty1",
        *("\t".join(map(str, box)) for box in boxes),
    ]
    path.write_text("\n".join(lines) + "\n")
    return read_boxes(path)


def red(path):
    """Share of red pixels: (60 / 84)² = 51 % where the crop shows the square, 40 % in 4:3."""
    pixels = np.asarray(Image.open(path)).astype(int)
    return ((pixels[..., 0] > 180) & (pixels[..., 1] < 80)).mean()


def test_exif(tmp_path):
    """A photo that is turned by its EXIF orientation has the same crop as the upright one; the crop has no EXIF."""
    (tmp_path / "photos").mkdir()
    for orientation in range(1, 9):
        turns = (None, None, 0, 3, 1, 5, 2, 6, 4)  # what undoes an orientation, as a transposition of Pillow
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = with_square() if orientation == 1 else with_square().transpose(turns[orientation])
        image.save(tmp_path / f"photos/P{orientation}.jpg", quality=95, exif=exif)
    boxes = write_boxes(tmp_path / "boxes.tsv", [(f"P{i}", 200, 400, *SQUARE) for i in range(1, 9)])
    assert crop_folder(tmp_path / "photos", tmp_path / "out", boxes) == (8, 0, [])
    expected = np.asarray(Image.open(tmp_path / "out/P1.jpg")).astype(int)
    assert red(tmp_path / "out/P1.jpg") > 0.35
    for i in range(2, 9):
        crop_ = Image.open(tmp_path / f"out/P{i}.jpg")
        assert not crop_.getexif() and np.abs(np.asarray(crop_) - expected).mean() < 2


def test_other_size(tmp_path):
    """A box whose table speaks of a photo of another shape is refused with both sizes; the same shape is scaled."""
    (tmp_path / "photos").mkdir()
    with_square().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photos/lying.jpg")
    with_square().resize((100, 200)).save(tmp_path / "photos/small.jpg", quality=95)
    boxes = write_boxes(tmp_path / "boxes.tsv", [(name, 200, 400, *SQUARE) for name in ("lying", "small")])
    with pytest.raises(ReleaseError, match="lying.jpg .* photo of 200 x 400 pixels, but this photo has 400 x 200"):
        crop_folder(tmp_path / "photos", tmp_path / "stopped", boxes)
    done = crop_folder(tmp_path / "photos", tmp_path / "out", boxes, keep_going=True)
    assert done.written == 1 and [problem.processid for problem in done.problems] == ["lying"]
    assert red(tmp_path / "out/small.jpg") > 0.35 and not (tmp_path / "out/lying.jpg").exists()


@pytest.mark.parametrize(
    ("box", "what"),
    [
        ((200, 400, 60, 290, 60, 350), "is empty"),
        ((200, 400, 120, 290, 60, 350), "is empty"),
        ((200, 400, 200, 400, 260, 460), "lies outside the photo of 200 x 400"),
        ((200, 400, -90, -90, -1, -1), "lies outside the photo of 200 x 400"),
        ((0, 400, *SQUARE), "a size of 0 x 400"),
        ((-200, -400, *SQUARE), "a size of -200 x -400"),
        ((200, 400, 0, 0, 2**31 - 1, 2**31 - 1), "The crop would have"),
        ((200, 400, 0, 0, 2**31 - 1, 1), "The crop would have"),
        ((200, 400, "", 1, 2, 3), "no box in the table"),
    ],
)
def test_impossible_boxes_are_named(tmp_path, box, what):
    """Width 0, negative, outside the photo, sizes of 0, and crops of more than 67 million pixels."""
    (tmp_path / "photos").mkdir()
    with_square().save(tmp_path / "photos/P1.jpg")
    boxes = write_boxes(tmp_path / "boxes.tsv", [("P1", *box)])
    with pytest.raises(ReleaseError, match=rf"P1.jpg \(P1\): .*{what}"):
        crop_folder(tmp_path / "photos", tmp_path / "out", boxes)
    assert [path.name for path in (tmp_path / "out").glob("*.jpg")] == []


def test_endings(tmp_path):
    """Photos of all formats are cropped; other files are named; what an operating system adds is told once."""
    photos = tmp_path / "photos"
    (photos / "__MACOSX").mkdir(parents=True)
    names = ["a.jpg", "b.JPG", "c.jpeg", "d.png", "e.tif", "f.bmp", "g.webp", "h.TIFF"]
    for name in names:
        with_square().save(photos / name)
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/._b.jpg", "notes.txt", "moth.cr2", "tab\t.jpg"):
        (photos / name).write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    boxes = write_boxes(tmp_path / "boxes.tsv", [(name[0], 200, 400, *SQUARE) for name in names])
    done = crop_folder(photos, photos / "out", boxes)
    assert (done.written, done.present) == (8, 0)
    assert all(red(photos / f"out/{name[0]}.jpg") > 0.35 for name in names)
    told = {problem.file: (problem.what, problem.consequence) for problem in done.problems}
    assert {name for name, (_, consequence) in told.items() if consequence == "left out"} == {
        "notes.txt",
        "moth.cr2",
        "tab\t.jpg",
    }
    assert [what for what, consequence in told.values() if consequence == "passed over"] == [
        "4 hidden files or folders of the operating system"
    ]
    again = crop_folder(photos, photos / "out", boxes)
    assert (again.written, again.present) == (0, 8), "crops in a folder of the photos are not cropped again"


def test_sixteen_bits(tmp_path):
    """The upper 8 bits, as `decode_photo` reads them: 40,000 is light grey, 10,000 dark grey."""
    (tmp_path / "photos").mkdir()
    deep = np.full((400, 200), 10_000, np.uint16)
    deep[SQUARE[1] : SQUARE[3], SQUARE[0] : SQUARE[2]] = 40_000
    for name in ("deep.png", "deep_named.jpg"):
        Image.fromarray(deep).save(tmp_path / "photos" / name, format="PNG")
    boxes = write_boxes(tmp_path / "boxes.tsv", [(name, 200, 400, *SQUARE) for name in ("deep", "deep_named")])
    assert crop_folder(tmp_path / "photos", tmp_path / "out", boxes, options=CropOptions(size=None)) == (2, 0, [])
    for name in ("deep", "deep_named"):
        pixels = np.asarray(Image.open(tmp_path / f"out/{name}.jpg")).astype(int)
        centre = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]
        assert abs(centre - 156).max() < 4 and abs(pixels[0, pixels.shape[1] // 2] - 39).max() < 4


def test_traversal_crop(tmp_path):
    """A processid that leads out of the output is refused, with keep_going as well; nothing is written outside."""
    away = "../../../../../victim/overwritten"
    metadata = tmp_path / "release/bioscan5m/metadata/csv" / METADATA_CSV
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"processid,split\n{away},val\n..\\..\\x,val\nP1,../val\n")
    jpeg = io.BytesIO()
    with_square().save(jpeg, "JPEG")
    with ZipFile(tmp_path / "release/BIOSCAN_5M_original_256_eval.zip", "w") as archive:
        archive.writestr(f"bioscan5m/images/original_256/val/{away}.jpg", jpeg.getvalue())
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/overwritten.jpg").write_bytes(b"a file of the user")
    boxes = write_boxes(tmp_path / "boxes.tsv", [(away, 200, 400, *SQUARE)])
    with pytest.raises(ReleaseError, match="row 1 .*cannot be the name of a file"):
        crop_folder(tmp_path / "release", tmp_path / "crops", boxes)
    done = crop_folder(tmp_path / "release", tmp_path / "crops", boxes, keep_going=True)
    assert (done.written, len(done.problems)) == (0, 3)
    assert (tmp_path / "victim/overwritten.jpg").read_bytes() == b"a file of the user"
    assert not [path for path in tmp_path.rglob("*.jpg") if "victim" not in path.parts]


def test_only_the_zips_of_the_split_are_opened(originals, tmp_path):
    """A damaged zip of another split does not matter."""
    root = tmp_path / "release"
    shutil.copytree(originals / "bioscan5m/metadata", root / "bioscan5m/metadata")
    photos = Photos(originals, "original_256")
    names = [(one, split) for one, split in specimens(originals).items() if split == "train"]
    with ZipFile(root / "BIOSCAN_5M_original_256_train.zip", "w") as archive:
        for processid, split in names:
            archive.writestr(image_path(processid, split, "original_256"), photos.read(processid, split))
    photos.close()
    (root / "BIOSCAN_5M_original_256_eval.zip").write_bytes(b"half a download")
    boxes = read_boxes(originals / BOXES_TSV)
    assert crop_folder(root, tmp_path / "crops", boxes, split="train").written == len(names) > 0


def test_detected_boxes_are_found_once(folder, tmp_path, monkeypatch):
    """With a model, the table holds its boxes and their sizes, and a second run does not ask it again.

    The stand-in always finds (40, 30, 140, 90): 100 x 60 of 400 x 300 = 0.05; 60 / 256 = 0.2344.
    """
    import torch

    calls = []

    def detect(model, image_processor, images):
        calls.append(len(images))
        return np.array([[40.0, 30.0, 140.0, 90.0]] * len(images)).reshape(-1, 4)

    decoded, decode = [], crop_files.decode_photo
    monkeypatch.setattr(crop_files, "decode_photo", lambda *args, **more: decoded.append(1) or decode(*args, **more))
    monkeypatch.setattr(detector, "detect_boxes", detect)
    model, output = torch.nn.Linear(2, 2), tmp_path / "crops"
    assert crop_folder(folder, output, Detector(model, object(), batch_size=2)).written == 3
    assert calls == [2, 1] and len(decoded) == 3
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
    with pytest.raises(ValueError, match="batches of 1 or more, not 0"):
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
    with pytest.raises(FileNotFoundError, match="No photos .*jpg .jpeg .png .*in"):
        crop_folder(tmp_path / "empty", tmp_path / "crops2", boxes)
