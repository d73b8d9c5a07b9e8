"""The guides and the pages for users: Python and shell blocks run in order.

tests/test_commands.py runs the commands of other blocks.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import minihub
import pytest

from bioscan_hf.trainers import pretrain_barcodebert, train_clibd

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
PAGES = [*GUIDES, *sorted((ROOT / "docs/users").glob("*.md"))]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)


def blocks(guide: Path) -> list[tuple[str, str]]:
    """(language, text) of every block."""
    return BLOCK.findall(guide.read_text(encoding="utf-8"))


def pushed(text: str, home: Path) -> dict[str, set[str]]:
    """Runs a block that pushes in a process of its own against a local Hub: repository -> its files."""
    with minihub.serve() as hub:
        environment = minihub.environment(hub, home)
        done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"
        return {repo: set(hub.files(repo)) for repo in hub.repos}


@pytest.mark.parametrize("guide", PAGES, ids=lambda path: path.stem)
def test_guide_runs(guide, demo, tmp_path, monkeypatch):
    """In an empty folder with the demo and the trainers, as a reader of a checkout has them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(demo[0])
    (tmp_path / "trainers").symlink_to(ROOT / "trainers")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    names: dict = {}
    for language, text in blocks(guide):
        if language == "python" and ".push_to_hub(" in text:
            found = pushed(text, tmp_path / "home")
            assert found.keys() == set(re.findall(r'push_to_hub\("([^"]+)"', text))
            assert all(any(name.endswith((".parquet", ".safetensors")) for name in files) for files in found.values())
        elif language == "python":
            exec(compile(text, guide.name, "exec"), names)
        elif language == "bash":
            done = subprocess.run(["bash", "-e", "-c", text], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("guide", ["train", "train_clibd"])
def test_slurm_script_is_a_script(guide):
    """bash parses the block, and the configuration that it names exists. Its options are those of an example."""
    (text,) = [text for language, text in blocks(ROOT / f"docs/guides/{guide}.md") if language == "sh"]
    assert subprocess.run(["bash", "-n", "-c", text]).returncode == 0
    assert all((ROOT / name).is_file() for name in re.findall(r"trainers/launch/\w+\.yaml", text))
    (words,) = re.findall(r"(?:main train pretrain|train_clibd\.py) ([^\"]+)", text)
    parse = {"train": pretrain_barcodebert, "train_clibd": train_clibd}[guide].parse
    assert parse(shlex.split(words.replace("\\\n", " ")))[1].resume_from_checkpoint == "last"
