"""The guides of docs/: Python and shell blocks run in order; commands that are only shown are parsed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from bioscan_hf.cli.main import app
from bioscan_hf.trainers import (
    contrast_barcodes,
    evaluate_clibd,
    finetune_barcodebert,
    pretrain_barcodebert,
    train_clibd,
)
from bioscan_hf.training.arguments import read_options

pytestmark = pytest.mark.shipped

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)

#: Program -> function that parses its options.
PROGRAMS = {
    "contrast_barcodes.py": contrast_barcodes.parse,
    "evaluate_clibd.py": lambda words: read_options(words, (evaluate_clibd.EvaluateOptions,)),
    "finetune_barcodebert.py": finetune_barcodebert.parse,
    "pretrain_barcodebert.py": pretrain_barcodebert.parse,
    "train_clibd.py": train_clibd.parse,
}


def blocks(guide: Path) -> list[tuple[str, str]]:
    """(language, text) of every block."""
    return BLOCK.findall(guide.read_text(encoding="utf-8"))


def check_command(words: list[str]) -> None:
    """Raises unless the options of a command line and the files that it names exist."""
    if words[0] == "bioscan-hf":
        command = get_command(app).commands[words[1]]
        command.make_context(words[1], words[2:]).close()
        return
    program = next(place for place, word in enumerate(words) if word.startswith("trainers/") and word.endswith(".py"))
    for word in words[:program]:
        assert not word.startswith("trainers/") or (ROOT / word).is_file(), word
    options = PROGRAMS[Path(words[program]).name](words[program + 1 :])
    assert options


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_guide_runs(guide, demo, tmp_path, monkeypatch):
    """In an empty folder with the demo and the trainers, as a reader of a checkout has them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(demo[0])
    (tmp_path / "trainers").symlink_to(ROOT / "trainers")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    names: dict = {}
    for language, text in blocks(guide):
        if language == "python":
            exec(compile(text, guide.name, "exec"), names)
        elif language == "bash":
            done = subprocess.run(["bash", "-e", "-c", text], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"


def test_shown_commands_can_be_parsed(tmp_path, monkeypatch):
    """`console` blocks need the real release or GPUs, so they are parsed and not run."""
    monkeypatch.chdir(tmp_path)
    shown = [
        line.removeprefix("$ ")
        for guide in GUIDES
        for language, text in blocks(guide)
        if language == "console"
        for line in text.replace("\\\n", " ").splitlines()
    ]
    assert len(shown) > 10
    usage_error = typer.BadParameter.__base__  # of click, or of the copy of click in typer
    for line in shown:
        check_command(shlex.split(line))
    for wrong in ("bioscan-hf probe dataset", "accelerate launch trainers/train_clibd.py --sauce x --output_dir y"):
        with pytest.raises((SystemExit, ValueError, usage_error)):
            check_command(shlex.split(wrong))


def test_slurm_script_is_a_script():
    """bash parses the block, and the configuration that it names exists."""
    (text,) = [text for language, text in blocks(ROOT / "docs/guides/train_clibd.md") if language == "sh"]
    assert subprocess.run(["bash", "-n", "-c", text]).returncode == 0
    assert (ROOT / re.search(r"trainers/launch/\w+\.yaml", text).group()).is_file()
