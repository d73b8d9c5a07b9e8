"""The builder of dataset_script: a class on every `datasets`, a script that `load_dataset` runs below version 4."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import datasets
import pytest

from bioscan_hf import dataset_script
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset_script.bioscan5m import Bioscan5M
from bioscan_hf.schema import CONFIGS

SCRIPT = Path(dataset_script.__file__).with_name("bioscan5m.py")
PACKAGE = Path(dataset_script.__file__).parents[1]

OLD = """
import hashlib, json, sys
from datasets import load_dataset, Image
script, release, cache, config = sys.argv[1:]
found = {}
for streaming in (False, True):
    options = {} if streaming else {"cache_dir": cache}
    options |= {"data_dir": release, "trust_remote_code": True, "streaming": streaming}
    data = load_dataset(script, config, split="val", **options)
    if config != "dna":
        data = data.cast_column("image", Image(decode=False))
    rows = [dict(row) for row in data]
    for row in rows:
        if config != "dna":
            row["image"] = hashlib.md5(row["image"]["bytes"]).hexdigest()
    found[str(streaming)] = [rows, {name: str(feature.dtype) for name, feature in data.features.items()}]
print(json.dumps(found))
"""


@pytest.mark.skipif(int(datasets.__version__.split(".")[0]) < 4, reason="datasets < 4 runs scripts")
def test_new_datasets_refuse_the_script(release):
    """The error is the library's; the same file works as a class (`test_builder_class` in test_data)."""
    with pytest.raises(RuntimeError, match="Dataset scripts are no longer supported"):
        datasets.load_dataset(str(SCRIPT), "dna", data_dir=str(release))


def test_the_class_has_every_config_and_streams(release, dataset, tmp_path):
    assert tuple(Bioscan5M.builder_configs) == CONFIGS
    builder = Bioscan5M(config_name="dna", data_dir=str(release), cache_dir=str(tmp_path))
    expected = load_bioscan5m(dataset, "dna", "val", max_nucleotides=None)
    stream = builder.as_streaming_dataset(split="val")
    assert list(stream) == list(expected) and stream.features == expected.features
    with pytest.raises(ValueError, match="data_dir is missing: give the folder of a BIOSCAN-5M release"):
        Bioscan5M(config_name="dna", cache_dir=str(tmp_path)).download_and_prepare()


@pytest.mark.parametrize("config", ["dna", "cropped_256"])
def test_old_datasets_run_the_script(release, dataset, tmp_path, config):
    """With datasets 3.x, as a script: the rows and types of the Parquet folder, prepared and streamed."""
    python = os.environ.get("BIOSCAN_HF_DATASETS3_PYTHON")
    if not python:
        pytest.skip("BIOSCAN_HF_DATASETS3_PYTHON does not name a Python that has datasets 3.x")
    folder = tmp_path / "package"  # the package alone, without the libraries of this environment
    folder.mkdir()
    (folder / "bioscan_hf").symlink_to(PACKAGE if PACKAGE.name == "bioscan_hf" else PACKAGE / "bioscan_hf")
    environment = {**os.environ, "PYTHONPATH": str(folder), "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [python, "-c", OLD, str(SCRIPT), str(release), str(tmp_path / "cache"), config],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    expected = load_bioscan5m(dataset, config, "val", max_nucleotides=None)
    if config != "dna":
        expected = expected.cast_column("image", datasets.Image(decode=False))
    for rows, types in json.loads(done.stdout.splitlines()[-1]).values():
        assert types == {name: str(feature.dtype) for name, feature in expected.features.items()}
        assert len(rows) == len(expected) > 0
        for row, record in zip(rows, expected, strict=True):
            if config != "dna":
                record["image"] = hashlib.md5(record["image"]["bytes"]).hexdigest()
            assert row == record
