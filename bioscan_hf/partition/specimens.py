"""What a partition needs of the rows of a table, gathered block by block: about 70 bytes per row.

Sequences are kept only for rows with a species, once each. All others are known by a digest of 16 bytes.
Letters: R = rows, B = distinct barcodes. An id of -1 means missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..barcodes import barcode_digests, spelled
from ..labels import Cleaned, are_taxon_names, taxon_name, without_author
from ..schema import LABEL_COLUMNS
from .columns import NEEDED_COLUMNS, encode, examples, put, require_columns, text

#: Columns whose names are brought into one form.
NAMED_COLUMNS = (*LABEL_COLUMNS, "taxon")

_BLOCK = 50_000


class Codes:
    """A column of names as ids, gathered from blocks."""

    def __init__(self) -> None:
        self._ids: dict[str | None, int] = {None: -1}
        self._parts: list[npt.NDArray[np.int32]] = []

    def add(self, column: Any) -> None:
        """Takes the next rows."""
        ids, names = encode(column)
        known = [self._ids.setdefault(name, len(self._ids) - 1) for name in names.to_pylist()]
        self._parts.append(np.array([*known, -1], np.int32)[ids])

    def finish(self) -> Names:
        """The ids in the order of the names."""
        names = sorted(name for name in self._ids if name is not None)
        place = np.full(len(self._ids), -1, np.int32)  # the last one is read by the id -1
        for i, name in enumerate(names):
            place[self._ids[name]] = i
        self._parts.append(np.zeros(0, np.int32))
        return Names(place[np.concatenate(self._parts)], names)


class Names(NamedTuple):
    """Ids (R,), -1 where missing, and the names in lexicographic order."""

    ids: npt.NDArray[np.int32]
    names: list[str]


class Normal:
    """Brings the names and barcodes of blocks into their one form, and counts the species that change.

    Attributes:
        authors: Species with an author, as given -> rows.
    """

    def __init__(self) -> None:
        self.authors: Counter[str] = Counter()
        self._cleaned = {name: Cleaned(taxon_name, are_taxon_names) for name in NAMED_COLUMNS}
        self._plain = {name: Cleaned(without_author) for name in ("species", "taxon")}

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block with the same columns."""
        for name in NAMED_COLUMNS:
            if name not in block.column_names:
                continue
            column = self._cleaned[name](_strings(block[name]))
            if name in self._plain:
                plain = self._plain[name](column)
                if name == "species" and plain is not column:
                    changed = column.filter(pc.fill_null(pc.not_equal(column, plain), False))
                    self.authors.update(changed.to_pylist())
                column = plain
            block = put(block, name, column)
        return put(block, "dna_barcode", spelled(_strings(block["dna_barcode"])))


def _strings(column: Any) -> Any:
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column
    if pa.types.is_dictionary(column.type):
        return _strings(column.cast(column.type.value_type))
    return column.cast(pa.large_string())


class Specimens:
    """Rows of a table as ids.

    Attributes:
        processids: Of each row.
        barcode: Barcode ids (R,).
        count: Number of distinct barcodes B.
        names: Column -> its names, of the label columns that the table has.
        normal: What brought the names into one form.
    """

    def __init__(self) -> None:
        self.normal = Normal()
        self._processids: list[Any] = []
        self._digests: list[npt.NDArray[np.bytes_]] = []
        self._codes: dict[str, Codes] = {}
        self._letters: dict[bytes, str] = {}

    def add(self, block: pa.Table) -> None:
        """Takes the next rows."""
        require_columns(block, NEEDED_COLUMNS)
        block = self.normal(block)
        self._processids += text(block["processid"]).chunks
        for name in NAMED_COLUMNS:
            if name in block.column_names:
                self._codes.setdefault(name, Codes()).add(text(block[name]))
        trimmed = pc.utf8_trim(block["dna_barcode"], "N")
        digests = barcode_digests(trimmed)
        self._digests.append(digests)
        named = pc.is_valid(block["species"])
        for digest, sequence in zip(
            digests[named.to_numpy(zero_copy_only=False)].tolist(), trimmed.filter(named).to_pylist(), strict=True
        ):
            self._letters.setdefault(digest, sequence)

    def finish(self) -> None:
        """Ends the gathering.

        Raises:
            ValueError: if a processid is missing or repeated, or a row has no barcode.
        """
        self.processids = pa.chunked_array(self._processids, pa.large_string())
        digests = np.concatenate([*self._digests, np.zeros(0, "S16")])
        self._digests.clear()
        _check_ids(self.processids)
        _check_barcodes(self.processids, digests)
        self.distinct, self.barcode = np.unique(digests, return_inverse=True)
        self.barcode = self.barcode.astype(np.int32)
        self.count = len(self.distinct)
        self.names = {name: codes.finish() for name, codes in self._codes.items()}
        self._codes.clear()

    def sequences(self, barcodes: npt.NDArray[Any]) -> list[str]:
        """Sequences of barcodes of rows with a species, without N at their ends."""
        return [self._letters[digest] for digest in self.distinct[barcodes].tolist()]


def blocks_of(table: pa.Table) -> Iterator[pa.Table]:
    """A table in blocks."""
    for start in range(0, max(len(table), 1), _BLOCK):
        yield table.slice(start, _BLOCK)


def _check_ids(processids: Any) -> None:
    if processids.null_count:
        raise ValueError(f"{processids.null_count} rows have no processid. Give each row a unique id.")
    counts = processids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise ValueError(
            f"{len(repeated)} processid{'s occur' if len(repeated) > 1 else ' occurs'} more than once: "
            f"{examples(repeated)}. Each is the id of one specimen: drop the repeated rows."
        )


def _check_barcodes(processids: Any, digests: npt.NDArray[np.bytes_]) -> None:
    empty = digests == b""
    if empty.any():
        without = processids.filter(pa.array(empty))
        raise ValueError(
            f"{len(without)} of {len(digests)} rows have no barcode (dna_barcode is empty, all N, or a word such as "
            f"NA): processid {examples(without)}. Rows are assigned by barcode: drop these rows or repair them."
        )
