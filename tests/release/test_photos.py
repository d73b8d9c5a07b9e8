"""Photos of a release: damaged ones are named, bytes behind the end are taken, and no path leads out of the folder."""

import csv
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.models.pixels import decode_batch, with_pixels
from bioscan_hf.release.catalogue import METADATA_CSV
from bioscan_hf.release.photos import Photos
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.schema import COLUMNS, image_path

IDS = ("WHOLE-20", "TRAILING-20", "MARKED-20", "HALF-20", "TURNED-20")


def picture():
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(noise).resize((341, 256), Image.Resampling.BICUBIC)


def jpeg(**options):
    file = io.BytesIO()
    picture().save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def write_release(root, ids, package="cropped_256"):
    """Metadata with one row of val for each id."""
    path = root / "bioscan5m/metadata/csv" / METADATA_CSV
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for processid in ids:
            row = {"processid": processid, "sampleid": processid, "dna_barcode": "ACGT", "split": "val"}
            writer.writerow(row | {"phylum": "Arthropoda", "class": "Insecta", "order": "Diptera"})
    (root / "bioscan5m/images" / package / "val").mkdir(parents=True)
    return root


def test_photos_of_a_release(tmp_path):
    """Bytes behind the end mark are taken; half a scan is left out, mark or not; one orientation by every decoder."""
    root, data, exif = write_release(tmp_path / "release", IDS), jpeg(), Image.Exif()
    exif[0x0112] = 6
    contents = (data, data + bytes(100), data[: len(data) // 2] + b"\xff\xd9", data[: len(data) // 2], jpeg(exif=exif))
    for processid, content in zip(IDS, contents, strict=True):
        (root / image_path(processid, "val", "cropped_256")).write_bytes(content)
    with pytest.raises(ReleaseError, match="MARKED-20.jpg is a damaged JPEG: cut off inside a scan"):
        build(root, tmp_path / "stopped", ["cropped_256"])
    manifest = build(root, tmp_path / "dataset", ["cropped_256"], keep_going=True)
    left_out = {problem.processid: problem.what for problem in manifest.problems if problem.processid}
    assert set(left_out) == {"MARKED-20", "HALF-20"} and "cut off before its end mark" in left_out["HALF-20"]

    loaded = load_bioscan5m(tmp_path / "dataset", "cropped_256", "val")
    assert loaded["processid"] == ["WHOLE-20", "TRAILING-20", "TURNED-20"]
    image = Image.open(io.BytesIO(contents[-1]))
    upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert upright.shape == (341, 256, 3)
    assert np.array_equal(np.asarray(loaded[2]["image"]), upright)
    pixels = with_pixels(loaded)[:]["pixel_values"]
    assert np.abs(pixels[2].numpy().astype(int) - decode_batch([upright.copy()])[0].numpy()).max() <= 4
    assert (pixels[0] == pixels[1]).all()


@pytest.mark.parametrize("keep_going", [False, True])
def test_traversal_build(tmp_path, keep_going):
    """A processid that leads to a photo of the user is refused; it is in no file of the dataset."""
    away, private = "../../../../../private/photo", jpeg(comment=b"of the user")
    root = write_release(tmp_path / "release", [away, "GOOD-20"], "original_256")
    (tmp_path / "private").mkdir()
    (tmp_path / "private/photo.jpg").write_bytes(private)
    (root / image_path("GOOD-20", "val", "original_256")).write_bytes(jpeg())
    assert (root / "bioscan5m/images/original_256/val" / f"{away}.jpg").resolve() == tmp_path / "private/photo.jpg"
    if keep_going:
        manifest = build(root, tmp_path / "dataset", ["original_256"], keep_going=True)
        assert any("cannot be the name of a file" in problem.what for problem in manifest.problems)
        assert load_bioscan5m(tmp_path / "dataset", "original_256", "val")["processid"] == ["GOOD-20"]
    else:
        with pytest.raises(ReleaseError, match="row 1 .*private/photo.* cannot be the name of a file"):
            build(root, tmp_path / "dataset", ["original_256"])
        assert not (tmp_path / "dataset").exists()
        assert build(root, tmp_path / "text", ["dna"]).complete, "without photos, the id is only text"
    for path in (tmp_path / "dataset").rglob("*.parquet"):
        assert b"of the user" not in path.read_bytes()


@pytest.mark.parametrize("processid", ["../x", "..\\x", "C:\\x", "/etc/hostname", ".x", "", "a/b", "é"])
def test_no_id_leads_out_of_a_release(tmp_path, processid):
    """In folders and in zips."""
    root = write_release(tmp_path, ["A"])
    photos = Photos(root, "cropped_256")
    with pytest.raises(ReleaseError, match="cannot be the name of a file"):
        photos.read(processid, "val")


def test_a_large_file_is_not_read(tmp_path):
    """Its size is looked at first; the file is sparse."""
    root = write_release(tmp_path, ["A"])
    with open(root / image_path("A", "val", "cropped_256"), "wb") as file:
        file.truncate(2**33)
    with pytest.raises(ReleaseError, match="A.jpg has 8,589,934,592 bytes; photos of at most 67,108,864"):
        Photos(root, "cropped_256").read("A", "val")
