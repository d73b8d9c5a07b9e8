"""The barcode gap of a release, by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioscan_hf.release.columns import features
from bioscan_hf.schema import COLUMNS
from bioscan_hf.statistics.gap import barcode_gaps

#: 100 random letters, of which changes at distant places are as many edits.
A = "".join(np.random.default_rng(0).choice(list("ACGT"), 100))


def folder_of(path, rows):
    """A Parquet folder of rows, of which each names the columns that are not null."""
    rows = [{name: None for name in COLUMNS} | {"processid": f"P{i}", **row} for i, row in enumerate(rows)]
    (path / "dna").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, features("dna").arrow_schema), path / "dna" / "train.parquet")
    return path


def changed(*places):
    """A with another letter at some places."""
    return "".join({"A": "C", "C": "A", "G": "T", "T": "G"}[c] if i in places else c for i, c in enumerate(A))


def test_gaps_by_hand(tmp_path):
    """100 letters each. a: A, one and two changes from it, 3 edits apart at most; b: 10 and 14 changes, 4 apart, and
    10 from A. c has one barcode and no row, but is 1 edit from a. Repeats count once, N at the ends are cut, and a
    row without a species is nobody's.
    """
    ten = range(2, 42, 4)
    barcodes = {
        "a": [A, A[:80], changed(54), changed(70, 80), f"NN{A}N", A],
        "b": [changed(*ten), changed(*ten, 84, 88, 92, 96), changed(*ten)],
        "c": [changed(54, 62)],
        None: [changed(*ten, 96)],
    }
    rows = [{"species": name, "dna_barcode": text} for name, texts in barcodes.items() for text in texts]
    found = barcode_gaps(folder_of(tmp_path, rows))
    assert [(row["species"], row["barcodes"], row["nearest_species"]) for row in found] == [
        ("a", 3, "c"),
        ("b", 2, "a"),
    ]
    assert [row["farthest_within"] for row in found] == pytest.approx([0.03, 0.04])
    assert [row["nearest_other"] for row in found] == pytest.approx([0.01, 0.10])


def test_strand_ends_and_n_are_no_distance(tmp_path, caplog):
    """Each barcode of a has one change: two differ in 2 of the 100 letters, or of those that both have.

    One is reversed, one begins 5 letters before, one lacks its first 3, one has 2 N inside: 2 of 95 at most. A half is
    left out, N inside too. b is 10 changes away, and one of its barcodes has an insertion: its two changes and 1.
    """
    turned = changed(20)[::-1].translate(str.maketrans("ACGT", "TGCA"))
    inside = changed(70)
    barcodes = {
        "a": [changed(10), turned, "ACGTA" + changed(30), changed(40)[3:], inside[:50] + "NN" + inside[52:], A[:50]],
        "b": [changed(*range(2, 42, 4), 80), A[:60] + "N" * 30 + A[90:]],
    }
    b = changed(*range(2, 42, 4), 90)
    barcodes["b"].append(b[:60] + ("C" if b[59] != "C" and b[60] != "C" else "G") + b[60:])
    rows = [{"species": name, "dna_barcode": text} for name, texts in barcodes.items() for text in texts]
    a, b = barcode_gaps(folder_of(tmp_path, rows))
    assert (a["barcodes"], b["barcodes"]) == (5, 2)
    assert a["farthest_within"] == pytest.approx(2 / 95) and a["nearest_other"] == pytest.approx(11 / 98, abs=0.02)
    assert b["farthest_within"] == pytest.approx(0.03, abs=0.011)
    assert "1 of 9 barcodes are on the other strand" in caplog.text
    assert "2 of 9 barcodes lack more than 10% of the region and are left out of the barcode gap." in caplog.text


def test_barcodes_of_no_common_region_are_left_out(tmp_path, caplog):
    """Parts of 30 letters that begin at 0, 5, ..., 70, and barcodes of hardly a letter."""
    rows = [{"species": "ab"[i % 2], "dna_barcode": A[5 * i : 5 * i + 30]} for i in range(15)]
    barcode_gaps(folder_of(tmp_path / "parts", rows))
    assert "of 15 barcodes lack more than 10%" in caplog.text and "strand" not in caplog.text
    rows = [{"species": "ab"[i % 2], "dna_barcode": "N" * i + text} for i, text in enumerate(("A", "C", "RR", "GT"))]
    assert all(row["nearest_other"] > 0 for row in barcode_gaps(folder_of(tmp_path / "letters", rows)))


def test_a_shared_barcode_is_no_gap_and_one_species_has_none(tmp_path):
    rows = [{"species": name, "dna_barcode": text} for name, text in (("a", A), ("a", changed(5)), ("b", A))]
    assert barcode_gaps(folder_of(tmp_path / "two", rows))[0]["nearest_other"] == 0
    assert barcode_gaps(folder_of(tmp_path / "one", rows[:2])) == []


def test_whole_species_are_sampled_and_blocks_do_not_matter(tmp_path, monkeypatch):
    """Of 8 species with 3 barcodes each, 10 barcodes hold 3 species; a seed draws the same ones again."""
    rows = [
        {"species": f"s{i}", "dna_barcode": changed(*range(i, 80, 8), 99 - 4 * j)} for i in range(8) for j in range(3)
    ]
    folder = folder_of(tmp_path, rows)
    some = barcode_gaps(folder, most=10)
    assert [row["barcodes"] for row in some] == [3, 3, 3] and some == barcode_gaps(folder, most=10)
    assert len({row["species"] for seed in range(6) for row in barcode_gaps(folder, seed, most=10)}) > 3
    whole = barcode_gaps(folder)
    monkeypatch.setattr("bioscan_hf.statistics.gap._BLOCK", 5)
    assert barcode_gaps(folder) == whole and len(whole) == 8
