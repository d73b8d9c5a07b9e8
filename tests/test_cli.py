"""The command line: every step through its command, and errors that a person can act on."""

import csv
import json
import shutil

import pytest

from bioscan_hf.cli import main, parser
from bioscan_hf.embedding import load_embeddings
from bioscan_hf.release import find_metadata


def run(capsys, *arguments):
    """What a command prints as JSON."""
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    """The one line of error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1
    return err


def test_every_command_has_help_with_an_example(capsys):
    for name in ("demo", "simulate", "split", "build", "embed", "probe"):
        with pytest.raises(SystemExit) as stopped:
            parser().parse_args([name, "--help"])
        text = capsys.readouterr().out
        assert stopped.value.code == 0 and f"example:\n  bioscan-hf {name}" in text


def test_from_a_csv_without_partition_to_numbers(release, tmp_path, capsys, monkeypatch):
    """simulate's CSV without its splits -> split -> build -> embed -> probe, with counts of 4-mers."""
    monkeypatch.chdir(tmp_path)
    with open(find_metadata(release), newline="") as file:
        rows = [row | {"split": "", "chunk": ""} for row in csv.DictReader(file) if row["species"]]
    with open("all.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    divided = run(capsys, "split", "all.csv", "split.csv", "--seed", 0)
    samples = {row["split"]: row["samples"] for row in divided["splits"]}
    assert sum(samples.values()) == len(rows)
    assert divided["options"] == {"seed": 0, "simulated": False, "hold_out_species": 0.0, "unlabel": 0.0}
    assert divided == json.loads(open("split.csv.results.json").read())
    assert samples["train"] > 0 and samples["test"] > 0 and samples["test_unseen"] > 0

    built = run(capsys, "build", "split.csv", "dataset")
    assert built["rows"] == len(rows) and built["configs"] == ["dna"] and built["problems"] == []

    embedded = run(capsys, "embed", "dataset", "embeddings", "--model", "kmer:4", "--unique-barcodes")
    assert set(embedded["rows"]) == {"train", "test", "test_unseen"}
    assert load_embeddings("embeddings/test").embeddings.shape == (embedded["rows"]["test"], 256)

    results = run(capsys, "probe", "dataset", "embeddings")
    assert results == json.loads(open("embeddings/results.json").read())
    species = results["metrics"]["species of test"]
    assert species["chance"] < 0.3 < species["micro_accuracy"] <= 1
    assert species["n_train"] == embedded["rows"]["train"] and species["n_test"] == embedded["rows"]["test"]


def test_simulated_partition_says_so(release, tmp_path, capsys):
    main(
        [
            "split",
            str(find_metadata(release)),
            str(tmp_path / "s.csv"),
            "--hold-out-species",
            "0.2",
            "--unlabel",
            "0.5",
        ]
    )
    out = capsys.readouterr().out
    assert (
        "SIMULATED partition: 20% of the species treated as unnamed, 50% of the other barcodes without labels" in out
    )
    assert out.splitlines()[1].split() == ["split", "samples", "barcodes", "species"]
    options = json.loads((tmp_path / "s.csv.results.json").read_text())["options"]
    assert options == {"seed": 0, "simulated": True, "hold_out_species": 0.2, "unlabel": 0.5}
    with open(tmp_path / "s.csv", newline="") as file:
        assert "original_species" in next(csv.reader(file))


def test_plain_output_of_build(release, tmp_path, capsys):
    main(["build", str(release), str(tmp_path / "out"), "--config", "dna"])
    assert "400 specimens in" in capsys.readouterr().out


def test_build_reports_problems(release, tmp_path, capsys):
    copy = shutil.copytree(release, tmp_path / "release")
    path = find_metadata(copy)
    path.write_text(path.read_text().replace(",val,", ",vall,", 1))
    assert "unknown split 'vall'" in fails(capsys, "build", copy, tmp_path / "out", "--config", "dna")
    main(["build", str(copy), str(tmp_path / "out2"), "--config", "dna", "--keep-going"])
    assert f"1 problems are listed in {tmp_path / 'out2' / 'problems.csv'}" in capsys.readouterr().out


def test_errors_are_one_line_and_tell_what_to_do(release, dataset, tmp_path, capsys):
    metadata = find_metadata(release)
    assert "No metadata in" in fails(capsys, "build", tmp_path / "nowhere", tmp_path / "out")
    assert "--force" in fails(capsys, "split", metadata, metadata)
    (tmp_path / "x.csv").write_text("processid,genus\nA,B\n")
    assert "has no column 'species'" in fails(capsys, "split", tmp_path / "x.csv", tmp_path / "y.csv")
    assert not (tmp_path / "y.csv").exists()
    assert "Unknown split 'tset'" in fails(
        capsys, "embed", dataset, tmp_path / "e", "--model", "kmer:4", "--split", "tset"
    )
    assert "a number from 1 to 8" in fails(capsys, "embed", dataset, tmp_path / "e", "--model", "kmer:four")
    assert "run `bioscan-hf embed` for it first" in fails(capsys, "probe", dataset, tmp_path / "e")
    (tmp_path / "thesis.txt").write_text("")
    assert "holds something else" in fails(capsys, "demo", "--output", tmp_path)
    assert "at least 50" in fails(capsys, "simulate", tmp_path / "s", "--specimens", 3)


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["build", str(tmp_path / "nowhere"), str(tmp_path / "out"), "--debug"])
