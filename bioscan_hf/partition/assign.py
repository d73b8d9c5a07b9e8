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

from hashlib import md5
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schema import SPLITS, chunk
from .columns import NEEDED_COLUMNS, barcode_ids, encode, examples, large, put, require_columns, text
from .draws import KEY_UNSEEN, MIN_ROWS, OTHER_HELDOUT, TRAIN, assign_splits
from .placeholders import is_placeholder
from .relabel import commonest, label_sources, relabel


def make_splits(table: pa.Table, seed: int = 0, *, hold_out_species: float = 0.0, unlabel: float = 0.0) -> pa.Table:
    """Assigns every row to one of the eight splits of BIOSCAN-5M.

    The result passes `check_partition`. It keeps the order of the rows and does not depend on it. Existing columns
    `split` and `chunk` are replaced; columns that are not named here do not change.

    Rows with equal barcodes first get equal labels: their most common scientific species, or else their most common
    placeholder. A row whose species changes takes the lineage of the first row, by processid, of the new species. If
    any species changes, the input's names are kept in `original_species`, `original_genus` and, if there are
    subfamilies, `original_subfamily`.

    `hold_out_species` and `unlabel` simulate placeholder names and missing names, for tables where every row has a
    scientific name. They are not part of the published partition: say so where you use them. Both choose by a hash of
    seed and name.

    Args:
        table: Needs processid (unique), genus, species and dna_barcode (never empty); null and "" are missing names.
        seed: 0 gives the published draws.
        hold_out_species: Share, in [0, 1), of the scientific species to treat as placeholders; their names are kept.
            Each genus keeps at least one other species, so it can be fewer.
        unlabel: Share, in [0, 1), of the rows of all other scientific species that lose species, genus and subfamily.
            Their `taxon` becomes the finest remaining name. Whole barcodes are drawn, because single rows would get
            their labels back from equal barcodes.

    Returns:
        The table with `split` filled.

    Raises:
        ValueError: if a column is missing, a processid is missing or repeated, a barcode is empty, a share is outside
            [0, 1), the seed is negative, or an earlier partition has added a column `original_species`.
    """
    _check_arguments(seed, hold_out_species, unlabel)
    _check_table(table)
    barcode, sequences = barcode_ids(table)  # (R,), (B,)
    given, names = encode(text(table["species"]), ordered=True)  # (R,), (S,)
    genus, genera = encode(text(table["genus"]), ordered=True)
    named = given >= 0

    # A species is a placeholder if at least half of its rows are, by species or genus.
    doubtful = is_placeholder(table["species"], table["genus"]) & named
    novel = 2 * np.bincount(given[doubtful], minlength=len(names)) >= np.bincount(given[named], minlength=len(names))
    species = commonest(barcode, given, novel, len(sequences))  # (B,)
    source = label_sources(large(table["processid"]), barcode, given, species)
    genus = genus[source]
    rows = np.bincount(barcode[named], minlength=len(sequences))  # (B,) with their own species

    if hold_out_species:
        genus_of = commonest(species[barcode], genus, np.zeros(len(genera), dtype=bool), len(names))
        present = np.bincount(species[species >= 0], minlength=len(names)) > 0
        novel = novel | _hold_out(hold_out_species, seed, names, genus_of, present & ~novel)
    hidden = np.zeros(len(sequences), dtype=bool)
    if unlabel:
        eligible = species >= 0
        eligible[eligible] = ~novel[species[eligible]]
        hidden = _unlabel(unlabel, seed, sequences, np.bincount(barcode, minlength=len(sequences)), eligible)
        species[hidden] = -1

    order = _sorted_barcodes(species, rows, sequences)
    rows_of_species = np.bincount(species[order], weights=rows[order], minlength=len(names))
    kind = _kinds(species[barcode], genus, rows_of_species, novel, len(genera))
    split = assign_splits(species, rows, kind, order, seed)[barcode]

    table = relabel(table, source, hidden[barcode])
    table = put(table, "split", pa.array(SPLITS).take(pa.array(split)))
    if "chunk" in table.column_names:
        chunks = [
            chunk(i, SPLITS[of]) or None for i, of in zip(table["processid"].to_pylist(), split.tolist(), strict=True)
        ]
        table = put(table, "chunk", pa.array(chunks, pa.string()))
    return table


def _check_arguments(seed: int, hold_out_species: float, unlabel: float) -> None:
    for name, share in (("hold_out_species", hold_out_species), ("unlabel", unlabel)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share}, but must be a share in [0, 1). 0.15 means 15 %.")
    if seed < 0:
        raise ValueError(f"seed is {seed}, but must be 0 or above. 0 gives the published draws.")


def _check_table(table: pa.Table) -> None:
    require_columns(table, NEEDED_COLUMNS)
    if "original_species" in table.column_names:
        raise ValueError(
            "The table has a column 'original_species', so an earlier partition has changed its labels, and a second "
            "one would differ from the first. Start from the original table."
        )
    processids = text(table["processid"])
    if processids.null_count:
        raise ValueError(f"{processids.null_count} rows have no processid. Give each row a unique id.")
    counts = processids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise ValueError(
            f"{len(repeated)} processids occur more than once: {examples(repeated)}. Each is the id of one "
            f"specimen: drop the repeated rows."
        )


def _shuffled(ids: np.ndarray, names: Any, seed: int) -> np.ndarray:
    """`ids` in the order of a hash of the seed and their names. The order of two ids does not depend on the others."""
    chosen = names.take(pa.array(ids))
    hashes = [md5(f"{seed}:{name.as_py()}".encode(), usedforsecurity=False).digest()[:8] for name in chosen]
    return ids[np.argsort(np.array(hashes, dtype="S8").view(">u8"), kind="stable")] if hashes else ids


def _hold_out(share: float, seed: int, names: Any, genus_of: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Species to treat as placeholders (S,): `share` of the eligible ones, so that each genus keeps at least one."""
    chosen = np.zeros(len(eligible), dtype=bool)
    candidates = np.flatnonzero(eligible & (genus_of >= 0))
    left = np.bincount(genus_of[candidates])
    wanted = round(share * eligible.sum())
    for i in _shuffled(candidates, names, seed):
        if wanted > 0 and left[genus_of[i]] > 1:
            left[genus_of[i]] -= 1
            wanted -= 1
            chosen[i] = True
    return chosen


def _unlabel(share: float, seed: int, sequences: Any, rows: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Barcodes that lose their labels (B,): eligible ones with `share` of the rows of all eligible ones."""
    chosen = np.zeros(len(eligible), dtype=bool)
    candidates = _shuffled(np.flatnonzero(eligible), sequences, seed)
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


def _sorted_barcodes(species: np.ndarray, rows: np.ndarray, sequences: Any) -> np.ndarray:
    """The barcodes that have a species, sorted by species, then rows, then letters."""
    labelled = np.flatnonzero(species >= 0)
    letters = np.empty(len(labelled), dtype=np.int64)
    letters[pc.array_sort_indices(sequences.take(pa.array(labelled))).to_numpy()] = np.arange(len(labelled))
    return labelled[np.lexsort((letters, rows[labelled], species[labelled]))]
