"""The interactive map in a real browser: hover shows the taxonomy and the photo, and a name cannot break out."""

import html
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from bioscan_hf.clustering import map as clustering_map
from bioscan_hf.clustering.map import MOST_SPECIMENS, safe_json, thumbnail, write_map

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser, google-chrome or chrome on the PATH to open the page in"
)

HOSTILE = "<script>document.title='broken'</script>"
POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
LABELS = {
    "order": ["Diptera", "Diptera", HOSTILE, None],
    "species": ["A a", "</script><img src=x onerror=\"document.title='broken'\">", 'B "b" & c', None],
    "dna_bin": [None] * 4,
}
PROCESSIDS = ["P0", "P1<b>", "P2", "P3"]


def photo(colour, size=(300, 200)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def page_after(path, tmp_path, script, *options):
    """The page's HTML after a script has run behind its own, in a browser without a window."""
    copy = tmp_path / "driven.html"
    text = path.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=900,600", "--virtual-time-budget=2000", *options, "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<html" in done.stdout, done.stderr[-2000:]
    return done.stdout


HOVER = """
const place = canvas.getBoundingClientRect();
function hover(i) {
  const at = {clientX: place.left + across(i), clientY: place.top + down(i), bubbles: true};
  canvas.dispatchEvent(new MouseEvent("mousemove", at));
}
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "map.html"
    photos = [photo("red"), None, photo("green", (90, 260)), photo("blue")]
    note = write_map(path, POINTS, PROCESSIDS, LABELS, [7, 7, -1, 2], photos=photos, title="A <map> & $DATA")
    assert note == "Without a photo: 1."
    return path


@needs_browser
@pytest.mark.parametrize("row", [0, 1, 2, 3])
def test_hover_shows_taxonomy_cluster_and_photo(page, tmp_path, row):
    """A real mouse event over a specimen's place, in a browser; hostile names come out as text and do nothing."""
    dom = page_after(page, tmp_path, f"{HOVER} hover({row});")
    card = re.search(r'<div id="card"[^>]*display: block[^>]*>(.*?)</div>', dom, re.DOTALL)[1]
    assert html.unescape(re.search("<strong>(.*?)</strong>", card)[1]) == PROCESSIDS[row]
    cells = dict(re.findall("<tr><th>(.*?)</th><td>(.*?)</td></tr>", card))
    assert {name: html.unescape(text) for name, text in cells.items()} == {
        "order": LABELS["order"][row] or "unknown",
        "species": LABELS["species"][row] or "unknown",
        "BIN": "unknown",
        "cluster": ["7", "7", "-1", "2"][row],
    }
    assert ('<img src="data:image/jpeg;base64,' in card) == (row != 1)
    assert "<title>A &lt;map&gt; &amp; $DATA</title>" in dom, "a name has run as a script"
    assert re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL).count("<img") == (row != 1), "of a name's making"


@needs_browser
def test_hover_beside_every_specimen_shows_nothing(page, tmp_path):
    dom = page_after(page, tmp_path, f"{HOVER} hover(0); canvas.dispatchEvent(new MouseEvent('mousemove', {{}}));")
    assert 'id="card" style="display: none' in dom


@needs_browser
def test_colours_legend_and_zoom(page, tmp_path):
    """The choice of a rank changes the legend; a click hides a group from the mouse; the wheel keeps the place below
    the mouse; every specimen lies on the canvas."""
    script = f"""{HOVER}
    const out = {{columns: [...chosen.options].map((o) => o.text), first: legend.innerText}};
    out.inside = data.x.every((_, i) => across(i) > 0 && across(i) < place.width);
    out.inside &&= data.x.every((_, i) => down(i) > 0 && down(i) < place.height);
    out.up = down(3) < down(0);
    const before = across(2);
    canvas.dispatchEvent(new WheelEvent("wheel",
      {{clientX: place.left + before, clientY: place.top + down(2), deltaY: -400, cancelable: true}}));
    out.kept = Math.abs(across(2) - before) < 1.5; out.scale = (across(1) - across(0)) / 1;
    canvas.dispatchEvent(new MouseEvent("dblclick"));
    out.zoomed = out.scale / (across(1) - across(0));
    legend.children[0].click();
    hover(0); out.hidden = card.style.display;
    chosen.value = 1; chosen.onchange();
    out.second = legend.innerText;
    document.body.textContent = JSON.stringify(out);
    """
    dom = page_after(page, tmp_path, script)
    out = json.loads(html.unescape(re.search(r"<body[^>]*>(.*)</body>", dom, re.DOTALL)[1].strip()))
    assert out["columns"] == ["order", "species", "BIN", "cluster"]
    assert out["first"].split("\n") == ["Diptera", "2", HOSTILE, "1", "unknown", "1"]
    assert out["second"].split("\n")[:2] == [LABELS["species"][1], "1"]
    assert out["inside"] and out["up"] and out["kept"] and out["hidden"] == "none"
    assert out["zoomed"] == pytest.approx(np.e, rel=0.02), "400 steps of the wheel are a factor of e"


def test_the_page_needs_nothing_else(page):
    """No address and no file is named in it, and no name stands in it as HTML."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=\"(?!data)|@import|url\(", text)
    assert HOSTILE not in text and text.count("</script>") == 2 and text.count("<script") == 2
    found = data_of(page)
    assert found["processids"] == PROCESSIDS
    order = next(column for column in found["columns"] if column["title"] == "order")
    assert [order["names"][i] if i >= 0 else None for i in order["of"]] == LABELS["order"]
    assert found["x"] == [0, 32768, 0, 32768] and found["y"] == [65535, 65535, 32767, 0]


def test_photos_are_small(page, monkeypatch):
    """At most 80 pixels a side and in proportion, a few hundred bytes of a plain colour."""
    found = data_of(page)["photos"]
    assert found[1] is None
    import base64

    image = Image.open(io.BytesIO(base64.b64decode(found[2])))
    assert image.format == "JPEG" and image.size == (28, 80) and len(found[2]) < 2000
    red, green, blue = image.convert("RGB").getpixel((10, 40))
    assert green > 100 and red < 40 and blue < 40
    with pytest.raises(ValueError, match="The photo of P9 cannot be decoded"):
        thumbnail(b"no photo", "P9")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="The photo of P9 cannot be decoded .*decompression bomb"):
        thumbnail(photo("red"), "P9")


def test_too_many_photos_are_left_out_and_said_to_be(tmp_path, monkeypatch):
    """Above the limit none is even read; without photos the page says so too."""
    monkeypatch.setattr(clustering_map, "MOST_PHOTOS", 3)

    class Unread:
        def __len__(self):
            return 4

        def __getitem__(self, i):
            raise AssertionError("a photo is read for nothing")

    note = write_map(tmp_path / "m.html", POINTS, PROCESSIDS, LABELS, photos=Unread())
    assert note == "Photos are left out: a page has photos of at most 3 specimens."
    assert note in (tmp_path / "m.html").read_text() and data_of(tmp_path / "m.html")["photos"] is None
    assert write_map(tmp_path / "m.html", POINTS, PROCESSIDS, LABELS) == "Photos are not included."
    assert "cluster" not in [column["title"] for column in data_of(tmp_path / "m.html")["columns"]]


def test_fifty_thousand_specimens(tmp_path):
    """The largest page stays under 10 MB without photos; one more specimen is refused."""
    n = MOST_SPECIMENS
    rng = np.random.default_rng(0)
    labels = {rank: rng.choice([f"{rank} {i}" for i in range(3000)], n).tolist() for rank in ("genus", "species")}
    ids = [f"BIOUG{i:06}-20" for i in range(n)]
    write_map(tmp_path / "m.html", rng.normal(size=(n, 2)), ids, labels, rng.integers(0, 4000, n))
    assert (tmp_path / "m.html").stat().st_size < 10e6
    with pytest.raises(ValueError, match="1 to 50,000 specimens, not 50,001. Choose some"):
        write_map(tmp_path / "n.html", np.zeros((n + 1, 2)), [*ids, "x"], {})


def test_json_cannot_end_its_element():
    text = safe_json({"a": "</script><!-- & \u2028 $DATA"})
    assert not set("<>&$\u2028") & set(text) and json.loads(text) == {"a": "</script><!-- & \u2028 $DATA"}


def test_bad_input(tmp_path):
    for arguments, message in (
        ((POINTS, PROCESSIDS, {}), "There are no labels. Give some of phylum"),
        ((POINTS, PROCESSIDS, {"colour": list("abcd")}), "Unknown rank 'colour' in the labels. Use phylum"),
        ((POINTS[:3], PROCESSIDS, LABELS), r"of 4 specimens; got \(3, 2\)"),
        ((POINTS * np.nan, PROCESSIDS, LABELS), "points must be finite"),
        ((POINTS, PROCESSIDS, {"order": ["a"]}), "There are 4 specimens, but {'order': 1}"),
        ((POINTS, PROCESSIDS, LABELS, [1, 2]), "but {'clusters': 2}"),
    ):
        with pytest.raises(ValueError, match=message):
            write_map(tmp_path / "m.html", *arguments)
    assert not list(tmp_path.iterdir())
