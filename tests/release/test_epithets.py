"""An epithet alone in the column of species gets its genus, by every reader."""

import csv
import json

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from bioscan_hf.cli.main import main
from bioscan_hf.dataset.sequences import read_sequences
from bioscan_hf.identification.formats import read_references
from bioscan_hf.release.rows import read_rows

ROWS = [("Apis", "vulgaris"), ("Vespula", "vulgaris"), ("Bombus", "terrestris"), ("NA", "vulgaris"), ("Apis", "sp")]
WHOLE = ["Apis vulgaris", "Vespula vulgaris", "Bombus terrestris", "vulgaris", None]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.csv"
    lines = [f"p{i},{genus},{species},{'ACGT' * (20 + i)}" for i, (genus, species) in enumerate(ROWS)]
    path.write_text("\n".join(["Specimen ID,Genus,Species,Sequence", *lines]) + "\n")
    return path


def test_every_reader_gives_the_whole_name(file, tmp_path):
    """Two species of one epithet stay two, whether the genus is asked for or not."""
    assert read_sequences(file)["species"].to_pylist() == WHOLE
    assert read_references([file]).table["species"].to_pylist() == WHOLE
    ((_, rows),) = read_rows(file, ["processid", "species"])
    assert rows.column_names == ["processid", "species"] and rows["species"].to_pylist() == WHOLE
    pq.write_table(pacsv.read_csv(file), tmp_path / "own.parquet")
    assert read_references([tmp_path / "own.parquet"]).table["species"].to_pylist() == WHOLE


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_counts_are_of_whole_names(kind, file, tmp_path, capsys):
    source = file
    if kind == "parquet":
        source = tmp_path / "own.parquet"
        pq.write_table(
            pacsv.read_csv(file).cast(
                pa.schema([(n, pa.string()) for n in ("Specimen ID", "Genus", "Species", "Sequence")])
            ),
            source,
        )
    main(["stats", str(source), "--json"])
    ranks = {row["rank"]: row for row in json.loads(capsys.readouterr().out)["ranks"]}
    assert ranks["species"]["categories"] == 4 and ranks["species"]["labelled"] == 4


def test_a_word_among_whole_names_is_no_epithet(tmp_path):
    lines = ["p0,Apis,tbd,ACGT", *(f"p{i},Apis,Apis mellifera,ACGT{'A' * i}" for i in range(1, 4))]
    (tmp_path / "own.csv").write_text("\n".join(["id,genus,species,sequence", *lines]) + "\n")
    assert read_sequences(tmp_path / "own.csv")["species"].to_pylist() == ["tbd", *["Apis mellifera"] * 3]


def test_split_writes_whole_names(file, tmp_path):
    main(["split", str(file), str(tmp_path / "s.csv")])
    with open(tmp_path / "s.csv", newline="") as found:
        assert {row["species"] for row in csv.DictReader(found)} >= {"Apis vulgaris", "Vespula vulgaris"}
