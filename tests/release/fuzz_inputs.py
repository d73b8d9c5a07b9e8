"""Small valid inputs of every reader, and what reads them, for `fuzz_readers`."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bioscan_hf.release.catalogue import BOXES_TSV, METADATA_CSV
from bioscan_hf.schema import BOX_TABLE_COLUMNS, COLUMNS, RANKS, image_path


class Reader(NamedTuple):
    """A reader under test.

    Attributes:
        make: Writes a valid input into a folder; returns the files to change.
        read: Reads the input folder, and writes into the output folder only.
        weight: Share of the files.
        wrap: Name of a file -> how to change it (content, mutated, draw), where that is not byte by byte.
    """

    make: Callable
    read: Callable
    weight: float = 1.0
    wrap: dict = {}


BARCODES = ["ACGTTGCAACGTACGTAAGGTTCCA" * 2, "TTGACCATGACATTGACCATTTAGC" * 2, "acguTGCAAC-GTACGTRYSWKMNN" * 2]


def rows(n=12):
    """Specimens with quotes, line breaks, missing values and letters outside of ASCII."""
    for i in range(n):
        row = dict.fromkeys(COLUMNS, "")
        row |= {"processid": f"P{i}-20", "sampleid": f"S{i}", "dna_barcode": BARCODES[i % 3] + "ACGT" * i}
        row |= {"split": ["train", "val", "pretrain"][i % 3], "phylum": "Arthropoda", "class": "Insecta"}
        row |= {"order": "Diptera", "family": "NA" if i % 4 else "Culicidae", "country": "Côte d'Ivoire"}
        row |= {"genus": "Aedes", "species": "" if i % 3 == 2 else f"Aedes  albo{i % 4}", "coord-lat": "10.5"}
        row |= {"coord-lon": "-84" if i % 5 else "nan", "taxon": "Aedes", "inferred_ranks": "3", "dna_bin": "BOLD:A1"}
        row["collectors" if "collectors" in row else "country"] = 'a "b", c' if i % 2 else "Côte d'Ivoire"
        yield row


def table(delimiter=",", encoding="utf-8", names=COLUMNS):
    text = io.StringIO()
    if delimiter == "\t":
        lines = [names, *([row[name] for name in names] for row in rows())]
        return "".join("\t".join(line) + "\n" for line in lines).encode(encoding)
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n" if delimiter == ";" else "\n")
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in rows())
    return text.getvalue().encode(encoding)


def jsonld():
    records = [{"@type": "Thing", **{name: value or None for name, value in row.items()}} for row in rows()]
    return json.dumps([{**record, "coord-lat": 10.5} for record in records], ensure_ascii=False).encode()


def boxes():
    lines = [BOX_TABLE_COLUMNS, *([f"P{i}-20", 60, 40, 5, 4, 50, 30, 0.1, 0.5] for i in range(12))]
    return "".join("\t".join(map(str, line[: len(BOX_TABLE_COLUMNS)])) + "\n" for line in lines).encode()


def picture(kind="JPEG", mode="RGB", size=(60, 40), **options):
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        image = Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) << 8) + 7)
    elif mode != "RGB":
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif():
    about = Image.Exif()
    about[0x0112] = 6
    return about


PICTURES = {
    "jpeg": [
        *({}, {"progressive": True}, {"exif": exif()}, {"restart_marker_blocks": 3}, {"mode": "L"}, {"mode": "CMYK"}),
        {"subsampling": 0, "quality": 30},
    ],
    "png": [{}, {"mode": "I;16"}, {"mode": "P"}, {"mode": "RGBA", "exif": exif()}, {"mode": "1"}],
    "tiff": [{}, {"compression": "tiff_lzw"}, {"mode": "I;16"}, {"compression": "jpeg"}, {"exif": exif()}],
    "webp": [{}, {"lossless": True}, {"mode": "RGBA"}],
    "other": [{"kind": "BMP"}, {"kind": "GIF"}, {"kind": "PPM"}],
}


def make(**files):
    """A function that writes these files: name -> bytes or function; all of them are changed."""

    def write(folder):
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content() if callable(content) else content)
        return [folder / name for name in files]

    return write


def compressed(data, mutated, draw):
    """A gzip: its content changed, or itself."""
    return gzip.compress(mutated(gzip.decompress(data), draw)) if draw.random() < 0.5 else mutated(data, draw)


def zipped(data, mutated, draw):
    """A zip: a member changed, or itself."""
    if draw.random() < 0.5:
        return mutated(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = draw.randrange(len(members))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, (info, content) in enumerate(members):
            if i == chosen and info.filename.endswith(".zip"):
                content = zipped(content, mutated, draw)
            elif i == chosen:
                content = mutated(content, draw)
            archive.writestr(info.filename, content, compress_type=info.compress_type)
    return file.getvalue()


def zip_of(files, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


# ---- tables --------------------------------------------------------------------------------------------------------


def read_metadata(encoding="utf-8"):
    """Reads a release strictly, and again with all problems listed; what is read both ways has to be the same."""

    def read(folder, output):
        from bioscan_hf.release.check import read_typed, scan

        path = next(path for path in folder.iterdir() if path.suffix != "")
        problems = []
        options = {"unassigned": True, "encoding": encoding}
        checked = scan(path, problems.append, **options)
        kept = sum(len(part) for _, part in read_typed(path, checked, problems.append))
        if kept != sum(checked.counts.values()):
            raise AssertionError(f"{kept} rows were read, and {checked.counts} counted")
        strict = scan(path, **options)
        if strict.counts != checked.counts or strict.labels != checked.labels:
            raise AssertionError("strict and lenient reading differ")

    return read


def read_boxes(folder, output):
    from bioscan_hf.release.boxes import read_boxes

    read_boxes(folder / BOXES_TSV)


def split(folder, output):
    from bioscan_hf.dataset.split_file import split_file

    split_file(folder / "table.csv", output / "split.csv", tell=lambda line: None)


def read_sequences(clean="none", **options):
    def read(folder, output):
        from bioscan_hf.dataset.sequences import is_sequence_file, read_sequences

        path = next(folder.iterdir())
        is_sequence_file(path)
        options.setdefault("tell", lambda line: None)
        read_sequences(path, clean=clean, **options)

    return read


def fasta(header="P{i}-20 some fly"):
    lines = (f">{header.format(i=i)}\n{BARCODES[i % 3]}\nACGTN\r\n\n" for i in range(12))
    return "".join(lines).encode()


def fastq():
    return "".join(f"@P{i}\n{BARCODES[i % 2]}\n+\n{'I' * len(BARCODES[i % 2])}\n" for i in range(12)).encode()


def bcdm():
    names = ["processid", "sampleid", "marker_code", "nuc", "bin_uri", *RANKS, "coord", "country/ocean"]
    lines = [names]
    for i, row in enumerate(rows()):
        row |= {"marker_code": "COI-5P" if i % 3 else "28S", "nuc": row["dna_barcode"], "bin_uri": "None"}
        row |= {"coord": "(9.9,-84.1)", "country/ocean": "Costa Rica"}
        lines.append([row[name] or "None" for name in names])
    return "".join("\t".join(line) + "\n" for line in lines).encode()


# ---- photos --------------------------------------------------------------------------------------------------------


def pictures(kind):
    def write(folder):
        paths = []
        for i, options in enumerate(PICTURES[kind]):
            path = folder / f"{i}.{kind}"
            path.write_bytes(picture(**{"kind": kind.upper(), **options}))
            paths.append(path)
        return paths

    return write


def decode(folder, output):
    """By both decoders, which refuse the same photos and give about the same pixels."""
    from bioscan_hf.models.photos import check_jpeg, decode_photo, is_jpeg

    data = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns).read_bytes()  # the one that was changed
    found = []
    for decoder in ("pillow", "simplejpeg"):
        try:
            found.append(decode_photo(data, decoder=decoder).shape)
        except ValueError as error:
            refused = error
            found.append(None)
    if found[0] != found[1]:
        raise AssertionError(f"the decoders differ: {found}")
    if is_jpeg(data):
        try:
            check_jpeg(data)
        except ValueError as error:
            refused = error
        else:
            if None in found:
                raise AssertionError("check_jpeg accepts what the decoders refuse")
    if None in found:
        raise refused


def photo_zips(folder):
    inner = {image_path(f"P{i}-20", "train", "cropped_256"): picture(size=(20, 16)) for i in (0, 3)}
    nested = zip_of({image_path("P6-20", "train", "cropped_256"): picture(size=(16, 16))})
    stored = zip_of({image_path("P9-20", "train", "cropped_256"): picture(size=(16, 16))}, zipfile.ZIP_STORED)
    content = zip_of({**inner, "inner.zip": nested, "stored.zip": stored})
    path = folder / "BIOSCAN_5M_cropped_256_train.zip"
    path.write_bytes(content)
    return [path]


def read_photos(folder, output):
    from bioscan_hf.release.photos import Photos
    from bioscan_hf.release.problems import ReleaseError

    photos = Photos(folder, "cropped_256", output / "index", ["train"])
    try:
        photos.open()
        for i in (0, 3, 6, 9):
            try:
                photos.read(f"P{i}-20", "train")
            except ReleaseError as error:
                if "\n" in str(error):
                    raise
    finally:
        photos.close()


def release(folder):
    (folder / METADATA_CSV).write_bytes(table())
    (folder / BOXES_TSV).write_bytes(boxes())
    paths = [folder / METADATA_CSV, folder / BOXES_TSV]
    for i, row in enumerate(rows()):
        path = folder / image_path(row["processid"], row["split"], "original_256")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture())
        if i < 3:
            paths.append(path)
    return paths


def build(folder, output):
    from bioscan_hf.dataset.build import build

    build(folder, output / "dataset", keep_going=True)


def crop(folder, output):
    from bioscan_hf.crops.run import crop_folder
    from bioscan_hf.release.boxes import read_boxes

    found = read_boxes(folder / BOXES_TSV, lambda problem: None)
    crop_folder(folder, output / "crops", found, keep_going=True)


# ---- datasets ------------------------------------------------------------------------------------------------------


def parquet(folder):
    found = {name: [row[name] or None for row in rows()] for name in COLUMNS}
    for name in ("coord-lat", "coord-lon", "inferred_ranks", "area_fraction", "scale_factor"):
        found.pop(name, None)
    path = folder / "dna" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({**found, "split": ["train"] * 12}), path)
    return [path]


def load(streaming):
    def read(folder, output):
        from bioscan_hf.dataset.load import load_bioscan5m

        data = load_bioscan5m(folder, split="train", streaming=streaming, cache_dir=output / "cache")
        for _ in data:
            pass

    return read


def statistics(folder, output):
    from bioscan_hf.statistics.measures import describe

    describe(folder)


def bioscan1m(folder):
    from bioscan_hf.dataset.bioscan1m import NAMES, PARTITIONS, TSV

    names = ["processid", "sampleid", *NAMES, *RANKS, "tribe", "image_file", PARTITIONS[0]]
    lines = [names]
    for i, row in enumerate(rows()):
        row |= {"name": "Aedes", "uri": "BOLD:A1", "nucraw": "ACGT" * 50, "chunk_number": "1", "tribe": "Aedini"}
        row |= {"image_file": f"{i}.jpg", PARTITIONS[0]: "train"}
        lines.append([row[name] or "not_classified" for name in names])
    paths = [folder / TSV, folder / "cropped_256.zip"]
    paths[0].write_text("".join("\t".join(line) + "\n" for line in lines))
    photo = picture(size=(16, 12))
    paths[1].write_bytes(zip_of({f"bioscan/images/cropped_256/part1/{i}.jpg": photo for i in range(12)}))
    return paths


def read_blocks(module, *arguments):
    def read(folder, output):
        import importlib

        source = importlib.import_module(f"bioscan_hf.dataset.{module}")._source(
            *(folder / name if name.endswith(".hdf5") else folder if name == "." else name for name in arguments[:1]),
            *arguments[1:],
        )
        source.scan()
        for _ in source.read(**source.about, splits=source.splits):
            pass

    return read


def hdf5(folder):
    import h5py

    photo = np.frombuffer(picture(size=(16, 12)), np.uint8)
    path = folder / "clibd.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("train_seen")
        for name in ("processid", "sampleid", "barcode", *(rank for rank in RANKS if rank in ("order", "species"))):
            group[name] = np.array([f"{name}{i}".encode() for i in range(6)])
        group["barcode"][...] = np.array([b"ACGTACG"] * 6)
        group["image"] = np.repeat(photo[None], 6, axis=0)
        group["image_mask"] = np.full(6, len(photo))
    return [path]


# ---- files of this package -----------------------------------------------------------------------------------------


def built(folder):
    from bioscan_hf.dataset.build import build

    source = folder.parent / "source.csv"
    source.write_bytes(table())
    build(source, folder / "dataset", ["dna"])
    source.unlink()
    return [folder / "dataset" / name for name in ("manifest.json", "labels.json", "README.md")]


def read_built(folder, output):
    """The manifest, the label ids and the card."""
    from bioscan_hf.dataset.card import dataset_card, merged, write_card
    from bioscan_hf.dataset.load import load_label_maps
    from bioscan_hf.dataset.manifest import Manifest
    from bioscan_hf.dataset.parquet_folder import ParquetFolder
    from bioscan_hf.dataset.publish import complete_manifest

    dataset = folder / "dataset"
    load_label_maps(dataset).names("species")
    Manifest.read(dataset).is_whole()
    complete_manifest(dataset)
    ParquetFolder(dataset).files("dna", "train")
    card = (dataset / "README.md").read_bytes()
    (output / "README.md").write_bytes(card)
    new = dataset_card("x.csv", ["dna"], {"train": 1}, {"dna": "0"})
    write_card(output, new)
    merged(card.decode("utf-8", "replace"), new, new, force=True, license="cc0-1.0")


def embeddings(folder):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(32, dtype=np.float32)), 4)
    found = {"processid": [f"P{i}" for i in range(8)], "embedding": vectors, "valid": [True] * 8}
    paths = [folder / "embeddings-00000-of-00001.parquet", folder / "manifest.json"]
    pq.write_table(pa.table(found), paths[0])
    paths[1].write_text(json.dumps({"rows": 8, "shard_size": 8, "format": 1}))
    return paths


def read_embeddings(folder, output):
    from bioscan_hf.encoders.stored import load_embeddings

    found = load_embeddings(folder)
    found.processids, found.embeddings, found.valid, found.columns  # noqa: B018


def index(folder):
    from bioscan_hf.search.index import build_index, save_index

    save_index(build_index(np.eye(4), {"species": ["A", "B", None, "A"]}), folder / "index")
    return sorted((folder / "index").iterdir())


def read_index(folder, output):
    from bioscan_hf.search.index import load_index, search

    search(load_index(folder / "index"), np.eye(4)[:2], 2)


def checkpoint(folder):
    import torch

    state = {"encoder.weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3), "n": torch.tensor(2)}
    torch.save({"state_dict": state, "epoch": 3, "lr": [0.1, None, "a"]}, folder / "model.pt")
    return [folder / "model.pt"]


def read_checkpoint(folder, output):
    from bioscan_hf.checkpoints.safe_load import load_checkpoint

    load_checkpoint(folder / "model.pt")


def results(folder):
    scores = {key: 0.5 for key in ("ami", "ami_labelled", "homogeneity_labelled", "completeness_labelled")}
    about = {"task": "bioscan5m/clustering", "metrics": {"species": {**scores, "labelled": 3, "classes": 2}}}
    about |= {"splits": {"test": 3}, "dataset": "a/b", "options": {"seed": 0}, "seeds": [0], "specimens": 3}
    about |= {"protocol": "published", "modalities": {"dna": 3}}
    (folder / "results.json").write_text(json.dumps(about))
    return [folder / "results.json"]


def read_results(folder, output):
    from bioscan_hf.cards import read_results
    from bioscan_hf.hub.dataset_cards import clustering_card

    clustering_card("x", read_results(folder / "results.json"))


def text_of(name, content):
    return make(**{name: content})


READERS = {
    "csv": Reader(text_of("t.csv", table), read_metadata(), 8),
    "tsv": Reader(text_of("t.tsv", lambda: table("\t")), read_metadata(), 8),
    "semicolons": Reader(text_of("t.csv", lambda: table(";", "latin-1")), read_metadata("latin-1"), 4),
    "utf16": Reader(text_of("t.csv", lambda: table(",", "utf-16")), read_metadata("utf-16"), 3),
    "jsonld": Reader(text_of("t.jsonld", jsonld), read_metadata(), 8),
    "gzip": Reader(text_of("t.csv.gz", lambda: gzip.compress(table())), read_metadata(), 6, {"t.csv.gz": compressed}),
    "zip": Reader(
        text_of("t.zip", lambda: zip_of({"__MACOSX/._a.csv": b"\0", "a.csv": table()})),
        read_metadata(),
        *(6, {"t.zip": zipped}),
    ),
    "boxes": Reader(text_of(BOXES_TSV, boxes), read_boxes, 6),
    "split": Reader(text_of("table.csv", table), split, 2),
    "fasta": Reader(text_of("reads.fasta", fasta), read_sequences(), 6),
    "bold_fasta": Reader(
        text_of("bold.fas", lambda: fasta("P{i}-20|Aedes x|COI-5P|AB{i}")), read_sequences("barcode"), 4
    ),
    "fasta_gz": Reader(
        text_of("reads.fa.gz", lambda: gzip.compress(fasta())), read_sequences(), 3, {"reads.fa.gz": compressed}
    ),
    "fastq": Reader(text_of("reads.fastq", fastq), read_sequences(), 4),
    "bcdm": Reader(text_of("bcdm.tsv", bcdm), read_sequences("barcode", duplicates="keep"), 4),
    "jpeg": Reader(pictures("jpeg"), decode, 5),
    "png": Reader(pictures("png"), decode, 4),
    "tiff": Reader(pictures("tiff"), decode, 4),
    "webp": Reader(pictures("webp"), decode, 3),
    "other_photos": Reader(pictures("other"), decode, 2),
    "photo_zips": Reader(photo_zips, read_photos, 5, {"BIOSCAN_5M_cropped_256_train.zip": zipped}),
    "build": Reader(release, build, 0.5),
    "crop": Reader(release, crop, 1),
    "parquet": Reader(parquet, load(False), 0.5),
    "parquet_stream": Reader(parquet, load(True), 0.7),
    "statistics": Reader(parquet, statistics, 0.3),
    "bioscan1m": Reader(
        bioscan1m,
        read_blocks("bioscan1m", ".", "cropped_256", "large_diptera_family", None),
        3,
        {"cropped_256.zip": zipped},
    ),
    "hdf5": Reader(hdf5, read_blocks("clibd_hdf5", "clibd.hdf5", True, None), 3),
    "built": Reader(built, read_built, 4),
    "embeddings": Reader(embeddings, read_embeddings, 3),
    "index": Reader(index, read_index, 3),
    "checkpoint": Reader(checkpoint, read_checkpoint, 4, {"model.pt": zipped}),
    "results": Reader(results, read_results, 2),
}
