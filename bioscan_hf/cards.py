"""What every card of the Hub is made of: values as text, tables, templates, and the files that a card leaves.

A value is shown as text, whatever it holds: it cannot bring HTML, a link or a column of its own into a card. A path is
the business of the machine that it is on, so only its last part is shown. Templates: model_cards/*.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Template
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData
from huggingface_hub import eval_result_entries_to_yaml as entries_to_dicts

from .files import read_json, write_text

#: Where a model repository keeps what the leaderboard of a benchmark reads.
EVAL_RESULTS_FILE = ".eval_results/bioscan_hf.yaml"


def read_results(path: str | Path) -> dict[str, Any]:
    """Content of a results file.

    Raises:
        ValueError: for what is no JSON object, is nested too deeply, or is larger than 64 MiB.
    """
    try:
        return read_json(path)
    except ValueError as error:
        what = str(error).removeprefix(f"{str(path)!r} ")
        raise ValueError(f"{str(path)!r} is no results file: it {what} Give a trainer's.") from None


def write_card(path: str | Path, card: str) -> None:
    """Writes a card, and beside it what the leaderboard of a dataset of the Hub reads, if it has results on one."""
    path = Path(path)
    write_text(path, card)
    if (text := eval_results_yaml(card)) is not None:
        write_text(path.parent / EVAL_RESULTS_FILE, text)


def eval_results_yaml(card: str) -> str | None:
    """Results of a model card in the form of `.eval_results/*.yaml`; None where none is on a dataset of the Hub."""
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


def escape(text: Any) -> str:
    """The text of a value on one line of Markdown: HTML, links, code and columns of a table in it stay characters."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\[|`])", r"\\\1", line)


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a repository, "owner/name", and of no folder of this machine."""
    if not re.fullmatch(r"\w[\w.-]{0,95}/[\w.-]{1,96}", name, re.ASCII):
        return False
    return not Path(name).exists()


def without_folder(value: str) -> str:
    """The last part of what is a path; other text, a Hub id and a URL stay as they are."""
    if is_hub_id(value) or re.match(r"\w+://", value):
        return value
    absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    if absolute or value.startswith(("~/", "./", "../")) or re.fullmatch(r"[^\s<>/\\]*([/\\][^\s<>/\\]*)+", value):
        return PureWindowsPath(value).name or value
    return value


def setting(value: Any) -> str:
    """A setting of a run as text, for a cell of a table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value))
    if isinstance(value, str):
        return without_folder(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def settings_table(results: Mapping[str, Any]) -> str:
    """What a run learned from, and with which options."""
    told = {"data": results["dataset"], "split sizes": results["splits"], **results["options"]}
    return table(("setting", "value"), [(str(key), setting(value)) for key, value in told.items()])


def require(results: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError unless each part of the results, "" being the whole, is there and has the names it needs."""
    for part, names in wanted.items():
        content = results[part] if part else results
        if not isinstance(content, Mapping):
            raise ValueError(f"{part!r} of these results is a {type(content).__name__}, but has to be an object.")
        missing = [".".join(filter(None, (part, name))) for name in names if name not in content]
        if missing:
            raise ValueError(
                f"These results of {results.get('task')!r} have no {', '.join(missing)}: another version of the "
                f"package wrote them. Render the card with that version, or run the task again."
            )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats are fractions, shown as percent with one decimal, and None is "not run"."""
    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None:
        return "not run"
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    return f"{value:,}" if isinstance(value, int) else escape(value)


def template(name: str) -> Template:
    """A text of model_cards/."""
    return Template(files("bioscan_hf.model_cards").joinpath(name).read_text(encoding="utf-8"))


def named_dataset(source: Any) -> tuple[str, str]:
    """What `model-index` calls a dataset: its Hub id, or else its name; and its name."""
    name = PureWindowsPath(str(source)).name
    return (str(source) if is_hub_id(str(source)) else name), name


def size_category(rows: int) -> str:
    """The Hub's name for a size of dataset."""
    bounds = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
    return next((name for bound, name in bounds if rows < bound), "10M<n<100M")
