"""A small demo from end to end: real files, a real pretraining program, numbers and figures."""

import csv
import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from bioscan_hf.cli.demo import run_demo
from bioscan_hf.cli.demo_report import FIGURES
from bioscan_hf.cli.demo_steps import REMARK, mark_cards

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def test_results_are_complete(demo):
    """Task I of three encoders, Task II of four, Task III of all pairs, and the names of all reads."""
    folder, results, _ = demo
    assert results == json.loads((folder / "results.json").read_text())
    assert sum(results["splits"].values()) == 300
    assert list(results["metrics"]) == ["aligned", "BarcodeBERT", "4-mer counts"]
    for metrics in results["metrics"].values():
        assert list(metrics) == [
            "species of test",
            "genus of test_unseen",
            "family of test_unseen",
            "order of test_unseen",
        ]
        for value in metrics.values():
            assert 0 <= value["micro_accuracy"] <= 1 and value["n_test"] > 0 and value["n_train"] > 0
    counts = results["metrics"]["4-mer counts"]["species of test"]
    assert counts["micro_accuracy"] > 2 * counts["chance"]
    assert len(results["pretraining"]["loss_curve"]) == 4 == len(results["clibd"]["loss_curve"])
    assert list(results["clusters"]) == ["aligned", "BarcodeBERT", "4-mer counts", "photos (CLIBD)"]
    for scores in results["clusters"].values():
        assert -1 <= scores["species"] <= 1 + 1e-9 and scores.keys() >= {"order", "family", "genus", "species"}
    assert results["clusters"]["aligned"]["species"] > 0.5
    assert results["retrieval"].keys() >= {"image->dna", "image->image", "dna->dna", "dna->image"}
    for part in ("seen", "unseen"):
        found = results["retrieval"]["image->dna"][part]
        assert 0 <= found["micro_accuracy"]["species"] <= 1 and found["n_test"] > 0
    with open(folder / "names.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = results["names"]
    assert len(rows) == names["reads"] == results["splits"]["test"] + results["splits"]["test_unseen"]
    assert sum(bool(row["name"]) for row in rows) >= sum(count for count, _ in names["named"].values()) > 0
    assert [row["id"] for row in rows] == re.findall("^>(.+)$", (folder / "reads.fasta").read_text(), flags=re.M)


def test_report_opens_with_names_and_shows_the_numbers_and_figures(demo):
    """Names, then map, gallery and numbers; nothing is loaded from elsewhere, and every figure is also a file."""
    folder, results, said = demo
    page = (folder / "report.html").read_text(encoding="utf-8")
    places = [page.index(f'<section id="{name}">') for name in ("names", "map", "gallery", "numbers", "data", "made")]
    assert places == sorted(places) and "<!--" not in page
    for metrics in results["metrics"].values():
        for value in metrics.values():
            assert f">{value['micro_accuracy']:.1%}</td>" in page
    for scores in results["clusters"].values():
        assert f">{scores['species']:.1%}</td>" in page
    assert results["command"] in unescape(page)
    pictures = re.findall(r'<img src="data:image/png;base64,', page)
    files = {path.stem for path in folder.glob("*.png")}
    assert len(pictures) == len(files) and files <= set(FIGURES)
    assert files >= {"sites", "gallery", "accuracy", "clusters", "taxonomy", "photos", "loss", "gap"}
    for name in files:
        picture = Image.open(io.BytesIO((folder / f"{name}.png").read_bytes()))
        assert len(set(picture.convert("L").resize((40, 40)).tobytes())) > 5, f"{name} is blank"
    links = re.findall(r'href="([^#][^"]*)"', page)
    assert set(links) == {"names.html", "names.csv", "reads.fasta", "clusters/aligned/map.html"}
    assert all((folder / link).is_file() for link in links)
    assert not re.search(r'(src|href)="(https?:|//)|url\(|@import|<script', page) and "default-src 'none'" in page
    assert str(folder / "report.html") in said[-1]
    table = said[-1 - len(results["metrics"]["aligned"]) - 1 : -1]
    assert table[0].startswith("1-NN, distinct barcodes") and all(len(line) <= 80 for line in table)


def test_names_of_the_report_are_of_different_reads(demo):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    reads = re.findall(r'data-label="read">([^<]+)<', page)
    assert len(reads) == len(set(reads)) > 3
    assert page.count('class="yes">right') + page.count('class="no">wrong') <= len(reads)


def test_every_page_and_card_says_that_the_data_are_made_up(demo):
    folder = demo[0]
    pages = [*folder.rglob("*.html"), *folder.rglob("README.md")]
    assert {"report.html", "names.html", "map.html", "README.md"} == {page.name for page in pages}
    assert {page.parent.name for page in pages} >= {"dataset", "barcodebert", "aligned", "clibd"}
    for page in pages:
        assert "Made-up data" in page.read_text(encoding="utf-8"), page
    card = (folder / "barcodebert" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and card.index("\n---\n") < card.index(REMARK) and card.count(REMARK) == 1
    mark_cards(folder)
    assert (folder / "barcodebert" / "README.md").read_text(encoding="utf-8") == card


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser, google-chrome or chrome on the PATH")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_report_is_not_wider_than_a_window(demo, tmp_path, width):
    """500 pixels is the least that a headless window has; only tables may scroll inside."""
    copy = tmp_path / "report.html"
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    page = re.sub(r"<meta http-equiv[^>]*>", "", page, flags=re.S)
    script = "document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth"
    copy.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--hide-scrollbars", "--dump-dom", copy.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    wide, window = map(int, re.search(r"<title>(\d+) of (\d+)</title>", shown).groups())
    assert wide <= window <= width


def test_the_model_of_the_demo_loads(demo):
    from bioscan_hf import BarcodeBertModel, KmerTokenizer

    folder, results, _ = demo
    model = BarcodeBertModel.from_pretrained(folder / "barcodebert")
    tokenizer = KmerTokenizer.from_pretrained(folder / "barcodebert")
    assert model(**tokenizer(["ACGTACGT"], return_tensors="pt")).pooler_output.shape == (1, 128)
    assert f"{results['model']['parameters']:,} parameters" in (folder / "barcodebert/README.md").read_text()


def test_only_an_earlier_demo_is_replaced(demo, tmp_path):
    folder, _, _ = demo
    with pytest.raises(FileExistsError, match="holds an earlier demo. Give another --output, or --force"):
        run_demo(folder)
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="holds something else. Give another --output."):
        run_demo(tmp_path, force=True)


def test_force_removes_what_a_demo_writes_and_nothing_else(demo, tmp_path):
    """The constants name every entry of a demo; other files in the folder stay."""
    from bioscan_hf.cli.demo import FILES, FOLDERS, _claim

    folder, _, _ = demo
    assert {path.name for path in folder.iterdir()} <= {*FOLDERS, *FILES}
    assert {*FOLDERS, "results.json", "report.html"} <= {path.name for path in folder.iterdir()}
    copy = tmp_path / "demo"
    shutil.copytree(folder, copy)
    (copy / "notes.txt").write_text("keep")
    _claim(copy, force=True)
    assert sorted(path.name for path in copy.iterdir()) == ["demo.json", "notes.txt"]
    assert (copy / "notes.txt").read_text() == "keep"


def test_python_of_the_readme_runs_on_the_output_of_the_demo(demo, monkeypatch, capsys):
    """Every block, in order, in the folder that holds `demo`."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.+?)```", readme, flags=re.S)
    assert len(blocks) >= 2
    monkeypatch.chdir(demo[0].parent)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out.splitlines()
    assert "(256, " in out[0] and out[-1] == "torch.Size([8, 128])"
