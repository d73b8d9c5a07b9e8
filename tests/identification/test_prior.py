"""Small libraries of COI: the region and the confidences that their references do not teach are filled up."""

import numpy as np
import pytest
from made_up_references import evolved, library_of, records

from bioscan_hf.files import read_json
from bioscan_hf.identification.calibration import LEVELS, Evidence
from bioscan_hf.identification.learning import ENOUGH, Asked, learn
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.prior import FACTS, FILES, FILLED, is_coi, read_prior
from bioscan_hf.identification.region import complement

CONSENSUS = read_json(FILES / FACTS)["consensus"]


@pytest.fixture(scope="module")
def rows():
    """One record of each of 24 made-up species whose barcodes are like those of insects."""
    return records(np.random.default_rng(0), species=2, each=1, root=CONSENSUS)


@pytest.fixture(scope="module")
def library(rows):
    return library_of(rows)


def test_only_coi_is_filled_up():
    rng = np.random.default_rng(0)
    alike = [evolved(CONSENSUS, share, rng) for share in (0.1, 0.15, 0.2, 0.25)]
    assert is_coi(alike) and is_coi([read[100:420] for read in alike]) and is_coi([f"{'ACGT' * 90}{alike[0]}"])
    others = ["".join(rng.choice(list("ACGT"), 658, p=[0.4, 0.1, 0.1, 0.4])) for _ in range(4)]
    assert not is_coi(others) and not is_coi([read[::-1] for read in alike]) and not is_coi(map_of(complement, alike))
    assert is_coi([*alike, *others[:3]]) and not is_coi([*alike[:3], *others])


def map_of(function, values):
    return [function(value) for value in values]


def test_one_reference_for_each_species_names_reads(rows, library):
    """Records of the same species, 0.4 % away, are named to species; those of new species (3.5 % away) are not."""
    rng = np.random.default_rng(1)
    reads = [evolved(row["dna_barcode"], 0.004, rng) for row in rows]
    new = [evolved(row["dna_barcode"], 0.06, rng) for row in rows]
    found = library.identify([*reads, *map_of(complement, reads), *new, "ACGT" * 100])
    names, ranks = found["name"].to_pylist(), found["rank"].to_pylist()
    n = len(rows)
    for start in (0, n):
        named = [names[start + i] == rows[i]["species"] for i in range(n) if ranks[start + i] == "species"]
        assert len(named) >= 0.9 * n and all(named)
    assert "species" not in ranks[2 * n :] and found["status"][3 * n].as_py() == "not_coi"
    assert library.calibration.filled and FILLED in library.info["notes"]


def test_references_of_one_species_name_its_reads(rows):
    """Such as a pest's: its name is right if the species is there, as other libraries teach. Others do not get it."""
    rng = np.random.default_rng(1)
    first, sister, far = rows[0], rows[1], rows[-1]
    barcodes = [evolved(first["dna_barcode"], 0.002, rng) for _ in range(7)]
    own = [{**first, "processid": f"P{i}", "dna_barcode": barcode} for i, barcode in enumerate(barcodes)]
    reads = [barcodes[6], sister["dna_barcode"], far["dna_barcode"]]
    named, near, other = library_of(own[:6]).identify(reads).to_pylist()
    assert named["rank"] in ("genus", "species") and named["name"] == first[named["rank"]]
    assert named["species_confidence"] > 0.5 and near["species_confidence"] < 0.1 and near["rank"] != "species"
    assert first["genus"] == sister["genus"] and first["order"] != far["order"] and other["name"] is None


def test_a_handful_of_references_has_a_region(rows, tmp_path):
    """Five references of five lengths: reads are put in their place; the folder is like any other."""
    few = [
        {**row, "dna_barcode": row["dna_barcode"][:length]}
        for row, length in zip(rows, range(500, 625, 25), strict=False)
    ]
    library = library_of(few)
    assert library.references.region.positions == len(CONSENSUS)
    library.save_pretrained(tmp_path / "few")
    read = complement(few[0]["dna_barcode"][40:400])
    for one in (library, ReferenceLibrary.from_pretrained(tmp_path / "few")):
        found = one.identify([read])
        assert found["species"].to_pylist() == [few[0]["species"]] and found["strand"].to_pylist() == ["-"]
        assert found["status"].to_pylist() == ["short"] and found["species_confidence"][0].as_py() > 0.5


def test_references_on_the_other_strand_are_turned(rows):
    """All, half or one of a few, or all of many: reads get the strand, names and confidences that they get from the
    same references as they should be. Equal records of both strands are one."""
    few = [{**row, "dna_barcode": row["dna_barcode"][:600]} for row in rows[:8]]
    reads = [few[0]["dna_barcode"][20:580], complement(few[5]["dna_barcode"])]

    def with_turned(records, places):
        return [
            {**row, "dna_barcode": complement(row["dna_barcode"])} if i in places else row
            for i, row in enumerate(records)
        ]

    right = library_of(few)
    expected = right.identify(reads)
    assert expected["strand"].to_pylist() == ["+", "-"] and not any("strand" in note for note in right.info["notes"])
    for places in (range(8), (0, 2, 4, 5), (5,)):
        library = library_of(with_turned(few, places))
        assert library.references.sequences == right.references.sequences
        assert library.identify(reads).equals(expected)
        told = "1 record was" if len(places) == 1 else f"{len(places)} records were"
        assert f"{told} on the other strand of COI, and turned" in library.info["notes"]
        turned = [row for row in library.audit().to_pylist() if row["finding"] == "reversed"]
        assert [row["processid"] for row in turned] == [few[i]["processid"] for i in places]
        assert {row["records"] for row in turned} == {1} and turned[0]["note"].endswith("turned in the library")
    many = library_of(with_turned(rows, range(24)))
    assert many.identify(reads)["strand"].to_pylist() == ["+", "-"] and many.calibration.filled
    doubled = library_of([*few, *with_turned(few[:3], range(3))])
    assert doubled.count.tolist() == [2, 2, 2, 1, 1, 1, 1, 1] and len(doubled) == 11


def test_other_genes_are_not_turned():
    rows = records(np.random.default_rng(2), species=1, each=1)
    reversed_ = [{**row, "dna_barcode": complement(row["dna_barcode"])} for row in rows]
    assert library_of(reversed_).records["dna_barcode"].to_pylist() == [row["dna_barcode"] for row in reversed_]


def test_other_genes_are_not_filled_up():
    """With one reference for each species, whether the species of a read is new is not known, and not told as sure."""
    rows = records(np.random.default_rng(2), species=3, each=1)
    library = library_of(rows)
    assert not library.calibration.filled
    found = library.identify([evolved(row["dna_barcode"], 0.004, np.random.default_rng(3)) for row in rows])
    assert found["species"].to_pylist() == [row["species"] for row in rows]
    assert 0.3 < float(found.schema.metadata[b"novel_share"]) < 0.7
    assert set(found["rank"].to_pylist()) <= {"genus", "family", "order", None}


def asked(n, seed):
    """References at random; those with a greater first feature have their taxon at a lower level."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 5 + 2 * len(LEVELS)))
    level = ((1 - x[:, 0]) * 4.99).astype(np.int64)
    ranks = {rank: x[:, :10] for rank in ("family", "genus", "species")}
    right = {rank: np.where(level <= place, x[:, 1] > 0.1, -1) for place, rank in enumerate(("species", "genus"))}
    return Asked(Evidence(x, ranks), level, right, np.ones(n), x[:, 0], None, rng.integers(0, 40, n))


def test_enough_references_speak_for_themselves():
    own, prior = asked(8 * ENOUGH, 0), asked(500, 1)
    assert learn(own, prior).to_dict() == learn(own).to_dict() and not learn(own, prior).filled


def test_families_of_other_libraries_need_less_caution():
    """They make the errors over families larger, so that fewer of them are taken off."""
    few, many = (learn(asked(n, 0), asked(500, 1)) for n in (100, 8 * ENOUGH))
    assert few.filled and not many.filled
    for calibration, known, right in ((few, 2.0, 0.6), (many, 2.25, 0.8)):
        assert {model.caution for model in calibration.known} == {known}
        assert {model.caution for model in calibration.right.values()} == {right}


def test_the_fewer_references_the_more_others_count():
    """A prior that says the opposite moves the answer most where there are few references, and not where many."""
    prior = asked(500, 1)
    prior.level = 4 - prior.level
    at = Evidence(np.full((1, 13), 0.9), {rank: np.full((1, 10), 0.9) for rank in ("genus", "species")})
    alone, told = (
        np.array([float(learn(asked(n, 0), other).judged(at).levels[0, 0]) for n in (100, 400, 2000)])
        for other in (None, prior)
    )
    moved = alone - told
    assert moved[0] > 0.1 > abs(moved[1]) and moved[2] == 0, moved


def test_the_prior_holds_features_of_every_level():
    found = read_prior()
    assert (np.bincount(found.level) >= 2 * ENOUGH).all() and len(np.bincount(found.level)) == len(LEVELS) + 1
    assert set(np.unique(found.right["species"])) == {-1, 0, 1}
    assert ((found.evidence.known >= -10) & (found.evidence.known <= 10)).all()
