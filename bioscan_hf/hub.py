"""What the Hub shows: the card of a dataset from its build, the card of a model from its results file.

The templates are dataset_script/dataset_card.md and model_cards/*.md; no number in them is typed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from . import __version__
from .taxonomy import METASPLITS


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats are fractions, shown as percent with one decimal, and None is "not run"."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "not run"
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def dataset_card(
    source: str,
    configs: Sequence[str],
    counts: Mapping[str, int],
    fingerprints: Mapping[str, str],
    statistics: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """README.md of a dataset folder: the YAML by which `load_dataset` finds configs and splits, and a description.

    Args:
        source: Name of the file the dataset was built from.
        configs: Those that were built.
        counts: Split -> rows.
        fingerprints: Config -> fingerprint of its content. It goes into the YAML because the cache of `load_dataset`
            knows a local folder by its last name and this YAML alone: without it, another folder "dataset", or a
            rebuilt one, would load the rows of the first.
        statistics: For each split, and for the total, its `split`, `samples`, `barcodes` and `species`; without them
            the table of splits has the rows alone.
    """
    default = next((config for config in configs if config != "dna"), "dna")
    header = {
        "license": "cc-by-3.0",
        "pretty_name": "BIOSCAN-5M",
        "task_categories": ["image-classification", "zero-shot-image-classification", "feature-extraction"],
        "tags": ["biology", "biodiversity", "dna", "dna-barcode", "arthropods"],
        "size_categories": [_size_category(sum(counts.values()))],
        "configs": [
            {
                "config_name": config,
                "description": f"Build {fingerprints[config]}.",
                **({"default": True} if config == default else {}),
                "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in counts],
            }
            for config in configs
        ],
    }
    template = Template(files("bioscan_hf.dataset_script").joinpath("dataset_card.md").read_text(encoding="utf-8"))
    return template.substitute(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        title="BIOSCAN-5M",
        version=__version__,
        source=source,
        default=default,
        split=next(iter(counts)),
        total=f"{sum(counts.values()):,}",
        counts=_counts_table(counts, statistics),
    )


def _size_category(rows: int) -> str:
    """The Hub's name for a size of dataset."""
    bounds = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
    return next((name for bound, name in bounds if rows < bound), "10M<n<100M")


def _counts_table(counts: Mapping[str, int], statistics: Sequence[Mapping[str, Any]] | None) -> str:
    sets = {"pretrain": "unknown", "other_heldout": "held out"}
    sets |= {split: name for name in ("seen", "unseen") for split in METASPLITS[name]}
    if statistics is None:
        return table(
            ("split", "samples", "species are"), [(name, n, sets.get(name, "")) for name, n in counts.items()]
        )
    columns = ("samples", "barcodes", "species")
    rows = [(row["split"], *(row[column] for column in columns), sets.get(row["split"], "")) for row in statistics]
    return table(("split", *columns, "species are"), rows)


def barcodebert_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a BarcodeBERT folder.

    Args:
        results: Content of its results.json: `model` (k, layers, heads, hidden_size, parameters), `options`,
            `dataset`, and `metrics`.
    """
    model = results["model"]
    template = Template(files("bioscan_hf.model_cards").joinpath("barcodebert.md").read_text(encoding="utf-8"))
    training = {"data": results["dataset"], "split sizes": results["splits"], **results["options"]}
    return template.safe_substitute(
        title=title,
        k=f"{model['k']}",
        layers=model["num_hidden_layers"],
        heads=model["num_attention_heads"],
        hidden=model["hidden_size"],
        parameters=f"{model['parameters']:,}",
        training=table(("setting", "value"), [(key, str(value)) for key, value in training.items()]),
        results=table(("metric", "value"), [(key, _plain(value)) for key, value in results["metrics"].items()]),
    )


def _plain(value: Any) -> str:
    return "not run" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
