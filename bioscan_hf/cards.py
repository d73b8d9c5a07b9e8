"""Tables and values as Markdown text, and the files of a card.

Every value from outside is shown as text: it cannot add HTML, a link or a table column. Paths lose their folders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData
from huggingface_hub import eval_result_entries_to_yaml as entries_to_dicts

from .files import is_hub_id, read_json, write_text
from .provenance import without_folders

#: File of a model repository that leaderboards of datasets read.
EVAL_RESULTS_FILE = ".eval_results/bioscan_hf.yaml"


def read_results(path: str | Path) -> dict[str, Any]:
    """Content of a results file; ValueError if it is not a JSON object, nested too deeply, or above 64 MiB."""
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"Not a results file: {error} Give the results.json of a run.") from None


def write_card(path: str | Path, card: str) -> None:
    """Writes a card; results on a dataset of the Hub also go to `EVAL_RESULTS_FILE` beside it."""
    path = Path(path)
    write_text(path, card)
    if (text := eval_results_yaml(card)) is not None:
        write_text(path.parent / EVAL_RESULTS_FILE, text)


def eval_results_yaml(card: str) -> str | None:
    """Results of a model card as `.eval_results` YAML; None if none is on a dataset of the Hub."""
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    entries = [
        EvalResultEntry(
            dataset_id=result.dataset_type,
            task_id=re.sub(r"[^\w]+", "_", f"{result.dataset_split}_{result.metric_name}"),
            value=result.metric_value,
            notes=f"{result.metric_name}, split {result.dataset_split}, a fraction",
        )
        for result in data.eval_results or []
        if is_hub_id(result.dataset_type)
    ]
    return yaml.safe_dump(entries_to_dicts(entries), sort_keys=False, allow_unicode=True) if entries else None


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; see `cell` for how values are shown."""
    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value in a table: fractions (floats) as percent with one decimal, None as "not run"."""
    if value is None:
        return "not run"
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    return f"{value:,}" if isinstance(value, int) else escape(value)


def escape(text: Any) -> str:
    """A value as one line of Markdown without markup: HTML, links, code and table columns are escaped."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\[|`])", r"\\\1", line)


def setting(value: Any) -> str:
    """An option of a run as text, for a cell of a table. Paths are cut to their last part, also relative ones."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value))
    if isinstance(value, str):
        if is_hub_id(value) or re.match(r"\w+://", value):
            return value
        path = re.fullmatch(r"[^\s<>/\\]*([/\\][^\s<>/\\]*)+", value)
        return (path and PureWindowsPath(value).name) or without_folders(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def settings_table(results: Mapping[str, Any]) -> str:
    """Table of the data, split sizes and options of a run."""
    told = {"data": results["dataset"], "split sizes": results["splits"], **results["options"]}
    return table(("setting", "value"), [(str(key), setting(value)) for key, value in told.items()])


def size_category(rows: int) -> str:
    """The Hub's name for a dataset size."""
    bounds = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
    return next((name for bound, name in bounds if rows < bound), "10M<n<100M")
