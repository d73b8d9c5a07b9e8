"""One photo: upright, whole and bounded, the same by every way of decoding."""

import io
import re

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

from bioscan_hf.models import photos
from bioscan_hf.models.photos import LARGEST_PIXELS, check_jpeg, decode_photo
from bioscan_hf.models.pixels import decode_batch, photo_pixels, with_pixels

DECODERS = ["simplejpeg", "pillow"]


def picture(width=320, height=260, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    return image if mode != "CMYK" else Image.merge(mode, [*image.split()[:3], image.split()[0]])  # with black


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 95, **options})
    return file.getvalue()


def turned(orientation, kind="JPEG", **options):
    """A photo whose stored pixels are those of `picture()`, with an EXIF orientation."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    picture().save(file, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def cut(data, share=0.5, end=b"\xff\xd9"):
    """The JPEG without the rest of its last scan."""
    start = data.rfind(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data[: start + int((len(data) - 2 - start) * share)] + end


def differ(one, other):
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright_by_every_way_of_decoding(kind, orientation):
    """decode_photo, decode_batch, photo_pixels of bytes and of an image, the datasets column, with_pixels."""
    data = turned(orientation, kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = Image.open(io.BytesIO(data))
    image.load()
    upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert upright.shape[:2] == ((260, 320) if orientation < 5 else (320, 260))
    for decoder in DECODERS:
        assert differ(decode_photo(data, decoder=decoder), upright) <= 4
    assert (
        differ(photo_pixels(data), upright) <= 4 and differ(photo_pixels(Image.open(io.BytesIO(data))), upright) <= 4
    )
    rows = Dataset.from_dict({"image": [{"bytes": data, "path": None}]}, features=Features({"image": ImageFeature()}))
    assert differ(rows[0]["image"].convert("RGB"), upright) <= 4
    assert differ(photo_pixels(rows[0]["image"]), upright) <= 4
    crop = decode_batch([upright.copy()])[0]
    for found in (
        decode_batch([data], decoder="pillow")[0],
        decode_batch([data])[0],
        with_pixels(rows)[0]["pixel_values"],
    ):
        assert differ(found, crop) <= 4


def test_an_orientation_in_xmp_counts_as_for_datasets():
    """Some programs write it there only."""
    xmp = b'http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = jpeg(picture())
    data = data[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + data[2:]
    assert [decode_photo(data, decoder=decoder).shape for decoder in DECODERS] == [(320, 260, 3)] * 2


KINDS = {
    "plain": {},
    "progressive": {"progressive": True},
    "small": {"quality": 30, "subsampling": 2},
    "restarts": {"restart_marker_rows": 1},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_half_scans_are_refused_and_trailing_bytes_ignored(kind, mode):
    """With an end mark, without, and with other bytes behind it."""
    data = jpeg(picture(mode=mode), **KINDS[kind])
    for more in (b"", bytes(100), bytes(100_000), b"\xff\xd8\xff\xe0 another", b"\xff\xff"):
        check_jpeg(data + more)
        assert (
            differ(decode_photo(data + more, decoder="pillow"), decode_photo(data + more, decoder="simplejpeg")) <= 4
        )
    for share in (0.0, 0.2, 0.5, 0.9):
        for end in (b"\xff\xd9", b"", b"\xff\xd9" + bytes(70), b"\xff"):
            half = cut(data, share, end)
            with pytest.raises(ValueError, match="cut off"):
                check_jpeg(half)
            for decoder in DECODERS:
                with pytest.raises(ValueError, match="^X.jpg cannot be decoded"):
                    decode_photo(half, "X.jpg", decoder)


@pytest.mark.parametrize("colour", [(128, 128, 128), (127, 127, 127), (200, 10, 10), (0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("kind", KINDS)
def test_photos_of_one_colour_are_whole(colour, kind):
    """Also grey ones, which look like a photo whose scan is missing."""
    data = jpeg(Image.new("RGB", (100, 70), colour), **KINDS[kind])
    check_jpeg(data)
    assert {int(differ(decode_photo(data, decoder=decoder), colour)) for decoder in DECODERS} <= {0, 1, 2}


def test_missing_scans_are_found():
    """A progressive photo with its first scan only is a valid but blurred JPEG."""
    data = jpeg(picture(), progressive=True)
    second = [match.start() for match in re.finditer(b"\xff\xda", data)][1]
    tables = data.rfind(b"\xff\xc4", 0, second)
    with pytest.raises(ValueError, match="a scan is missing"):
        check_jpeg(data[:tables] + b"\xff\xd9")
    for decoder in DECODERS:
        with pytest.raises(ValueError, match="a scan is missing"):
            decode_photo(data[:tables] + b"\xff\xd9", decoder=decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_photos_with_too_many_pixels_are_refused_by_both_decoders(decoder, monkeypatch):
    """By their header, before a pixel is decoded; JPEG and PNG."""
    assert LARGEST_PIXELS >= 61_000_000, "the largest cameras"
    monkeypatch.setattr(photos, "LARGEST_PIXELS", 320 * 260)
    png = io.BytesIO()
    picture(321, 260).save(png, "PNG")
    decode_photo(jpeg(picture()), decoder=decoder)
    for data in (jpeg(picture(321, 260)), jpeg(picture(260, 321)), png.getvalue()):
        with pytest.raises(ValueError, match="321 pixels|321 x 260 pixels; at most 83,200 are decoded"):
            decode_photo(data, decoder=decoder)
    with pytest.raises(ValueError, match="at most 83,200 are decoded"):
        check_jpeg(jpeg(picture(321, 260)))


def test_endless_headers_and_scans_are_refused():
    data = jpeg(picture())
    with pytest.raises(ValueError, match="more than 10,000 segments"):
        check_jpeg(data[:2] + b"\xff\xfe\x00\x02" * 10_001 + data[2:])
    scan = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(ValueError, match="more than 100 scans"):
        check_jpeg(data[:-2] + scan[:20] * 100 + b"\xff\xd9")


def test_sixteen_bits_are_read_alike():
    """As bytes and as an image, upright: the upper 8 bits."""
    deep = np.full((20, 10), 10_000, np.uint16)
    deep[:, :5] = 40_000
    for kind in ("PNG", "TIFF"):
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(deep).save(file, kind, exif=exif)
        for photo in (file.getvalue(), Image.open(io.BytesIO(file.getvalue()))):
            pixels = photo_pixels(photo)
            assert (
                pixels.shape == (10, 20, 3)
                and pixels[0, 0].tolist() == [156] * 3
                and pixels[-1, -1].tolist() == [39] * 3
            )


def test_other_formats_are_not_opened():
    """EPS would start a program."""
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", decoder="pillow")
