"""How a benchmark ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioscan_hf.provenance import write_results


def ended(output: Path, missed: Sequence[str], **results: Any) -> int:
    """Writes results with the claims that they miss, and prints these; returns the exit code, 1 if there are some."""
    write_results(output, missed=list(missed), **results)
    print(*missed, sep="\n")
    return int(bool(missed))
