"""LabelMaps: names of taxa and their integer ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isnan
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any

from .files import write_text
from .schema import MISSING


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
        """Writes the names as JSON, column -> list of names, atomically."""
        write_text(path, json.dumps(self._names, ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> LabelMaps:
        """Reads what `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))
