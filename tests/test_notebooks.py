"""The notebooks of docs/notebooks run, and their stored outputs are of the kinds of a run.

After a change of a notebook, `BIOSCAN_HF_WRITE_NOTEBOOKS=1 python -m pytest -m slow tests/test_notebooks.py` stores
new outputs. Numbers and names differ between machines and versions, so columns and first lines are compared.
"""

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))


def told(notebook: Any) -> list[list[tuple[str, str]]]:
    """Of each cell, the kinds of its outputs, with the columns of a table or the first line without digits."""
    return [[(output.output_type, shown(output)) for output in cell.get("outputs", [])] for cell in notebook.cells]


def shown(output: Any) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return " ".join(re.findall(r"<th[^>]*>(.*?)</th>", data["text/html"].partition("</thead>")[0]))
    text = output.get("text") or data.get("text/plain", "")
    return re.sub(r"[\d.,]+", "", text.partition("\n")[0])


def run(path: Path, folder: Path) -> Any:
    """The notebook with outputs of a new kernel in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}, record_timing=False).execute()
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_as_stored(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress")  # of tqdm, without widgets
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    done = run(path, tmp_path)
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    if os.environ.get("BIOSCAN_HF_WRITE_NOTEBOOKS"):
        done.metadata = stored.metadata
        nbformat.write(done, path)
        stored = done
    unexpected = [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]
    assert not [one for one in unexpected if "left out of the barcode gap" not in one.get("text", "")]
    assert told(stored) == told(done)


def test_there_are_notebooks_and_they_name_no_folder():
    assert [path.stem for path in NOTEBOOKS] == ["cluster", "explore", "identify", "train_clibd"]
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|tmp|work|usr|root)/", re.sub(r'"image/png": "[^"]*"', "", text)), path.name
        assert len(text) < 500_000 and "simulated" in text
