"""The report of answers: one page with all reads, which loads nothing, and in which no id becomes part of the page."""

import json
import re
import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pytest
from made_up_references import records

from bioscan_hf.identification import library as module
from bioscan_hf.identification import report
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.region import complement
from bioscan_hf.identification.report import write_report
from bioscan_hf.identification.samples import with_samples
from bioscan_hf.identification.strips import differences

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

HOSTILE = [
    "<script>document.title='x'</script>",
    "</script><b>bold</b>",
    "\"'><img src=x onerror=alert(1)>",
    "$DATA &amp;",
]


@pytest.fixture(scope="module")
def library():
    rows = records(np.random.default_rng(3))
    table = pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 60)
        return ReferenceLibrary.from_records(Found(table, {"rows": "table"}, ["left out 3 records"]))


@pytest.fixture(scope="module")
def made(library, tmp_path_factory):
    """Reads of all kinds, their answers, and the page."""
    barcode = library.references.sequences[5]
    rng = np.random.default_rng(1)
    reads = {
        **{f"read{i};size={i + 1};sample=S{i % 2}": text for i, text in enumerate(library.references.sequences[::9])},
        HOSTILE[0]: complement(barcode),
        HOSTILE[1]: barcode[100:400],
        HOSTILE[2]: f"{barcode[:300]}G{barcode[300:]}",
        HOSTILE[3]: "".join(rng.choice(list("ACGT"), 658)),
        "": "ACGT",
        "changed;sample=</td>": f"{barcode[:200]}N{barcode[201:500]}{barcode[506:]}",
    }
    texts = list(reads.values())
    answers = with_samples(library.identify(texts, list(reads), neighbours=report.SHOWN))
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, answers, library, texts, title="Names of <b>my</b> $DATA reads")
    return texts, answers, path


def data_of(path):
    """The data of a page."""
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_has_all_reads_and_their_answers(made):
    _, answers, path = made
    data = data_of(path)
    assert data["id"] == answers["id"].to_pylist() and data["size"] == answers["size"].to_pylist()
    for rank, coded in zip(data["ranks"], data["taxa"], strict=True):
        assert [None if i < 0 else coded["names"][i] for i in coded["codes"]] == answers[rank].to_pylist()
    names = [None if i < 0 else data["ranks"][i] for i in data["level"]]
    assert names == answers["rank"].to_pylist() and len(data["confidence"]) == len(answers)
    assert data["about"]["records"] == 144 and data["about"]["notes"] == ["left out 3 records"]
    nearest = [data["references"]["id"][near[0]] if near else None for near in data["near"]]
    assert nearest == answers["nearest"].to_pylist()
    samples = data["samples"]
    assert sum(samples["total"]) == sum(answers["size"].to_pylist()) == sum(map(sum, samples["reads"]))


def test_the_page_loads_nothing_and_ids_stay_text(made):
    page = made[2].read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "https://" not in page
    assert {link[0] for link in re.findall(r'href="([^"]*)"', page)} == {"#"}
    code = re.sub(r'id="data">.*?</script>', "", page, flags=re.S)
    assert not re.search(r"src=|@import|url\(|fetch\(|XMLHttp|<link", code)
    assert page.count("<script") == 2 == page.count("</script>")
    assert "<b>" not in page and "<img" not in page
    assert "<title>Names of &lt;b&gt;my&lt;/b&gt; &#36;DATA reads</title>" in page
    for text in ("</script><b>", "onerror=alert(1)>", "</td>"):
        assert text not in page


def expanded(data, row):
    """The aligned letters of the read and of its reference, as the page makes them."""
    first, part = data["parts"][str(data["near"][row][0])]
    start, text = data["strips"][row]
    at, read, reference = start - first, "", ""
    for same, other, more, less in re.findall(r"(\d+)|\*([A-Z])|\+([A-Z]+)|-(\d+)\.", text):
        if same or less:
            piece = part[at : at + int(same or less)]
            read, reference, at = read + (piece if same else "-" * len(piece)), reference + piece, at + len(piece)
        elif other:
            read, reference, at = read + other, reference + part[at], at + 1
        else:
            read, reference = read + more, reference + "-" * len(more)
    return read, reference


def test_each_read_has_its_own_note(made, library, tmp_path):
    """Two chimeras name their own references, and one mixed-up specimen is not all of its status."""
    texts, answers, _ = made
    notes = ["the photo is of the order X: perhaps they were mixed up", "", *answers["note"].to_pylist()[2:]]
    assert answers["status"].to_pylist()[:2] == ["ok", "ok"]
    write_report(tmp_path / "a.html", answers.set_column(answers.column_names.index("note"), "note", [notes]), library)
    found = data_of(tmp_path / "a.html")["note"]
    assert [found["names"][code] if code >= 0 else "" for code in found["codes"]] == notes


def test_alignments_are_of_the_reads(made, library):
    """Each strip gives back the read on the strand of its reference, and the reference."""
    texts, answers, path = made
    data = data_of(path)
    rows = [row for row, strip in enumerate(data["strips"]) if strip]
    assert len(rows) == len(texts) - 2  # not that of random letters, and not the one that is too short
    for row in rows:
        read, reference = expanded(data, row)
        turned = answers["strand"][row].as_py() == "-"
        assert read.replace("-", "") == (complement(texts[row]) if turned else texts[row])
        nearest = library.references.sequences[answers["neighbours"][row].as_py()[0]["row"]]
        assert reference.replace("-", "") in nearest and len(read) == len(reference)
        equal = sum(a == b for a, b in zip(read, reference, strict=True))
        assert equal > 0.97 * len(read)


@pytest.mark.parametrize(
    ("read", "reference", "expected"),
    [
        ("ACGTACGTAC", "ACGTACGTAC", (0, 10, "10")),
        ("GTACG", "ACGTACGTAC", (2, 7, "5")),
        ("ACGTTCGTACGGTTA", "ACGTACGTACGGTTA", (0, 15, "4*T10")),
        ("ACGNACGTACGGTTA", "ACGTACGTACGGTTA", (0, 15, "3*N11")),
        ("ACGTACGGGTACGGTTAC", "ACGTACGTACGGTTAC", (0, 16, "7+GG9")),
        ("TTTTACGTACCATTTT", "ACGTACCA", (0, 8, "8")),
    ],
)
def test_differences(read, reference, expected):
    assert differences(read, reference) == expected


def test_missing_letters_are_counted():
    first, last, text = differences("CAGTCTAGCATCGATTGCAT", "CAGTCTAGCCCATCGATTGCAT")
    assert (first, last) == (0, 22) and "-2." in text


def test_reports_without_reads_samples_or_confidences(library, tmp_path, made):
    """Answers as they are, of few references too; the numbers of reads must fit."""
    answers = library.identify(made[0])
    write_report(tmp_path / "plain.html", answers, library)
    data = data_of(tmp_path / "plain.html")
    assert "strips" not in data and "near" not in data and data["samples"] is None
    rows = records(np.random.default_rng(3))[:6]
    table = pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS})
    few = ReferenceLibrary.from_records(Found(table, {}))
    write_report(tmp_path / "few.html", few.identify(made[0], neighbours=3), few, made[0])
    assert data_of(tmp_path / "few.html")["about"]["asked"] is None
    with pytest.raises(ValueError, match="answers and 1 reads"):
        write_report(tmp_path / "wrong.html", answers, library, ["ACGT"])


def test_alignments_of_many_reads_are_left_out(library, tmp_path, made, monkeypatch):
    monkeypatch.setattr(report, "MOST_STRIPS", 4)
    write_report(tmp_path / "many.html", made[1], library, made[0])
    data = data_of(tmp_path / "many.html")
    assert len(data["strips"]) == 4 and len(data["id"]) == len(made[0])


@pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser, google-chrome or chrome to open the page in"
)
def test_a_browser_shows_the_page(made, tmp_path):
    """The summary and the table are there; the id that is a script is shown and does not run."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", made[2].as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "<title>Names of &lt;b&gt;my" in shown
    assert "&lt;script&gt;document.title=" in shown.split('id="rows"')[1]
    assert f"{len(made[0])} sequences." in shown and "Page 1 of 1" in shown
