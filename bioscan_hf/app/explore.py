"""The tab of the collection: filters, and what they leave as pictures and records."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..schema import LABEL_COLUMNS
from . import pictures
from .collection import CANDIDATES, Collection, Filter
from .gap import barcode_gap, deepest, nearest
from .pieces import note, plural, tiles
from .style import CLICKS, plain_html
from .words import told

ANY = "any"

_LONGEST_NAME = 200


def wanted(
    collection: Collection,
    rank: str | None,
    name: str | None,
    country: str | None,
    province: str | None,
    split: str | None,
    smallest: str | None,
    largest: str | None,
) -> Filter:
    """The filter of what a visitor chose.

    Raises:
        ValueError: for a taxon that is not in the collection, and a size that is not a number.
    """
    where: dict[str, Any] = {
        "country": _chosen(country),
        "province": _chosen(province),
        "split": _chosen(split),
        "smallest": _size(smallest),
        "largest": _size(largest),
    }
    typed = " ".join((name or "").split())[:_LONGEST_NAME]
    if typed:
        found = collection.named(typed)
        if rank in LABEL_COLUMNS:
            found = [pair for pair in found if pair[0] == rank]
        if not found:
            of = f" at the rank {pictures.word_of(str(rank))}" if rank in LABEL_COLUMNS else ""
            raise ValueError(f"No specimen has the name {typed!r}{of}. Check its spelling, or clear the filter.")
        where |= dict(zip(("rank", "name"), found[0], strict=True))
    return Filter(**where)


def _chosen(value: str | None) -> str | None:
    return None if value in (None, "", ANY) else value


def _size(typed: str | None) -> float | None:
    text = (typed or "").strip().replace(",", "")[:_LONGEST_NAME]
    if text and not text.isdecimal():
        raise ValueError(f"The size {text!r} is not a number of pixels. Give one such as 5000, or nothing.")
    return float(text) if text else None


def summary(collection: Collection, where: Filter) -> str:
    """Numbers of what the filter leaves."""
    found = collection.overview(where)
    if not found.rows:
        return note("No specimen is left. Clear a filter.", "problem")
    share = f"{found.rows / collection.rows:.1%} of the collection" if found.rows < collection.rows else "specimens"
    numbers = [(f"{found.rows:,}", share), (f"{found.species:,}", "species names"), (f"{found.bins:,}", "BINs")]
    if "country" in collection.columns:
        countries = sum(name is not None for name, _ in found.countries)
        numbers.append((f"{countries:,}", "country" if countries == 1 else "countries"))
    only = f"Only {pictures.word_of(where.rank)} {where.name}." if where.rank and where.name else ""
    return tiles(numbers) + (note(only) if only else "")


def shown(collection: Collection, where: Filter) -> tuple[str, str, str]:
    """Numbers, tree map and sites."""
    found = collection.overview(where)
    numbers = summary(collection, where)
    return (numbers, pictures.tree_map(found), pictures.sites(found)) if found.rows else (numbers, "", "")


def gallery(collection: Collection, where: Filter) -> str:
    """Photos of a sample."""
    sample = collection.sample(where)
    names = {name: deepest(row) or "" for name, row in collection.labels(sample).items()}
    return pictures.gallery(sample, collection.photos(sample), names)


def record(collection: Collection, processid: str) -> str:
    """The page of a specimen, or words where there is none."""
    name = processid.strip()[:_LONGEST_NAME]
    if not name:
        return note("Type the id of a specimen, or choose a photo.")
    row = collection.record(name)
    if row is None:
        return note(f"No specimen has the id {name!r}.", "problem")
    rank, others = collection.relatives(row) if row["dna_barcode"] else (None, [])
    among = f"Compared with {plural(len(others), 'specimen')} of the same {rank}."
    if len(others) == CANDIDATES:
        among = f"Compared with {CANDIDATES} specimens of the same {rank}, which has more."
    return pictures.record(row, collection.photos([name]).get(name), nearest(row, others), among)


def gap(collection: Collection, where: Filter) -> str:
    """The barcode gap of a sample."""
    return pictures.barcode_gap(barcode_gap(collection.gap_sample(where)))


class Explorer:
    """What happens when a visitor changes a filter or clicks in a picture."""

    def __init__(self, collection: Collection):
        self.collection = collection

    def update(self, *chosen: Any) -> list[Any]:
        """Numbers, tree map and sites; photos and gap are of the last filter, so they are emptied."""
        return [*shown(self.collection, wanted(self.collection, *chosen)), "", ""]

    def photos(self, *chosen: Any) -> list[Any]:
        return [gallery(self.collection, wanted(self.collection, *chosen))]

    def gap(self, *chosen: Any) -> list[Any]:
        return [gap(self.collection, wanted(self.collection, *chosen))]

    def record(self, processid: str) -> list[Any]:
        return [record(self.collection, processid)]

    def provinces(self, country: str | None) -> Any:
        """The provinces of a country."""
        names = self.collection.choices("province_state", Filter(country=_chosen(country)))
        return gr.Dropdown([ANY, *names], value=ANY)

    def cleared(self) -> list[Any]:
        """Filters that leave everything."""
        return [ANY, "", ANY, self.provinces(None), ANY, "", ""]

    def act(self, evt: gr.EventData, *chosen: Any) -> list[Any]:
        """A click in a picture: a taxon or a country becomes the filter, or a record opens."""
        what, named, at = (str(getattr(evt, key, "") or "")[:_LONGEST_NAME] for key in ("act", "name", "rank"))
        if what == "record":
            return [*[gr.skip()] * 9, named, *self.record(named), gr.Tabs(selected="record")]
        values = list(chosen)
        if what == "taxon" and at in LABEL_COLUMNS:
            values[0], values[1] = at, named
        elif what == "country":
            values[2], values[3] = named, ANY
        return [*values[:4], *self.update(*values), gr.skip(), gr.skip(), gr.skip()]


def explore_tab(collection: Collection) -> None:
    """Builds the tab."""
    explorer = Explorer(collection)
    filters, show, clear = _filters(collection)
    begin = shown(collection, Filter())
    numbers = plain_html(begin[0])
    with gr.Tabs() as views:
        with gr.Tab("Taxa"):
            taxa = plain_html(begin[1], js_on_load=CLICKS)
        with gr.Tab("Sites"):
            places = plain_html(begin[2], js_on_load=CLICKS)
        with gr.Tab("Photos") as photo_tab:
            photos = plain_html("", js_on_load=CLICKS)
        with gr.Tab("Gap"):
            compare = gr.Button("Compare the barcodes of these specimens", scale=0, min_width=330)
            gaps = plain_html("")
        with gr.Tab("Record", id="record"):
            with gr.Row():
                which = gr.Textbox(label="Id of a specimen", max_lines=1, max_length=_LONGEST_NAME)
                look = gr.Button("Open", scale=0, min_width=110, elem_classes="bh-end")
            page = plain_html(note("Type the id of a specimen, or choose a photo."), js_on_load=CLICKS)
    pictured = [numbers, taxa, places, photos, gaps]
    update, show_photos = told(explorer.update, len(pictured)), told(explorer.photos, 1)

    def updated(event: Any) -> None:
        event.then(update, filters, pictured).then(show_photos, filters, [photos])

    show.click(update, filters, pictured, api_name="explore").then(show_photos, filters, [photos])
    rank, name, country, province, split, smallest, largest = filters
    for typed in (name, smallest, largest):
        typed.submit(update, filters, pictured).then(show_photos, filters, [photos])
    for listed in (rank, province, split):
        listed.input(update, filters, pictured).then(show_photos, filters, [photos])
    updated(country.input(explorer.provinces, country, province))
    updated(clear.click(explorer.cleared, None, filters))
    photo_tab.select(show_photos, filters, [photos])
    compare.click(told(explorer.gap, 1), filters, [gaps])
    look.click(told(explorer.record, 1), which, [page], api_name="record")
    which.submit(told(explorer.record, 1), which, [page])
    clicked = [rank, name, country, province, *pictured, which, page, views]
    for picture in (taxa, places, photos, page):
        click = picture.click(told(explorer.act, len(clicked), place=4, event=True), filters, clicked)
        click.then(show_photos, filters, [photos])


def _filters(collection: Collection) -> tuple[list[Any], gr.Button, gr.Button]:
    """Controls of the filters, in the order of `wanted`, and the buttons that apply and clear them."""
    sized = "image_measurement_value" in collection.columns
    with gr.Row(elem_classes="bh-filters"):
        ranks = [(pictures.word_of(rank), rank) for rank in LABEL_COLUMNS]
        filters = [
            gr.Dropdown([(ANY, ANY), *ranks], value=ANY, label="Rank", min_width=110),
            gr.Textbox(label="Taxon or BIN", max_lines=1, max_length=_LONGEST_NAME, min_width=180),
            _list(collection, "country", "Country"),
            _list(collection, "province_state", "Province or state"),
            _list(collection, "split", "Split"),
            gr.Textbox(label="Size from (pixels)", max_lines=1, visible=sized, min_width=120),
            gr.Textbox(label="Size to (pixels)", max_lines=1, visible=sized, min_width=120),
        ]
    with gr.Row():
        show = gr.Button("Show", variant="primary", min_width=110, scale=0)
        clear = gr.Button("Clear filters", min_width=150, scale=0)
    return filters, show, clear


def _list(collection: Collection, column: str, label: str) -> gr.Dropdown:
    """A filter with the values of a column; hidden where there are none."""
    names = collection.choices(column)
    return gr.Dropdown([ANY, *names], value=ANY, label=label, visible=bool(names), min_width=150)
