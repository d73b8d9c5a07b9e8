"""Names of taxa: their one form, and LabelMaps, their integer ids."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from math import isnan
from numbers import Integral
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_json, write_text
from .schema import MISSING, MISSING_TAXA

if TYPE_CHECKING:
    import pyarrow as pa

#: Words in the place of an epithet that are none.
NO_EPITHETS = "sp spp ssp subsp spec nr cf aff gr gen group complex indet agg near prope ex var".split()

#: Small letters of names, for a class of a regular expression: also those of old names such as "Aëdes".
SMALL = "a-zß-öø-ÿœ"

_PRINTABLE = bytes(range(32, 127))
_LONGEST_NAME = 150
_WORD = r"[^\W\d_]"
_PARTICLE = r"(?i:d[aeio]s?|del|della?|von|van|der|den|du|la|le|zu|zur|ter)"
_PARTICLES = rf"(?:{_PARTICLE} |[dDO]['’] ?|[A-Z]\. ?-?)*{_PARTICLE}?"
_PERSON = rf"{_PARTICLES}[A-Z]{_WORD}*(?:['’-]{_WORD}+)*\.?"
_PEOPLE = rf"{_PERSON}(?:(?:, | & |, & | et | and | in | ex ){_PERSON})*(?: et al\.?)?(?: f(?:il)?\.)?"
_YEAR = r"(?:,? ?[(\[]?1[789]\d\d[a-z]?[)\]]?|,? ?[(\[]?20\d\d[a-z]?[)\]]?)"
_EPITHET = rf"(?!{_PARTICLE}\b)[{SMALL}][{SMALL}'’-]+"
_AUTHOR = re.compile(
    rf"([A-Z][{SMALL}-]+)(?: \([A-Z][{SMALL}-]*\.?\))? ({_EPITHET})(?: (?!(?:{'|'.join(NO_EPITHETS)})\b)({_EPITHET}))?"
    rf" (?:\({_PEOPLE}{_YEAR}?\)|{_PEOPLE}{_YEAR}?|{_YEAR})"
)
_CODE = re.compile(r".* (?!L$)[A-Z]+")
_SUBGENUS = re.compile(rf"([A-Z][{SMALL}-]+) \([A-Z][{SMALL}-]*\.?\) ({_EPITHET}(?: {_EPITHET})?)")


def taxon_name(name: str) -> str | None:
    """A taxon's name in its one form: single spaces, no spaces at the ends, composed letters. None if it is missing.

    Example:
        >>> taxon_name(" Apis  mellifera"), taxon_name("unidentified")
        ('Apis mellifera', None)
    """
    text = " ".join(unicodedata.normalize("NFC", name).replace("\u200b", "").replace("\ufeff", "").split())
    return None if text.lower() in MISSING_TAXA else text


def without_author(species: str) -> str:
    """The name of a species without author, year and subgenus.

    Placeholders such as "Apis sp. 1BIO" and "Astraptes fulgerator CELT" stay as they are.

    Example:
        >>> without_author("Apis mellifera Linnaeus, 1758"), without_author("Apis mellifera L.")
        ('Apis mellifera', 'Apis mellifera')
    """
    if len(species) > _LONGEST_NAME or _CODE.fullmatch(species):
        return species
    match = _AUTHOR.fullmatch(species) or _SUBGENUS.fullmatch(species)
    if match is None or match[2].split()[0] in NO_EPITHETS:
        return species
    return " ".join(part for part in match.groups() if part)


def are_taxon_names(names: pa.Array) -> bool:
    """Whether `taxon_name` surely leaves all of `names` as they are. False for any that are not ASCII."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if names.null_count or pc.any(pc.is_in(pc.ascii_lower(names), pa.array(MISSING_TAXA, names.type))).as_py():
        return False
    every = pa.LargeListArray.from_arrays([0, len(names)], names)
    joined = pc.binary_join(every, pa.scalar(" ", names.type))[0].as_buffer().to_pybytes()
    return b"  " not in b" " + joined + b" " and not joined.translate(None, _PRINTABLE)


class Cleaned:
    """Applies a function to each distinct text of columns, and remembers its results.

    Args:
        unchanged: A quick test of an array of distinct texts: True if the function surely changes none of them.

    Attributes:
        values: Distinct results in the last column, some of them more than once.
    """

    def __init__(
        self, clean: Callable[[str], str | None], unchanged: Callable[[pa.Array], bool] | None = None
    ) -> None:
        self._clean, self._unchanged = clean, unchanged
        self._known: dict[str | None, str | None] = {None: None}
        self.values: pa.Array | None = None

    def __call__(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The column with cleaned texts; the same object if nothing changes."""
        import pyarrow as pa

        if column.null_count == len(column):
            self.values = pa.array([], pa.string())
            return column
        encoded = column.dictionary_encode().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0)
        self.values = encoded.dictionary
        if self._unchanged is not None and self._unchanged(self.values):
            return column
        texts = encoded.dictionary.to_pylist()
        for text in texts:
            if text not in self._known:
                self._known[text] = self._clean(text)
        cleaned = [self._known[text] for text in texts]
        if cleaned == texts:
            return column
        self.values = pa.array(cleaned, encoded.dictionary.type)
        return pa.chunked_array([self.values.take(encoded.indices)])


def _name(value: Any) -> str | None:
    """A name, None if missing.

    Raises:
        TypeError: if `value` is neither.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and isnan(value):
        return None
    raise TypeError(f"{value!r} is a {type(value).__name__}, not the name of a taxon. For ids use index2label.")


def _label_id(value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        message = f"{value!r} is a {type(value).__name__}, not an id (an integer). For names use label2index."
        raise TypeError(message) from None


class LabelMaps:
    """Names of taxa and their ids: 0, 1, 2, ... in lexicographic order over a whole release, -1 if missing.

    The ids do not depend on the split and are equal to those of the `bioscan-dataset` package.

    Example:
        >>> maps = LabelMaps({"order": ["Diptera", "Coleoptera", None, "Diptera"]})
        >>> maps.encode("order", ["Diptera", None])
        [1, -1]
        >>> maps.decode("order", [0, -1])
        ['Coleoptera', None]
    """

    def __init__(self, columns: Mapping[str, Iterable[str | None]]):
        self._names = {column: tuple(sorted({name for name in names if name})) for column, names in columns.items()}
        self._ids = {column: {name: i for i, name in enumerate(names)} for column, names in self._names.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelMaps) and self._names == other._names

    def __repr__(self) -> str:
        return f"LabelMaps({', '.join(f'{column}: {len(names)}' for column, names in self._names.items())})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that have labels."""
        return tuple(self._names)

    def names(self, column: str) -> tuple[str, ...]:
        """All names of `column`; the position of a name is its id.

        Raises:
            ValueError: if the column has no labels.
        """
        if column not in self._names:
            raise ValueError(f"No labels for the column {column!r}. There are labels for {', '.join(self._names)}.")
        return self._names[column]

    def select(self, columns: Iterable[str]) -> LabelMaps:
        """The maps of some columns."""
        return LabelMaps({column: self.names(column) for column in columns})

    def encode(self, column: str, names: Iterable[str | None]) -> list[int]:
        """Ids of `names`; -1 for None and "".

        Raises:
            KeyError: if a name is not in the release.
            ValueError: if the column has no labels.
        """
        self.names(column)
        ids = self._ids[column]
        try:
            return [ids[name] if name else MISSING for name in names]
        except KeyError as error:
            raise KeyError(
                f"{error.args[0]!r} is not a {column} of this release, which has {len(ids)}. "
                f"Use the LabelMaps of the release that contains this name."
            ) from None

    def decode(self, column: str, ids: Iterable[int]) -> list[str | None]:
        """Names of `ids`; None for -1.

        Raises:
            IndexError: if an id is neither -1 nor the id of a name.
            ValueError: if the column has no labels.
        """
        names = self.names(column)
        decoded: list[str | None] = []
        for i in ids:
            if not MISSING <= i < len(names):
                raise IndexError(f"{i} is not a {column} id: ids are 0 to {len(names) - 1}, or -1 if missing.")
            decoded.append(None if i == MISSING else names[i])
        return decoded

    def label2index(self, column: str, names: Any) -> int | list[int]:
        """Id of one name, or list of the ids of several (list, array, column); -1 for "", None and NaN.

        Raises:
            KeyError: if a name is not in the release.
            TypeError: if a value is not a name, such as an id.
        """
        if names is None or isinstance(names, str | float) or not isinstance(names, Iterable):
            return self.encode(column, [_name(names)])[0]
        return self.encode(column, [_name(name) for name in names])

    def index2label(self, column: str, ids: Any) -> str | list[str]:
        """Name of one id, or list of the names of several (list, array, tensor); "" for -1.

        Raises:
            IndexError: if an id is neither -1 nor the id of a name.
            TypeError: if a value is not an integer, such as a name.
        """
        if isinstance(ids, Integral | str) or not isinstance(ids, Iterable):
            return self.decode(column, [_label_id(ids)])[0] or ""
        return [name or "" for name in self.decode(column, [_label_id(i) for i in ids])]

    def save(self, path: str | Path) -> None:
        """Writes the names as JSON, column -> list of names, atomically."""
        write_text(path, json.dumps(self._names, ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> LabelMaps:
        """Reads a file that `save` wrote.

        Raises:
            ValueError: if it is damaged; the message names the file.
        """
        content = read_json(path)
        for column, names in content.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{str(path)!r} does not hold label ids: {column[:80]!r} is not a list of names.")
        return cls(content)
