"""Our names of the columns of other tables, and columns that mean the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..schema import COLUMNS, ID_NAMES, LABEL_NAMES, SEQUENCE_NAMES
from .problems import ReleaseError

_OTHER_NAMES = {
    "lat": "coord-lat",
    "latitude": "coord-lat",
    "lon": "coord-lon",
    "longitude": "coord-lon",
    "country/ocean": "country",
    "province/state": "province_state",
    "identification": "taxon",
}
#: Names of ranks in Spanish, Portuguese, French and German, without accents.
_FOREIGN_NAMES = {
    **dict.fromkeys(("filo", "embranchement", "stamm"), "phylum"),
    **dict.fromkeys(("clase", "classe", "klasse"), "class"),
    **dict.fromkeys(("orden", "ordem", "ordre", "ordnung"), "order"),
    **dict.fromkeys(("familia", "famille", "familie"), "family"),
    **dict.fromkeys(("subfamilia", "sous_famille", "unterfamilie"), "subfamily"),
    **dict.fromkeys(("genero", "genre", "gattung"), "genus"),
    **dict.fromkeys(("especie", "espece", "art"), "species"),
}

#: Columns of numbers, which can be written in several ways.
_NUMBERS = ("coord-lat", "coord-lon", "image_measurement_value", "area_fraction", "scale_factor")

#: Our name -> other names of the column, in the order in which they are taken.
_SYNONYMS: dict[str, list[str]] = {"processid": list(ID_NAMES), "dna_barcode": list(SEQUENCE_NAMES)}
for _other, _ours in {**LABEL_NAMES, **_OTHER_NAMES, **_FOREIGN_NAMES, **{name: name for name in COLUMNS}}.items():
    _SYNONYMS.setdefault(_ours, [_ours])
    if _other not in _SYNONYMS[_ours]:
        _SYNONYMS[_ours].append(_other)


_LONGEST_NAME, _MOST_NAMES = 40, 50  # in errors
_SEQUENCE = re.compile(r"[ACGTUN-]{50,}", re.IGNORECASE)


def spelt(name: str) -> str:
    """A column's name in lower case, without accents, with "_" for spaces and hyphens."""
    plain = unicodedata.normalize("NFKD", name.strip().lower())
    return re.sub(r"[\s-]+", "_", "".join(letter for letter in plain if not unicodedata.combining(letter)))


def _by_spelling(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(spelt(name), []).append(name)
    return found


def known_names(path: str | Path, names: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Column of the table -> our name for it, for columns with another known name, and those `chosen`.

    Of several columns with one meaning, that with our name is taken, or else the first of its other names; `Rivals`
    refuses the others unless their cells are the same. Raises ReleaseError if several columns could be the barcode.
    """
    columns = _by_spelling(names)
    renamed: dict[str, str] = dict(chosen or {})
    for ours, others in _SYNONYMS.items():
        found = [name for other in others for name in columns.get(spelt(other), []) if name not in renamed]
        if ours in names or ours in renamed.values() or not found:
            continue
        if ours == "dna_barcode" and len({spelt(name) for name in found}) > 1:
            raise ReleaseError(
                f"{path} has several columns of sequences: {', '.join(found)}. Rename the right one to {ours}, or "
                f"remove the others."
            )
        renamed[found[0]] = ours
    return renamed


def our_columns(path: str | Path, names: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our name, or the column's own -> column of the table; arguments and errors as of `known_names`."""
    renamed = known_names(path, names, chosen)
    return {renamed.get(name, name): name for name in names if name in renamed or name not in renamed.values()}


class Rivals:
    """Columns of a table that mean the same as one that is read, and are refused if their cells differ from its cells.

    `ours` is our name -> column that is read, `chosen` our names of columns that the user chose, `columns` our name ->
    columns that mean the same.
    """

    def __init__(self, path: str | Path, names: Sequence[str], ours: Mapping[str, str], chosen: Sequence[str] = ()):
        spellings = _by_spelling(names)
        used = [column for name, column in ours.items() if name in _SYNONYMS]
        self.path, self.ours = path, dict(ours)
        self.columns: dict[str, list[str]] = {}
        for name, column in ours.items():
            if name in chosen or name not in _SYNONYMS:
                continue
            # A table can have several kinds of ids, so only spellings of one name are the same.
            others = [column] if name == "processid" else [*_SYNONYMS[name], column]
            found = [one for other in dict.fromkeys(map(spelt, others)) for one in spellings.get(other, [])]
            rest = [one for one in found if one not in used]
            if rest:
                self.columns[name] = rest

    @property
    def all(self) -> list[str]:
        """The columns that are compared."""
        return [column for columns in self.columns.values() for column in columns]

    def check(
        self, first: int, table: pa.Table, cleaning: Callable[[str], Callable[[pa.ChunkedArray], pa.ChunkedArray]]
    ) -> None:
        """Raises ReleaseError for the first cell that differs from that of its rival.

        `first` is the number of the first row of `table`; `cleaning` gives the rule of the cells for our name.
        """
        for name, others in self.columns.items():
            rule = cleaning(name)
            own = pc.fill_null(rule(_text(table[self.ours[name]])), "")
            for other in others:
                same = pc.equal(own, rival := pc.fill_null(rule(_text(table[other])), ""))
                if not pc.all(same).as_py() and name in _NUMBERS:
                    same = _same_numbers(own, rival)
                if pc.all(same).as_py() is not False:
                    continue
                row = pc.index(same, False).as_py()
                cells = [repr(str(table[column][row].as_py() or "")[:40]) for column in (self.ours[name], other)]
                raise ReleaseError(
                    f"{self.path}: the columns {self.ours[name]!r} and {other!r} both stand for {name!r}, but differ "
                    f"in row {first + row} ({cells[0]} and {cells[1]}). Rename or remove one."
                )


def _same_numbers(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether cells hold the same number or text."""
    same = pc.equal(one, other)
    try:
        numbers = (pc.cast(pc.if_else(pc.equal(cells, ""), None, cells), pa.float64()) for cells in (one, other))
        return pc.or_(same, pc.fill_null(pc.equal(*numbers), False))
    except pa.ArrowInvalid:  # some are not numbers
        return same


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def separators(names: Sequence[str]) -> str:
    """Advice on a table with one column, or without names of columns; empty for others."""
    if any(_SEQUENCE.fullmatch(name) for name in names):
        return " Its first line seems to be a record: write the names of the columns above it."
    return " Its cells should be separated by commas, tabs, semicolons or |." if len(names) == 1 else ""


def listed(names: Sequence[str]) -> str:
    """Names of columns for an error: the first of many, and the beginnings of long ones."""
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names[:_MOST_NAMES]]
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, shown)) + more
