"""The command line: every command on real files, and its error messages."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from bioscan_hf.cli.command import Output, app
from bioscan_hf.cli.main import main
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.embed import load_embeddings
from bioscan_hf.release.layout import find_metadata


def run(capsys, *arguments):
    """The JSON that a command prints."""
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    """The one-line error message of a command that fails with status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1
    return err


def refuses(capsys, *arguments):
    """The one-line usage error of a command that fails with status 2."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.endswith(" --help` shows the options.\n")
    return err


PANELS = {
    "Try it": ["demo", "simulate"],
    "The dataset": ["download", "split", "crop", "build", "publish", "stats"],
    "Models": ["embed", "convert", "card", "train"],
    "Names for specimens": ["references", "identify", "app"],
    "Benchmarks of embeddings": ["probe", "retrieve", "evaluate"],
    "Clusters of embeddings": ["cluster"],
    "This program": ["completion"],
}
COMMANDS = [name for names in PANELS.values() for name in names]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_begins_with_an_example(name, capsys):
    main([name, "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].startswith(f"Usage: bioscan-hf {name}")
    assert lines[1] == "Example:" and lines[2].startswith(f"bioscan-hf {name} ")
    if name not in ("train", "evaluate"):  # groups: their commands have these options
        assert all(any(flag in line for line in lines) for flag in ("--json", "--quiet", "--debug"))


def test_choices_are_those_of_the_library():
    """Choices are written out in the options, so that help needs no library."""
    from typing import get_args

    from bioscan_hf.cli import cluster, options
    from bioscan_hf.clustering import embeddings, methods
    from bioscan_hf.schema import CONFIGS

    assert get_args(options.Config) == CONFIGS
    assert get_args(options.PhotoConfig) == tuple(name for name in CONFIGS if name != "dna")
    assert set(get_args(cluster.Reducer)) == set(methods.REDUCERS)
    assert set(get_args(cluster.Clusterer)) == set(methods.CLUSTERERS)
    assert get_args(cluster.Normalization) == embeddings.NORMALIZATIONS


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
    options = {"seed": 0, "simulated": False, "hold_out_species": 0.0, "unlabel": 0.0, "no_overlap": False}
    assert divided["options"] == options
    assert divided == json.loads(open("split.csv.results.json").read())
    assert samples["train"] > 0 and samples["test"] > 0 and samples["test_unseen"] > 0

    built = run(capsys, "build", "split.csv", "dataset")
    assert built["rows"] == len(rows) and built["configs"] == ["dna"] and built["problems"] == []

    embedded = run(capsys, "embed", "dataset", "embeddings", "--model", "kmer:4", "--unique-barcodes")
    assert set(embedded["rows"]) == {"train", "key_unseen", "test", "test_unseen"}
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
    assert ["split", "samples", "barcodes", "species"] in [line.split() for line in out.splitlines()]
    options = json.loads((tmp_path / "s.csv.results.json").read_text())["options"]
    shares = {"hold_out_species": 0.2, "unlabel": 0.5}
    assert options == {"seed": 0, "simulated": True, "no_overlap": False, **shares}
    with open(tmp_path / "s.csv", newline="") as file:
        assert "original_species" in next(csv.reader(file))


def test_plain_output_of_build(release, tmp_path, capsys):
    main(["build", str(release), str(tmp_path / "out"), "--config", "dna"])
    out = capsys.readouterr().out
    assert "400 specimens as dna" in out
    assert out.splitlines()[-2:] == [f"Wrote {tmp_path / 'out'}", f"Next: bioscan-hf stats {tmp_path / 'out'}"]


def test_build_reports_problems(release, tmp_path, capsys):
    copy = shutil.copytree(release, tmp_path / "release")
    path = find_metadata(copy)
    path.write_text(path.read_text().replace(",val,", ",vall,", 1))
    assert "unknown split 'vall'" in fails(capsys, "build", copy, tmp_path / "out", "--config", "dna")
    told = fails(capsys, "embed", path, tmp_path / "embedded", "--model", "kmer:2")  # which has no --keep-going
    assert "unknown split 'vall'" in told and "leave it out (bioscan-hf build --keep-going" in told
    main(["build", str(copy), str(tmp_path / "out2"), "--config", "dna", "--keep-going"])
    assert f"Problems: 1; see {tmp_path / 'out2' / 'problems.csv'}" in capsys.readouterr().out


def test_errors_are_one_line_and_tell_what_to_do(release, dataset, tmp_path, capsys):
    metadata = find_metadata(release)
    assert "nowhere' does not exist" in fails(capsys, "build", tmp_path / "nowhere", tmp_path / "out")
    assert "No metadata in" in fails(capsys, "build", tmp_path, tmp_path / "out")
    assert "is an input of this command" in fails(capsys, "split", metadata, metadata)
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
    assert "specimens is 3; it must be from 50" in fails(capsys, "simulate", tmp_path / "s", "--specimens", 3)


def test_existing_files_are_not_replaced(release, dataset, tmp_path, capsys, monkeypatch):
    """Results, figures and the results file of a split stay as they are without --force."""
    monkeypatch.chdir(tmp_path)
    run(capsys, "embed", dataset, "e", "--model", "kmer:2")
    (tmp_path / "plots").mkdir()
    names = ("thesis.json", "out.csv.results.json", "plots/orders.png")
    doors = (
        ("probe", dataset, "e", "--output", names[0]),
        ("split", find_metadata(release), "out.csv"),
        ("stats", dataset, "--plots", "plots"),
    )
    for name, door in zip(names, doors, strict=True):
        (tmp_path / name).write_text("mine")
        assert f"{name!r} exists. Give another name, or --force to replace it" in fails(capsys, *door)
        assert (tmp_path / name).read_text() == "mine"
        run(capsys, *door, "--force")
        assert (tmp_path / name).read_bytes() != b"mine"
    assert (tmp_path / "out.csv").stat().st_size > 1000


def test_missing_model_is_named(dataset, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["embed", str(dataset), str(tmp_path / "e"), "--model", "nowhere"])
    assert "No model at 'nowhere': the folder does not exist" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["build", str(tmp_path / "nowhere"), str(tmp_path / "out"), "--debug"])


def test_simulate_metadata_and_build_some_splits(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(capsys, "simulate", "release", "--specimens", 300, "--metadata-only")
    whole = run(capsys, "build", "release", "whole")
    assert whole["complete"] and whole["rows"] == 300
    part = run(capsys, "build", "release", "part", "--split", "train+other_heldout")
    assert 0 < part["rows"] < 300


def test_download_check_tells_what_is_there(release, tmp_path, capsys):
    """A simulated release is not the published one: its zips are damaged, and the command fails."""
    copy = shutil.copytree(release, tmp_path / "release")  # checksums are kept beside the files
    with pytest.raises(SystemExit) as stopped:
        main(["download", str(copy), "--config", "cropped_256", "--split", "train", "--check"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1 and "files are not there as published" in err
    assert "BIOSCAN_5M_cropped_256_train.zip" in out and "damaged" in out


def test_stats_as_table_as_json_and_as_pictures(dataset, tmp_path, capsys):
    main(["stats", str(dataset), "--plots", str(tmp_path / "plots")])
    out = capsys.readouterr().out
    assert "Splits" in out and "pretrain" in out
    assert all(path.stat().st_size > 5000 for path in (tmp_path / "plots").glob("*.png"))
    assert len(list((tmp_path / "plots").glob("*.png"))) >= 4
    summary = run(capsys, "stats", dataset)
    assert summary["splits"][-1]["samples"] == 400


def test_crop_by_the_table_of_boxes(tmp_path, capsys, monkeypatch):
    from bioscan_hf.simulate.release import simulate_release

    monkeypatch.chdir(tmp_path)
    simulate_release("release", specimens=60, packages=("original_256",))
    boxes = "release/BIOSCAN_5M_Insect_bbox.tsv"
    done = run(capsys, "crop", "release", "crops", "--boxes", boxes, "--split", "train")
    photos = list((tmp_path / "crops").rglob("*.jpg"))
    assert done["written"] == len(photos) > 0 and done["problems"] == []
    again = run(capsys, "crop", "release", "crops", "--boxes", boxes, "--split", "train")
    assert (again["written"], again["present"]) == (0, len(photos))
    header, first, *_ = (tmp_path / boxes).read_text().splitlines()
    (tmp_path / "boxes.tsv").write_text("\n".join((header, first.replace("\t", "\twide", 1))))
    assert "Correct the file." in fails(capsys, "crop", "release", "other", "--boxes", "boxes.tsv", "--keep-going")


def test_convert(tmp_path, capsys):
    import torch

    from bioscan_hf import BarcodeBertConfig, BarcodeBertForMaskedLM, BarcodeBertModel

    config = BarcodeBertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, k=2)
    torch.save(BarcodeBertForMaskedLM(config).state_dict(), tmp_path / "bare.pth")
    assert "Give it (--heads, in Python" in fails(capsys, "convert", tmp_path / "bare.pth", tmp_path / "out")
    run(capsys, "convert", tmp_path / "bare.pth", tmp_path / "out", "--heads", 2)
    assert BarcodeBertModel.from_pretrained(tmp_path / "out").config.k == 2
    torch.save({"state_dict": {"model.model.backbone": torch.zeros(1)}}, tmp_path / "crop.ckpt")
    assert "do not make a detector" in fails(capsys, "convert", tmp_path / "crop.ckpt", tmp_path / "detr")
    assert "none.pth' does not exist" in fails(capsys, "convert", tmp_path / "none.pth", tmp_path / "x")
    assert "is not empty. Give a new folder" in fails(capsys, "convert", tmp_path / "bare.pth", tmp_path / "out")


def test_embed_one_taxon(dataset, tmp_path, capsys):
    arguments = ("embed", dataset, tmp_path / "e", "--model", "kmer:3", "--split", "train")
    sizes = run(capsys, *arguments, "--taxon", "order=Diptera")["rows"]
    rows = run(capsys, "embed", dataset, tmp_path / "all", *arguments[3:])["rows"]
    assert 0 < sizes["train"] < rows["train"]
    assert "Similar names: Diptera" in fails(capsys, *arguments, "--taxon", "order=Dipter")


def test_embed_own_sequences(tmp_path, capsys):
    """FASTA and CSV give the same, whatever the spelling; a letter that is not a nucleotide is refused."""
    (tmp_path / "reads.fasta").write_text(">a first\nACGTACGTAA\nCC\n>b\nacguacgt\n")
    (tmp_path / "reads.csv").write_text("id,sequence\na,ACGTACGTAACC\nb,acguacgt\n")
    for name in ("reads.fasta", "reads.csv"):
        found = run(capsys, "embed", tmp_path / name, tmp_path / name[:-4], "--model", "kmer:2")
        assert found["rows"] == {name: 2}
    fasta, csv = (load_embeddings(tmp_path / name) for name in ("reads.f", "reads"))
    assert fasta.processids == csv.processids == ["a", "b"]
    assert (fasta.embeddings == csv.embeddings).all() and fasta.valid.all()
    (tmp_path / "wrong.fasta").write_text(">a first\nACGTACGTAA\nCC\n>b\nacguacgx\n")
    refused = fails(capsys, "embed", tmp_path / "wrong.fasta", tmp_path / "x", "--model", "kmer:2", "--clean", "none")
    assert "'b'" in refused and "line 5" in refused
    assert "leave out --split" in fails(
        capsys, "embed", tmp_path / "reads.csv", tmp_path / "x", "--model", "kmer:2", "--split", "train"
    )
    assert not (tmp_path / "x").exists()


def test_embed_tells_barcodes_of_the_other_strand(dataset, tmp_path, capsys):
    """Two of twelve sequences are reverse complements; those of a release are all on one strand."""
    barcodes = load_bioscan5m(str(dataset), split="train")["dna_barcode"][:12]
    texts = [
        one[::-1].translate(str.maketrans("ACGT", "TGCA")) if i in (3, 7) else one for i, one in enumerate(barcodes)
    ]
    (tmp_path / "reads.fasta").write_text("".join(f">r{i}\n{one}\n" for i, one in enumerate(texts)))
    main(["embed", str(tmp_path / "reads.fasta"), str(tmp_path / "r"), "--model", "kmer:2"])
    assert "reads.fasta: 2 of 12 barcodes compared are on the other strand" in capsys.readouterr().out
    main(["embed", str(dataset), str(tmp_path / "e"), "--model", "kmer:2", "--split", "train"])
    assert "strand" not in capsys.readouterr().out


def test_probe_linear(dataset, tmp_path, capsys):
    """A linear probe of 4-mer counts is far better than chance."""
    run(capsys, "embed", dataset, tmp_path / "e", "--model", "kmer:4", "--unique-barcodes")
    results = run(capsys, "probe", dataset, tmp_path / "e", "--probe", "linear", "--protocol", "upstream")
    assert results["task"] == "barcodebert/linear" and results["options"] == {"protocol": "upstream"}
    species = results["metrics"]["species of test"]
    assert species["micro_accuracy"] > 0.5 > 5 * species["chance"]


def test_probe_tells_leaks_intervals_novel_species_and_the_curve(dataset, tmp_path, capsys):
    """The curve is a table and a picture; several neighbours have weighted votes."""
    run(capsys, "embed", dataset, tmp_path / "e", "--model", "kmer:4", "--unique-barcodes")
    results = run(capsys, "probe", dataset, tmp_path / "e", "--curve")
    assert (tmp_path / "e/knn_curve.png").stat().st_size > 5_000
    assert results["options"] == {"k": 1, "metric": "cosine", "temperature": None}
    assert set(results["curves"]) == set(results["metrics"]) and set(results["leaks"]) == {"test", "test_unseen"}
    assert 0.5 < results["novel_species"]["auroc"] <= 1
    low, high = results["metrics"]["species of test"]["micro_accuracy_interval"]
    assert "knn_curve.png' exists" in fails(
        capsys, "probe", dataset, tmp_path / "e", "--output", tmp_path / "e/o.json", "--curve"
    )
    main(["probe", str(dataset), str(tmp_path / "e"), "--k", "5", "--force", "--without-leaks"])
    out = capsys.readouterr().out
    assert "Novel species: AUROC " in out and "species of test" in out and low <= high
    again = json.loads((tmp_path / "e/results.json").read_text())["options"]
    assert again == {"k": 5, "metric": "cosine", "temperature": 0.02, "without_leaks": True}
    refused = fails(capsys, "probe", dataset, tmp_path / "e", "--probe", "linear", "--curve", "--force")
    assert "--curve is of nearest neighbours" in refused


def test_card_of_results_of_another_task(tmp_path, capsys):
    """A card needs the results of a known task, and never replaces a file without --force."""
    (tmp_path / "results.json").write_text('{"task": "partition"}')
    assert "of the task 'partition'; give results of" in fails(capsys, "card", tmp_path / "results.json")
    (tmp_path / "reads.fasta").write_text(">a\nACGT\n")
    assert "reads.fasta' cannot be read as JSON" in fails(capsys, "card", tmp_path / "reads.fasta")
    (tmp_path / "README.md").write_text("mine")
    assert "--force" in fails(capsys, "card", tmp_path / "results.json")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_retrieve(dataset, tmp_path, capsys):
    """Barcodes of unseen species find their species among the keys of key_unseen."""
    splits = [part for name in ("train", "key_unseen", "test", "test_unseen") for part in ("--split", name)]
    assert "run `bioscan-hf embed` for it first" in fails(capsys, "retrieve", dataset, tmp_path)
    run(capsys, "embed", dataset, tmp_path / "e", "--model", "kmer:4", *splits)
    results = run(capsys, "retrieve", dataset, tmp_path / "e")
    assert json.loads((tmp_path / "e/retrieval.json").read_text())["metrics"].keys() == {"dna->dna"}
    found = results["metrics"]["dna->dna"]
    for name in ("seen", "unseen"):
        species, chance = found[name]["micro"]["1"]["species"], found[name]["chance"]["micro"]["1"]["species"]
        assert species > 0.5 > 5 * chance
    assert "--force" in fails(capsys, "retrieve", dataset, tmp_path / "e")


def test_specimens_without_an_embedding_are_left_out_and_told(dataset, tmp_path, capsys):
    """Two of test and one of train are too short for a token: no answer is by chance, and none is silently gone."""
    splits = ("train", "key_unseen", "test", "test_unseen")
    rows = run(
        capsys, "embed", dataset, tmp_path, "--model", "kmer:4", *[x for name in splits for x in ("--split", name)]
    )["rows"]
    for split, count in (("test", 2), ("train", 1)):
        (shard,) = (tmp_path / split).glob("*.parquet")
        table = pq.read_table(shard)
        vectors = [[0.0] * 256] * count + table["embedding"].to_pylist()[count:]
        table = table.set_column(1, "embedding", pa.array(vectors, table.schema.field("embedding").type))
        valid = pa.array([row >= count for row in range(len(table))])
        pq.write_table(table.set_column(2, "valid", valid), shard)
    for command in ("probe", "retrieve"):
        results = run(capsys, command, dataset, tmp_path)
        left_out = results["left_out"]
        assert (left_out["test"], left_out["train"], left_out["test_unseen"]) == (2, 1, 0)
        assert results["splits"]["test"] == rows["test"] - 2
        main([command, str(dataset), str(tmp_path), "--force"])
        assert "Left out of test: 2 without a valid embedding." in capsys.readouterr().out


def test_the_next_command_of_each_runs_and_fits_80_columns(dataset, tmp_path, capsys, monkeypatch):
    """embed -> probe -> retrieve -> cluster -> card, with defaults only, each as the one before it tells."""
    from bioscan_hf.cli import cluster

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)  # UMAP compiles itself: tests/clustering runs it
    (tmp_path / "dataset").symlink_to(dataset)
    reads = [f">r{i}\n{'ACGT' * 9}{'AC' * i}\n" for i in range(8)]
    (tmp_path / "reads.fasta").write_text("".join(reads))
    for first, expected in (
        ("embed dataset embeddings --model kmer:4", ["probe", "retrieve", "cluster", "card"]),
        ("embed reads.fasta vectors --model kmer:2", ["cluster", "card"]),
    ):
        command, done = first, []
        while command:
            main(shlex.split(command))
            lines = capsys.readouterr().out.splitlines()
            assert lines and all(len(line) <= 80 for line in lines), lines
            command = lines[-1].removeprefix("Next: bioscan-hf ") if lines[-1].startswith("Next: ") else ""
            done += [command.split()[0]] if command else []
        assert done == expected and "Wrote " in lines[-1]
    chosen = json.loads((tmp_path / "clusters/results.json").read_text())
    assert chosen["protocol"] == "ward" and chosen["options"]["reducer"] == "none"
    assert json.loads((tmp_path / "vectors_clusters/results.json").read_text())["chosen"][0]["by"] == "silhouette"


def test_stats_and_split_fit_80_columns(dataset, release, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["stats", str(dataset), "--distances", "--max-barcodes", "5"])
    out = capsys.readouterr().out
    assert "Pairwise distances" in out and max(map(len, out.splitlines())) <= 80
    main(["split", str(find_metadata(release)), str(tmp_path / "s.csv")])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("split ", "train ", "test "))]
    assert len(table) == 3 and max(map(len, table)) <= 80


@pytest.mark.parametrize(("rows", "empty"), [(7, ["test", "test_unseen"]), (16, ["test_unseen"])])
def test_split_says_why_test_is_empty(rows, empty, tmp_path, capsys):
    """Species of 7 rows are too small for test, and without placeholders nothing is unseen."""
    reads = (f"{'ACGT' * 20}{'AC' * row}{'GT' * kind}" for kind in range(3) for row in range(rows))
    names = [f"Apis {kind}" for kind in ("mellifera", "cerana", "dorsata") for _ in range(rows)]
    lines = [f"p{i},Apis,{name},{read}" for i, (name, read) in enumerate(zip(names, reads, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["processid,genus,species,dna_barcode", *lines]) + "\n")
    main(["split", str(tmp_path / "t.csv"), str(tmp_path / "s.csv")])
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if " is empty: " in line] == empty
    assert all(len(line) <= 80 for line in told if "empty" in line or "genus in train" in line)


def test_the_overview_lists_every_command_once_in_its_group(capsys):
    main(["--help"])
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("╭"):
            found[line.strip("╭─╮ ")] = shown = []
        elif line.startswith("│ ") and line[2] != " ":
            shown.append(line.split()[1])
    assert found.pop("Options") and found == PANELS
    assert sorted(get_command(app).commands) == sorted(COMMANDS)


def test_quiet_prints_nothing(release, tmp_path, capsys):
    main(["build", str(release), str(tmp_path / "out"), "--config", "dna", "--quiet"])
    main(["embed", str(tmp_path / "out"), str(tmp_path / "e"), "--model", "kmer:2", "--split", "test", "--quiet"])
    assert capsys.readouterr() == ("", "")
    assert len(load_embeddings(tmp_path / "e" / "test")) > 0


def test_exit_statuses(tmp_path, capsys, monkeypatch):
    """0 done, 1 an error in the input, 2 wrong arguments, 3 a fault of the program, 130 interrupted."""

    def status(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, arguments)))
        return stopped.value.code, capsys.readouterr().err

    main(["completion", "bash", "--quiet"])
    assert status("build", tmp_path / "nowhere", tmp_path / "out")[0] == 1
    assert "--json prints the result" in refuses(capsys, "completion", "bash", "--json", "--quiet")
    for raised, code, told in (
        (TypeError("wrong"), 3, "a fault of this program, TypeError: wrong. --debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):

        def fail(*_, error=raised):
            raise error

        monkeypatch.setattr(Output, "say", fail)
        found = status("completion", "bash")
        assert found[0] == code and told in found[1] and len(found[1].splitlines()) == 1
    with pytest.raises(TypeError):
        monkeypatch.setattr(Output, "say", lambda *_: 1 + "")
        main(["completion", "bash", "--debug"])


def test_wrong_arguments(tmp_path, capsys):
    """The message names what was given and what is allowed."""
    assert "Missing argument" in refuses(capsys, "build")
    told = refuses(capsys, "biuld")
    assert "No such command" in told and "Did you mean 'build'? `bioscan-hf --help`" in told
    assert re.search("No such option:? '?--shard", refuses(capsys, "build", "a", "b", "--shard", 0))  # as click says
    assert "'croped' is not one of dna, cropped_256" in refuses(capsys, "build", "a", "b", "--config", "croped")
    assert refuses(capsys, "crop", "a", "b").startswith("bioscan-hf crop: give --boxes or --model, one of them. `bio")
    assert re.search(r"Got unexpected extra arguments? \(c\)", refuses(capsys, "build", "a", "b", "c"))
    assert "give --boxes or --model" in refuses(capsys, "crop", "a", "b", "--boxes", "c", "--model", "d")
    assert "'ward2'" in refuses(capsys, "cluster", "a", "b", "--output", "c", "--clusterer", "ward2")


def test_usage_errors_load_no_heavy_library():
    code = "from bioscan_hf.cli.main import main\ntry:\n    main(['build'])\nexcept SystemExit as stopped:\n"
    code += "    import sys\n    print(stopped.code, sorted({'numpy', 'torch', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "2 []\n"


NOWHERE = {
    "split": ["no.csv", "s.csv"],
    "crop": ["no", "crops", "--boxes", "no.tsv"],
    "build": ["no", "built"],
    "publish": ["no", "user/name"],
    "stats": ["no"],
    "embed": ["no", "e", "--model", "kmer:2"],
    "convert": ["no.pt", "converted"],
    "card": ["no"],
    "probe": ["no", "e"],
    "retrieve": ["no", "e"],
    "cluster": ["no", "e", "--output", "c"],
    "train pretrain": ["--source", "no", "--output_dir", "out/x"],
    "train finetune": ["--source", "here", "--model", "out/none", "--output_dir", "out/x"],
    "train contrast": ["--source", "./no", "--output_dir", "out/x"],
    "train clibd": ["--source", "here", "--dna_encoder", "../none", "--output_dir", "out/x"],
    "evaluate clibd": ["--model", "out/none", "--source", "here", "--output_dir", "out/x"],
    "embed ": ["here", "e", "--model", "out/none"],
}

LIGHT = """
import sys
from bioscan_hf.cli.main import main
for words in {commands!r}:
    try:
        main(words)
    except SystemExit as stopped:
        print(stopped.code, *sorted({{"numpy", "torch", "pyarrow", "datasets"}} & set(sys.modules)))
"""


def test_a_path_that_does_not_exist_is_told_before_libraries_are_imported(tmp_path):
    """One line and status 1 from every command, without numpy, torch and pyarrow, and without a look at the Hub."""
    (tmp_path / "here").mkdir()
    commands = [[*name.split(), *words] for name, words in NOWHERE.items()]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(commands=commands)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["1"] * len(commands), done.stderr
    told = done.stderr.splitlines()
    assert len(told) == len(commands)
    for (name, *_), line in zip(commands, told, strict=True):
        assert line.startswith(f"bioscan-hf {name}") and re.search("does not exist|There is nothing at", line)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_closed_pipe_is_not_an_error():
    """`bioscan-hf completion zsh | head -c 1`."""
    line = f"{sys.executable} -c 'from bioscan_hf.cli.main import main; main()' completion zsh | head -c 1"
    found = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "#", "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_screen_without_the_letters_of_a_name_is_not_an_error(tmp_path, encoding):
    """Letters that the screen has not are shown as codes; what --json prints can be read in any encoding."""

    def shown(*options):
        command = [
            sys.executable,
            "-m",
            "bioscan_hf.cli.main",
            "simulate",
            "Łódź",
            "--metadata-only",
            "--specimens",
            "50",
        ]
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*command, *options], capture_output=True, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode(encoding)

    assert ("Łódź" if encoding == "utf-8" else r"\u0141") in shown()
    assert json.loads(shown("--force", "--json"))["output"] == "Łódź"


def test_bash_completes_commands_options_and_choices(tmp_path, capsys):
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "bioscan-hf").write_text(
        f"#!{sys.executable}\nfrom bioscan_hf.cli.main import main\nmain()\n", encoding="utf-8"
    )
    (tmp_path / "bioscan-hf").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def complete(*words):
        ask = f"source {tmp_path / 'script'}; COMP_WORDS=({' '.join(words)}''); COMP_CWORD={len(words) - 1}; "
        ask += "_bioscan_hf_completion bioscan-hf; echo ${COMPREPLY[@]}"
        return subprocess.run(["bash", "-c", ask], env=environment, capture_output=True, text=True).stdout.split()

    assert complete("bioscan-hf", "pro") == ["probe"]
    assert "--hold-out-species" in complete("bioscan-hf", "split", "--h")
    assert complete("bioscan-hf", "build", "--config", "cropped_") == ["cropped_256"]
    assert complete("bioscan-hf", "embed", "--dtype", "b") == ["bfloat16"]


def test_identify_names_reads_of_a_release(dataset, tmp_path, capsys):
    """Barcodes of known species, and one that is too short: names at the deepest confident rank, in every format."""
    from bioscan_hf import load_bioscan5m

    test = load_bioscan5m(dataset, "dna", "test", unique_barcodes=True)
    reads = tmp_path / "reads.fasta"
    reads.write_text(
        "".join(f">{row['processid']};size=7\n{row['dna_barcode']}\n" for row in test)
        + ">short\nACG\n>bad\nNOT*DNA!\n"
    )
    library = tmp_path / "library"
    made = run(capsys, "references", dataset, library, "--split", "train")
    assert made["formats"] == {"dataset": 1} and made["taxa"]["species"] > 10
    assert "--force to replace" in fails(capsys, "references", dataset, library)
    command = ["identify", reads, tmp_path / "names.csv", "--references", library]
    result = run(capsys, *command, "--least", 0.6)
    with open(tmp_path / "names.csv", newline="") as file:
        rows = {row["id"].split(";")[0]: row for row in csv.DictReader(file)}
    named = sum(result["deepest_rank"].values())
    assert result["sequences"] == len(rows) == len(test) + 2 == named + sum(not row["name"] for row in rows.values())
    for name in ("short", "bad"):
        row = rows.pop(name)
        assert row["status"] == "too_short" and row["note"] and not row["name"] and not row["species"]
    right = [rows[row["processid"]]["species"] == row["species"] for row in test]
    assert sum(right) > 0.8 * len(right)
    for row in rows.values():
        assert row["size"] == "7"
        assert not row["name"] or row["name"] == row[row["rank"]] and float(row["confidence"]) >= 0.6
        assert float(row["species_confidence"] or 0) <= float(row["genus_confidence"] or 0) <= 1
    assert "--force to replace" in fails(capsys, *command)
    for ending in ("tsv", "json", "parquet", "xlsx"):
        output = tmp_path / f"names.{ending}"
        run(capsys, "identify", reads, output, "--references", library)
        assert [row["id"] for row in read_answers(output)] == [
            *(f"{r['processid']};size=7" for r in test),
            "short",
            "bad",
        ]


def read_answers(path):
    """Rows of a table of names."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".xlsx":
        names, *rows = pytest.importorskip("openpyxl").load_workbook(path).active.values
        return [dict(zip(names, row, strict=True)) for row in rows]
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_identify_refuses_what_it_cannot_use(dataset, tmp_path, capsys):
    (tmp_path / "x.fasta").write_text(">a\nACGT\n")
    command = ["identify", tmp_path / "x.fasta", tmp_path / "n.csv", "--references", dataset]
    assert "--least 95.0 is not a share" in fails(capsys, *command, "--least", 95)
    assert "--novel-share -1.0 is not a share" in fails(capsys, *command, "--novel-share", -1)
    told = fails(capsys, "identify", "reads.fasta", *command[2:])
    assert "There is nothing at 'reads.fasta'. Give a file of sequences (FASTA, FASTQ, CSV or TSV), Hub id," in told
    assert "is a sequence file without splits" in fails(capsys, *command, "--source-split", "test")
    other = ["identify", tmp_path / "x.fasta", tmp_path / "n.doc", "--references", dataset]
    assert "the ending tells the format; give .csv, .tsv" in fails(capsys, *other)
    assert "There is nothing at" in fails(capsys, *command[:-1], tmp_path / "absent.fasta")
    assert "Give one or more files of references, and last" in fails(capsys, "references", dataset)
    assert not (tmp_path / "n.csv").exists()


def test_identify_names_the_rows_of_a_table_with_splits(release, dataset, tmp_path, capsys):
    """As of any other table; those of a dataset without barcodes have the status empty."""
    with open(find_metadata(release), newline="") as file:
        ids = [row["processid"] for row in csv.DictReader(file)]
    output = tmp_path / "names.csv"
    run(capsys, "identify", find_metadata(release), output, "--references", dataset, "--model", "kmer:4")
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ids and sum(row["status"] == "ok" for row in rows) > len(ids) / 2


BOTH = ("--split", "test", "--split", "test_unseen")


@pytest.fixture(scope="module")
def both_modalities(dataset, tmp_path_factory):
    """Folder with 4-mer counts of test and test_unseen (dna), and embeddings of their photos by an untrained network
    (image)."""
    folder = tmp_path_factory.mktemp("embedded")
    main(["embed", str(dataset), str(folder / "dna"), "--model", "kmer:4", *BOTH, "--quiet"])
    network = ["--model", "timm:test_resnet", "--random-weights", "--config", "cropped_256", "--workers", "2"]
    main(["embed", str(dataset), str(folder / "image"), *network, *BOTH, "--quiet"])
    return folder


def test_embed_leaves_out_specimens_without_a_barcode(tmp_path, capsys):
    """Of a dataset and of a sequence file; they are an error first, and then counted."""
    rows = [f"P{i},{'train' if i < 7 else 'test'},{'ACGTTGCA' * 9 if i % 3 else ''}" for i in range(1, 13)]
    table = tmp_path / "table.csv"
    table.write_text("processid,split,dna_barcode\n" + "\n".join(rows) + "\n")
    main(["build", str(table), str(tmp_path / "dataset"), "--quiet"])
    command = ["embed", tmp_path / "dataset", tmp_path / "vectors", "--model", "kmer:2"]
    told = fails(capsys, *command)
    assert "2 of 6 rows have no value of 'dna_barcode': P3, P6. Leave them out" in told and "--missing drop" in told
    main([*map(str, command), "--missing", "drop"])
    assert "train: 4 x 16; left out: 2 specimens without a barcode" in capsys.readouterr().out
    reads = tmp_path / "reads.fasta"
    reads.write_text(">a\nACGTACGT\n>b\n>c\nNNACGTAA\n")
    command = ["embed", reads, tmp_path / "own", "--model", "kmer:2"]
    assert "--missing drop" in fails(capsys, *command)
    found = run(capsys, *command, "--missing", "drop")
    assert found["rows"] == {"reads.fasta": 2} and found["left_out"] == {"reads.fasta": 1}
    assert "give one of them" in fails(capsys, *command, "--missing", "drop", "--keep-empty")


def test_embed_photos(dataset, both_modalities, tmp_path, capsys):
    """One vector per photo, in the order of the barcodes. Options that do not fit are errors."""
    dna, image = (load_embeddings(both_modalities / name / "test") for name in ("dna", "image"))
    assert image.processids == dna.processids and image.valid.all()
    assert image.embeddings.shape == (len(dna), 96) and image.embeddings.std(axis=0).max() > 0
    command = ("embed", dataset, tmp_path / "e")
    photos = ("--config", "cropped_256")
    for arguments, told in (
        (("--model", "kmer:4", "--zoom", 0.9), "are for photos: add --config cropped_256"),
        (("--model", "kmer:4", "--pooling", "avg"), "--pooling avg is for photos"),
        (("--model", "kmer:4", "--pooling", "tokens"), "'kmer:4' has its own pooling"),
        (("--model", "timm:x", "--pooling", "cls", *photos), "--pooling cls is for barcodes"),
        (("--model", "timm:x", "--trust-remote-code", *photos), "Photo encoders run no remote code"),
        (("--model", "timm:nowhere", *photos), "timm has no 'nowhere'"),
        (("--model", "kmer:4", *photos), "An encoder of photos is"),
        (("--model", "mocov3_resnet50", *photos), "give its published weights, the file r-50-1000ep.pth.tar"),
        (("--model", "timm:test_resnet", "--random-weights", "--config", "original_256"), "original_256"),
    ):
        assert told in fails(capsys, *command, *arguments)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    weights = ("--model", "timm:test_resnet", "--weights", tmp_path / "cut.safetensors", *photos)
    assert "cut.safetensors' is not a complete safetensors file" in fails(capsys, *command, *weights)
    assert not (tmp_path / "e").exists()


def test_cluster_writes_results_tables_and_pages(dataset, both_modalities, tmp_path, capsys):
    """Barcodes and photos, each z-scored: results, clusters, figures, tables. --force replaces them and deletes what
    the earlier clustering left."""
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    command = ("cluster", dataset, both_modalities / "dna", "--with", f"photo={both_modalities / 'image'}")
    command += ("--output", out, "--reducer", "none", "--normalization", "average_zscore", "--clusterer", "ward")
    results = run(capsys, *command, "--map", "pca", "--photos", "cropped_256")
    assert results == json.loads((out / "results.json").read_text())
    assert results["modalities"] == {"dna": 256, "photo": 96} and results["metrics"]["species"]["ami"] > 0.5
    clusters = pq.read_table(out / "clusters.parquet")
    assert clusters.num_rows == results["specimens"] == sum(results["splits"].values()) > 10
    pages = {"ami_by_rank.png", "map_order.png", "map_family.png", "map_species.png", "map.html"}
    tables = {"cluster_report.csv", "likely_mislabelled.csv", "cluster_report_rules.json"}
    assert {path.name for path in out.iterdir()} == {"results.json", "clusters.parquet", *pages, *tables}
    page = (out / "map.html").read_text()
    assert all(name in page for name in clusters["processid"].to_pylist()) and '"photos":["' in page
    with open(out / "cluster_report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["cluster"]): int(row["size"]) for row in rows} == {
        cluster: clusters["cluster"].to_pylist().count(cluster) for cluster in range(len(rows))
    }
    before = (out / "results.json").read_bytes()
    assert "results.json' exists. Give another name, or --force" in fails(capsys, *command, "--map", "none")
    assert (out / "results.json").read_bytes() == before
    main([*map(str, command), "--map", "none", "--force", "--n-clusters", "3", "--seed", "4"])
    text = capsys.readouterr().out
    assert "rank          AMI" in text and "3 clusters of " in text
    assert text.endswith(f"Wrote {out}\nNext: bioscan-hf card {out}\n")
    assert {path.name for path in out.iterdir()} == {"results.json", "clusters.parquet"}
    (out / "results.json").unlink()
    (out / "map.html").write_text("mine")
    (out / "clusters.parquet").unlink()
    assert "map.html' exists" in fails(capsys, *command)
    assert (out / "map.html").read_text() == "mine"


def test_cluster_refuses_what_it_cannot_use(dataset, both_modalities, tmp_path, capsys):
    """Each error is one line, and nothing is written."""
    small, dna = tmp_path / "small", both_modalities / "dna"
    embed = ("embed", str(dataset), str(small), "--model", "kmer:2")
    main([*embed, *BOTH, "--unique-barcodes", "--quiet"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other/test").symlink_to(dna / "test")
    (tmp_path / "other/test_unseen").symlink_to(small / "test_unseen")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/test").symlink_to(dna / "test")
    lacks = set(load_embeddings(dna / "test").processids) - set(load_embeddings(small / "test").processids)
    out = tmp_path / "out"
    how = ("--output", out, "--reducer", "none", "--map", "none")
    for arguments, told in (
        ((dna, "--with", small), "The modalities have different specimens: 'small' does not have"),
        ((dna, "--n-clusters", 5000), "clusters, not 5000"),
        ((dna, "--n-clusters", "kingdom"), "'kingdom' is neither 'silhouette' nor a rank of the labels: phylum"),
        ((dna, "--clusterer", "leiden", "--n-clusters", 3), "'leiden' finds the number of clusters itself"),
        ((dna, "--with", dna), "Two folders are named 'dna'"),
        ((dna, "--photos", "cropped_256"), "leave one of them out"),
        ((dna, "--photos", "original_256", "--map", "pca"), "original_256"),
        ((tmp_path / "half",), "No embeddings of 'test_unseen' in"),
        ((tmp_path / "other",), "Different models embedded test and test_unseen in"),
        ((f"a=b={dna}",), "does not exist. Give an existing file"),
    ):
        assert told in fails(capsys, "cluster", dataset, *arguments[:1], *how, *arguments[1:]), arguments
    assert lacks and any(name in fails(capsys, "cluster", dataset, dna, *how, "--with", small) for name in lacks)
    assert not out.exists()
    found = run(capsys, "cluster", dataset, dna, *how, "--with", small, "--missing", "drop")
    assert lacks <= set(found["dropped"]["small"]) and found["specimens"] == len(
        load_embeddings(small / "test")
    ) + len(load_embeddings(small / "test_unseen"))
    one = run(capsys, "cluster", dataset, tmp_path / "half", *how, "--split", "test", "--force")
    assert one["splits"] == {"test": len(load_embeddings(dna / "test"))}
