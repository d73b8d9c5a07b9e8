"""Results files, and how their numbers are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"

#: Name of a block -> a function that gives its text.
Blocks = Mapping[str, Callable[[], str]]

NOT_YET = "Not measured yet: `benchmarks/results` has no file of the present form of this benchmark."


def results(name: str) -> dict[str, Any]:
    """Content of a results file."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def exists(name: str) -> bool:
    return (RESULTS / f"{name}.json").is_file()


def claim(name: str) -> str:
    """The goals or claims of a benchmark that its results miss."""
    if not exists(name):
        return NOT_YET
    missed = results(name)["missed"]
    return f"Goals not reached: {'; '.join(missed)}." if missed else "Every goal of the benchmark is reached."


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def between(pair: list[float] | None) -> str:
    """An interval in percent."""
    return "-" if pair is None else f"{percent(pair[0])} to {percent(pair[1])}"


def megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def run(name: str) -> str:
    """Where the numbers of a results file come from: command, commit, seconds, machine and versions."""
    if not exists(name):
        return NOT_YET
    about = results(name)
    commit, _, changed = about["commit"].partition("+")
    machine, versions = about["machine"], about.get("versions", {})
    device = about.get("device", "cpu")
    where = f"{machine['cpus']} CPU cores ({machine['processor']})"
    if device != "cpu":
        where = f"{device}, {where}"
    parts = [
        f"Run: `{about['command']}`",
        f"commit {commit[:10]}{' with local changes' if changed else ''}",
        where,
        *([f"data: {about['dataset']}"] if about.get("dataset") else []),
        *([f"{about['seconds']:,.0f} s"] if isinstance(about.get("seconds"), int | float) else []),
        ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "numpy") if name in versions),
    ]
    line = "; ".join(part for part in parts if part)
    return f"{line}. File: `benchmarks/results/{name}.json`."
