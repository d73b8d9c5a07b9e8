"""Datasets on the Hub: revisions, tokens, layouts of other makes, stopped downloads and the cache."""

import json
import os
import subprocess
import sys

import minihub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioscan_hf.dataset.load import load_bioscan5m

REPO = "tester/specimens"

LOAD = """
import json, sys
import datasets
from bioscan_hf.dataset.load import load_bioscan5m
for repo, config, split, options in json.loads(sys.argv[1]):
    try:
        data = load_bioscan5m(repo, config, split, **options)
        if split is None:
            print(json.dumps({name: [row["processid"] for row in part] for name, part in data.items()}))
        else:
            print(json.dumps([row["processid"] for row in data]))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def load(hub, home, *calls, **environment):
    """What each call of `load_bioscan5m` gives in a process of its own: ids of rows, or the error."""
    calls = [[repo, config, split, options] for repo, config, split, options in calls]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(calls)],
        capture_output=True,
        text=True,
        env={**minihub.environment(hub, home), **environment},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def files_of(dataset, pattern="*/*.parquet", card=True):
    """Files of a build to put on the Hub."""
    paths = [*dataset.glob(pattern), dataset / "labels.json", dataset / "manifest.json"]
    paths += [dataset / "README.md"] if card else []
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in paths}


def ids(dataset, split, config="dna", **options):
    return load_bioscan5m(dataset, config, split, **options)["processid"][:]


@pytest.fixture(scope="module")
def hub():
    with minihub.serve() as served:
        yield served


def fill(hub, name, files, **about):
    hub.repos[name] = minihub.Repo(**about)
    hub.add(name, files)
    return name


@pytest.mark.slow
def test_a_card_without_configs(hub, dataset, tmp_path):
    """Reads what is there by the names of the files, or says what is missing."""
    insects = b"---\nlicense: cc-by-3.0\n---\n# Insects\n"
    empty = fill(hub, "tester/empty", {"README.md": insects})
    bare = fill(hub, "tester/bare", {**files_of(dataset, card=False), "README.md": insects})
    none = fill(hub, "tester/none", files_of(dataset, "dna/*.parquet", card=False))
    photos = ("val", {"columns": ["processid", "order"]})
    for streaming in (False, True):
        options = {"streaming": streaming}
        found = load(
            hub,
            tmp_path,
            (empty, "dna", "val", options),
            (bare, "dna", "val", options),
            (bare, "cropped_256", "val", options),
            (bare, "cropped_256", photos[0], {**options, **photos[1]}),
            (none, "dna", "seen", {**options, "ranks": ["species"]}),
            (none, "cropped_256", "val", options),
            (none, "dna", "validation+unassigned", options),
        )
        assert found[0] == "ValueError: The dataset 'tester/empty' has no Parquet files, so it cannot be loaded."
        assert found[1] == found[2] == found[3] == ids(dataset, "val")
        assert found[4] == ids(dataset, "seen")
        assert found[5] == "ValueError: 'tester/none' has no config 'cropped_256'; it has dna."
        assert found[6].startswith("ValueError: Unknown split 'unassigned'")


LAYOUTS = {
    "hub": "dna/{split}/0000.parquet",
    "push": "data/{split}-00000-of-00001.parquet",
    "plain": "{split}.parquet",
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_on_the_hub(hub, dataset, tmp_path, layout):
    files = {}
    for split in ("val", "test"):
        table = pa.concat_tables(pq.read_table(file) for file in sorted(dataset.glob(f"dna/{split}-*.parquet")))
        pq.write_table(table, tmp_path / "one.parquet")
        name = "validation" if split == "val" and layout != "hub" else split
        files[LAYOUTS[layout].format(split=name)] = (tmp_path / "one.parquet").read_bytes()
    repo = fill(hub, f"tester/layout-{layout}", files)
    expected = {split: ids(dataset, split) for split in ("val", "test")}
    found = load(
        hub,
        tmp_path,
        *((repo, "dna", None, {"streaming": streaming}) for streaming in (False, True)),
        (repo, "dna", "val", {"ranks": ["species"]}),
        (repo, "dna", "val", {"ranks": ["species"], "labels": str(dataset / "labels.json")}),
        (repo, "dna", "train", {}),
    )
    assert found[:2] == [expected, expected]
    assert found[2].startswith(f"ValueError: '{repo}' has no labels.json, and label ids are those of a whole release")
    assert found[3] == expected["val"]
    assert found[4] == f"MissingSplit: No rows of split 'train' in '{repo}'; it holds val, test."


@pytest.mark.slow
def test_revisions(hub, dataset, tmp_path):
    """A branch or a commit gives its own rows, map-style and streamed; one that is not there is named."""
    val, test = (next(dataset.glob(f"dna/{split}-*.parquet")).read_bytes() for split in ("val", "test"))
    labels = (dataset / "labels.json").read_bytes()
    repo = fill(hub, "tester/revisions", {"dna/val.parquet": val, "labels.json": labels})
    old = hub.repos[repo].branches["main"]
    hub.repos[repo].branches["v1"] = old
    hub.add(repo, {"dna/val.parquet": test})
    calls = [
        (repo, "dna", "val", {"revision": revision, "streaming": streaming, "ranks": ["species"]})
        for streaming in (False, True)
        for revision in (None, "main", "v1", old)
    ]
    first, second = ids(dataset, "val"), ids(dataset, "test")
    found = load(hub, tmp_path, *calls, (repo, "dna", "val", {"revision": "v9"}))
    assert found[:-1] == [second, second, first, first] * 2 and first != second
    assert found[-1] == f"FileNotFoundError: The repository {repo} on the Hub has no revision 'v9'."
    with pytest.raises(ValueError, match="is on this machine, so it has no revision 'v1'"):
        load_bioscan5m(dataset, revision="v1")


CHANGED = """
import sys
from bioscan_hf.dataset.hub_dataset import HubDataset
from bioscan_hf.dataset.request import Request
source = HubDataset(sys.argv[1])
print(len(source.label_maps().names("species")), flush=True)
input()
print(*source.open(Request("dna", "val"))["val"]["processid"])
print(*[row["processid"] for row in source.stream(Request("dna", "val"))["val"]])
"""


@pytest.mark.slow
def test_labels_and_shards_are_of_one_commit(hub, dataset, tmp_path):
    """A push between the reading of labels and of rows changes nothing."""
    repo = fill(hub, "tester/changing", files_of(dataset))
    command = [sys.executable, "-c", CHANGED, repo]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=minihub.environment(hub, tmp_path)) as process:
        assert process.stdout.readline().strip().isdigit()
        changed = next(dataset.glob("dna/test-*.parquet")).read_bytes()
        hub.add(repo, {"labels.json": b'{"species": []}', "dna/val-00000-of-00001.parquet": changed})
        out, _ = process.communicate("\n", timeout=120)
    assert out.splitlines() == [" ".join(ids(dataset, "val"))] * 2


def test_a_private_dataset_needs_a_token(hub, dataset, tmp_path):
    repo = fill(hub, "tester/private", files_of(dataset), private=True)
    narrow = {"columns": ["processid"]}
    found = load(
        hub,
        tmp_path,
        (repo, "dna", "val", {}),
        (repo, "dna", "val", {"token": "hf_wrong"}),
        *(
            (repo, "cropped_256", "val", {"token": minihub.TOKEN, **more})
            for more in ({}, {"streaming": True}, narrow)
        ),
        HF_TOKEN="",
    )
    assert (
        found[0]
        == f"FileNotFoundError: There is no dataset {repo} on the Hub, or it is private: log in by `hf auth login`."
    )
    assert found[1].startswith(f"PermissionError: {repo}: the Hub refused the token (401)")
    assert found[2:] == [ids(dataset, "val")] * 3


STOPPED = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], repo_type="dataset", allow_patterns=[sys.argv[2]])
"""


@pytest.mark.slow
def test_a_stopped_download_of_one_split(hub, dataset, tmp_path):
    """Half of pretrain in the cache of the Hub: val loads, pretrain is completed; offline, each that is there."""
    repo = fill(hub, "tester/stopped", files_of(dataset))
    command = [sys.executable, "-c", STOPPED, repo, "dna/pretrain-00000-*"]
    subprocess.run(command, check=True, capture_output=True, env=minihub.environment(hub, tmp_path))
    pretrain = (repo, "dna", "pretrain", {})
    calls = [(repo, "dna", "val", {}), (repo, "dna", "val", {"ranks": ["genus"]})]
    assert load(hub, tmp_path, *calls) == [ids(dataset, "val")] * 2
    found = load(hub, tmp_path, *calls, pretrain, (repo, "dna", None, {}), HF_HUB_OFFLINE="1")
    assert found[:2] == [ids(dataset, "val")] * 2
    for error in found[2:]:
        assert "cache does not hold what is needed" in error or "are not in the cache" in error
    assert load(hub, tmp_path, pretrain) == [ids(dataset, "pretrain")]
    assert load(hub, tmp_path, pretrain, HF_HUB_OFFLINE="1") == [ids(dataset, "pretrain")]
    assert load(hub, tmp_path, pretrain, HF_ENDPOINT="http://127.0.0.1:9") == [ids(dataset, "pretrain")]
    [error] = load(hub, tmp_path / "empty", pretrain, HF_ENDPOINT="http://127.0.0.1:9")
    assert error.startswith("ConnectionError: No connection to the Hub at http://127.0.0.1:9 for tester/stopped (")
    [error] = load(hub, tmp_path / "empty", pretrain, HF_HUB_OFFLINE="1")
    assert error.startswith("ConnectionError: tester/stopped: offline mode is on (HF_HUB_OFFLINE)")


def test_shards_that_are_missing_on_the_hub(hub, dataset, tmp_path):
    files = files_of(dataset)
    del files[sorted(name for name in files if name.startswith("dna/pretrain-"))[1]]
    repo = fill(hub, "tester/half", files)
    found = load(hub, tmp_path, (repo, "dna", "val", {}), (repo, "dna", "pretrain", {}), (repo, "dna", "all", {}))
    assert found[0] == ids(dataset, "val")
    message = f"ValueError: '{repo}' holds 2 of the 3 shards of dna/pretrain: copy or build the others."
    assert found[1:] == [message] * 2


@pytest.mark.slow
def test_cache_dir_and_processes(hub, dataset, release, tmp_path):
    """What is prepared lies in `cache_dir`, from every source; several processes give the same rows."""
    repo = fill(hub, "tester/cached", files_of(dataset))
    for i, source in enumerate((repo, str(dataset), str(release))):
        cache = tmp_path / f"cache{i}"
        options = {"cache_dir": str(cache), "num_proc": 2, "ranks": ["species"]}
        calls = [(source, "dna", "pretrain", options), (source, "cropped_256", "val", options)]
        home = tmp_path / f"home{i}"
        assert load(hub, home, *calls) == [ids(dataset, "pretrain"), ids(dataset, "val")]
        assert sum(len(files) for _, _, files in os.walk(cache)) > 2
        prepared = [name for _, _, names in os.walk(home / "datasets") for name in names if not name.endswith(".lock")]
        assert prepared == []
