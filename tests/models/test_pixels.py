"""Photos become uint8 crops, and they are the crops that Pillow and torchvision make."""

import io
import pickle
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import functional as reference

from bioscan_hf.models import photos as decoding
from bioscan_hf.models import pixels as photos
from bioscan_hf.models.pixels import (
    decode_batch,
    decode_photo,
    normalize_on_device,
    photo_bytes,
    random_box,
    rotate_by,
    with_pixels,
)

DECODERS = ["simplejpeg", "pillow"]


@pytest.fixture(params=DECODERS)
def decoder(request) -> str:
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    return request.param


def picture(width: int = 300, height: int = 256, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth random picture: noise enlarged, so that JPEG keeps it well."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def as_image(pixels: torch.Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("size", [(300, 256), (256, 341), (1024, 768), (200, 150), (256, 256)])
def test_eval_crop_is_that_of_pillow(size, decoder):
    """Wide, tall, large, small and square: resized to a shorter side of 256 if need be, and the centre cut out.

    Decoders and resizers round differently; a crop shifted by one pixel would differ by far more than the bounds.
    """
    data = jpeg(picture(*size))
    image = Image.open(io.BytesIO(data)).convert("RGB")
    resized = reference.resize(image, 256, reference.InterpolationMode.BILINEAR)
    expected = np.asarray(reference.center_crop(resized, 224)).astype(int)
    pixels = decode_batch([data], decoder=decoder)
    assert pixels.shape == (1, 3, 224, 224) and pixels.dtype == torch.uint8
    difference = np.abs(as_image(pixels[0]) - expected)
    assert difference.max() <= 4 and difference.mean() < 0.6
    shifted = np.abs(np.roll(as_image(pixels[0]), 1, axis=1) - expected)
    assert shifted.mean() > 1


def test_train_crop_is_that_of_pillow(decoder):
    """Each crop equals cutting out the drawn box, resizing it with Pillow, and flipping it as drawn."""
    data = [jpeg(picture(340, 256, seed=seed)) for seed in range(12)]
    pixels = decode_batch(data, mode="train", generator=torch.Generator().manual_seed(3), decoder=decoder)
    draws = torch.rand(12, 24, generator=torch.Generator().manual_seed(3)).tolist()
    seen = Counter()
    for photo, crop, row in zip(data, pixels, draws, strict=True):
        top, left, height, width = random_box(256, 340, row)
        box = (left, top, left + width, top + height)
        image = Image.open(io.BytesIO(photo)).crop(box).resize((224, 224), Image.Resampling.BILINEAR)
        if row[-2] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if row[-1] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        seen[row[-2] < 0.5, row[-1] < 0.5] += 1
        difference = np.abs(as_image(crop) - np.asarray(image).astype(int))
        assert difference.max() <= 4 and difference.mean() < 0.6
    assert len(seen) == 4  # every combination of flips occurred


def test_random_boxes_are_distributed_as_those_of_torchvision():
    """Means of area share, log ratio and place agree with 2,000 boxes of RandomResizedCrop; each lies inside.

    Both are means of bounded variables: 0.03 is over 3 standard errors (area: deviation 0.25 / sqrt(2000) = 0.006,
    twice; place: 0.3 / sqrt(2000) = 0.007).
    """
    from torchvision.transforms import RandomResizedCrop

    height, width, count = 256, 340, 2000
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    ours = [random_box(height, width, row) for row in torch.rand(count, 22).tolist()]

    def features(boxes):
        top, left, h, w = np.array(boxes, float).T
        assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
        return np.array([h * w / height / width, np.log(w / h), (top + h / 2) / height, (left + w / 2) / width])

    ours, theirs = features(ours), features(theirs)
    assert np.allclose(ours.mean(1), theirs.mean(1), atol=0.03)
    assert np.allclose(ours.std(1), theirs.std(1), atol=0.03)


def test_a_photo_that_no_box_fits_gives_its_centre():
    """A strip of 10 x 1000: every box with a ratio of at least 3/4 and 8 % of the area is higher than 10.

    Fallback: the full height, and a width of 10 * 4/3 = 13, from (1000 - 13) // 2 = 493 on; tall likewise.
    """
    assert random_box(10, 1000, [0.5] * 22) == (0, 493, 10, 13)
    assert random_box(1000, 10, [0.5] * 22) == (493, 0, 13, 10)


def test_colours_become_rgb(decoder):
    """Grey and CMYK photos, and one that is a PNG, come out as Pillow converts them."""
    png = io.BytesIO()
    picture(mode="P").save(png, "PNG")
    for data in (jpeg(picture(mode="L")), jpeg(picture(mode="CMYK")), png.getvalue()):
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        pixels = decode_photo(data, decoder=decoder)
        assert pixels.shape == (256, 300, 3)
        assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_a_damaged_photo_is_named(decoder):
    """Cut off in the middle, cut off in its header, empty, and no picture at all."""
    good = jpeg(picture())
    for bad in (good[: len(good) // 2], good[:20], b"", b"no photo"):
        with pytest.raises(ValueError, match=rf"^X1\.jpg cannot be decoded .*{len(bad)} bytes"):
            decode_batch([good, bad], names=["X0.jpg", "X1.jpg"], decoder=decoder)
    with pytest.raises(ValueError, match="^Photo 1 of the batch cannot be decoded"):
        decode_batch([good, b"no photo"], decoder=decoder)


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="Unknown mode 'test': give 'eval' or 'train'"):
        decode_batch([], mode="test")
    with pytest.raises(ValueError, match="size is 300; it may be 1 to 256"):
        decode_batch([], 300)


def test_pillow_is_used_where_simplejpeg_is_absent(monkeypatch):
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # importing it would raise
    assert decoding.default_decoder() == "pillow"
    assert decode_batch([jpeg(picture())]).shape == (1, 3, 224, 224)


@pytest.fixture
def twelve(tmp_path) -> Dataset:
    """Twelve photos, one of them in a file rather than in the table."""
    rows = [{"bytes": jpeg(picture(seed=i)), "path": f"P{i}.jpg"} for i in range(12)]
    (tmp_path / "P11.jpg").write_bytes(rows[11]["bytes"])
    rows[11] = {"bytes": None, "path": str(tmp_path / "P11.jpg")}
    features = Features({"image": ImageFeature(), "processid": Value("string")})
    return Dataset.from_dict({"image": rows, "processid": [f"P{i}" for i in range(12)]}, features=features)


def test_dataset_yields_batches_of_pixels(twelve):
    """One row, a slice and a DataLoader give the same crops, in order, with the other columns."""
    data = with_pixels(twelve)
    arrow = twelve.with_format("arrow")[:]["image"]
    assert isinstance(arrow, pa.ChunkedArray)
    encoded, names = photo_bytes(arrow)
    expected = decode_batch(encoded)
    assert names[3] == "Row 3 of the batch (P3.jpg)"
    assert data[2]["pixel_values"].shape == (3, 224, 224) and data[2]["processid"] == "P2"
    assert torch.equal(data[2:5]["pixel_values"], expected[2:5])
    loaded = list(DataLoader(data, batch_size=5))
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loaded]), expected)
    assert [name for batch in loaded for name in batch["processid"]] == [f"P{i}" for i in range(12)]
    pickle.loads(pickle.dumps(data))  # as a worker process gets it


def test_random_crops_follow_the_seed_of_torch(twelve):
    """The same seed gives the same epoch, the next epoch another one."""
    data = with_pixels(twelve, mode="train")

    def epochs():
        torch.manual_seed(7)
        loader = DataLoader(data, batch_size=4, shuffle=True)
        return [torch.cat([batch["pixel_values"] for batch in loader]) for _ in range(2)]

    first, second = epochs(), epochs()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])


def test_dataset_names_the_damaged_and_missing_photo(twelve):
    rows = [{"bytes": b"no photo", "path": "bad.jpg"}, None]
    data = with_pixels(Dataset.from_dict({"image": rows}, features=Features({"image": ImageFeature()})))
    with pytest.raises(ValueError, match=r"Row 0 of the batch \(bad.jpg\) cannot be decoded"):
        data[0]
    with pytest.raises(ValueError, match="Row 0 of the batch has no photo"):
        data[1]
    with pytest.raises(ValueError, match="No column 'photo'; the dataset has image, processid"):
        with_pixels(twelve, column="photo")
    with pytest.raises(TypeError, match="not IterableDataset"):
        with_pixels(twelve.to_iterable_dataset())


def test_normalize_is_that_of_torchvision():
    pixels = decode_batch([jpeg(picture(seed=seed)) for seed in range(2)])
    expected = reference.normalize(pixels.float() / 255, photos.BIOSCAN1M_MEAN, photos.BIOSCAN1M_STD)
    found = normalize_on_device(pixels, photos.BIOSCAN1M_MEAN, photos.BIOSCAN1M_STD)
    assert torch.allclose(found, expected, atol=1e-5)
    buffer = torch.full(pixels.shape, torch.nan)
    for layout in (torch.contiguous_format, torch.channels_last):  # of the photos, and of the result without a buffer
        given = pixels.contiguous(memory_format=layout)
        for out in (None, buffer, buffer.contiguous(memory_format=torch.channels_last)):
            found = normalize_on_device(given, photos.BIOSCAN1M_MEAN, photos.BIOSCAN1M_STD, out=out)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            assert out is None or found is out
    half = normalize_on_device(pixels, photos.BIOSCAN1M_MEAN, photos.BIOSCAN1M_STD, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), expected, atol=0.1)


def test_rotation_is_that_of_torchvision():
    """Nearest pixel, corners 0; not square, so that mixing up the sides would show. Pixels on an edge may differ."""
    picture_ = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([-44.3, -10.1, 0.0, 30.7])
    turned = rotate_by(picture_.expand(4, -1, -1, -1), angles)
    for angle, found in zip(angles.tolist(), turned, strict=True):
        expected = reference.rotate(picture_, angle, reference.InterpolationMode.NEAREST)
        assert (found == expected).float().mean() > 0.998
    assert torch.equal(turned[2], picture_) and turned[0, :, 0, 0].eq(0).all()
    # Of bytes, in either layout, the same pixels, and corners of the colour asked for.
    whole = (picture_ * 255).to(torch.uint8).expand(4, -1, -1, -1)
    for layout in (torch.contiguous_format, torch.channels_last):
        bytes_ = rotate_by(whole.contiguous(memory_format=layout), angles, fill=[0.6, 2, 3.4])
        assert bytes_.dtype == torch.uint8 and bytes_[0, :, 0, 0].tolist() == [1, 2, 3]
        inside = turned.ne(0).all(1, keepdim=True).expand_as(turned)
        assert torch.equal(bytes_[inside], (turned * 255).to(torch.uint8)[inside]) and inside.float().mean() > 0.6


def test_a_gpu_would_rotate_the_same_way(monkeypatch):
    """The way of other devices, for several photos at once, on the CPU."""
    given, angles = torch.randint(0, 256, (5, 3, 30, 20), dtype=torch.uint8), torch.tensor([3.0, -44, 17, 90, 0])
    one = rotate_by(given, angles)
    monkeypatch.setattr(photos, "_photos_at_once", lambda device: 2)
    assert torch.equal(rotate_by(given, angles), one)


def test_random_angles_stay_in_range():
    """A white picture turned by at most 1 degree keeps its middle row; by up to 45 it loses corners."""
    white = torch.ones(64, 3, 21, 21)
    turns = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert photos.rotate_by(white, turns)[:, :, 10].eq(1).all()
    corners = photos.rotate_by(white, 45 * turns)[:, 0, 0, 0]
    assert 0.7 < corners.eq(0).float().mean() < 1
