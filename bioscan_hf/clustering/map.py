"""A map of specimens as one HTML page that needs nothing else: hover shows taxonomy, cluster and photo.

The page is a canvas and a little JavaScript; it loads nothing from anywhere, and opens from a disk. All names reach it
as JSON and are shown as text, so that no name can become a part of the page.
Shape letter: N = specimens.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, UnidentifiedImageError

from ..files import write_text
from ..schema import LABEL_COLUMNS
from .figures import colour_groups

#: Specimens that a page can hold, and those of which it can hold photos.
MOST_SPECIMENS, MOST_PHOTOS = 50_000, 20_000

#: Longer side of a photo on the page in pixels, and its quality as JPEG: some 2 kB each.
THUMBNAIL, QUALITY = 80, 70

#: Places are whole numbers up to this one: more than a screen shows.
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
    """Writes the page, whole or not at all, and returns what it says about photos ("" if all are there).

    Args:
        points: (N, 2), such as `clustering_plots.plane` gives them.
        labels: Rank, or "dna_bin", -> names (N,), None where unknown. Each is a choice of colours.
        clusters: Cluster of each specimen (N,), one more choice; None leaves it out.
        photos: Encoded photos (N,), None where there is none. Read one after the other, so a lazy sequence will do.
            Of more than 20,000 specimens they are left out, and the page says so.

    Raises:
        ValueError: for more than 50,000 specimens, none, inputs of different lengths, an unknown rank, points that are
            not finite, or a photo that cannot be decoded (its processid is named).
    """
    places = np.asarray(points, np.float64)
    columns = {rank: labels[rank] for rank in LABEL_COLUMNS if rank in labels}
    _check(places, processids, labels, clusters, photos)
    if clusters is not None:
        columns = columns | {"cluster": [str(cluster) for cluster in np.asarray(clusters).tolist()]}
    low, span = places.min(axis=0), float(np.ptp(places, axis=0).max()) or 1.0
    whole = np.rint((places - low) / span * GRID).astype(int)
    note, thumbnails = "", None
    if photos is None:
        note = "Photos are not included."
    elif len(processids) > MOST_PHOTOS:
        note = f"Photos are left out: of {len(processids):,} specimens the page would be too large ({MOST_PHOTOS:,})."
    else:
        thumbnails = [
            None if photo is None else thumbnail(photo, processid)
            for photo, processid in zip(photos, processids, strict=True)
        ]
        lacking = sum(photo is None for photo in thumbnails)
        note = f"Without a photo: {lacking:,}." if lacking else ""
    data = {
        "x": whole[:, 0].tolist(),
        "y": (GRID - whole[:, 1]).tolist(),  # upwards, as in the picture
        "processids": list(processids),
        "columns": [_column(name, values) for name, values in columns.items()],
        "photos": thumbnails,
    }
    about = " ".join(filter(None, (f"{len(processids):,} specimens.", note)))
    page = PAGE.replace("$TITLE", html.escape(title).replace("$", "&#36;")).replace("$ABOUT", html.escape(about))
    write_text(path, page.replace("$DATA", safe_json(data)))
    return note


def thumbnail(photo: bytes, processid: str) -> str:
    """A small JPEG of a photo, in base64.

    Raises:
        ValueError: if the photo cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(photo)) as image:
            image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # a JPEG is decoded at a fraction of its size
            small = image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"The photo of {processid} cannot be decoded ({error}).") from error
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def safe_json(content: Any) -> str:
    """JSON that can stand in an HTML page: nothing in it can end the element that it stands in."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("$", "\\u0024")


def _check(
    places: Any,
    processids: Sequence[str],
    labels: Mapping[str, Sequence[str | None]],
    clusters: ArrayLike | None,
    photos: Sequence[bytes | None] | None,
) -> None:
    rows = len(processids)
    if not 0 < rows <= MOST_SPECIMENS:
        raise ValueError(f"A page holds 1 to {MOST_SPECIMENS:,} specimens, not {rows:,}. Choose some of them first.")
    strange = [rank for rank in labels if rank not in LABEL_COLUMNS]
    if strange or not labels:
        raise ValueError(f"labels must be of {', '.join(LABEL_COLUMNS)}; got {', '.join(labels) or 'none'}.")
    if places.shape != (rows, 2) or not np.isfinite(places).all():
        raise ValueError(f"points must be finite, and (N, 2) of {rows} specimens; got {places.shape}.")
    sizes = {rank: len(names) for rank, names in labels.items()}
    sizes |= {} if clusters is None else {"clusters": len(np.asarray(clusters))}
    sizes |= {} if photos is None else {"photos": len(photos)}
    wrong = {name: size for name, size in sizes.items() if size != rows}
    if wrong:
        raise ValueError(f"There are {rows} processids, but {wrong}. Give one of each for a specimen.")


def _column(name: str, values: Sequence[str | None]) -> dict[str, Any]:
    """A choice of colours: its names once, the name of each specimen as a number (-1: none), and the legend."""
    names = sorted({value for value in values if value is not None})
    place: dict[str | None, int] = {value: i for i, value in enumerate(names)}
    place[None] = -1
    groups = colour_groups(values)
    return {
        "title": "BIN" if name == "dna_bin" else name,
        "names": names,
        "of": [place[value] for value in values],
        "groups": groups.of.tolist(),
        "legend": [list(row) for row in zip(groups.names, groups.colours, groups.counts, strict=True)],
    }


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$TITLE</title>
<style>
body { margin: 0; font: 14px/1.4 system-ui, sans-serif; color: #222; display: flex; height: 100vh; }
#place { position: relative; flex: 1; min-width: 0; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; cursor: crosshair; }
aside { width: 270px; padding: 14px 16px; overflow: auto; border-left: 1px solid #ddd; box-sizing: border-box; }
h1 { font-size: 16px; margin: 0 0 4px; } p { margin: 0 0 12px; color: #666; font-size: 12px; }
label { display: block; margin-bottom: 10px; } select { font: inherit; width: 100%; margin-top: 3px; }
#legend div { display: flex; gap: 8px; align-items: center; padding: 2px 4px; cursor: pointer; border-radius: 3px; }
#legend div:hover { background: #f2f2f2; } #legend .off { opacity: 0.3; }
#legend i { width: 12px; height: 12px; border-radius: 6px; flex: none; }
#legend span { flex: 1; overflow-wrap: anywhere; } #legend b { font-weight: normal; color: #666; }
#card { position: absolute; display: none; pointer-events: none; background: #fff; border: 1px solid #bbb;
 border-radius: 5px; padding: 9px 11px; box-shadow: 0 2px 9px #0003; max-width: 320px; font-size: 13px; }
#card img { display: block; margin-bottom: 6px; max-width: 160px; min-width: 120px; }
#card table { border-spacing: 0; }
#card th { text-align: left; font-weight: normal; color: #666; padding-right: 10px; }
#card td { overflow-wrap: anywhere; } #card strong { display: block; margin-bottom: 3px; }
</style>
</head>
<body>
<div id="place"><canvas id="map"></canvas><div id="card"></div></div>
<aside>
<h1>$TITLE</h1>
<p>$ABOUT Wheel: nearer and farther. Drag: move. Double click: all. Click in the legend: hide and show.</p>
<label>Colour by <select id="rank"></select></label>
<div id="legend"></div>
</aside>
<script type="application/json" id="data">$DATA</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("map"), pen = canvas.getContext("2d");
const card = document.getElementById("card"), chosen = document.getElementById("rank");
const legend = document.getElementById("legend");
const GRID = 65535, MARGIN = 24, N = data.x.length;
const cluster = data.columns.findIndex((column) => column.title === "cluster");
let scale = 1, left = 0, top_ = 0, hidden = new Set(), hovered = -1, dragged = null;

// Groups that are named come last in the order of drawing; within them specimens are mixed, so that none covers all.
const order = Array.from({length: N}, (_, i) => i);
let seed = 1;
for (let i = N - 1; i > 0; i--) {
  seed = (seed * 48271) % 2147483647;
  const j = seed % (i + 1);
  [order[i], order[j]] = [order[j], order[i]];
}

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  parent.appendChild(made);
  return made;
}

const column = () => data.columns[chosen.value];
const shown = (i) => !hidden.has(column().groups[i]);
const across = (i) => left + data.x[i] * scale;
const down = (i) => top_ + data.y[i] * scale;

function fit() {
  const box = canvas.getBoundingClientRect();
  const ends = [data.x, data.y].map((values) => values.reduce(([low, high], value) =>
    [Math.min(low, value), Math.max(high, value)], [GRID, 0]));
  const room = [box.width, box.height].map((side) => Math.max(20, side - 2 * MARGIN));
  scale = Math.min(...ends.map(([low, high], axis) => room[axis] / (high - low || GRID)));
  [left, top_] = ends.map(([low, high], axis) => [box.width, box.height][axis] / 2 - (low + high) / 2 * scale);
}

function draw() {
  const box = canvas.getBoundingClientRect(), dense = window.devicePixelRatio || 1;
  canvas.width = box.width * dense;
  canvas.height = box.height * dense;
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.clearRect(0, 0, box.width, box.height);
  const radius = N < 3000 ? 3.5 : N < 15000 ? 2.4 : 1.6, now = column();
  const plain = now.legend.map((row) => row[0] === "unknown" || row[0].startsWith("other ("));
  pen.globalAlpha = 0.8;
  for (const wanted of [true, false]) {
    for (const i of order) {
      const group = now.groups[i];
      if (plain[group] !== wanted || hidden.has(group)) continue;
      pen.fillStyle = now.legend[group][1];
      pen.beginPath();
      pen.arc(across(i), down(i), radius, 0, 6.3);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  if (hovered < 0) return;
  pen.strokeStyle = "#000";
  if (cluster >= 0) {
    const of = data.columns[cluster].of;
    pen.lineWidth = 0.8;
    for (const i of order) {
      if (of[i] !== of[hovered] || !shown(i)) continue;
      pen.beginPath();
      pen.arc(across(i), down(i), radius + 1.2, 0, 6.3);
      pen.stroke();
    }
  }
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(across(hovered), down(hovered), radius + 3, 0, 6.3);
  pen.stroke();
}

function nearest(x, y) {
  let best = -1, distance = 100;  // within 10 pixels
  for (let i = 0; i < N; i++) {
    const d = (across(i) - x) ** 2 + (down(i) - y) ** 2;
    if (d < distance && shown(i)) { best = i; distance = d; }
  }
  return best;
}

function tell(i, x, y) {
  card.replaceChildren();
  card.style.display = i < 0 ? "none" : "block";
  if (i < 0) return;
  if (data.photos && data.photos[i]) {
    element("img", null, card).src = "data:image/jpeg;base64," + data.photos[i];
  }
  element("strong", data.processids[i], card);
  const table = element("table", null, card);
  for (const one of data.columns) {
    const row = element("tr", null, table);
    element("th", one.title, row);
    element("td", one.of[i] < 0 ? "unknown" : one.names[one.of[i]], row);
  }
  const box = canvas.getBoundingClientRect();
  card.style.left = Math.max(4, x + 18 + card.offsetWidth > box.width ? x - card.offsetWidth - 14 : x + 18) + "px";
  card.style.top = Math.max(4, Math.min(y + 12, box.height - card.offsetHeight - 8)) + "px";
}

function list() {
  legend.replaceChildren();
  column().legend.forEach(([name, colour, count], group) => {
    const row = element("div", null, legend);
    row.className = hidden.has(group) ? "off" : "";
    element("i", null, row).style.background = colour;
    element("span", name, row);
    element("b", count.toLocaleString("en"), row);
    row.onclick = () => {
      if (!hidden.delete(group)) hidden.add(group);
      list();
      draw();
    };
  });
}

data.columns.forEach((one, i) => { element("option", one.title, chosen).value = i; });
const first = data.columns.findIndex((one) => one.title === "order");
chosen.value = first < 0 ? 0 : first;
chosen.onchange = () => { hidden = new Set(); list(); draw(); };
canvas.onmousemove = (event) => {
  if (dragged) {
    left += event.offsetX - dragged[0];
    top_ += event.offsetY - dragged[1];
    dragged = [event.offsetX, event.offsetY];
    tell(-1);
    draw();
    return;
  }
  const found = nearest(event.offsetX, event.offsetY);
  if (found !== hovered) { hovered = found; draw(); }
  tell(found, event.offsetX, event.offsetY);
};
canvas.onmousedown = (event) => { dragged = [event.offsetX, event.offsetY]; };
window.onmouseup = () => { dragged = null; };
canvas.onmouseleave = () => { hovered = -1; tell(-1); draw(); };
canvas.onwheel = (event) => {
  event.preventDefault();
  const factor = Math.exp(-event.deltaY / 400);
  left = event.offsetX - (event.offsetX - left) * factor;
  top_ = event.offsetY - (event.offsetY - top_) * factor;
  scale *= factor;
  draw();
};
canvas.ondblclick = () => { fit(); draw(); };
window.onresize = () => { fit(); draw(); };
fit();
list();
draw();
</script>
</body>
</html>
"""
