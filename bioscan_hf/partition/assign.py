"""`make_splits`: the closed- and open-world partition of BIOSCAN-5M, for any table of barcodes with species names.

Species with a scientific name are seen: train, val, test. Species with a placeholder name ("Megaselia sp. 3BIO") are
unseen if their genus is seen and they have enough rows: key_unseen, val_unseen, test_unseen. Other species are
other_heldout, and barcodes without a species are pretrain. A barcode is a sequence without N at its two ends; all rows
of a barcode are in one split.

Source: BIOSCAN-5M, https://arxiv.org/abs/2406.12723. The rules are those of the published partition script, which
assumes a cleaned table. On other tables, the script can move unlabelled rows and rows of other species into a split.
Two rules prevent this here:

- Rows with equal barcodes first get equal labels.
- Rows whose label was copied from an identical barcode share its split but do not affect split sizes.

Letters: R = rows, B = distinct barcodes, S = distinct species, in lexicographic order. An id of -1 means missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schema import SPLITS, chunk
from .columns import put
from .draws import KEY_UNSEEN, MIN_ROWS, OTHER_HELDOUT, TRAIN, assign_splits
from .overlap import Overlaps, move_overlaps
from .placeholders import placeholder_genera, placeholder_species
from .relabel import commonest, label_sources, relabel
from .specimens import Specimens, blocks_of

logger = logging.getLogger(__name__)


def make_splits(
    table: Any,
    seed: int = 0,
    *,
    hold_out_species: float = 0.0,
    unlabel: float = 0.0,
    no_overlap: bool = False,
    tell: Callable[[str], object] = logger.info,
) -> Any:
    """Assigns every row to one of the eight splits of BIOSCAN-5M.

    The result keeps the order of the rows and does not depend on it. Columns `split` and `chunk` are replaced, and
    columns that are not named here do not change.

    Names and barcodes get their one form first (`labels.taxon_name`, `labels.without_author`, `barcodes.spell`), so
    equal barcodes are equal however they are spelt. Rows with equal barcodes then get equal labels: their most common
    scientific species, or else their most common placeholder. A row whose species changes takes the lineage of the
    first row, by processid, of the new species. If any species changes, the input's names are kept in
    `original_species`, `original_genus` and, if there are subfamilies, `original_subfamily`.

    `hold_out_species` and `unlabel` simulate placeholder names and missing names, for tables where every row has a
    scientific name. They are not part of the published partition: say so where you use them. Both choose by a hash of
    seed and name.

    Args:
        table: Arrow table, `datasets.Dataset` or pandas DataFrame. Needs processid (unique), genus, species and
            dna_barcode (never missing); null, "" and markers such as "NA" are missing names.
        seed: 0 gives the published draws.
        hold_out_species: Share, in [0, 1), of the scientific species to treat as placeholders; their names are kept.
            Each genus keeps at least one other species, so it can be fewer.
        unlabel: Share, in [0, 1), of the rows of all other scientific species that lose species, genus and subfamily.
            Their `taxon` becomes the finest remaining name. Whole barcodes are drawn, because single rows would get
            their labels back from equal barcodes.
        no_overlap: Moves barcodes of the evaluation splits that are a part of a reference (train, key_unseen), or
            contain one, to train or key_unseen. Not part of the published partition. Other copies of references
            (`partition.copies`) are told and stay, with and without it.
        tell: Called with lines on what was done.

    Returns:
        The data with `split` filled, of the type that was given.

    Raises:
        ValueError: if a column is missing, a processid is missing or repeated, a barcode is missing, a share is
            outside [0, 1), the seed is negative, or an earlier partition has added a column `original_species`.
    """
    check_arguments(seed, hold_out_species, unlabel)
    arrow, back = _as_arrow(table)
    check_columns(arrow.column_names)
    specimens = Specimens()
    for block in blocks_of(arrow):
        specimens.add(block)
    specimens.finish()
    assignment = assign(specimens, seed, hold_out_species=hold_out_species, unlabel=unlabel, no_overlap=no_overlap)
    for note in assignment.notes:
        tell(note)
    return back(assignment.apply(arrow))


def _as_arrow(data: Any) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
    """The data as an Arrow table, and what makes the same type of a table again."""
    if isinstance(data, pa.Table):
        return data, lambda table: table
    module = type(data).__module__.split(".")[0]
    if module == "datasets" and hasattr(data, "with_format") and hasattr(data, "num_rows"):
        return data.with_format("arrow")[:], lambda table: type(data)(table)
    if module == "pandas":
        table = pa.Table.from_pandas(data, preserve_index=False)
        return table.replace_schema_metadata(), lambda table: table.to_pandas().set_index(data.index)
    raise TypeError(
        f"make_splits takes an Arrow table, a datasets.Dataset or a pandas DataFrame, not a {type(data).__name__}."
    )


@dataclass
class Assignment:
    """The partition of `Specimens`.

    Attributes:
        split: Index in SPLITS of each row (R,).
        source: Row that each row takes its labels from (R,).
        hidden: Rows that lose their labels (R,).
        overlapping: Evaluation split -> its barcodes that equal a reference where they overlap.
        notes: Lines on what was done.
    """

    specimens: Specimens
    split: np.ndarray
    source: np.ndarray
    hidden: np.ndarray
    overlapping: dict[str, Overlaps] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def apply(self, table: pa.Table, first: int = 0) -> pa.Table:
        """Rows from number `first` on with their labels and splits."""
        rows = slice(first, first + len(table))
        given, table = table, self.specimens.normal(table)
        table = relabel(given, table, self.specimens.names, self.source, self.hidden, first)
        split = self.split[rows]
        table = put(table, "split", pa.array(SPLITS).take(pa.array(split)))
        if "chunk" in table.column_names:
            ids = table["processid"].to_pylist()
            chunks = [chunk(i, SPLITS[of]) or None for i, of in zip(ids, split.tolist(), strict=True)]
            table = put(table, "chunk", pa.array(chunks, pa.string()))
        return table


def assign(
    specimens: Specimens, seed: int, *, hold_out_species: float, unlabel: float, no_overlap: bool
) -> Assignment:
    """The partition, for the arguments of `make_splits`."""
    barcode, count = specimens.barcode, specimens.count
    (given, names), (genus, genera) = specimens.names["species"], specimens.names["genus"]
    given, genus = given.astype(np.int64), genus.astype(np.int64)
    named = given >= 0

    # A species is a placeholder if at least half of its rows are, by species or genus.
    doubtful = (placeholder_species(names)[given] | placeholder_genera(genera)[genus]) & named
    novel = 2 * np.bincount(given[doubtful], minlength=len(names)) >= np.bincount(given[named], minlength=len(names))
    placeholders = novel
    species = commonest(barcode, given, novel, count)  # (B,)
    source = label_sources(specimens.processids, barcode, given, species)
    genus = genus[source]
    rows = np.bincount(barcode[named], minlength=count)  # (B,) with their own species

    if hold_out_species:
        genus_of = commonest(species[barcode], genus, np.zeros(len(genera), dtype=bool), len(names))
        present = np.bincount(species[species >= 0], minlength=len(names)) > 0
        novel = novel | _hold_out(hold_out_species, seed, names, genus_of, present & ~novel)
    hidden = np.zeros(count, dtype=bool)
    if unlabel:
        eligible = species >= 0
        eligible[eligible] = ~novel[species[eligible]]
        hidden = _unlabel(unlabel, seed, specimens, np.bincount(barcode, minlength=count), eligible)
        species[hidden] = -1

    order = _sorted_barcodes(species, rows, specimens)
    rows_of_species = np.bincount(species[order], weights=rows[order], minlength=len(names))
    kind = _kinds(species[barcode], genus, rows_of_species, novel, len(genera))
    split = assign_splits(species, rows, kind, order, seed).astype(np.int8)
    overlapping = move_overlaps(split, specimens, move=no_overlap)
    found = Assignment(specimens, split[barcode], source, hidden[barcode], overlapping)
    found.notes += _notes(found, names, given, placeholders, no_overlap)
    return found


def _notes(
    found: Assignment, names: Sequence[str], given: np.ndarray, placeholders: np.ndarray, no_overlap: bool
) -> list[str]:
    """Lines on what the rules did to the names, and on results that are probably not wanted."""
    notes = []
    authors = found.specimens.normal.authors
    if authors:
        example = next(iter(authors))
        notes.append(f"{_counted(authors.total(), 'row')}: author removed from the species, such as {example!r}.")
    present = np.bincount(given[given >= 0], minlength=len(names)) > 0
    taken = np.flatnonzero(placeholders & present)
    if len(taken):
        what = f"{len(taken):,} of {_counted(int(present.sum()), 'species', 'species')}"
        examples = ", ".join(repr(names[i]) for i in taken[:3])
        notes.append(f"Placeholders by the published rule (sp., digits, capitals inside): {what}, such as {examples}.")
    changed = int((found.source != np.arange(len(found.source))).sum())
    if changed:
        notes.append(f"{_counted(changed, 'row')}: species taken from rows with the same barcode.")
    for split, (part, shifted, all_of, copies) in found.overlapping.items():
        done = " and moved to the references" if no_overlap else ""
        left = shifted if no_overlap else part + shifted
        notes.append(
            f"{part:,} of {all_of:,} barcodes of {split} ({part / all_of:.1%}) are part of a reference or contain one"
            f"{done}; with staggered ones, {left:,} ({left / all_of:.1%}) equal a reference where they overlap."
        )
        if any(kind.any() for kind in copies):
            notes.append(f"Other copies of references in {split}, which stay there: {copies.told()}.")
    scientific = int((present & ~placeholders).sum())
    if not present.any():
        notes.append("WARNING: no row has a species, so all rows are in pretrain. Is the column of species right?")
    elif not scientific:
        notes.append("WARNING: no species has a scientific name, so all rows with a species are held out.")
    elif present.sum() == 1:
        notes.append(
            f"WARNING: all rows with a species have the same one, {names[int(np.flatnonzero(present)[0])]!r}."
        )
    return notes


def _counted(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def check_arguments(seed: int, hold_out_species: float, unlabel: float) -> None:
    """Raises ValueError for a share outside [0, 1) or a negative seed."""
    for name, share in (("hold_out_species", hold_out_species), ("unlabel", unlabel)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share}, but must be a share in [0, 1). 0.15 means 15 %.")
    if seed < 0:
        raise ValueError(f"seed is {seed}, but must be 0 or above. 0 gives the published draws.")


def check_columns(names: Sequence[str]) -> None:
    """Raises ValueError if an earlier partition has changed the labels of a table with these columns."""
    if "original_species" in names:
        raise ValueError(
            "The table has a column 'original_species', so an earlier partition has changed its labels, and a second "
            "one would differ from the first. Start from the original table."
        )


def _shuffled(ids: np.ndarray, names: Sequence[str], seed: int) -> np.ndarray:
    """`ids` in the order of a hash of the seed and their names. The order of two ids does not depend on the others."""
    hashes = [md5(f"{seed}:{name}".encode(), usedforsecurity=False).digest()[:8] for name in names]
    return ids[np.argsort(np.array(hashes, dtype="S8").view(">u8"), kind="stable")] if hashes else ids


def _hold_out(share: float, seed: int, names: Sequence[str], genus_of: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Species to treat as placeholders (S,): `share` of the eligible ones, so that each genus keeps at least one."""
    chosen = np.zeros(len(eligible), dtype=bool)
    candidates = np.flatnonzero(eligible & (genus_of >= 0))
    left = np.bincount(genus_of[candidates])
    wanted = round(share * eligible.sum())
    for i in _shuffled(candidates, [names[i] for i in candidates.tolist()], seed):
        if wanted > 0 and left[genus_of[i]] > 1:
            left[genus_of[i]] -= 1
            wanted -= 1
            chosen[i] = True
    return chosen


def _unlabel(share: float, seed: int, specimens: Specimens, rows: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Barcodes that lose their labels (B,): eligible ones with `share` of the rows of all eligible ones."""
    chosen = np.zeros(len(eligible), dtype=bool)
    candidates = np.flatnonzero(eligible)
    candidates = _shuffled(candidates, specimens.sequences(candidates), seed)
    total = np.cumsum(rows[candidates])
    chosen[candidates[total <= share * rows[candidates].sum()]] = True
    return chosen


def _kinds(
    species: np.ndarray, genus: np.ndarray, rows_of_species: np.ndarray, novel: np.ndarray, n_genera: int
) -> np.ndarray:
    """Kind of each species (S,): TRAIN for a scientific name, KEY_UNSEEN or OTHER_HELDOUT for a placeholder.

    A species with rows in an unseen genus is held out as a whole. The published script checks each row's genus, so
    such genera can get into the unseen splits.
    """
    placed = (species >= 0) & (genus >= 0)
    species, genus = species[placed], genus[placed]
    known = np.zeros(n_genera, dtype=bool)
    known[genus[~novel[species]]] = True
    inside, outside = np.zeros((2, len(novel)), dtype=bool)
    inside[species[known[genus]]] = True
    outside[species[~known[genus]]] = True
    unseen = inside & ~outside & (rows_of_species >= MIN_ROWS)
    return np.where(novel, np.where(unseen, KEY_UNSEEN, OTHER_HELDOUT), TRAIN)


def _sorted_barcodes(species: np.ndarray, rows: np.ndarray, specimens: Specimens) -> np.ndarray:
    """The barcodes that have a species, sorted by species, then rows, then letters."""
    labelled = np.flatnonzero(species >= 0)
    letters = np.empty(len(labelled), dtype=np.int64)
    sequences = pa.array(specimens.sequences(labelled), pa.large_string())
    letters[pc.array_sort_indices(sequences).to_numpy()] = np.arange(len(labelled))
    return labelled[np.lexsort((letters, rows[labelled], species[labelled]))]
