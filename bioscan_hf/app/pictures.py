"""Pictures of a collection as HTML and SVG: tree map, sites, barcode gap, photos, and a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..plots.sites import coastline, extent_of, merged
from ..plots.style import colour, order_colour
from ..plots.tree_map import boxes_of, gathered
from ..schema import LABEL_COLUMNS
from .collection import Overview, Row
from .gap import Gap, Neighbour
from .pieces import button, note, photo, plural, table, text

#: Taxa with less than these shares of a tree map are gathered.
LEAST_UPPER, LEAST_LOWER = 0.008, 0.004

#: Share of the colour of a box; the rest is white, so that black text can be read on it.
_SHADE = 0.42

_PLURALS = {"class": "classes", "family": "families", "genus": "genera", "species": "species", "dna_bin": "BINs"}

_GAP_CAPTION = "Species with the narrowest gap, or none"

#: Countries beside the map.
MOST_COUNTRIES = 12


def plural_of(rank: str) -> str:
    """The word for several taxa of a rank."""
    return _PLURALS.get(rank, f"{rank}s")


def word_of(rank: str) -> str:
    return "BIN" if rank == "dna_bin" else rank


def tinted(shade: str, share: float = _SHADE) -> str:
    """A colour mixed with white."""
    parts = (int(shade[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


# ---- tree map ------------------------------------------------------------------------------------------------------


def tree_map(overview: Overview) -> str:
    """Specimens as areas: a box for each taxon, with boxes of the taxa in it. A box is a button that filters by it."""
    upper, lower = overview.ranks
    groups: dict[str, dict[str, int]] = {}
    for one, two, count in overview.taxa:
        inside = groups.setdefault(one or f"{word_of(upper)} unknown", {})
        name = two or f"{word_of(lower)} unknown"
        inside[name] = inside.get(name, 0) + count
    totals = {name: sum(inside.values()) for name, inside in groups.items()}
    shown = gathered(totals, LEAST_UPPER * overview.rows, plural_of(upper))
    boxes = []
    for place, (name, (left, top, width, height)) in enumerate(boxes_of(shown, (0, 0, 100, 100))):
        shade = order_colour(name) if upper == "order" else colour(place)
        inside = groups.get(name, {})
        lowers = gathered(inside, LEAST_LOWER * overview.rows, plural_of(lower)) if inside else {}
        parts = "".join(
            _box(lower, other, number, area, tinted(shade, _SHADE - 0.05 * (i % 3)), other in inside)
            for i, (other, area) in enumerate(boxes_of(lowers, (0, 0, 100, 100)))
            for number in (lowers[other],)
        )
        where = f"left:{left:.2f}%;top:{top:.2f}%;width:{width:.2f}%;height:{height:.2f}%"
        label = f"<b>{text(name)}</b> {shown[name]:,}"
        known = name in groups and not name.endswith(" unknown")
        title = f'class="bh-head" title="{text(name)}: {plural(shown[name], "specimen")}"'
        head = button(label, "taxon", name, upper, f" {title}") if known else f"<p {title}>{label}</p>"
        boxes.append(
            f'<div class="bh-group" style="{where};background:{tinted(shade)}">{head}<div>{parts}</div></div>'
        )
    words = f"Boxes of {plural_of(upper)} with their {plural_of(lower)}; areas are numbers of specimens."
    return f'<div class="bh-map" role="group" aria-label="{words}">{"".join(boxes)}</div>{note(words)}'


def _box(rank: str, name: str, count: int, area: tuple[float, float, float, float], shade: str, known: bool) -> str:
    left, top, width, height = area
    style = f"left:{left:.2f}%;top:{top:.2f}%;width:{width:.2f}%;height:{height:.2f}%;background:{shade}"
    title = f"{name}: {plural(count, 'specimen')}"
    if known and not name.endswith(" unknown"):
        more = f' class="bh-box" style="{style}" title="{text(title)}"'
        return button(f"{text(name)} <small>{count:,}</small>", "taxon", name, rank, more)
    return f'<p class="bh-box" style="{style}" title="{text(title)}">{text(name)} <small>{count:,}</small></p>'


# ---- sites ---------------------------------------------------------------------------------------------------------


def sites(overview: Overview) -> str:
    """Map of the places, and the countries with most specimens as buttons."""
    if not overview.places:
        return note("These specimens have no coordinates.") + _countries(overview)
    places = np.array([(east, north) for north, east, _ in overview.places])
    extent = extent_of(places)
    width = extent.east - extent.west
    east, north, counts = merged(places, np.array([count for *_, count in overview.places]), width / 240)
    land = []
    for ring in coastline():
        if ring[:, 0].max() >= extent.west and ring[:, 0].min() <= extent.east:
            land.append("M" + "L".join(f"{x:.1f} {-y:.1f}" for x, y in ring.tolist()) + "Z")
    dots = "".join(
        f'<circle cx="{x:.2f}" cy="{-y:.2f}" r="{width * (0.003 + 0.011 * (n / counts.max()) ** 0.5):.3f}">'
        f"<title>{plural(int(n), 'specimen')}</title></circle>"
        for x, y, n in zip(east.tolist(), north.tolist(), counts.tolist(), strict=True)
    )
    told = f"{plural(len(overview.places), 'place')}; the largest dot is {plural(int(counts.max()), 'specimen')}."
    box = f"{extent.west:.2f} {-extent.north:.2f} {width:.2f} {extent.north - extent.south:.2f}"
    picture = (
        f'<svg class="bh-sites" viewBox="{box}" role="img" aria-label="Map: {told}"><path d="{"".join(land)}" '
        f'stroke-width="{width / 900:.3f}"/><g stroke-width="{width / 900:.3f}">{dots}</g></svg>'
    )
    return picture + note(f"{told} Coastline: Natural Earth.") + _countries(overview)


def _countries(overview: Overview) -> str:
    rows = [
        (button(text(name), "country", name, "", ' class="bh-link"') if name else "unknown", f"{count:,}")
        for name, count in overview.countries[:MOST_COUNTRIES]
    ]
    more = len(overview.countries) - MOST_COUNTRIES
    after = note(f"{more} more countries are in the filter.") if more > 0 else ""
    return table(("Country", "Specimens"), rows, (1,)) + after if rows else ""


# ---- photos and records --------------------------------------------------------------------------------------------


def gallery(sample: Sequence[str], photos: Mapping[str, bytes], names: Mapping[str, str]) -> str:
    """Photos of specimens; each is a button that opens the record."""
    figures = []
    for processid in sample:
        url = photo(photos[processid]) if processid in photos else None
        inside = f'<img src="{url}" alt="">' if url else '<span class="bh-none">no photo</span>'
        caption = f"<b>{text(names.get(processid) or 'no name')}</b><small>{text(processid)}</small>"
        figures.append(button(inside + caption, "record", processid, "", ' class="bh-photo"'))
    told = note(
        "" if photos else "This collection has no photos on this machine; the specimens are those of a sample."
    )
    return f'{told if not photos else ""}<div class="bh-photos">{"".join(figures)}</div>'


def record(row: Row, data: bytes | None, nearest: Sequence[Neighbour], among: str) -> str:
    """The page of a specimen: photo, names, place, barcode and nearest neighbours."""
    url = photo(data, 640) if data else None
    picture = f'<img src="{url}" alt="Photo of {text(row["processid"])}">' if url else ""
    facts = [
        (word_of(rank), button(text(row[rank]), "taxon", row[rank], rank, ' class="bh-link"'))
        for rank in LABEL_COLUMNS
        if row[rank] is not None
    ]
    for name, what in (("country", "country"), ("province_state", "province"), ("split", "split")):
        if row[name] is not None:
            facts.append((what, text(row[name])))
    if row["coord-lat"] is not None and row["coord-lon"] is not None:
        facts.append(("coordinates", f"{row['coord-lat']:.3f}, {row['coord-lon']:.3f}"))
    if row["image_measurement_value"] is not None:
        facts.append(("size", f"{row['image_measurement_value']:,.0f} pixels of the photo"))
    names = "".join(f"<dt>{text(what)}</dt><dd>{value}</dd>" for what, value in facts)
    head = f'<h3 class="bh-h3">{text(row["processid"])}</h3><div class="bh-record">{picture}<dl>{names}</dl></div>'
    return head + _barcode(row["dna_barcode"]) + _nearest(nearest, among)


def _barcode(letters: str | None) -> str:
    if not letters:
        return note("It has no barcode.")
    spans, start = [], 0
    for end in range(1, len(letters) + 1):
        if end == len(letters) or letters[end] != letters[start]:
            kind = letters[start] if letters[start] in "ACGT" else "N"
            spans.append(f"<i class={kind}>{text(letters[start:end])}</i>")
            start = end
    return f'<h4 class="bh-h4">Barcode, {len(letters):,} letters</h4><div class="bh-barcode">{"".join(spans)}</div>'


def _nearest(nearest: Sequence[Neighbour], among: str) -> str:
    if not nearest:
        return note("There is nothing to compare its barcode with.")
    rows = [
        (
            button(text(one.processid), "record", one.processid, "", ' class="bh-link"'),
            text(one.name or "no name"),
            text(one.bin or ""),
            f"{one.identity:.1%}",
        )
        for one in nearest
    ]
    return f'<h4 class="bh-h4">Nearest barcodes</h4>{note(among)}' + table(
        ("Specimen", "Name", "BIN", "Identity"), rows, (3,)
    )


# ---- barcode gap ---------------------------------------------------------------------------------------------------


def barcode_gap(found: Gap) -> str:
    """A dot for each species: its farthest own barcode, and the nearest barcode of another species."""
    if len(found.species) < 2:
        return note("A barcode gap needs two species or more with two barcodes each. Choose a larger taxon.")
    most = max(0.01, *found.within, *found.between) * 1.05
    side, left, top = 300, 44, 24

    def place(x: float, y: float) -> tuple[float, float]:
        return left + side * x / most, top + side * (1 - y / most)

    dots = ""
    for name, x, y in zip(found.species, found.within, found.between, strict=True):
        across, down = place(x, y)
        kind = "bh-gap" if y > x else "bh-nogap"
        dots += f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="4"><title>{text(name)}</title></circle>'
    ticks = ""
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1) if most / step <= 6)
    for i in range(int(most / step) + 1):
        (across, down), told = place(i * step, i * step), f"{100 * i * step:g}%"
        ticks += f'<text x="{across:.1f}" y="{top + side + 16}" text-anchor="middle">{told}</text>'
        ticks += f'<text x="{left - 6}" y="{down + 4:.1f}" text-anchor="end">{told}</text>'
    with_gap = sum(y > x for x, y in zip(found.within, found.between, strict=True))
    words = (
        f"{with_gap} of {len(found.species)} species have a gap: the nearest barcode of another species is farther "
        f"than the farthest of their own. Compared are {found.barcodes} barcodes of a sample, each with each."
    )
    rows = [
        (f"<i>{text(name)}</i>", f"{x:.1%}", f"{y:.1%}", f"<i>{text(other)}</i>")
        for name, x, y, other in found.rows()[:10]
    ]
    head = ("Species", "Farthest own", "Nearest other", "Which species")
    return (
        f'{note(words)}<svg class="bh-plot" viewBox="0 0 {left + side + 16} {top + side + 40}" role="img" '
        f'aria-label="{text(words)}"><path d="M{left} {top}V{top + side}H{left + side}" class="bh-axis"/>'
        f'<path d="M{left} {top + side}L{left + side} {top}" class="bh-diagonal"/>{ticks}{dots}'
        f'<text x="{left + side / 2}" y="{top + side + 34}" text-anchor="middle">farthest of the species</text>'
        f'<text x="{left - 8}" y="{top - 10}">nearest of another species</text></svg>'
        + table(head, rows, (1, 2), _GAP_CAPTION)
    )
