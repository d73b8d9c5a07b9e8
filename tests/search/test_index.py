"""Indexes: exact search in blocks, approximate search and its recall, indexes on disk and on the Hub."""

import json
import subprocess
import sys

import minihub
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from bioscan_hf.search import exact
from bioscan_hf.search.index import build_index, encode_names, load_index, measure_recall, save_index, search
from bioscan_hf.search.retrieve import retrieve
from bioscan_hf.search.vectors import unit_vectors

LABELS = {"species": ["B", None, "A", "B"], "genus": ["G", "G", None, None]}


def clustered(rows, dim=16, seed=0):
    """Vectors around 40 centres."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, dim))
    return (centres[generator.integers(0, 40, rows)] + 0.3 * generator.normal(size=(rows, dim))).astype(np.float32)


def test_equal_keys_are_kept_once():
    """Rows 0, 2 and 3 are one vector (of other lengths, and -0 for 0): 2 vectors, in order of first occurrence."""
    index = build_index([[2.0, 0.0], [0, 1], [1, -0.0], [3, 0]], LABELS, ids=["a", "b", "c", "d"])
    assert len(index) == 4 and index.vectors.tolist() == [[1, 0], [0, 1]] and index.group.tolist() == [0, 1, 0, 0]
    assert index.classes == {"species": ["A", "B"], "genus": ["G"]}
    assert index.codes["species"].tolist() == [1, -1, 0, 1] and index.codes["genus"].tolist() == [0, 0, -1, -1]


def test_exact_search_in_chunks_is_that_of_one_product(monkeypatch):
    """Small chunks of keys and queries find what the whole similarity matrix holds, in order."""
    keys, queries = unit_vectors(clustered(300)), unit_vectors(clustered(70, seed=1))
    monkeypatch.setattr(exact, "QUERIES_AT_ONCE", 16)
    rows, similarities = exact.nearest(queries, keys, 50, metric="dot", keys_at_once=37)
    assert np.array_equal(rows, search(build_index(keys, {}), queries, 50).rows)
    whole = queries @ keys.T
    np.testing.assert_allclose(similarities, -np.sort(-whole, axis=1)[:, :50], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(whole, rows, 1), similarities, atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_exact_search_never_holds_all_similarities():
    """40,000 keys and 4,096 queries have 655 MB of similarities; the peak stays far below."""
    code = """
import resource, numpy as np
from bioscan_hf.search.index import build_index, search
x = np.random.default_rng(0).normal(size=(40_000, 8)).astype(np.float32)
index = build_index(x, {})
queries = index.vectors[:4096].numpy().copy()
search(index, queries[:1], 5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
search(index, queries, 5)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 400  # 1,024 queries at a time take 164 MB


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_approximate_indexes_find_nearly_all(kind, tmp_path):
    """At least 90 % of the 5 nearest of 12,000 keys are found, with exact similarities, also after saving."""
    pytest.importorskip("faiss")
    keys, queries = clustered(12_000, 32), clustered(200, 32, seed=2)
    index = build_index(keys, {"r": [str(i % 7) for i in range(12_000)]}, kind=kind)
    recall = measure_recall(index, queries)
    assert recall["recall"] > 0.9 and recall["nearest"] > 0.9 and recall["queries"] == 200
    assert recall["seconds"] > 0 and recall["exact_seconds"] > 0 and recall["distinct_keys"] == 12_000
    exact, approximate = retrieve(build_index(keys, {}), queries), retrieve(index, queries)
    same = approximate.neighbours[:, 0] == exact.neighbours[:, 0]
    assert same.mean() > 0.9
    np.testing.assert_allclose(approximate.similarities[same, 0], exact.similarities[same, 0], atol=1e-6)
    loaded = load_index(save_index(index, tmp_path / "index"))
    assert loaded.kind == kind
    again = retrieve(loaded, queries)
    assert np.array_equal(again.neighbours, approximate.neighbours)
    assert np.array_equal(again.predictions["r"], approximate.predictions["r"])


def test_recall_grows_with_effort():
    """One cell of an IVF-PQ index misses neighbours, and the measured recall shows it."""
    pytest.importorskip("faiss")
    keys = np.random.default_rng(0).normal(size=(10_000, 16))
    low = measure_recall(build_index(keys, {}, kind="ivfpq", effort=1), keys[:200] + 0.5)
    high = measure_recall(build_index(keys, {}, kind="ivfpq", effort=400), keys[:200] + 0.5)
    assert low["recall"] < 0.6 < high["recall"]
    assert measure_recall(build_index(keys, {}), keys[:50])["recall"] == 1


def test_an_index_that_finds_fewer_than_k():
    """Missing neighbours are -1, with the similarity -inf and no name."""
    pytest.importorskip("faiss")
    index = build_index(clustered(50), {"r": ["A"] * 50}, kind="hnsw")

    class Nothing:
        def search(self, queries, k):
            return np.zeros((len(queries), k)), np.where(np.arange(k) < 2, 7, -1)[None].repeat(len(queries), 0)

    object.__setattr__(index, "approximate", Nothing())
    for ties in ("vote", "parity"):
        found = retrieve(index, clustered(3, seed=4), k=4, ties=ties)
        assert found.neighbours[:, -1].tolist() == [-1] * 3 and np.isneginf(found.similarities[:, -1]).all()
        assert (found.predictions["r"][:, -1] == -1).all() and (found.predictions["r"][:, 0] == 0).all()


def test_saved_index_is_the_same(tmp_path):
    keys = np.random.default_rng(0).normal(size=(4, 3))
    index = build_index(keys, LABELS, ids=["p1", "p2", "p3", "p4"])
    folder = save_index(index, tmp_path / "index")
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "labels.parquet", "vectors.safetensors"]
    loaded = load_index(folder)
    assert torch.equal(loaded.vectors, index.vectors) and np.array_equal(loaded.group, index.group)
    assert loaded.ids == index.ids and loaded.classes == index.classes and loaded.kind == "exact"
    assert all(np.array_equal(loaded.codes[rank], index.codes[rank]) for rank in LABELS)
    with pytest.raises(FileExistsError, match="holds an index"):
        save_index(index, folder)


def test_broken_folders_raise(tmp_path):
    """No index.json, another format, labels of other keys."""
    index = build_index(np.eye(4), LABELS)
    with pytest.raises(FileNotFoundError, match="no index.json"):
        load_index(tmp_path)
    folder = save_index(index, tmp_path / "a")
    other = save_index(build_index(np.eye(3), {"r": ["A", "B", "C"]}), tmp_path / "b")
    (folder / "labels.parquet").write_bytes((other / "labels.parquet").read_bytes())
    with pytest.raises(ValueError, match="do not belong together: keys 4 in index.json"):
        load_index(folder)
    (other / "index.json").write_text(json.dumps(json.loads((other / "index.json").read_text()) | {"format": 9}))
    with pytest.raises(ValueError, match="format 9; this version reads format 1"):
        load_index(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.pop("dim"), "index.json' has no field 'dim'"),
        (lambda about: about.update(keys="4"), "'keys' in .*index.json' is '4' .str.; its type must be int"),
        (
            lambda about: about.update(kind="tree"),
            "'kind' in .*index.json is 'tree', but must be one of exact, hnsw, ivfpq",
        ),
    ],
)
def test_wrong_fields_of_index_json_raise(tmp_path, change, message):
    """The error names the file and the field."""
    folder = save_index(build_index(np.eye(4), LABELS), tmp_path)
    about = json.loads((folder / "index.json").read_text())
    change(about)
    (folder / "index.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message):
        load_index(folder)


def test_wrong_files_of_an_index_raise(tmp_path):
    """Absent vectors, groups beyond them, labels without the ids of the keys."""
    folder = save_index(build_index(np.eye(4), LABELS), tmp_path)
    file, group, vectors = folder / "vectors.safetensors", torch.arange(4), torch.eye(4)
    for tensors, message in (
        ({"group": group}, "'vectors' in .* is absent"),
        ({"group": group, "vectors": vectors.half()}, "'vectors' in .* is torch.float16 of the shape .4, 4."),
        ({"group": group + 1, "vectors": vectors}, "'group' .* has rows beyond its 4 vectors"),
    ):
        save_file(tensors, file)
        with pytest.raises(ValueError, match=message):
            load_index(folder)
    save_file({"group": group, "vectors": vectors}, file)
    pq.write_table(pq.read_table(folder / "labels.parquet").drop_columns(["id"]), folder / "labels.parquet")
    with pytest.raises(ValueError, match="labels.parquet has no column 'id'"):
        load_index(folder)


def test_recall_of_more_than_there_is():
    """Five neighbours of four distinct keys, and queries of another width."""
    index = build_index(np.eye(4)[[0, 0, 1, 2, 3]], {})
    with pytest.raises(ValueError, match="k is 5; give a positive number of neighbours, at most 4"):
        measure_recall(index, np.eye(4))
    with pytest.raises(ValueError, match="queries have 3 dimensions and the keys 4"):
        measure_recall(index, np.eye(3), k=4)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="Unknown kind of index 'tree'. Choose one of exact, hnsw, ivfpq"):
        build_index(np.eye(2), {}, kind="tree")
    with pytest.raises(ValueError, match="'ids' has 1 entries for 2 keys"):
        build_index(np.eye(2), {}, ids=["a"])
    with pytest.raises(ValueError, match=r"rows 1 \(q2\): leave these rows out"):
        build_index([[1, 0], [0, np.nan]], {}, ids=["q1", "q2"])
    with pytest.raises(ValueError, match="and 2 more"):
        unit_vectors(np.zeros((7, 2)), "keys")
    with pytest.raises(ValueError, match="A label is nan"):
        encode_names({"r": ["A", float("nan")]})


def test_few_keys_for_ivfpq():
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="at least 9,984 distinct keys, and there are 100"):
        build_index(clustered(100), {}, kind="ivfpq")


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'bioscan_hf\[index\]'"):
        build_index(np.eye(2), {}, kind="hnsw")
    assert len(build_index(np.eye(2), {})) == 2


PUSH = """
import sys
from huggingface_hub import snapshot_download
from bioscan_hf.search.index import load_index, push_index
assert len(push_index(sys.argv[1], "tester/keys", private=True)) == 40
loaded = load_index(snapshot_download("tester/keys", repo_type="dataset"))
print(loaded.ids, loaded.classes["species"], loaded.vectors.tolist())
"""


@pytest.mark.slow
def test_pushed_index_comes_back(tmp_path):
    """An index is uploaded to a local hub and loaded from there; other files of the folder are not uploaded."""
    folder = save_index(build_index(np.eye(4), LABELS, ids=list("abcd")), tmp_path / "index")
    (folder / "private.txt").write_text("not part of it")
    with minihub.serve() as hub:
        environment = minihub.environment(hub, tmp_path / "home")
        done = subprocess.run([sys.executable, "-c", PUSH, folder], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        names = set(hub.files("tester/keys"))
    assert done.stdout.strip() == f"{list('abcd')} ['A', 'B'] {np.eye(4).tolist()}"
    assert {"index.json", "labels.parquet", "vectors.safetensors"} <= names and "private.txt" not in names
