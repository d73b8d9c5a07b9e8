"""Releases of which some splits are there: what is asked for loads, and nothing else is copied."""

import shutil

import datasets
import pytest
from datasets import Image

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.release.layout import find_metadata


def rows(dataset):
    return list(dataset.cast_column("image", Image(decode=False)) if "image" in dataset.features else dataset)


@pytest.fixture
def part(release, tmp_path):
    """As `bioscan-hf download --config cropped_256 --split train --boxes` leaves it: tables, and photos of train."""
    folder = tmp_path / "part"
    metadata = find_metadata(release)
    (folder / metadata.relative_to(release).parent).mkdir(parents=True)
    shutil.copy(metadata, folder / metadata.relative_to(release))
    for name in ("BIOSCAN_5M_cropped_256_train.zip", "BIOSCAN_5M_Insect_bbox.tsv"):
        shutil.copy(release / name, folder)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def copied(cache):
    """Configs and splits in the cache of builds."""
    return {f"{path.parent.name}/{path.name.split('-')[0]}" for path in cache.glob("bioscan_hf/*/*/*.parquet")}


def test_download_of_one_split_then_load_of_it(part, release, dataset, cache):
    """Train loads, map-style and streamed, and alone is copied; another split is refused until it is downloaded."""
    expected = rows(load_bioscan5m(dataset, "cropped_256", "train", ranks=["species"]))
    for streaming in (True, False):
        found = load_bioscan5m(part, "cropped_256", "train", ranks=["species"], streaming=streaming)
        assert rows(found) == expected, "the label ids are those of the whole release"
    assert {name for name in copied(cache) if name.startswith("cropped")} == {"cropped_256/train"}
    for split in ("val", "train+val", "seen", None):
        for streaming in (False, True):
            with pytest.raises(FileNotFoundError, match="no cropped_256 photos of .*_eval.zip.* missing. Download"):
                load_bioscan5m(part, "cropped_256", split, streaming=streaming)
    shutil.copy(release / "BIOSCAN_5M_cropped_256_eval.zip", part)
    assert rows(load_bioscan5m(part, "cropped_256", "val")) == rows(load_bioscan5m(dataset, "cropped_256", "val"))
    assert {name for name in copied(cache) if name.startswith("cropped")} == {"cropped_256/train", "cropped_256/val"}
    assert rows(load_bioscan5m(part, "cropped_256", "seen")) == rows(load_bioscan5m(dataset, "cropped_256", "seen"))


def test_photos_are_copied_only_if_a_column_asks_for_them(part, dataset, cache):
    """Other columns and the config dna come for every split, without any photo."""
    options = {"columns": ["processid", "species"]}
    for config, split in (("cropped_256", "all"), ("dna", "all")):
        assert rows(load_bioscan5m(part, config, split, **options)) == rows(
            load_bioscan5m(dataset, config, split, **options)
        )
    assert not [name for name in copied(cache) if name.startswith("cropped")]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_zip_that_is_half_downloaded(part, release, dataset, cache, streaming):
    """It blocks its own splits, with its name, and no other."""
    whole = (release / "BIOSCAN_5M_cropped_256_eval.zip").read_bytes()
    half = part / "BIOSCAN_5M_cropped_256_eval.zip"
    half.write_bytes(whole[: len(whole) // 2])
    found = load_bioscan5m(part, "cropped_256", "train", streaming=streaming)
    assert rows(found) == rows(load_bioscan5m(dataset, "cropped_256", "train"))
    with pytest.raises(ValueError, match="_eval.zip is not a readable zip .*: download it again"):
        rows(load_bioscan5m(part, "cropped_256", "val", streaming=streaming))
    half.write_bytes(whole)
    found = load_bioscan5m(part, "cropped_256", "val", streaming=streaming)
    assert rows(found) == rows(load_bioscan5m(dataset, "cropped_256", "val"))


def test_a_cache_that_lost_a_file_is_completed(part, dataset, cache):
    expected = rows(load_bioscan5m(dataset, "cropped_256", "train"))
    for pattern in ("bioscan_hf/*/cropped_256/train-*.parquet", "bioscan_hf/*/dna/val-*.parquet"):
        assert rows(load_bioscan5m(part, "cropped_256", "train")) == expected
        next(cache.glob(pattern)).unlink()
        assert rows(load_bioscan5m(part, "cropped_256", "train")) == expected
        assert rows(load_bioscan5m(part, "dna", "val")) == rows(load_bioscan5m(dataset, "dna", "val"))
