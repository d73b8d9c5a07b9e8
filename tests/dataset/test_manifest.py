"""manifest.json of a build, as it is read where it was changed or damaged."""

import json
import shutil

import pytest

from bioscan_hf.dataset.manifest import Manifest, read_manifest
from bioscan_hf.dataset.parquet_folder import ParquetFolder
from bioscan_hf.dataset.publish import complete_manifest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("problems", [{"file": "a"}]),
        ("problems", ["a"]),
        ("rows", {"train": "4"}),
        ("rows", {"train": -1}),
        ("rows", {"../../train": 1}),
        ("rows", {"train": True}),
        ("rows_per_shard", {"dna": 0}),
        ("shards", {"../secret.parquet": {"bytes": 1, "rows": 1, "sha256": ""}}),
        ("shards", {"dna/../../x-00000-of-00001.parquet": {"bytes": 1, "rows": 1, "sha256": ""}}),
        ("shards", {"dna/train-00000-of-00001.parquet": {"rows": 1}}),
        ("shards", {"dna/train-00000-of-00001.parquet": None}),
        ("source", {"name": 3}),
        ("configs", ["../x"]),
    ],
)
def test_a_damaged_field_is_named(dataset, tmp_path, field, value):
    """By build, load and publish alike, so that no file outside of the folder is read or uploaded."""
    shutil.copytree(dataset, tmp_path / "d")
    path = tmp_path / "d/manifest.json"
    content = json.loads(path.read_text())
    assert read_manifest(path) == content
    path.write_text(json.dumps(content | {field: value}))
    for read in (Manifest.read, complete_manifest, lambda folder: ParquetFolder(folder).manifest):
        with pytest.raises(ValueError, match=f"The field '{field}' of .*manifest.json' is damaged. Build the dataset"):
            read(tmp_path / "d")


def test_a_manifest_without_a_field(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "d")
    content = json.loads((tmp_path / "d/manifest.json").read_text())
    for field in ("shards", "rows", "problems", "rows_per_shard", "complete"):
        (tmp_path / "d/manifest.json").write_text(json.dumps({k: v for k, v in content.items() if k != field}))
        with pytest.raises(ValueError, match=f"has no field '{field}'"):
            Manifest.read(tmp_path / "d")


def test_numbers_that_would_fill_the_memory(dataset, tmp_path):
    content = json.loads((dataset / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(content | {"rows": {"train": 10**18}}))
    with pytest.raises(ValueError, match="more than 1,000,000 shards"):
        read_manifest(tmp_path / "manifest.json")
