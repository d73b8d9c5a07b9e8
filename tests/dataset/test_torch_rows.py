"""Samples for a training loop: batches of a DataLoader, missing values, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch.utils.data import DataLoader, default_collate

from bioscan_hf.barcodes import published_unique_barcodes
from bioscan_hf.dataset.load import load_bioscan5m, load_label_maps
from bioscan_hf.dataset.torch_rows import collate, to_torch


@pytest.fixture(scope="module")
def pretrain(dataset):
    return load_bioscan5m(dataset, "cropped_256", "pretrain", ranks=["genus"])


def pixels(photo):
    return torch.from_numpy(np.asarray(photo.resize((8, 6))).copy())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_batches_dicts(pretrain, workers):
    """By torch's own collation, from the main process and from workers; -1, "" and NaN where nothing is known."""
    samples = to_torch(
        pretrain,
        ("image", "dna", "image_measurement_value"),
        target_type="genus",
        output_format="dict",
        transform=pixels,
    )
    batches = list(DataLoader(samples, batch_size=len(samples) // 2 + 1, num_workers=workers))
    assert len(batches) == 2 and batches[0]["image"].shape[1:] == (6, 8, 3)
    assert batches[0]["image_measurement_value"].dtype == torch.float64
    found = {key: [value for batch in batches for value in batch[key]] for key in ("dna", "genus", "target")}
    assert found["dna"] == pretrain["dna_barcode"]
    assert found["genus"] == [name or "" for name in pretrain["genus"]] and "" in found["genus"]
    assert [int(i) for i in found["target"]] == pretrain["genus_index"] and -1 in pretrain["genus_index"]


def test_a_batch_is_the_rows(pretrain):
    """What a DataLoader fetches at once equals what it would fetch one by one."""
    samples = to_torch(pretrain, target_type=("genus", "order"), maps=None, target_format="text")
    for row, alone in zip(samples.__getitems__([5, 0, 7]), (samples[5], samples[0], samples[7]), strict=True):
        assert row[0].tobytes() == alone[0].tobytes() and row[1:] == alone[1:]
    assert len(samples) == len(pretrain)


def test_collate_takes_photos_and_missing_targets(pretrain):
    """Photos and None become lists, all else as torch's default collation; which refuses a photo."""
    for output_format in ("tuple", "dict"):
        samples = to_torch(pretrain, target_type=(), output_format=output_format)
        rows = [samples[0], samples[1]]
        batch = collate(rows)
        image, dna, target = batch.values() if output_format == "dict" else batch
        assert isinstance(image[0], PILImage.Image) and dna == pretrain["dna_barcode"][:2] and target == [None, None]
        with pytest.raises(TypeError):
            default_collate(rows)
    plain = to_torch(pretrain, "dna", target_type=("genus", "genus"), output_format="tuple")
    rows = [plain[0], plain[1]]
    ours, torchs = collate(rows), default_collate(rows)
    assert ours[0] == list(torchs[0]) and [t.tolist() for t in ours[1]] == [t.tolist() for t in torchs[1]]


def test_missing_values_of_every_kind(pretrain):
    """A missing barcode, text and number, and numbers of one type in every batch."""

    def empty(row):
        return {**row, "dna_barcode": None, "country": None, "coord-lat": None, "image_measurement_value": None}

    data = pretrain.select_columns(
        ["dna_barcode", "country", "coord-lat", "image_measurement_value", "genus", "genus_index"]
    ).map(empty)
    row = to_torch(data, ("dna", "country", "coord-lat", "image_measurement_value"), target_type="genus")[0]
    assert row[:2] == ("", "") and np.isnan(row[2]) and np.isnan(row[3])
    assert to_torch(pretrain, "image_measurement_value", target_type="genus")[0][0] == float(
        pretrain[0]["image_measurement_value"]
    )


def test_label_ids_from_the_dataset_or_from_maps(dataset, pretrain):
    maps = load_label_maps(dataset)
    bare = load_bioscan5m(dataset, "dna", "pretrain")
    stored = to_torch(pretrain, "dna", target_type="genus")
    looked_up = to_torch(bare, "dna", target_type="genus", maps=maps)
    assert list(map(looked_up.__getitem__, range(len(bare)))) == list(map(stored.__getitem__, range(len(bare))))
    with pytest.raises(ValueError, match=r"No label ids for 'genus': load with ranks=\['genus'\], or give maps"):
        to_torch(bare, "dna", target_type="genus")
    assert to_torch(bare, "dna", target_type="genus", target_format="text")[0] == (
        bare[0]["dna_barcode"],
        bare[0]["genus"] or "",
    )


def test_a_format_set_before_does_not_matter(pretrain):
    plain = to_torch(pretrain, "dna", target_type="genus")
    assert to_torch(pretrain.with_format("torch"), "dna", target_type="genus")[3] == plain[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_format": "name"}, "Unknown target_format: 'name'. Choose index or text"),
        ({"output_format": "list"}, "Unknown output_format: 'list'. Choose tuple or dict"),
        ({"modality": ("dna", "sound")}, "Unknown modality 'sound'. This dataset has image, processid"),
        ({"target_type": "tribe"}, "Unknown target_type 'tribe'"),
        ({"target_type": (), "target_transform": str}, "target_transform is given, but target_type is empty"),
    ],
)
def test_bad_arguments(pretrain, arguments, message):
    with pytest.raises(ValueError, match=message):
        to_torch(pretrain, **arguments)


def test_photos_of_a_dataset_without_them(dataset):
    with pytest.raises(ValueError, match="Unknown modality 'image'.* Load a config with photos"):
        to_torch(load_bioscan5m(dataset, "dna", "val"))


def test_published_unique_barcodes_of_a_dataset_is_that_of_its_table(dataset):
    """Over blocks of a Dataset and of a table, in an order of rows that is not the file's either way."""
    data = load_bioscan5m(dataset, "dna", "all", max_nucleotides=None)
    kept = published_unique_barcodes(data)
    assert kept.tolist() == published_unique_barcodes(data.with_format("arrow")[:]).tolist()
    barcodes = [barcode[:660].rstrip("N") for barcode in data["dna_barcode"]]
    assert len({barcodes[i] for i in kept}) == len(kept) == len(set(barcodes)) < len(barcodes)
