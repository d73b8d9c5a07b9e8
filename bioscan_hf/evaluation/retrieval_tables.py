"""Markdown tables of the retrieval accuracies of a model and a baseline, with chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .retrieval_protocol import REPORTED

PARTS = ("seen", "unseen")


def table_text(models: Mapping[str, Mapping[str, Any]], ranks: Sequence[str], k: int) -> str:
    """Markdown tables of the reported combinations: accuracy in percent, and harmonic mean."""
    tables = {name: about["tables"] for name, about in models.items()}
    first = next(iter(tables.values()))
    shown = [name for name in REPORTED if name in first] or list(first)
    lines = []
    for average in ("macro", "micro"):
        lines += [f"## {average.capitalize()} top-{k} accuracy (%): seen / unseen / harmonic mean", ""]
        lines += ["| combination | of | " + " | ".join(ranks) + " |", "|---|---|" + "---|" * len(ranks)]
        for name in shown:
            for model, of_model in tables.items():
                if name in of_model:
                    table = of_model[name]
                    parts = [table[part][average][k] for part in ("seen", "unseen", "harmonic_mean")]
                    lines.append(_line(name, model, parts, ranks))
            chance = [first[name][part]["chance"][average][k] for part in PARTS]
            lines.append(_line(name, "chance", chance, ranks))
        lines.append("")
    sizes = first[shown[0]]
    lines.append(
        f"{sizes['keys']:,} keys; {sizes['seen']['queries']:,} seen and {sizes['unseen']['queries']:,} unseen"
    )
    return "\n".join(lines) + " queries.\n"


def _line(name: str, model: str, parts: Sequence[Mapping[str, float | None]], ranks: Sequence[str]) -> str:
    cells = [" / ".join("-" if part[rank] is None else f"{100 * part[rank]:.1f}" for part in parts) for rank in ranks]  # type: ignore[operator]
    return f"| {name} | {model} | {' | '.join(cells)} |"
