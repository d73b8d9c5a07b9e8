"""Tables and figures of a release: what they contain, and that numbers are whole in a narrow terminal."""

import copy
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bioscan_hf.release.columns import features
from bioscan_hf.statistics.figures import figures, save_figures
from bioscan_hf.statistics.measures import describe
from bioscan_hf.statistics.tables import tables


def printed(made, width):
    console = Console(width=width, record=True, file=io.StringIO())
    for table in made:
        console.print(table)
    return console.export_text()


@pytest.fixture(scope="module")
def summary(dataset):
    return json.loads(json.dumps(describe(dataset, distances=True, max_per_group=10, workers=1), allow_nan=False))


def test_tables_have_the_published_columns_and_numbers(summary):
    made = tables(summary)
    assert [table.title for table in made] == [
        "Splits", "Labels", "Largest and smallest categories", "Samples of a category",
        "Distinct barcodes of a category", "Pairwise distances", "Places", "Countries", "Sizes", "Barcode lengths",
    ]  # fmt: skip
    assert [str(column.header) for column in made[0].columns] == ["split", "samples", "barcodes", "species", "set"]
    assert [str(c.header) for c in made[1].columns] == ["rank", "categories", "labelled", "%", "imbalance ratio"]
    text = printed(made, 160)
    total = summary["splits"][-1]
    assert f"{total['barcodes']:,}" in text and "pretrain" in text and "SDI (bits)" in text
    phylum = summary["distances"][0]
    assert f"{phylum['mean']:,.1f}" in text


def test_numbers_are_whole_in_80_columns(summary):
    """Numbers of the published size, and names of 60 letters: no line is too long, and no number is broken."""
    large, summary = 5_150_850, copy.deepcopy(summary)
    for row in summary["ranks"]:
        names = {"most_populated": "A" * 60, "least_populated": "B" * 60}
        row |= {
            "categories": large,
            "labelled": large,
            "imbalance_ratio": float(large),
            "most_populated_samples": large,
        }
        row |= {
            "least_populated_samples": large,
            "mean": large + 0.5,
            "median": large + 0.5,
            "std": large + 0.5,
            **names,
        }
    for row in summary["diversity"]:
        row |= {"categories": large, "barcodes": large, "mean": large + 0.5, "median": large + 0.5, "std": large + 0.5}
    for row in summary["distances"]:
        row |= {"groups": large, "pairs": 1000 * large, "mean": 158.3, "std": 42.1, "minimum": 10.5, "maximum": 300.5}
    for row in summary["splits"]:
        row |= {"samples": large, "barcodes": large, "species": large}
    text = printed(tables(summary), 80)
    assert max(map(len, text.splitlines())) <= 80
    for number in ("5,150,850", "5,150,850.5", "5,150,850,000", "158.3", "42.1", "10.5", "300.5"):
        assert number in text
    numbers = re.findall(r"(?<![\d.,])5,150,850(?![\d.,])", text)
    # 9 ranks: categories, labelled, ratio, two samples. 8: categories, barcodes. 7: groups. Splits: three.
    assert len(numbers) == 9 * 5 + 8 * 2 + 7 + 3 * len(summary["splits"])


def test_figures_are_files(summary, tmp_path):
    files = save_figures(summary, tmp_path / "pictures")
    assert [path.stem for path in files] == ["orders", "taxonomy", "sites", "lengths", "distances", "gap"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(path.name for path in files)


def test_tables_and_figures_of_little(tmp_path):
    """A release without coordinates, barcodes and distances has neither a map nor their figures."""
    schema = features("dna").arrow_schema
    rows = [{name: None for name in schema.names} | {"order": order} for order in ("a", None)]
    (tmp_path / "dna").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "dna" / "train.parquet")
    summary = describe(tmp_path)
    assert set(figures(summary)) == {"orders", "taxonomy"}
    assert "distances not computed" in printed(tables(summary), 160)
