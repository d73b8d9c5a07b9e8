"""An interactive map of specimens, as an HTML page.

The page (map.html) is a canvas and JavaScript; it loads nothing and opens from disk. Names reach it as JSON and are
shown as text, so that no name can become part of the page.
Shape letter: N = specimens.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps, UnidentifiedImageError

from ..files import safe_json, write_text
from ..schema import LABEL_COLUMNS
from .agreement import check_labels
from .figures import colour_groups

#: Most specimens of a page, and most specimens of a page with photos.
MOST_SPECIMENS, MOST_PHOTOS = 50_000, 20_000

#: Longer side of a photo on the page in pixels, and its quality as JPEG: about 2 kB each.
THUMBNAIL, QUALITY = 80, 70

#: Coordinates are whole numbers from 0 to this one: finer than any screen.
GRID = 65_535


def write_map(
    path: str | Path,
    points: ArrayLike,
    processids: Sequence[str],
    labels: Mapping[str, Sequence[str | None]],
    clusters: ArrayLike | None = None,
    *,
    photos: Sequence[bytes | None] | None = None,
    title: str = "Map of specimens",
) -> str:
    """Writes the page, and returns its remark about photos, if any.

    Raises ValueError if there are no specimens or more than 50,000, the inputs have different lengths, a rank is
    unknown, points are not finite, or a photo cannot be decoded (its processid is named).

    Args:
        points: (N, 2), such as `figures.plane` returns them.
        labels: Rank, or "dna_bin", -> names (N,), None where unknown. Each can be chosen for the colours.
        clusters: Cluster of each specimen (N,), which can be chosen too.
        photos: Encoded photos (N,), None where there is none. Of more than 20,000 specimens they are left out.
    """
    rows, places = len(processids), np.asarray(points, np.float64)
    if not 0 < rows <= MOST_SPECIMENS:
        raise ValueError(f"A page has 1 to {MOST_SPECIMENS:,} specimens, not {rows:,}. Choose some of them first.")
    if not labels:
        raise ValueError(f"There are no labels. Give some of {', '.join(LABEL_COLUMNS)}.")
    if places.shape != (rows, 2) or not np.isfinite(places).all():
        raise ValueError(f"points must be finite, and (N, 2) of {rows} specimens; got {places.shape}.")
    check_labels(labels, rows, photos=rows if photos is None else len(photos))
    columns = {rank: labels[rank] for rank in LABEL_COLUMNS if rank in labels}
    if clusters is not None:
        columns |= {"cluster": [str(cluster) for cluster in np.asarray(clusters).tolist()]}
        check_labels({}, rows, clusters=len(columns["cluster"]))
    low, span = places.min(axis=0), float(np.ptp(places, axis=0).max()) or 1.0
    whole = np.rint((places - low) / span * GRID).astype(int)
    thumbnails, note = _thumbnails(photos, processids)
    data = {
        "x": whole[:, 0].tolist(),
        "y": (GRID - whole[:, 1]).tolist(),  # upwards, as in the figure
        "processids": list(processids),
        "columns": [_column(name, values) for name, values in columns.items()],
        "photos": thumbnails,
    }
    about = f"{rows:,} specimens. {note}".rstrip()
    page = resources.files(__package__).joinpath("map.html").read_text(encoding="utf-8")
    page = page.replace("$TITLE", html.escape(title).replace("$", "&#36;")).replace("$ABOUT", html.escape(about))
    write_text(path, page.replace("$DATA", safe_json(data)))
    return note


def _thumbnails(
    photos: Sequence[bytes | None] | None, processids: Sequence[str]
) -> tuple[list[str | None] | None, str]:
    """Small photos in base64 (None if left out), and a remark."""
    if photos is None:
        return None, "Photos are not included."
    if len(processids) > MOST_PHOTOS:
        return None, f"Photos are left out: a page has photos of at most {MOST_PHOTOS:,} specimens."
    pairs = zip(photos, processids, strict=True)
    found = [None if photo is None else thumbnail(photo, processid) for photo, processid in pairs]
    without = sum(photo is None for photo in found)
    return found, f"Without a photo: {without:,}." if without else ""


def thumbnail(photo: bytes, processid: str) -> str:
    """A small JPEG of a photo, in base64, or ValueError."""
    try:
        with Image.open(io.BytesIO(photo)) as image:
            image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # a JPEG is decoded at a fraction of its size
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"The photo of {processid} cannot be decoded ({error}).") from error
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _column(name: str, values: Sequence[str | None]) -> dict[str, Any]:
    """A choice of colours: names, name of each specimen, and legend."""
    names = sorted({value for value in values if value is not None})
    place: dict[str | None, int] = {value: i for i, value in enumerate(names)} | {None: -1}
    groups = colour_groups(values, name)
    return {
        "title": "BIN" if name == "dna_bin" else name,
        "names": names,
        "of": [place[value] for value in values],
        "groups": groups.of.tolist(),
        "legend": [list(row) for row in zip(groups.names, groups.colours, groups.counts, strict=True)],
    }
