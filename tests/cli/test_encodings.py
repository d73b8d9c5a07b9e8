"""Tables in Latin-1 with other delimiters, through every command that reads tables."""

import json

import pytest

from bioscan_hf.cli.main import main
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.release.problems import ReleaseError

LATIN1 = ["--encoding", "latin-1"]
PLACE = "Côte d'Ivoire"


@pytest.fixture
def table(tmp_path):
    """12 specimens; a name in the header holds more commas than there are semicolons."""
    lines = ["processid;genus;species;dna_barcode;country;site (x, y, z, height, aspect, slope)"]
    lines += [f"P{i}-20;Apis;Apis mellifera;{'ACGT' * 10}{'ACGT'[i % 4]}{'A' * i};{PLACE};1, 2" for i in range(12)]
    path = tmp_path / "own.csv"
    path.write_bytes(("\n".join(lines) + "\n").encode("latin-1"))
    return path


def run(capsys, *arguments):
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert end.value.code == 1
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    return message


def test_latin1_through_every_command(table, tmp_path, capsys):
    """Refused with the line, the column and the option; read with it; equal to the same table in UTF-8."""
    split = ["split", table, tmp_path / "split.csv"]
    assert "own.csv, line 2, column country" in refused(capsys, *split)
    run(capsys, *split, *LATIN1)
    assert PLACE in (tmp_path / "split.csv").read_text(encoding="utf-8")
    latin1 = tmp_path / "latin1.csv"
    latin1.write_bytes((tmp_path / "split.csv").read_text(encoding="utf-8").encode("latin-1"))
    for command in (["build", latin1, tmp_path / "built"], ["stats", latin1]):
        assert "is not UTF-8" in (told := refused(capsys, *command)) and "--encoding latin-1" in told
    assert run(capsys, "build", latin1, tmp_path / "built", *LATIN1)["rows"] == 12
    assert "another encoding" in refused(capsys, "build", latin1, tmp_path / "built", "--encoding", "cp1252")
    stats = [run(capsys, "stats", *source) for source in ([latin1, *LATIN1], [tmp_path / "split.csv"])]
    assert {**stats[0], "source": ""} == {**stats[1], "source": ""}
    with pytest.raises(ReleaseError, match="before load_bioscan5m, build it with its encoding"):
        load_bioscan5m(latin1, split="train")
    assert set(load_bioscan5m(tmp_path / "built", split="all")["country"]) == {PLACE}
    assert "is not UTF-8" in refused(capsys, "embed", table, tmp_path / "emb", "--model", "kmer:3")
    run(capsys, "embed", table, tmp_path / "emb", "--model", "kmer:3", *LATIN1)


def test_boxes_in_latin1(folder_of_photos, tmp_path, capsys):
    """The table of boxes may be a CSV, and in another encoding."""
    boxes = tmp_path / "boxes.csv"
    head = "notes;processid;x0;y0;x1;y1;width_original;height_original"
    boxes.write_bytes(f"{head}\nCôte;A-20;10;10;30;30;60;40\n".encode("latin-1"))
    crop = ["crop", folder_of_photos, tmp_path / "crops", "--boxes", boxes]
    assert "line 2, column notes" in refused(capsys, *crop)
    assert run(capsys, *crop, *LATIN1)["written"] == 1


@pytest.fixture
def folder_of_photos(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (60, 40), (9, 90, 200)).save(tmp_path / "photos/A-20.jpg")
    return tmp_path / "photos"


def test_a_table_without_a_known_delimiter(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("processid:genus:species:dna_barcode\nP1:Apis:Apis mellifera:ACGT\n")
    told = refused(capsys, "split", tmp_path / "t.csv", tmp_path / "out.csv")
    assert "has no column" in told and "separated by commas, tabs, semicolons or |" in told


@pytest.mark.parametrize("command", [("embed", "--model", "kmer:2"), ("identify", "--references"), ("references",)])
def test_an_unknown_encoding_is_told(command, tmp_path, capsys):
    reads = tmp_path / "a.csv"
    reads.write_text("id,sequence\nA,ACGTACGT\n")
    name, *options = command
    words = [name, reads, tmp_path / "out.csv", *options, *([reads] if name == "identify" else [])]
    with pytest.raises(SystemExit):
        main([*map(str, words), "--encoding", "nonsense"])
    assert "Unknown --encoding 'nonsense'. Give a name such as utf-8" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("embed", "--model", "kmer:2"), ("identify", "--source-split", "train")])
def test_a_dataset_in_another_encoding_is_built_first(command, tmp_path, capsys):
    table = tmp_path / "a.csv"
    table.write_text("processid,dna_barcode,species,split,country\nA,ACGTACGT,A b,train,Côte\n", encoding="latin-1")
    name, *options = command
    words = [name, table, tmp_path / "out.csv", *options, *(["--references", table] if name == "identify" else [])]
    with pytest.raises(SystemExit):
        main([*map(str, words), "--encoding", "latin-1"])
    told = capsys.readouterr().err
    assert f"Build a dataset with it first: bioscan-hf build {table} dataset --encoding latin-1" in told
