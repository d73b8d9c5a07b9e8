"""No command replaces its own input, not even with --force."""

import pytest

from bioscan_hf.cli.main import main


@pytest.fixture
def told(tmp_path, capsys, monkeypatch):
    """What a command that fails in a new folder tells, by its words."""
    monkeypatch.chdir(tmp_path)

    def run(words):
        with pytest.raises(SystemExit) as stopped:
            main(words.split())
        assert stopped.value.code == 1
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "words",
    [
        "split table.csv table.csv",
        "split other/../table.csv table.csv",
        "split linked.csv table.csv",
        "identify table.csv table.csv --references references.csv",
        "identify table.csv references.csv --references references.csv",
        "identify table.csv names.csv --references references.csv --html table.csv",
        "identify table.csv names.csv --references references.csv --krona references.csv",
        "probe table.csv vectors --output table.csv",
        "retrieve table.csv vectors --output table.csv",
        "card results.json --output results.json",
    ],
)
def test_inputs_are_kept(words, told, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("table.csv", "references.csv", "results.json"):
        (tmp_path / name).write_text("processid,dna_barcode\na,ACGT\n")
    (tmp_path / "linked.csv").symlink_to("table.csv")
    assert "is an input of this command. Give the output another name." in told(f"{words} --force")
    assert all(
        (tmp_path / name).read_text() == "processid,dna_barcode\na,ACGT\n"
        for name in ("table.csv", "references.csv", "results.json")
    )


@pytest.mark.parametrize(
    "words",
    [
        "build folder folder --force",
        "crop folder other/../folder --boxes table.csv",
        "embed folder folder --model kmer:2 --force",
        "references table.csv folder folder --force",
    ],
)
def test_no_folder_is_input_and_output(words, told, tmp_path):
    """Files of the two would be mixed."""
    for name in ("folder", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "table.csv").write_text("processid,dna_barcode\na,ACGT\n")
    assert "folder' is an input of this command. Give the output another name." in told(words)
    assert not any((tmp_path / "folder").iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "embed table.csv taken --model kmer:2",
        "cluster table.csv vectors --output taken",
        "build table.csv taken",
        "simulate taken --specimens 60 --metadata-only",
        "stats table.csv --plots taken",
        "crop photos taken --boxes table.csv",
        "references table.csv taken",
        "identify table.csv taken/names.csv --references table.csv",
        "identify table.csv names.csv --references table.csv --html taken/page.html",
        "demo --output taken",
        "train contrast --source table.csv --output_dir taken",
    ],
)
def test_a_file_is_no_folder_for_outputs(words, told, tmp_path):
    """One line in words, and the file stays."""
    for name in ("vectors", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "table.csv").write_text("processid,species,dna_barcode\na,Apis mellifera,ACGT\n")
    (tmp_path / "taken").write_text("mine")
    message = told(words)
    assert "'taken' is a file, and a folder is needed. Give another name." in message
    assert "Errno" not in message and (tmp_path / "taken").read_text() == "mine"


def test_a_folder_is_no_file_for_outputs(told, tmp_path):
    (tmp_path / "names.csv").mkdir()
    (tmp_path / "table.csv").write_text("processid,species,dna_barcode\na,Apis mellifera,ACGT\n")
    for words in ("split table.csv names.csv", "identify table.csv names.csv --references table.csv"):
        assert "'names.csv' is a folder. Give the name of a file." in told(f"{words} --force")
