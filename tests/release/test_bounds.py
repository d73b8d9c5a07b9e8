"""About 100 hostile files: every reader refuses them, or reads them in bounded memory.

The files are made here, small, and unpack to hundreds of megabytes, lie about their sizes, or are nested. One process
reads them all; its peak of memory is measured.
"""

import gzip
import io
import json
import pickle
import struct
import subprocess
import sys
import zlib
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
from PIL import Image

from bioscan_hf.release.catalogue import METADATA_CSV
from bioscan_hf.schema import COLUMNS

MB = 10**6
MOST_MEMORY = 300  # MB above that of the imports

#: Reads every file of a folder, and prints one line of JSON for each: reader, file, error, megabytes and seconds.
CHILD = """
import io, json, resource, sys, time
from itertools import islice
from pathlib import Path
import torch
from bioscan_hf import load_bioscan1m, load_clibd_hdf5
from bioscan_hf.checkpoints.safe_load import load_checkpoint
from bioscan_hf.dataset.sequences import read_sequences
from bioscan_hf.files import read_json
from bioscan_hf.models.photos import check_jpeg, decode_photo
from bioscan_hf.release.boxes import read_boxes
from bioscan_hf.release.photos import Photos
from bioscan_hf.release.tables import csv_columns, read_strings

place = Path(sys.argv[1])

def read_zip(folder):
    photos = Photos(folder, "cropped_256")
    try:
        photos.open()
        photos.read("P0", "val")
    finally:
        photos.close()

def read_table(path):
    for _ in read_strings(path, ()):
        pass

READERS = {
    "pillow": lambda path: decode_photo(path.read_bytes(), decoder="pillow"),
    "simplejpeg": lambda path: decode_photo(path.read_bytes(), decoder="simplejpeg"),
    "check": lambda path: check_jpeg(path.read_bytes()),
    "zip": read_zip,
    "columns": csv_columns,
    "table": read_table,
    "boxes": read_boxes,
    "sequences": read_sequences,
    "bioscan1m": lambda path: next(iter(load_bioscan1m(path, "cropped_256", "train", streaming=True))),
    "hdf5": lambda path: next(iter(load_clibd_hdf5(path, "train", streaming=True))),
    "checkpoint": load_checkpoint,
    "json": read_json,
}
FOR = {"photos": ("pillow", "simplejpeg", "check"), "tables": ("columns", "table", "boxes", "sequences")}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
for folder in sorted(place.iterdir()):
    for path in sorted(folder.iterdir()):
        for reader in FOR.get(folder.name, (folder.name,)):
            start, error = time.perf_counter(), None
            try:
                READERS[reader](path)
            except Exception as found:
                error = f"{type(found).__name__}: {found}"[:300]
            seconds = time.perf_counter() - start
            print(json.dumps([reader, path.name, error, peak() - before, round(seconds, 1)]), flush=True)
"""


# ---- photos --------------------------------------------------------------------------------------------------------


def encoded(kind, size=(300, 260), **options):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, kind, **options)
    return file.getvalue()


def of_size(data, width, height):
    """A JPEG whose header tells another size."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def png(width, height, depth=8, colours=2, chunks=b"", rows=b""):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + chunks) if chunks else b""
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def photos():
    jpeg = encoded("JPEG", quality=90)
    progressive = encoded("JPEG", quality=90, progressive=True)
    scan = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    for width, height in ((65535, 65535), (65535, 1100), (8200, 8200), (1, 65535), (0, 0), (0, 100)):
        yield f"jpeg_{width}x{height}.jpg", of_size(jpeg, width, height)
        yield f"progressive_{width}x{height}.jpg", of_size(progressive, width, height)
    yield "segments.jpg", jpeg[:2] + b"\xff\xfe\x00\x02" * 10**6 + jpeg[2:]
    yield "comments.jpg", jpeg[:2] + (b"\xff\xfe\xff\xff" + bytes(65533)) * 100 + b"\xff\xd9"
    yield "scans.jpg", jpeg[:-2] + scan * 200 + b"\xff\xd9"
    yield "half.jpg", jpeg[: len(jpeg) // 2]
    yield "half_with_end.jpg", jpeg[: len(jpeg) // 2] + b"\xff\xd9"
    yield "no_scan.jpg", jpeg[: jpeg.rfind(b"\xff\xda")] + b"\xff\xd9"
    yield "exif.jpg", jpeg[:2] + b"\xff\xe1\x00\x20Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(16) + jpeg[2:]
    yield "marks.jpg", b"\xff\xd8" + b"\xff" * MB
    yield "png_giant.png", png(2**31 - 1, 2**31 - 1)
    yield "png_wide.png", png(20_000, 20_000, rows=bytes(10_000))
    yield "png_deep.png", png(10_000, 10_000, depth=16, rows=bytes(10_000))
    yield "png_text.png", png(10, 10, chunks=zlib.compress(bytes(300 * MB), 1), rows=bytes(310))
    yield "png_no_rows.png", png(100, 100)
    yield (
        "gif.gif",
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3) + b"," + bytes(4) + b"\xff\xff\xff\xff\0\2\1\0\0;",
    )
    yield "bmp.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    ppm = b"P6 60000 60000 255\n"
    yield "ppm.ppm", ppm
    tags = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 60_000), (279, 4, 1, 10)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    yield "tiff.tif", b"II*\0\x08\0\0\0" + directory
    yield "tiff_loop.tif", b"II*\0\x08\0\0\0" + directory[:-4] + struct.pack("<I", 8)
    yield "eps.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\n"
    yield "empty.jpg", b""


# ---- zips ----------------------------------------------------------------------------------------------------------

PHOTO = "bioscan5m/images/cropped_256/val/P0.jpg"


def zipped(members, method=ZIP_STORED):
    file = io.BytesIO()
    with ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def patched(data, at, kind, value):
    """The zip with a field of its first central entry replaced."""
    place = data.index(b"PK\1\2") + at
    return data[:place] + struct.pack(kind, value) + data[place + struct.calcsize(kind) :]


def zips():
    jpeg = encoded("JPEG")
    plain, packed = zipped([(PHOTO, jpeg)]), zipped([(PHOTO, jpeg)], ZIP_DEFLATED)
    yield "photo_of_zeros", zipped([(PHOTO, bytes(300 * MB))], ZIP_DEFLATED)
    yield "long_name", zipped([*((f"{i}.jpg", b"") for i in range(10_000)), ("x" * 65_000, b"")])
    yield "nested", zipped([("inner.zip", zipped([("x", bytes(300 * MB))]))], ZIP_DEFLATED)
    yield "nested_many", zipped([(f"{i}.zip", zipped([("x", bytes(2 * MB))])) for i in range(100)], ZIP_DEFLATED)
    deep = plain
    for _ in range(6):
        deep = zipped([("inner.zip", deep)])
    yield "deep", deep
    yield "thousand_zips", zipped([(f"{i}.zip", zipped([])) for i in range(1_100)])
    inner = zipped([(f"{i:05}.jpg", b"") for i in range(5_000)])
    outer = zipped([("a.zip", inner)])
    entry = outer[outer.index(b"PK\1\2", len(inner) + 35) : outer.rindex(b"PK\5\6")]
    end = bytearray(outer[outer.rindex(b"PK\5\6") :])
    end[8:12] = struct.pack("<HH", 500, 500)
    end[12:16] = struct.pack("<I", 500 * len(entry))
    yield "overlapping", outer[: outer.rindex(b"PK\5\6") - len(entry)] + entry * 500 + bytes(end)
    yield "offset_outside", patched(plain, 42, "<I", 2**31)
    yield "offset_negative", plain[:-6] + struct.pack("<I", len(plain) * 2) + plain[-2:]
    yield "size_outside", patched(plain, 20, "<I", 2**31)
    yield "zip64_without_sizes", patched(plain, 20, "<I", 2**32 - 1)
    yield "name_outside", patched(plain, 28, "<H", 65_535)
    yield "encrypted", patched(plain, 8, "<H", 1)
    yield "method", patched(plain, 10, "<H", 99)
    yield "crc", patched(plain, 16, "<I", 7)
    yield "not_deflated", patched(plain, 10, "<H", 8)
    yield "cut", plain[:-30]
    yield "cut_start", plain[60:]
    yield "directory_of_zeros", plain[:-22] + bytes(10 * MB) + plain[-22:]
    yield "another_local_name", plain.replace(PHOTO.encode(), b"x" * len(PHOTO), 1)
    yield "disks", plain[:-18] + struct.pack("<H", 3) + plain[-16:]
    yield "empty", b""
    yield "windows", zipped([(PHOTO.replace("/", "\\"), jpeg), ("..\\..\\evil.jpg", jpeg), ("C:\\evil.jpg", jpeg)])
    yield "half_photo", zipped([(PHOTO, jpeg[: len(jpeg) // 2] + b"\xff\xd9")])
    yield "packed_half", packed[: len(packed) // 2] + packed[packed.index(b"PK\1\2") :]


# ---- tables and sequences ------------------------------------------------------------------------------------------


def repeated(block, times=300, begin=b""):
    """A small .gz: some bytes, then one block many times."""
    part = gzip.compress(block, 9)
    return gzip.compress(begin) + part * times


def tables():
    a, row = b"a" * MB, b"P1-20,ACGT\n"
    yield "line.csv.gz", repeated(a)
    yield "line.tsv.gz", repeated(a)
    yield "second_line.csv.gz", repeated(a, begin=b"processid,dna_barcode\n")
    yield "cell.tsv.gz", repeated(a, begin=b"processid\tdna_barcode\nP1-20\t")
    yield "quote.csv.gz", repeated((b"a" * 999 + b"\n") * 1000, begin=b'processid,dna_barcode\nP1-20,"')
    yield "quotes.csv.gz", repeated(b'"' * MB, begin=b"processid,dna_barcode\nP1-20,")
    yield "zeros.csv.gz", repeated(bytes(MB))
    yield "delimiters.csv.gz", repeated(b"," * MB)
    yield "blank_lines.csv.gz", repeated(b"\n" * MB, times=100)
    yield "bad_lines.csv.gz", repeated(b"x,y,z\n" * 1000, times=100, begin=b"processid,dna_barcode\n" + row)
    yield "columns.csv", b",".join(b"%d" % i for i in range(100_000)) + b"\n1\n"
    yield "nested.json", b"[" * 10 * MB
    yield "nested_object.jsonl", b'{"a":' * MB
    yield "text.json.gz", repeated(a, begin=b'[{"processid": "')
    yield "number.json.gz", repeated(b"1" * MB, begin=b'[{"processid": ')
    yield "keys.json", json.dumps([{str(i): "" for i in range(200_000)}]).encode()
    yield "spaces.json.gz", repeated(b" " * MB)
    yield "cut.csv.gz", repeated(row * 1000, begin=b"processid,dna_barcode\n")[:-20]
    yield "not_gzip.csv.gz", b"\x1f\x8b\x08" + bytes(100)
    yield "bytes.csv", bytes(range(256)) * 1000
    yield "utf16.csv", "processid,dna_barcode\n".encode("utf-16") * 1000
    yield "fasta_line.fasta.gz", repeated(b"A" * MB, begin=b">P1-20\n")
    yield "fasta_name.fasta.gz", repeated(a, begin=b">")
    yield "fasta_names.fasta", b">" * 5 * MB
    yield "fastq_line.fastq.gz", repeated(b"A" * MB, begin=b"@P1-20\n")
    yield "fastq_quality.fastq.gz", repeated(b"!" * MB, begin=b"@P1-20\nACGT\n+\n")
    packed = zipped([("metadata.csv", b"a" * 300 * MB)], ZIP_DEFLATED)
    yield "line.zip", packed


# ---- other readers -------------------------------------------------------------------------------------------------


def bioscan1m(folder, name="x.jpg", chunk="1", member=bytes(1000)):
    """A release of BIOSCAN-1M with one row and one photo."""
    names = "processid sampleid uri name phylum class order family subfamily tribe genus species nucraw image_file "
    names += "chunk_number large_diptera_family"
    row = {**dict.fromkeys(names.split(), "not_classified"), "processid": "P1", "sampleid": "S1", "nucraw": "ACGT"}
    row |= {"image_file": name, "chunk_number": chunk, "large_diptera_family": "train"}
    folder.mkdir(parents=True)
    lines = "\t".join(row) + "\n" + "\t".join(row.values()) + "\n"
    (folder / "BIOSCAN_Insect_Dataset_metadata.tsv").write_text(lines)
    content = zipped([(f"bioscan/images/cropped_256/part{chunk}/{name}", member)], ZIP_DEFLATED)
    (folder / "cropped_256.zip").write_bytes(content)


def others(place):
    """Releases of BIOSCAN-1M, HDF5, checkpoints and JSON."""
    import h5py

    bioscan1m(place / "bioscan1m/zeros", member=bytes(300 * MB))
    for name in ("../../../private/photo.jpg", "..\\x.jpg", "/etc/hostname", ".x.jpg"):
        bioscan1m(place / f"bioscan1m/{len(list((place / 'bioscan1m').iterdir()))}", name)
    bioscan1m(place / "bioscan1m/chunk", chunk="1/../../..")
    (place / "hdf5").mkdir()
    for name, shape, chunks in (("wide", (1, 300 * MB), (1, MB)), ("block", (300, MB), (300, MB))):
        with h5py.File(place / f"hdf5/{name}.hdf5", "w") as file:
            group = file.create_group("train")
            group["barcode"] = [b"ACGT"] * shape[0]
            group["image_mask"] = [shape[1]] * shape[0]
            group.create_dataset("image", shape, "u1", chunks=chunks, compression="gzip")
    (place / "checkpoint").mkdir()
    big = pickle.dumps({"state_dict": 0}, 2)
    for name, content in {
        "zeros": zipped([("a/data.pkl", big), ("a/data/0", bytes(300 * MB))], ZIP_DEFLATED),
        "pickle": zipped([("a/data.pkl", bytes(300 * MB))], ZIP_DEFLATED),
        "nested": zipped([("a/data.pkl", b"\x80\x02" + b"(" * 10 * MB)]),
        "memory": zipped([("a/data.pkl", b"\x80\x02X" + struct.pack("<I", 2**31) + b"x.")]),
        "not_a_zip": b"\x80\x02" + bytes(100),
    }.items():
        (place / f"checkpoint/{name}.pt").write_bytes(content)
    (place / "json").mkdir()
    for name, content in {
        "nested": b"[" * 10 * MB,
        "nested_object": b'{"a":' * MB,
        "large": b" " * 65 * 2**20,
        "not_an_object": b"[]",
    }.items():
        (place / f"json/{name}.json").write_bytes(content)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What the readers said to each file: (reader, file) -> error, peak of memory so far in MB, seconds."""
    base = tmp_path_factory.mktemp("hostile")
    place = base / "files"
    for folder, files in (("photos", photos()), ("tables", tables())):
        (place / folder).mkdir(parents=True)
        for name, content in files:
            (place / folder / name).write_bytes(content)
    for name, content in zips():
        (place / f"zip/{name}").mkdir(parents=True)
        (place / f"zip/{name}/BIOSCAN_5M_cropped_256.zip").write_bytes(content)
        metadata = place / f"zip/{name}/{METADATA_CSV}"
        metadata.write_text(",".join(COLUMNS) + "\n")
    others(place)
    outside = {path for path in base.rglob("*") if place not in path.parents}
    done = subprocess.run([sys.executable, "-c", CHILD, str(place)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {path for path in base.rglob("*") if place not in path.parents} == outside, "nothing is written outside"
    return {(reader, name): rest for reader, name, *rest in lines}


#: Files that are read, or may be: their content is odd and harmless.
FINE = {
    *(("columns", f"{name}.csv.gz") for name in ("second_line", "quote", "quotes", "bad_lines", "cut")),
    *(
        ("columns", f"{name}.gz")
        for name in ("cell.tsv", "fasta_line.fasta", "fastq_line.fastq", "fastq_quality.fastq")
    ),
    *(("columns", name) for name in ("nested.json", "spaces.json.gz")),
    ("table", "spaces.json.gz"),
    *((reader, "exif.jpg") for reader in ("pillow", "simplejpeg", "check")),
}


@pytest.mark.slow
def test_every_hostile_file_is_refused(read):
    """By one line, and not by an error that a reader does not mean to raise."""
    assert len({name for _, name in read}) >= 100
    taken = [key for key, (error, *_) in read.items() if error is None and key not in FINE]
    assert not taken
    kinds = ("ValueError", "ReleaseError", "FileNotFoundError", "OSError")
    odd = {key: error for key, (error, *_) in read.items() if error and not error.startswith(kinds)}
    assert not odd


@pytest.mark.slow
def test_no_hostile_file_takes_much_memory(read):
    """At most 300 MB more than the imports, for all files together, and no file takes a minute."""
    peaks = {key: peak for key, (_, peak, _) in read.items()}
    worst = max(peaks, key=peaks.get)
    assert peaks[worst] < MOST_MEMORY, next(key for key, peak in peaks.items() if peak >= MOST_MEMORY)
    slow = {key: seconds for key, (*_, seconds) in read.items() if seconds > 60}
    assert not slow
