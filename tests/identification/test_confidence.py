"""Names with a confidence: predictions, calibration of the confidence, and errors."""

import numpy as np
import pytest

from bioscan_hf.identification.confidence import Calibration, calibrate, identify
from bioscan_hf.search.index import build_index


def simulated(species_of_genus: int, each: int, seed: int, genera: int = 40, spread: float = 0.25):
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
    return {
        name: (x[rows], {rank: [column[row] for row in np.flatnonzero(rows)] for rank, column in labels.items()})
        for name, rows in parts.items()
    }


def right(found, labels, rank):
    return np.asarray([a == b for a, b in zip(found.names[rank], labels[rank], strict=True)])


@pytest.mark.parametrize("novel_share", [0.0, 0.5, 1.0])
def test_confidence_is_calibrated(world, novel_share):
    """With that share of novel queries, mean confidence and accuracy differ by less than 0.05 at each rank.

    The calibration uses the keys only, never the queries.
    """
    index = build_index(*world["keys"])
    calibration = calibrate(index, novel_share=novel_share)
    for rank in ("genus", "species"):
        gap = 0.0
        for name, share in (("seen", 1 - novel_share), ("novel", novel_share)):
            found = identify(world[name][0], index, calibration)
            gap += share * float((found.confidences[rank] - right(found, world[name][1], rank)).mean())
        assert abs(gap) < 0.05, rank


def test_novel_species_get_a_genus_and_no_certain_species(world):
    """Queries of novel species get lower confidences at rank species, and the deepest name respects the limit."""
    index = build_index(*world["keys"])
    calibration = calibrate(index)
    seen = identify(world["seen"][0], index, calibration)
    novel = identify(world["novel"][0], index, calibration)
    assert seen.confidences["species"].mean() > novel.confidences["species"].mean() + 0.2
    assert (novel.confidences["genus"] > novel.confidences["species"]).mean() > 0.9
    deepest = [answer for answer in seen.deepest(0.5) if answer is not None]
    assert len(deepest) > len(world["seen"][0]) / 2 and {"genus", "species"} == {rank for rank, _, _ in deepest}
    for found in (seen, novel):
        assert (found.confidences["species"] <= found.confidences["genus"]).all()
        assert all(answer is None or answer[2] >= 0.5 for answer in found.deepest(0.5))


def test_confidence_falls_with_the_share_of_novel_species(world):
    index = build_index(*world["keys"])
    means = [
        identify(world["seen"][0], index, calibrate(index, novel_share=share)).confidences["species"].mean()
        for share in (0.0, 0.5, 0.9)
    ]
    assert means[0] > means[1] > means[2] and means[0] < 1


def test_names_are_those_of_the_nearest_key_by_hand():
    """Three keys on the axes. A query takes the names of its nearest key; where the key has none, it gets none."""
    index = build_index(np.eye(3), {"genus": ["A", "B", "B"], "species": ["A a", None, "B b"]}, ids=["x", "y", "z"])
    line = np.asarray([0.0, 1.0])
    calibration = Calibration({"genus": line, "species": line}, {"genus": line, "species": line}, {}, 0.5)
    found = identify([[0, 3, 4], [0, 4, 3], [0, 0, 0]], index, calibration, valid=[True, True, False])
    assert found.names == {"genus": ["B", "B", None], "species": ["B b", None, None]}
    assert found.nearest.tolist() == [2, 1, -1] and found.similarities[:2].tolist() == pytest.approx([0.8, 0.8])
    assert found.confidences["genus"].tolist() == pytest.approx([0.8, 0.8, 0])
    assert found.confidences["species"].tolist() == pytest.approx([0.8, 0, 0])
    assert found.deepest(0.9) == [None] * 3
    assert [answer and answer[:2] for answer in found.deepest(0.7)] == [("species", "B b"), ("genus", "B"), None]


def test_equal_keys_answer_as_the_first_of_them():
    """A barcode that occurs twice is one vector of the index; the nearest key is its first row."""
    index = build_index([[1, 0], [0, 1], [0, 1]], {"species": ["a", "b", "c"]})
    line = np.asarray([0.0, 1.0])
    found = identify([[0.0, 2.0]], index, Calibration({"species": line}, {"species": line}, {}, 0))
    assert found.nearest.tolist() == [1] and found.names["species"] == ["b"]


def test_a_key_is_not_its_own_neighbour():
    """30 species of 1 key each: if keys found themselves, every name would be right.

    No species is among the other keys, so only the novel case is learned: always wrong at rank species.
    """
    x, labels = simulated(1, 1, seed=1, genera=30)
    calibration = calibrate(build_index(x, labels), novel_share=1.0)
    assert calibration.sampled["species"] == (0, 30)
    assert calibration.confidences["species"].max() < 0.5


def test_bad_input(world):
    keys, labels = world["keys"]
    index = build_index(keys, labels)
    calibration = calibrate(index)
    with pytest.raises(ValueError, match="labels of genus, but calibration needs 'species'"):
        calibrate(build_index(keys, {"genus": labels["genus"]}))
    with pytest.raises(ValueError, match="novel_share is 1.5; give a share from 0 to 1"):
        calibrate(index, novel_share=1.5)
    with pytest.raises(ValueError, match="no labels of 'tribe'. It has genus, species"):
        calibrate(index, ["genus", "tribe"])
    with pytest.raises(ValueError, match="Only 4 keys have a species name; a calibration needs at least 20"):
        calibrate(build_index(keys[:4], {"species": labels["species"][:4]}))
    with pytest.raises(
        ValueError, match="queries have 3 dimensions and the keys 16: both must come from the same encoder"
    ):
        identify(np.ones((1, 3)), index, calibration)
    with pytest.raises(ValueError, match=r"rows 0 \(q7\)"):
        identify(np.full((1, 16), np.nan), index, calibration, ids=["q7"])
