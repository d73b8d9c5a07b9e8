"""Pictures of README and docs/measured, each with the digest of its numbers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bioscan_hf.plots import accuracy_bars, reliability_curve

from .results import ROOT, results

FOLDER = ROOT / "docs/measured"

#: Row of real_coi.json -> its name in the picture.
DRAWN = {
    "vsearch, 32 candidates": "vsearch",
    "6-mer counts": "6-mer counts",
    "aligned, whole profile": "bioscan_hf (aligned)",
}
QUESTIONS = {
    "species of test": "species\n(known)",
    "genus of test_unseen": "genus of\nnew species",
    "family of test_unseen": "family of\nnew species",
    "order of test_unseen": "order of\nnew species",
}


def drawn() -> dict[str, dict[str, float | None]]:
    """Accuracies by the nearest reference."""
    metrics = results("real_coi")["metrics"]
    return {
        name: {text: metrics[way][question]["micro_accuracy"] for question, text in QUESTIONS.items()}
        for way, name in DRAWN.items()
    }


def bars(numbers: dict[str, dict[str, float | None]]) -> Figure:
    """The picture of README."""
    figure = accuracy_bars(numbers, ylabel="right names (%)", size=(5.4, 3.3))  # legible on a phone
    figure.suptitle("Nearest reference on 83,517 public barcodes of insects (BOLD)", fontsize=10)
    return figure


def bins() -> dict[str, list[list[float]]]:
    """Rank -> number, mean confidence and share right of the names in each bin, of whole reads, half of them new."""
    cells = [one["cells"]["whole, as they are, half new"] for one in results("confidence")["metrics"].values()]
    return {
        rank: [row for cell in cells for row in cell[rank]["reliability"]] for rank in ("family", "genus", "species")
    }


def reliability(numbers: dict[str, list[list[float]]]) -> Figure:
    """Confidences and shares of right names."""
    answers: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for rank, rows in numbers.items():
        counts = [int(row[0]) for row in rows]
        right = [np.arange(count) < round(count * row[2]) for count, row in zip(counts, rows, strict=True)]
        answers[rank] = (np.repeat([row[1] for row in rows], counts), np.concatenate(right))
    figure = reliability_curve(answers)
    figure.suptitle("Whole reads, half of them of new species", fontsize=10)
    return figure


#: File -> results file, numbers, and picture of the numbers.
PICTURES: dict[Path, tuple[str, Callable[[], Any], Callable[[Any], Figure]]] = {
    FOLDER / "real_barcodes.svg": ("real_coi", drawn, bars),
    FOLDER / "reliability.svg": ("confidence", bins, reliability),
}


def digest(path: Path) -> str:
    """Name of the results file, and digest of the numbers, which the picture carries."""
    name, numbers, _ = PICTURES[path]
    return f"{name}.json {hashlib.sha256(json.dumps(numbers()).encode()).hexdigest()[:16]}"


def is_new(path: Path) -> bool:
    """Whether a picture has the numbers of its results file."""
    return path.is_file() and digest(path) in path.read_text(encoding="utf-8")


def draw(path: Path) -> None:
    """Writes a picture."""
    _, numbers, picture = PICTURES[path]
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "bioscan_hf"}):
        picture(numbers()).savefig(buffer, format="svg", metadata={"Date": None, "Description": digest(path)})
    lines = [line.rstrip() for line in buffer.getvalue().decode().splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
