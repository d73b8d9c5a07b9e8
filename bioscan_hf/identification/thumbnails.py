"""Small photos for a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..clustering.map import thumbnail
from .photos import loaded_photo, part_of

#: Most bytes of the photos of a page, as base64: about 3,000 photos.
MOST_BYTES = 8_000_000

_AT_ONCE = 64


def thumbnails(photos: Any, ids: Sequence[str]) -> list[str | None]:
    """JPEGs in base64 of the first photos, as many as `MOST_BYTES` hold; None where there is none.

    Args:
        photos: As of `photos.Specimens`.
        ids: Name of each photo (n,).
    """
    found: list[str | None] = []
    size = 0
    for start in range(0, len(ids), _AT_ONCE):
        for photo, name in zip(part_of(photos, start, _AT_ONCE), ids[start : start + _AT_ONCE], strict=True):
            found.append(_small(loaded_photo(photo), name))
            size += len(found[-1] or "")
            if size > MOST_BYTES:
                return found[:-1]
    return found


def _small(photo: Any, name: str) -> str | None:
    if isinstance(photo, str):
        return None
    if isinstance(photo, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "PNG")
        photo = buffer.getvalue()
    try:
        return thumbnail(photo, name)
    except ValueError:
        return None
