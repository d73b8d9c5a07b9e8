"""Streams of BIOSCAN-5M: resumed, shuffled, divided among processes, and reading no more than they must."""

import json
import subprocess
import sys
import time

import datasets
import minihub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from bioscan_hf.dataset.card import dataset_card
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.labels import LabelMaps
from bioscan_hf.release.columns import features
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.schema import COLUMNS

NARROW = {"columns": ["processid", "dna_barcode"], "taxon": {"class": "Insecta"}, "ranks": ["family"]}


@pytest.fixture(params=["parquet", "csv"])
def source(request, release, dataset):
    return {"parquet": dataset, "csv": find_metadata(release)}[request.param]


def ids(rows):
    return [row["processid"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["pretrain", "seen"])
@pytest.mark.parametrize("options", [{}, NARROW])
def test_a_stream_resumes_where_its_state_was_taken(source, split, options):
    """After any number of rows, across shards and splits: the rest is exactly the remaining rows."""
    whole = list(load_bioscan5m(source, "dna", split, streaming=True, **options))
    assert len(whole) > 20
    for done in (1, len(whole) // 2, len(whole) - 1):
        first = load_bioscan5m(source, "dna", split, streaming=True, **options)
        rows = iter(first)
        assert [next(rows) for _ in range(done)] == whole[:done]
        state = json.loads(json.dumps(first.state_dict()))  # as a checkpoint keeps it
        second = load_bioscan5m(source, "dna", split, streaming=True, **options)
        second.load_state_dict(state)
        assert list(second) == whole[done:]
        assert list(load_bioscan5m(source, "dna", split, streaming=True, **options)) == whole, (
            "the next epoch is whole"
        )


def test_a_shuffled_stream_has_the_same_rows_in_another_order_each_epoch(source, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # `datasets` rests 5 s at the end of each such epoch
    stream = load_bioscan5m(source, "dna", "pretrain", streaming=True)
    plain = ids(stream)
    shuffled = stream.shuffle(seed=3, buffer_size=50)
    epochs = []
    for epoch in (0, 1):
        shuffled.set_epoch(epoch)
        epochs.append(ids(shuffled))
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(plain)
    assert epochs[0] != plain and epochs[0] != epochs[1]
    shuffled.set_epoch(0)
    assert ids(shuffled) == epochs[0], "the same seed and epoch give the same order"


@pytest.mark.parametrize("split", ["pretrain", "val", "seen", "all"])
def test_two_ranks_cover_every_row_once(source, split):
    """Also where the shards cannot be dealt out evenly, and where a split has just one."""
    stream = load_bioscan5m(source, "dna", split, streaming=True)
    parts = [ids(split_dataset_by_node(stream, rank, 2)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(ids(stream)) and all(parts)


def test_two_workers_of_a_loader_cover_every_row_once(dataset):
    stream = load_bioscan5m(dataset, "dna", "all", streaming=True, columns=["processid"])
    loader = DataLoader(stream, batch_size=16, num_workers=2)
    found = [processid for batch in loader for processid in batch["processid"]]
    assert sorted(found) == sorted(ids(stream))


@pytest.mark.parametrize("streaming", [False, True])
def test_only_rows_that_come_out_are_decoded(dataset, release, monkeypatch, streaming):
    decoded = []
    original = datasets.Image.decode_example

    def decode(self, value, **more):
        decoded.append(value["path"])
        return original(self, value, **more)

    monkeypatch.setattr(datasets.Image, "decode_example", decode)
    for source in (dataset, release):
        options = {"streaming": streaming, "taxon": {"order": "Diptera"}}
        rows = list(load_bioscan5m(source, "cropped_256", "train", **options))
        everything = load_bioscan5m(source, "dna", "train")
        assert 0 < len(rows) < len(everything)
        assert [f"{row['processid']}.jpg" for row in rows] == decoded
        decoded.clear()
        list(load_bioscan5m(source, "cropped_256", "train", columns=["genus"], **options))
        assert decoded == []


ROWS, PHOTO_BYTES = 40, 400_000


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """Shard and files of a dataset: 40 rows, 16 MB of "photos" (noise), two row groups of beetles and two of flies."""
    folder = tmp_path_factory.mktemp("heavy")
    rng = np.random.default_rng(0)
    orders = ["Coleoptera"] * (ROWS // 2) + ["Diptera"] * (ROWS // 2)
    rows = []
    for i, order in enumerate(orders):
        text = {
            "processid": f"P{i}",
            "order": order,
            "dna_barcode": "ACGT" * 10,
            "split": "train",
            "inferred_ranks": 0,
        }
        rows.append({**dict.fromkeys(COLUMNS), **text, "image": {"bytes": rng.bytes(PHOTO_BYTES), "path": "x.jpg"}})
    schema = features("cropped_256").arrow_schema
    name = "cropped_256/train-00000-of-00001.parquet"
    (folder / "cropped_256").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / name, row_group_size=ROWS // 4)
    LabelMaps({"order": orders}).save(folder / "labels.json")
    card = dataset_card("m.csv", ["cropped_256"], {"train": ROWS}, {"cropped_256": "ab"})
    (folder / "README.md").write_text(card)
    names = (name, "labels.json", "README.md")
    return name, {file: (folder / file).read_bytes() for file in names}


READ = """
import json, sys
import datasets
from bioscan_hf.dataset.load import load_bioscan5m
datasets.config.USE_PARQUET_EXPORT = False  # or it waits for the name of a server that does not exist
for i, (streaming, options, _, _) in enumerate(json.loads(sys.argv[1])):
    data = load_bioscan5m(f"tester/heavy{i}", "cropped_256", "train", streaming=streaming, **options)
    rows = [row for batch in data.with_format("arrow").iter(10) for row in batch.to_pylist()]
    photos = sum(len(row["image"]["bytes"]) for row in rows if "image" in row)
    print(json.dumps([len(rows), sorted(rows[0]), photos]))
"""

#: Streaming, options, rows that come, and the share of the file's bytes that may be served.
CASES = [
    (True, {}, ROWS, (1, 1.2)),
    (True, {"taxon": {"order": "Diptera"}}, ROWS // 2, (0.5, 0.6)),
    (True, {"columns": ["processid", "order"]}, ROWS, (0, 0.05)),
    (False, {"columns": ["processid"], "taxon": {"order": ["Diptera"]}}, ROWS // 2, (0, 0.05)),
]


@pytest.mark.slow
def test_photos_and_taxa_that_are_not_asked_for_are_not_downloaded(heavy, tmp_path):
    """Bytes that the Hub served, as a share of the file: row groups and columns that cannot matter are left out."""
    name, files = heavy
    with minihub.serve() as hub:
        for i in range(len(CASES)):
            hub.repos[f"tester/heavy{i}"] = minihub.Repo()
            hub.add(f"tester/heavy{i}", files)
        command = [sys.executable, "-c", READ, json.dumps(CASES)]
        done = subprocess.run(command, capture_output=True, text=True, env=minihub.environment(hub, tmp_path))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        for i, ((_, options, rows, (low, high)), line) in enumerate(zip(CASES, lines, strict=True)):
            expected = [rows, sorted(options.get("columns", ["image", *COLUMNS]))]
            assert json.loads(line) == [*expected, 0 if "columns" in options else rows * PHOTO_BYTES]
            assert low <= hub.served[f"tester/heavy{i}/{name}"] / len(files[name]) <= high
