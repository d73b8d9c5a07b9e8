"""The files that identify writes besides its table."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from made_up_references import records, write_table

from bioscan_hf.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of references, and a table of reads of two sites with one id for each row."""
    folder = tmp_path_factory.mktemp("files")
    rows = records(np.random.default_rng(7), each=3)
    write_table(folder / "references.csv", rows)
    with open(folder / "reads.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["processid", "Site name", "nucleotides"])
        for number, row in enumerate(rows[::5]):
            writer.writerow([f"read{number};size={number + 1}", ("lake", "wood")[number % 2], row["dna_barcode"]])
    return folder


def rows_in(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_all_files_at_once(folder, capsys):
    """Every read is in every file, and the abundances sum to the reads."""
    files = {
        "html": "report.html",
        "abundance": "taxa.tsv",
        "darwincore": "dwc.csv",
        "krona": "krona.txt",
        "qiime": "taxonomy.tsv",
    }
    options = [word for name, file in files.items() for word in (f"--{name}", folder / file)]
    words = ["identify", folder / "reads.csv", folder / "names.csv", "--references", folder / "references.csv"]
    words += ["--sample-column", "Site name", "--sequence-column", "nucleotides"]
    main(list(map(str, [*words, *options])))
    assert capsys.readouterr().out.splitlines()[-5:] == [f"Wrote {folder / name}" for name in files.values()]
    page = (folder / "report.html").read_text()
    assert "<title>Names of reads.csv</title>" in page and '"strips":[[' in page
    names, taxa = rows_in(folder / "names.csv"), rows_in(folder / "taxa.tsv", "\t")
    assert "neighbours" not in names[0] and {row["sample"] for row in names} == {"lake", "wood"}
    total = sum(int(row["size"]) for row in names)
    assert sum(int(row["lake"]) + int(row["wood"]) for row in taxa) == total == sum(range(1, len(names) + 1))
    assert [row["occurrenceID"] for row in rows_in(folder / "dwc.csv")] == [row["id"] for row in names]
    assert [row["Feature ID"] for row in rows_in(folder / "taxonomy.tsv", "\t")] == [row["id"] for row in names]
    assert sum(int(line.split("\t")[0]) for line in (folder / "krona.txt").read_text().splitlines()) == total


def test_faults_are_told_before_the_reads_are_named(folder, capsys):
    words = ["identify", folder / "reads.csv", folder / "n.csv", "--references", folder / "references.csv"]
    words += ["--sequence-column", "nucleotides"]

    def fails(*more):
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, [*words, *more])))
        assert stopped.value.code == 1
        return capsys.readouterr().err

    assert "has no column 'Place'. Its columns are 'processid', 'Site name'" in fails("--sample-column", "Place")
    assert "the ending tells the format" in fails("--abundance", folder / "taxa.doc")
    assert "is given for two files" in fails("--krona", folder / "n.csv")
    (folder / "twice.fasta").write_text(">a\nACGT\n>a\nACGT\n")
    words[1] = folder / "twice.fasta"
    del words[-2:]
    for option, program in (("--qiime", "QIIME 2"), ("--darwincore", "Darwin Core")):
        assert f"'a'; {program} needs an id of its own" in fails(option, folder / "new.tsv")
    assert "it has no columns to choose from" in fails("--sample-column", "Site")
    assert not (folder / "n.csv").exists() and not (folder / "new.tsv").exists()


@pytest.mark.slow
def test_a_library_of_sequences_is_opened_without_what_photos_need(folder, tmp_path):
    """They take longer to import than thousands of reads to be named."""
    main(["references", str(folder / "references.csv"), str(tmp_path / "library"), "--quiet"])
    (tmp_path / "reads.fasta").write_text(">a\n" + "ACGT" * 100 + "\n")
    code = (
        "import sys\n"
        "from bioscan_hf.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "assert not {'datasets', 'matplotlib'} & set(sys.modules), 'imported'\n"
    )
    command = [
        "identify",
        tmp_path / "reads.fasta",
        tmp_path / "n.csv",
        "--references",
        tmp_path / "library",
        "--quiet",
    ]
    subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True)


def test_a_given_share_of_new_species_has_no_interval(folder, capsys):
    """An estimated share has an interval on the screen and on the page; one that was given has none."""
    words = ["identify", folder / "reads.csv", "--references", folder / "references.csv", "--force"]
    words += ["--html", folder / "share.html"]
    for more, told, novel in (([], "; set it by --novel-share", 3), (["--novel-share", "0"], "0.0%, as given by", 1)):
        main(list(map(str, [*words, folder / "share.csv", *more])))
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Share of sequences"))
        assert told in line and (" to " in line) == (novel == 3)
        page = (folder / "share.html").read_text()
        assert len(json.loads(re.search(r'"novel":(\[[^]]*\])', page)[1])) == novel


def test_too_few_references_are_told(folder, tmp_path, capsys):
    """A single reference teaches nothing: a read that equals it has no name, and the reason is told."""
    read = "ACGTTGCA" * 60
    (tmp_path / "one.fasta").write_text(f">AB123456.1 Apis mellifera COI\n{read}\n")
    words = ["identify", tmp_path / "one.fasta", tmp_path / "n.csv", "--references", tmp_path / "one.fasta"]
    main(list(map(str, words)))
    assert "The references are too few for confidences, so nothing has a name" in capsys.readouterr().out
    assert [row["name"] for row in rows_in(tmp_path / "n.csv")] == [""]


def test_ids_that_others_have_are_told(folder, capsys):
    """Names of a plate with spaces: three of four reads are "plate", and cannot be told apart in the table."""
    read = "ACGT" * 50
    for names, told in ((("plate A1", "plate A2", "x", "plate A3"), "3 sequences share their id with"), ("abcd", "")):
        (folder / "plate.fasta").write_text("".join(f">{name}\n{read}\n" for name in names))
        words = ["identify", folder / "plate.fasta", folder / "plate.csv", "--references", folder / "references.csv"]
        main(list(map(str, [*words, "--force"])))
        out = capsys.readouterr().out
        assert told in out and ("such as 'plate'" in out) == ("share their id" in out) == bool(told)
