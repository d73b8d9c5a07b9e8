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
