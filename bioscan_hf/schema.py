"""The vocabulary of BIOSCAN-5M: columns, ranks, splits, label ids, taxonomy as text, and where a photo lies.

Pure Python, imports nothing of ours; every other module may import it.
Source of the names, counts and rules: the BIOSCAN-5M release (https://arxiv.org/abs/2406.12723).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import md5
from math import isnan
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any

RANKS = ("phylum", "class", "order", "family", "subfamily", "genus", "species")

#: The ranks and the barcode cluster (BIN): every column that can be a label.
LABEL_COLUMNS = (*RANKS, "dna_bin")

#: The 23 columns of the published metadata, in their order.
COLUMNS = (
    "processid",
    "sampleid",
    "taxon",
    *RANKS,
    "dna_bin",
    "dna_barcode",
    "country",
    "province_state",
    "coord-lat",
    "coord-lon",
    "image_measurement_value",
    "area_fraction",
    "scale_factor",
    "inferred_ranks",
    "split",
    "index_bioscan_1M_insect",
    "chunk",
)

#: The columns of the published table of bounding boxes: sizes and corners in pixels of the original photo.
BOX_TABLE_COLUMNS = (
    "processid",
    "width_original",
    "height_original",
    "x0",
    "y0",
    "x1",
    "y1",
    "scale_factor",
    "area_fraction",
)

SPLITS = ("pretrain", "train", "val", "test", "key_unseen", "val_unseen", "test_unseen", "other_heldout")

METASPLITS: dict[str, tuple[str, ...]] = {
    "seen": ("train", "val", "test"),
    "unseen": ("key_unseen", "val_unseen", "test_unseen"),
    "all": SPLITS,
}

SPLIT_ALIASES = {"validation": "val"}

#: The splits that share one zip of the published release; pretrain and train have their own.
EVAL_SPLITS = ("val", "test", "key_unseen", "val_unseen", "test_unseen", "other_heldout")

IMAGE_PACKAGES = ("cropped_256", "original_256", "cropped", "original_full")

CONFIGS = ("dna", *IMAGE_PACKAGES)

#: Nucleotides of a barcode that the published systems read; what follows is primer or noise.
MAX_NUCLEOTIDES = 660

#: Id of a missing label, in arrays. On disk a missing label is null, in a loss it is -100.
MISSING = -1

NOT_CLASSIFIED = "not_classified"

#: Rank -> its bit in the column `inferred_ranks`, the finest rank first. Unverified: the release says that the number
#: tells at which ranks the label is inferred, and not how. This order fits the one decoded case (4 where a subfamily
#: follows from the genus).
INFERRED_RANKS_BITS = {rank: 1 << i for i, rank in enumerate(reversed(RANKS))}


def resolve_splits(split: str) -> tuple[str, ...]:
    """Turns "val", "validation", "seen", "unseen", "all" or "a+b" into names of splits, each once, in the order given.

    Raises:
        ValueError: if a part is no split, naming it and the alternatives.
    """
    names: list[str] = []
    for part in split.split("+"):
        part = part.strip()
        part = SPLIT_ALIASES.get(part, part)
        expanded = METASPLITS.get(part, (part,))
        for name in expanded:
            if name not in SPLITS:
                raise ValueError(
                    f"Unknown split {part!r} in {split!r}. BIOSCAN-5M has {', '.join(SPLITS)}; "
                    f"'seen', 'unseen' and 'all' name several of them, and 'a+b' joins two."
                )
            if name not in names:
                names.append(name)
    return tuple(names)


def check_config(config: str) -> None:
    """Raises ValueError unless `config` is one of `CONFIGS`."""
    if config not in CONFIGS:
        raise ValueError(
            f"Unknown config {config!r}. BIOSCAN-5M has {', '.join(CONFIGS)} ('dna' is the one without photos)."
        )


def chunk(processid: str, split: str) -> str:
    """Name of the folder, inside a split, in which the release keeps the photo of `processid`; "" where there is none.

    The first hexadecimal digits of the md5 of the id: two in pretrain, one in train and other_heldout.
    """
    digits = {"pretrain": 2, "train": 1, "other_heldout": 1}.get(split, 0)
    return md5(processid.encode("ascii"), usedforsecurity=False).hexdigest()[:digits] if digits else ""


def image_path(processid: str, split: str, package: str) -> str:
    """Path of a photo inside the release: bioscan5m/images/PACKAGE/SPLIT/[CHUNK/]PROCESSID.jpg."""
    return "/".join(filter(None, ("bioscan5m/images", package, split, chunk(processid, split), f"{processid}.jpg")))


def taxonomy_text(
    taxonomy: Mapping[str, str | None],
    ranks: Sequence[str] = ("order", "family", "genus", "species"),
    missing: str | None = NOT_CLASSIFIED,
) -> str:
    """The taxonomy of one specimen as a text for a language model: the names of `ranks`, separated by spaces.

    With the defaults it is the text of CLIBD (https://arxiv.org/abs/2405.17537), in which an unknown rank stands as
    "not_classified" and the genus occurs twice, since a species is named by both words.

    Args:
        taxonomy: Rank -> name; None and "" are unknown.
        missing: What stands for an unknown rank; None leaves the rank out.
    """
    for rank in ranks:
        if rank not in RANKS:
            raise ValueError(f"Unknown rank {rank!r}. The ranks are {', '.join(RANKS)}.")
    names = (taxonomy.get(rank) or missing for rank in ranks)
    return " ".join(name for name in names if name)


def _name(value: Any) -> str | None:
    """A taxon's name, None for a missing one; anything else is a TypeError."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and isnan(value):
        return None
    raise TypeError(f"{value!r} is a {type(value).__name__}, not the name of a taxon. For ids use index2label.")


def _label_id(value: Any) -> int:
    """An id as int; anything but a whole number is a TypeError."""
    try:
        return index(value)
    except TypeError:
        what = f"{value!r} is a {type(value).__name__}, not an id (an integer). For names use label2index."
        raise TypeError(what) from None


def decode_inferred_ranks(value: int) -> tuple[str, ...]:
    """The ranks whose label was inferred, the coarsest first, by `INFERRED_RANKS_BITS` (unverified).

    Raises:
        ValueError: if `value` has a bit that is no rank's.
    """
    if not 0 <= value < 1 << len(RANKS):
        raise ValueError(f"inferred_ranks is {value}; with one bit for each rank it is 0 to {(1 << len(RANKS)) - 1}.")
    return tuple(rank for rank in RANKS if value & INFERRED_RANKS_BITS[rank])


class LabelMaps:
    """Names of taxa and their ids: 0, 1, 2, ... in lexicographic order over a whole release, -1 for a missing one.

    The ids do not depend on a split, and are those of the `bioscan-dataset` package.

    Example:
        >>> maps = LabelMaps({"order": ["Diptera", "Coleoptera", None, "Diptera"]})
        >>> maps.encode("order", ["Diptera", None])
        [1, -1]
        >>> maps.decode("order", [0, -1])
        ['Coleoptera', None]
    """

    def __init__(self, columns: Mapping[str, Iterable[str | None]]):
        self._names = {column: sorted({name for name in names if name}) for column, names in columns.items()}
        self._ids = {column: {name: i for i, name in enumerate(names)} for column, names in self._names.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelMaps) and self._names == other._names

    def __repr__(self) -> str:
        return f"LabelMaps({', '.join(f'{column}: {len(names)}' for column, names in self._names.items())})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that have labels here."""
        return tuple(self._names)

    def names(self, column: str) -> list[str]:
        """Every name of `column`; a name's place in the list is its id."""
        if column not in self._names:
            raise ValueError(f"No labels for the column {column!r}. There are labels for {', '.join(self._names)}.")
        return list(self._names[column])

    def select(self, columns: Iterable[str]) -> LabelMaps:
        """The maps of some columns alone."""
        return LabelMaps({column: self.names(column) for column in columns})

    def encode(self, column: str, names: Iterable[str | None]) -> list[int]:
        """Ids of `names`; -1 for None and for "".

        Raises:
            KeyError: if a name does not occur in the release.
        """
        self.names(column)
        ids = self._ids[column]
        try:
            return [ids[name] if name else MISSING for name in names]
        except KeyError as error:
            raise KeyError(
                f"{error.args[0]!r} is no {column} of this release ({len(ids)} names are known). "
                f"Label ids belong to one release: use the LabelMaps of the data that holds this name."
            ) from None

    def decode(self, column: str, ids: Iterable[int]) -> list[str | None]:
        """Names of `ids`; None for -1.

        Raises:
            IndexError: if an id is neither -1 nor the id of a name.
        """
        names = self.names(column)
        decoded: list[str | None] = []
        for i in ids:
            if not MISSING <= i < len(names):
                raise IndexError(f"{i} is no {column} id: they run from 0 to {len(names) - 1}, and -1 is missing.")
            decoded.append(None if i == MISSING else names[i])
        return decoded

    def label2index(self, column: str, names: Any) -> int | list[int]:
        """The id of one name, or a list of the ids of several (list, array, column); -1 for "", None and NaN.

        Raises:
            KeyError: if a name does not occur in the release.
            TypeError: if something is no name, such as an id.
        """
        if names is None or isinstance(names, str | float):
            return self.encode(column, [_name(names)])[0]
        if not isinstance(names, Iterable):
            _name(names)  # raises: neither a name nor several
        return self.encode(column, [_name(name) for name in names])

    def index2label(self, column: str, ids: Any) -> str | list[str]:
        """The name of one id, or a list of the names of several (list, array, tensor); "" for -1.

        Raises:
            IndexError: if an id is neither -1 nor the id of a name.
            TypeError: if something is no integer, such as a name.
        """
        if isinstance(ids, Integral | str) or not isinstance(ids, Iterable):
            return self.decode(column, [_label_id(ids)])[0] or ""
        return [name or "" for name in self.decode(column, [_label_id(i) for i in ids])]

    def save(self, path: str | Path) -> None:
        """Writes the names as JSON, column -> list of names, whole or not at all."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self._names, ensure_ascii=False), encoding="utf-8")
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> LabelMaps:
        """Reads what `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))
