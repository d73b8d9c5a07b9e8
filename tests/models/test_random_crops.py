"""Crops on the device: the augmentation of the CPU, whole photos, and memory."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import clibd_rows, encoded, text_tokenizer

from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor, photos_on_device
from bioscan_hf.models.random_crops import crops_on_device, photos_to_crop
from bioscan_hf.training.clibd import trainer as clibd_trainer
from bioscan_hf.training.clibd.batches import ClibdCollator
from bioscan_hf.training.clibd.options import ClibdOptions
from bioscan_hf.training.draws import row_generator


@pytest.fixture(scope="module")
def processor():
    return ClibdProcessor(make_image_processor(32), None, text_tokenizer())


def smooth(height, width, phase):
    """Pixels (H, W, 3) of slow waves, which interpolation hardly changes."""
    down, across = np.mgrid[:height, :width] / 20
    waves = [np.sin(down + phase) + np.cos(across * (1 + c / 3)) for c in range(3)]
    return (127 + 60 * np.stack(waves, 2)).astype(np.uint8)


def specimens(shapes):
    found = clibd_rows(len(shapes))
    for i, (row, shape) in enumerate(zip(found, shapes, strict=True)):
        row["image"] = {"bytes": encoded(Image.fromarray(smooth(*shape, i))), "path": None}
    return found


def pixels(processor, batch):
    return photos_on_device(batch, processor.image_processor)


def test_the_same_augmentation_as_on_the_cpu(processor):
    """Photos of three shapes, one larger than 37 pixels in its shorter side: boxes, flips and angles are the same.

    What differs is interpolation: 2 of 255 on average. Under another seed the photos differ by ten times as much.
    """
    given = specimens([(36, 50), (37, 37), (80, 60), (36, 90)])
    plain, device, other = (
        pixels(processor, ClibdCollator(processor, seed=seed, augment_on_device=on_device)(given))
        for seed, on_device in ((5, False), (5, True), (6, True))
    )
    assert plain.shape == device.shape == (4, 3, 32, 32)
    apart = (plain - device).abs().mean() * 255 / 2
    assert apart < 2 and (plain - other).abs().mean() * 255 / 2 > 10 * apart
    again = ClibdCollator(processor, seed=5, augment_on_device=True)
    batch = again(given)
    assert batch["pixel_values"].dtype == torch.uint8 and batch["pixel_values"].shape == (4, 3, 49, 90)
    assert batch["image_present"].all()
    alone = pixels(processor, again(given[2:3]))
    torch.testing.assert_close(alone, device[2:3], atol=1e-4, rtol=0)
    again.set_epoch(1)
    assert not torch.equal(again(given)["crop"], batch["crop"])


def test_a_whole_photo_and_its_flips():
    """A crop of a whole photo is the photo; beside a larger photo it has no pixels of the padding."""
    photo = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    larger = torch.zeros(1, 3, 30, 50, dtype=torch.uint8)
    larger[..., :20, :20] = photo
    box = torch.tensor([[0.0, 0.0, 20.0, 20.0]])
    for flip, axes in (([False, False], []), ([True, False], [2]), ([False, True], [3]), ([True, True], [2, 3])):
        for given in (photo, larger):
            crop = crops_on_device(given, box, torch.tensor([flip]), 20)
            torch.testing.assert_close(crop, photo.float().flip(axes) if axes else photo.float(), atol=1e-2, rtol=0)
    white = torch.zeros(1, 3, 30, 50, dtype=torch.uint8)
    white[..., :20, :20] = 255
    assert crops_on_device(white, box, torch.zeros(1, 2, dtype=torch.bool), 64).min() > 254.9


def test_draws_and_shrinking():
    """A shorter side of 80 becomes 32, the longer one of 120 becomes 48."""
    photos = [smooth(80, 120, 0), smooth(20, 24, 1)]
    made = photos_to_crop(photos, 32, 45.0, [row_generator(0, 0, name) for name in "ab"])
    assert made["pixel_values"].shape == (2, 3, 32, 48)
    top, left, height, width = made["crop"].T
    assert (top + height <= torch.tensor([32, 20])).all() and (left + width <= torch.tensor([48, 24])).all()
    assert made["rotation"].abs().max() <= 45 and made["flip"].dtype == torch.bool
    assert (made["pixel_values"][1, :, 20:] == 0).all() and (made["pixel_values"][1, :, :, 24:] == 0).all()


def test_a_missing_photo(processor):
    given = specimens([(40, 40), (40, 40)])
    given[0]["image"] = None
    batch = ClibdCollator(processor, augment_on_device=True)(given)
    assert batch["image_present"].tolist() == [False, True] and (batch["pixel_values"][0] == 0).all()
    given[1]["image"] = {"bytes": b"x", "path": None}
    with pytest.raises(ValueError, match="The specimen P1: the photo cannot be decoded"):
        ClibdCollator(processor, augment_on_device=True)(given)


def test_only_some_photos_are_floats_at_a_time(processor, monkeypatch):
    """With rows_at_a_time, only rows in the model are floats, in both passes; the batch is uint8."""
    seen = []

    def recorded(batch, image_processor):
        seen.append((len(batch["pixel_values"]), batch["pixel_values"].dtype, len(batch["crop"])))
        return photos_on_device(batch, image_processor)

    monkeypatch.setattr(clibd_trainer, "photos_on_device", recorded)
    trainer = clibd_trainer.ClibdTrainer.__new__(clibd_trainer.ClibdTrainer)
    trainer.options, trainer.image_processor = ClibdOptions("", rows_at_a_time=2), processor.image_processor
    vit = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    bert = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ClibdConfig(
        image_config={"architecture": "vit_base_patch16_224", "model_args": vit},
        dna_config={"k": 5, "vocabulary": "clibd", **bert},
        projection_dim=16,
    )
    model = ClibdModel(config).train()
    batch = ClibdCollator(processor, ["image", "dna"], augment_on_device=True)(specimens([(40, 40)] * 5))
    trainer.compute_loss(model, dict(batch)).backward()
    assert seen == [(2, torch.uint8, 2), (2, torch.uint8, 2), (1, torch.uint8, 1)] + [
        (1, torch.uint8, 1),
        (2, torch.uint8, 2),
        (2, torch.uint8, 2),
    ]
