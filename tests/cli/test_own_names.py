"""Names of a table of one's own sequences reach the clustering."""

import json

import pyarrow.parquet as pq
import pytest

from bioscan_hf.cli.main import main

READS = {"Apis mellifera": "ACGT" * 12, "Musca domestica": "TTGA" * 12}


@pytest.mark.parametrize(
    ("header", "options"),
    [("processid,species,nucleotides", ()), ("Probe,species,read", ("--id-column=Probe", "--sequence-column=read"))],
)
def test_clusters_are_compared_with_the_names_of_a_table(header, options, tmp_path, capsys, monkeypatch):
    """Two species of two barcodes, and a record without a name: an AMI of 1 without it, and names in the table."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{name[0]}{i},{name},{read}{'AC' * i}" for name, read in READS.items() for i in range(2)]
    (tmp_path / "own.csv").write_text("\n".join([header, *rows[::-1], f"x,NA,{READS['Apis mellifera']}"]) + "\n")
    main(["embed", "own.csv", "vectors", "--model", "kmer:2", *options])
    main(["cluster", "own.csv", "vectors", "--output", "groups", "--map", "none"])
    told = capsys.readouterr().out
    assert "No names to compare" not in told and "2 clusters of 5 specimens (as many as names of species)" in told
    scores = json.loads((tmp_path / "groups/results.json").read_text())["metrics"]["species"]
    assert scores["ami_labelled"] == pytest.approx(1) and scores["ami"] < 0.7 and scores["missing"] == 1
    line = next(line for line in told.splitlines() if line.startswith("species")).split()
    assert line == ["species", f"{scores['ami']:.1%}", "100.0%", "2", "1"] and "that of named leaves them out" in told
    table = pq.read_table(tmp_path / "groups/clusters.parquet").to_pylist()
    names = {"A": "Apis mellifera", "M": "Musca domestica", "x": None}
    assert all(row["species"] == names[row["processid"][0]] for row in table) and len(table) == 5
