"""results.json: the metrics of a run with its command, commit, versions and machine. Cards are rendered from it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PureWindowsPath
from typing import Any

from .files import write_json

#: Packages whose versions are recorded.
PACKAGES = (
    *("bioscan_hf", "torch", "transformers", "datasets", "accelerate", "tokenizers", "scikit-learn", "numpy", "scipy"),
    *("faiss-cpu", "igraph", "umap-learn"),
)

#: Start of an absolute path: "/", "C:\\", "\\\\server", "//server", "\\\\?\\C:\\", "~/" or "file://".
_ROOT = r"(?:file://+|\\\\\?\\(?:UNC\\|[A-Za-z]:\\)|[A-Za-z]:[/\\]+|\\\\+|(?<!:)//|/|~[/\\])"

#: A folder with the slash after it. Single spaces inside are allowed, except after a file's extension.
_FOLDER = r"(?:(?![^/\\\n]*\.\w+ )[^/\\\s'\",;:<>|]+(?: [^/\\\s'\",;:<>|]+)*[/\\]+)"

#: An absolute path between quotes, and an absolute path anywhere in a text: what is cut.
_QUOTED = re.compile(rf"(?<=['\"]){_ROOT}[^'\"\n]*[/\\](?=[^'\"/\\\n]+['\"])")
_INSIDE = re.compile(rf"(?<![\w.)/\\]){_ROOT}{_FOLDER}+")

#: A text that is one absolute path and nothing else: without quotes, ": ", line ends or a second path.
_WHOLE = re.compile(rf"{_ROOT}(?!\s)(?:(?!['\"\n]|: |\s{_ROOT}).)+")

#: End of the name of an option, field or environment variable that holds a secret.
_NAME = r"(?:token|key|passw(?:or)?d|pwd|passphrase|secret|credentials?|signature)"

#: Names that hold a secret; the names of a tokenizer's special tokens do not.
_SECRET = re.compile(
    rf"(?!.*\b(?:mask|pad|unk|cls|sep|bos|eos)_token$)"
    rf".*(?:{_NAME}|(?:passw(?:or)?d|secret|(?:api|access|private)[_-]?key)\S*)",
    re.IGNORECASE,
)

#: A secret inside a text: NAME=VALUE, --NAME VALUE, and what stands in front of "@" in a URL.
_ASSIGNED = re.compile(rf"(?i)(?<![\w.-])((?:-{{0,2}}[\w.-]*{_NAME}=|--[\w-]*{_NAME}\s+(?!-)))([^\s&;,'\"]+)")
_IN_URL = re.compile(r"(://)[^/\s@'\"]+@")

#: Replaces a secret.
HIDDEN = "***"

#: Shortest value of a secret environment variable that is searched for in texts.
_SHORTEST_SECRET = 8


def provenance() -> dict[str, Any]:
    """Command, commit (None outside a checkout), versions and machine of this run."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *_arguments(sys.argv[1:])]),
        "commit": _commit(),
        "versions": versions,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }


def _arguments(arguments: Sequence[str]) -> Iterator[str]:
    """Command-line arguments without secrets and folders, also in the value after "="."""
    hidden = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hidden and not argument.startswith("--"):
            yield HIDDEN
        elif equals and _is_secret(name):
            yield f"{name}={HIDDEN}"
        else:
            option, equals, value = without_secrets(argument).rpartition("=")
            yield option + equals + without_folders(value)
        hidden = argument.startswith("-") and not equals and _is_secret(argument)


def _is_secret(name: str) -> bool:
    """Whether an option, field or environment variable of that name holds a secret."""
    return len(name) <= 200 and _SECRET.fullmatch(name) is not None


def without_secrets(value: Any) -> Any:
    """The same value with every secret in it replaced by `HIDDEN`.

    Secrets are: texts under a name that ends in token, key, password or secret; such names with their value inside a
    text (NAME=VALUE, --NAME VALUE); the part of a URL in front of "@"; and values of such environment variables.
    Mappings, lists and tuples are searched; numbers stay.

    Example:
        >>> without_secrets({"hub_token": "hf_abc", "steps": 2, "source": "https://ann:pw@example.org/x"})
        {'hub_token': '***', 'steps': 2, 'source': 'https://***@example.org/x'}
    """
    return _hide(value, _secrets_of_environment())


def _secrets_of_environment() -> list[str]:
    """Values of environment variables whose names say that they are secret, the longest first."""
    found = {value for name, value in os.environ.items() if _is_secret(name) and len(value) >= _SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)


def _hide(value: Any, known: Sequence[str], secret: bool = False) -> Any:
    """`value` without secrets; all its texts are hidden if it is `secret` itself."""
    if isinstance(value, Mapping):
        return {key: _hide(part, known, secret or _is_secret(str(key))) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(part, known, secret) for part in value]
    if not isinstance(value, str) or not value:
        return value
    if secret:
        return HIDDEN
    for text in known:
        value = value.replace(text, HIDDEN)
    return _IN_URL.sub(rf"\1{HIDDEN}@", _ASSIGNED.sub(rf"\1{HIDDEN}", value))


def without_folders(value: Any) -> Any:
    """The same value with every absolute path in its texts cut to its last part, and without secrets.

    POSIX, Windows and UNC paths are cut, also those with spaces in their folders and those inside longer texts. Hub
    ids, URLs, relative paths, dates and fractions stay. Mappings, lists and tuples are searched; keys stay. Secrets
    are those of `without_secrets`.

    Example:
        >>> without_folders({"problem": "no photo a/b.jpg in /home/ann/my release/x.zip, row 1/2"})
        {'problem': 'no photo a/b.jpg in x.zip, row 1/2'}
    """
    return _cut(without_secrets(value))


def _cut(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _cut(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_cut(part) for part in value]
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
            cut to their last part and secrets are hidden, because the file is published beside a model.
    """
    results = {"task": task, **without_folders(about), "metrics": without_secrets(metrics), **provenance()}
    write_json(path, results)
    return results
