"""The results file of a run: its numbers beside what made them. Cards and tables are rendered from it.

Also how JSON and text are written, whole or not at all, and how JSON that others wrote is read. Imports nothing of
ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("bioscan_hf", "torch", "transformers", "datasets", "accelerate", "tokenizers", "scikit-learn", "numpy")

#: What this package reads as JSON is far smaller; a larger file is not read.
LARGEST_JSON = 64 * 2**20


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


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all; makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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


def read_json(path: str | Path, fields: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Content of a JSON file that holds an object.

    Args:
        fields: Name -> type of what it has to hold; a bool is no int.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no JSON object, is nested too deeply, is larger than 64 MiB, or lacks a field or holds
            it in another type; the file and the field are named.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{str(path)!r} has {path.stat().st_size:,} bytes, and no more than 64 MiB are read.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON ({error}). Is it whole?") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}, but has to hold an object.")
    for name, kind in (fields or {}).items():
        if name not in content:
            raise ValueError(f"{str(path)!r} has no field {name!r}. Is it of this package, and whole?")
        value = content[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(
                f"{name!r} in {str(path)!r} is a {type(value).__name__} ({str(value)[:50]}), but has to be a "
                f"{kind.__name__}."
            )
    return content


def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
