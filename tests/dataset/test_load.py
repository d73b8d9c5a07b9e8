"""`load_bioscan5m`: one dataset from every kind of source, with the label ids of the bioscan-dataset package."""

import csv
import inspect
import os
import shutil
import subprocess
import sys
from typing import Literal, get_overloads

import pandas
import pytest
from datasets import Dataset, DatasetDict, Image, IterableDataset, IterableDatasetDict, Split, load_dataset

from bioscan_hf.barcodes import clean_barcodes
from bioscan_hf.dataset import load as data
from bioscan_hf.dataset.load import LoadOptions, labels_of, load_bioscan5m, load_label_maps, parse_taxon
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.release.tables import read_table
from bioscan_hf.release.write import write_table
from bioscan_hf.schema import COLUMNS, LABEL_COLUMNS, SPLITS


def raw(dataset):
    """Rows with photos as bytes."""
    return list(dataset.cast_column("image", Image(decode=False)) if "image" in dataset.features else dataset)


@pytest.fixture(scope="module")
def sources(release, dataset):
    return {"parquet": dataset, "release": release, "csv": find_metadata(release)}


@pytest.mark.parametrize("split", [*SPLITS, "seen", "unseen", "all", "val+test_unseen"])
def test_same_rows_from_every_source(sources, split):
    """Parquet folder, release folder and CSV, at once and streamed: equal rows and features, label ids included."""
    expected = load_bioscan5m(sources["parquet"], "dna", split, ranks=["genus", "dna_bin"])
    assert len(expected) > 0
    for source in sources.values():
        for streaming in (False, True):
            found = load_bioscan5m(source, "dna", split, ranks=["genus", "dna_bin"], streaming=streaming)
            assert found.features == expected.features
            assert list(found) == list(expected)


def test_same_photos_from_every_source(sources):
    expected = raw(load_bioscan5m(sources["parquet"], "cropped_256", "val"))
    assert expected[0]["image"]["bytes"].startswith(b"\xff\xd8")
    for source in (sources["parquet"], sources["release"], sources["csv"]):
        for streaming in (False, True):
            assert raw(load_bioscan5m(source, "cropped_256", "val", streaming=streaming)) == expected


@pytest.mark.parametrize("config", ["dna", "cropped_256"])
@pytest.mark.parametrize("streaming", [False, True])
def test_columns_and_taxon_from_every_source(sources, config, streaming):
    """As chosen from the whole afterwards: the rows of the taxa, the columns in the order asked for, the same ids."""
    whole = load_bioscan5m(sources["parquet"], "dna", "all", ranks=["species"])
    taxon = {"order": ["Diptera", "Coleoptera"], "class": "Insecta"}
    rows = [row for row in whole if row["order"] in taxon["order"] and row["class"] == "Insecta"]
    assert 10 < len(rows) < len(whole)
    columns = ["genus", "processid", "dna_barcode"]
    expected = [{name: row[name] for name in (*columns, "species_index")} for row in rows]
    for source in sources.values():
        options = {"columns": columns, "taxon": taxon, "ranks": ["species"], "streaming": streaming}
        found = load_bioscan5m(source, config, "all", **options)
        assert list(found.features) == [*columns, "species_index"]
        assert list(found) == expected


def test_a_split_without_the_taxon_is_empty(sources):
    """A family of pretrain that val lacks: no rows, and the same features, from every source."""
    whole = load_bioscan5m(sources["parquet"])
    name = sorted(set(whole["pretrain"]["family"]) - set(whole["val"]["family"]) - {None})[0]
    for source in sources.values():
        for streaming in (False, True):
            options = {"taxon": {"family": name}, "ranks": ["family"], "streaming": streaming}
            found = load_bioscan5m(source, "dna", "val", **options)
            assert list(found) == []
            assert found.features == load_bioscan5m(source, "dna", "val", ranks=["family"]).features


def test_unique_barcodes_need_not_be_among_the_columns(dataset):
    unique = load_bioscan5m(dataset, split="all", unique_barcodes=True)
    narrow = load_bioscan5m(dataset, split="all", unique_barcodes=True, columns=["processid"])
    assert narrow[:] == unique.select_columns(["processid"])[:]


def test_short_barcodes_are_not_written_again(dataset):
    """Where no barcode is too long, the table is the one that was read: nothing is copied."""
    whole = load_bioscan5m(dataset, split="train", max_nucleotides=None)
    longest = max(map(len, whole["dna_barcode"]))
    assert load_bioscan5m(dataset, split="train", max_nucleotides=longest).cache_files == whole.cache_files
    assert load_bioscan5m(dataset, split="train", max_nucleotides=longest - 1).cache_files != whole.cache_files


def test_a_shard_that_is_missing_is_not_passed_over(dataset, tmp_path):
    copied = shutil.copytree(dataset, tmp_path / "dataset")
    assert len(list(copied.glob("dna/pretrain-*"))) == 3
    next(copied.glob("dna/pretrain-*")).unlink()
    with pytest.raises(ValueError, match="holds 2 of the 3 shards of dna/pretrain"):
        load_bioscan5m(copied, split="pretrain")


def test_parse_taxon():
    texts = ["order=Diptera", "order = Coleoptera", "species=Gnamptogenys sulcata"]
    assert parse_taxon(texts) == {"order": ["Diptera", "Coleoptera"], "species": ["Gnamptogenys sulcata"]}
    for text, message in (("Diptera", "is not a taxon. Write a rank and a name"), ("tribe=x", "Unknown rank 'tribe'")):
        with pytest.raises(ValueError, match=message):
            parse_taxon([text])


def test_metasplits_join_in_order_and_none_gives_all(dataset):
    parts = load_bioscan5m(dataset)
    assert set(parts) == set(SPLITS)
    seen = load_bioscan5m(dataset, split="seen")["processid"]
    assert seen == [processid for name in ("train", "val", "test") for processid in parts[name]["processid"]]
    assert sum(map(len, parts.values())) == len(load_bioscan5m(dataset, split="all")) == 400
    assert load_bioscan5m(dataset, split="validation")["processid"] == parts["val"]["processid"]


def test_label_ids_equal_those_of_bioscan_dataset(sources):
    """The same integer for every rank and BIN of every specimen, -1 included, in each split and streamed as well."""
    from bioscan_dataset.bioscan5m import load_bioscan5m_metadata

    theirs = load_bioscan5m_metadata(str(sources["csv"]), split="all").set_index("processid")
    assert len(theirs) == 400 and (theirs["species_index"] == -1).any()
    for split in ("pretrain", "test_unseen"):
        for streaming in (False, True):
            ours = load_bioscan5m(sources["parquet"], "dna", split, ranks=LABEL_COLUMNS, streaming=streaming)
            for row in ours:
                for rank in LABEL_COLUMNS:
                    assert row[f"{rank}_index"] == theirs.loc[row["processid"], f"{rank}_index"]


def test_label_maps_are_the_same_from_every_source(sources):
    maps = load_label_maps(sources["csv"])
    assert load_label_maps(sources["release"]) == maps == load_label_maps(sources["parquet"])


def test_label_ids_and_text_agree(dataset):
    maps = load_label_maps(dataset)
    data = load_bioscan5m(dataset, split="all", ranks=["species"])
    assert maps.decode("species", data["species_index"]) == data["species"]
    assert -1 in data["species_index"] and max(data["species_index"]) > 0


def test_barcodes_are_cut_and_nothing_else_changes(dataset):
    whole = load_bioscan5m(dataset, split="all", max_nucleotides=None)
    cut = load_bioscan5m(dataset, split="all")
    assert max(map(len, whole["dna_barcode"])) > 660, "no long barcode: this test would prove nothing"
    assert cut["dna_barcode"] == [barcode[:660] for barcode in whole["dna_barcode"]]
    assert cut.column_names == whole.column_names and set(COLUMNS) <= set(cut.column_names)
    rest = [name for name in whole.column_names if name != "dna_barcode"]
    assert cut.select_columns(rest)[:] == whole.select_columns(rest)[:]


def test_unique_barcodes_keep_the_first_of_each(dataset):
    """As pandas drops duplicates of the cut and N-stripped barcodes, keeping the first."""
    everything = load_bioscan5m(dataset, split="all").to_pandas()
    kept = everything[~everything["dna_barcode"].str.rstrip("N").duplicated()]
    assert 0 < len(kept) < len(everything)
    unique = load_bioscan5m(dataset, split="all", unique_barcodes=True)
    assert unique["processid"] == kept["processid"].tolist()
    parts = load_bioscan5m(dataset, unique_barcodes=True)
    assert sum(map(len, parts.values())) == len(unique), "barcodes are disjoint across splits"


def test_metadata_without_partition(sources, tmp_path):
    """Every row is in "all" and in "unassigned"; a named split is refused with what to do."""
    table = read_table(sources["csv"])
    place = table.column_names.index("split")
    path = tmp_path / "unsplit.csv"
    write_table(table.set_column(place, "split", pandas_nulls(table)), path)
    assert len(load_bioscan5m(path, split="all")) == 400
    assert load_bioscan5m(path, split="all")["split"] == [None] * 400
    assert list(load_bioscan5m(path)) == ["unassigned"]
    assert len(list(load_bioscan5m(path, split="all", streaming=True))) == 400
    with pytest.raises(ValueError, match="No rows of split 'train' in .* it holds unassigned. Partition it first"):
        load_bioscan5m(path, split="train")


def pandas_nulls(table):
    import pyarrow as pa

    return pa.nulls(len(table), pa.string())


def test_absent_split_of_a_metasplit(sources, tmp_path):
    """A source with train alone: "seen" is what there is of it, and "val" is refused."""
    with open(sources["csv"], newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    path = tmp_path / "train.csv"
    pandas.DataFrame(rows).to_csv(path, index=False)
    assert len(load_bioscan5m(path, split="seen")) == len(rows)
    for split in ("val", "train+val", "unseen"):
        with pytest.raises(ValueError, match="No rows of split .* it holds train"):
            load_bioscan5m(path, split=split)


def test_a_changed_csv_is_read_anew(sources, tmp_path):
    path = tmp_path / "m.csv"
    table = read_table(sources["csv"])
    for rows in (30, 20):
        write_table(table.slice(0, rows), path)
        assert len(load_bioscan5m(path, split="all")) == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": "croped"}, "Unknown config 'croped'. BIOSCAN-5M has dna, cropped_256"),
        ({"split": "tset"}, "Unknown split 'tset'"),
        ({"ranks": ["tribe"]}, "Unknown rank 'tribe'. Label ids exist for phylum"),
        ({"config": "original_256"}, "has no config 'original_256'; it has cropped_256, dna"),
        ({"unique_barcodes": True, "streaming": True}, "unique_barcodes compares all barcodes"),
        ({"columns": ["genus", "gen"]}, "Unknown column 'gen'. The config 'dna' has processid"),
        ({"columns": ["gen"], "streaming": True}, "Unknown column 'gen'. The config 'dna' has processid"),
        ({"columns": "genus"}, "columns is 'genus'; give a list"),
        ({"taxon": {"order": "Diptra"}}, "No specimen has the order 'Diptra'. Similar names: Diptera"),
        ({"taxon": {"tribe": "x"}}, "Unknown rank 'tribe'. Label ids exist for phylum"),
        ({"taxon": {"order": []}}, "taxon has no name for the rank 'order'"),
        ({"max_nucleotides": 0}, "max_nucleotides is 0; give a positive whole number"),
        ({"max_nucleotides": 1.5}, "max_nucleotides is 1.5; give a positive whole number"),
        ({"num_proc": 0}, "num_proc is 0; give 1 process or more"),
        ({"ranks": "genus"}, "ranks is 'genus'; give a list of names, such as \\['genus']"),
        ({"split": ["train", "val"]}, "split is \\['train', 'val']; give one name, .* joined by '\\+'"),
        ({"taxon": "order=Diptera"}, "taxon is 'order=Diptera'; give a dict, such as {'order': 'Diptera'}"),
        ({"taxon": {"order": None}}, "taxon has no name for the rank 'order'"),
    ],
)
def test_bad_arguments(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_bioscan5m(dataset, **arguments)


def test_splits_of_datasets(dataset):
    assert load_bioscan5m(dataset, split=Split.TRAIN)[:] == load_bioscan5m(dataset, split="train")[:]
    assert len(load_bioscan5m(dataset, split=Split.VALIDATION)) == len(load_bioscan5m(dataset, split="val"))


def test_bad_sources(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="There is nothing at .*/nowhere'. Give a Hub id"):
        load_bioscan5m(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="No metadata in"):
        load_bioscan5m(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a metadata file: give a .csv"):
        load_bioscan5m(tmp_path / "photo.jpg")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe' is a pipe or a device. Write what it gives to a file"):
        load_bioscan5m(tmp_path / "pipe")
    assert data.source_kind("user/bioscan") == "hub"


def test_labels_of_follow_the_ids_asked_for(dataset):
    table = load_bioscan5m(dataset, split="test", ranks=["genus"])
    ids, labels = table["processid"][::-1], table["genus_index"][::-1]
    assert labels_of(dataset, "test", ids)["genus"].tolist() == labels
    with pytest.raises(ValueError, match="'NOBODY' and 0 more are not in the split 'test'"):
        labels_of(dataset, "test", [*ids, "NOBODY"])


@pytest.mark.parametrize("config", ["dna", "cropped_256"])
def test_load_dataset_gives_the_same_rows_except_for_the_cut(dataset, config):
    """`datasets.load_dataset` of a build, without our code: equal rows and features but for barcodes over 660.

    The config dna also numbers the rows of the metadata; `load_bioscan5m` gives these numbers only if asked for them.
    """
    theirs = load_dataset(str(dataset), config)
    if config == "dna":
        numbers = [number for split in SPLITS for number in theirs[split]["metadata_row"]]
        assert sorted(numbers) == list(range(400)) and numbers != sorted(numbers)
        asked = load_bioscan5m(dataset, config, "val", columns=["metadata_row"])
        assert asked["metadata_row"][:] == theirs["val"]["metadata_row"][:]
        theirs = theirs.remove_columns("metadata_row")
    ours = load_bioscan5m(dataset, config)
    assert set(theirs) == set(ours) == set(SPLITS)
    longest = 0
    for split in SPLITS:
        assert ours[split].features == theirs[split].features
        expected = raw(theirs[split])
        assert raw(load_bioscan5m(dataset, config, split, max_nucleotides=None)) == expected
        streamed = load_dataset(str(dataset), config, split=split, streaming=True)
        assert raw(streamed.select_columns(list(theirs[split].features))) == expected
        longest = max(longest, *(len(row["dna_barcode"]) for row in expected))
        for row in expected:
            row["dna_barcode"] = row["dna_barcode"][:660]
        assert raw(ours[split]) == expected
        assert raw(load_bioscan5m(dataset, config, split, streaming=True)) == expected
    assert longest > 660, "no long barcode: this test would prove nothing"


def test_the_signature_is_the_published_one():
    """Names and order of design.md; the type of the result follows `split` and `streaming`."""
    named = list(inspect.signature(load_bioscan5m).parameters)
    assert (
        named
        == (
            "source config split streaming columns taxon ranks max_nucleotides unique_barcodes "
            "revision token cache_dir num_proc labels"
        ).split()
    )
    kinds = [inspect.signature(one, eval_str=True) for one in get_overloads(load_bioscan5m)]
    found = [
        (kind.parameters["split"].annotation, kind.parameters["streaming"].annotation, kind.return_annotation)
        for kind in kinds
    ]
    assert found[:4] == [
        (None, Literal[False], DatasetDict),
        (None, Literal[True], IterableDatasetDict),
        (str, Literal[False], Dataset),
        (str, Literal[True], IterableDataset),
    ]
    assert set(LoadOptions.__annotations__) == set(named[4:]), "overloads take the same options"


def test_results_have_the_declared_types(dataset):
    for split, kinds in ((None, (DatasetDict, IterableDatasetDict)), ("val", (Dataset, IterableDataset))):
        for streaming, kind in zip((False, True), kinds, strict=True):
            assert type(load_bioscan5m(dataset, "dna", split, streaming=streaming)) is kind


def test_clean_barcodes():
    """Case, U, IUPAC codes, gaps and white space; trailing N, real or cleaned, is cut off, and inner N stays."""
    assert clean_barcodes(["acgu ACGT\n", "ACRYG-T", "ACGTNNry", ""]) == ["ACGTACGT", "ACNNGT", "ACGT", ""]
    with pytest.raises(ValueError, match="Sequence 2 .'ACGE'.* is not DNA: it contains 'E'"):
        clean_barcodes(["ACGT", "ACGE"])


BUILDER = """
import sys
from bioscan_hf.dataset_script.bioscan5m import Bioscan5M
builder = Bioscan5M(config_name="cropped_256", data_dir=sys.argv[1], cache_dir=sys.argv[2])
builder.download_and_prepare()
print(list(builder.as_dataset(split="val")["processid"]))
stream = builder.as_streaming_dataset(split="val")
print([row["processid"] for row in stream], next(iter(stream))["image"].size)
"""


@pytest.mark.slow
def test_builder_class(release, dataset, tmp_path):
    """The builder, used as a class, gives the rows of the Parquet folder, prepared and streamed."""
    done = subprocess.run(
        [sys.executable, "-c", BUILDER, str(release), str(tmp_path)], capture_output=True, text=True, check=True
    )
    expected = load_bioscan5m(dataset, "cropped_256", "val")
    ids = str(list(expected["processid"]))
    assert done.stdout.splitlines() == [ids, f"{ids} {expected[0]['image'].size}"]
