"""The table that compares several evaluations of retrieval, such as models of 1 M and 5 M specimens and none.

Source: table of Task III in BIOSCAN-5M, https://arxiv.org/abs/2406.12723
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cards import cell, read_results, table
from ..terminal import aligned
from .retrieval_protocol import REPORTED, combinations_of

PARTS = ("seen", "unseen", "harmonic_mean")

#: Entries of a results file that must be equal, so that accuracies can be compared.
SAME = ("evaluate", "key_splits", "ties", "index", "prototypes")


def read_evaluations(folders: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Name -> retrieval tables of the results in folders that evaluate_clibd wrote.

    Args:
        folders: Folders, or NAME=FOLDER; without a name, the name of the folder. A baseline is "NAME, baseline".

    Raises:
        ValueError: for results of another task, of other queries or keys than the first ones, or a name given twice.
        FileNotFoundError: if a folder has no results.
    """
    found: dict[str, Mapping[str, Any]] = {}
    first: tuple[str, dict[str, Any]] | None = None
    for given in folders:
        name, _, folder = given.rpartition("=")
        path = Path(folder) / "results.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder!r} has no results.json. Give folders that evaluate_clibd wrote.")
        results = read_results(path)
        models, options = results.get("metrics"), results.get("options")
        if results.get("task") != "clibd/retrieval" or not isinstance(models, Mapping) or "model" not in models:
            raise ValueError(f"{str(path)!r} is of another task. Give folders that evaluate_clibd wrote.")
        about = {key: (options or {}).get(key) for key in SAME} | {"splits": results.get("splits")}
        first = first or (given, about)
        for key, value in about.items():
            if value != first[1][key]:
                raise ValueError(
                    f"{given!r} and {first[0]!r} differ in {key}: {value!r} and {first[1][key]!r}. Evaluate them in "
                    f"the same way."
                )
        name = name or Path(folder).resolve().name
        for model, of_model in models.items():
            title = name if model == "model" else f"{name}, {model}"
            if title in found:
                raise ValueError(f"The name {title!r} is given twice. Name the folders: NAME=FOLDER.")
            found[title] = of_model["tables"]
    return found


def comparison(
    evaluations: Mapping[str, Mapping[str, Any]],
    ranks: Sequence[str],
    combinations: Sequence[str] = REPORTED,
    average: str = "macro",
    k: int = 1,
) -> tuple[str, str]:
    """Accuracies of several evaluations as Markdown (percent) and CSV (fractions): a row for each rank and name.

    Args:
        evaluations: Name -> tables as of `evaluate_retrieval`, also if read from JSON.
        average: "macro" or "micro".

    Raises:
        ValueError: for a combination, rank or k that no evaluation has.
    """
    unknown = [name for name in combinations if name not in combinations_of(("image", "dna", "text", "fused"))]
    if unknown:
        raise ValueError(f"Unknown combination {unknown[0]!r}. Give such as {', '.join(REPORTED)}.")
    columns = [(name, part) for name in combinations for part in PARTS]
    rows = [
        [rank, name, *(_share(tables, *column, average, k, rank) for column in columns)]
        for rank in ranks
        for name, tables in evaluations.items()
    ]
    for rank in ranks:
        if not any(value is not None for row in rows if row[0] == rank for value in row[2:]):
            raise ValueError(f"No evaluation has the {average} top-{k} accuracy at the rank {rank!r}.")
    titles = [
        f"{name}: {part}".replace("->", " to ").replace("dna", "DNA").replace("_", " ") for name, part in columns
    ]
    title = f"{average.capitalize()} top-{k} accuracy (%)"
    text = f"{title}\n\n{table(['rank', 'alignment', *titles], rows)}\n"
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([["rank", "alignment", *map(" ".join, columns)], *rows])
    return text, file.getvalue()


def printed(values: str, title: str) -> str:
    """The CSV of `comparison` as a table for a terminal: a row for each combination, rank and evaluation."""
    lines: list[Sequence[str]] = [("combination", "rank", "alignment", *(part.replace("_", " ") for part in PARTS))]
    rows = list(csv.DictReader(io.StringIO(values)))
    for name in dict.fromkeys(column.rpartition(" ")[0] for column in list(rows[0])[2:]):
        for row in rows:
            shares = (row[f"{name} {part}"] for part in PARTS)
            lines.append((name, row["rank"], row["alignment"], *(cell(float(x) if x else None) for x in shares)))
    return "\n".join([title, *aligned(lines, 3)])


def _share(tables: Mapping[str, Any], combination: str, part: str, average: str, k: int, rank: str) -> float | None:
    """An accuracy of a table; None where it was not measured."""
    of_k = tables.get(combination, {}).get(part, {}).get(average, {})
    of_rank = of_k.get(k, of_k.get(str(k), {}))
    return of_rank.get(rank)
