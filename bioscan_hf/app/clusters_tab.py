"""The tab of clusters: map, likely new species, likely mislabelled specimens, and agreement with BINs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .clusters import MOST_ROWS, Found, labels_of
from .collection import Collection
from .explore import record
from .pieces import button, frame, note, plural, table, text, tiles
from .style import CLICKS, FRAME_CLICKS, plain_html
from .words import told

#: What the tables say of themselves.
_NEW = (
    "Clusters without a species name, of one BIN or genus, and as far from named clusters as these from each other. A "
    "cluster is not a species: look at the specimens."
)
_SUSPECTS = "Specimens whose species differs from that of nearly all others in their cluster. Check them first."


_LINK = ' class="bh-link"'

#: The record, which opens below, comes into view.
_SHOW = "() => document.querySelector('#bh-opened h3')?.scrollIntoView({block: 'nearest'})"

#: Specimens of a likely new species that are listed.
_LISTED = 5


def clusters_tab(found: Found, tab: gr.Tab, collection: Collection | None) -> None:
    """Builds the tab. The map is sent when a visitor opens the tab; specimens of map and tables open below them."""
    plain_html(summary(found))
    with gr.Tabs() as views:
        with gr.Tab("Map"):
            map = plain_html(note(found.remark) if found.remark else "", FRAME_CLICKS)
        with gr.Tab("New species"):
            tables = [plain_html(new_species(found), CLICKS)]
        with gr.Tab("Mislabelled"):
            tables.append(plain_html(suspects(found), CLICKS))
        with gr.Tab("BINs"):
            plain_html(bins(found))
    if collection is not None:
        opened = plain_html("", CLICKS, elem_id="bh-opened")

        def look(evt: gr.EventData) -> list[Any]:
            return [record(collection, str(evt.name))] if str(evt.act) == "record" else [gr.skip()]

        views.change(None, None, [opened], js="() => ''")  # a record is of the view in which it was opened
        for place in (map, *tables, opened):
            place.click(told(look, 1, event=True), None, [opened]).then(None, js=_SHOW)
    if found.map is not None:
        page = frame(found.map, "Map of the clusters").replace('class="bh-frame"', 'class="bh-frame bh-fixed"')

        def show() -> list[Any]:
            return [page]

        tab.select(told(show, 1), None, [map])


def summary(found: Found) -> str:
    """Numbers of the clustering."""
    metrics = found.results.get("metrics", {})
    numbers = [
        (f"{sum(found.sizes.values()):,}", "specimens"),
        (f"{sum(cluster >= 0 for cluster in found.sizes):,}", "clusters"),
        (f"{len(found.new):,}", "likely new species"),
        (f"{len(found.suspects):,}", "likely mislabelled"),
    ]
    for rank, what in (("species", "species"), ("dna_bin", "BINs")):
        ami = metrics.get(rank, {}).get("ami")
        if ami is not None:
            numbers.append((f"{100 * ami:.1f}", f"AMI with {what} (100: equal, 0: chance)"))
    return tiles(numbers)


def new_species(found: Found) -> str:
    """Clusters that are likely new species."""
    if not found.new:
        return note("No cluster is a likely new species by the rules of cluster_report_rules.json.")
    rows = [
        (
            text(row["cluster"]),
            text(row["size"]),
            text(labels_of(row)),
            text(row.get("dna_bin", "")),
            ", ".join(button(text(one), "record", one, "", _LINK) for one in found.members[row["cluster"]][:_LISTED]),
        )
        for row in found.new[:MOST_ROWS]
    ]
    return (
        note(_NEW)
        + table(("Cluster", "Specimens", "Lowest name", "BIN", "Some of them"), rows, (1,))
        + _more(found.new)
    )


def suspects(found: Found) -> str:
    """Specimens that are likely mislabelled."""
    if not found.suspects:
        return note("No specimen is likely mislabelled by the rules of cluster_report_rules.json.")
    rows = [
        (
            button(text(row["processid"]), "record", row["processid"], "", _LINK),
            f"<i>{text(row['species'])}</i>",
            f"<i>{text(row['cluster_species'])}</i>",
            text(row.get("of_cluster_species", "")),
            text(row["cluster"]),
        )
        for row in found.suspects[:MOST_ROWS]
    ]
    head = ("Specimen", "Its species", "Species of its cluster", "Specimens of that", "Cluster")
    return note(_SUSPECTS) + table(head, rows, (3,)) + _more(found.suspects)


def bins(found: Found) -> str:
    """BINs that are one cluster, several clusters, or part of one."""
    both = found.bins
    if not both.equal and not both.split and not both.joined:
        return note("These specimens have no BINs.")
    numbers = [
        (f"{both.equal:,}", "BINs are exactly one cluster"),
        (f"{len(both.split):,}", "BINs are in several clusters"),
        (f"{len(both.joined):,}", "clusters hold several BINs"),
        (f"{both.without:,}", "specimens have no BIN"),
    ]
    parts = [tiles(numbers)]
    if both.split:
        order = sorted(both.split.items(), key=lambda item: (-item[1].total(), item[0]))[:MOST_ROWS]
        rows = [(text(name), f"{inside.total():,}", _list(inside, "cluster ")) for name, inside in order]
        parts.append(table(("BIN", "Specimens", "Clusters"), rows, (1,), "BINs in several clusters"))
    if both.joined:
        order_ = sorted(both.joined.items(), key=lambda item: (-item[1].total(), item[0]))[:MOST_ROWS]
        rows = [(str(cluster), f"{inside.total():,}", _list(inside, "")) for cluster, inside in order_]
        parts.append(table(("Cluster", "Specimens", "BINs"), rows, (1,), "Clusters with several BINs"))
    return "".join(parts)


def _list(inside: Any, word: str) -> str:
    return ", ".join(f"{word}{text(name)} ({count:,})" for name, count in inside.most_common(8)) + (
        f" and {len(inside) - 8} more" if len(inside) > 8 else ""
    )


def _more(rows: list[Any]) -> str:
    return note(f"{plural(len(rows) - MOST_ROWS, 'more row')} are in the file.") if len(rows) > MOST_ROWS else ""
