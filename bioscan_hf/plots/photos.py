"""Figures of photos."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image, ImageOps

from .style import shortened

_CELL, _CAPTION, _FONT = 1.7, 0.35, 7.0  # inches, inches, points


def photo_grid(photos: Sequence[tuple[bytes, str]], columns: int = 6) -> Figure:
    """Photos (image file, caption) in rows, with their captions below.

    A caption has at most two lines, which are cut to the width of a photo.
    """
    if not photos:
        raise ValueError("A grid of photos needs at least one photo.")
    rows = -(-len(photos) // columns)
    width, height = _CELL * columns, (_CELL + _CAPTION) * rows
    figure = Figure(figsize=(width, height))
    for i, (data, caption) in enumerate(photos):
        row, column = divmod(i, columns)
        left, top = _CELL * column + 0.06, (_CELL + _CAPTION) * row + 0.06
        side = _CELL - 0.12
        axes = figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
        axes.imshow(square(data, 200))
        lines = [shortened(line, 72 * side, _FONT) for line in caption.splitlines()[:2]]
        axes.set_title("\n".join(lines), fontsize=_FONT, y=-0.03, va="top", pad=0, parse_math=False)
        axes.set_axis_off()
    return figure


def square(data: bytes, side: int) -> Image.Image:
    """The middle of a photo, as a square of so many pixels."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return ImageOps.fit(image, (side, side))
