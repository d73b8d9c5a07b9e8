"""Names of photos and of other vectors: confidences, statuses, and the folder of a library."""

import csv
import json

import numpy as np
import pytest
from clibd_runs import make_folder
from photo_world import encoder, part, rows_of, score, vectors

from bioscan_hf.encoders.embed import embed
from bioscan_hf.identification.embeddings import EmbeddingLibrary
from bioscan_hf.identification.photo_references import read_vectors
from bioscan_hf.identification.photos import read_specimens
from bioscan_hf.schema import LABEL_COLUMNS


def simulated(species_of_genus, each, seed, genera=40, spread=0.25):
    """Vectors of specimens: near within a species, less near within a genus."""
    random = np.random.default_rng(seed)
    x, genus, species = [], [], []
    for g in range(genera):
        centre = random.normal(size=16)
        for s in range(species_of_genus):
            own = centre + 0.5 * random.normal(size=16)
            for _ in range(each):
                x.append(own + spread * random.normal(size=16))
                genus.append(f"G{g:02}")
                species.append(f"G{g:02} s{s}")
    return np.asarray(x, np.float32), {"genus": genus, "species": species}


@pytest.fixture(scope="module")
def world():
    """Keys of 3 of 5 species in each genus; queries of those species (seen), and of the others (novel)."""
    x, labels = simulated(5, 8, seed=0)
    number = np.asarray([int(name[-1]) for name in labels["species"]])
    turn = np.arange(len(x)) % 8
    parts = {"keys": (number < 3) & (turn < 5), "seen": (number < 3) & (turn >= 5), "novel": number >= 3}
    return {name: (x[rows], part(labels, np.flatnonzero(rows))) for name, rows in parts.items()}


@pytest.fixture(scope="module")
def library(world):
    return EmbeddingLibrary.from_embeddings(*world["keys"])


@pytest.mark.parametrize("novel", [0.0, 0.3, 0.9])
def test_confidences_hold_for_any_share_of_new_species(world, library, novel):
    """Mean confidence is near accuracy and seldom above it; the share is estimated from the queries alone."""
    random = np.random.default_rng(1)
    many = len(world["seen"][0])
    chosen = {"seen": random.permutation(many)[: round((1 - novel) * many)]}
    chosen["novel"] = random.permutation(len(world["novel"][0]))[: round(novel * many)]
    x = np.concatenate([world[name][0][rows] for name, rows in chosen.items()])
    labels = {
        rank: [world[name][1][rank][row] for name, rows in chosen.items() for row in rows] for rank in world["seen"][1]
    }
    table = library.identify_embeddings(x)
    assert abs(float(table.schema.metadata[b"novel_share"]) - novel) < 0.12
    for rank in ("genus", "species"):
        found = score(table, labels, rank)
        assert -0.12 < found["sure"] - found["right"] < 0.06, (rank, found)
        assert found["right of named"] > 0.95 or found["named"] < 0.02
    sure = [np.array(table[f"{rank}_confidence"].to_pylist()) for rank in ("genus", "species")]
    assert (sure[1] <= sure[0] + 1e-9).all()


def test_new_species_are_told_and_the_share_can_be_given(world, library):
    seen, novel = (library.identify_embeddings(world[name][0]) for name in ("seen", "novel"))
    means = [np.mean(table["species_new"].to_pylist()) for table in (seen, novel)]
    assert means[0] < 0.15 and means[1] > 0.85
    assert (
        np.mean(library.identify_embeddings(world["seen"][0], novel_share=0.9)["species_new"].to_pylist()) > means[0]
    )
    with pytest.raises(ValueError, match="novel_share is 1.5; give a share from 0 to 1"):
        library.identify_embeddings(world["seen"][0], novel_share=1.5)


def test_all_vectors_of_a_specimen_are_left_out(world):
    """Each specimen three times: were it not left out, every name would be learned to be right."""
    x, labels = simulated(1, 1, seed=1, genera=30)
    three = {rank: names * 3 for rank, names in labels.items()}
    ids = [f"P{i}" for i in range(30)] * 3
    made = EmbeddingLibrary.from_embeddings(np.concatenate([x] * 3), three, ids=ids)
    assert made.calibration.asked["species known"] == 0
    assert max(one or 0 for one in made.identify_embeddings(x)["species_confidence"].to_pylist()) < 0.5


def test_answers_by_hand():
    """The nearest key with a name gives the name; equal keys vote, and the conflict is told."""
    keys = [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    labels = {"genus": ["A", "B", "B", "B", "B"], "species": ["A a", "B b", "B c", "B c", None]}
    few = EmbeddingLibrary.from_embeddings(keys, labels, ids=list("vwxyz"))
    rows = few.identify_embeddings([[4, 3, 0], [0, 2, 0], [0, 0, 1], [0, 0, 0]], list("abcd"), valid=[1, 1, 1, 0])
    rows = rows.to_pylist()
    assert few.calibration is None and [row["genus"] for row in rows] == ["A", "B", "B", None]
    assert rows[0]["nearest"] == "v" and rows[0]["similarity"] == pytest.approx(0.8)
    assert rows[1]["species"] == "B c" and rows[1]["conflicts"] == "2 species equally near"
    assert rows[2]["nearest"] == "z" and rows[3]["status"] == "no_photo" and rows[3]["note"]
    assert all(row["name"] is None and row["species_confidence"] is None for row in rows)
    assert not {"identity", "overlap", "strand"} & rows[0].keys()


def test_bad_input(world, library):
    keys, labels = world["keys"]
    with pytest.raises(ValueError, match="queries have 3 dimensions and the keys 16: both must come from the same"):
        library.identify_embeddings(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"rows 0 \(q7\)"):
        library.identify_embeddings(np.full((1, 16), np.nan), ["q7"])
    with pytest.raises(ValueError, match="'genus' has 2 entries for 600 vectors"):
        EmbeddingLibrary.from_embeddings(keys, {"genus": ["a", "b"]})
    with pytest.raises(ValueError, match="needs its encoder of photos"):
        library.identify([b"x"])
    with pytest.raises(ValueError, match="1 specimens and 2 ids"):
        library.identify_embeddings(keys[:1], ["a", "b"])


def test_saved_libraries_name_alike_and_damage_is_named(world, library, tmp_path):
    folder = tmp_path / "library"
    library.save_pretrained(folder)
    opened = EmbeddingLibrary.from_pretrained(folder)
    x = world["novel"][0]
    before, after = library.identify_embeddings(x), opened.identify_embeddings(x)
    for name in before.column_names:
        if name.endswith(("confidence", "_new")):
            assert after[name].to_pylist() == pytest.approx(before[name].to_pylist(), abs=1e-6)
        else:
            assert after[name].equals(before[name])
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        *("library.json", "references.parquet", "vectors.safetensors")
    ]
    for name in ("library.json", "references.parquet", "vectors.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError) as told:
            EmbeddingLibrary.from_pretrained(folder)
        assert "\n" not in str(told.value)
        (folder / name).write_bytes(content)
    with pytest.raises(FileNotFoundError, match="is not a library of embeddings"):
        EmbeddingLibrary.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def photos(dataset):
    """A library of the photos of the training splits, and the others."""
    made = EmbeddingLibrary.from_files(dataset, model=encoder(), split="pretrain+train+key_unseen")
    return made, rows_of(dataset, "val+test+test_unseen")


def test_photos_are_named(photos):
    """Most orders and families are right, and confidences do not exceed that."""
    library, rows = photos
    table = library.identify(rows["photo"], rows["processid"])
    for rank in ("order", "family"):
        found = score(table, rows, rank)
        assert found["right"] > 0.6 and found["sure"] < found["right"] + 0.1, (rank, found)
    assert set(table["status"].to_pylist()) <= {"ok", "far"}


def test_unreadable_and_missing_photos_stop_nothing(photos, tmp_path):
    library, rows = photos
    (tmp_path / "cut.jpg").write_bytes(rows["photo"][0][:300])
    (tmp_path / "good.jpg").write_bytes(rows["photo"][1])
    given = [rows["photo"][0], tmp_path / "cut.jpg", None, tmp_path / "absent.jpg", tmp_path / "good.jpg", b"text", 7]
    table = library.identify(given).to_pylist()
    expected = ["ok", "unreadable", "no_photo", "no_photo", "ok", "unreadable", "unreadable"]
    assert [row["status"] for row in table] == expected
    assert all((row["order"] is None) == (row["status"] != "ok") for row in table)
    assert all(row["note"] for row in table if row["status"] != "ok")
    assert table[4]["nearest"] == library.identify([rows["photo"][1]])["nearest"][0].as_py()
    assert [row["status"] for row in library.identify([b"", b"no"]).to_pylist()] == ["no_photo", "unreadable"]


def test_a_table_of_photos_with_names_is_a_library(photos, tmp_path):
    """Its names get their one form, broken photos are left out and told, and a specimen finds itself."""
    rows, species = (
        part(photos[1], range(24)),
        ["Apis mellifera Linnaeus, 1758", "Apis sp.", "Apis mellifera ligustica"],
    )
    with open(tmp_path / "own.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "photo", "family", "genus", "species"])
        for i, photo in enumerate(rows["photo"]):
            (tmp_path / f"{i}.jpg").write_bytes(photo if i else photo[:99])
            writer.writerow([rows["processid"][i], f"{i}.jpg", "Apidae", "Apis", species[i % 3]])
    made = EmbeddingLibrary.from_files(tmp_path / "own.csv", model=encoder())
    assert len(made) == 23 and made.taxa["species"] == ["Apis mellifera"]
    assert made.info["notes"] == [
        "1 photo is damaged or not of a known kind",
        "left out 1 record without a photo",
        "8 records have no species: 'Apis sp.' or the like is not a name",
        "8 records of subspecies count as their species, such as 'Apis mellifera ligustica'",
    ]
    found = made.identify([tmp_path / "3.jpg"]).to_pylist()[0]
    assert found["nearest"] == rows["processid"][3] and found["similarity"] == pytest.approx(1)
    (tmp_path / "bare.csv").write_text("id,photo\na,3.jpg\n")
    with pytest.raises(ValueError, match="has no names: a table of references needs columns"):
        EmbeddingLibrary.from_files(tmp_path / "bare.csv", model=encoder())
    with pytest.raises(ValueError, match="Photos need an encoder"):
        EmbeddingLibrary.from_files(tmp_path / "own.csv")


def test_embeddings_on_disk_are_a_library(dataset, photos, tmp_path):
    """By the labels that were kept, or by the dataset beside them; other weights are refused."""
    from bioscan_hf import load_bioscan5m

    model, processor = encoder()
    data = load_bioscan5m(dataset, "cropped_256", "train")
    embed(model, processor, data, output=tmp_path / "plain")
    embed(model, processor, data, output=tmp_path / "kept", keep=LABEL_COLUMNS)
    with pytest.raises(ValueError, match="has no names of taxa. Give the dataset"):
        EmbeddingLibrary.from_files(tmp_path / "plain")
    one = EmbeddingLibrary.from_files([tmp_path / "plain", dataset])
    two = EmbeddingLibrary.from_files(tmp_path / "kept", model=(model, processor))
    direct = EmbeddingLibrary.from_files(dataset, model=(model, processor), split="train")
    assert one.records.equals(two.records) and one.info["fingerprint"] == direct.info["fingerprint"]
    assert np.allclose(one.keys.vectors, direct.keys.vectors, atol=1e-5)
    one.save_pretrained(tmp_path / "library")
    rows = part(photos[1], range(5))
    opened = EmbeddingLibrary.from_pretrained(tmp_path / "library", model=encoder())
    assert len(opened.identify(rows["photo"])) == 5
    clibd = make_folder(tmp_path / "clibd", ("image", "dna"))
    with pytest.raises(ValueError, match="the given one has other weights"):
        EmbeddingLibrary.from_pretrained(tmp_path / "library", model=str(clibd))


def test_photos_are_named_by_barcodes_with_clibd(dataset, tmp_path):
    """Keys are the vectors of barcodes, queries those of photos; what is learned is learned with photos as queries."""
    clibd = str(make_folder(tmp_path / "clibd", ("image", "dna")))
    found = read_vectors([dataset], model=clibd, keys="dna", split="train")
    rows = rows_of(dataset, "train")
    assert found.ids == rows["processid"]
    from bioscan_hf.models.modeling_clibd import ClibdModel
    from bioscan_hf.models.processing_clibd import ClibdProcessor

    model, processor = ClibdModel.from_pretrained(clibd).eval(), ClibdProcessor.from_pretrained(clibd)
    inputs = processor(dna=rows["dna_barcode"][:3])
    vectors = model.get_dna_features(inputs["dna_input_ids"], inputs["dna_attention_mask"]).detach().numpy()
    assert np.allclose(found.vectors[:3], vectors, atol=1e-4)
    assert (found.queries != found.vectors).any()
    made = EmbeddingLibrary.from_files(dataset, model=clibd, keys="dna", split="train")
    assert made.calibration is not None and made.info["keys"] == "dna"
    assert made.info["model"] == "clibd" and str(tmp_path) not in json.dumps(made.info)
    table = made.identify(rows["photo"][:4])
    assert table["status"].to_pylist() == ["ok"] * 4 and None not in table["order"].to_pylist()
    with pytest.raises(ValueError, match="Keys of barcodes need a CLIBD model"):
        read_vectors([dataset], model=encoder(), keys="dna", split="train")


def test_barcodes_without_photos_name_photos_without_confidence(dataset, tmp_path):
    """References of a FASTA have no photos, so nothing can be learned about photos."""
    clibd = str(make_folder(tmp_path / "clibd", ("image", "dna")))
    rows = part(rows_of(dataset, "train"), range(30))
    (tmp_path / "x.fasta").write_text(
        "".join(
            f">{name};tax=o:{order},g:{genus},s:{species};\n{barcode}\n"
            for name, order, genus, species, barcode in zip(
                *(rows[key] for key in ("processid", "order", "genus", "species", "dna_barcode")), strict=True
            )
        )
    )
    made = EmbeddingLibrary.from_files(tmp_path / "x.fasta", model=clibd, keys="dna")
    assert made.calibration is None and "have no confidence" in made.info["notes"][0]
    row = made.identify(rows["photo"][:1]).to_pylist()[0]
    assert row["order"] is not None and row["order_confidence"] is None and row["name"] is None


def test_columns_of_one_meaning_that_differ_are_refused(tmp_path):
    """Equal ones are read, also in another spelling."""
    table = tmp_path / "specimens.csv"
    table.write_text("ID,Photo,species,Species\na,a.jpg,Apis mellifera,Bombus terrestris\n")
    with pytest.raises(ValueError, match="'species' and 'Species' both stand for 'species', but differ in row 1"):
        read_specimens(table)
    table.write_text("ID,Photo,species,Especie\na,a.jpg,Apis mellifera,Apis mellifera\n")
    found = read_specimens(table)
    assert found.ids == ["a"] and found.labels["species"].to_pylist() == ["Apis mellifera"]
    with pytest.raises(ValueError, match="has no column 'number'; it has 'ID', 'Photo', 'species', 'Especie'"):
        read_specimens(table, id_column="number")


def test_a_dataset_of_specimens_is_read(dataset):
    found = read_specimens(dataset, split="test")
    rows = rows_of(dataset, "test")
    assert found.ids == rows["processid"] and found.reads.to_pylist() == rows["dna_barcode"]
    assert found.labels["species"].to_pylist() == rows["species"]
    assert vectors(rows, 0.1).shape == (len(found), 48)
