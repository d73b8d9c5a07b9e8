"""Tables of answers read back: every text stays what it was, in every format."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioscan_hf.identification.tables import write_answers

IDS = [
    *("=1+1", "+1", "-1", "@x", "=", "#N/A", "#REF!", "1E5", "0012", "MARCH1", "1/2", "2020-01-01", "TRUE", "NA"),
    *("a,b", 'a"b', "a\nb", "a\tb", "a;b", "'quoted", " lead", "trail ", "a\\b", "\u017c\u00f3\u0142w \U0001f41e"),
    *("\ufeffbom", "\u2028line", "x" * 5000, "=cmd|' /C calc'!A0"),
]


@pytest.fixture(scope="module")
def table():
    n = len(IDS)
    near = pa.array([[{"row": 1, "identity": 0.5}]] * n)
    return pa.table({"id": IDS, "name": ["Apis"] * n, "confidence": [0.123456] * n, "neighbours": near})


def rows_of(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".xlsx":
        names, *rows = pytest.importorskip("openpyxl").load_workbook(path).active.values
        return [dict(zip(names, row, strict=True)) for row in rows]
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "parquet", "xlsx"])
def test_ids_come_back_as_they_were(table, tmp_path, ending):
    """Formulas, dates, numbers and errors of a sheet are text. Lists are where the format holds them."""
    path = tmp_path / f"names.{ending}"
    write_answers([table.slice(0, 5), table.slice(5)], path)
    rows = rows_of(path)
    assert [row["id"] for row in rows] == IDS and {row["name"] for row in rows} == {"Apis"}
    assert ("neighbours" in rows[0]) == (ending in ("json", "parquet"))
    assert {round(float(row["confidence"]), 4) for row in rows} == {0.1235}


def test_a_sheet_takes_letters_that_xlsx_does_not(tmp_path):
    """They are shown as U+FFFD: one odd id does not cost all names."""
    write_answers(pa.table({"id": ["a\x07b", "c\ufffe", "d\x00", "e"]}), tmp_path / "names.xlsx")
    assert [row["id"] for row in rows_of(tmp_path / "names.xlsx")] == ["a\ufffdb", "c\ufffd", "d\ufffd", "e"]
