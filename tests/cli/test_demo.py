"""A small demo from end to end: real files, a real pretraining program, numbers and figures."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bioscan_hf.cli.demo import run_demo


def test_results_are_complete(demo):
    folder, results, _ = demo
    assert results == json.loads((folder / "results.json").read_text())
    assert sum(results["splits"].values()) == 300
    for model in ("BarcodeBERT", "4-mer counts"):
        assert list(results["metrics"][model]) == [
            "species of test",
            "genus of test_unseen",
            "family of test_unseen",
            "order of test_unseen",
        ]
        for value in results["metrics"][model].values():
            assert 0 <= value["micro_accuracy"] <= 1 and value["n_test"] > 0 and value["n_train"] > 0
    counts = results["metrics"]["4-mer counts"]["species of test"]
    assert counts["micro_accuracy"] > 2 * counts["chance"]
    assert len(results["pretraining"]["loss_curve"]) == 4


def test_report_shows_the_numbers_and_the_figures(demo):
    folder, results, said = demo
    page = (folder / "report.html").read_text()
    for metrics in results["metrics"].values():
        for value in metrics.values():
            assert f"<td>{value['micro_accuracy']:.1%}</td>" in page
    assert results["command"] in page and len(re.findall(r'<img src="data:image/png;base64,', page)) == 4
    for name in ("accuracy", "loss", "taxonomy", "photos"):
        picture = Image.open(io.BytesIO((folder / f"{name}.png").read_bytes()))
        assert len(set(picture.convert("L").resize((40, 40)).tobytes())) > 5, f"{name} is blank"
    assert str(folder / "report.html") in said[-1]


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
    assert {path.name for path in folder.iterdir()} == {*FOLDERS, *FILES}
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
