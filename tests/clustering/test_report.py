"""Tables of clusters against cases counted by hand, and the rules for new species and wrong names at their limits."""

import csv
import json

import numpy as np
import pytest

from bioscan_hf.clustering.report import (
    REPORT_FILES,
    cluster_report,
    write_report,
)

#: cluster, species, genus, BIN, place; each line is some specimens.
ROWS = [
    *[(0, "A a", "A", "BOLD:1", 0.0)] * 8,
    (0, "A b", "A", "BOLD:1", 0.0),  # one of nine: likely mislabelled
    (0, None, "A", "BOLD:1", 0.0),
    *[(1, "B b", "B", "BOLD:2", 10.0)] * 2,
    *[(1, "C c", "C", "BOLD:3", 10.0)] * 2,  # half and half: mixed, nobody is a suspect
    *[(2, None, "D", "BOLD:4", 50.0)] * 3,  # far, one BIN: new
    *[(3, None, "D", "BOLD:5", 10.5)] * 3,  # beside cluster 1
    *[(4, None, "D", "BOLD:6", 60.0)] * 2,  # too few
    *[(5, None, "E", bin_, 70.0) for bin_ in ("BOLD:7", "BOLD:8", "BOLD:9")],  # three BINs
    *[(6, None, "F", None, 80.0)] * 4,  # no BIN, but one genus: new
    *[(7, None, None, None, 90.0)] * 4,  # nothing known
    *[(-1, "A a", "A", "BOLD:1", 5.0)] * 5,
    (-1, "B b", "B", "BOLD:2", 5.0),  # noise has no suspects
    *[(8, "A b", "A", "BOLD:1", 16.0)] * 3,
    *[(9, None, "B", "BOLD:2", 120.0)] * 3,  # far, but of the BIN of B b: such as reversed or short barcodes
    *[(10, None, "B", None, 130.0)] * 3,  # no BIN for most, and that of B b for one
    (10, None, "B", "BOLD:2", 130.0),
]
CLUSTERS = np.array([row[0] for row in ROWS])
LABELS = {name: [row[i] for row in ROWS] for i, name in ((1, "species"), (2, "genus"), (3, "dna_bin"))}
PROCESSIDS = [f"P{i:02}" for i in range(len(ROWS))]
EMBEDDINGS = np.array([[row[4], 0.0] for row in ROWS])


@pytest.fixture(scope="module")
def report():
    return cluster_report(CLUSTERS, LABELS, PROCESSIDS, EMBEDDINGS)


def row_of(report, cluster):
    return next(row for row in report.clusters if row["cluster"] == cluster)


def test_counts(report):
    """Cluster 0: 8 of 9 named are A a. Cluster 1: two species of two, 1 bit of entropy, so 2 effective species."""
    assert [row["cluster"] for row in report.clusters][:2] == [0, -1], "the largest first"
    first, mixed = row_of(report, 0), row_of(report, 1)
    assert first["size"] == 10 and first["species"] == "A a" and first["species_named"] == 9
    assert first["purity"] == first["species_share"] == pytest.approx(8 / 9)
    assert (first["genus"], first["genus_share"], first["dna_bin"], first["bins"]) == ("A", 1.0, "BOLD:1", 1)
    entropy = -(8 / 9 * np.log2(8 / 9) + 1 / 9 * np.log2(1 / 9))
    assert first["species_names"] == 2 and first["effective_species"] == pytest.approx(2**entropy)
    assert (mixed["species"], mixed["purity"], mixed["effective_species"], mixed["bins"]) == ("B b", 0.5, 2.0, 2)
    unnamed = row_of(report, 7)
    assert [unnamed[name] for name in ("species", "purity", "effective_species", "genus")] == [None] * 4
    assert unnamed["species_names"] == 0 and unnamed["dna_bin_named"] == 0


def test_places(report):
    """By purity 8 (1.0), 0 (8/9), 1 (0.5); by mixture the other way; noise and clusters without names have none."""
    assert {c: row_of(report, c)["purest_place"] for c in (8, 0, 1, 2, -1)} == {8: 1, 0: 2, 1: 3, 2: None, -1: None}
    assert {c: row_of(report, c)["mixed_place"] for c in (1, 0, 8, 2, -1)} == {1: 1, 0: 2, 8: 3, 2: None, -1: None}


def test_likely_new_species(report):
    """Named centres at 0, 10 and 16 are 10, 6 and 6 from the nearest other: 6 is far. 10.5 is not."""
    assert row_of(report, 0)["nearest_named"] == 10 and row_of(report, 2)["nearest_named"] == 34
    assert {row["cluster"] for row in report.clusters if row["likely_new_species"]} == {2, 6}
    notes = {row["cluster"]: row["note"] for row in report.clusters}
    assert notes == {
        0: "",
        1: "",
        8: "",
        2: "one BIN",
        3: "near a cluster with species names",
        4: "fewer than 3 specimens",
        5: "several BINs",
        6: "one genus",
        7: "BIN and genus mostly unknown",
        9: "a BIN with species names",
        10: "a BIN with species names",
        -1: "noise",
    }
    assert "here 6)" in report.rules["likely_new_species"]


def test_most_distances_of_named_clusters_are_far():
    """Eleven named centres with gaps of 1, 2, ... 10: the nearest others are 1, 1, 2, ..., 10 away, the limit is 1.

    A new species may lie between close species: a BIN of its own, 2 from one of them, is below their median of 5.
    """
    places = np.repeat([*np.cumsum([0, *range(1, 11)]), 57.0], 3)
    names = [f"s{i}" if i < 11 else None for i in range(12) for _ in range(3)]
    labels = {"species": names, "dna_bin": [f"BOLD:{i}" for i in range(12) for _ in range(3)]}
    ids = [f"P{i}" for i in range(36)]
    report = cluster_report(np.repeat(range(12), 3), labels, ids, np.stack([places, 0 * places], 1))
    assert [row["cluster"] for row in report.clusters if row["likely_new_species"]] == [11]
    assert row_of(report, 11)["nearest_named"] == 2 and "here 1)" in report.rules["likely_new_species"]


def test_without_distances_nothing_is_new():
    """Neither without embeddings nor where no cluster or only one has a species name."""
    report = cluster_report(CLUSTERS, LABELS, PROCESSIDS)
    assert not any(row["likely_new_species"] for row in report.clusters)
    assert row_of(report, 2)["note"] == "no distance to compare with" and row_of(report, 2)["nearest_named"] is None
    assert "unknown, so no cluster qualifies" in report.rules["likely_new_species"]
    unnamed = {**LABELS, "species": [None] * len(ROWS)}
    report = cluster_report(CLUSTERS, unnamed, PROCESSIDS, EMBEDDINGS)
    assert not any(row["likely_new_species"] for row in report.clusters) and not report.suspects


def test_likely_mislabelled(report):
    """The ninth specimen: A b among 8 A a, with 3 more A b elsewhere; the limits at their edges."""
    assert report.suspects == [
        {
            "processid": "P08",
            "cluster": 0,
            "species": "A b",
            "cluster_species": "A a",
            "of_cluster_species": 8,
            "of_its_species": 1,
            "of_its_species_elsewhere": 3,
            "dna_bin": "BOLD:1",
            "cluster_bin": "BOLD:1",
        }
    ]
    for names, suspects in (
        (["x"] * 4 + ["y"], 1),  # 4 and 80 %
        (["x"] * 3 + ["y"], 0),  # only 3
        (["x"] * 7 + ["y", "z"], 0),  # 78 %
        (["x"] * 8 + ["y", "z"], 2),  # 80 %, two suspects
        (["x"] * 4 + [None] * 9 + ["y"], 1),  # specimens without a name do not count
    ):
        ids = [f"Q{i}" for i in range(len(names))]
        found = cluster_report(np.zeros(len(names), int), {"species": names}, ids)
        assert len(found.suspects) == suspects, names


def test_order_of_rows_does_not_matter(report):
    """Tables are the same of shuffled specimens, ties included."""
    order = np.random.default_rng(0).permutation(len(ROWS))
    shuffled = cluster_report(
        CLUSTERS[order],
        {rank: [names[i] for i in order] for rank, names in LABELS.items()},
        [PROCESSIDS[i] for i in order],
        EMBEDDINGS[order],
    )
    assert shuffled == report


def test_files(report, tmp_path):
    """CSV that reads back with every row, names with commas and quotes whole; rules and limits beside them."""
    odd = {"species": ['x, "y"\n'] * 4 + ["z"], "dna_bin": [None] * 5}
    paths = write_report(tmp_path, cluster_report(np.zeros(5, int), odd, list("abcde")))
    assert [path.name for path in paths] == list(REPORT_FILES)
    with open(paths[1], newline="", encoding="utf-8") as file:
        suspects = list(csv.DictReader(file))
    assert [(s["processid"], s["species"], s["cluster_species"]) for s in suspects] == [("e", "z", 'x, "y"\n')]
    write_report(tmp_path, report)
    with open(paths[0], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and rows[0]["purity"] == "0.8889" and rows[0]["likely_new_species"] == "no"
    assert next(r for r in rows if r["cluster"] == "2")["purity"] == ""
    rules = json.loads(paths[2].read_text())
    assert set(rules["rules"]) >= {"likely_new_species", "likely_mislabelled"}
    assert "3 specimens or more" in rules["rules"]["likely_new_species"]
    assert not list(tmp_path.glob("*.part"))
    write_report(tmp_path, cluster_report([0], {"species": ["x"]}, ["a"]))
    assert paths[1].read_text() == "processid,cluster,species,cluster_species\n"


def test_bad_input():
    ids = ["a", "b"]
    for arguments, message in (
        (([], {"species": []}, []), r"1 specimen or more; got"),
        (([0.5, 1], {"species": ids}, ids), "clusters must be integers"),
        (([0, 1], {"genus": ids}, ids), "labels must have 'species'; got genus"),
        (([0, 1], {"species": ids, "colour": ids}, ids), "Unknown rank 'colour'"),
        (([0, 1], {"species": ["a"]}, ids), r"There are 2 specimens, but {'species': 1}"),
        (([0, 1], {"species": ids}, ["a", "a"]), "'a' and 0 more are repeated"),
        (([0, 1], {"species": ids}, ids, [[0.0], [np.nan]]), "embeddings must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            cluster_report(*arguments)
