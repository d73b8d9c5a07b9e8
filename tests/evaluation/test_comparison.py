"""The table of several evaluations: rows, columns, Markdown and CSV; evaluations that do not belong together."""

import csv
import json
import re

import pytest

from bioscan_hf.evaluation.comparison import comparison, read_evaluations
from bioscan_hf.trainers.evaluate_clibd import main

COMBINATIONS = ("dna->dna", "image->image", "image->dna")


def shares(seen, unseen):
    """A table of one combination, as results.json holds it."""
    parts = {"seen": seen, "unseen": unseen, "harmonic_mean": 2 * seen * unseen / (seen + unseen)}
    return {part: {"macro": {"1": {"species": x, "genus": 1.0}}} for part, x in parts.items()}


def write(folder, tables, options=(), **more):
    options = {"evaluate": "test", "key_splits": "train+key_unseen", "ties": "vote", "index": "exact"} | dict(options)
    about = {"task": "clibd/retrieval", "options": options, "splits": {"test": 5}}
    folder.mkdir()
    models = {"model": {"tables": tables}} | {name: {"tables": of_model} for name, of_model in more.items()}
    (folder / "results.json").write_text(json.dumps(about | {"metrics": models}))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    """No alignment, 1 M and 5 M; the first has no barcodes."""
    return [
        "no alignment=" + write(tmp_path / "none", {"image->image": shares(0.1, 0.3)}),
        write(tmp_path / "1 M", {name: shares(0.5, 0.25) for name in COMBINATIONS}),
        write(tmp_path / "5 M", {name: shares(0.75, 0.5) for name in COMBINATIONS}, baseline={}),
    ]


def test_the_table_of_the_paper(folders, tmp_path, capsys):
    """Percent with one decimal for readers, fractions in the file; by option, other ranks and combinations."""
    results = main(["--table", *folders, "--ranks", "species", "genus", "--output_dir", str(tmp_path / "out")])
    text = (tmp_path / "out/table.md").read_text()
    shown = capsys.readouterr().out.splitlines()
    assert text == results["markdown"] and shown[0] == "Macro top-1 accuracy (%)" and max(map(len, shown)) <= 80
    found = [tuple(re.split(r"  +", line)) for line in shown[1:]]
    assert found[0] == ("combination", "rank", "alignment", "seen", "unseen", "harmonic mean")
    assert ("image->image", "species", "no alignment", "10.0", "30.0", "15.0") in found
    assert ("image->dna", "species", "no alignment", "not run", "not run", "not run") in found
    assert ("dna->dna", "genus", "5 M", "100.0", "100.0", "100.0") in found and len(found) == 1 + 3 * 2 * 4
    assert "| species | no alignment | not run | not run | not run | 10.0 | 30.0 | 15.0 | not run | not run |" in text
    assert "| species | 1 M | 50.0 | 25.0 | 33.3 | 50.0 | 25.0 | 33.3 | 50.0 | 25.0 | 33.3 |" in text
    assert "image to DNA: harmonic mean" in text and "| genus | 5 M | 100.0 |" in text
    rows = list(csv.DictReader((tmp_path / "out/table.csv").open()))
    assert [(row["rank"], row["alignment"]) for row in rows[:4]] == [
        ("species", name) for name in ("no alignment", "1 M", "5 M", "5 M, baseline")
    ]
    assert rows[2]["image->dna unseen"] == "0.5" and rows[0]["dna->dna seen"] == "" and len(rows) == 8
    with pytest.raises(FileExistsError, match="has results"):
        main(["--table", *folders, "--output_dir", str(tmp_path / "out")])
    text, _ = comparison(read_evaluations(folders[1:2]), ["species"], ["image->image"])
    assert "| species | 1 M | 50.0 | 25.0 | 33.3 |" in text and "DNA" not in text


def test_evaluations_that_cannot_be_compared_are_refused(folders, tmp_path):
    other = write(tmp_path / "other", {}, {"ties": "parity"})
    with pytest.raises(ValueError, match="differ in ties: 'parity' and 'vote'"):
        read_evaluations([*folders, other])
    with pytest.raises(ValueError, match="name '1 M' is given twice"):
        read_evaluations([folders[1], folders[1]])
    with pytest.raises(FileNotFoundError, match="has no results.json"):
        read_evaluations([str(tmp_path / "nothing")])
    (tmp_path / "other/results.json").write_text('{"task": "barcodebert/knn", "metrics": {}}')
    with pytest.raises(ValueError, match="is of another task"):
        read_evaluations([other])
    with pytest.raises(ValueError, match="No evaluation has the macro top-1 accuracy at the rank 'family'"):
        comparison(read_evaluations(folders), ["family"])
    with pytest.raises(ValueError, match="Unknown combination 'dna->smell'"):
        comparison(read_evaluations(folders), ["species"], ["dna->smell"])
