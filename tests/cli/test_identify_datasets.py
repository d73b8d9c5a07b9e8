"""Datasets as what `identify` names: folders, releases, Parquet files and ids on the Hub."""

import csv
import json
import subprocess
import sys

import minihub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioscan_hf import load_bioscan5m
from bioscan_hf.cli.main import main


def fails(capsys, *command):
    with pytest.raises(SystemExit):
        main([*map(str, command)])
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def world(dataset, tmp_path_factory):
    """A library of the split train, the specimens of test, and the names that their barcodes get from a table."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bioscan_hf.identification.library.ASKED", 60)
        main(["references", str(dataset), str(folder / "library"), "--split", "train", "--quiet"])
    test = load_bioscan5m(dataset, "dna", "test", max_nucleotides=None).with_format("arrow")[:]
    table = folder / "table.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "sequence"], *zip(*(test[name].to_pylist() for name in ("processid", "dna_barcode")), strict=True)]
        )
    main(["identify", str(table), str(folder / "table_names.csv"), "--references", str(folder / "library"), "--quiet"])
    return {"library": folder / "library", "test": test, "names": read(folder / "table_names.csv"), "folder": folder}


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def named(world, source, output, *options):
    main(["identify", str(source), str(output), "--references", str(world["library"]), "--quiet", *map(str, options)])
    return read(output)


def test_a_dataset_gets_the_names_of_its_table(dataset, release, world, tmp_path):
    """A folder of Parquet, one file of it, and the release it was built from; every split without --source-split."""
    for number, source in enumerate((dataset, release)):
        assert named(world, source, tmp_path / f"{number}.csv", "--source-split", "test") == world["names"]
    file = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(world["test"], file)
    assert named(world, file, tmp_path / "file.csv") == world["names"]
    everything = named(world, dataset, tmp_path / "all.csv")
    assert [row["id"] for row in everything] == [
        name for part in load_bioscan5m(dataset).values() for name in part["processid"]
    ]


def test_splits_of_a_table_with_splits(dataset, world, tmp_path, capsys):
    """--source-split takes its rows of a split; a table without splits has none."""
    rows = world["test"].select(["processid", "dna_barcode", "split"]).to_pylist()
    rows += [{"processid": "other", "dna_barcode": "ACGT" * 150, "split": "val"}]
    with open(tmp_path / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert named(world, tmp_path / "table.csv", tmp_path / "n.csv", "--source-split", "test") == world["names"]
    assert len(named(world, tmp_path / "table.csv", tmp_path / "all.csv")) == len(rows)
    command = ["identify", world["folder"] / "table.csv", tmp_path / "x.csv", "--references", world["library"]]
    assert "is a sequence file without splits: leave out --source-split" in fails(
        capsys, *command, "--source-split", "test"
    )


def test_parquet_with_other_columns(world, tmp_path, capsys):
    """Columns with usual names are found, others are chosen; empty barcodes and bad letters stay as rows."""
    barcodes = world["test"]["dna_barcode"].to_pylist()
    table = {"sample": ["a", "b", "c"], "Sequence": [barcodes[0], None, "not DNA!"], "site": ["x", "y", None]}
    file = tmp_path / "own.parquet"
    pq.write_table(pa.table(table), file)
    command = ["identify", file, tmp_path / "x.csv", "--references", world["library"]]
    assert "has no column of ids" in (told := fails(capsys, *command)) and "by --id-column" in told
    found = named(world, file, tmp_path / "n.csv", "--id-column", "sample", "--sample-column", "site")
    assert [(row["id"], row["status"]) for row in found] == [("a", "ok"), ("b", "empty"), ("c", "too_short")]
    assert [row["sample"] for row in found] == ["x", "y", ""] and found[0]["species"] == world["names"][0]["species"]
    pq.write_table(pa.table({"id": ["a", None], "sequence": barcodes[:2]}), file)
    assert "has no id in row 2" in fails(capsys, *command)
    pq.write_table(pa.table({"id": ["a"], "sequence": [[1]]}), file)
    assert "the column 'sequence' holds list<" in (told := fails(capsys, *command)) and "not text" in told
    file.write_bytes(b"PAR1")
    assert "is not a readable Parquet file" in fails(capsys, *command)


def test_a_dataset_is_refused_where_it_does_not_fit(dataset, release, world, tmp_path, capsys):
    command = ["identify", dataset, tmp_path / "x.csv", "--references", world["library"]]
    assert "Unknown split 'tests'" in fails(capsys, *command, "--source-split", "tests")
    assert "Unknown column 'site'" in fails(capsys, *command, "--sample-column", "site")
    command[1] = release
    assert "is a dataset with the columns processid and dna_barcode: leave out" in fails(
        capsys, *command, "--id-column", "sampleid"
    )
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.slow
def test_a_dataset_on_the_hub_is_named(dataset, world, tmp_path):
    files = [*dataset.glob("dna/*.parquet"), dataset / "labels.json", dataset / "README.md"]
    with minihub.serve() as hub:
        hub.repos["tester/specimens"] = minihub.Repo()
        hub.add("tester/specimens", {path.relative_to(dataset).as_posix(): path.read_bytes() for path in files})
        words = ["identify", "tester/specimens", "n.csv", "--references", world["library"], "--source-split", "test"]
        code = f"from bioscan_hf.cli.main import main; main({json.dumps(list(map(str, words)))})"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=minihub.environment(hub, tmp_path / "home"),
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read(tmp_path / "n.csv") == world["names"]
