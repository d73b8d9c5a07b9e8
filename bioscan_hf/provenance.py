"""results.json: the metrics of a run with its command, commit, versions and machine. Cards are rendered from it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PureWindowsPath
from typing import Any

from .files import write_json

#: Packages whose versions are recorded.
PACKAGES = (
    *("bioscan_hf", "torch", "transformers", "datasets", "accelerate", "tokenizers", "scikit-learn", "numpy", "scipy"),
    *("faiss-cpu", "igraph", "umap-learn"),
)

#: Start of an absolute path: "/", "C:\\", "\\\\server", "~/" or "file://".
_ROOT = r"(?:file://+|[A-Za-z]:[/\\]+|\\\\+|/|~[/\\])"

#: A folder with the slash after it. Single spaces inside are allowed, except after a file's extension.
_FOLDER = r"(?:(?![^/\\\n]*\.\w+ )[^/\\\s'\",;:<>|]+(?: [^/\\\s'\",;:<>|]+)*[/\\]+)"

#: An absolute path between quotes, and an absolute path anywhere in a text: what is cut.
_QUOTED = re.compile(rf"(?<=['\"]){_ROOT}[^'\"\n]*[/\\](?=[^'\"/\\\n]+['\"])")
_INSIDE = re.compile(rf"(?<![\w.)/\\]){_ROOT}{_FOLDER}+")

#: A text that is one absolute path and nothing else: without quotes, ": ", line ends or a second path.
_WHOLE = re.compile(rf"{_ROOT}(?!\s)(?:(?!['\"\n]|: |\s{_ROOT}).)+")


def provenance() -> dict[str, Any]:
    """Command, commit (None outside a checkout), versions and machine of this run."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *map(_argument, sys.argv[1:])]),
        "commit": _commit(),
        "versions": versions,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }


def _argument(argument: str) -> str:
    """A command-line argument without folders, also in the value after "="."""
    option, equals, value = argument.rpartition("=")
    return option + equals + without_folders(value)


def without_folders(value: Any) -> Any:
    """The same value with every absolute path in its strings cut to its last part.

    POSIX, Windows and UNC paths are cut, also those with spaces in their folders and those inside longer texts. Hub
    ids, URLs, relative paths, dates and fractions stay. Mappings, lists and tuples are searched; keys stay.

    Example:
        >>> without_folders({"problem": "no photo a/b.jpg in /home/ann/my release/x.zip, row 1/2"})
        {'problem': 'no photo a/b.jpg in x.zip, row 1/2'}
    """
    if isinstance(value, Mapping):
        return {name: without_folders(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(part) for part in value]
    if not isinstance(value, str):
        return value
    if _WHOLE.fullmatch(value):
        return PureWindowsPath(value).name or value
    return _INSIDE.sub("", _QUOTED.sub("", value))


def _commit() -> str | None:
    """Commit of the checkout that holds this package, with "+changes" if files were changed since."""
    here = Path(__file__).resolve().parent
    if not (here.parent / "setup.cfg").exists():  # installed, not a checkout
        return None

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    # Results of earlier runs do not count as changes.
    if commit and git("-C", "..", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"):
        commit += "+changes"
    return commit or None


def write_results(path: str | Path, *, task: str, metrics: Mapping[str, Any], **about: Any) -> dict[str, Any]:
    """Writes a results file with the provenance of this run, and returns its content.

    Args:
        task: Name of the benchmark or step, such as "barcodebert/knn".
        metrics: Fractions in [0, 1] unless a name gives a unit.
        about: Options, dataset, split sizes, model, device, seconds: anything that JSON can hold. Absolute paths are
            cut to their last part, because the file is published beside a model.
    """
    results = {"task": task, **without_folders(about), "metrics": dict(metrics), **provenance()}
    write_json(path, results)
    return results
