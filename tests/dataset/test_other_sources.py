"""BIOSCAN-1M, Canadian Invertebrates and CLIBD's HDF5 files, on simulated files in their published layouts."""

import csv
import io
import json
import sys
import zipfile
from contextlib import suppress

import numpy as np
import pandas
import pytest
from datasets import Image
from PIL import Image as PILImage

from bioscan_hf.dataset import blocks
from bioscan_hf.dataset.bioscan1m import CLIBD_SPLITS, PARTITIONS, bioscan1m_label_maps, load_bioscan1m
from bioscan_hf.dataset.bioscan1m import TSV as BIOSCAN1M_TSV
from bioscan_hf.dataset.canadian_invertebrates import canadian_invertebrates_label_maps, load_canadian_invertebrates
from bioscan_hf.dataset.clibd_hdf5 import clibd_label_maps, load_clibd_hdf5
from bioscan_hf.labels import LabelMaps
from bioscan_hf.models.taxonomy_text import taxonomy_text
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.schema import COLUMNS

LABELS = ("phylum", "class", "order", "family", "subfamily", "tribe", "genus", "species")
EXTRA = (
    "copyright_license",
    "copyright_holder",
    "copyright_institution",
    "copyright_contact",
    "photographer",
    "author",
)

#: order, family, subfamily, tribe, genus, species of specimens that exercise each rule of the cleaning.
TAXA = [
    ("Diptera", "Sciaridae", "not_classified", "not_classified", "Bradysia", "Bradysia alpha"),  # both placeholders
    ("Diptera", "Asteiidae", "Asteiinae", "not_classified", "Asteia", "not_classified"),  # tribe of a known genus
    ("Diptera", "Tachinidae", "Exoristinae", "Winthemiini", "Nemorilla", "Nemorilla beta"),
    ("Hemiptera", "Aphrophoridae", "Aphrophorinae", "not_classified", "Philaenus", "Philaenus gamma"),
    ("Diptera", "Phoridae", "Metopininae", "not_classified", "not_classified", "Megaselia delta"),  # genus of species
    ("Diptera", "not_classified", "not_classified", "not_classified", "not_classified", "not_classified"),
    ("Diptera", "not_classified", "not_classified", "not_classified", "Chironomus", "not_classified"),  # no family
    ("Lepidoptera", "Noctuidae", "Noctuinae", "not_classified", "Agrotis", "Agrotis epsilon"),  # tribe of subfamily
]


def jpeg(number):
    buffer = io.BytesIO()
    PILImage.new("RGB", (24, 16), (number * 5 % 256, 40, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def bioscan1m_rows(n=60):
    """Specimens with every taxon of `TAXA`, barcodes of three kinds, and a split in each partition."""
    rng = np.random.default_rng(0)
    splits = np.array(["train", "validation", "test", "no_split"])
    rows = []
    for i in range(n):
        order, family, subfamily, tribe, genus, species = TAXA[i % len(TAXA)]
        row = {
            "sampleid": f"BIOUG{i:03d}",
            "processid": f"PROC{i:03d}-20",
            "uri": f"BOLD:AAA{i % 7:04d}" if i % 5 else "not_classified",
            "name": order if family == "not_classified" else family,
            "phylum": "Arthropoda",
            "class": "Insecta",
            "order": order,
            "family": family,
            "subfamily": subfamily,
            "tribe": tribe,
            "genus": genus,
            "species": species,
            "subspecies": "not_classified",
            "nucraw": "ACGT" * (100 + i % 9 * 10) + "N" * (i % 3),
            "image_file": f"{i}.jpg",
            "chunk_number": str(1 + i % 3),
        }
        for partition in PARTITIONS[:-1]:
            row[partition] = rng.choice(splits)
        rows.append({**row, **dict.fromkeys(EXTRA, "CBG")})
    return rows


@pytest.fixture(scope="module")
def bioscan1m(tmp_path_factory):
    """Folder with bioscan1m/: TSV, CLIBD's partition files in shuffled order, photos in folders and in a zip."""
    root = tmp_path_factory.mktemp("one")
    base = root / "bioscan1m"
    (base / "CLIBD_partitioning").mkdir(parents=True)
    rows = bioscan1m_rows()
    pandas.DataFrame(rows).to_csv(base / BIOSCAN1M_TSV, sep="\t", index=False)
    ids = np.random.default_rng(1).permutation([row["sampleid"] for row in rows])
    parts = dict(zip(CLIBD_SPLITS, np.array_split(ids, len(CLIBD_SPLITS)), strict=True))
    parts["all_keys"] = np.concatenate([parts["test_unseen_keys"], parts["seen_keys"], parts["val_unseen_keys"]])
    parts["no_split_and_seen_train"] = np.concatenate([parts["no_split"][::-1], parts["train_seen"]])
    for name, some in parts.items():
        (base / "CLIBD_partitioning" / f"{name}.txt").write_text("\n".join(some) + "\n")
    with zipfile.ZipFile(base / "original_256.zip", "w") as archive:
        for i, row in enumerate(rows):
            path = f"part{row['chunk_number']}/{row['image_file']}"
            archive.writestr(f"bioscan/images/original_256/{path}", jpeg(i + 1))
            file = base / "images/cropped_256" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(i))
    return root


def theirs1m(root, **arguments):
    """The rows of the bioscan-dataset package, NaN as None."""
    from bioscan_dataset.bioscan1m import load_bioscan1m_metadata

    table = load_bioscan1m_metadata(str(root / "bioscan1m" / BIOSCAN1M_TSV), **arguments)
    return table.astype(object).where(table.notna(), None)


def same_rows(ours, theirs):
    assert len(ours) == len(theirs) > 0
    names = {**{rank: rank for rank in LABELS}, "dna_bin": "uri", "dna_barcode": "nucraw", "image_file": "image_file"}
    for mine, other in names.items():
        assert ours[mine] == theirs[other].tolist(), mine
    for rank in (*LABELS, "dna_bin"):
        assert ours[f"{rank}_index"] == theirs[f"{'uri' if rank == 'dna_bin' else rank}_index"].tolist(), rank


@pytest.mark.parametrize("split", ["train", "val", "test", "no_split", "all"])
@pytest.mark.parametrize("partition", ["large_diptera_family", "small_insect_order"])
@pytest.mark.filterwarnings("ignore:The partition")
def test_bioscan1m_rows_labels_and_ids_are_those_of_bioscan_dataset(bioscan1m, partition, split):
    ranks = [*LABELS, "dna_bin"]
    ours = load_bioscan1m(bioscan1m, split=split, partition=partition, ranks=ranks)
    theirs = theirs1m(bioscan1m, split=split, partitioning_version=partition)
    if split == "all":  # ours goes split by split
        place = {processid: i for i, processid in enumerate(ours["processid"])}
        ours = ours.select([place[processid] for processid in theirs["processid"]])
    assert ours["processid"] == theirs["processid"].tolist()
    same_rows(ours, theirs)
    assert ours.column_names[: len(COLUMNS)] == list(COLUMNS)
    assert set(ours["split"]) <= {"train", "validation", "test", "no_split"}


def test_every_cleaning_rule_of_bioscan1m(bioscan1m):
    """By hand for the eight kinds of `TAXA`: (subfamily, tribe, genus)."""
    data = load_bioscan1m(bioscan1m, split="all")
    place = {processid: i for i, processid in enumerate(data["processid"])}
    found = [tuple(data[place[f"PROC{i:03d}-20"]][rank] for rank in ("subfamily", "tribe", "genus")) for i in range(8)]
    assert found == [
        ("unassigned Sciaridae", "unassigned Sciaridae", "Bradysia"),
        ("Asteiinae", "Asteiini", "Asteia"),
        ("Exoristinae", "Winthemiini", "Nemorilla"),
        ("Aphrophorinae", "Philaenini", "Philaenus"),
        ("Metopininae", "unassigned Metopininae", "Megaselia"),
        (None, None, None),
        (None, None, "Chironomus"),
        ("Noctuinae", "unassigned Noctuinae", "Agrotis"),
    ]
    assert data[place["PROC005-20"]]["dna_bin"] is None and data[0]["country"] is None
    assert data[place["PROC004-20"]]["taxon"] == "Phoridae" and data[place["PROC004-20"]]["chunk"] == "2"


@pytest.mark.parametrize("split", [*CLIBD_SPLITS, "all_keys", "no_split_and_seen_train", "val", "key_unseen", "train"])
def test_clibd_partition_of_bioscan1m(bioscan1m, split):
    """Same rows as bioscan-dataset, in the order of the partition's file; aliases of BIOSCAN-5M included."""
    ours = load_bioscan1m(bioscan1m, split=split, partition="clibd", ranks=[*LABELS, "dna_bin"])
    theirs = theirs1m(bioscan1m, split=split, partitioning_version="clibd")
    assert ours["processid"] == theirs["processid"].tolist()
    same_rows(ours, theirs)
    assert ours["split"] == theirs["clibd_split"].tolist()


def test_joined_and_streamed_clibd_splits(bioscan1m):
    joined = load_bioscan1m(bioscan1m, split="pretrain+train", partition="clibd")
    theirs = theirs1m(bioscan1m, split="pretrain+train", partitioning_version="clibd")
    assert set(joined["processid"]) == set(theirs["processid"]) and len(joined) == len(theirs) == 12
    stream = load_bioscan1m(bioscan1m, split="pretrain+train", partition="clibd", streaming=True)
    rows = {row["processid"]: row for row in stream}
    assert rows == {row["processid"]: row for row in joined}


def test_bioscan1m_streams_the_same_rows(bioscan1m):
    stored = load_bioscan1m(bioscan1m, "cropped_256", "train", ranks=["family"])
    stream = load_bioscan1m(bioscan1m, "cropped_256", "train", ranks=["family"], streaming=True)
    assert stream.features == stored.features
    raw = Image(decode=False)
    assert list(stream.cast_column("image", raw)) == list(stored.cast_column("image", raw))
    everything = load_bioscan1m(bioscan1m, streaming=True)
    assert list(everything) == list(load_bioscan1m(bioscan1m)) == ["train", "validation", "test", "no_split"]


@pytest.mark.parametrize(("package", "shift"), [("cropped_256", 0), ("original_256", 1)])
def test_photos_of_bioscan1m_are_untouched(bioscan1m, package, shift):
    """From a folder and from a zip: the bytes that were put there."""
    data = load_bioscan1m(bioscan1m, package, "test").cast_column("image", Image(decode=False))
    assert len(data) > 5
    for row in data:
        number = int(row["image_file"].removesuffix(".jpg"))
        assert row["image"] == {"bytes": jpeg(number + shift), "path": row["image_file"]}


@pytest.mark.filterwarnings("ignore:The partition")
def test_a_stream_is_scanned_once_and_hashes_no_names(bioscan1m, tmp_path, monkeypatch):
    """The label ids are kept in the cache until the files change; datasets is given the name of their file only."""
    source = tmp_path / BIOSCAN1M_TSV
    source.write_bytes((bioscan1m / "bioscan1m" / BIOSCAN1M_TSV).read_bytes())
    scanned, hashed = [], []
    scan, from_generator = blocks.BlockSource.scan, blocks.IterableDataset.from_generator
    monkeypatch.setattr(blocks.BlockSource, "scan", lambda self: scanned.append(1) or scan(self))
    monkeypatch.setattr(
        blocks.IterableDataset,
        "from_generator",
        lambda *args, **more: hashed.append(more["gen_kwargs"]) or from_generator(*args, **more),
    )
    streams = [load_bioscan1m(source, split="train", ranks=["species"], streaming=True) for _ in range(2)]
    assert list(streams[0]) == list(streams[1]) and len(scanned) == 1
    assert not any(isinstance(value, LabelMaps) for given in hashed for value in given.values())
    with open(source, "ab") as file:
        file.write(source.read_bytes().splitlines(True)[1].replace(b"PROC000", b"PROC999"))
    load_bioscan1m(source, split="train", ranks=["species"], streaming=True)
    assert len(scanned) == 2


def test_label_maps_and_cutting_of_bioscan1m(bioscan1m):
    maps = bioscan1m_label_maps(bioscan1m)
    data = load_bioscan1m(bioscan1m, split="all", ranks=["tribe"], max_nucleotides=410)
    with_ids = zip(data["tribe"], data["tribe_index"], strict=True)
    assert all(maps.label2index("tribe", name) == i for name, i in with_ids)
    assert set(map(len, data["dna_barcode"])) <= set(range(400, 411)) and 410 in map(len, data["dna_barcode"])
    unique = load_bioscan1m(bioscan1m, split="all", unique_barcodes=True)
    assert len(unique) == len({row["nucraw"][:660].rstrip("N") for row in bioscan1m_rows()}) == 8


def test_bioscan1m_errors(bioscan1m, tmp_path):
    for arguments, message in [
        ({"split": "key_unseen"}, "Unknown split 'key_unseen'.* has train, validation, test, no_split; all, val are"),
        ({"split": "tset", "partition": "clibd"}, "Unknown split 'tset'.*test_unseen_keys; all, all_keys"),
        ({"partition": "huge"}, "Unknown partition 'huge'. BIOSCAN-1M has large_diptera_family"),
        ({"config": "croped"}, "Unknown config"),
        ({"ranks": ["clan"]}, "Unknown rank 'clan'. BIOSCAN-1M .* has label ids for phylum.*tribe"),
        ({"streaming": True, "unique_barcodes": True}, "compares all barcodes"),
        ({"max_nucleotides": 0}, "max_nucleotides is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_bioscan1m(bioscan1m, **arguments)
    with pytest.raises(FileNotFoundError, match="No photos of 'cropped'"):
        load_bioscan1m(bioscan1m, "cropped", "train")
    with pytest.raises(FileNotFoundError, match="Nothing to read in"):
        load_bioscan1m(tmp_path)
    with pytest.warns(UserWarning, match="'small_insect_order' was not made for family"):
        load_bioscan1m(bioscan1m, split="train", partition="small_insect_order", ranks=["family"])
    alone = tmp_path / "alone.tsv"
    alone.write_bytes((bioscan1m / "bioscan1m" / BIOSCAN1M_TSV).read_bytes())
    with pytest.raises(FileNotFoundError, match="No partition files of CLIBD at"):
        load_bioscan1m(alone, split="train", partition="clibd")
    lines = alone.read_text().splitlines()
    alone.write_text("\n".join([*lines[:5], lines[5][:30]]))
    with pytest.raises(ReleaseError, match="line 6 has 3 cells instead of 28.*Repair the file"):
        load_bioscan1m(alone, split="train")
    alone.write_text("\n".join(lines).replace("\turi\t", "\tbin\t", 1))
    with pytest.raises(ReleaseError, match="has no column 'uri'"):
        load_bioscan1m(alone, split="train")


def test_partition_files_that_do_not_fit(bioscan1m, tmp_path):
    """A specimen in no split, in two splits, or unknown to the TSV stops the loading and is named."""
    source = bioscan1m / "bioscan1m" / BIOSCAN1M_TSV
    ids = (source.parent / "CLIBD_partitioning/no_split.txt").read_text().split()
    for name, changed, message in [
        ("short", ids[1:], f"does not name '{ids[0]}' and 0 more"),
        ("twice", [*ids, ids[0]], "names a specimen twice"),
        ("alien", [*ids, "ALIEN"], "'ALIEN' and 0 more are not in the metadata"),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        for file in (source.parent / "CLIBD_partitioning").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "no_split.txt").write_text("\n".join(changed))
        with pytest.raises(ReleaseError, match=message):
            load_bioscan1m(source, split="no_split", partition="clibd", clibd_partitioning=folder)


def test_damaged_and_missing_photos_are_named_and_nothing_is_left_behind(bioscan1m, tmp_path):
    base = tmp_path / "bioscan1m"
    base.mkdir()
    (base / BIOSCAN1M_TSV).write_bytes((bioscan1m / "bioscan1m" / BIOSCAN1M_TSV).read_bytes())
    photos = base / "images/cropped"
    photos.mkdir(parents=True)
    with pytest.raises(ReleaseError, match=r"no photo part\d/\d+.jpg in .*images/cropped"):
        load_bioscan1m(tmp_path, "cropped", "train")
    for row in bioscan1m_rows():
        (photos / f"part{row['chunk_number']}").mkdir(exist_ok=True)
        (photos / f"part{row['chunk_number']}" / row["image_file"]).write_bytes(jpeg(0)[:200])
    with pytest.raises(ReleaseError, match="damaged JPEG"):
        load_bioscan1m(tmp_path, "cropped", "train")
    for row in bioscan1m_rows():
        (photos / f"part{row['chunk_number']}" / row["image_file"]).write_bytes(jpeg(0))
    assert len(load_bioscan1m(tmp_path, "cropped", "train")) > 5, "an earlier failure left a part behind"


# ---- Canadian Invertebrates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def canadian(tmp_path_factory):
    folder = tmp_path_factory.mktemp("can") / "CanadianInvertebrates"
    folder.mkdir()
    names = "processid sampleid dna_bin phylum class order family genus species dna_barcode sequence_len split".split()
    with open(folder / "CanInv_metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for i in range(25):
            split = ("pretrain", "train", "val", "test", "test_unseen")[i % 5]
            species = "" if split == "pretrain" else f"Aus species{i % 4}"
            taxonomy = ["Arthropoda", "Insecta", "Diptera", "", "Aus" if species else "", species]
            bin_uri = f"BOLD:AAA000{i % 3}"
            writer.writerow([f"P{i}", f"S{i}", bin_uri, *taxonomy, "ACGT" * (160 + i), 640 + 4 * i, split])
    return folder.parent


def test_canadian_invertebrates(canadian):
    """Published columns in place, missing ones null, ids over all rows: species1 is 1 of 0..3, and -1 without."""
    data = load_canadian_invertebrates(canadian, split="seen", ranks=["species", "family"])
    assert data["processid"] == [f"P{i}" for first in (1, 2, 3) for i in range(first, 25, 5)]
    assert data.column_names[: len(COLUMNS)] == list(COLUMNS) and data.column_names[len(COLUMNS)] == "sequence_len"
    assert set(data["subfamily"]) == {None} == set(data["coord-lat"]) and set(data["family_index"]) == {-1}
    assert data["species_index"] == [i % 4 for first in (1, 2, 3) for i in range(first, 25, 5)]
    assert max(map(len, data["dna_barcode"])) == 660 and data[0]["sequence_len"] == "644"
    assert canadian_invertebrates_label_maps(canadian).names("species") == tuple(f"Aus species{i}" for i in range(4))
    assert load_canadian_invertebrates(canadian, split="validation")["split"] == ["val"] * 5
    assert load_canadian_invertebrates(canadian, split="unseen")["split"] == ["test_unseen"] * 5
    assert list(load_canadian_invertebrates(canadian)) == ["pretrain", "train", "val", "test", "test_unseen"]
    stream = load_canadian_invertebrates(canadian, split="all", ranks=["species"], streaming=True)
    assert list(stream) == list(load_canadian_invertebrates(canadian, split="all", ranks=["species"]))
    assert len(list(stream)) == 25


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """2,000 rows of 300 barcodes, in all splits, with and without trailing N, missing and of nothing but N."""
    draw = np.random.default_rng(0)
    barcodes = ["ACGT"[i % 4] * (1 + i // 4) + "N" * j for i in range(100) for j in range(3)] + ["N", "NN", None]
    species = [f"Aus s{i}" for i in draw.integers(400, size=2000)]
    table = pandas.DataFrame({"processid": [f"P{i}" for i in range(2000)], "species": species})
    table["nucleotides"] = draw.choice(np.array(barcodes, dtype=object), 2000)
    table["split"] = draw.choice(["pretrain", "train", "val", "test", "test_unseen"], 2000)
    path = tmp_path_factory.mktemp("repeated") / "CanInv_metadata.csv"
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("length", [660, 5, None])
def test_published_rule_of_repeated_barcodes(repeated, length):
    """As the published code: cut, shuffle the whole file, strip N, keep the first, restore the order, then split."""
    table = pandas.read_csv(repeated)
    kept = table.assign(key=table["nucleotides"].str[:length].str.rstrip("N")).sample(frac=1, random_state=0)
    kept = kept.drop_duplicates("key").sort_index()
    options = {"unique_barcodes": "published", "max_nucleotides": length, "ranks": ["species"]}
    found = load_canadian_invertebrates(repeated, **options)
    for split, data in found.items():
        assert data["processid"] == kept["processid"][kept["split"] == split].tolist()
    stream = load_canadian_invertebrates(repeated, split="val", streaming=True, **options)
    assert [row["processid"] for row in stream] == found["val"]["processid"]
    whole = load_canadian_invertebrates(repeated, split="val", ranks=["species"])
    ids = dict(zip(whole["species"], whole["species_index"], strict=True))
    assert [ids[name] for name in found["val"]["species"]] == found["val"]["species_index"], (
        "ids of a part of the file"
    )
    with pytest.raises(ValueError, match="choose True, False or 'published'"):
        load_canadian_invertebrates(repeated, unique_barcodes="first")


def test_canadian_invertebrates_errors(canadian, tmp_path):
    with pytest.raises(ValueError, match="Unknown split 'val_unseen'.*pretrain, train, val, test, test_unseen; all"):
        load_canadian_invertebrates(canadian, split="val_unseen")
    with pytest.raises(ValueError, match="no config 'cropped': it has no photos"):
        load_canadian_invertebrates(canadian, "cropped")
    text = (canadian / "CanadianInvertebrates/CanInv_metadata.csv").read_text()
    path = tmp_path / "other.csv"
    path.write_text(text.replace(",val\n", ",vall\n"))
    with pytest.raises(ReleaseError, match="unknown split 'vall' in 'split'"):
        load_canadian_invertebrates(path)
    path.write_text("\n".join(line for line in text.splitlines() if not line.endswith("val")))
    with pytest.raises(ValueError, match="No rows of split 'val'"):
        load_canadian_invertebrates(path, split="val+test")
    path.write_text(text.replace(",val\n", ",\n"))
    assert len(load_canadian_invertebrates(path, split="all")) == 25, "rows without a split are in all"
    assert list(load_canadian_invertebrates(path))[-1] == "unassigned"


# ---- CLIBD's HDF5 files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hdf5(tmp_path_factory):
    """A BIOSCAN-5M split file: groups of 300 and 3 rows (more than one block), JPEGs padded with zeros."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path_factory.mktemp("clibd") / "split_data.hdf5"
    with h5py.File(path, "w") as file:
        for name, rows in {"seen_keys": range(300), "unseen_keys": range(300, 303)}.items():
            group = file.create_group(name)
            photos = [jpeg(i) for i in rows]
            padded = np.zeros((len(photos), max(map(len, photos)) + 9), np.uint8)
            for place, photo in enumerate(photos):
                padded[place, : len(photo)] = np.frombuffer(photo, np.uint8)
            group["image"], group["image_mask"] = padded, [len(photo) for photo in photos]
            texts = {"processid": "P{0}", "sampleid": "S{0}", "image_file": "P{0}.jpg", "barcode": "ACGT" * 170}
            texts |= {"order": "Diptera", "family": "not_classified", "genus": "G", "species": "G s{0}"}
            for column, text in texts.items():
                group[column] = np.array([text.format(i) for i in rows], dtype="S")
    return path


def test_clibd_hdf5(hdf5):
    """Bytes are those put in, without the padding; groups answer to BIOSCAN-5M's names; 680 nt are cut to 660."""
    data = load_clibd_hdf5(hdf5, "train+key_unseen", ranks=["family", "species"])
    assert data["processid"] == [f"P{i}" for i in range(303)]
    assert set(data["split"]) == {"seen_keys", "unseen_keys"} and set(data["family_index"]) == {-1}
    assert set(map(len, data["dna_barcode"])) == {660}
    images = data.cast_column("image", Image(decode=False))["image"]
    assert [image["bytes"] for image in images] == [jpeg(i) for i in range(303)]
    assert images[300]["path"] == "P300.jpg"
    assert clibd_label_maps(hdf5).names("species") == tuple(sorted(f"G s{i}" for i in range(303)))
    assert list(load_clibd_hdf5(hdf5)) == ["seen_keys", "unseen_keys"]
    bare = load_clibd_hdf5(hdf5, "key_unseen", images=False, streaming=True, ranks=["species"])
    assert "image" not in bare.features and [row["sampleid"] for row in bare] == ["S300", "S301", "S302"]


def test_clibd_hdf5_errors(hdf5, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="Unknown split 'all'.* CLIBD has seen_keys, unseen_keys; train, key_unseen"):
        load_clibd_hdf5(hdf5, "all")
    with pytest.raises(ValueError, match="Unknown rank 'class'. CLIBD has label ids for order"):
        load_clibd_hdf5(hdf5, "train", ranks=["class"])
    (tmp_path / "bins.tsv").write_text("sampleid\turi\nS1\tB\n")
    with pytest.raises(ReleaseError, match="bins.tsv does not name 'S0' and 254 more"):
        load_clibd_hdf5(hdf5, "train", bins=tmp_path / "bins.tsv")
    with pytest.raises(FileNotFoundError, match="No file"):
        load_clibd_hdf5(tmp_path / "none.hdf5")
    with pytest.raises(ReleaseError, match="not a readable HDF5 file"):
        load_clibd_hdf5(tmp_path / "bins.tsv")
    import h5py

    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    with pytest.raises(ReleaseError, match="not a split file of CLIBD"):
        load_clibd_hdf5(tmp_path / "empty.hdf5")
    broken = tmp_path / "broken.hdf5"
    broken.write_bytes(hdf5.read_bytes())
    with h5py.File(broken, "r+") as file:
        file["seen_keys/image_mask"][7] -= 20
    with pytest.raises(ReleaseError, match=r"broken.hdf5:/seen_keys/image\[7\] is a damaged JPEG"):
        load_clibd_hdf5(broken, "train")
    data = hdf5.read_bytes()
    for mark in (b"TREE", b"SNOD", b"HEAP"):  # parts of the file that h5py reads when they are needed
        at = data.find(mark)
        while at >= 0:
            broken.write_bytes(data[:at] + b"XXXX" + data[at + 4 :])
            with suppress(ReleaseError):
                len(load_clibd_hdf5(broken, "train", ranks=["species"]))
            at = data.find(mark, at + 1)
    with h5py.File(tmp_path / "long.hdf5", "w") as file:
        file.create_group("seen_keys")["order"] = [b"Diptera"]
        file["seen_keys"].create_dataset("barcode", (10**12,), "S4", chunks=(1000,))
    with pytest.raises(ReleaseError, match="long.hdf5:/seen_keys tells of 1,000,000,000,000 rows"):
        load_clibd_hdf5(tmp_path / "long.hdf5", "train", images=False)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install bioscan_hf\[hdf5\]"):
        load_clibd_hdf5(hdf5)


def test_the_reference_file_of_clibd(reference):
    """BINs are joined by sampleid (the published code gives those of other rows: 0, 0, 1, 2, 2, 3), and the taxonomy
    texts and ids are the ones it reads."""
    pytest.importorskip("h5py")
    folder = reference / "clibd"
    reference = json.loads((folder / "dataset.json").read_text())
    data = load_clibd_hdf5(
        folder / "tiny_split.hdf5", "no_split_and_seen_train", bins=folder / "tiny.tsv", ranks=["dna_bin"]
    )
    assert data["sampleid"] == reference["bin_labels"]["hdf5_sampleid"]
    first_seen = list(dict.fromkeys(data["dna_bin_index"]))
    groups = [first_seen.index(i) for i in data["dna_bin_index"]]
    assert groups == reference["bin_labels"]["correct_in_hdf5_order"] == [0, 1, 1, 2, 3, 3]
    assert [taxonomy_text(row) for row in data.remove_columns("image")] == reference["text_strings"]
    assert data["image_file"] == reference["features/file_name_list"]
    assert data[0]["image"].size == PILImage.open(io.BytesIO(first_jpeg(folder / "tiny_split.hdf5"))).size


def first_jpeg(path):
    import h5py

    with h5py.File(path) as file:
        group = file["no_split_and_seen_train"]
        return group["image"][0, : group["image_mask"][0]].tobytes()
