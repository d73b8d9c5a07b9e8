"""`to_torch`: a map-style torch dataset with the arguments and keys of the `bioscan-dataset` package.

It replaces BIOSCAN5M(...) of that package. `published_unique_ids` is that package's rule for repeated barcodes.
Source: version 1.3 of https://github.com/bioscan-ml/dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch.utils.data import default_collate

from ..barcodes import kept_by_shuffle, published_digests
from ..labels import LabelMaps
from ..release.columns import NUMBERS
from ..release.layout import find_metadata
from ..release.rows import read_rows
from ..schema import MAX_NUCLEOTIDES

#: Other names of modalities and targets -> columns.
ALIASES = {"dna": "dna_barcode", "barcode": "dna_barcode", "uri": "dna_bin"}

TARGET_FORMATS = ("index", "text")
OUTPUT_FORMATS = ("tuple", "dict")


def to_torch(
    dataset: Dataset,
    modality: str | Iterable[str] = ("image", "dna"),
    *,
    target_type: str | Iterable[str] = "species",
    target_format: str = "index",
    output_format: str = "tuple",
    transform: Callable[[Any], Any] | None = None,
    dna_transform: Callable[[Any], Any] | None = None,
    target_transform: Callable[[Any], Any] | None = None,
    maps: LabelMaps | None = None,
) -> TorchRows:
    """A map-style torch dataset over the rows of `dataset`, as tuples or dicts.

    A tuple holds the modalities, then the target. A dict holds each modality under its given name, the name
    (`species`) and the id (`species_index`) of each target type, and the `target`. A missing id is -1, a missing name
    or text "", a missing number NaN, so `torch.utils.data.default_collate` accepts every row whose photo `transform`
    turns into a tensor; `collate` accepts the others as well.

    Args:
        dataset: From `load_bioscan5m` or another loader of this package; its order is kept.
        modality: "image", "dna", or any other column.
        target_type: Ranks or "dna_bin"; () makes the target None.
        target_format: "index" or "text".
        output_format: "tuple" or "dict".
        transform: Called with the PIL image.
        dna_transform: Called with the barcode.
        target_transform: Called with the target; a tuple if there are several target types.
        maps: Label ids of the release (`load_label_maps`). Needed if the dataset has no column `<target>_index`,
            because it was loaded without `ranks`.

    Raises:
        ValueError: for an unknown format or column, or label ids that are neither in the dataset nor in `maps`.
    """
    modalities = [modality] if isinstance(modality, str) else list(modality)
    targets = [ALIASES.get(t, t) for t in ([target_type] if isinstance(target_type, str) else target_type)]
    output_format = {"dictionary": "dict"}.get(output_format, output_format)
    if target_format not in TARGET_FORMATS:
        raise ValueError(f"Unknown target_format: {target_format!r}. Choose {' or '.join(TARGET_FORMATS)}.")
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(f"Unknown output_format: {output_format!r}. Choose {' or '.join(OUTPUT_FORMATS)}.")
    if target_transform is not None and not targets:
        raise ValueError("target_transform is given, but target_type is empty: give a target type, or leave it out.")
    with_ids = target_format == "index" or output_format == "dict"
    stored = [f"{name}_index" for name in targets if with_ids and f"{name}_index" in dataset.column_names]
    needed = [name for name in targets if with_ids and f"{name}_index" not in stored]
    _check_columns(dataset, modalities, targets, needed, maps)
    used = {*(ALIASES.get(name, name) for name in modalities), *targets, *stored}
    return TorchRows(
        # Unused columns are not read.
        dataset.with_format(None).select_columns([name for name in dataset.column_names if name in used]),
        modalities,
        targets,
        target_format,
        output_format,
        transform,
        dna_transform,
        target_transform,
        None if maps is None else maps.select(name for name in targets if name in maps.columns),
    )


def _check_columns(
    dataset: Dataset, modalities: Sequence[str], targets: Sequence[str], needed: Sequence[str], maps: LabelMaps | None
) -> None:
    """Raises ValueError for a missing column, or a `needed` column without label ids in `maps`."""
    has = f"This dataset has {', '.join(dataset.column_names)}."
    for name in modalities:
        if ALIASES.get(name, name) not in dataset.column_names:
            advice = " Load a config with photos, such as 'cropped_256'." if name == "image" else ""
            raise ValueError(f"Unknown modality {name!r}. {has}{advice}")
    for name in targets:
        if name not in dataset.column_names:
            raise ValueError(f"Unknown target_type {name!r}. {has}")
    for name in needed:
        if maps is None or name not in maps.columns:
            raise ValueError(
                f"No label ids for {name!r}: load with ranks=[{name!r}], or give maps=load_label_maps(source)."
            )


@dataclass(eq=False)
class TorchRows(torch.utils.data.Dataset[Any]):
    """Result of `to_torch`; the rows of a batch are read together."""

    dataset: Dataset
    modality: list[str]
    target_type: list[str]
    target_format: str
    output_format: str
    transform: Callable[[Any], Any] | None
    dna_transform: Callable[[Any], Any] | None
    target_transform: Callable[[Any], Any] | None
    maps: LabelMaps | None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._sample(self.dataset[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The rows at `indices`; a DataLoader calls this for a batch."""
        columns = self.dataset[list(indices)]
        return [self._sample(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]

    def _sample(self, row: dict[str, Any]) -> Any:
        inputs = [(name, self._input(name, row[ALIASES.get(name, name)])) for name in self.modality]
        names = [row[name] or "" for name in self.target_type]
        ids = [self._label_id(name, row) for name in self.target_type]
        picked = ids if self.target_format == "index" else names
        target = None if not picked else picked[0] if len(picked) == 1 else tuple(picked)
        if self.target_transform is not None:
            target = self.target_transform(target)
        if self.output_format == "tuple":
            return (*(value for _, value in inputs), target)
        sample = dict(inputs)
        for place, name in enumerate(self.target_type):
            sample[name], sample[f"{name}_index"] = names[place], ids[place]
        return {**sample, "target": target}

    def _input(self, name: str, value: Any) -> Any:
        column = ALIASES.get(name, name)
        if column in NUMBERS:
            # Always a float, so that a batch has one type with and without missing numbers.
            return nan if value is None else float(value)
        value = "" if value is None else value
        change = {"image": self.transform, "dna_barcode": self.dna_transform}.get(column)
        return value if change is None else change(value)

    def _label_id(self, name: str, row: dict[str, Any]) -> Any:
        if f"{name}_index" in row:
            return row[f"{name}_index"]
        return None if self.maps is None else self.maps.label2index(name, row[name])


def collate(rows: Sequence[Any]) -> Any:
    """One batch from rows of `to_torch`, tuples or dicts.

    Like `torch.utils.data.default_collate` (numbers and tensors become tensors, texts lists), except that PIL images
    and targets that are None become lists.
    """
    first = rows[0]
    if isinstance(first, dict):
        return {key: collate([row[key] for row in rows]) for key in first}
    if isinstance(first, tuple):
        return [collate(list(column)) for column in zip(*rows, strict=True)]
    return list(rows) if first is None or isinstance(first, PILImage.Image) else default_collate(list(rows))


def published_unique_ids(source: str | Path, max_nucleotides: int | None = MAX_NUCLEOTIDES) -> pa.Array:
    """Processids of the rows that `bioscan-dataset` keeps of a release with `reduce_repeated_barcodes=True`.

    Args:
        source: Folder of a release, or its metadata CSV, which is streamed (16 bytes are kept per barcode).
    """
    ids: list[pa.Array] = []
    digests: list[npt.NDArray[np.bytes_]] = []
    for _, table in read_rows(find_metadata(source), ("processid", "dna_barcode")):
        ids.append(table["processid"].combine_chunks())
        digests.append(published_digests(table["dna_barcode"], max_nucleotides))
    return pa.chunked_array(ids, pa.string()).take(pa.array(kept_by_shuffle(np.concatenate(digests)))).combine_chunks()
