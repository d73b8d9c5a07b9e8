"""The page in Chromium: each tab used, hostile files, a narrow screen, the keyboard alone, contrast, 20 visitors."""

import gzip
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from bioscan_hf.app import uploads

expect.set_options(timeout=30_000)

HOSTILE = "<img src=x onerror=document.title='owned'>${7*191}{{7*191}}</script><script>document.title='owned'</script>"

#: Texts whose contrast with what is behind them is below the limits of WCAG 2.1 (AA): 4.5, or 3 for large ones.
CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


class Visit:
    """A tab of the browser that notes requests to other machines, errors of scripts, and dialogs."""

    def __init__(self, browser, address, width=1280, **options):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.outside, self.errors = [], []
        self.page.on("request", lambda request: self._seen(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.button("Name them").wait_for()

    def _seen(self, url):
        if not url.startswith(("http://127.0.0.1", "data:", "blob:", "about:")):
            self.outside.append(url)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def clear(self):
        """Clears the text, the files and the names."""
        self.button("Clear all").click()
        expect(self.page.locator("td.filename, .bh-problem:visible, iframe.bh-frame:visible")).to_have_count(0)
        expect(self.page.get_by_text("Table (CSV)")).to_be_hidden()
        expect(self.page.locator("textarea").first).to_have_value("")

    def tab(self, name):
        self.page.get_by_role("tab", name=name, exact=True).click()

    def upload(self, name, content):
        """Uploads a file in place of what was there, and asks for its names."""
        self.clear()
        with self.page.expect_response("**/upload**"):
            self.page.set_input_files("input[type=file]", [{"name": name, "mimeType": "", "buffer": content}])
        self.page.locator(f"td[aria-label='{name}']").wait_for()
        expect(self.page.get_by_text("Uploading")).to_have_count(0)
        self.button("Name them").click()

    def problem(self):
        found = self.page.locator(".bh-problem:visible")
        found.wait_for(timeout=30_000)
        return found.inner_text()

    def report(self):
        frame = self.page.frame_locator("iframe.bh-frame:visible")
        frame.locator("#rows tr").first.wait_for(timeout=30_000)
        return frame

    def example(self):
        self.button("Fill in an example").click()
        expect(self.page.locator("textarea").first).to_have_value(re.compile("^>example1"))
        self.button("Name them").click()
        return self.report()

    def contrast(self):
        for _ in range(40):  # what is renewed is pale for a moment
            texts, weak = self.page.evaluate(CONTRAST)
            if not weak:
                break
            self.page.wait_for_timeout(250)
        assert texts > 10 and not weak, weak

    def is_fitting(self):
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def close(self):
        assert not self.outside and not self.errors, (self.outside, self.errors)
        self.page.close()


@pytest.fixture
def visit(browser, served):
    found = Visit(browser, served.address)
    yield found
    found.close()


@pytest.mark.slow
def test_each_tab_is_used(visit, clusters):
    """A walk through the page as a person takes it."""
    page = visit.page
    report = visit.example()
    assert report.locator("#rows > tr").count() == 4
    report.locator("#rows button.link").first.click()  # confidence bars, nearest references, alignment
    expect(report.locator(".detail .bars i").first).to_be_attached()
    expect(report.get_by_role("heading", name="Nearest references", exact=True)).to_be_visible()
    assert "Arthropoda" in report.locator("#tree").inner_text()
    for name, start in (
        ("Table (CSV)", b'"id","status","name"'),
        ("Table (XLSX)", b"PK"),
        ("Report (HTML)", b"<!DOCTYPE html>"),
    ):
        with page.expect_download() as download:
            visit.button(name).click()
        assert Path(download.value.path()).read_bytes().startswith(start)

    visit.tab("Explore")
    expect(page.locator(".bh-tiles:visible b").first).to_have_text("400")
    page.locator("button.bh-head:visible").first.click()
    expect(page.get_by_text(re.compile("^Only order "))).to_be_visible()
    order = page.get_by_label("Taxon or BIN").input_value()
    assert order and f"<b>{order}</b>" not in page.locator(".bh-map").inner_html(), "families and genera are shown now"
    visit.tab("Sites")
    assert page.locator(".bh-sites circle").count() > 0
    country = page.locator("button[data-act=country]").first
    name = country.inner_text()
    country.click()
    expect(page.get_by_role("combobox", name="Country")).to_have_value(name)
    visit.button("Clear filters").click()
    expect(page.locator(".bh-tiles:visible b").first).to_have_text("400")
    page.get_by_label("Size from (pixels)").fill("100000000")
    visit.button("Show").click()
    assert visit.problem() == "No specimen is left. Clear a filter."
    visit.button("Clear filters").click()
    visit.tab("Gap")
    visit.button("Compare the barcodes of these specimens").click()
    expect(page.locator(".bh-plot circle").first).to_be_attached(timeout=30_000)
    visit.tab("Photos")
    page.locator(".bh-photo img").first.wait_for()
    page.locator(".bh-photo").first.click()
    expect(page.locator(".bh-record img")).to_be_visible()
    assert page.locator(".bh-barcode i").count() > 100
    assert page.locator(".bh-table:visible button[data-act=record]").count() == 8

    visit.tab("Clusters")
    drawn = page.frame_locator("iframe.bh-fixed").locator("canvas")
    expect(drawn).to_be_visible(timeout=30_000)
    visit.tab("Mislabelled")
    suspect = page.get_by_role("button", name=clusters[1], exact=True)
    suspect.click()
    expect(page.locator("h3:visible", has_text=clusters[1])).to_be_visible()
    visit.tab("New species")
    tables = page.get_by_role("tabpanel").filter(has_text="A cluster is not a species")
    assert tables.locator("tbody tr").count() >= 1
    visit.tab("BINs")
    expect(page.get_by_text("BINs are exactly one cluster")).to_be_visible()


def test_hostile_files_become_words_or_text(visit, library):
    """Binary junk, a file that is too large, a bomb, and scripts in ids: nothing runs and no traceback is shown."""
    page = visit.page
    barcode = pq.read_table(library / "references.parquet")["dna_barcode"][0].as_py()
    visit.upload("photo.fasta", bytes(range(256)) * 40)
    assert "photo.fasta" in visit.problem()
    expect(visit.button("Clear")).to_have_count(1)  # that of the box of files; ours has another name
    visit.upload("bomb.fasta.gz", gzip.compress(b">a\n" + b"A" * (uploads.MOST_UNPACKED + 9)))
    assert visit.problem() == "bomb.fasta.gz holds more than 100 MB. Give a smaller file."
    visit.upload("sheet.xlsx", b"PK\x03\x04" + b"junk" * 99)
    assert visit.problem().startswith("sheet.xlsx is not a sheet of XLSX")
    visit.upload("names.fasta", f">{HOSTILE.replace(' ', '_')}\n{barcode}\n>{HOSTILE}\n{barcode}\n".encode())
    report = visit.report()
    assert report.locator("#rows td.id").first.inner_text() == HOSTILE.replace(" ", "_")
    visit.clear()
    page.locator("textarea").first.fill(f"id,sequence\n{HOSTILE},{barcode}\n=1+1,{barcode}")
    visit.button("Name them").click()
    assert visit.report().locator("#rows td.id").first.inner_text() == HOSTILE
    assert page.title() == "Names for specimens" and not page.locator("img[src=x]").count()
    visit.tab("Explore")
    page.get_by_label("Taxon or BIN").fill(HOSTILE)
    visit.button("Show").click()
    assert visit.problem() == f"No specimen has the name {HOSTILE!r}. Check its spelling, or clear the filter."
    visit.tab("Record")
    page.get_by_label("Id of a specimen").fill("' OR 1=1 --")
    visit.button("Open").click()
    expect(page.get_by_text("No specimen has the id")).to_be_visible()
    assert page.title() == "Names for specimens" and "Traceback" not in page.content()


def test_a_file_beyond_the_limit_is_refused_while_it_comes(served):
    """The server stops reading; nothing of it stays."""
    content = b">a\n" + b"ACGT" * (uploads.MOST_BYTES // 4)
    answer = httpx.post(f"{served.address}gradio_api/upload", files={"files": ("big.fasta", content)}, timeout=60)
    assert answer.status_code == 413 and "maximum allowed size" in answer.text
    assert not [path for path in Path(served.folder.name).rglob("*") if path.is_file() and path.stat().st_size > 1e7]


def test_a_narrow_screen_shows_all(browser, served):
    """At 420 pixels nothing is wider than the screen, and every text can be read, also in dark colours."""
    for width, scheme in ((420, "light"), (1280, "dark")):
        visit = Visit(browser, served.address, width, color_scheme=scheme)
        visit.example()
        checks = [("Explore", "Taxa"), ("Explore", "Sites"), ("Explore", "Photos"), ("Explore", "Record")]
        checks += [("Clusters", name) for name in ("Map", "New species", "Mislabelled", "BINs")]
        for tab, view in [("Identify", None), *checks]:
            visit.tab(tab)
            if view:
                visit.tab(view)
            if view == "Photos":
                visit.page.locator(".bh-photo img").first.wait_for()
            if view == "Map":
                visit.page.locator("iframe.bh-fixed").wait_for()
            assert visit.is_fitting(), (tab, view)
            visit.contrast()
        visit.close()


def test_the_keyboard_is_enough(visit):
    """Tab, Enter, arrows and letters name sequences, filter, and open a record."""
    page = visit.page

    def go_to(script):
        for _ in range(120):
            if page.evaluate(f"() => {{ const at = document.activeElement; return Boolean({script}); }}"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none" or page.evaluate("document.activeElement.matches('input, textarea')")
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"The keyboard does not reach: {script}")

    go_to("at.textContent.trim() === 'Fill in an example'")
    page.keyboard.press("Enter")
    expect(page.locator("textarea").first).to_have_value(re.compile("^>example1"))
    go_to("at.textContent.trim() === 'Name them'")
    page.keyboard.press("Enter")
    visit.report()
    page.get_by_role("tab", name="Identify").focus()
    go_to("at.getAttribute('role') === 'tab' && at.textContent.trim() === 'Explore'")
    page.keyboard.press("Enter")
    go_to("at.matches('.bh-head')")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("^Only order "))).to_be_visible()
    page.get_by_role("tab", name="Taxa").focus()
    go_to("at.getAttribute('role') === 'tab' && at.textContent.trim() === 'Photos'")
    page.keyboard.press("Enter")
    page.locator(".bh-photo").first.wait_for()
    go_to("at.matches('.bh-photo')")
    page.keyboard.press("Enter")
    expect(page.locator(".bh-record")).to_be_visible()


@pytest.mark.slow
def test_twenty_visitors_at_once(served):
    """Each opens the page, names sequences and filters; all are answered, and none gets the answer of another."""
    functions = {found.api_name: number for number, found in served.page.fns.items()}
    together = threading.Barrier(20)

    def visitor(number):
        with httpx.Client(base_url=served.address, timeout=120) as client:
            together.wait()
            assert client.get("").status_code == 200
            text = f">visitor{number}\n" + "ACGT" * 100
            named = ask(client, functions["identify"], [text, None, 0.95], f"one{number}")
            shown = ask(
                client, functions["explore"], ["any", "", "any", "any", "any", str(number), ""], f"two{number}"
            )
        return named, shown

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(visitor, range(20)))
    for number, (named, shown) in enumerate(answers):
        assert named[0].count(f"&quot;visitor{number}&quot;") == 1 and "bh-problem" not in named[0]
        assert "bh-tiles" in shown[0] and "bh-map" in shown[1]


def ask(client, function, data, session):
    """The output of a function of the page, asked as the browser does."""
    body = {"data": data, "fn_index": function, "session_hash": session}
    assert client.post("gradio_api/queue/join", json=body).status_code == 200
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                assert message["success"], message
                return message["output"]["data"]
    raise AssertionError("The page did not answer.")
