"""LabelMaps: ids, names, files and speed."""

import time

import numpy as np
import pytest

from bioscan_hf.labels import LabelMaps, without_author


def test_label_ids_are_lexicographic_and_survive_a_file(tmp_path):
    maps = LabelMaps({"genus": ["Zus", None, "Aus", "", "Zus"], "order": ["Diptera"]})
    assert maps.names("genus") == ("Aus", "Zus")
    assert maps.encode("genus", ["Zus", None, "", "Aus"]) == [1, -1, -1, 0]
    assert maps.decode("genus", [1, -1, 0]) == ["Zus", None, "Aus"]
    maps.save(tmp_path / "labels.json")
    assert LabelMaps.load(tmp_path / "labels.json") == maps
    assert maps.select(["order"]).columns == ("order",)


@pytest.mark.parametrize(
    "content", ['{"genus": 3}', '{"genus": [1]}', '{"genus": {"a": 1}}', '["a"]', '{"genus": ["a"']
)
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ValueError, match="labels.json"):
        LabelMaps.load(tmp_path / "labels.json")


def test_unknown_labels_raise():
    maps = LabelMaps({"genus": ["Aus", "Zus"]})
    with pytest.raises(KeyError, match="'Bus' is not a genus of this release"):
        maps.encode("genus", ["Aus", "Bus"])
    for bad in (2, -2):
        with pytest.raises(IndexError, match=f"{bad} is not a genus id: ids are 0 to 1"):
            maps.decode("genus", [bad])
    with pytest.raises(ValueError, match="No labels for the column 'family'. There are labels for genus"):
        maps.names("family")


@pytest.mark.parametrize("several", [list, tuple, np.array, iter], ids=["list", "tuple", "array", "iterator"])
def test_ids_and_names_one_or_many(several):
    """A scalar gives a scalar, anything else a list; None, NaN and "" are missing, and -1 gives ""."""
    maps = LabelMaps({"genus": ["Aus", "Zus"]})
    assert maps.label2index("genus", several(["Zus", "", "Aus"])) == [1, -1, 0]
    assert maps.index2label("genus", several([1, -1, 0])) == ["Zus", "", "Aus"]
    assert maps.label2index("genus", [None, float("nan"), np.nan]) == [-1, -1, -1]
    assert maps.label2index("genus", "Zus") == 1 and maps.index2label("genus", np.int16(1)) == "Zus"
    assert [maps.label2index("genus", missing) for missing in (None, "", np.nan)] == [-1, -1, -1]
    assert maps.index2label("genus", -1) == "" and maps.index2label("genus", []) == []


def test_ids_and_names_are_not_confused():
    maps = LabelMaps({"genus": ["Aus", "Zus"]})
    for wrong in (1, [1], 1.0, ["Aus", 1], np.array([0])):
        with pytest.raises(TypeError, match="1(.0)? is a|0.* is a .*not the name of a taxon. For ids use index2label"):
            maps.label2index("genus", wrong)
    for wrong in ("Aus", ["Aus"], 1.0, [0, None], None):
        with pytest.raises(TypeError, match="not an id .an integer.. For names use label2index"):
            maps.index2label("genus", wrong)
    with pytest.raises(KeyError, match="'Bus' is not a genus"):
        maps.label2index("genus", ["Aus", "Bus"])
    with pytest.raises(IndexError, match="2 is not a genus id"):
        maps.index2label("genus", 2)
    with pytest.raises(ValueError, match="No labels for the column 'order'"):
        maps.index2label("order", 0)


def test_encoding_one_name_does_not_copy_all_names():
    """2,000 look-ups among 300,000 names: copying the names takes minutes, the dict milliseconds."""
    maps = LabelMaps({"dna_bin": [f"BOLD:{i:06d}" for i in range(300_000)]})
    start = time.perf_counter()
    for i in range(2_000):
        assert maps.label2index("dna_bin", f"BOLD:{i:06d}") == i
    assert time.perf_counter() - start < 1
    assert maps.names("dna_bin") is maps.names("dna_bin")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((f"Apis mellifera {author}", "Apis mellifera") for author in ("de Geer, 1773", "(De Geer)", "von Heyden")),
        *(
            (f"Apis mellifera {author}", "Apis mellifera")
            for author in ("van der Wulp, 1869", "Van Duzee", "DC.", "L")
        ),
        ("Apis mellifera delicata del Guercio", "Apis mellifera delicata"),
        ("Ia io Thomas, 1902", "Ia io"),
        ("Aëdes (St.) jørgenseni Smith, 1900", "Aëdes jørgenseni"),
        *((name, name) for name in ("Astraptes fulgerator CELT", "Anopheles gambiae S", "Apis mellifera clade A")),
        *((name, name) for name in ("Aedes van der Wulp", "Apis sp. Smith", "Apis cf. mellifera Smith")),
    ],
)
def test_only_authors_are_left_out(name, expected):
    """Particles are no subspecies, and codes of interim species are no authors."""
    assert without_author(name) == expected
