"""Splits, label ids, the chunk rule and taxonomy as text."""

import csv

import numpy as np
import pytest

from bioscan_hf.labels import LabelMaps
from bioscan_hf.models.taxonomy_text import taxonomy_text
from bioscan_hf.schema import (
    COLUMNS,
    RANKS,
    SPLITS,
    chunk,
    image_path,
    resolve_splits,
)


def test_published_names():
    assert len(COLUMNS) == 23 and len(RANKS) == 7 and len(SPLITS) == 8


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("val", ("val",)),
        ("validation", ("val",)),
        ("seen", ("train", "val", "test")),
        ("unseen", ("key_unseen", "val_unseen", "test_unseen")),
        ("all", SPLITS),
        ("pretrain + train", ("pretrain", "train")),
        ("test+seen", ("test", "train", "val")),
    ],
)
def test_metasplits(split, names):
    assert resolve_splits(split) == names


@pytest.mark.parametrize("split", ["tset", "train+tset", "", "train+"])
def test_unknown_split_lists_the_known_ones(split):
    with pytest.raises(ValueError, match="Unknown split .*key_unseen.*'seen'"):
        resolve_splits(split)


#: Photos that the release names with their folder (md5 of a file's name fixes the folder).
KNOWN = [
    ("AACTA1040-20", "pretrain", "00"),
    ("YGEN686-22", "pretrain", "ff"),
    ("YGEN2059-22", "pretrain", "fe"),
    ("AACTA1026-20", "train", "0"),
    ("YGEN986-22", "train", "f"),
    ("ABSSI1639-22", "other_heldout", "0"),
    ("YDBB6502-21", "other_heldout", "f"),
    ("AACTA161-20", "val", ""),
]


@pytest.mark.parametrize(("processid", "split", "folder"), KNOWN)
def test_chunk_of_known_photos(processid, split, folder):
    assert chunk(processid, split) == folder


def test_image_path():
    assert image_path("YGEN686-22", "pretrain", "cropped_256") == (
        "bioscan5m/images/cropped_256/pretrain/ff/YGEN686-22.jpg"
    )
    assert image_path("AACTA161-20", "val", "cropped") == "bioscan5m/images/cropped/val/AACTA161-20.jpg"


@pytest.mark.realdata
def test_chunk_of_real_records(shared):
    with open(shared / "data/bioscan5m_browser_rows.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 25
    assert {row["processid"]: row["chunk"] for row in rows} == {
        row["processid"]: chunk(row["processid"], row["split"]) for row in rows
    }


def test_label_ids_are_lexicographic_and_survive_a_file(tmp_path):
    maps = LabelMaps({"genus": ["Zus", None, "Aus", "", "Zus"], "order": ["Diptera"]})
    assert maps.names("genus") == ["Aus", "Zus"]
    assert maps.encode("genus", ["Zus", None, "", "Aus"]) == [1, -1, -1, 0]
    assert maps.decode("genus", [1, -1, 0]) == ["Zus", None, "Aus"]
    maps.save(tmp_path / "labels.json")
    assert LabelMaps.load(tmp_path / "labels.json") == maps
    assert maps.select(["order"]).columns == ("order",)


def test_unknown_labels_are_named():
    maps = LabelMaps({"genus": ["Aus", "Zus"]})
    with pytest.raises(KeyError, match="'Bus' is no genus of this release"):
        maps.encode("genus", ["Aus", "Bus"])
    for bad in (2, -2):
        with pytest.raises(IndexError, match=f"{bad} is no genus id: they run from 0 to 1"):
            maps.decode("genus", [bad])
    with pytest.raises(ValueError, match="No labels for the column 'family'. There are labels for genus"):
        maps.names("family")


@pytest.mark.parametrize("several", [list, tuple, np.array, iter], ids=["list", "tuple", "array", "iterator"])
def test_ids_and_names_one_or_many(several):
    """A scalar gives a scalar, anything else a list; None, NaN and "" are missing, and -1 is ""."""
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
    with pytest.raises(KeyError, match="'Bus' is no genus"):
        maps.label2index("genus", ["Aus", "Bus"])
    with pytest.raises(IndexError, match="2 is no genus id"):
        maps.index2label("genus", 2)
    with pytest.raises(ValueError, match="No labels for the column 'order'"):
        maps.index2label("order", 0)


def test_taxonomy_text_is_that_of_clibd():
    row = {"order": "Diptera", "family": "Sciaridae", "genus": None, "species": ""}
    assert taxonomy_text(row) == "Diptera Sciaridae not_classified not_classified"
    assert taxonomy_text(row, missing=None) == "Diptera Sciaridae"
    assert taxonomy_text({"class": "Insecta"} | row, ranks=("class", "order")) == "Insecta Diptera"
    with pytest.raises(ValueError, match="Unknown rank 'tribe'"):
        taxonomy_text(row, ranks=("tribe",))
