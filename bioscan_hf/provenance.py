"""results.json of a run: its numbers with the command, commit, versions and machine that made them.

Cards and tables are rendered from it.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from .files import write_json

PACKAGES = ("bioscan_hf", "torch", "transformers", "datasets", "accelerate", "tokenizers", "scikit-learn", "numpy")


def provenance() -> dict[str, Any]:
    """What a number needs to be believed: command, commit (None outside a checkout), versions and machine."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    program = Path(sys.argv[0]).name
    return {
        "command": shlex.join([program, *map(_without_folders, sys.argv[1:])]),
        "commit": _commit(),
        "versions": versions,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }


def _without_folders(argument: str) -> str:
    """An argument whose absolute path, alone or behind an option's "=", is cut to its last part."""
    option, equals, value = argument.rpartition("=")
    return option + equals + without_folders(value)


def without_folders(value: Any) -> Any:
    """The same, with every string that is an absolute path cut to its last part: the rest is this machine's business.

    Strings are looked for in mappings, lists and tuples, too; keys stay as they are.
    """
    if isinstance(value, Mapping):
        return {name: without_folders(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(part) for part in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name or value
    return value


def _commit() -> str | None:
    """Commit of the checkout that holds this package, with "+changes" if its code differs from it."""
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
    # Results that earlier runs have written are no change of the code.
    if commit and git("-C", "..", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"):
        commit += "+changes"
    return commit or None


def write_results(path: str | Path, *, task: str, metrics: Mapping[str, Any], **about: Any) -> dict[str, Any]:
    """Writes a results file: `task`, what the caller tells `about` the run, its `metrics`, and the provenance.

    Args:
        task: Name of the benchmark or step, such as "barcodebert/knn".
        metrics: Fractions in [0, 1] unless a name carries its unit.
        about: Options, dataset, split sizes, model, device, seconds; anything that JSON can hold. Absolute paths in it
            are cut to their last part, because the file is published beside a model.

    Returns:
        What was written.
    """
    results = {"task": task, **without_folders(about), "metrics": dict(metrics), **provenance()}
    write_json(path, results)
    return results
