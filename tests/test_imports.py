"""The floors of the package: a folder imports only from lower floors. And how light the package is to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Folder, or file at the package's root, -> its floor. Imports go to lower floors, or stay inside the folder.
#:
#: Root files of floor 1 may import root files of floor 0. `models` holds the files that are uploaded beside weights;
#: they import their siblings only. `evaluation` lies below `training` because CLIBD is evaluated while it trains.
#: `cli` lies above `trainers` because `bioscan-hf train` runs them, and above `app` for the same reason.
FLOORS = {
    "schema": 0,
    "files": 0,
    "progress": 0,
    "terminal": 0,
    "metrics": 0,
    "labels": 1,
    "barcodes": 1,
    "provenance": 1,
    "plots": 1,
    "cards": 2,
    "losses": 2,
    "models": 1,
    "release": 2,
    "simulate": 3,
    "partition": 2,
    "search": 3,
    "dataset": 3,
    "checkpoints": 3,
    "encoders": 4,
    "crops": 4,
    "statistics": 4,
    "evaluation": 5,
    "clustering": 6,
    "training": 6,
    "identification": 7,
    "hub": 8,
    "auto": 9,
    "dataset_script": 9,
    "app": 10,
    "trainers": 10,
    "cli": 11,
}

#: Files of `models` that may import more than their siblings, because they are not uploaded.
NOT_UPLOADED = {"register"}


def parts_of(path: Path) -> tuple[str, ...]:
    """bioscan_hf/dataset/load.py -> ("dataset", "load"); trainers/x.py -> ("trainers", "x")."""
    found = path.relative_to(ROOT).with_suffix("").parts
    return found[1:] if found[0] == "bioscan_hf" else found


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """Modules of this repository that a file imports, anywhere in it, as parts: ("dataset", "load")."""
    package = parts_of(path)[:-1]
    found: set[tuple[str, ...]] = set()

    def add(module: tuple[str, ...], names: list[str]) -> None:
        for name in names:
            file = ROOT / "bioscan_hf" / Path(*module, name)
            whole = (*module, name) if file.with_suffix(".py").exists() or file.is_dir() else module
            if whole:
                found.add(whole)

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            names = [alias.name for alias in node.names]
            if node.level:
                add((*package[: len(package) - node.level + 1], *module), names)
            elif module[0] == "bioscan_hf":
                add(module[1:], names)
            elif module[0] in ("trainers", "dataset_script"):
                found.add(module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                module = tuple(alias.name.split("."))
                if module[0] == "bioscan_hf" and len(module) > 1:
                    found.add(module[1:])
    return found


def files() -> list[Path]:
    inside = [path for path in (ROOT / "bioscan_hf").rglob("*.py") if path != ROOT / "bioscan_hf" / "__init__.py"]
    return sorted([*inside, *(ROOT / "trainers").glob("*.py"), *(ROOT / "dataset_script").glob("*.py")])


def test_every_folder_has_a_floor_and_only_those():
    assert {parts_of(path)[0] for path in files()} == set(FLOORS)


@pytest.mark.parametrize("folder", sorted(FLOORS))
def test_imports_go_down(folder):
    upward = []
    for path in files():
        parts = parts_of(path)
        if parts[0] == folder:
            for target in imports_of(path):
                if target[0] != folder and FLOORS[target[0]] >= FLOORS[folder]:
                    upward.append(f"{'.'.join(parts)} imports {'.'.join(target)}")
    assert not upward, upward


def test_no_circles():
    """No file reaches itself through the imports of the package, inside a folder either."""
    edges = {parts_of(path): imports_of(path) for path in files()}
    done: set[tuple[str, ...]] = set()

    def visit(name: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> None:
        assert name not in above, " -> ".join(".".join(part) for part in (*above[above.index(name) :], name))
        if name not in done:
            for target in edges.get(name, ()):
                visit(target, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_uploaded_files_import_siblings_only():
    for path in sorted((ROOT / "bioscan_hf" / "models").glob("*.py")):
        if path.stem not in NOT_UPLOADED:
            assert {target[0] for target in imports_of(path)} <= {"models"}, path.name


def test_ranks_are_the_same_in_the_uploaded_file():
    from bioscan_hf import schema
    from bioscan_hf.models import taxonomy_text

    assert taxonomy_text.RANKS == schema.RANKS
    assert taxonomy_text.NOT_CLASSIFIED == schema.NOT_CLASSIFIED


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    """Guards the table against a reader that finds nothing."""
    monkeypatch.setattr(sys.modules[__name__], "parts_of", lambda path: ("dataset", "m"))
    source = (
        "from .load import a\nfrom . import build\nimport bioscan_hf.hub.export\nfrom bioscan_hf.cli.main import m\n"
    )
    source += "from ..schema import x\nfrom .. import plots\nfrom trainers import x\n"
    source += "def f():\n    from ..losses.rows import y\n"
    (tmp_path / "m.py").write_text(source)
    assert {".".join(parts) for parts in imports_of(tmp_path / "m.py")} == {
        *("dataset.load", "dataset.build", "hub.export", "cli.main", "schema", "plots", "trainers", "losses.rows"),
    }


def test_few_files_at_the_root():
    assert len(list((ROOT / "bioscan_hf").glob("*.*"))) <= 12


HEAVY = ("torch", "transformers", "datasets", "timm", "faiss", "umap", "sklearn", "matplotlib", "pyarrow", "numpy")


@pytest.mark.parametrize("statement", ["import bioscan_hf", "from bioscan_hf.cli.main import *; get_command(app)"])
def test_import_is_light(statement):
    """`import bioscan_hf` and the command line's help load none of the heavy libraries."""
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_tokenizer_is_light():
    """A tokenizer needs neither torch nor the models."""
    code = "import bioscan_hf.models.tokenization_kmer\nimport sys\n"
    code += "print([name for name in ('torch', 'datasets') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_import_hooks_nothing():
    """`import bioscan_hf` adds no finder, so other packages' post-import hooks still run."""
    code = "import sys\nbefore = list(sys.meta_path)\nimport bioscan_hf\nprint(sys.meta_path == before)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def test_public_names_exist():
    import bioscan_hf

    for name in bioscan_hf.__all__:
        assert getattr(bioscan_hf, name) is not None
    assert set(bioscan_hf.__all__) <= set(dir(bioscan_hf))
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        bioscan_hf.embedd  # noqa: B018
