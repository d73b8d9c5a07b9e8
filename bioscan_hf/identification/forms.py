"""Columns of names of references, in their one form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from ..labels import NO_EPITHETS, SMALL, Cleaned, taxon_name, without_author
from ..schema import LABEL_COLUMNS, RANKS
from .lineages import NO_HIGHER, NOTHING, Lineage, from_name
from .records import counted

_NO_THIRD = (
    "hybrid|aggregate|clade|lineage|form|morph|strain|isolate|voucher|\\S*type|\\S*(?:virus|phage|symbiont|bacterium)"
)
_SUBSPECIES = re.compile(
    rf"([A-Z][{SMALL}-]+ (?!(?:{'|'.join(NO_EPITHETS)})\b)[{SMALL}][{SMALL}'’-]{{2,}}) (?:(?:subsp|ssp|var|f)\.? )?"
    rf"(?!(?:{'|'.join(NO_EPITHETS)}|{_NO_THIRD})\b)[{SMALL}][{SMALL}'’-]{{2,}}"
)
_CASED = re.compile(r"[A-Z-]{3,}( [A-Z-]{3,})*|[a-z-]{3,}( [a-z-]{3,})*")


def one_form(name: str) -> str | None:
    """The name of a taxon above a species in its one form, None for names of nothing.

    Capitals and underscores follow the rules of names; a subgenus is left out.

    Example:
        >>> one_form("APIDAE"), one_form("Apidae_incertae_sedis"), one_form("Aedes (Stegomyia)")
        ('Apidae', None, 'Aedes')
    """
    text = _plain(name)
    return None if text is None or NO_HIGHER.fullmatch(text) else re.sub(r" \([A-Z][a-z-]*\.?\)$", "", text)


def species_form(name: str) -> str | None:
    """The same of a species, without author and subspecies; an epithet alone in lower case.

    Example:
        >>> species_form("APIS MELLIFERA"), species_form("Apis_mellifera"), species_form("Apis sp. 1BIO")
        ('Apis mellifera', 'Apis mellifera', 'Apis sp. 1BIO')
        >>> species_form("Apis mellifera ligustica"), species_form("Apis sp.")
        ('Apis mellifera', None)
    """
    text = _plain(name)
    if text is None:
        return None
    if " " not in text:
        return text.lower() if _CASED.fullmatch(name) else text
    text = re.sub(r" \([a-z' -]+\)$", "", without_author(text))  # common names in SILVA
    match = _SUBSPECIES.fullmatch(text)
    return match[1] if match else text


def from_any_case(text: str) -> Lineage:
    """`from_name` of a cell, also of one in capitals or lower case."""
    return from_name(_plain(text) or text)


def _plain(name: str) -> str | None:
    text = name if " " in name else name.replace("_", " ")
    text = re.sub(r"^\[([A-Z][a-z-]+)\]", r"\1", text) if text.startswith("[") else text
    if taxon_name(text) is None or NOTHING.fullmatch(text):
        return None
    return text.capitalize() if _CASED.fullmatch(text) else text


@lru_cache(1 << 16)
def is_subspecies(name: str) -> bool:
    """Whether `species_form` leaves out the name of a subspecies."""
    return _SUBSPECIES.fullmatch(without_author(_plain(name) or "")) is not None


def in_one_form(table: Mapping[str, pa.ChunkedArray], notes: list[str]) -> dict[str, pa.ChunkedArray]:
    """The columns of `LABEL_COLUMNS` that are there, with names in their one form, and notes about what was changed.

    If there is no column of genera, the genus is taken from the species.
    """
    columns = {name: table[name] for name in LABEL_COLUMNS if name in table}
    for rank in (rank for rank in RANKS if rank in columns):
        given = columns[rank]
        if rank == "species" and "genus" in columns:
            given = _with_genera(given, columns["genus"])
        columns[rank] = Cleaned(species_form if rank == "species" else one_form)(given)
        if gone := given.filter(pc.and_(pc.is_valid(given), pc.is_null(columns[rank]))):
            have = "has" if len(gone) == 1 else "have"
            notes.append(f"{counted(len(gone))} {have} no {rank}: {gone[0].as_py()[:60]!r} or the like is not a name")
        changed = given.filter(pc.not_equal(given, columns[rank])).to_pylist() if rank == "species" else ()
        if below := [name for name in changed if is_subspecies(name)]:
            what = "counts as its" if len(below) == 1 else "count as their"
            notes.append(f"{counted(len(below))} of subspecies {what} species, such as {below[0][:60]!r}")
    if "species" in columns and "genus" not in columns:
        columns["genus"] = Cleaned(lambda name: from_any_case(name).get("genus"))(table["species"])
    return columns


def _with_genera(species: pa.ChunkedArray, genera: pa.ChunkedArray) -> pa.ChunkedArray:
    """Genera before texts that have none, such as "mellifera" and "sp. 1"."""
    short = pc.and_(pc.match_substring_regex(species, r"^([\p{Ll}\d]|\p{Lu}{3,}$)"), pc.is_valid(genera))
    if not pc.any(short).as_py():
        return species
    whole = pc.binary_join_element_wise(genera.cast(species.type), species, pa.scalar(" ", species.type))
    return pc.if_else(short, Cleaned(_one_genus)(pc.if_else(short, whole, None)), species)


def _one_genus(text: str) -> str:
    """A genus and a text, without a repeated genus; the text alone if it is a name of nothing."""
    genus, _, rest = text.partition(" ")
    if rest.lower().startswith(f"{genus} ".lower()) or _plain(rest) is None and not rest.startswith("cf"):
        return rest
    return f"{genus} {rest.lower() if rest.isupper() else rest}"
