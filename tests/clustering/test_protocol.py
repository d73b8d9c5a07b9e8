"""Task II from folders of embeddings: what is joined, in which order, and what is written."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioscan_hf.clustering.cluster import PRESETS, zero_shot_cluster
from bioscan_hf.clustering.protocol import cluster_embeddings, join_by_processid, preset_options, read_specimens
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.embed import embed
from bioscan_hf.schema import LABEL_COLUMNS

PLAIN = {"reducer": "none"}

#: Leiden depends on its seed.
SEEDED = {**PLAIN, "clusterer": "leiden", "n_clusters": None, "clusterer_options": {"n_neighbors": 4}}


@pytest.fixture(scope="module")
def barcodes(dataset, tmp_path_factory):
    """4-mer counts of test and test_unseen, as `bioscan-hf embed` writes them."""
    folder = tmp_path_factory.mktemp("embedded") / "dna"
    model, processor = load_encoder("kmer:4")
    for split in ("test", "test_unseen"):
        embed(model, processor, load_bioscan5m(dataset, "dna", split), output=folder / split)
    return folder


def rows_of(dataset, split):
    columns = ["processid", "split", *LABEL_COLUMNS]
    return load_bioscan5m(dataset, "dna", split, columns=columns, max_nucleotides=None).with_format("arrow")[:]


@pytest.fixture(scope="module")
def photos(dataset, tmp_path_factory):
    """Simulated embeddings of photos; the first specimen of test has no photo."""
    folder = tmp_path_factory.mktemp("embedded") / "clibd"
    for split in ("test", "test_unseen"):
        table = rows_of(dataset, split).drop_columns(["split"])
        vectors = np.random.default_rng(0).normal(size=(table.num_rows, 3)).astype(np.float32)
        valid = [split != "test" or row > 0 for row in range(table.num_rows)]
        vectors[np.logical_not(valid)] = 0
        table = table.append_column("image", pa.array(vectors.tolist(), pa.list_(pa.float32(), 3)))
        table = table.append_column("valid", pa.array(valid))
        (folder / split).mkdir(parents=True)
        pq.write_table(table, folder / split / "specimens-00000-of-00001.parquet")
        (folder / split / "manifest.json").write_text(json.dumps({"rows": table.num_rows, "shard_size": 8192}))
    return folder


def test_modalities_are_joined_by_processid():
    """By hand: the rows of both in the order A, B, C, whatever the order that they come in."""
    dna = (["C", "A", "B"], [[3.0], [1.0], [2.0]])
    image = (["B", "C", "A"], [[20.0], [30.0], [10.0]])
    processids, found, dropped = join_by_processid({"dna": dna, "image": image})
    assert processids == ["A", "B", "C"]
    assert found["dna"].tolist() == [[1], [2], [3]]
    assert found["image"].tolist() == [[10], [20], [30]]
    assert dropped == {}


def test_missing_specimens_are_listed_or_dropped():
    parts = {"dna": (["A", "B", "C"], np.eye(3)), "image": (["D", "B"], np.eye(2))}
    with pytest.raises(ValueError, match="'dna' does not have 1: D; 'image' does not have 2: A, C"):
        join_by_processid(parts)
    processids, found, dropped = join_by_processid(parts, missing="drop")
    assert processids == ["B"]
    assert (found["dna"].tolist(), found["image"].tolist()) == ([[0, 1, 0]], [[0, 1]])
    assert dropped == {"dna": ["D"], "image": ["A", "C"]}


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ({"dna": (["A", "B", "A"], np.eye(3))}, {}, "'dna' has A more than once"),
        ({"dna": (["A", "B"], np.eye(3))}, {}, "3 embeddings for 2 processids"),
        ({"dna": (["A"], np.eye(1)), "image": (["B"], np.eye(1))}, {"missing": "drop"}, "No specimen is in all"),
        ({"dna": (["A"], np.eye(1))}, {"missing": "ignore"}, "got 'ignore'"),
        ({}, {}, "one modality or more"),
    ],
)
def test_what_cannot_be_joined_is_told(parts, options, message):
    with pytest.raises(ValueError, match=message):
        join_by_processid(parts, **options)


def test_specimens_come_in_the_order_of_their_processids_with_their_labels(dataset, barcodes):
    """Invariant I8. The splits are mixed, and every label is that of the dataset."""
    found = read_specimens(dataset, {"dna": barcodes})
    assert found.processids == sorted(found.processids)
    assert set(found.splits) == {"test", "test_unseen"} and found.splits != sorted(found.splits)
    for split in ("test", "test_unseen"):
        for row in rows_of(dataset, split).to_pylist():
            place = found.processids.index(row["processid"])
            assert {rank: found.labels[rank][place] for rank in LABEL_COLUMNS} == {r: row[r] for r in LABEL_COLUMNS}
            assert found.splits[place] == split
    assert found.embeddings["dna"].shape == (len(found.processids), 256)


def test_a_photo_that_is_not_there_is_an_error_or_dropped(dataset, barcodes, photos):
    folders = {"dna": barcodes, "image": photos}
    with pytest.raises(ValueError, match="not valid \\(1 of 'image': "):
        read_specimens(dataset, folders)
    whole = read_specimens(dataset, {"dna": barcodes})
    found = read_specimens(dataset, folders, missing="drop")
    first = rows_of(dataset, "test")["processid"][0].as_py()
    assert found.dropped == {"image": [first]}
    assert set(found.processids) == set(whole.processids) - {first}
    assert {name: x.shape[1] for name, x in found.embeddings.items()} == {"dna": 256, "image": 3}


def test_what_is_written(dataset, barcodes, tmp_path):
    """The result equals that of the arrays, and the table holds each specimen's clusters and names."""
    pytest.importorskip("igraph")
    steps = []
    specimens = read_specimens(dataset, {"dna": barcodes})
    results = cluster_embeddings(
        specimens, tmp_path / "out", seeds=(0, 7), progress=lambda *step: steps.append(step), **SEEDED
    )
    assert json.loads((tmp_path / "out/results.json").read_text()) == json.loads(json.dumps(results))
    runs = [zero_shot_cluster(specimens.embeddings, specimens.labels, seed=seed, **SEEDED) for seed in (0, 7)]
    table = pq.read_table(tmp_path / "out/clusters.parquet")
    assert table.column_names == ["processid", "split", "cluster", "cluster_seed_7", *LABEL_COLUMNS]
    assert table["processid"].to_pylist() == specimens.processids
    assert table["cluster"].to_pylist() == runs[0].clusters.tolist()
    assert table["cluster_seed_7"].to_pylist() == runs[1].clusters.tolist()
    assert table["species"].to_pylist() == specimens.labels["species"]
    amis = [run.metrics["species"]["ami"] for run in runs]
    assert results["metrics"]["species"]["ami"] == pytest.approx(sum(amis) / 2)
    assert results["spread"]["species"]["ami"] == pytest.approx(np.std(amis, ddof=1))
    assert set(results["metrics"]) == {*LABEL_COLUMNS, "separation"}
    assert results["chosen"][0] == {"by": "leiden", "oracle": False}
    assert results["protocol"] == "ward, with other clusterer, clusterer_options, n_clusters"
    assert results["splits"]["test"] + results["splits"]["test_unseen"] == results["specimens"] == len(table)
    assert len(results["encoders"]["dna"]["model"]) == 64
    assert results["seeds"] == [0, 7] and steps == [("clustering", 1, 2), ("clustering", 2, 2)]
    assert results["dataset"] == dataset.name and results["embeddings"] == {"dna": "dna"}
    assert not list((tmp_path / "out").glob("*.part"))


def test_splits_that_were_embedded_together_are_counted_apart(dataset, barcodes, tmp_path):
    """A folder of two splits in one, as `embed --split test+test_unseen` writes it."""
    from bioscan_hf.encoders.barcode_encoders import load_encoder
    from bioscan_hf.encoders.embed import embed

    model, processor = load_encoder("kmer:4")
    embed(model, processor, load_bioscan5m(dataset, "dna", "test+test_unseen"), output=tmp_path / "e/test+test_unseen")
    together = read_specimens(dataset, {"dna": tmp_path / "e"}, splits=("test+test_unseen",))
    found = cluster_embeddings(together, tmp_path / "a", **PLAIN)
    apart = cluster_embeddings(read_specimens(dataset, {"dna": barcodes}), tmp_path / "b", **PLAIN)
    assert found["chosen"][0]["oracle"] is True
    assert found["metrics"]["species"]["ami"] > 0.5  # 4-mer counts of simulated barcodes tell species apart
    assert found["splits"] == apart["splits"] and found["metrics"] == apart["metrics"]
    assert sum(found["splits"].values()) == found["specimens"]


def test_results_are_not_replaced(dataset, barcodes, tmp_path):
    specimens = read_specimens(dataset, {"dna": barcodes})
    cluster_embeddings(specimens, tmp_path, **PLAIN)
    before = (tmp_path / "clusters.parquet").read_bytes()
    with pytest.raises(FileExistsError, match="results.json"):
        cluster_embeddings(specimens, tmp_path, **PLAIN)
    assert (tmp_path / "clusters.parquet").read_bytes() == before
    results = cluster_embeddings(specimens, tmp_path, n_clusters=3, force=True, **PLAIN)
    assert results["chosen"] == [{"by": "given", "asked": 3, "oracle": False}]
    assert set(pq.read_table(tmp_path / "clusters.parquet")["cluster"].to_pylist()) == {0, 1, 2}


def test_a_failed_run_writes_nothing(dataset, barcodes, tmp_path):
    with pytest.raises(ValueError, match="specimens make 1 to"):
        cluster_embeddings(read_specimens(dataset, {"dna": barcodes}), tmp_path / "out", n_clusters=100_000, **PLAIN)
    assert not (tmp_path / "out").exists()


def test_embeddings_that_are_not_finite_are_named(dataset, tmp_path):
    """By processid, in a folder whose second specimen has NaN."""
    table = rows_of(dataset, "test").select(["processid"])
    vectors = np.random.default_rng(0).normal(size=(table.num_rows, 3)).tolist()
    vectors[1][0] = float("nan")
    table = table.append_column("image", pa.array(vectors, pa.list_(pa.float32(), 3)))
    (tmp_path / "test").mkdir()
    pq.write_table(table, tmp_path / "test" / "specimens-00000-of-00001.parquet")
    (tmp_path / "test" / "manifest.json").write_text(json.dumps({"rows": table.num_rows, "shard_size": 8192}))
    processid = table["processid"][1].as_py()
    with pytest.raises(ValueError, match=rf"NaN or infinite values in the rows \d+ \({processid}\)"):
        read_specimens(dataset, {"image": tmp_path}, splits=("test",))


def test_what_cannot_be_read_is_told(dataset, barcodes, photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="No embeddings of 'val'"):
        read_specimens(dataset, {"dna": barcodes}, splits=("test", "val"))
    with pytest.raises(ValueError, match="has embeddings of image, but not of 'dna'"):
        read_specimens(dataset, {"dna": photos})
    (tmp_path / "val").symlink_to(barcodes / "test")  # embeddings under the name of another split
    with pytest.raises(ValueError, match="11 more are not in the split 'val' of"):
        read_specimens(dataset, {"dna": tmp_path}, splits=("val",))


def test_options_of_a_preset_give_way_to_those_that_are_given():
    assert preset_options("published") == PRESETS["published"] != PRESETS["ward"] == preset_options("ward")
    found = preset_options("caninv", n_clusters="species", reducer_options={"n_components": 10})
    assert found["n_clusters"] == "species"
    assert found["reducer_options"] == {"n_neighbors": 5, "n_components": 10, "min_dist": 0.1, "metric": "cosine"}
    assert preset_options("caninv", reducer="pca")["reducer_options"] == {}
    assert preset_options("published", clusterer="hdbscan")["n_clusters"] is None
    assert preset_options("published", distance_threshold=1.0)["n_clusters"] is None
    with pytest.raises(ValueError, match="finds the number of clusters itself"):
        zero_shot_cluster(np.eye(9), {}, **preset_options("published", clusterer="leiden", n_clusters=4))
    assert PRESETS["caninv"]["reducer_options"]["n_components"] == 50  # the preset itself is left as it is
    with pytest.raises(ValueError, match="Unknown preset 'clibd'"):
        preset_options("clibd")


def test_a_file_of_sequences_is_clustered_without_names(tmp_path):
    """Two groups of 5 reads: 20 and 80 % of A. Their number is chosen by the silhouette, and no rank has a score."""
    rng = np.random.default_rng(0)
    reads = {
        f"r{i}": "".join(rng.choice(list("ACGT"), 400, p=(a, *[(1 - a) / 3] * 3)))
        for i, a in enumerate([0.2] * 5 + [0.8] * 5)
    }
    (tmp_path / "reads.fasta").write_text("".join(f">{name}\n{read}\n" for name, read in reads.items()))
    with pytest.raises(FileNotFoundError, match="No embeddings of .*reads.fasta' in .*none': run `bioscan-hf embed`"):
        read_specimens(tmp_path / "reads.fasta", {"dna": tmp_path / "none"})
    rows = pa.table({"processid": list(reads), "dna_barcode": list(reads.values())})
    embed(*load_encoder("kmer:2"), rows, output=tmp_path / "vectors")
    specimens = read_specimens(tmp_path / "reads.fasta", {"dna": tmp_path / "vectors"})
    assert specimens.processids == sorted(reads) and not any(map(any, specimens.labels.values()))
    results = cluster_embeddings(specimens, tmp_path / "out")
    assert results["chosen"][0]["by"] == "silhouette" and results["metrics"]["separation"]["n_clusters"] == 2
    assert results["splits"] == {"reads.fasta": 10} and results["protocol"] == "ward, with other n_clusters"
    assert all(results["metrics"][rank]["ami"] is None for rank in LABEL_COLUMNS)
    clusters = pq.read_table(tmp_path / "out/clusters.parquet")["cluster"].to_pylist()
    assert clusters == [0] * 5 + [1] * 5
