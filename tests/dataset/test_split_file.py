"""`bioscan-hf split`: formats, names of BOLD, and results that the other commands take."""

import gzip
import json

import pytest
from partition_rules import check_partition

from bioscan_hf.cli.main import main
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset.split_file import split_file
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.release.tables import read_table

NAMES = [("Apis", "Apis mellifera"), ("Apis", "Apis cerana"), ("Bombus", "Bombus terrestris")]


def barcode(i):
    return "".join("ACGT"[i // 4**place % 4] for place in range(30))


def rows(number=30):
    return [[f"P{i}-20", *NAMES[i % 3], barcode(1000 * i + 7)] for i in range(number)]


def write(path, lines, delimiter=","):
    text = "\n".join(delimiter.join(line) for line in [["processid", "genus", "species", "dna_barcode"], *lines])
    path.write_text(text + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz"])
def test_four_columns_are_enough_for_every_command(tmp_path, capsys, ending):
    """The result goes into build, load (streamed too), stats and embed."""
    source, output = write(tmp_path / "four.csv", rows()), tmp_path / f"out{ending}"
    main(["split", str(source), str(output), "--quiet"])
    table = read_table(output, ("processid", "genus", "species", "dna_barcode", "split"))
    check_partition(table)
    assert table["processid"].to_pylist() == [f"P{i}-20" for i in range(30)]
    first = gzip.open(output).read() if ending.endswith(".gz") else output.read_bytes()
    assert first.startswith({".c": b"processid,", ".t": b"processid\t", ".j": b'{"processid"'}[ending[:2]])
    if ending in (".csv", ".jsonl.gz"):  # read like their neighbours
        return
    main(["build", str(output), str(tmp_path / "built"), "--quiet"])
    train = load_bioscan5m(output, split="train")
    assert train["species"] == load_bioscan5m(tmp_path / "built", split="train")["species"]
    assert set(train["family"]) == {None}
    assert [row["processid"] for row in load_bioscan5m(output, split="train", streaming=True)] == train["processid"][:]
    capsys.readouterr()
    main(["stats", str(output), "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 30
    if not ending.startswith(".jsonl"):  # other tables than releases
        embed = ["embed", str(output), str(tmp_path / "emb"), "--model", "kmer:3", "--split", "train", "--quiet"]
        main(embed)


def test_names_of_bold_and_all_columns_are_kept(tmp_path):
    lines = [["processid", "marker_code", "genus", "species", "bin_uri", "notes", "nuc"]]
    lines += [[i, "COI-5P", genus, name, "BOLD:A", 'a "b', b.lower()] for i, genus, name, b in rows()]
    lines += [["P1-20", "28S", "Apis", "Apis cerana", "None", "x", barcode(5)], ["X-20", "None", *["None"] * 5]]
    source = tmp_path / "bcdm.tsv"
    source.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    told = []
    summary = split_file(source, tmp_path / "out.csv", tell=told.append)
    table = read_table(tmp_path / "out.csv", ("processid",))
    assert sum(part["samples"] for part in summary) == len(table) == 30
    assert table.column_names == [
        "processid",
        "marker_code",
        "genus",
        "species",
        "dna_bin",
        "notes",
        "dna_barcode",
        "split",
    ]
    assert table["dna_barcode"].to_pylist() == [row[3] for row in rows()]
    assert set(table["notes"].to_pylist()) == {'a "b'}
    assert "Left out: 1 record of the marker 28S, 1 record without a sequence." in told


def test_what_cannot_be_partitioned_is_refused_before_anything_is_written(tmp_path):
    output = tmp_path / "out.csv"
    cases = {
        "none": ("a,b\n1,2\n", "no column 'processid', 'genus', 'species', 'dna_barcode'. A partition needs"),
        "dna": ("id,genus,species,seq\nP1,A,A b,ACGJ\n", "row 1 .P1.: dna_barcode is not DNA: it contains 'J'"),
        "id": ("id,genus,species,seq\nP 1,A,A b,ACG\n", "row 1: 'P 1' is not an id"),
        "missing": ("id,genus,species,seq\nP1,A,A b,NA\nP2,A,A b,ACGTA\n", "1 of 2 rows have no barcode"),
        "image": ("id,genus,species,seq,image\nP1,A,A b,ACG,x\n", "has a column 'image'"),
        "ragged": ("id,genus,species,seq\nP1,A,A b\n", "line 2 has 3 cells instead of 4.*Correct the file"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / f"{name}.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            split_file(tmp_path / f"{name}.csv", output)
    with pytest.raises(ValueError, match="a table ends in .csv, .tsv, .jsonl"):
        split_file(write(tmp_path / "good.csv", rows()), tmp_path / "out.xlsx")
    assert not [path for path in tmp_path.iterdir() if path.stem.startswith((".out", "out"))]


def test_a_table_without_rows(tmp_path):
    """Only a header, or only records of other markers."""
    for lines in ("", "P1,Apis,Apis mellifera,ACGT,28S\n"):
        source = tmp_path / "own.csv"
        source.write_text(f"processid,genus,species,dna_barcode,marker_code\n{lines}")
        with pytest.raises(ReleaseError, match="own.csv has no rows to partition" + (".*28S" if lines else "")):
            split_file(source, tmp_path / "out.csv", tell=lambda line: None)
        assert not (tmp_path / "out.csv").exists()


def test_the_encoding_can_be_given(tmp_path):
    source = tmp_path / "latin1.csv"
    source.write_bytes("id,genus,species,seq,place\nP1,Apis,Apis b,ACGTT,Québec\n".encode("latin-1"))
    with pytest.raises(ReleaseError, match="line 2, column place: 'Québec' is not UTF-8"):
        split_file(source, tmp_path / "out.csv")
    split_file(source, tmp_path / "out.csv", encoding="latin-1")
    assert read_table(tmp_path / "out.csv", ("processid",))["place"].to_pylist() == ["Québec"]


def test_records_that_are_left_out_are_neither_counted_nor_checked(tmp_path):
    """Row 1 is of another marker: it counts as no correction, may hold anything, and still is row 1."""
    lines = [
        ["processid", "marker_code", "genus", "species", "dna_barcode"],
        ["X 1", "28S", "x", "Apis  cerana", "ac!"],
    ]
    lines += [[i, "COI-5P", genus, name, sequence] for i, genus, name, sequence in rows()]
    source, told = tmp_path / "bcdm.tsv", []
    source.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    split_file(source, tmp_path / "out.tsv", tell=told.append)
    assert not any("respelled" in line for line in told)
    assert len(read_table(tmp_path / "out.tsv", ("processid",))) == 30
    source.write_text("\n".join("\t".join(line) for line in [*lines, ["P 9", "COI-5P", *lines[2][2:]]]) + "\n")
    with pytest.raises(ReleaseError, match="row 32: 'P 9' is not an id"):
        split_file(source, tmp_path / "other.tsv")
