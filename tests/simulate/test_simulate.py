"""The simulated release: published layout, rules of the splits, learnable barcodes and photos."""

import csv
import gzip
import json
import re
import shutil
from collections import Counter, defaultdict
from hashlib import sha256
from io import BytesIO
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import pyarrow as pa
import pytest
from partition_rules import check_partition
from PIL import Image

from bioscan_hf.labels import LabelMaps
from bioscan_hf.release import check as reader
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.schema import COLUMNS, EVAL_SPLITS, METASPLITS, RANKS, SPLITS, chunk, image_path
from bioscan_hf.simulate.photos import Specimen, draw_photo
from bioscan_hf.simulate.release import BOXES_PATH, CSV_PATH, JSONLD_PATH, MANIFEST, simulate_release
from bioscan_hf.simulate.specimens import draw_block, make_world
from bioscan_hf.simulate.splits import SEEN, UNSEEN, draw_species
from bioscan_hf.simulate.taxa import BARCODE_LENGTH, codon_position, evolve, grow_taxa


def read_rows(root):
    with open(root / CSV_PATH, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(specimens, seed=0):
    """Specimens as drawn on photos, and rows as dicts with "" where a value is missing, as in a CSV."""
    world = make_world(seed, specimens)
    block = draw_block(world, seed, 0, specimens)
    rows = [{name: "" if row[name] is None else row[name] for name in row} for row in block.table.to_pylist()]
    return block.specimens(world, seed, 0), rows


def labels_of(rows):
    names = ("split", "dna_barcode", "species", "genus")
    return pa.table({name: [row[name] for row in rows] for name in names})


def digests(root):
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def drawn():
    return draw(3000)


@pytest.fixture(scope="module")
def specimens(drawn):
    return drawn[0]


@pytest.fixture(scope="module")
def rows(drawn):
    return drawn[1]


# Layout


def test_files_of_the_release(release):
    expected = {CSV_PATH, JSONLD_PATH, BOXES_PATH, MANIFEST}
    expected |= {f"BIOSCAN_5M_cropped_256_{group}.zip" for group in ("pretrain", "train", "eval")}
    assert {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()} == expected
    assert set(json.loads((release / MANIFEST).read_text())["files"]) == expected - {MANIFEST}


def test_csv_has_the_published_columns_in_order_sorted_by_id(release):
    with open(release / CSV_PATH, newline="") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    rows = read_rows(release)
    ids = [row["processid"] for row in rows]
    assert len(rows) == 400 and ids == sorted(set(ids))
    assert all(re.fullmatch(r"SIM[A-Z]{3}\d+-2\d", i) for i in ids)


def test_every_photo_lies_in_its_zip_under_the_published_path(release):
    rows = read_rows(release)
    for group, splits in {"pretrain": ("pretrain",), "train": ("train",), "eval": EVAL_SPLITS}.items():
        with ZipFile(release / f"BIOSCAN_5M_cropped_256_{group}.zip") as archive:
            members = archive.infolist()
        expected = [
            image_path(row["processid"], row["split"], "cropped_256") for row in rows if row["split"] in splits
        ]
        assert [member.filename for member in members] == sorted(expected) and members
        assert {member.compress_type for member in members} == {ZIP_STORED}
    depth = {split: len(row["chunk"]) for row in rows for split in [row["split"]]}
    assert depth == dict.fromkeys(SPLITS, 0) | {"pretrain": 2, "train": 1, "other_heldout": 1}


def test_boxes_give_the_published_sizes(release):
    """area_fraction and scale_factor are computed from the box in a photo of 1024 x 768, to 4 decimals."""
    rows = {row["processid"]: row for row in read_rows(release)}
    with open(release / BOXES_PATH, newline="") as file:
        boxes = list(csv.DictReader(file, delimiter="\t"))
    columns = "processid width_original height_original x0 y0 x1 y1 scale_factor area_fraction"
    assert " ".join(boxes[0]) == columns and len(boxes) == len(rows)
    for box in boxes:
        x0, y0, x1, y1 = (int(box[name]) for name in ("x0", "y0", "x1", "y1"))
        assert 0 <= x0 < x1 <= 1024 and 0 <= y0 < y1 <= 768
        row = rows[box["processid"]]
        assert float(row["area_fraction"]) == float(box["area_fraction"])
        assert float(box["area_fraction"]) == round((x1 - x0) * (y1 - y0) / (1024 * 768), 4)
        assert float(row["scale_factor"]) == float(box["scale_factor"]) == round(min(x1 - x0, y1 - y0) / 256, 4)
        if row["image_measurement_value"]:
            assert 0 < int(row["image_measurement_value"]) < (x1 - x0) * (y1 - y0)


def test_jsonld_holds_the_rows_of_the_csv(release):
    records = json.loads((release / JSONLD_PATH).read_text(encoding="utf-8"))
    assert [{column: str(record[column]) for column in COLUMNS} for record in records] == read_rows(release)
    assert all("@context" in record and record["schema:identifier"] == record["processid"] for record in records)


def test_other_packages_and_folders(tmp_path):
    """Zips of the packages without splits are numbered; `folders` gives the same files unpacked."""
    packages = ("original_256", "cropped", "original_full")
    zipped = simulate_release(tmp_path / "zips", 50, packages=packages)
    loose = simulate_release(tmp_path / "folders", 50, packages=packages, folders=True)
    names = {path.name for path in zipped.glob("*.zip")}
    assert names == {f"BIOSCAN_5M_original_256_{group}.zip" for group in ("pretrain", "train", "eval")} | {
        f"BIOSCAN_5M_{package}.{i:02d}.zip"
        for package, n in (("cropped", 2), ("original_full", 5))
        for i in range(1, n + 1)
    }
    contents = {}
    for name in names:
        with ZipFile(zipped / name) as archive:
            contents |= {member: archive.read(member) for member in archive.namelist()}
    assert len(contents) == 150 and not list(loose.glob("*.zip"))
    assert contents == {path.relative_to(loose).as_posix(): path.read_bytes() for path in loose.rglob("*.jpg")}
    assert {path.relative_to(loose).as_posix() for path in loose.rglob("*.jpg")} == {
        image_path(row["processid"], row["split"], package) for row in read_rows(loose) for package in packages
    }


def test_bioscan_dataset_gives_the_same_rows_and_ids(release):
    """The published reader finds every row and path; its label ids are those of LabelMaps."""
    reader = pytest.importorskip("bioscan_dataset")
    table = reader.load_bioscan5m_metadata(str(release / CSV_PATH))
    rows = read_rows(release)
    assert table["processid"].tolist() == [row["processid"] for row in rows]
    assert [f"bioscan5m/images/cropped_256/{path}" for path in table["image_path"]] == [
        image_path(row["processid"], row["split"], "cropped_256") for row in rows
    ]
    maps = LabelMaps({column: [row[column] for row in rows] for column in ("species", "dna_bin")})
    for column in maps.columns:
        assert table[f"{column}_index"].tolist() == maps.encode(column, [row[column] for row in rows])


# Splits


@pytest.mark.parametrize(("count", "seed"), [(50, 0), (50, 1), (97, 2), (400, 3), (3000, 4), (20000, 5)])
def test_splits_keep_the_rules_of_the_release(count, seed):
    """Those of `check_partition`, and names and numbers of rows by the kind of a species."""
    _, rows = draw(count, seed)
    check_partition(labels_of(rows))
    species, genera = defaultdict(set), defaultdict(set)
    for row in rows:
        species[row["split"]].add(row["species"])
        genera[row["split"]].add(row["genus"])
    assert len(rows) == count and set(species) == set(SPLITS)  # no split is empty
    seen, unseen = (set().union(*(species[split] for split in METASPLITS[name])) for name in ("seen", "unseen"))
    placeholder = re.compile(r"[A-Z][a-z]+ (sp\. \d+BIO|Malaise\d+)")
    assert all(placeholder.fullmatch(name) for name in unseen | species["other_heldout"])
    assert all(re.fullmatch(r"[A-Z][a-z]+ [a-z]+", name) for name in seen)
    per_species = Counter(row["species"] for row in rows)
    assert min(per_species[name] for name in unseen) >= 8 and max(per_species[name] for name in seen) >= 8
    assert not genera["other_heldout"] & genera["train"]


def test_shares_of_the_splits(rows):
    """60 % pretrain in a small release, 75 % in a large one; no split is too small."""
    share = {split: n / len(rows) for split, n in Counter(row["split"] for row in rows).items()}
    assert share["pretrain"] == pytest.approx(0.6, abs=0.01)
    assert share["train"] > 0.15 and min(share.values()) > 0.008
    _, large = draw(20_000)
    assert sum(row["split"] == "pretrain" for row in large) / len(large) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("published", [False, True])
def test_species_with_enough_rows_are_divided(published):
    """Of 8 or more rows of a seen species, test takes every 5th (8th) from the 2nd on, val every 10th (22nd) from the
    3rd on. Smaller species are in train only. All unseen species have 8 rows or more."""
    world = make_world(0, None if published else 3000)
    species, split = draw_species(np.random.default_rng(0), world.taxa, world.roles, 50_000 if published else 3000)
    place = {name: SPLITS.index(name) for name in SPLITS}
    checked = Counter()
    for kind, whole, parts in (
        (SEEN, "train", {"test": (1, 8 if published else 5), "val": (2, 22 if published else 10)}),
        (UNSEEN, "key_unseen", {"test_unseen": (1, 6 if published else 3), "val_unseen": (2, 6)}),
    ):
        labelled = split != place["pretrain"]
        for one in np.unique(species[labelled & (world.roles.kinds[species] == kind)]):
            own = split[labelled & (species == one)]
            count = len(own)
            taken = {i: name for name in reversed(parts) for i in range(*parts[name][:1], count, parts[name][1])}
            expected = dict.fromkeys((whole, *parts), 0) | Counter(taken.values() if count >= 8 else ())
            expected[whole] = count - sum(expected.values())
            assert {name: int((own == place[name]).sum()) for name in expected} == expected
            checked[kind, count >= 8] += 1
    assert checked[SEEN, True] and checked[SEEN, False] and checked[UNSEEN, True] and not checked[UNSEEN, False]


# Labels and places


def test_labels_are_missing_as_published(rows):
    """As published for pretrain: family 95 % known, subfamily about 20 %, genus about 15 %."""
    pretrain = [row for row in rows if row["split"] == "pretrain"]
    known = {rank: np.mean([row[rank] != "" for row in pretrain]) for rank in RANKS}
    assert known["phylum"] == 1 and known["class"] > 0.99 and known["species"] == 0
    assert known["family"] == pytest.approx(0.955, abs=0.025)
    assert known["subfamily"] == pytest.approx(0.2, abs=0.05) and known["genus"] == pytest.approx(0.15, abs=0.05)
    for row in rows:
        names = [row[rank] for rank in RANKS]
        assert "" not in names[: len([name for name in names if name])]  # no gap
        named = [name for name in names if name and not name.startswith("unassigned ")]
        assert row["taxon"] == named[-1]
        if row["species"]:
            assert row["species"].split()[0] == row["genus"]


def test_names_follow_the_nomenclature(rows):
    assert all(re.fullmatch(r"([A-Z][a-z]+idae)?", row["family"]) for row in rows)
    unassigned = [row for row in rows if row["subfamily"].startswith("unassigned")]
    assert unassigned and len(unassigned) < 0.2 * len(rows)
    assert all(row["subfamily"] == f"unassigned {row['family']}" and row["genus"] for row in unassigned)
    assert all(re.fullmatch(r"([A-Z][a-z]+inae)?", row["subfamily"]) for row in rows if row not in unassigned)
    for child, parent in zip(RANKS[1:], RANKS, strict=False):  # a name has one parent
        parents = defaultdict(set)
        for row in rows:
            if row[child]:
                parents[row[child]].add(row[parent])
        assert all(len(found) == 1 for found in parents.values())


def test_abundances_are_uneven(rows):
    orders = Counter(row["order"] for row in rows)
    assert orders.most_common(1)[0][0] == "Diptera" and orders["Diptera"] > 0.35 * len(rows) and len(orders) > 8
    assert len({row["class"] for row in rows} - {""}) >= 3
    train = Counter(row["species"] for row in rows if row["split"] == "train").values()
    assert max(train) > 20 and min(train) == 1


def test_other_columns(rows):
    assert np.mean([row["country"] == "Costa Rica" for row in rows]) > 0.6
    assert len({row["country"] for row in rows}) > 5 and any(row["province_state"] == "" for row in rows)
    latitude = defaultdict(list)
    for row in rows:
        latitude[row["country"]].append(row["coord-lat"])
        assert row["coord-lat"] == round(row["coord-lat"], 3) and row["coord-lon"] == round(row["coord-lon"], 3)
    assert 8 < min(latitude["Costa Rica"]) and max(latitude["Costa Rica"]) < 11.5 and min(latitude["Finland"]) > 59
    assert {row["inferred_ranks"] for row in rows} == {0, 4}
    assert all(row["genus"] and row["subfamily"] for row in rows if row["inferred_ranks"])
    in_1m = [row["index_bioscan_1M_insect"] for row in rows if row["index_bioscan_1M_insect"] != ""]
    assert 0.1 < len(in_1m) / len(rows) < 0.3 and len(set(in_1m)) == len(in_1m)
    missing = [row for row in rows if row["dna_bin"] == ""]
    assert 0 < len(missing) < 0.01 * len(rows)
    assert all(re.fullmatch(r"BOLD:A[A-Z]{2}\d{4}", row["dna_bin"]) for row in rows if row["dna_bin"])


def test_bins_are_species_with_exceptions(rows):
    """Most species have their own BIN; a few have two, and a few pairs share one."""
    bins, species = defaultdict(set), defaultdict(set)
    for row in rows:
        if row["species"] and row["dna_bin"]:
            bins[row["species"]].add(row["dna_bin"])
            species[row["dna_bin"]].add(row["species"])
    split = np.mean([len(found) == 2 for found in bins.values()])
    shared = np.mean([len(found) == 2 for found in species.values()])
    assert 0 < split < 0.15 and 0 < shared < 0.15
    assert max(map(len, bins.values())) == 2 and max(map(len, species.values())) == 2


# Barcodes


def test_reads_have_realistic_errors(rows):
    """Real records: 8 % with N, 0.5 % with other IUPAC letters, 8 % short, 1 % over 660; 2.07 rows per barcode."""
    reads = [row["dna_barcode"] for row in rows]
    length = np.array([len(read) for read in reads])
    assert set("".join(reads)) <= set("ACGTNRYSWKM") and min(length) >= 387 and 660 < max(length) <= 720
    assert np.median(length) == BARCODE_LENGTH
    assert np.mean(length <= 600) == pytest.approx(0.08, abs=0.02)
    assert np.mean(length > 660) == pytest.approx(0.01, abs=0.006)
    assert np.mean(["N" in read for read in reads]) == pytest.approx(0.08, abs=0.02)
    assert 0 < np.mean([not set(read) <= set("ACGTN") for read in reads]) < 0.012
    assert 1.6 < len(rows) / len(set(reads)) < 2.4


def test_whole_reads_are_open_reading_frames(rows):
    whole = [row["dna_barcode"] for row in rows if re.fullmatch("[ACGT]{658}", row["dna_barcode"])]
    assert len(whole) > 2000
    assert not any(read[i : i + 3] in ("TAA", "TAG") for read in whole for i in range(1, 656, 3))


@pytest.fixture(scope="module")
def taxa():
    return grow_taxa(np.random.default_rng(0), 400)


def test_barcodes_are_open_reading_frames(taxa):
    """A barcode begins with the third site of a codon; TAA and TAG are stops in invertebrate mitochondria."""
    text = ["".join("ACGT"[base] for base in barcode) for barcode in taxa.barcodes.tolist()]
    assert {len(barcode) for barcode in text} == {658}
    codons = {barcode[i : i + 3] for barcode in text for i in range(1, 657, 3)}
    assert not codons & {"TAA", "TAG"} and "TGA" in codons and len(codons) > 40
    assert codon_position(4).tolist() == [2, 0, 1, 2]
    share = np.mean([barcode.count("A") + barcode.count("T") for barcode in text]) / 658
    assert 0.6 < share < 0.8  # real COI: about 0.68


def test_third_codon_positions_are_the_fastest(taxa):
    first, second = taxa.barcodes[:-1], taxa.barcodes[1:]
    change = [(first != second)[:, codon_position(658) == i].mean() for i in range(3)]
    assert change[1] < change[0] < change[2] / 2


def test_distances_grow_with_rank(taxa):
    """Mean distances of real barcodes: 0.09 within a genus, 0.13 in a family, 0.17 in an order."""
    i, j = np.triu_indices(len(taxa.epithets), 1)
    distance = (taxa.barcodes[i] != taxa.barcodes[j]).mean(axis=1)
    same = {rank: taxa.lineage[rank][i] == taxa.lineage[rank][j] for rank in RANKS[:-1]}
    apart = [
        distance[same[rank] & ~same[below]].mean()
        for rank, below in (("subfamily", "genus"), ("order", "family"), ("class", "order"), ("phylum", "class"))
    ]
    means = [distance[same["genus"]].mean(), *apart]
    assert means == sorted(means) and 0.05 < means[0] < 0.12 and 0.14 < means[2] < 0.24


def test_transitions_are_more_frequent():
    """From A, G (a transition) is more than 3 times as frequent as C; their equilibria are 0.25 and 0.16."""
    ancestor = np.full((200, 600), 0, np.uint8)
    child = evolve(np.random.default_rng(0), ancestor, np.full(200, 0.05), np.ones(600))
    first = child[:, codon_position(600) == 0]  # equilibrium there: C 0.16, G 0.25
    changes = np.bincount(first.ravel(), minlength=4)
    assert changes[2] > 3 * changes[1] > 0


def count_kmers(read):
    """Normalised 4-mer counts; a 4-mer with a letter other than ACGT is ignored."""
    base = np.array(["ACGT".find(letter) for letter in read[:660]])
    windows = np.lib.stride_tricks.sliding_window_view(base, 4)
    codes = (windows * (64, 16, 4, 1)).sum(axis=1)[(windows >= 0).all(axis=1)]
    counts = np.bincount(codes, minlength=256)
    return counts / np.linalg.norm(counts)


def test_barcodes_tell_species_but_not_all_genera(rows):
    """Nearest neighbours by 4-mers find most species of test, but not the genus of every unseen species."""

    def accuracy(split, rank):
        keys, queries = ([row for row in rows if row["split"] == name] for name in ("train", split))
        key, query = (np.array([count_kmers(row["dna_barcode"]) for row in part]) for part in (keys, queries))
        return np.mean([row[rank] == keys[i][rank] for row, i in zip(queries, (query @ key.T).argmax(1), strict=True)])

    assert 0.9 < accuracy("test", "species") <= 1
    assert 0.4 < accuracy("key_unseen", "genus") < 0.92


# Photos


@pytest.mark.parametrize("package", ["cropped_256", "original_256", "cropped", "original_full"])
def test_sizes_of_photos(specimens, package):
    """Each side of a crop is that of the box plus 0.4 of the longer: 200 x 150 gives 280 x 230, at 256: 312 x 256."""
    specimen = Specimen("Diptera", specimens[0].traits, (300, 300, 500, 450), 1.0, (0, 0))
    photo = Image.open(BytesIO(draw_photo(specimen, package)))
    expected = {"cropped_256": (312, 256), "original_256": (341, 256), "cropped": (280, 230)}
    assert photo.size == expected.get(package, (1024, 768)) and photo.mode == "RGB" and photo.format == "JPEG"


def test_crops_of_a_release(release):
    sizes, weights, means = [], [], []
    with ZipFile(release / "BIOSCAN_5M_cropped_256_train.zip") as archive:
        for member in archive.namelist():
            photo = Image.open(BytesIO(archive.read(member)))
            sizes.append(photo.size)
            weights.append(archive.getinfo(member).file_size)
            means.append(np.asarray(photo).mean() / 255)
    assert {min(size) for size in sizes} == {256} and max(map(max, sizes)) <= 360 and len(set(sizes)) > 5
    assert 8_000 < np.mean(weights) < 20_000
    assert np.mean(means) == pytest.approx(0.76, abs=0.04)  # of the published crops


def test_specimen_lies_in_its_box(specimens):
    """The dark pixels of an original photo are inside the box."""
    for i in range(20):
        box = specimens[i].box
        grey = np.asarray(Image.open(BytesIO(draw_photo(specimens[i], "original_full"))).convert("L"))
        inside = np.zeros(grey.shape, bool)
        inside[box[1] : box[3], box[0] : box[2]] = True
        dark = grey < 130
        assert dark.sum() > 100 and dark[inside].sum() > 0.97 * dark.sum()


def test_photos_show_inherited_traits_with_variation(specimens, rows):
    """Two photos with the same traits differ; colours identify species better than chance, but not always."""
    species = [row["species"] for row in rows]
    often = [name for name, _ in Counter(filter(None, species)).most_common(20)]
    chosen = [i for name in often for i in [j for j, other in enumerate(species) if other == name][:8]]
    features = []
    for i in chosen:
        pixels = np.asarray(Image.open(BytesIO(draw_photo(specimens[i], "cropped_256")))).reshape(-1, 3) / 255
        body = pixels[pixels.min(axis=1) < 0.6]
        features.append([*body.mean(axis=0), *body.std(axis=0)])
    features = np.array(features)
    assert len(np.unique(features, axis=0)) == len(chosen) == 160
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    names = np.array([species[i] for i in chosen])
    accuracy = (names[distance.argmin(axis=1)] == names).mean()
    assert 0.15 < accuracy < 0.9  # chance: 7/159 = 0.044


# Writing


def test_same_bytes_with_any_number_of_workers(tmp_path):
    alone = simulate_release(tmp_path / "alone", 120, seed=3, workers=1)
    shared_out = simulate_release(tmp_path / "shared_out", 120, seed=3, workers=2)
    other = simulate_release(tmp_path / "other", 120, seed=4, workers=1)
    assert digests(alone) == digests(shared_out)
    assert digests(alone)["BIOSCAN_5M_cropped_256_eval.zip"] != digests(other)["BIOSCAN_5M_cropped_256_eval.zip"]


def test_a_second_run_restores_missing_files(tmp_path):
    root = simulate_release(tmp_path / "release", 50, packages=())
    before = digests(root)
    (root / CSV_PATH).unlink()
    assert simulate_release(root, 50, packages=()) == root and digests(root) == before


def test_a_foreign_folder_is_refused(tmp_path):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="precious is not empty"):
            simulate_release(folder, 50, packages=(), force=force)
    assert digests(folder).keys() == {"thesis.txt"}


def test_other_arguments_need_force_which_keeps_foreign_files(tmp_path):
    root = simulate_release(tmp_path / "release", 50)
    (root / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="made with .*'seed': 0.*force=True"):
        simulate_release(root, 50, seed=1, packages=())
    assert (root / "BIOSCAN_5M_cropped_256_eval.zip").exists()
    simulate_release(root, 50, seed=1, packages=(), force=True)
    assert not list(root.glob("*.zip")) and (root / "notes.txt").read_text() == "mine"
    (root / "BIOSCAN_5M_cropped_256_eval.zip").write_text("real data")
    with pytest.raises(FileExistsError, match="BIOSCAN_5M_cropped_256_eval.zip, which no simulation wrote"):
        simulate_release(root, 50, force=True)
    assert (root / "BIOSCAN_5M_cropped_256_eval.zip").read_text() == "real data"


def test_a_failure_leaves_no_partial_file(tmp_path, monkeypatch):
    def fail(specimen, package):
        raise OSError("disk full")

    monkeypatch.setattr("bioscan_hf.simulate.release.draw_photo", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_release(tmp_path / "release", 50)
    assert not list((tmp_path / "release").glob("*.zip*")) and (tmp_path / "release" / CSV_PATH).exists()
    monkeypatch.undo()
    shutil.copytree(tmp_path / "release", tmp_path / "copy")
    assert digests(simulate_release(tmp_path / "copy", 50)) == digests(simulate_release(tmp_path / "new", 50))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"specimens": 49}, "specimens is 49; it must be from 50"),
        ({"seed": -1}, "seed is -1"),
        ({"packages": ("cropped_265",)}, "'cropped_265'.*cropped_256"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_release(tmp_path / "release", **arguments)
    assert not (tmp_path / "release").exists()


# Metadata alone, of any size


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Metadata in three blocks, the last not full."""
    return simulate_release(tmp_path_factory.mktemp("large") / "release", 110_000, seed=3, metadata_only=True)


@pytest.mark.slow
def test_large_metadata_keep_the_rules_of_the_splits(large):
    """The rules hold over all blocks, as in a small release."""
    rows = read_rows(large)
    check_partition(labels_of(rows))
    ids = [row["processid"] for row in rows]
    assert len(ids) == 110_000 and ids == sorted(set(ids)) and {row["split"] for row in rows} == set(SPLITS)
    repeated = {row["dna_barcode"].strip("N") for row in rows}
    assert len(repeated) < 0.95 * len(ids), "too few repeated barcodes for this test"
    lengths = [sum(map(len, row.values())) + len(COLUMNS) for row in rows]
    assert 700 < sum(lengths) / len(lengths) < 900


def test_large_metadata_are_consistent(large):
    """Equal barcodes have equal names; sizes are those of the boxes, chunks those of the ids; no row is left out."""
    checked = reader.scan(find_metadata(large))
    assert sum(checked.counts.values()) == 110_000 and not checked.left_out and not checked.notes
    assert 0.88 < checked.counts["pretrain"] / 110_000 < 0.93
    known = {}
    for _, table in reader.read_typed(find_metadata(large), checked):
        for row in table.slice(0, 2000).to_pylist():
            width, height = row["bbox_x1"] - row["bbox_x0"], row["bbox_y1"] - row["bbox_y0"]
            assert row["area_fraction"] == round(width * height / (1024 * 768), 4)
            assert row["scale_factor"] == round(min(width, height) / 256, 4)
            assert (row["chunk"] or "") == chunk(row["processid"], row["split"])
            assert row["taxon"] and row["taxon"] == next(
                row[rank] for rank in reversed(RANKS) if row[rank] and not row[rank].startswith("unassigned ")
            )
            names = tuple(row[rank] for rank in RANKS)
            assert known.setdefault((row["dna_barcode"], row["split"]), names) == names
            assert len(row["dna_barcode"]) >= 387


def test_full_blocks_do_not_depend_on_what_follows(large, tmp_path):
    """The first 50,000 rows of a smaller simulation have the same bytes; another seed gives others."""
    smaller = simulate_release(tmp_path / "smaller", 50_000, seed=3, metadata_only=True)
    for name in (CSV_PATH, BOXES_PATH):
        text = (smaller / name).read_bytes()
        assert len(text) > 1_000_000 and (large / name).read_bytes().startswith(text)
    other = simulate_release(tmp_path / "other", 100, seed=4, metadata_only=True)
    again = simulate_release(tmp_path / "again", 100, seed=4, metadata_only=True)
    assert digests(other) == digests(again) and len(read_rows(other)) == 100
    assert read_rows(other)[0] != read_rows(smaller)[0]
    assert {path.name for path in other.rglob("*") if path.is_file()} == {
        MANIFEST,
        CSV_PATH.rsplit("/", 1)[1],
        BOXES_PATH,
    }


def test_large_metadata_refuse_more_rows_than_ids(tmp_path):
    with pytest.raises(ValueError, match="specimens is 17,576,001; it must be from 50 .* to 17,576,000"):
        simulate_release(tmp_path / "release", 17_576_001, metadata_only=True)


# Real data


@pytest.mark.realdata
def test_composition_is_that_of_real_barcodes(real_data, taxa):
    """Frequencies of the nucleotides at each codon position, against complete BOLD barcodes."""
    with gzip.open(real_data / "bold_coi5p_sample.csv.gz", "rt", encoding="utf-8") as file:
        reads = [row["dna_barcode"] for row in csv.DictReader(file)]
    whole = [read for read in reads if re.match("A[AC][CA]|T[AC][CA]", read) and re.fullmatch("[ACGT]{658}", read)]
    assert len(whole) > 500
    real = np.array([["ACGT".index(base) for base in read] for read in whole])
    for position in range(3):
        sites = codon_position(658) == position
        shares = [
            np.bincount(table[:, sites].ravel(), minlength=4) / table[:, sites].size for table in (real, taxa.barcodes)
        ]
        assert np.abs(shares[0] - shares[1]).max() < 0.13
