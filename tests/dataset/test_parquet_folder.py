"""Folders of Parquet files: layouts, kinds of text, odd names, label ids, and splits that are incomplete."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Image

from bioscan_hf.cli.main import main
from bioscan_hf.dataset.load import labels_of, load_bioscan5m, load_label_maps
from bioscan_hf.dataset.sources import source_kind
from bioscan_hf.labels import LabelMaps
from bioscan_hf.release.columns import features
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.schema import SPLITS
from bioscan_hf.statistics.measures import describe


def rows(dataset):
    return list(dataset.cast_column("image", Image(decode=False)) if "image" in dataset.features else dataset)


def table_of(dataset, config="dna", split="val"):
    """A split of a build, as one Arrow table."""
    return pa.concat_tables(pq.read_table(file) for file in sorted(dataset.glob(f"{config}/{split}-*.parquet")))


def with_text(table, kind):
    """The table with all text of another Arrow type."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = table[field.name]
            column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
            table = table.set_column(i, field.name, column)
    return table.replace_schema_metadata()


TEXT = {"string_view": pa.string_view(), "large_string": pa.large_string(), "dictionary": "dictionary"}


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("streaming", [False, True])
def test_text_of_every_arrow_type(dataset, tmp_path, kind, streaming):
    """string_view (polars), large_string and dictionary (pandas): the rows and features of a build."""
    (tmp_path / "dna").mkdir()
    for split in ("val", "test"):
        pq.write_table(with_text(table_of(dataset, split=split), TEXT[kind]), tmp_path / f"dna/{split}.parquet")
    shutil.copy(dataset / "labels.json", tmp_path)
    order = load_bioscan5m(dataset, split="val")["order"][0]
    narrow = {"columns": ["processid"], "taxon": {"order": order, "class": "Insecta"}}
    for options in ({}, {"ranks": ["species"]}, {"taxon": {"order": order}}, narrow):
        expected = load_bioscan5m(dataset, "dna", "val+test", streaming=streaming, **options)
        found = load_bioscan5m(tmp_path, "dna", "val+test", streaming=streaming, **options)
        assert found.features == expected.features
        assert list(found) == list(expected) and len(list(expected)) > 0


def test_stats_of_every_arrow_type(dataset, tmp_path):
    found = []
    for kind in ("string", *TEXT):
        (tmp_path / kind / "dna").mkdir(parents=True)
        table = table_of(dataset)
        pq.write_table(with_text(table, TEXT[kind]) if kind in TEXT else table, tmp_path / kind / "dna/val.parquet")
        found.append({**describe(tmp_path / kind), "source": None})
    assert found[0]["splits"] and all(one == found[0] for one in found)


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_without_a_value_and_damaged_pages(tmp_path, streaming):
    """A column of the type null is one of text or numbers; damage is told by one line with the name of the file."""
    (tmp_path / "dna").mkdir()
    path = tmp_path / "dna/train.parquet"
    table = pa.table(
        {"processid": ["P1", "P2"], "dna_barcode": ["ACGT", "AC"], "genus": pa.nulls(2), "coord-lat": pa.nulls(2)}
    )
    pq.write_table(table, path, compression="none")
    data = load_bioscan5m(tmp_path, split="train", streaming=streaming)
    assert [row["genus"] for row in data] == [None, None]
    assert {name: data.features[name].dtype for name in ("genus", "coord-lat")} == {
        "genus": "string",
        "coord-lat": "float64",
    }
    whole = path.read_bytes()
    damaged = [whole[:place] + b"\xff" + whole[place + 1 :] for place in (whole.find(b"PAR1") + 6, whole.find(b"P1"))]
    for content in [*damaged, whole.replace(b"genus", b"gen\xffs")]:  # a page, a text, the name of a column
        path.write_bytes(content)
        with pytest.raises(ReleaseError, match="train.parquet is not a readable Parquet file") as error:
            list(load_bioscan5m(tmp_path, split="train", streaming=streaming))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_ids_that_are_numbers_are_text(tmp_path, streaming):
    (tmp_path / "dna").mkdir()
    table = pa.table({"processid": [7, 8], "dna_barcode": ["ACGT", "AC"], "own": [1, 2]})
    pq.write_table(table, tmp_path / "dna/train.parquet")
    data = load_bioscan5m(tmp_path, split="train", streaming=streaming)
    assert [(row["processid"], row["own"]) for row in data] == [("7", 1), ("8", 2)]


@pytest.mark.parametrize("kind", ["string_view", "binary"])
def test_photos_that_other_libraries_have_written(dataset, tmp_path, kind):
    """Photos without the metadata of `datasets`, as a struct or as bytes alone, are photos."""
    table = with_text(table_of(dataset, "cropped_256"), pa.string_view())
    photos = pc.struct_field(table["image"], "bytes")
    if kind == "binary":
        table = table.set_column(0, "image", photos)
    (tmp_path / "cropped_256").mkdir()
    pq.write_table(table, tmp_path / "cropped_256/val.parquet")
    for streaming in (False, True):
        found = load_bioscan5m(tmp_path, "cropped_256", "val", streaming=streaming)
        assert [row["image"]["bytes"] for row in rows(found)] == photos.to_pylist()
        assert next(iter(found))["image"].size


LAYOUTS = {
    "hub": "{config}/{split}/000{i}.parquet",
    "build": "{config}/{split}-0000{i}-of-00002.parquet",
    "one file": "{config}/{split}.parquet",
    "plain": "{split}-{i}.parquet",
    "push_to_hub": "data/{split}-0000{i}-of-00002.parquet",
    "one folder per split": "{split}/part-{i}.parquet",
    "by the column": "part-{split}-{i}.parquet",
    "by the column, in a folder": "tables/part-{split}-{i}.parquet",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("streaming", [False, True])
def test_layouts(dataset, tmp_path, layout, streaming):
    """The layout config/split/0000.parquet of the Hub, and plain Parquet: rows of each split, in the given order."""
    for split in ("val", "test_unseen"):
        table = table_of(dataset, split=split)
        name = split.replace("_", "-") if "column" in layout else "validation" if split == "val" else split
        cuts = [table] if "{i}" not in LAYOUTS[layout] else [table.slice(0, 3), table.slice(3)]
        for i, part in enumerate(cuts):
            path = tmp_path / LAYOUTS[layout].format(config="dna", split=name, i=i)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(part, path)
    assert source_kind(tmp_path) == "parquet"
    everything = load_bioscan5m(tmp_path, streaming=streaming)
    assert list(everything) == ["val", "test_unseen"]
    for split, found in everything.items():
        expected = load_bioscan5m(dataset, split=split)
        assert found.features == expected.features and list(found) == list(expected)
    taxon = {"order": sorted({row["order"] for row in load_bioscan5m(dataset, split="val")})[0]}
    found = load_bioscan5m(tmp_path, split="val", taxon=taxon, streaming=streaming)
    assert list(found) == [row for row in load_bioscan5m(dataset, split="val") if row["order"] == taxon["order"]]
    assert describe(tmp_path)["splits"][-1]["samples"] == sum(1 for part in everything.values() for _ in part)


def test_layouts_that_say_too_little(dataset, tmp_path):
    table = table_of(dataset)
    (tmp_path / "dna/partial-train").mkdir(parents=True)
    pq.write_table(table, tmp_path / "dna/partial-train/0000.parquet")
    with pytest.raises(ValueError, match="holds only a part of train .in partial-train."):
        load_bioscan5m(tmp_path, split="train")
    for first, second, message in (
        ("a/x.parquet", "b/x.parquet", "has no config 'dna'; it has a, b"),
        ("a/x.parquet", "x.parquet", "has no config 'dna'; it has a"),
        ("dna/val.parquet", "dna/validation.parquet", "holds val twice: dna/val.parquet and dna/validation.parquet"),
        ("dna/val/0000.parquet", "dna/val-0.parquet", "holds val twice: dna/val/0000.parquet and dna/val-0.parquet"),
        ("val.parquet", "more.parquet", "holds more.parquet, whose name is not a split, beside files of val"),
    ):
        folder = tmp_path / f"{first}+{second}".replace("/", "-")
        for name in (first, second):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / name)
        with pytest.raises(ValueError, match=message):
            load_bioscan5m(folder, split="val")
    other = table.set_column(table.column_names.index("split"), "split", pa.array(["fold 1"] * len(table)))
    pq.write_table(other, tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet: unknown split 'fold 1' .BIOSCAN-5M has pretrain"):
        load_bioscan5m(tmp_path / "other.parquet")


def test_a_single_file_without_splits(dataset, tmp_path):
    """Null, empty and absent splits are "unassigned", and part of "all"; a named split is refused."""
    table, file = table_of(dataset), tmp_path / "mine.parquet"
    place = table.column_names.index("split")
    half = pa.array([None if i % 2 else "" for i in range(len(table))])
    for changed in (table.set_column(place, "split", half), table.drop_columns(["split"])):
        pq.write_table(changed, file)
        assert list(load_bioscan5m(file)) == ["unassigned"]
        assert load_bioscan5m(file, split="all")["processid"] == table["processid"].to_pylist()
        with pytest.raises(ValueError, match="No rows of split 'val' in .*mine.parquet'; it holds unassigned"):
            load_bioscan5m(file, split="val")
    with pytest.raises(ValueError, match="has no photos .no column 'image'., so there is no config 'cropped_256'"):
        load_bioscan5m(file, "cropped_256")


def test_photos_in_plain_files(dataset, tmp_path):
    """With a column of photos, the config dna leaves it out."""
    pq.write_table(table_of(dataset, "cropped_256"), tmp_path / "val.parquet")
    assert load_bioscan5m(tmp_path, "dna", "val").features == load_bioscan5m(dataset, "dna", "val").features
    assert rows(load_bioscan5m(tmp_path, "cropped_256", "val")) == rows(load_bioscan5m(dataset, "cropped_256", "val"))


@pytest.mark.parametrize("name", ["data [v1]", "data*", "what?", "{a,b}", "100% é", "-of-00009"])
def test_names_with_glob_characters(dataset, tmp_path, name):
    """ "data [v1]": a folder is read whatever its name, and not the one that its name would match."""
    folder = shutil.copytree(dataset, tmp_path / name)
    for sibling in ("data 1", "data2", "what1", "a"):
        (tmp_path / sibling / "dna").mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(dataset, split="test"), tmp_path / sibling / "dna/val-00000-of-00001.parquet")
    expected = rows(load_bioscan5m(dataset, "cropped_256", "val"))
    for streaming in (False, True):
        assert rows(load_bioscan5m(folder, "cropped_256", "val", streaming=streaming)) == expected
    assert describe(folder)["splits"] == describe(dataset)["splits"]


# ---- label ids -----------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(dataset, tmp_path):
    """The split test, copied without labels.json."""
    (tmp_path / "alone/dna").mkdir(parents=True)
    for file in dataset.glob("dna/test-*.parquet"):
        shutil.copy(file, tmp_path / "alone/dna")
    return tmp_path / "alone"


def test_a_split_copied_without_labels_json(alone, dataset):
    """Label ids are those of the whole release, or an error: never those of the files at hand."""
    whole = load_bioscan5m(dataset, "dna", "test", ranks=["species"])["species_index"]
    message = "has no labels.json, and label ids are those of a whole release.* or name it by --labels"
    for ask in (
        lambda: load_bioscan5m(alone, "dna", "test", ranks=["species"]),
        lambda: load_bioscan5m(alone, "dna", "test", ranks=["species"], streaming=True),
        lambda: load_label_maps(alone),
        lambda: labels_of(alone, "test", ["P1"]),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    for labels in (load_label_maps(dataset), dataset / "labels.json", str(dataset / "labels.json")):
        found = load_bioscan5m(alone, "dna", "test", ranks=["species"], labels=labels)
        assert found["species_index"] == whole and min(whole) < max(whole)
        ids = found["processid"][:2]
        assert labels_of(alone, "test", ids, labels)["species"].tolist() == whole[:2]
    with pytest.raises(KeyError, match="is not a species of this release, which has 1"):
        load_bioscan5m(alone, "dna", "test", ranks=["species"], labels=LabelMaps({"species": ["No such"]}))


def test_commands_that_need_label_ids(dataset, tmp_path, capsys):
    """`probe` of a copy without labels.json: one line that says what to do, and the same numbers with --labels."""
    copied = shutil.copytree(dataset, tmp_path / "copied")
    for name in ("labels.json", "manifest.json"):
        (copied / name).unlink()
    splits = [part for name in ("train", "test", "test_unseen") for part in ("--split", name)]
    main(["embed", str(copied), str(tmp_path / "e"), "--model", "kmer:3", *splits, "--quiet"])
    results = []
    for source, more in ((dataset, []), (copied, ["--labels", str(dataset / "labels.json")])):
        main(["probe", str(source), str(tmp_path / "e"), "--force", "--json", *more])
        results.append(json.loads(capsys.readouterr().out)["metrics"])
    assert results[0] == results[1]
    with pytest.raises(SystemExit) as stopped:
        main(["probe", str(copied), str(tmp_path / "e"), "--force"])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and len(error.splitlines()) == 1
    assert "copied' has no labels.json" in error and "--labels" in error


def test_taxa_without_labels_json(alone, dataset):
    """Rows are chosen by names, which need no ids; a name that no row has is an error."""
    name = next(name for name in load_bioscan5m(dataset, split="test")["family"] if name)
    for streaming in (False, True):
        options = {"taxon": {"family": name}, "streaming": streaming}
        assert list(load_bioscan5m(alone, "dna", "test", **options)) == list(
            load_bioscan5m(dataset, "dna", "test", **options)
        )
        with pytest.raises(ValueError, match=f"No specimen has the family '{name[:-1]}'. Similar names: {name}"):
            load_bioscan5m(alone, "dna", "test", taxon={"family": name[:-1]}, streaming=streaming)


def test_labels_are_rebuilt_from_a_whole_build_alone(dataset, tmp_path):
    """By the manifest: if it is complete, of all splits, without problems, and every shard is there."""
    copied = shutil.copytree(dataset, tmp_path / "dataset")
    (copied / "labels.json").unlink()
    assert load_label_maps(copied) == load_label_maps(dataset)
    text = (copied / "manifest.json").read_text()
    manifest = json.loads(text)
    problem = {"file": "m.csv", "row": 3, "processid": "P", "what": "x", "consequence": "left out"}
    for change in ({"complete": False}, {"splits": ["test"]}, {"problems": [problem]}):
        (copied / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match="has no labels.json"):
            load_label_maps(copied)
    (copied / "manifest.json").write_text(text)
    next(copied.glob("dna/pretrain-*")).unlink()
    with pytest.raises(ValueError, match="has no labels.json"):
        load_label_maps(copied)


# ---- splits that are incomplete ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("manifest", ["none", "complete", "incomplete"])
@pytest.mark.parametrize("fault", ["missing", "all missing", "cut off", "not Parquet"])
def test_a_split_that_is_half_there(dataset, tmp_path, manifest, fault):
    """A missing or broken shard of pretrain blocks pretrain and what contains it, and no other split."""
    copied = shutil.copytree(dataset, tmp_path / "dataset")
    path = copied / "manifest.json"
    if manifest == "none":
        path.unlink()
    elif manifest == "incomplete":
        path.write_text(json.dumps({**json.loads(path.read_text()), "complete": False}))
    files = sorted(copied.glob("cropped_256/pretrain-*.parquet"))
    for file in files if fault == "all missing" else files[1:2]:
        if "missing" in fault:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-1] if fault == "cut off" else b"x" * file.stat().st_size)
    for streaming in (False, True):
        for split in ("val", "seen", "train+test", "unseen"):
            expected = load_bioscan5m(dataset, "cropped_256", split)
            found = load_bioscan5m(copied, "cropped_256", split, streaming=streaming)
            assert rows(found) == rows(expected)
        assert len(load_bioscan5m(copied, "dna", "pretrain")) > 0, "another config is not touched"
        unknown = manifest == "none" and fault == "all missing"  # nothing tells that there is more
        for split in ("pretrain", "pretrain+train", *(() if unknown else ("all", None))):
            with pytest.raises(ValueError, match="pretrain|not complete|Parquet"):
                load_bioscan5m(copied, "cropped_256", split, streaming=streaming)


def test_what_is_said_of_missing_shards(dataset, tmp_path):
    copied = shutil.copytree(dataset, tmp_path / "dataset")
    first, second, third = sorted(copied.glob("dna/pretrain-*"))
    content = second.read_bytes()
    second.write_bytes(content[:-7])
    message = f"{second.name} has {len(content) - 7:,} bytes instead of {len(content):,}: copy or build it again"
    with pytest.raises(ValueError, match=message):
        load_bioscan5m(copied, split="pretrain")
    (copied / "manifest.json").unlink()
    with pytest.raises(ValueError, match=f"{second.name} is not a readable Parquet file"):
        load_bioscan5m(copied, split="pretrain")
    second.unlink()
    with pytest.raises(ValueError, match="holds 2 of the 3 shards of dna/pretrain: copy or build the others"):
        load_bioscan5m(copied, split="pretrain")
    third.rename(copied / "dna/pretrain-00001-of-00002.parquet")
    with pytest.raises(ValueError, match="mixes shards of several builds in dna/pretrain .of 2 and 3 shards."):
        load_bioscan5m(copied, split="pretrain")


def test_files_of_different_columns_are_refused(dataset, tmp_path):
    table = table_of(dataset)
    pq.write_table(table, tmp_path / "val-0.parquet")
    pq.write_table(table.drop_columns(["genus"]), tmp_path / "val-1.parquet")
    with pytest.raises(ValueError, match="val-0.parquet and .*val-1.parquet have different columns: .*'genus'"):
        load_bioscan5m(tmp_path, split="val")


def test_validation_is_another_name_of_val(dataset, tmp_path):
    """`validation+train` without rows of val is an error, like `val+train`."""
    (tmp_path / "dna").mkdir()
    pq.write_table(table_of(dataset, split="train"), tmp_path / "dna/train.parquet")
    for split in ("val+train", "validation+train", "train + validation", "seen+validation"):
        with pytest.raises(ValueError, match="No rows of split 'val' in .* it holds train"):
            load_bioscan5m(tmp_path, split=split)
    assert len(load_bioscan5m(tmp_path, split="seen")) == len(load_bioscan5m(dataset, split="train"))


def test_numbers_stay_as_they_are(tmp_path):
    """A pandas file with float64 for whole numbers loads with the values it holds."""
    columns = features("dna").arrow_schema.names
    table = pa.table({name: pa.nulls(3, pa.string()) for name in columns if name != "inferred_ranks"})
    table = table.append_column("inferred_ranks", pa.array([0.0, np.nan, 2.0]))
    pq.write_table(table, tmp_path / "val.parquet")
    assert load_bioscan5m(tmp_path, split="val")["inferred_ranks"][::2] == [0.0, 2.0]
    assert set(SPLITS) >= {"val"}


MARKED = [None, "", "NA", "none", "Unknown", "not_classified"]


@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_other_makes_have_one_spelling(tmp_path, caplog, streaming):
    """Markers, blanks and lower case in a pandas file: as from a CSV. Taxa are chosen by the names that come out."""
    names = [*MARKED, "Apis  mellifera", " Apis\u00a0mellifera"]
    barcodes = ["acgu" * 10, "NA", None, "--", "ACGT" * 10, "ACGT-ACGT" * 5, "ac gt" * 9, "ACRT" * 10]
    table = pa.table({"processid": [f"P{i}" for i in range(8)], "species": names, "dna_barcode": barcodes})
    pq.write_table(table.append_column("split", pa.array(["val"] * 8)), tmp_path / "mine.parquet")
    found = list(load_bioscan5m(tmp_path, split="val", streaming=streaming))
    assert [row["species"] for row in found] == [None] * 6 + ["Apis mellifera"] * 2
    whole = "ACGT" * 10
    expected = [whole, None, None, None, whole, whole, "ACGT" * 9, "ACRT" * 10]
    assert [row["dna_barcode"] for row in found] == expected
    assert [list(row) for row in found] == [["processid", "species", "dna_barcode", "split"]] * 8
    bees = {"taxon": {"species": "Apis mellifera"}, "columns": ["processid"], "streaming": streaming}
    assert list(load_bioscan5m(tmp_path, split="val", **bees)) == [{"processid": "P6"}, {"processid": "P7"}]
    if not streaming:
        assert "mine.parquet: 5 cells of species" in caplog.text, caplog.text


def test_stats_of_files_of_other_makes(dataset, tmp_path):
    """Markers are no taxa, and spellings of one barcode are one, as in the statistics of a release."""
    table = table_of(dataset)
    expected = {**describe_of(table, tmp_path / "one"), "source": None}
    for column, change in (("species", "NA"), ("family", "not_classified")):
        values = [change if value is None else value for value in table[column].to_pylist()]
        table = table.set_column(table.column_names.index(column), column, pa.array(values))
    lower = pc.utf8_lower(table["dna_barcode"])
    table = table.set_column(table.column_names.index("dna_barcode"), "dna_barcode", lower)
    assert {**describe_of(table, tmp_path / "two"), "source": None} == expected


def describe_of(table, folder):
    folder.mkdir()
    pq.write_table(table, folder / "val.parquet")
    return describe(folder)


def test_columns_that_a_file_does_not_have(tmp_path):
    """Named at once, with the columns that there are."""
    pq.write_table(pa.table({"processid": ["P1"]}), tmp_path / "val.parquet")
    maps = LabelMaps({"genus": ["Apis"]})
    for options, message in (
        ({"ranks": ["genus"], "labels": maps}, "There is no column 'genus'; there are processid"),
        ({"taxon": {"genus": "Apis"}, "labels": maps}, "There is no column 'genus'; there are processid"),
        ({"columns": ["genus"]}, "Unknown column 'genus'. The config 'dna' has processid"),
        ({"unique_barcodes": True}, "There is no column 'dna_barcode'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_bioscan5m(tmp_path, split="val", **options)


def test_odd_parquet_files_are_told_in_words(tmp_path):
    """Files without rows, with a repeated column, with splits that are not text, or with spaces around split names."""
    file = tmp_path / "own.parquet"
    columns = {"processid": ["a", "b"], "dna_barcode": ["ACGT", "ACGA"]}

    def opened(**more):
        pq.write_table(pa.table(columns | more), file)
        return load_bioscan5m(file)

    assert {name: part["processid"][:] for name, part in opened(split=[" validation ", "n/a"]).items()} == {
        "val": ["a"],
        "unassigned": ["b"],
    }
    dates = pa.array([0, 1], pa.date32())
    for ids, expected in (([1.5, 2.5], ["1.5", "2.5"]), (dates, ["1970-01-01", "1970-01-02"])):
        assert opened(processid=ids)["unassigned"]["processid"][:] == expected
    with pytest.raises(ReleaseError, match="the column 'split' holds list<.*>, not text"):
        opened(split=[[1], [2]])
    with pytest.raises(ReleaseError, match="the column 'dna_barcode' holds list<.*>, not text"):
        opened(dna_barcode=[[1], [2]])
    pq.write_table(pa.table(columns | {"split": ["train", "train"]}).slice(0, 0), file)
    with pytest.raises(ReleaseError, match="holds no rows"):
        load_bioscan5m(file)
    twice = pa.table(columns).append_column("processid", pa.array(["c", "d"]))
    pq.write_table(twice, file)
    with pytest.raises(ReleaseError, match="has 2 columns 'processid'. Rename or remove one"):
        load_bioscan5m(file)
