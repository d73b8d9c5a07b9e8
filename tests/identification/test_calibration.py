"""Models of confidences: monotone, cautious where families differ, and the same when read again."""

import json

import numpy as np
import pyarrow as pa
import pytest
from made_up_references import records

from bioscan_hf.identification import calibration
from bioscan_hf.identification.calibration import Calibration, Evidence
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.learning import Asked, learn
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.monotone import KNOWN_CAUTION, Monotone

FAMILIES = 40


def samples(rng: np.random.Generator, differ: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A feature, whether names are right (70 %), and families; a family is all right or all wrong if they differ."""
    families = np.repeat(np.arange(FAMILIES), 25)
    draws = rng.random(FAMILIES)[families] if differ else rng.random(len(families))
    return rng.random((len(families), 1)), draws < 0.7, families


def test_families_that_differ_lower_a_confidence():
    rng = np.random.default_rng(0)
    at = np.array([[0.5]])
    lowered = {}
    for differ in (False, True):
        x, right, families = samples(rng, differ)
        plain = Monotone.fit(x, right, np.ones(len(x)))
        careful = Monotone.fit(x, right, np.ones(len(x)), families, KNOWN_CAUTION)
        assert isinstance(plain, Monotone) and isinstance(careful, Monotone)
        assert plain(at)[0] == pytest.approx(right.mean(), abs=0.1)
        assert plain(at)[0] == plain(at)[1] and careful(at)[0] == plain(at)[0]
        lowered[differ] = float((plain(at)[0] - careful(at)[1])[0])
    assert 0 < lowered[False] < 0.08 < lowered[True] < 0.35


def test_the_bound_holds_for_the_families_that_come():
    """Of 200 draws of families, the true share lies above the bound in about 95 %."""
    above = 0
    for seed in range(200):
        x, right, families = samples(np.random.default_rng(seed), True)
        model = Monotone.fit(x * 0, right, np.ones(len(x)), families, KNOWN_CAUTION)
        above += 0.7 >= (model if isinstance(model, float) else float(model(np.zeros((1, 1)))[1][0]))
    assert 180 <= above <= 200


def test_probability_never_falls_when_the_evidence_grows():
    rng = np.random.default_rng(1)
    x = rng.random((500, 3))
    model = Monotone.fit(x, rng.random(500) < x[:, 0], np.ones(500), np.arange(500) % 7)
    assert isinstance(model, Monotone)
    grid = np.linspace(0, 1, 50)
    for feature in range(3):
        asked = np.full((50, 3), 0.5)
        asked[:, feature] = grid
        assert (np.diff(model(asked)[0]) >= -1e-12).all()


def test_features_that_came_later_change_no_older_model():
    rng = np.random.default_rng(2)
    x = rng.random((300, 3))
    model = Monotone.fit(x, rng.random(300) < x[:, 1], np.ones(300), np.arange(300) % 9)
    assert isinstance(model, Monotone)
    for old, new in zip(model(x), model(np.column_stack([x, rng.random(300)])), strict=True):
        assert (old == new).all()


def test_backing_is_the_share_of_the_references_of_a_taxon_that_are_near():
    """A record of another genus has a wrong name: of the five of that name, only it is near to a read of its own.

    A species of one reference has all of its references near; a reference that is asked about is not its own backing.
    """
    rows = records(np.random.default_rng(15), 1, 1, 3, 3, each=6)
    by_species = {name: [row for row in rows if row["species"] == name] for name in {row["species"] for row in rows}}
    first, *_, last = sorted(by_species)
    single = sorted(by_species)[4]
    kept = [row for row in rows if row["species"] not in (first, last, single)]
    kept += [*by_species[last][:4], by_species[single][0], {**by_species[first][0], "species": last}]
    table = pa.table({name: pa.array([row[name] for row in kept], pa.large_string()) for name in COLUMNS})
    library = ReferenceLibrary.uncalibrated(Found(table, {}))
    assert library.references.region is not None

    def backing(evidence):
        return evidence.ranks["species"][:, -1].tolist(), evidence.known[:, -4].tolist()

    asked = [by_species[name][5]["dna_barcode"] for name in (first, last, single, sorted(by_species)[3])]
    block = library.name(asked)
    assert [library.taxa["species"][code] for code in block.names.codes["species"]][:3] == [last, last, single]
    expected = [1 / 5, 4 / 5, 1, 1]
    assert backing(block.evidence) == (pytest.approx(expected), pytest.approx(expected))
    ids = library.records["processid"].to_pylist()
    own = np.array([ids.index(by_species[name][i]["processid"]) for name, i in ((first, 0), (last, 0))])
    reads = [by_species[first][5]["dna_barcode"], by_species[last][5]["dna_barcode"]]
    block = library.name(reads)
    found = backing(library.evidence(block.matches, block.names, own))[0]
    assert found == pytest.approx([1 / 4, 1])  # of the four others of the species


def test_what_was_learned_is_the_same_when_it_is_read_again():
    rng = np.random.default_rng(2)
    n = 600
    evidence = Evidence(rng.random((n, 4)), {"family": rng.random((n, 4)), "species": rng.random((n, 4))})
    level = rng.integers(0, 3, n)
    right = {rank: (rng.random(n) < 0.6).astype(np.int64) for rank in evidence.ranks}
    found = learn(Asked(evidence, level, right, np.ones(n), rng.random(n), families=rng.integers(0, 20, n)))
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    told, told_again = found.judged(evidence), again.judged(evidence)
    assert np.allclose(told.levels, told_again.levels)
    assert np.allclose(told.cautious, told_again.cautious, atol=1e-4)
    for rank, values in told.right.items():
        assert np.allclose(values, told_again.right[rank], atol=1e-4)


def test_the_bound_of_what_is_known_lies_below_the_probability():
    rng = np.random.default_rng(4)
    evidence = Evidence(rng.random((600, 2)), {"species": rng.random((600, 2))})
    level = (rng.random(600) > evidence.known[:, 0]).astype(np.int64)
    right = {"species": np.where(level == 0, rng.random(600) < 0.9, -1).astype(np.int64)}
    found = learn(Asked(evidence, level, right, np.ones(600), rng.random(600), families=rng.integers(0, 20, 600)))
    told = found.judged(evidence)
    assert (told.cautious[:, 0] < told.levels[:, 0]).all()
    assert np.allclose(told.cautious.sum(1), 1)


def test_the_estimated_share_of_new_species_lies_in_its_interval():
    learned = np.array([0.5, 0.25, 0.25])
    for n in (1, 5, 20, 500, 100_000):  # of very many equal reads, the share lies beyond the grid of the interval
        for level in range(3):
            levels = np.full((n, 3), 0.02)
            levels[:, level] = 0.96
            shares = calibration.estimated_shares(levels, learned)
            low, high = calibration.share_interval(levels, learned, shares)
            assert low <= 1 - shares[0] <= high, (n, level)
            assert high - low < (0.1 if n >= 500 else 1)


def test_a_new_share_is_found_and_split_as_expected():
    """Reads that look like new species of known genera do not make genera sure: their share of the new stays."""
    learned = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    levels = np.tile([0.96, 0.02, 0.01, 0.005, 0.005], (300, 1))
    levels[:100] = [0.01, 0.9, 0.05, 0.02, 0.02]
    shares = calibration.estimated_shares(levels, learned)
    assert 0.3 < 1 - shares[0] < 0.4
    assert np.allclose(shares[1:] / shares[1:].sum(), calibration.PRIOR[1:] / calibration.PRIOR[1:].sum())
    assert calibration.estimated_shares(levels, learned, 0.9)[0] == pytest.approx(0.1)
    assert calibration.estimated_shares(np.ones((3, 1)), np.ones(1)).tolist() == [1.0]
