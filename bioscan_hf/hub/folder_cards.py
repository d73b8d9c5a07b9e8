"""The card of a folder, which is recognised by its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..cards import read_results
from ..dataset.publish import build_card
from ..files import read_json
from ..identification.publish import library_card
from ..identification.stored import AUDIT, FACTS, TABLE
from ..provenance import without_folders
from .cards import barcodebert_card, clibd_card
from .dataset_cards import clustering_card, index_card

#: File -> what a folder with it is.
KINDS = {
    FACTS: "library",
    "index.json": "index",
    "results.json": "results",
    "manifest.json": "dataset",
}


def kind_of(folder: Path) -> str:
    """What a folder is: one of the values of `KINDS`.

    Raises:
        FileNotFoundError: if it has none of these files.
    """
    found = next((kind for name, kind in KINDS.items() if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{str(folder)!r} has no card: it holds none of {', '.join(KINDS)}. Give the folder of a dataset, model, "
            f"clustering, index or library, or a results.json."
        )
    return found


def folder_card(folder: Path, title: str, license: str | None = None) -> str:
    """README.md of a dataset, a model, a clustering, an index or a library of references.

    Args:
        license: Id of the licence of a library on the Hub; "other" without one.

    Raises:
        FileNotFoundError, ValueError: for another folder, and as of the cards.
    """
    kind = kind_of(folder)
    if kind == "dataset":
        return build_card(folder)
    if kind == "library":
        records, facts = pq.read_table(folder / TABLE), without_folders(read_json(folder / FACTS))
        return library_card(title, records, facts, license or "other", audited=(folder / AUDIT).is_file())
    if kind == "index":
        beside = folder.parent / "results.json"  # where the evaluation of CLIBD writes it
        found = read_results(beside) if beside.is_file() else {}
        return index_card(title, folder, found if found.get("task") == "clibd/retrieval" else None)
    return results_card(title, read_results(folder / "results.json"))


def results_card(title: str, results: Mapping[str, Any]) -> str:
    """README.md of a model or a clustering, from its results; ValueError for results of another task."""
    task = str(results.get("task"))
    if task == "bioscan5m/clustering":
        return clustering_card(title, results)
    return (clibd_card if task.startswith("clibd/") else barcodebert_card)(title, results)
