"""Names by the sequence and the photo of one specimen together, on the simulated release."""

import numpy as np
import pyarrow as pa
import pytest
from made_up_references import library_of
from photo_world import part, reads_of, records_of, rows_of, score, vectors

from bioscan_hf.dataset.build import build
from bioscan_hf.identification import library as module
from bioscan_hf.identification.answers import answered
from bioscan_hf.identification.embeddings import EmbeddingLibrary
from bioscan_hf.identification.joint import JointLibrary, Side
from bioscan_hf.identification.photos import Specimens
from bioscan_hf.schema import LABEL_COLUMNS
from bioscan_hf.simulate.release import simulate_release

RANKS = ("order", "family", "genus", "species")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Libraries of 70 % of the specimens without a fifth of the species of large genera, and the other specimens.

    Their photos are vectors that lie near those of their taxa; reads are short and have errors.
    """
    folder = tmp_path_factory.mktemp("joint")
    build(simulate_release(folder / "release", specimens=1500, seed=1, metadata_only=True), folder / "dataset")
    rows = rows_of(folder / "dataset", photos=False)
    x = vectors(rows, 1.0)
    random = np.random.default_rng(0)
    genus_of = {name: genus for name, genus in zip(rows["species"], rows["genus"], strict=True) if name}
    genera = list(genus_of.values())
    several = sorted(name for name, genus in genus_of.items() if genera.count(genus) > 1)
    gone = set(random.choice(several, len(several) // 5, replace=False))
    asked = (random.random(len(x)) < 0.3) | np.array([name in gone for name in rows["species"]])
    asked &= np.array([bool(barcode) for barcode in rows["dna_barcode"]])
    kept, asked = np.flatnonzero(~asked), np.flatnonzero(asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 250)
        sequences = library_of([row for row in records_of(part(rows, kept)) if row["dna_barcode"]])
    names = {rank: part(rows, kept)[rank] for rank in LABEL_COLUMNS}
    photos = EmbeddingLibrary.from_embeddings(x[kept], names, ids=part(rows, kept)["processid"])
    return JointLibrary(sequences, photos), part(rows, asked), x[asked]


class Vectors(EmbeddingLibrary):
    """A library whose photos are vectors already, None where there is none."""

    def described(self, photos, ids, progress=None):
        there = ["no_photo" if photo is None else "ok" for photo in photos]
        size = self.keys.vectors.shape[1]
        found = np.array([np.zeros(size) if photo is None else photo for photo in photos], np.float32)
        return pa.concat_tables(self.blocks(found, there, ids))


def identify(world, reads, photos, **options):
    """Answers of sequences, of photos, and of both."""
    joint, rows, _ = world
    ids = rows["processid"][: len(reads)]
    photo_library = Vectors(joint.photos.records, joint.photos.keys, joint.photos.calibration, joint.photos.info)
    both = JointLibrary(joint.sequences, photo_library).identify(Specimens(ids, photos, reads), **options)
    return joint.sequences.identify(reads, ids, **options), photo_library.identify(photos, ids, **options), both


@pytest.mark.slow
@pytest.mark.parametrize(("length", "errors"), [(658, 0.0), (150, 0.02), (100, 0.03)])
def test_both_are_better_than_each(world, length, errors):
    """As often right as the better one, a Brier score not above the worse one, and whoever is sure is right."""
    _, rows, x = world
    tables = identify(world, reads_of(rows, length, errors), list(x))
    for rank in RANKS:
        alone, seen, both = (score(table, rows, rank) for table in tables)
        assert both["right"] >= max(alone["right"], seen["right"]) - 0.02, (rank, alone, seen, both)
        assert both["brier"] <= max(alone["brier"], seen["brier"]) + 0.002, (rank, alone, seen, both)
        assert both["right of named"] >= 0.95 and both["sure"] <= max(alone["sure"], both["right"] + 0.06), (
            rank,
            both,
        )
        assert both["named"] >= max(alone["named"], seen["named"]) - 0.1, (rank, alone, seen, both)
    sure = [np.array(tables[2][f"{rank}_confidence"].to_pylist(), float) for rank in RANKS]
    for higher, lower in zip(sure, sure[1:], strict=False):
        assert (np.nan_to_num(lower) <= np.nan_to_num(higher, nan=1) + 1e-9).all()
    assert set(tables[2]["evidence"].to_pylist()) <= {"sequence and photo", "sequence", "photo"}


def test_photos_help_most_where_reads_are_short(world):
    """Of reads of 100 nt with errors, 1.8 times as many have a species at 50 % with photos, none of them wrong.

    The Brier score of both together is at most a fifth of that of either.
    """
    _, rows, x = world
    tables = identify(world, reads_of(rows, 100, 0.03), list(x))
    alone, seen, both = (score(table, rows, "species", 0.5) for table in tables)
    assert both["named"] > 1.8 * alone["named"] and both["named"] > seen["named"], (alone, seen, both)
    assert both["brier"] < 0.2 * min(alone["brier"], seen["brier"])
    assert both["named"] > 0.5 and both["right of named"] == 1.0


def test_a_missing_modality_gives_the_answer_of_the_other(world):
    _, rows, x = world
    reads = reads_of(rows, 300, 0.0)
    nothing = pa.chunked_array([pa.array([""] * len(reads), pa.string())])
    compared = [name for rank in RANKS for name in (rank, f"{rank}_confidence")]
    compared += ["name", "rank", "confidence", "species_new", "genus_new"]
    alone, _, both = identify(world, reads, [None] * len(reads))
    assert both.select([*compared, "status", "note", "nearest", "identity"]).equals(
        alone.select([*compared, "status", "note", "nearest", "identity"])
    )
    assert both.schema.metadata == alone.schema.metadata
    assert set(both["evidence"].to_pylist()) <= {"sequence", ""} and set(both["photo_status"].to_pylist()) == {
        "no_photo"
    }
    _, seen, both = identify(world, nothing, list(x))
    assert both.select([*compared, "status", "similarity"]).equals(seen.select([*compared, "status", "similarity"]))
    assert both["photo_nearest"].equals(seen["nearest"]) and both.schema.metadata == seen.schema.metadata
    assert both["note"][0].as_py() == "named by the photo alone: no sequence"
    _, _, neither = identify(world, nothing.slice(0, 3), [None] * 3)
    assert neither["status"].to_pylist() == ["empty"] * 3 and neither["evidence"].to_pylist() == [""] * 3


def test_what_was_mixed_up_is_told_and_not_named(world):
    """The photo of another order: if both were sure, the note says so, and no rank at which they differ is sure."""
    _, rows, x = world
    order = rows["order"][0]
    other = next(i for i, name in enumerate(rows["order"]) if name != order and rows["species"][i])
    reads = reads_of(rows, 658, 0.0)
    swapped = [*x]
    swapped[0] = x[other]
    both = identify(world, reads, swapped)[2].to_pylist()
    assert "perhaps they were mixed up" in both[0]["note"] and rows["order"][other] in both[0]["note"]
    assert sum("mixed up" in row["note"] for row in both[1:]) < 0.02 * len(both)


def test_taxa_of_one_library_only(world):
    """A species without photos is named by its sequence: the photo says that it is new, which fits."""
    joint, rows, x = world
    i = next(i for i, name in enumerate(rows["species"]) if name in joint.sequences.taxa["species"])
    name = rows["species"][i]
    keep = [j for j, one in enumerate(joint.photos.records["species"].to_pylist()) if one != name]
    records = joint.photos.records.take(keep)
    fewer = EmbeddingLibrary.from_embeddings(
        joint.photos.keys.vectors[keep],
        {rank: records[rank].to_pylist() for rank in LABEL_COLUMNS},
        ids=records["processid"].to_pylist(),
    )
    reads, ids = reads_of(rows, 658, 0.0), rows["processid"]
    asked = pa.table({"processid": ids, "dna_barcode": reads})
    texts = pa.concat_tables(joint.sequences.described([asked], 0))
    images = pa.concat_tables(fewer.blocks(x, ["ok"] * len(x), ids))
    sides = (
        Side.of(joint.sequences, texts, answered(joint.sequences, [texts], 0.95, None), None),
        Side.of(fewer, images, fewer.table([images], 0.95, None), None),
    )
    row = JointLibrary(joint.sequences, fewer)._table(sides, 0.95).to_pylist()[i]
    assert row["species"] == name and row["species_confidence"] > 0.5
