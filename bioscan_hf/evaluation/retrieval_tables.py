"""Tables of the retrieval accuracies of a model and a baseline, with chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..terminal import aligned
from .retrieval_protocol import REPORTED

PARTS = ("seen", "unseen")

AVERAGES = ("macro", "micro")

_Parts = Sequence[Mapping[str, float | None]]


def table_text(models: Mapping[str, Mapping[str, Any]], ranks: Sequence[str], k: int) -> str:
    """Markdown tables of the reported combinations: accuracy in percent, and harmonic mean."""
    lines = []
    for average in AVERAGES:
        lines += [f"## {average.capitalize()} top-{k} accuracy (%): seen / unseen / harmonic mean", ""]
        lines += ["| combination | of | " + " | ".join(ranks) + " |", "|---|---|" + "---|" * len(ranks)]
        for name, model, parts in _accuracies(models, average, k):
            cells = [" / ".join(_percent(part[rank]) for part in parts) for rank in ranks]
            lines.append(f"| {name} | {model} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, _sizes(models)]) + "\n"


def printed(models: Mapping[str, Mapping[str, Any]], ranks: Sequence[str], k: int) -> str:
    """The tables for a terminal: a row for each rank and model."""
    lines = []
    for average in AVERAGES:
        rows: list[Sequence[str]] = [("combination", "rank", "of", *PARTS, "harmonic mean")]
        for name, found in groupby(_accuracies(models, average, k), key=itemgetter(0)):
            compared = [(model, parts) for _, model, parts in found]
            for rank in ranks:
                for model, parts in compared:
                    cells = [_percent(part[rank]) for part in parts]
                    rows.append((name, rank, model, *cells, *[""] * (3 - len(cells))))
        lines += [f"{average.capitalize()} top-{k} accuracy (%)", *aligned(rows, 3), ""]
    return "\n".join([*lines, _sizes(models)])


def _accuracies(models: Mapping[str, Mapping[str, Any]], average: str, k: int) -> Iterator[tuple[str, str, _Parts]]:
    """Combination, model or "chance", and rank -> accuracy of seen and unseen queries and their harmonic mean."""
    first, shown = _shown(models)
    for name in shown:
        for model, about in models.items():
            if name in about["tables"]:
                table = about["tables"][name]
                yield name, model, [table[part][average][k] for part in (*PARTS, "harmonic_mean")]
        yield name, "chance", [first[name][part]["chance"][average][k] for part in PARTS]


def _shown(models: Mapping[str, Mapping[str, Any]]) -> tuple[Mapping[str, Any], list[str]]:
    """Tables of the first model, and its combinations that are shown."""
    first: Mapping[str, Any] = next(iter(models.values()))["tables"]
    return first, [name for name in REPORTED if name in first] or list(first)


def _sizes(models: Mapping[str, Mapping[str, Any]]) -> str:
    first, (name, *_) = _shown(models)
    seen, unseen = (first[name][part]["queries"] for part in PARTS)
    return f"{first[name]['keys']:,} keys; {seen:,} seen and {unseen:,} unseen queries."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
