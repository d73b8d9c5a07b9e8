"""Reading a release and writing it as Parquet: the same rows and bytes, and nothing lost when something is wrong."""

import csv
import gzip
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import md5
from multiprocessing import get_context
from pathlib import Path
from zipfile import ZipFile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image, load_dataset
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from bioscan_hf.dataset import build as builder
from bioscan_hf.dataset import release_source
from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset.request import label_ids
from bioscan_hf.files import file_hash
from bioscan_hf.labels import LabelMaps
from bioscan_hf.models.pixels import decode_batch
from bioscan_hf.release import photos, rows, tables
from bioscan_hf.release.catalogue import BOXES_TSV
from bioscan_hf.release.columns import BOX_COLUMNS
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.release.photos import check_jpeg
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.release.tables import read_table
from bioscan_hf.release.write import write_table
from bioscan_hf.schema import COLUMNS, SPLITS, image_path

SIZES = {"dna": 100, "cropped_256": 60}


def read_csv(root):
    with open(find_metadata(root), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows, columns=COLUMNS):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def copy(release, tmp_path):
    """A release that a test may damage."""
    return shutil.copytree(release, tmp_path / "release")


def row(processid="A1", split="train", barcode="ACGTACGT", **more):
    return {"processid": processid, "split": split, "dna_barcode": barcode, **more}


def cell(value):
    """A value of a dataset as it stands in the CSV."""
    return "" if value is None else str(value)


def same(text, value):
    return text == cell(value) or (isinstance(value, float | int) and float(text) == float(value))


@pytest.mark.parametrize("streaming", [False, True])
def test_build_holds_every_row_and_every_byte(release, dataset, streaming):
    """All 23 cells of each row, and the md5 of each photo, by `load_dataset` alone."""
    rows = {row["processid"]: row for row in read_csv(release)}
    photos = {}
    for path in release.glob("*.zip"):
        with ZipFile(path) as archive:
            photos |= {name: md5(archive.read(name)).hexdigest() for name in archive.namelist()}
    found = set()
    for split in SPLITS:
        data = load_dataset(str(dataset), "cropped_256", split=split, streaming=streaming)
        for record in data.cast_column("image", Image(decode=False)):
            original = rows[record["processid"]]
            assert original["split"] == split
            assert all(same(original[column], record[column]) for column in COLUMNS), record["processid"]
            name = image_path(record["processid"], split, "cropped_256")
            assert md5(record["image"]["bytes"]).hexdigest() == photos[name]
            found.add(record["processid"])
    assert found == set(rows) and len(rows) == 400


def test_shards_keep_the_order_of_the_csv(release, dataset):
    """A split cut into several files reads back in the order of the metadata, in both configs."""
    expected = [row["processid"] for row in read_csv(release) if row["split"] == "pretrain"]
    assert len(list((dataset / "cropped_256").glob("pretrain-*.parquet"))) > 1, "one shard would prove nothing"
    for config in ("dna", "cropped_256"):
        assert load_dataset(str(dataset), config, split="pretrain")["processid"] == expected


def test_photos_decode_and_a_split_has_its_name(dataset):
    record = load_dataset(str(dataset), "cropped_256", split="key_unseen")[0]
    assert min(record["image"].size) == 256 and record["split"] == "key_unseen"


def test_folders_and_zips_give_the_same(release, dataset, tmp_path):
    unpacked = tmp_path / "release"
    shutil.copytree(release / "bioscan5m", unpacked / "bioscan5m")
    shutil.copy(release / BOXES_TSV, unpacked)
    for path in release.glob("*.zip"):
        with ZipFile(path) as archive:
            archive.extractall(unpacked)
    build(unpacked, tmp_path / "dataset", rows_per_shard=SIZES, workers=2)
    for file in dataset.glob("*/*.parquet"):
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "dataset" / file.relative_to(dataset)))


def test_card_manifest_and_labels_tell_what_was_built(dataset, release):
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["complete"] and manifest["problems"] == []
    for name, shard in manifest["shards"].items():
        assert pq.ParquetFile(dataset / name).metadata.num_rows == shard["rows"]
        assert file_hash(dataset / name) == shard["sha256"]
    genera = sorted({row["genus"] for row in read_csv(release)} - {""})
    assert LabelMaps.load(dataset / "labels.json").names("genus") == tuple(genera)
    card = (dataset / "README.md").read_text()
    assert "license: other" in card and "Rows: **400** in all." in card and "$" not in card
    assert not list(dataset.rglob("*.part"))


def test_metadata_alone_and_other_columns(tmp_path):
    """A gzipped CSV without photos builds; a column that is not published stays, as text."""
    columns = [*COLUMNS, "genbank"]
    path = write_rows(
        tmp_path / "m.csv", [row("A1", genbank="00X"), row("A2", "val", index_bioscan_1M_insect="5.0")], columns
    )
    zipped = tmp_path / "m.csv.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    build(zipped, tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"), "dna")
    assert set(data) == {"train", "val"}
    assert data["train"][0]["genbank"] == "00X" and data["train"][0]["coord-lat"] is None
    assert data["val"][0]["index_bioscan_1M_insect"] == 5


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_missing_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="No metadata in .*nowhere.* Give the folder that holds bioscan5m/"):
        build(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ReleaseError, match="empty.csv is empty: its first line should name the columns"):
        build(tmp_path / "empty.csv", tmp_path / "out")
    write_rows(tmp_path / "header.csv", [])
    with pytest.raises(ReleaseError, match="header.csv has no rows"):
        build(tmp_path / "header.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_columns_are_named_or_null(tmp_path):
    """Ids and barcodes are needed, and named together; other columns are null."""
    path = write_rows(tmp_path / "m.csv", [row()], ["species", "split"])
    with pytest.raises(ReleaseError, match="no column 'processid'.*'dna_barcode'.*Its columns are 'species'"):
        build(path, tmp_path / "out")
    build(write_rows(path, [row()], ["processid", "dna_barcode", "split"]), tmp_path / "out")
    [found] = load_dataset(str(tmp_path / "out"), "dna", split="train")
    assert found.pop("metadata_row") == 0
    assert list(found) == list(COLUMNS) and {name for name in COLUMNS if found[name] is not None} == set(row())


def test_truncated_files_are_told(release, tmp_path):
    data = find_metadata(release).read_bytes()
    (tmp_path / "cut.csv").write_bytes(data[: len(data) // 2])
    with pytest.raises(ReleaseError, match="cut.csv: line .*has the file been cut off"):
        build(tmp_path / "cut.csv", tmp_path / "out")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(data)[:-2000])
    with pytest.raises(ReleaseError, match="cut.csv.gz is not a readable table"):
        build(tmp_path / "cut.csv.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD_ROWS = [
    (row("A2", "tset"), r"row 2 \(A2\): unknown split 'tset' .BIOSCAN-5M has pretrain, train"),
    (row("A2", ""), r"row 2 \(A2\): its split is empty; `bioscan-hf split` partitions"),
    (row("A2", barcode="HELLOWORLD"), r"row 2 \(A2\): dna_barcode is not DNA: it contains 'E'"),
    (row("A1"), r"row 2 \(A1\): repeats the processid of row 1"),
    (row(""), r"row 2: processid None is not an id"),
    (row("A 2"), r"row 2 \(A 2\): processid 'A 2' is not an id"),
    (row("A2", **{"coord-lat": "north"}), r"row 2 \(A2\): coord-lat is 'north', not a number"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS, ids=[message[11:50] for _, message in BAD_ROWS])
def test_bad_row_stops_or_is_reported(tmp_path, bad, message):
    """Without keep_going the build stops, naming file and row; with it good rows stay, and the bad one is listed."""
    path = write_rows(tmp_path / "m.csv", [row("A1"), bad, row("A3", "val")])
    with pytest.raises(ReleaseError, match=f"m.csv, {message}.*leave it out .bioscan-hf build --keep-going"):
        build(path, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "README.md").exists(), "a stopped build must not load as if it were complete"

    manifest = build(path, tmp_path / "out", keep_going=True)
    assert len(manifest.problems) == 1
    with open(tmp_path / "out" / "problems.csv", newline="") as file:
        [problem] = csv.DictReader(file)
    assert problem["row"] == "2" and problem["consequence"] in ("left out", "cell emptied")
    kept = [r["processid"] for part in load_dataset(str(tmp_path / "out"), "dna").values() for r in part]
    assert kept == (["A1", "A2", "A3"] if problem["consequence"] == "cell emptied" else ["A1", "A3"])


def test_line_with_too_few_cells_is_reported(tmp_path):
    path = write_rows(tmp_path / "m.csv", [row("A1"), row("A2")])
    path.write_text(path.read_text() + "A3,only,three\n" + path.read_text().splitlines()[1].replace("A1", "A4") + "\n")
    with pytest.raises(ReleaseError, match="m.csv: line 4 has 3 cells instead of 23 .has"):
        build(path, tmp_path / "stopped")
    manifest = build(path, tmp_path / "out", keep_going=True)
    assert [problem.consequence for problem in manifest.problems] == ["left out"]
    assert load_dataset(str(tmp_path / "out"), "dna", split="train")["processid"] == ["A1", "A2", "A4"]


def replace_member(path, name, data):
    """Rewrites a zip with one member changed, or removed if `data` is None."""
    with ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with ZipFile(path, "w") as archive:
        for member, content in members.items():
            if member != name:
                archive.writestr(member, content)
            elif data is not None:
                archive.writestr(member, data)


def test_bad_photos_stop_or_are_reported(copy, tmp_path):
    """A photo cut off, one that is not a JPEG and one missing: named one by one, and only their rows are left out."""
    path = copy / "BIOSCAN_5M_cropped_256_train.zip"
    with ZipFile(path) as archive:
        names = sorted(archive.namelist())[:3]
        cut = archive.read(names[0])[:-500]
    for name, data in zip(names, (cut, b"GIF89a" + bytes(100), None), strict=True):
        replace_member(path, name, data)
    with pytest.raises(ReleaseError, match=r"(cut off before its end mark|is not a JPEG|no photo bioscan5m/images)"):
        build(copy, tmp_path / "stopped")

    manifest = build(copy, tmp_path / "out", keep_going=True, workers=2)
    what = {problem.processid: problem.what for problem in manifest.problems}
    ids = [name.rsplit("/")[-1].removesuffix(".jpg") for name in names]
    assert set(what) == set(ids)
    assert "BIOSCAN_5M_cropped_256_train.zip" in what[ids[0]] and "cut off" in what[ids[0]]
    assert "is not a JPEG" in what[ids[1]] and "no photo bioscan5m/images/cropped_256/train" in what[ids[2]]
    with_photo = load_dataset(str(tmp_path / "out"), "cropped_256", split="train")["processid"]
    without = load_dataset(str(tmp_path / "out"), "dna", split="train")["processid"]
    assert with_photo == [processid for processid in without if processid not in ids]
    assert set(ids) <= set(without)


def test_flipped_byte_in_a_zip_is_named(copy, tmp_path):
    path = copy / "BIOSCAN_5M_cropped_256_train.zip"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match="BIOSCAN_5M_cropped_256_train.zip:bioscan5m/.* cannot be read .Bad CRC-32"):
        build(copy, tmp_path / "out")


def test_truncated_zip_is_named(copy, tmp_path):
    path = copy / "BIOSCAN_5M_cropped_256_train.zip"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(
        ReleaseError, match="BIOSCAN_5M_cropped_256_train.zip is not a readable zip.*download it again"
    ):
        build(copy, tmp_path / "out")


def test_header_that_claims_a_giant_is_told():
    """Damaged height and width, 65,535 each: an error that names the photo, where Pillow's own is not an OSError."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    size = data.index(b"\xff\xc0") + 5  # after the marker: two bytes of length, one of precision
    assert data[size : size + 4] == bytes([0, 8, 0, 8])
    data[size : size + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ReleaseError, match="x.jpg is a damaged JPEG: it has 65,535 x 65,535 pixels"):
        check_jpeg(bytes(data), "x.jpg")
    with pytest.raises(ValueError, match="Photo 0 of the batch cannot be decoded"):
        decode_batch([bytes(data)], decoder="pillow")


def test_damaged_header_is_told():
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(buffer, "JPEG")
    check_jpeg(buffer.getvalue(), "good.jpg")
    with pytest.raises(ReleaseError, match="x.jpg is a damaged JPEG"):
        check_jpeg(b"\xff\xd8" + bytes(200) + b"\xff\xd9", "x.jpg")


def test_unknown_config_and_absent_package(release, tmp_path):
    with pytest.raises(ValueError, match="Unknown config 'cropped_265'. BIOSCAN-5M has dna, cropped_256"):
        build(release, tmp_path / "out", ["cropped_265"])
    with pytest.raises(FileNotFoundError, match="No photos of 'original_256' .* It has cropped_256"):
        build(release, tmp_path / "out", ["original_256"])


def test_output_that_holds_something_else(release, dataset, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds something else .'thesis.txt'.*--force"):
        build(release, tmp_path, ["dna"])
    build(release, tmp_path, ["dna"], force=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(FileExistsError, match="a build with another configs .*--force"):
        build(release, tmp_path, ["cropped_256"])


def test_finished_build_is_left_alone_and_a_changed_source_is_refused(tmp_path):
    path = write_rows(tmp_path / "m.csv", [row("A1")])
    build(path, tmp_path / "out")
    shard = next((tmp_path / "out/dna").iterdir())
    before = shard.stat().st_mtime_ns
    build(path, tmp_path / "out")
    assert shard.stat().st_mtime_ns == before
    write_rows(path, [row("A1"), row("A2")])
    with pytest.raises(FileExistsError, match="holds a build with another source"):
        build(path, tmp_path / "out")
    build(path, tmp_path / "out", force=True)
    assert load_dataset(str(tmp_path / "out"), "dna", split="train")["processid"] == ["A1", "A2"]


KILLED = """
import sys
from bioscan_hf.release.photos import Photos
from bioscan_hf.dataset.build import build
photos = 0
read = Photos.read
def slow(self, processid, split):
    global photos
    photos += 1
    if photos == 100:
        print("half-way", flush=True)
        import time; time.sleep(60)
    return read(self, processid, split)
Photos.read = slow
build(sys.argv[1], sys.argv[2], rows_per_shard={"dna": 100, "cropped_256": 60})
"""


def test_killed_build_is_completed_and_never_shows_half_a_shard(release, dataset, tmp_path):
    """SIGKILL while photos are written: only whole shards are visible; a restart keeps them, and ends like a build."""
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(release), str(output)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "half-way\n"
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert list(output.rglob("*.part")), "nothing was being written: the kill came too late to prove anything"
    whole = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    assert any(path.parent.name == "cropped_256" for path in whole)
    for path in whole:
        assert pq.read_table(path).equals(pq.read_table(dataset / path.relative_to(output)))
    with pytest.raises(ValueError, match="is not complete: run `bioscan-hf build` again"):
        from bioscan_hf.dataset.load import load_bioscan5m

        load_bioscan5m(output, "cropped_256", "train")

    time.sleep(0.01)
    build(release, output, rows_per_shard=SIZES)
    assert not list(output.rglob("*.part"))
    assert all(path.stat().st_mtime_ns == before for path, before in whole.items()), (
        "finished shards were written anew"
    )
    built = sorted(path.relative_to(dataset) for path in dataset.rglob("*.parquet"))
    assert sorted(path.relative_to(output) for path in output.rglob("*.parquet")) == built
    for name in built:
        assert (output / name).read_bytes() == (dataset / name).read_bytes()


def test_csv_round_trip_keeps_every_cell(tmp_path):
    """Cells with commas, quotes, accents or nothing in them come back as they were, and so do the columns' names."""
    table = pa.table({"a": ["x,y", None, 'q"u', "é"], "b": ["1.10", "", "007", None]})
    for name in ("t.csv", "t.csv.gz"):
        write_table(table, tmp_path / name)
        back = read_table(tmp_path / name, required=("a", "b"))
        assert back.column("a").to_pylist() == ["x,y", None, 'q"u', "é"]
        assert back.column("b").to_pylist() == ["1.10", None, "007", None]
    assert sorted(os.listdir(tmp_path)) == ["t.csv", "t.csv.gz"]


def test_every_repeat_is_reported_with_the_first_row(tmp_path):
    """Ids A B A C A B: rows 3 and 5 repeat row 1, row 6 repeats row 2; the first of each stays."""
    path = write_rows(tmp_path / "m.csv", [row(name) for name in "ABACAB"])
    manifest = build(path, tmp_path / "out", keep_going=True)
    assert sorted((p.row, p.processid, p.what) for p in manifest.problems) == [
        (3, "A", "repeats the processid of row 1"),
        (5, "A", "repeats the processid of row 1"),
        (6, "B", "repeats the processid of row 2"),
    ]
    assert load_dataset(str(tmp_path / "out"), "dna", split="train")["processid"] == ["A", "B", "C"]


def test_folders_of_one_name_are_not_confused(tmp_path):
    """`load_dataset` caches a local folder by its last name and its YAML: the YAML must tell what the folder holds."""
    for name in ("one", "two"):
        path = write_rows(tmp_path / f"{name}.csv", [row(name)])
        build(path, tmp_path / name / "dataset")
        assert load_dataset(str(tmp_path / name / "dataset"), "dna", split="train")["processid"] == [name]


def photo_ids(path):
    with ZipFile(path) as archive:
        return [name.rsplit("/")[-1].removesuffix(".jpg") for name in sorted(archive.namelist())]


def test_every_kind_of_damage_is_listed(copy, tmp_path):
    """Three damaged JPEGs, a missing photo, a repeated id and a bad row: the build stops, each by file and row or id.

    With keep_going it ends, all six are in the report, and only their rows are left out: the two of the metadata from
    both configs, the four of the photos from the config with photos.
    """
    zip_path = copy / "BIOSCAN_5M_cropped_256_train.zip"
    ids = photo_ids(zip_path)[:4]
    with ZipFile(zip_path) as archive:
        name = {i: image_path(i, "train", "cropped_256") for i in ids}
        whole = archive.read(name[ids[0]])
    damage = (whole[:-500], b"GIF89a" + bytes(100), whole[:3] + bytes(90) + b"\xff\xd9", None)
    for i, data in zip(ids, damage, strict=True):
        replace_member(zip_path, name[i], data)
    metadata = find_metadata(copy)
    rows = read_csv(copy)
    others = [r for r in rows if r["processid"] not in ids]
    rows += [{**others[0]}, {**others[1], "processid": "NEW-1", "dna_barcode": "NOTDNA"}]
    write_rows(metadata, rows)

    with pytest.raises(ReleaseError, match=r"metadata.csv, row 402 .NEW-1.: dna_barcode is not DNA"):
        build(copy, tmp_path / "stopped")
    write_rows(metadata, rows[:-1])
    with pytest.raises(ReleaseError, match="metadata.csv, row 401 .*: repeats the processid of row"):
        build(copy, tmp_path / "stopped")
    write_rows(metadata, rows[:-2])
    with pytest.raises(ReleaseError, match="train-00000-of-.*BIOSCAN_5M_cropped_256_train.zip:.* damaged JPEG"):
        build(copy, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "README.md").exists()

    write_rows(metadata, rows)
    build(copy, tmp_path / "out", keep_going=True)
    with open(tmp_path / "out" / "problems.csv", newline="") as file:
        problems = list(csv.DictReader(file))
    assert [(p["row"], p["processid"], p["consequence"]) for p in problems] == [
        ("402", "NEW-1", "left out"),
        ("401", others[0]["processid"], "left out"),
        *(("", i, "left out of cropped_256") for i in ids),
    ]
    for text, problem in zip(("cut off", "is not a JPEG", "damaged JPEG", "no photo"), problems[2:], strict=True):
        assert text in problem["what"] and "BIOSCAN_5M_cropped_256_train.zip" in problem["what"]
    good = {r["processid"] for r in rows[:-2]}
    for config, expected in (("dna", good), ("cropped_256", good - set(ids))):
        parts = load_dataset(str(tmp_path / "out"), config)
        assert {i for part in parts.values() for i in part["processid"]} == expected


def test_a_resumed_build_keeps_what_it_reported(copy, tmp_path, monkeypatch):
    """Problems of shards that were finished before an interruption are still in the report afterwards."""
    path = copy / "BIOSCAN_5M_cropped_256_train.zip"
    [first] = photo_ids(path)[:1]
    replace_member(path, image_path(first, "train", "cropped_256"), None)
    sizes = SIZES

    def interrupt(config, done, total):
        if config == "cropped_256":
            seen.append(done)
            if len(seen) == 6:
                raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        build(copy, tmp_path / "out", keep_going=True, rows_per_shard=sizes, progress=interrupt)
    state = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [problem["processid"] for problem in state["problems"]] == [first], "interrupted before the problem"
    monkeypatch.setattr(builder, "scan", None)  # the metadata are whole, and need not be checked again
    manifest = build(copy, tmp_path / "out", keep_going=True, rows_per_shard=sizes)
    assert [problem.processid for problem in manifest.problems] == [first]
    assert (tmp_path / "out/problems.csv").is_file() and manifest.complete


def files_of(folder):
    names = [path.relative_to(folder) for path in folder.rglob("*.parquet")]
    return {name: (folder / name).read_bytes() for name in [*names, Path("labels.json"), Path("README.md")]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_writes_the_same_files(release, dataset, tmp_path, kind):
    """Threads, and processes of the caller: the files of a build in one process. The executor can be used again."""
    options = {} if kind is ThreadPoolExecutor else {"mp_context": get_context("spawn")}
    with kind(2, **options) as executor:
        build(release, tmp_path / "out", rows_per_shard=SIZES, executor=executor)
        assert executor.submit(len, "abc").result() == 3
    assert files_of(tmp_path / "out") == files_of(dataset)


def test_an_error_in_a_worker_stops_the_build(copy, tmp_path):
    """The tasks that have not started are cancelled; a repaired release completes the build."""
    path = copy / "BIOSCAN_5M_cropped_256_train.zip"
    content = path.read_bytes()
    [first] = photo_ids(path)[:1]
    replace_member(path, image_path(first, "train", "cropped_256"), None)
    with ThreadPoolExecutor(1) as executor, pytest.raises(ReleaseError, match="no photo"):
        build(copy, tmp_path / "out", rows_per_shard={"dna": 100, "cropped_256": 10}, executor=executor)
    assert not (tmp_path / "out/README.md").exists()
    written = len(list((tmp_path / "out").glob("cropped_256/*.parquet")))
    path.write_bytes(content)
    manifest = build(copy, tmp_path / "out", rows_per_shard={"dna": 100, "cropped_256": 10})
    assert manifest.complete and written < len(manifest.shards)


def test_two_builds_into_one_folder(release, tmp_path):
    """The second one is refused while the first one writes, and does nothing."""
    refused = []

    def meanwhile(config, done, total):
        if not refused:
            with pytest.raises(RuntimeError, match="Another build is writing to .*out"):
                build(release, tmp_path / "out", ["dna"])
            refused.append(config)

    assert build(release, tmp_path / "out", ["dna"], progress=meanwhile).complete
    assert refused == ["dna"]


def test_a_manifest_deletes_only_inside_its_folder(tmp_path):
    """`force` replaces a build whose manifest names a file outside: an error, and the file stays."""
    build(write_rows(tmp_path / "m.csv", [row("A1")]), tmp_path / "out")
    (tmp_path / "thesis.txt").write_text("years of work")
    state = json.loads((tmp_path / "out/manifest.json").read_text())
    state["shards"]["../thesis.txt"] = {"rows": 1, "bytes": 13, "sha256": ""}
    (tmp_path / "out/manifest.json").write_text(json.dumps(state))
    write_rows(tmp_path / "m.csv", [row("A1"), row("A2")])
    with pytest.raises(ValueError, match="The field 'shards' of .*manifest.json' is damaged"):
        build(tmp_path / "m.csv", tmp_path / "out", force=True)
    assert (tmp_path / "thesis.txt").exists()


def test_progress_is_cumulative(release, tmp_path):
    seen = []
    build(release, tmp_path / "out", rows_per_shard=SIZES, progress=lambda *call: seen.append(call))
    for config in ("dna", "cropped_256"):
        done = [call[1] for call in seen if call[0] == config]
        assert done == sorted(done) and done[-1] == 400
    assert {call[2] for call in seen} == {400}


def test_a_build_of_the_splits_whose_photos_are_there(copy, dataset, tmp_path):
    """Without the pretrain zip: an error names it before anything is written; other splits build, ids unchanged."""
    (copy / "BIOSCAN_5M_cropped_256_pretrain.zip").unlink()
    with pytest.raises(
        FileNotFoundError, match="no cropped_256 photos of pretrain: BIOSCAN_5M_cropped_256_pretrain.zip missing"
    ):
        build(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    build(copy, tmp_path / "out", splits=["train", "val"])
    for config in ("dna", "cropped_256"):
        parts = load_dataset(str(tmp_path / "out"), config)
        assert set(parts) == {"train", "val"}
        for split, part in parts.items():
            assert part["processid"] == load_dataset(str(dataset), config, split=split)["processid"]
    assert (tmp_path / "out/labels.json").read_bytes() == (dataset / "labels.json").read_bytes()
    with pytest.raises(ValueError, match="Unknown split 'tset'"):
        build(copy, tmp_path / "out2", splits=["tset"])
    write_rows(tmp_path / "m.csv", [row()])
    with pytest.raises(ValueError, match="No rows of split 'val' in the metadata; they have train"):
        build(tmp_path / "m.csv", tmp_path / "out2", splits=["val"])


def test_boxes_are_columns_of_every_config(release, dataset):
    """The box of each specimen, as int32, beside its photo; and a note, not an error, on boxes of other specimens."""
    with open(release / BOXES_TSV, newline="") as file:
        boxes = {box["processid"]: box for box in csv.DictReader(file, delimiter="\t")}
    for config in ("dna", "cropped_256"):
        data = load_dataset(str(dataset), config, split="test").select_columns(["processid", *BOX_COLUMNS.values()])
        assert len(data) and {str(data.features[name].dtype) for name in BOX_COLUMNS.values()} == {"int32"}
        for record in data:
            box = boxes[record["processid"]]
            assert all(record[ours] == int(box[name]) for name, ours in BOX_COLUMNS.items())


def test_boxes_of_nobody_are_noted(release, tmp_path):
    write_rows(tmp_path / "m.csv", read_csv(release)[:30])
    shutil.copy(release / BOXES_TSV, tmp_path)
    manifest = build(tmp_path / "m.csv", tmp_path / "out")
    assert [problem.what for problem in manifest.problems] == [
        "370 of 400 boxes are of specimens that the metadata do not have"
    ]
    assert (tmp_path / "out/problems.csv").is_file() and manifest.complete


def test_a_reader_can_skip_columns_and_pages(dataset):
    """Statistics and page index are in every file: of a range of ids, only the pages that can hold it are read."""
    for path in dataset.glob("*/*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        column = metadata.row_group(0).column(metadata.schema.names.index("processid"))
        assert column.has_offset_index and column.has_column_index and column.statistics.has_min_max
        assert column.statistics.min <= column.statistics.max


@pytest.mark.parametrize("kind", ["jsonld", "zip"])
def test_builds_from_every_format_are_equal(release, dataset, tmp_path, kind):
    source = tmp_path / "release"
    source.mkdir()
    shutil.copy(release / BOXES_TSV, source)
    if kind == "jsonld":
        shutil.copytree(release / "bioscan5m/metadata/jsonld", source / "bioscan5m/metadata/jsonld")
    else:
        with ZipFile(source / "BIOSCAN_5M_Insect_Dataset_metadata_MultiTypes.zip", "w", 8) as archive:
            archive.write(find_metadata(release), "bioscan5m/metadata/csv/m.csv")
    build(source, tmp_path / "out", rows_per_shard={"dna": 100})
    for file in dataset.glob("dna/*.parquet"):
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "out" / file.relative_to(dataset)))


# ---- passes and copies ---------------------------------------------------------------------------------------------


def count_openings(monkeypatch):
    """Path -> how often a table was opened, and how often all of it was read."""
    opened, read = Counter(), Counter()
    original, reader = tables._open, tables.read_strings

    def open_table(path, *arguments, **options):
        opened[Path(path).name] += 1
        return original(path, *arguments, **options)

    def read_strings(path, *arguments, **options):
        yield from reader(path, *arguments, **options)
        read[Path(path).name] += 1

    monkeypatch.setattr(tables, "_open", open_table)
    monkeypatch.setattr(rows, "read_strings", read_strings)
    return opened, read


def test_a_build_reads_the_metadata_twice(release, tmp_path, monkeypatch):
    """Once to check it, once to write it; besides, only header lines are read. Photos do not add passes."""
    opened, read = count_openings(monkeypatch)
    build(release, tmp_path / "out", rows_per_shard=SIZES)
    metadata = find_metadata(release).name
    assert read[metadata] == 2 and opened[metadata] <= 7
    build(release, tmp_path / "out", rows_per_shard=SIZES)
    assert read[metadata] == 2, "a build that is whole reads nothing"


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_photos_are_copied_once_and_only_if_asked_for(release, dataset, tmp_path, monkeypatch):
    """Caches of `datasets`: none holds photos for columns without them, one holds them for all other columns."""
    photos = sum(len(row["image"]["bytes"]) for path in dataset.glob("cropped_256/train-*") for row in rows_of(path))
    for source in (dataset, release):
        cache = tmp_path / source.name
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        assert load_bioscan5m(source, "cropped_256", "train", columns=["processid"])["processid"]
        assert bytes_in(cache) < 0.5 * photos, "only text was asked for"
        load_bioscan5m(source, "cropped_256", "train")
        once = bytes_in(cache)
        assert once > photos
        for columns in (["image", "species"], ["processid", "image"]):
            data = load_bioscan5m(source, "cropped_256", "train", columns=columns)
            assert data.column_names == columns and data[0]["image"].size
        load_bioscan5m(source, "cropped_256", "train+val")
        val = sum(len(row["image"]["bytes"]) for path in dataset.glob("cropped_256/val-*") for row in rows_of(path))
        assert bytes_in(cache) - once < 0.5 * photos + 3 * val, "the photos of train were copied again"


def rows_of(path):
    return pq.read_table(path).to_pylist()


def test_a_split_without_the_photos_of_the_others(copy, dataset):
    """`download --split train`, then `load_bioscan5m(release, "cropped_256", "train")`."""
    for path in copy.glob("BIOSCAN_5M_cropped_256_*.zip"):
        if path.name != "BIOSCAN_5M_cropped_256_train.zip":
            path.unlink()
    expected = load_bioscan5m(dataset, "cropped_256", "train", ranks=["species"])
    for streaming in (False, True):
        data = load_bioscan5m(copy, "cropped_256", "train", ranks=["species"], streaming=streaming)
        assert list(data.select_columns(["processid", "species_index"])) == list(
            expected.select_columns(["processid", "species_index"])
        )
        with pytest.raises(FileNotFoundError, match="no cropped_256 photos of pretrain"):
            load_bioscan5m(copy, "cropped_256", "pretrain", streaming=streaming)


def test_workers_share_a_streamed_release(release, dataset, monkeypatch):
    """A stream with photos has several shards, and pickles without rows; the zips are indexed once for all epochs."""
    monkeypatch.setattr(release_source, "STREAM_ROWS", 20)
    indexed = []
    original = photos.index_zips
    monkeypatch.setattr(photos, "index_zips", lambda *given: (indexed.append(given), original(*given)))
    stream = load_bioscan5m(release, "cropped_256", "pretrain", streaming=True, ranks=["species"])
    assert stream.num_shards == -(-240 // 20) and len(pickle.dumps(stream)) < 100_000
    stream = stream.select_columns(["processid", "species_index"])
    expected = load_bioscan5m(dataset, "dna", "pretrain", ranks=["species"], columns=["processid"])
    for _ in range(2):
        assert list(stream) == list(expected)
    loader = DataLoader(stream, batch_size=16, num_workers=2)
    found = [processid for batch in loader for processid in batch["processid"]]
    assert sorted(found) == sorted(expected["processid"]) and len(indexed) <= 1


def test_each_name_of_a_block_is_looked_up_once(monkeypatch):
    """Label ids of a block take a look-up per different name, however many names the release has."""
    maps = LabelMaps({"genus": [f"G{i:04}" for i in range(1000)]})
    looked_up = []
    encode = maps.encode
    monkeypatch.setattr(maps, "encode", lambda rank, names: (looked_up.extend(names), encode(rank, names))[1])
    names = pa.chunked_array([["G0007", None, "G0999"] * 100, ["G0007"] * 50])
    assert label_ids(names, "genus", maps).to_pylist() == [7, -1, 999] * 100 + [7] * 50
    assert looked_up == ["G0007", "G0999", "G0007"]
    coded = pa.chunked_array([pa.array(["G0001", None]).dictionary_encode()])
    assert label_ids(coded, "genus", maps).to_pylist() == [1, -1]
    assert label_ids(pa.chunked_array([], pa.string()), "genus", maps).to_pylist() == []
    with pytest.raises(KeyError, match="'G1000' is not a genus of this release"):
        label_ids(pa.chunked_array([["G1000"]]), "genus", maps)
