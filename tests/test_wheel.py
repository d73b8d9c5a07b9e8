"""The wheel and the sdist have every file, and run outside the checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

#: Endings of the files of a wheel.
SHIPPED = (".py", ".md", ".yaml", ".typed", ".txt", ".html", ".css", ".json", ".safetensors")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the files that `python -m build` makes from a copy of the tracked files, without network."""
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    if not names:
        pytest.skip("not a git checkout")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


def shipped() -> set[str]:
    """Modules and data files of the checkout, under the names that they have when installed."""
    found = set()
    for folder, prefix in {
        "bioscan_hf": "",
        "trainers": "trainers/",
        "dataset_script": "dataset_script/",
        "model_cards": "model_cards/",
        "metrics": "metric_modules/",
    }.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SHIPPED and path.is_file():
                found.add(f"bioscan_hf/{prefix}{path.relative_to(ROOT / folder).as_posix()}")
    return found


def test_wheel_has_every_module_trainer_card_and_config(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert len(shipped()) > 80 and names == shipped()


def test_sdist_has_the_sources_of_a_wheel(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    for needed in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "trainers/train_clibd.py"):
        assert needed in names
    assert {"dataset_script/dataset_card.md", "model_cards/barcodebert.md", "trainers/launch/fsdp.yaml"} <= names


def test_version_has_one_place(built):
    """`__init__` has the version; the wheel, the citation and the changelog agree."""
    from bioscan_hf import __version__

    (wheel,) = built.glob("*.whl")
    assert wheel.name.split("-")[1] == __version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.M) == [__version__]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", changelog, re.M)
    assert headings[: headings.index(__version__)] in ([], ["Unreleased"])
    assert not re.search(rf"{re.escape(__version__)}", (ROOT / "setup.cfg").read_text(encoding="utf-8"))


def test_installed_outside_the_checkout(built, tmp_path):
    """The files of the wheel run: the command line, the demo, and a trainer by `accelerate launch -m`."""
    (wheel,) = built.glob("*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    assert subprocess.run([*install, str(wheel)], capture_output=True).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "ACCELERATE_USE_CPU": "yes"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = run(
        sys.executable, "-c", "import bioscan_hf, bioscan_hf.trainers as t; print(bioscan_hf.__file__, t.__file__)"
    )
    assert all(path.startswith(str(site)) for path in where.split())
    main = [sys.executable, "-c", "import sys; from bioscan_hf.cli.main import main; main(sys.argv[1:])"]
    run(*main, "demo", "--output", "demo", "--specimens", "300", "--steps", "3", "--quiet")
    assert (work / "demo" / "report.html").stat().st_size > 1000
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    assert "--source" in run(*launcher, "-m", "bioscan_hf.trainers.pretrain_barcodebert", "--help")
