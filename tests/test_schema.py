"""Splits, the chunk rule and taxonomy as text."""

import csv

import pytest

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


#: Published photos and their folders.
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
def test_chunk_of_real_records(real_data):
    with open(real_data / "bioscan5m_browser_rows.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 25
    assert {row["processid"]: row["chunk"] for row in rows} == {
        row["processid"]: chunk(row["processid"], row["split"]) for row in rows
    }


def test_taxonomy_text_is_that_of_clibd():
    row = {"order": "Diptera", "family": "Sciaridae", "genus": None, "species": ""}
    assert taxonomy_text(row) == "Diptera Sciaridae not_classified not_classified"
    assert taxonomy_text(row, missing=None) == "Diptera Sciaridae"
    assert taxonomy_text({"class": "Insecta"} | row, ranks=("class", "order")) == "Insecta Diptera"
    with pytest.raises(ValueError, match="Unknown rank 'tribe'"):
        taxonomy_text(row, ranks=("tribe",))


#: Names that would lead out of a folder, by POSIX or Windows, hide a file, or cannot be written.
HOSTILE = ["../x", "..", ".", ".x", "a/b", "/etc/x", "a\\..\\b", "C:x", "..\\x", "a\0b", "a\nb", "a b", "é", "", "-x"]
HOSTILE.append("x" * 201)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_a_folder(name):
    """Neither a processid nor a split nor a package."""
    for given in ((name, "val", "cropped"), ("A1-20", name, "cropped"), ("A1-20", "val", name)):
        with pytest.raises(ValueError, match="cannot be the name of a file: use letters"):
            image_path(*given)
    assert image_path("A.1_b-20", "val", "cropped") == "bioscan5m/images/cropped/val/A.1_b-20.jpg"
