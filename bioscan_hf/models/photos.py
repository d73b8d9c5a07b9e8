"""Decoding of one photo: the same pixels, the same orientation and the same refusals by every decoder.

A photo is upright: its EXIF orientation is applied, as in the `datasets` Image column. A JPEG that ends inside a scan
is refused, with an end mark or without; bytes after the end mark are ignored.
"""

from __future__ import annotations

import importlib.util
import io
import re
import struct
from typing import Literal

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError

#: Most pixels of a photo; cameras have up to 61 million. Decoding takes up to 7 bytes a pixel.
LARGEST_PIXELS = 2**26

#: Most segments and scans of a JPEG; a scan decodes all pixels again.
_MOST_SEGMENTS, _MOST_SCANS = 10_000, 100

#: Formats that are decoded. Others of Pillow start programs (EPS) or are drawings.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")

#: Errors of Pillow for a damaged photo.
_UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError, ZeroDivisionError),
    *(struct.error, MemoryError, PILImage.DecompressionBombError),
)

_ORIENTATION = 0x0112  # the EXIF tag

#: A marker, and not a stuffed zero, restart mark or fill byte of a scan.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

_STRIP = 1024  # rows

#: Bytes of a scan that decode to anything but grey.
_FILLER = bytes(i * 37 % 255 for i in range(512))

Decoder = Literal["simplejpeg", "pillow"]


def default_decoder() -> Decoder:
    """ "simplejpeg" where it is installed (`pip install "bioscan_hf[fast]"`), otherwise "pillow"."""
    return "simplejpeg" if importlib.util.find_spec("simplejpeg") else "pillow"


def decode_photo(data: bytes, name: str = "The photo", decoder: Decoder | None = None) -> np.ndarray:
    """Pixels of one photo, upright: uint8 (H, W, 3), RGB whatever its own colours (grey, CMYK, palette).

    simplejpeg and Pillow use the same library: they differ by at most a few levels of 255. What simplejpeg refuses
    goes to Pillow, so that both decode and refuse the same photos. Of 16 bits a colour, as PNG and TIFF may have them,
    the upper 8 count.

    Raises:
        ValueError: if the photo is cut off, damaged, not a picture, larger than `LARGEST_PIXELS`, or of pixels without
            a known range (32 bits, floats); `name` is in the message.
    """
    try:
        whole = _Jpeg(data) if is_jpeg(data) else None
        if whole is not None and (decoder or default_decoder()) == "simplejpeg":
            import simplejpeg

            try:
                return _turn(simplejpeg.decode_jpeg(data, "RGB"), _orientation(data, whole.header))
            except ValueError:
                pass
        if whole is not None:
            whole.check_scans()
        with _opened(data) as image:
            _check_size(*image.size)
            image.load()
            return rgb(image)
    except _UNREADABLE as error:
        raise ValueError(f"{name} cannot be decoded ({error}; {len(data)} bytes).") from error


def _opened(data: bytes) -> PILImage.Image:
    """The picture, not yet decoded; its errors do not hold an address in memory, as those of Pillow do."""
    try:
        return PILImage.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(FORMATS)}" if data else "it is empty") from None


def rgb(image: PILImage.Image) -> np.ndarray:
    """Pixels of a Pillow image, upright: uint8 (H, W, 3); of 16 bits a pixel, the upper 8.

    Raises:
        ValueError: for pixels without a known range (32 bits, floats).
    """
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if image.mode in ("I", "F") and not deep:
        raise ValueError(f"its mode is {image.mode!r}, whose range is unknown: scale it to 0..255 first")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if deep:
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow would cut all above 255 off
        return np.repeat(grey[:, :, None], 3, axis=2)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):  # Pillow copies what it converts
        part = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        pixels[top : top + _STRIP] = np.asarray(part.convert("RGB"))
    return pixels


def is_jpeg(data: bytes) -> bool:
    """Whether the data begin like a JPEG."""
    return data.startswith(b"\xff\xd8")


def check_jpeg(data: bytes) -> None:
    """Checks that a JPEG can be decoded by every decoder, and is whole, in about half the time of decoding.

    Raises:
        ValueError: if it is damaged, cut off, or larger than `LARGEST_PIXELS`.
    """
    try:
        whole = _Jpeg(data)
        _orientation(data, whole.header)
        if default_decoder() == "simplejpeg":
            import simplejpeg

            try:  # strict: a scan that ends early is an error
                simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8)
                return
            except ValueError:
                pass
        whole.check_scans()
    except _UNREADABLE as error:
        raise ValueError(str(error)) from error


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_PIXELS:
        raise ValueError(f"it has {width:,} x {height:,} pixels; at most {LARGEST_PIXELS:,} are decoded")


def _orientation(data: bytes, header: int) -> int:
    """EXIF orientation of a JPEG, 1 to 8, read by Pillow as `datasets` does; `header` are bytes before the scans."""
    if data.find(b"Exif\0\0", 0, header) < 0 and data.find(b"tiff:Orientation", 0, header) < 0:
        return 1
    with PILImage.open(io.BytesIO(data), formats=FORMATS) as image:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright pixels (H, W, 3) of a photo with that EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


class _Jpeg:
    """Segments of a JPEG up to its end mark. Format: https://www.w3.org/Graphics/JPEG/itu-t81.pdf.

    Raises:
        ValueError: without an end mark, with too many pixels, segments or scans, or with a scan missing.
    """

    def __init__(self, data: bytes):
        self.data = data
        self._missing: dict[int, list[int]] = {}  # component -> lowest bit that is sent of each of its coefficients
        self._sequential, self._scans, self._last_scan = True, 0, 0
        self.header = 0  # bytes before the first scan
        at = 2
        for _ in range(_MOST_SEGMENTS):
            match = _MARKER.search(data, at)
            if match is None or match.end() + 2 > len(data) and match[0] != b"\xff\xd9":
                raise ValueError("cut off before its end mark")
            kind, at = match[0][1], match.end()
            if kind == 0xD9:
                break
            length = int.from_bytes(data[at : at + 2], "big")
            self._read(kind, data[at + 2 : at + length])
            at += length
            if kind == 0xDA:
                self.header = self.header or at
                self._last_scan = at
        else:
            raise ValueError(f"it has more than {_MOST_SEGMENTS:,} segments")
        self.end = at - 2
        if any(any(bits) for bits in self._missing.values()) or not self._scans:
            raise ValueError("a scan is missing: has it been cut off?")

    def _read(self, kind: int, segment: bytes) -> None:
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # a frame
            height, width, components = struct.unpack_from(">HHB", segment, 1)
            _check_size(width, height)
            self._sequential = kind in (0xC0, 0xC1)
            self._missing = {segment[6 + 3 * i]: [99] * 64 for i in range(components)}
        elif kind == 0xDA:  # a scan
            count = segment[0]
            first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
            for i in range(count):
                sent = self._missing.get(segment[1 + 2 * i], [])
                sent[first : last + 1] = [bits & 15] * len(sent[first : last + 1])
            self._scans += 1
            if self._scans > _MOST_SCANS:
                raise ValueError(f"it has more than {_MOST_SCANS} scans")

    def check_scans(self) -> None:
        """Raises ValueError if the last scan ends early.

        What is missing of a scan becomes grey without an error. So if the last pixel is grey, the photo is decoded
        again with more bytes at the end of the scan, which change nothing if the scan is whole.
        """
        one_pass = self._sequential and self._scans == 1
        before = self._pixels(b"", one_pass)
        if one_pass and not np.isin(before[-1, -1], (127, 128)).all():
            return
        restart = 0xD0 + len(_RESTART.findall(self.data, self._last_scan, self.end)) % 8
        if not np.array_equal(before, self._pixels(_FILLER + bytes((0xFF, restart)) + _FILLER, one_pass)):
            raise ValueError("cut off inside a scan: its last part is missing")

    def _pixels(self, filler: bytes, small: bool) -> np.ndarray:
        """The photo, with more bytes at the end of its last scan; an eighth of its size if `small`."""
        data = self.data[: self.end] + filler + b"\xff\xd9"
        with PILImage.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if small:
                image.draft(None, (1, 1))
            return np.asarray(image)
