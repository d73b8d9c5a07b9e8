"""Publishing over loopback: a build goes up, resumes when killed, and comes back by name with the same rows."""

import json
import os
import shutil
import signal
import subprocess
import sys

import minihub
import pyarrow as pa
import pytest
import yaml
from partition_rules import split_summary

from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.publish import _add_shard, _check_repository, complete_manifest, split_counts
from bioscan_hf.provenance import without_folders
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.release.tables import read_table
from bioscan_hf.release.write import write_table
from bioscan_hf.schema import COLUMNS

REPO = "tester/BIOSCAN-tiny"

PUBLISH = """
import sys
from bioscan_hf.dataset import publish
publish.SHARDS_PER_COMMIT = 5
def progress(stage, done, total):
    assert stage == "upload" and 0 <= done <= total
folder, repo, *revision = sys.argv[1:]
print(publish.publish(folder, repo, revision=revision[0] if revision else None, progress=progress))
"""

READ = """
import sys
from datasets import Image, load_dataset
from bioscan_hf.dataset.load import load_bioscan5m
local, repo = sys.argv[1:]

def rows(data):
    return list(data.cast_column("image", Image(decode=False)) if "image" in data.features else data)

for streaming in (True, False):
    for config in ("dna", "cropped_256"):
        expected = rows(load_dataset(local, config, split="val"))
        assert len(expected) > 0 and rows(load_dataset(repo, config, split="val", streaming=streaming)) == expected
        for options in ({}, {"taxon": {"class": "Insecta"}, "columns": ["family", "processid"], "ranks": ["species"]}):
            ours = load_bioscan5m(local, config, "val+test", **options)
            theirs = load_bioscan5m(repo, config, "val+test", streaming=streaming, **options)
            assert theirs.features == ours.features
            assert rows(theirs) == rows(ours) and len(ours) > 0
print("equal")
"""


EARLY = """
import sys
from datasets import load_dataset
from bioscan_hf.dataset.load import load_bioscan5m
repo = sys.argv[1]
for load in (
    lambda: load_dataset(repo),
    lambda: load_dataset(repo, "dna", streaming=True),
    lambda: load_bioscan5m(repo, "dna", "val", streaming=True),
    lambda: load_bioscan5m(repo, "dna", "val"),
):
    try:
        load()
    except (FileNotFoundError, ValueError) as error:
        known = ("is not finished", "upload_not_finished", "No (supported) data files")
        assert any(part in str(error) for part in known), error
    else:
        raise AssertionError("half an upload was loaded")
print("nothing loads")
"""


def run(code, hub, home, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=minihub.environment(hub, home))


def published(hub, home, dataset, *more):
    done = run(PUBLISH, hub, home, dataset, REPO, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def online(dataset, tmp_path_factory):
    """A Hub that holds the published build; tests leave the repository as it is."""
    with minihub.serve() as hub:
        url = published(hub, tmp_path_factory.mktemp("home"), dataset)
        assert url.startswith(f"{hub.url}/datasets/{REPO}/commit/")
        yield hub


@pytest.mark.slow
def test_what_is_published_loads_by_name_with_equal_rows(online, dataset, tmp_path):
    """In a process with an empty cache: `load_dataset` and `load_bioscan5m`, map-style and streamed, both configs."""
    done = run(READ, online, tmp_path, dataset, REPO)
    assert done.stdout == "equal\n", done.stderr


def test_only_files_of_the_build_are_published(online, dataset):
    files = online.files(REPO)
    shards = {str(path.relative_to(dataset)) for path in dataset.glob("*/*.parquet")}
    assert set(files) == {*shards, "README.md", "labels.json", "manifest.json", ".gitattributes"}
    assert all(files[name] == (dataset / name).read_bytes() for name in (*shards, "labels.json"))
    manifest = json.loads(files["manifest.json"])
    assert manifest == json.loads((dataset / "manifest.json").read_text()), "it has no folders that could be cut off"


def test_card_has_the_counts_of_each_split(online, dataset, release):
    """Samples, barcodes and species are those that the partition counts in the CSV; the YAML is the build's."""
    card = online.files(REPO)["README.md"].decode()
    built = (dataset / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1]) == yaml.safe_load(built.split("---")[1])
    summary = split_summary(read_table(find_metadata(release)))
    assert split_counts(dataset)[:-1] == summary
    for row in summary:
        assert f"| {row['split']} | {row['samples']} | {row['barcodes']} | {row['species']} | " in card
    total = split_counts(dataset)[-1]
    assert total["samples"] == 400 and total["barcodes"] == sum(row["barcodes"] for row in summary)
    assert total["species"] < sum(row["species"] for row in summary), "species of val and test are those of train"
    assert f"| total | 400 | {total['barcodes']} | {total['species']} |" in card
    assert "license: other" in card and "@inproceedings{gharaee2024bioscan5m" in card


def test_publishing_again_sends_no_shard(online, dataset, tmp_path):
    sent, commits = online.uploads, len(online.repos[REPO].commits)
    published(online, tmp_path, dataset)
    assert (online.uploads, len(online.repos[REPO].commits)) == (sent, commits)


@pytest.mark.slow
def test_a_killed_upload_goes_on_and_shows_nothing_meanwhile(dataset, tmp_path):
    """SIGKILL after 7 of the shards: the repository does not load, and the second run sends the others alone."""
    shards = list(dataset.glob("*/*.parquet"))
    assert len(shards) > 12, "several commits must be needed"
    with minihub.serve() as hub:
        hub.uploads_before_hanging = 7
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(dataset), REPO], env=minihub.environment(hub, tmp_path / "first")
        )
        assert hub.hanging.wait(60), "the eighth shard was never sent"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert hub.uploads == 7

        done = run(EARLY, hub, tmp_path / "early", REPO)
        assert done.stdout == "nothing loads\n", done.stderr

        hub.uploads_before_hanging = None
        published(hub, tmp_path / "second", dataset)
        assert hub.uploads == len(shards)
        puts = [path for method, path in hub.log if method == "PUT"]
        hung = [path for path in puts if puts.count(path) > 1]
        assert len(set(puts)) == len(shards) and len(puts) - len(shards) <= 5, f"sent twice: {hung}"
        files = hub.files(REPO)
        assert all(files[str(path.relative_to(dataset))] == path.read_bytes() for path in shards)
        assert b"upload_not_finished" not in files["README.md"] and json.loads(files["manifest.json"])["complete"]


def test_a_new_build_on_a_branch_replaces_the_shards_of_the_old(release, tmp_path):
    """Other cuts of the same rows: the old shards go in the commit that brings the card; main and other files stay."""
    build(release, tmp_path / "large", ["dna"])
    build(release, tmp_path / "small", ["dna"], rows_per_shard={"dna": 100})
    with minihub.serve() as hub:
        published(hub, tmp_path, tmp_path / "small")
        hub.add(REPO, {"notes.txt": b"kept", "problems.csv": b"of the old build"})
        main = hub.files(REPO)
        published(hub, tmp_path, tmp_path / "large", "v2")
        files = hub.files(REPO, "v2")
        assert hub.files(REPO) == main
    assert {name for name in files if name.endswith(".parquet")} == {
        str(path.relative_to(tmp_path / "large")) for path in (tmp_path / "large").glob("dna/*.parquet")
    }
    assert files["notes.txt"] == b"kept" and "problems.csv" not in files


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("BIOSCAN-tiny.py", "holds BIOSCAN-tiny.py, which `load_dataset` takes for a loading script"),
        (
            "original_256/val-00000-of-00001.parquet",
            "holds the config 'original_256', which is not in this build",
        ),
    ],
)
def test_a_repository_that_would_not_load_or_lose_a_config(path, message):
    _check_repository(REPO, {"README.md": None, "other.py": None, "dna/val-00000-of-00001.parquet": "ab"}, ["dna"])
    with pytest.raises(ValueError, match=message):
        _check_repository(REPO, {path: None}, ["dna"])


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "dataset")


def test_an_unfinished_or_damaged_build_is_refused(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no build .no manifest.json.: run `bioscan-hf build` first"):
        complete_manifest(tmp_path)
    shard = next(copy.glob("dna/val-*.parquet"))
    content = bytearray(shard.read_bytes())
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{shard.name} of the build has {len(content) - 1} bytes instead of"):
        complete_manifest(copy)
    os.remove(shard)
    with pytest.raises(ValueError, match=f"dna/{shard.name} of the build is missing: run `bioscan-hf build` again"):
        complete_manifest(copy)
    content[100] ^= 1
    shard.write_bytes(content)
    entry = complete_manifest(copy)["shards"][f"dna/{shard.name}"]
    with pytest.raises(ValueError, match=f"dna/{shard.name} has changed since it was built .its sha256 differs"):
        _add_shard(copy, f"dna/{shard.name}", entry)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(ValueError, match="is not complete: run `bioscan-hf build` again to go on"):
        complete_manifest(copy)


def test_messages_lose_the_folders_of_the_machine():
    """Absolute folders go; names inside a zip, relative paths, dates and fractions stay."""
    problems = [{"what": "no photo bioscan5m/images/cropped/val/A.jpg in /home/ann/my_release, /mnt/x/B.zip"}]
    cut = [{"what": "no photo bioscan5m/images/cropped/val/A.jpg in my_release, B.zip"}]
    assert without_folders({"problems": problems, "n": 3}) == {"problems": cut, "n": 3}
    assert without_folders("C:\\data\\m.csv, row 3: 1/2 of 'a/b'") == "m.csv, row 3: 1/2 of 'a/b'"


def test_barcodes_are_counted_without_n_at_their_ends(tmp_path):
    """ACGT, ACGTNN and NACGT are one barcode; ACNT is another; null and NN are none. Species: two, of four rows."""

    barcodes = ["ACGT", "ACGTNN", "NACGT", "ACNT", None, "NN"]
    species = ["A a", "A a", "B b", None, None, None]
    table = {name: pa.nulls(6, pa.string()) for name in COLUMNS}
    table |= {"processid": [f"P{i}" for i in range(6)], "split": ["train"] * 6, "inferred_ranks": ["0"] * 6}
    write_table(pa.table({**table, "dna_barcode": barcodes, "species": species}), tmp_path / "m.csv")
    build(tmp_path / "m.csv", tmp_path / "dataset")
    assert split_counts(tmp_path / "dataset") == [
        {"split": name, "samples": 6, "barcodes": 2, "species": 2} for name in ("train", "total")
    ]


# ---- the card, and what is said when it does not work ---------------------------------------------------------------

CLI = "import sys; from bioscan_hf.cli.main import main; main(sys.argv[1:])"


def header(hub):
    return yaml.safe_load(hub.files(REPO)["README.md"].decode().split("---\n")[1])


@pytest.mark.slow
def test_publish_over_a_card_that_was_edited(copy, tmp_path):
    """Here, then on the Hub: both are kept. Edited in both at once: refused, unless forced."""
    card = copy / "README.md"
    card.write_text(card.read_text().replace("## Citation", "## How to cite us\n\nOurs is CC0.\n\n## Citation"))
    with minihub.serve() as hub:
        published(hub, tmp_path, copy)
        there = hub.files(REPO)["README.md"].decode()
        assert "Ours is CC0" in there and "| total | 400 |" in there and len(header(hub)["configs"]) == 2
        hub.add(REPO, {"README.md": there.replace("license: other", "license: cc0-1.0").encode()})
        published(hub, tmp_path, copy)
        assert header(hub)["license"] == "cc0-1.0" and b"Ours is CC0" in hub.files(REPO)["README.md"]

        card.write_text(card.read_text().replace("Ours is CC0.", "Ours is free."))
        before = len(hub.repos[REPO].commits)
        done = run(CLI, hub, tmp_path, "publish", copy, REPO)
        assert done.returncode == 1 and len(hub.repos[REPO].commits) == before
        assert "publish: README.md was edited here and on the Hub since the last upload" in done.stderr
        done = run(CLI, hub, tmp_path, "publish", copy, REPO, "--force", "--license", "mit", "--quiet")
        assert done.returncode == 0, done.stderr
        assert header(hub)["license"] == "mit" and b"Ours is free." in hub.files(REPO)["README.md"]


def test_a_killed_upload_keeps_the_card(dataset, tmp_path):
    """While shards go up, nothing loads; the words on the Hub are there meanwhile and afterwards."""
    with minihub.serve() as hub:
        hub.repos[REPO] = minihub.Repo()
        hub.add(REPO, {"README.md": b"---\nlicense: cc0-1.0\n---\n# Moths of Malaise traps\n"})
        hub.uploads_before_hanging = 7
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(dataset), REPO], env=minihub.environment(hub, tmp_path / "first")
        )
        assert hub.hanging.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert b"# Moths of Malaise traps" in hub.files(REPO)["README.md"]
        assert header(hub)["configs"][0]["config_name"] == "upload_not_finished"
        hub.uploads_before_hanging = None
        published(hub, tmp_path / "second", dataset)
        assert header(hub)["license"] == "cc0-1.0" and len(header(hub)["configs"]) == 2
        assert b"# Moths of Malaise traps" in hub.files(REPO)["README.md"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is on (HF_HUB_OFFLINE)"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "No connection to the Hub at http://127.0.0.1:9"),
        ({"HF_TOKEN": "hf_wrong"}, "the Hub refused the token (401): it is wrong or has expired"),
        ({"HF_TOKEN": ""}, "not logged in. Log in by `hf auth login`, or set HF_TOKEN"),
        ({}, "this token has no right to write there (403). Use a token with write access to 'tester'"),
    ],
)
def test_publish_says_what_is_the_matter(dataset, tmp_path, change, message):
    """No network, a wrong token, no token and no rights have each their own line."""
    with minihub.serve() as hub:
        hub.repos[REPO] = minihub.Repo(read_only=True)
        hub.add(REPO, {"notes.txt": b"x"})
        environment = {**minihub.environment(hub, tmp_path), **change}
        command = [sys.executable, "-c", CLI, "publish", str(dataset), REPO]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 1
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith(f"bioscan-hf publish: {REPO}: ") or message in line
        assert message in line, done.stderr
        assert hub.files(REPO).keys() == {"notes.txt"}
