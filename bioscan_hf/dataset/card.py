"""README.md of a dataset folder. The template is `dataset_script/dataset_card.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from .. import __version__
from ..cards import size_category, table
from ..schema import METASPLITS


def dataset_card(
    source: str,
    configs: Sequence[str],
    counts: Mapping[str, int],
    fingerprints: Mapping[str, str],
    statistics: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """README.md of a dataset folder: YAML for `load_dataset` and a description.

    Args:
        source: Name of the file that the dataset was built from.
        configs: Configs that were built.
        counts: Split -> rows.
        fingerprints: Config -> fingerprint of its content. The cache of `load_dataset` identifies a local folder by
            its name and this YAML only; the fingerprint keeps two folders "dataset" apart.
        statistics: `split`, `samples`, `barcodes` and `species` of each split and of the total; without them the table
            of splits has only rows.
    """
    default = next((config for config in configs if config != "dna"), "dna")
    header = {
        "license": "cc-by-3.0",
        "pretty_name": "BIOSCAN-5M",
        "task_categories": ["image-classification", "zero-shot-image-classification", "feature-extraction"],
        "tags": ["biology", "biodiversity", "dna", "dna-barcode", "arthropods"],
        "size_categories": [size_category(sum(counts.values()))],
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
        source=" ".join(source.split()).replace("`", "'"),
        default=default,
        split=next(iter(counts)),
        total=f"{sum(counts.values()):,}",
        counts=_counts_table(counts, statistics),
    )


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
