"""Bounding boxes and the crops that the published crop tools make from them.

A box is (x0, y0, x1, y1): left, top, right and bottom in pixels of the photo. It comes from a release's table of boxes
or from a detector. Sources: https://arxiv.org/abs/2307.10455, https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..models.photos import LARGEST_PIXELS

Box = tuple[float, float, float, float]
Corners = Sequence[float] | np.ndarray


class Style(NamedTuple):
    """How a box becomes a crop.

    Attributes:
        ratio: Factor by which the box grows about its centre.
        equal_extend: Whether both sides grow by the same length, that of the longer side.
        fix_ratio: Whether one side grows further, until the crop is 4:3.
        rotate: Whether a crop that is taller than wide is first rotated by 90 degrees counter-clockwise.
        padding: Colour (red, green, blue) outside the photo.
    """

    ratio: float
    equal_extend: bool
    fix_ratio: bool
    rotate: bool
    padding: tuple[int, int, int]


#: Defaults of BIOSCAN-1M's script, of the crop tool, and of its script for BIOSCAN-5M.
#: The scripts pad one more pixel on the right and at the bottom, which they then cut off.
STYLES = {
    "bioscan1m": Style(1.4, True, False, False, (240, 240, 240)),
    "croptool": Style(1.4, True, False, False, (234, 242, 245)),
    "bioscan5m": Style(1.4, True, True, True, (204, 218, 243)),
}


def find_style(name: str) -> Style:
    """The published style of that name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in STYLES:
        raise ValueError(f"Unknown style {name!r}: choose from {', '.join(STYLES)}.")
    return STYLES[name]


# ---- measures of a box ---------------------------------------------------------------------------------------------


def check_box(box: Corners) -> Box:
    """The box as four floats.

    Raises:
        ValueError: unless it is x0 < x1 and y0 < y1, all finite.
    """
    x0, y0, x1, y1 = map(float, box)
    if not (-math.inf < x0 < x1 < math.inf and -math.inf < y0 < y1 < math.inf):  # also false for NaN
        raise ValueError(f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty: x0 < x1 and y0 < y1 must hold.")
    return x0, y0, x1, y1


def scale_box(box: Corners, size: tuple[int, int]) -> np.ndarray:
    """Corners of a box in a photo of the given width and height.

    Args:
        box: x0, y0, x1, y1, and width and height of the photo in which the box was found.

    Raises:
        ValueError: if that photo has another shape than this one, by more than a pixel, or no size.
    """
    values = np.asarray(box, dtype=np.float64)
    width, height = values[4:]
    if width < 1 or height < 1:
        raise ValueError(f"The table gives its photo a size of {width:g} x {height:g} pixels.")
    if abs(size[0] * height - size[1] * width) > max(width, height):
        raise ValueError(
            f"The box is of a photo of {width:g} x {height:g} pixels, but this photo has {size[0]} x {size[1]}: it is "
            f"another photo, or was turned or cut."
        )
    return values[:4] * np.tile(size / values[4:], 2)


def area_fraction(box: Corners, size: tuple[int, int]) -> float:
    """Area of the box divided by that of the photo, to 4 decimals, as published.

    Args:
        size: Width and height of the photo.
    """
    x0, y0, x1, y1 = check_box(box)
    return round((x1 - x0) * (y1 - y0) / (size[0] * size[1]), 4)


def scale_factor(box: Corners) -> float:
    """Shorter side of the box divided by 256, to 4 decimals, as published.

    It describes the box itself; cropped_256 shows a region 1.4 times as large.
    """
    x0, y0, x1, y1 = check_box(box)
    return round(min(x1 - x0, y1 - y0) / 256, 4)


# ---- crops ---------------------------------------------------------------------------------------------------------


def _grow(box: Corners, width: float, height: float) -> tuple[float, float, float, float]:
    """The box, larger by `width` and `height` about its centre."""
    x0, y0, x1, y1 = box
    return x0 - width / 2, y0 - height / 2, x1 + width / 2, y1 + height / 2


def expand_box(box: Corners, ratio: float = 1.4, *, equal_extend: bool = True) -> tuple[int, int, int, int]:
    """The box, grown about its centre, in whole pixels, truncated towards zero. See `Style`."""
    x0, y0, x1, y1 = box = check_box(box)
    width, height = x1 - x0, y1 - y0
    if equal_extend:
        more_width = more_height = (ratio - 1) * max(width, height)
    else:
        more_width, more_height = width * ratio - width, height * ratio - height
    left, top, right, bottom = map(int, _grow(box, more_width, more_height))
    return left, top, right, bottom


def widen_box(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The smallest 4:3 box about the same centre that holds `box`, rounded to whole pixels."""
    x0, y0, x1, y1 = box
    more_width = max(0.0, (y1 - y0) / 3 * 4 - (x1 - x0))
    more_height = max(0.0, (x1 - x0) / 4 * 3 - (y1 - y0))
    left, top, right, bottom = map(round, _grow(box, more_width, more_height))
    return left, top, right, bottom


def crop(image: Image.Image, box: Corners, style: str | Style = "bioscan5m") -> Image.Image:
    """The region around a box, in RGB, padded where it exceeds the photo.

    Args:
        style: "bioscan1m", "croptool" or "bioscan5m" (see `STYLES`), or a `Style`.

    Raises:
        ValueError: for an unknown style, or a box that is empty or outside the photo.
    """
    style = find_style(style) if isinstance(style, str) else style
    x0, y0, x1, y1 = check_box(box)
    if x1 <= 0 or y1 <= 0 or x0 >= image.width or y0 >= image.height:
        raise ValueError(
            f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside the photo of {image.width} x {image.height}."
        )
    image = image.convert("RGB")
    left, top, right, bottom = expand_box(box, style.ratio, equal_extend=style.equal_extend)
    if style.fix_ratio:
        if style.rotate and bottom - top > right - left:
            left, top, right, bottom = top, image.width - right, bottom, image.width - left
            image = image.transpose(Image.Transpose.ROTATE_90)
        left, top, right, bottom = widen_box((left, top, right, bottom))
    _check_size(right - left, bottom - top)
    canvas = Image.new("RGB", (right - left, bottom - top), style.padding)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    canvas.paste(image.crop(inside), (inside[0] - left, inside[1] - top))
    return canvas


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_PIXELS:
        raise ValueError(f"The crop would have {width:,} x {height:,} pixels; at most {LARGEST_PIXELS:,} are written.")


def resize_shorter_side(image: Image.Image, size: int = 256) -> Image.Image:
    """The image with a shorter side of `size` pixels; the longer side is truncated."""
    shorter = min(image.size)
    if shorter == size:
        return image
    width, height = (int(size * side / shorter) for side in image.size)
    _check_size(width, height)
    return image.resize((width, height), Image.Resampling.BICUBIC)
