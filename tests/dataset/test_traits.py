"""Texts on traits, joined to specimens by processid."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset.traits import add_traits

ROWS = [
    ("P2", "wings clear"),
    ("P1", "antennae long"),
    ("P2", "legs yellow"),
    ("P9", "eyes red"),
    ("P3", ""),
    ("", "x"),
]


@pytest.fixture
def data():
    return Dataset.from_dict({"processid": ["P1", "P2", "P3"], "species": ["A a", None, "B b"]})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_texts_in_the_order_of_the_file(data, tmp_path, kind):
    path, delimiter = tmp_path / f"traits.{kind}", "\t" if kind == "tsv" else ","
    if kind == "parquet":
        columns = {
            "photo": [f"images/{name}.jpg" if name else None for name, _ in ROWS],
            "words": [b for _, b in ROWS],
        }
        pq.write_table(pa.table(columns), path)
        found = add_traits(data, path, key="photo", text="words")
    else:
        path.write_text("\n".join(delimiter.join(row) for row in [("processid", "trait"), *ROWS]) + "\n")
        found = add_traits(data, path)
    assert found["traits"] == [["antennae long"], ["wings clear", "legs yellow"], []]
    assert found.select_columns(["processid", "species"])[:] == data[:]


def test_of_a_dataset_of_bioscan(dataset, tmp_path):
    data = load_bioscan5m(str(dataset), "dna", "train")
    (tmp_path / "traits.csv").write_text(f"processid,trait\n{data[3]['processid']},wings clear\n")
    found = add_traits(data, tmp_path / "traits.csv", name="words")
    assert [len(words) for words in found["words"]] == [int(row == 3) for row in range(len(data))]


def test_errors(data, tmp_path):
    path = tmp_path / "traits.csv"
    with pytest.raises(FileNotFoundError, match="no file"):
        add_traits(data, path)
    path.write_text("processid,trait\nP8,wings clear\n")
    with pytest.raises(ValueError, match="None of the 3 specimens is among the 1 of"):
        add_traits(data, path)
    with pytest.raises(ValueError, match="already has a column 'species'"):
        add_traits(data, path, name="species")
    with pytest.raises(ValueError, match="words"):
        add_traits(data, path, text="words")
    pq.write_table(pa.table({"id": ["P1"]}), tmp_path / "traits.parquet")
    with pytest.raises(ValueError, match="has no column 'processid'. It has id"):
        add_traits(data, tmp_path / "traits.parquet")
