"""No command replaces its own input, not even with --force."""

import pytest

from bioscan_hf.cli.main import main


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
def test_inputs_are_kept(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for name in ("table.csv", "references.csv", "results.json"):
        (tmp_path / name).write_text("processid,dna_barcode\na,ACGT\n")
    (tmp_path / "linked.csv").symlink_to("table.csv")
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), "--force"])
    assert stopped.value.code == 1
    assert "is an input of this command. Give the output another name." in capsys.readouterr().err
    assert all(
        (tmp_path / name).read_text() == "processid,dna_barcode\na,ACGT\n"
        for name in ("table.csv", "references.csv", "results.json")
    )
