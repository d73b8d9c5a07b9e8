"""Reading a release: formats of the metadata, boxes, published zips, their parts, and zips in zips."""

import csv
import gzip
import io
import json
import shutil
import struct
import zlib
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
from PIL import Image as PILImage

from bioscan_hf.release import check as reader
from bioscan_hf.release import jsonld, tables, zips
from bioscan_hf.release.catalogue import BOXES_TSV, METADATA_NAME, METADATA_ZIP
from bioscan_hf.release.columns import BOX_COLUMNS, features
from bioscan_hf.release.layout import find_metadata, missing_zips, packages, photo_root
from bioscan_hf.release.photos import Photos
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.release.tables import csv_columns, read_strings
from bioscan_hf.schema import COLUMNS, LABEL_COLUMNS, SPLITS, image_path


def rows_of(path):
    checked = reader.scan(path, unassigned=True)
    return [row for _, table in reader.read_typed(path, checked) for row in table.to_pylist()]


def write_rows(path, rows, columns=COLUMNS, delimiter=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(processid="A1", split="train", barcode="ACGTACGT", **more):
    return {"processid": processid, "split": split, "dna_barcode": barcode, **more}


def jpeg(value=0):
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


# Metadata


@pytest.fixture(scope="module")
def formats(release, tmp_path_factory):
    """The simulated metadata in every format, without a table of boxes."""
    folder = tmp_path_factory.mktemp("formats")
    source = find_metadata(release)
    text = source.read_text(encoding="utf-8")
    records = [{"@type": "PreservedSpecimen"} | record for record in csv.DictReader(io.StringIO(text))]
    jsonld = release / "bioscan5m/metadata/jsonld" / f"{METADATA_NAME}.jsonld"
    (folder / "m.csv").write_text(text, encoding="utf-8")
    (folder / "m.csv.gz").write_bytes(gzip.compress(text.encode()))
    write_rows(folder / "m.tsv", records, delimiter="\t")
    shutil.copy(jsonld, folder / "m.jsonld")
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (folder / "m.jsonl.gz").write_bytes(gzip.compress((folder / "m.jsonl").read_bytes()))
    (folder / "indented.json").write_text(json.dumps(records, indent=2), encoding="utf-8")
    with ZipFile(folder / METADATA_ZIP, "w", ZIP_DEFLATED) as archive:
        archive.write(jsonld, f"bioscan5m/metadata/jsonld/{METADATA_NAME}.jsonld")
        archive.write(source, f"bioscan5m/metadata/csv/{METADATA_NAME}.csv")
    with ZipFile(folder / "jsonld.zip", "w", ZIP_DEFLATED) as archive:
        archive.write(jsonld, f"bioscan5m/metadata/jsonld/{METADATA_NAME}.jsonld")
    return folder


NAMES = ["m.csv.gz", "m.tsv", "m.jsonld", "m.jsonl", "m.jsonl.gz", "indented.json", METADATA_ZIP, "jsonld.zip"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows(formats, name):
    expected = rows_of(formats / "m.csv")
    assert len(expected) == 400 and list(expected[0]) == list(COLUMNS)
    assert rows_of(formats / name) == expected
    checked, plain = reader.scan(formats / name), reader.scan(formats / "m.csv")
    assert checked.counts == plain.counts and checked.labels == plain.labels


def test_the_block_size_does_not_matter(formats, monkeypatch):
    """Records and lines that cross the end of a block are read whole."""
    expected = rows_of(formats / "m.csv")
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 5000)
    monkeypatch.setattr(jsonld, "_BLOCK_BYTES", 5000)
    monkeypatch.setattr(jsonld, "_RECORDS", 7)
    for name in ("m.csv", "m.tsv", "m.jsonld", "indented.json", METADATA_ZIP):
        assert rows_of(formats / name) == expected


def test_a_folder_is_searched_in_order(formats, tmp_path):
    """CSV before TSV, JSON-LD and the zip; the photo folder is found from the metadata."""
    with pytest.raises(FileNotFoundError, match="MultiTypes.zip.*Give the folder that holds bioscan5m/"):
        find_metadata(tmp_path)
    shutil.copy(formats / METADATA_ZIP, tmp_path)
    assert find_metadata(tmp_path).name == METADATA_ZIP
    for kind, name in (("jsonld", "m.jsonld"), ("tsv", "m.tsv"), ("csv", "m.csv")):
        for folder in (f"metadata/{kind}", f"bioscan5m/metadata/{kind}"):
            path = tmp_path / folder / f"{METADATA_NAME}.{kind}"
            path.parent.mkdir(parents=True)
            shutil.copy(formats / name, path)
            assert find_metadata(tmp_path) == path
            assert photo_root(path) == tmp_path == photo_root(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a metadata file: give a .csv, .tsv, .txt, .json"):
        find_metadata(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": 2}', "its array is not closed"),
        ('[{"a": 1},\n{"a": "cu', 'is cut off or damaged at \'{"a": "cu\''),
        ('{"a": 1}\n{"a": 2, "b": 3}', "row 2: the first object has no key 'b'"),
        ('{"a": 1}\n{"a": [2]}', "row 2: a is .'2'., not a text or a number"),
        ("[1, 2]", "holds '1' where an object was expected"),
    ],
)
def test_broken_jsonld_raises(tmp_path, text, message):
    path = tmp_path / "m.jsonld"
    path.write_text(text)
    with pytest.raises(ReleaseError, match=message):
        list(read_strings(path, required=("a",)))


def test_damaged_metadata_zip_raises(formats, tmp_path):
    data = bytearray((formats / METADATA_ZIP).read_bytes())
    data[-10_000] ^= 255  # in the CSV, which is the last member
    (tmp_path / "m.zip").write_bytes(data)
    with pytest.raises(ReleaseError, match="m.zip cannot be read to its end"):
        list(read_strings(tmp_path / "m.zip"))
    with ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(ReleaseError, match="empty.zip has no metadata"):
        csv_columns(tmp_path / "empty.zip")


def test_numbers_that_do_not_fit_are_emptied(tmp_path):
    """inferred_ranks is a uint8: 300, -1 and 1.5 are each reported, 4.0 becomes 4."""
    values = ["300", "4.0", "-1", "1.5", "", "255"]
    path = write_rows(tmp_path / "m.csv", [row(f"A{i}", inferred_ranks=v) for i, v in enumerate(values)])
    problems = []
    checked = reader.scan(path)
    [(_, table)] = reader.read_typed(path, checked, problems.append)
    assert table["inferred_ranks"].to_pylist() == [None, 4, None, None, None, 255]
    assert [problem.row for problem in problems] == [1, 3, 4]
    assert "inferred_ranks is '300', not a number of the type uint8" in problems[0].what


def test_ids_are_compared_as_bytes_of_any_length(tmp_path):
    """Unsorted ids of different lengths: a repeat is found, and a longer id is not equal to its prefix."""
    ids = ["B", "A1", "A", "A12", "A1", "B-very-long-id-of-a-specimen"]
    path = write_rows(tmp_path / "m.csv", [row(i) for i in ids])
    problems = []
    reader.scan(path, problems.append)
    assert [(p.row, p.what) for p in problems] == [(5, "repeats the processid of row 2")]


# Boxes


def write_boxes(path, boxes):
    columns = ["processid", "width_original", "height_original", "x0", "y0", "x1", "y1", "scale_factor"]
    with open(path, "w", newline="") as file:
        lines = csv.writer(file, delimiter="\t")
        lines.writerow(columns)
        lines.writerows([i, 1024, 768, *box, 0.5] for i, box in boxes)


def test_boxes_are_joined_by_processid(tmp_path):
    """In any order; null where there is none. A box without a specimen gives a note, not an error."""
    path = write_rows(tmp_path / "m.csv", [row("A1"), row("A2"), row("A3-longer")])
    write_boxes(tmp_path / BOXES_TSV, [("Z", (1, 2, 3, 4)), ("A3-longer", (5, 6, 7, 8)), ("A1", (9, 8, 70, ""))])
    checked = reader.scan(path)
    assert checked.extra_columns == list(BOX_COLUMNS.values())
    [(_, table)] = reader.read_typed(path, checked)
    found = [tuple(record[name] for name in BOX_COLUMNS.values()) for record in table.to_pylist()]
    assert found == [(9, 8, 70, None, 1024, 768), (None,) * 6, (5, 6, 7, 8, 1024, 768)]
    assert str(features("dna", checked.extra_columns)["bbox_x0"]) == "Value('int32')"
    [note] = checked.notes
    assert note.processid == "Z"
    assert note.what == "1 of 3 boxes are of specimens that the metadata do not have"


def test_repeated_and_damaged_boxes(tmp_path):
    path = write_rows(tmp_path / "m.csv", [row("A1"), row("A2")])
    write_boxes(tmp_path / BOXES_TSV, [("A2", (1, 1, 2, 2)), ("A1", ("x", 1, 2, 2)), ("A2", (7, 7, 8, 8))])
    with pytest.raises(ReleaseError, match=r"bbox.tsv, row 2 .A1.: x0 is 'x', not a number"):
        reader.scan(path)
    problems = []
    checked = reader.scan(path, problems.append)
    assert [(p.row, p.processid) for p in problems] == [(2, "A1"), (3, "A2")]
    [(_, table)] = reader.read_typed(path, checked)
    assert table["bbox_x0"].to_pylist() == [None, 1]


def test_box_columns_of_the_metadata_are_kept(tmp_path):
    path = write_rows(tmp_path / "m.csv", [row("A1", bbox_x0="7")], [*COLUMNS, "bbox_x0"])
    write_boxes(tmp_path / BOXES_TSV, [("A1", (1, 1, 2, 2))])
    [record] = rows_of(path)
    assert record["bbox_x0"] == 7 and "bbox_y0" not in record


@pytest.mark.realdata
def test_boxes_of_real_rows(real_data, tmp_path):
    """25 rows of BIOSCAN-5M: area_fraction and scale_factor follow from the joined box, to 4 decimals."""
    shutil.copy(real_data / "bioscan5m_browser_bbox.tsv", tmp_path / BOXES_TSV)
    path = shutil.copy(real_data / "bioscan5m_browser_rows.csv", tmp_path / "m.csv")
    rows = rows_of(path)
    assert len(rows) == 25
    for record in rows:
        width, height = record["bbox_x1"] - record["bbox_x0"], record["bbox_y1"] - record["bbox_y0"]
        area = record["width_original"] * record["height_original"]
        assert record["area_fraction"] == round(width * height / area, 4)
        assert record["scale_factor"] == round(min(width, height) / 256, 4)


# Zips


def make_zip(path, members, compression=ZIP_STORED):
    with ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


PHOTOS = {("A1", "pretrain"): jpeg(10), ("A2", "train"): jpeg(20), ("A3", "val"): jpeg(30), ("A4", "test"): jpeg(40)}


def members(package, *splits):
    return {image_path(i, s, package): data for (i, s), data in PHOTOS.items() if not splits or s in splits}


def read_all(root, package):
    photos = Photos(root, package)
    photos.check({split for _, split in PHOTOS})
    found = {(i, split): photos.read(i, split) for i, split in PHOTOS}
    photos.close()
    return found


@pytest.mark.parametrize(
    ("package", "zips"),
    [
        ("cropped_256", {"": ()}),
        ("cropped_256", {"_pretrain": ("pretrain",), "_train": ("train",), "_eval": ("val", "test")}),
        ("original_256", {"_pretrain.01": (), "_pretrain.02": (), "_train": (), "_eval": ()}),
        ("cropped", {".01": ("pretrain",), ".02": ("train", "val", "test")}),
        ("original_full", {".01": ("pretrain",), ".02": ("val",), ".03": ("test",), ".04": (), ".05": ("train",)}),
    ],
)
@pytest.mark.parametrize("compression", [ZIP_STORED, ZIP_DEFLATED])
def test_published_names_of_zips(tmp_path, package, zips, compression):
    for suffix, splits in zips.items():
        make_zip(tmp_path / f"BIOSCAN_5M_{package}{suffix}.zip", members(package, *splits), compression)
    assert packages(tmp_path) == [package]
    assert read_all(tmp_path, package) == PHOTOS


@pytest.mark.parametrize("outer", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize("inner", [ZIP_STORED, ZIP_DEFLATED])
def test_zips_in_a_zip(tmp_path, outer, inner):
    """Two levels of zips and a photo beside them, each stored or compressed."""
    val = make_zip(tmp_path / "v.zip", members("cropped", "val"), inner).read_bytes()
    test = make_zip(tmp_path / "t.zip", members("cropped", "test") | {"deep/v.zip": val}, inner).read_bytes()
    rest = members("cropped", "pretrain", "train")
    make_zip(tmp_path / "BIOSCAN_5M_cropped.zip", {"parts/t.zip": test, **rest}, outer)
    assert read_all(tmp_path, "cropped") == PHOTOS


def test_flipped_byte_in_a_nested_zip_is_named(tmp_path):
    inner = bytearray(make_zip(tmp_path / "i.zip", members("cropped")).read_bytes())
    inner[inner.index(PHOTOS["A3", "val"]) + 300] ^= 1
    make_zip(tmp_path / "BIOSCAN_5M_cropped.zip", {"i.zip": bytes(inner)})
    with pytest.raises(ReleaseError, match=r"BIOSCAN_5M_cropped.zip:i.zip:.*A3.jpg cannot be read .Bad CRC-32"):
        read_all(tmp_path, "cropped")


def write_zip64(path, names, data, before=b""):
    """A zip with all sizes and offsets in zip64 records, as from 4 GB or 65,536 members on."""
    body, directory = bytearray(before), b""
    for name in names:
        extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), len(body) - len(before))
        sizes = (zlib.crc32(data), 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 33, *sizes, 0, 0, 0, 0, 0xFFFFFFFF)
        directory += name + extra
        local = struct.pack("<HHQQ", 1, 16, len(data), len(data))
        body += struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 33, *sizes[:3], len(name), len(local)) + name + local
        body += data
    at = len(body) - len(before)
    n = len(names)
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, n, n, len(directory), at)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, at + len(directory), 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(bytes(body) + directory + end)


@pytest.mark.parametrize("before", [b"", b"#!/bin/sh of a self-extracting archive\n"])
def test_zip64(tmp_path, before):
    names = [image_path(f"A{i}", "val", "cropped").encode() for i in range(50)]
    path = tmp_path / "BIOSCAN_5M_cropped.zip"
    write_zip64(path, names, jpeg(), before)
    with ZipFile(path) as archive:
        assert len(archive.namelist()) == 50 and archive.testzip() is None, "the test zip is invalid"
    photos = Photos(tmp_path, "cropped")
    assert all(photos.read(f"A{i}", "val") == jpeg() for i in (0, 17, 49))
    with pytest.raises(ReleaseError, match="no photo .*A50.jpg in BIOSCAN_5M_cropped.zip"):
        photos.read("A50", "val")
    photos.close()


def test_index_is_that_of_zipfile(tmp_path, monkeypatch):
    """Many unsorted members over several blocks of the directory: the same as `zipfile` reads."""
    monkeypatch.setattr(zips, "_CHUNK", 1 << 17)
    names = [f"bioscan5m/images/cropped/val/{i * 7919 % 5000:05d}{'x' * (i % 9)}.jpg" for i in range(5000)]
    path = make_zip(tmp_path / "z.zip", {name: name.encode() for name in names})
    (tmp_path / "index").mkdir()
    zips.index_zips([path], tmp_path / "index")
    [part] = zips.read_index(tmp_path / "index")
    assert [name.decode() for name in part.names] == sorted(names)
    assert isinstance(part.names.base, np.memmap), "the index is not memory-mapped, so each process would hold a copy"
    with ZipFile(path) as archive, open(path, "rb") as file:
        for i in range(0, 5000, 97):
            info, entry = archive.getinfo(part.names[i].decode()), part.entries[i]
            assert (info.header_offset, info.compress_size, info.CRC) == tuple(int(x) for x in entry.item()[:3])
            assert zips.read_member(file, entry, part.names[i]) == part.names[i]


@pytest.mark.parametrize("place", [-30, -100, -3000])
def test_damaged_directory_raises(tmp_path, place):
    names = {f"bioscan5m/images/cropped/val/A{i}.jpg": b"x" for i in range(100)}
    path = make_zip(tmp_path / "BIOSCAN_5M_cropped.zip", names)
    path.write_bytes(path.read_bytes()[:place])
    with pytest.raises(ReleaseError, match="BIOSCAN_5M_cropped.zip is not a readable zip .*download it again"):
        Photos(tmp_path, "cropped").open()


@pytest.mark.parametrize(
    ("package", "present", "missing"),
    [
        ("cropped_256", ["_train", "_eval"], {"pretrain": ["BIOSCAN_5M_cropped_256_pretrain.zip"]}),
        ("cropped_256", ["_train", "_eval", "_pretrain.01"], {"pretrain": ["BIOSCAN_5M_cropped_256_pretrain.02.zip"]}),
        ("cropped", [".02"], dict.fromkeys(SPLITS, ["BIOSCAN_5M_cropped.01.zip"])),
        ("cropped", [""], {}),
        ("original_full", [".01", ".02", ".03", ".04", ".05"], {}),
        ("original_256", ["_pretrain"], {"train": ["BIOSCAN_5M_original_256_train.zip"]}),
    ],
)
def test_missing_zips_are_named(tmp_path, package, present, missing):
    for suffix in present:
        make_zip(tmp_path / f"BIOSCAN_5M_{package}{suffix}.zip", {})
    splits = ("pretrain", "train") if package == "original_256" else SPLITS
    assert missing_zips(tmp_path, package, splits) == missing
    photos = Photos(tmp_path, package)
    if missing:
        first = next(iter(missing.values()))[0]
        with pytest.raises(FileNotFoundError, match=f"{first} missing. Download them, or ask for splits"):
            photos.check(splits)


def test_labels_do_not_depend_on_the_number_of_blocks(formats, monkeypatch):
    """One block and hundreds of blocks give the same maps."""
    expected = reader.scan(formats / "m.csv").labels
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 2000)
    labels = reader.scan(formats / "m.csv").labels
    assert labels == expected and labels.columns == LABEL_COLUMNS
