"""README and docs/measured: numbers come from results files, commands and links exist."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from bioscan_hf.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = sorted((ROOT / "docs/measured").glob("*.md"))

#: Results files that no page shows.
NOT_SHOWN = {
    "gpu_run_small",  # a trial on a CPU; tests/benchmarks/test_gpu_run.py reads it
}


@pytest.fixture
def render(monkeypatch):
    """benchmarks/render.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("render")
    for name in [name for name in sys.modules if name == "render" or name.split(".")[0] == "pages"]:
        del sys.modules[name]


def test_numbers_come_from_results_files(render):
    for path in render.pages():
        page = path.read_text(encoding="utf-8")
        assert render.rendered(page) == page, f"{path.name}: run python benchmarks/render.py"
    for path in render.pictures.PICTURES:
        assert render.pictures.is_new(path), f"{path.name}: run python benchmarks/render.py"


def other_numbers(value):
    """The same with every number larger."""
    if isinstance(value, dict):
        return {key: other_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [other_numbers(one) for one in value]
    return value if isinstance(value, bool | str | None) else value * 2


@pytest.mark.slow
def test_a_changed_file_changes_its_page(render, tmp_path, monkeypatch, capsys):
    """Every results file is on a page, and with other numbers the page differs."""
    pages = {path: path.read_text(encoding="utf-8") for path in render.pages()}
    text = "".join(pages.values())
    for file in sorted((ROOT / "benchmarks/results").glob("*.json")):
        if file.stem in NOT_SHOWN:
            continue
        assert f"<!-- run {file.stem} -->" in text, f"{file.name} is on no page"
        copy = tmp_path / file.stem
        shutil.copytree(file.parent, copy)
        content = json.loads(file.read_text(encoding="utf-8"))
        (copy / file.name).write_text(json.dumps(content | {"metrics": other_numbers(content["metrics"])}))
        monkeypatch.setattr(sys.modules["pages.results"], "RESULTS", copy)
        assert any(render.rendered(page) != page for page in pages.values()), file.name
    assert render.main(["--check"]) == 1
    assert "Differs: " in capsys.readouterr().out


def test_every_block_is_shown(render):
    text = "".join(path.read_text(encoding="utf-8") for path in render.pages())
    assert [name for name in render.BLOCKS if f"<!-- {name} -->" not in text] == []


def test_published_numbers_are_those_of_the_guide(render):
    guide = (ROOT / "docs/guides/reproduce.md").read_text(encoding="utf-8")
    for number in render.readme.PUBLISHED.values():
        assert re.search(rf"\b{number}\b", guide), number


def test_results_files_have_command_and_commit():
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["command"].startswith(("bench_", "gpu_run")), file.name
        assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", content["commit"]), file.name


def test_commands_in_readme_and_guides_exist():
    text = README + (ROOT / "docs/guides/commands.md").read_text(encoding="utf-8")
    names = set(re.findall(r"bioscan-hf ([a-z]+)", text))
    assert names >= {"demo", "simulate", "split", "build", "embed", "probe", "identify", "references"}
    assert names <= set(get_command(app).commands)


def test_readme_is_short_and_its_links_lead_to_files():
    """On GitHub; `sphinx-build -W` checks those of the pages."""
    assert len(README.splitlines()) <= 150
    for page in (ROOT / "README.md", *MEASURED):
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert not link.startswith("http"), link
            assert (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"


def test_specimens_in_the_text_are_those_of_the_file():
    splits = json.loads((ROOT / "benchmarks/results/real_coi.json").read_text())["partition"]["splits"]
    number = f"{sum(split['samples'] for split in splits):,}"
    assert number in README and number in (ROOT / "docs/measured/barcodes.md").read_text()


def test_ci_runs_the_second_command_of_readme():
    first, second = (command.strip() for command in re.findall(r"```bash\n(.+?)\n```", README, flags=re.S)[:2])
    assert "\n" not in first + second and "pip install" in first and "bioscan-hf demo" in first
    assert second.removeprefix(".venv/bin/") in (ROOT / ".ci/run").read_text()
