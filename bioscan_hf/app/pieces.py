"""Pieces of HTML. Every text that is not ours is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image, ImageOps, UnidentifiedImageError

#: Longer side of a photo on the page in pixels, and most pixels of one that is decoded.
SIDE, MOST_PIXELS = 320, 50_000_000


def text(value: object) -> str:
    """A value as text of a page."""
    return escape(str(value))


def plural(number: int, word: str) -> str:
    """ "1 specimen", "2,000 specimens"."""
    return f"{number:,} {word}{'' if number == 1 or word == 'species' else 's'}"


def note(message: str, kind: str = "note") -> str:
    """A paragraph. `kind` is "note" or "problem", which is also read aloud."""
    role = "alert" if kind == "problem" else "status"
    return f'<p class="bh-{kind}" role="{role}">{text(message)}</p>'


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """Numbers and what they are of."""
    inside = "".join(f"<div><b>{text(number)}</b><span>{text(what)}</span></div>" for number, what in numbers)
    return f'<div class="bh-tiles">{inside}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), caption: str = "") -> str:
    """A table. Cells are HTML; `numbers` are the places of columns of numbers."""
    kind = [' class="bh-number"' if place in numbers else "" for place in range(len(head))]
    top = "".join(f"<th scope=col{kind[i]}>{text(name)}</th>" for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{kind[i]}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    told = f"<caption>{text(caption)}</caption>" if caption else ""
    label = text(caption or head[0])
    return (
        f'<div class="bh-scroll" tabindex="0" role="region" aria-label="{label}"><table class="bh-table">{told}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def button(label: str, act: str, name: str, rank: str = "", more: str = "") -> str:
    """A button that tells the page to filter by a taxon or a country, or to open a record. `label` is HTML."""
    return (
        f'<button type="button" data-act="{text(act)}" data-rank="{text(rank)}" data-name="{text(name)}"{more}>'
        f"{label}</button>"
    )


def frame(page: str, title: str) -> str:
    """A page of ours inside the page. It runs in a sandbox of its own origin, and tells its height."""
    tell = (
        "<script>new ResizeObserver(() => parent.postMessage({bioscanHeight: document.documentElement.offsetHeight}, "
        '"*")).observe(document.documentElement)</script></body>'
    )
    inside = page.replace("</body>", tell, 1) if page.count("</body>") == 1 else page
    return (
        f'<iframe class="bh-frame" sandbox="allow-scripts" title="{text(title)}" srcdoc="{escape(inside)}"></iframe>'
    )


def photo(data: bytes, side: int = SIDE) -> str | None:
    """A small JPEG of a photo as a data URL; None if it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            image.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
