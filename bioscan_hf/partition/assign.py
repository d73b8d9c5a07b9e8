"""The closed- and open-world partition of BIOSCAN-5M, for any table of barcodes with species names.

Species with a scientific name are seen: train, val, test. Species with a placeholder name ("Megaselia sp. 3BIO") are
unseen if their genus is seen and they have enough rows: key_unseen, val_unseen, test_unseen. The others are
other_heldout, and barcodes without a species are pretrain. A barcode is a sequence without the N at its two ends, and
all its rows lie in one split.

Paper: BIOSCAN-5M, https://arxiv.org/abs/2406.12723. The rules are those of the partition script published with it,
which assumes a cleaned table. On others it drags unlabelled rows, and rows of other species, along into a split; so
here

- rows with equal barcodes get equal labels first;
- how much of a species goes where is computed from the rows that came with a species. Rows that get theirs from an
  equal barcode follow it and count for nothing, so that filling in labels does not shift the partition.

Letters: R = rows, B = distinct barcodes, S = distinct species, in lexicographic order. An id of -1 means none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import md5
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bioscan_hf.partition.draws import (
    KEY_UNSEEN,
    MIN_ROWS,
    OTHER_HELDOUT,
    PRETRAIN,
    TEST,
    TEST_UNSEEN,
    TRAIN,
    VAL,
    VAL_UNSEEN,
    assign_splits,
)
from bioscan_hf.schema import METASPLITS, RANKS, SPLITS, chunk

NEEDED_COLUMNS = ("processid", "genus", "species", "dna_barcode")

#: Ranks that a row takes from, or loses with, its species. The input's names are kept in `original_RANK`.
FINE_RANKS = ("subfamily", "genus", "species")
COARSE_RANKS = tuple(rank for rank in RANKS if rank not in FINE_RANKS)

_MALAISE = "[mM]+[aA]+[lLiI]+[aA]+[iIlL]+[sSzZ]+[eE]+"  # the trap's name, however it is spelt
_OPEN_NOMENCLATURE = (
    r"\baff\b",
    r"\bn[\x08.\s]+sp\b",  # \x08: the published "\b" stands inside brackets, where it is a backspace
    r"\bsp[\x08\s]+ex\b",
    r"\bgen\b",
    r"\bsp\b\.?[\s\w\d]+",
    r"affinis\s+[0-9A-Z]+",
)
PLACEHOLDER_SPECIES = re.compile("|".join((_MALAISE, "^[a-z]", "[0-9]", "[^$][A-Z]", r"[._?]", *_OPEN_NOMENCLATURE)))
PLACEHOLDER_GENUS = re.compile("|".join((_MALAISE, "^(?!unclassified|unassigned)[a-z]", *_OPEN_NOMENCLATURE)))


def _large(column: Any) -> Any:
    """A column as large_string, which holds more than 2 GiB of barcodes."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string())


def _text(column: Any) -> Any:
    """A column as large_string, null where it is empty."""
    column = _large(column)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.large_string()), column)


def _encode(column: Any, ordered: bool = False) -> tuple[np.ndarray, Any]:
    """Ids (R,), -1 for null, and the distinct values; ids follow the order of the values if `ordered`."""
    if len(column) == 0:
        column = pa.array([], column.type)  # pyarrow 21 cannot combine the chunks of an empty dictionary column
    encoded = column.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    ids = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    values = encoded.dictionary
    if ordered:
        order = pc.array_sort_indices(values).to_numpy()
        place = np.empty(len(order) + 1, dtype=np.int64)
        place[order] = np.arange(len(order))
        place[-1] = -1  # where the id -1 looks
        ids, values = place[ids], values.take(order)
    return ids, values


def _put(table: pa.Table, name: str, values: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _examples(values: Any, n: int = 3) -> str:
    return ", ".join(repr(value) for value in values[:n].to_pylist()) + (", ..." if len(values) > n else "")


def _require_columns(table: pa.Table, needed: Iterable[str]) -> None:
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise ValueError(
            f"The table has no column {', '.join(map(repr, missing))}. A partition needs {', '.join(needed)}; "
            f"the table has {', '.join(table.column_names)}. Rename or add the missing ones."
        )


def _barcodes(table: pa.Table) -> tuple[np.ndarray, Any]:
    """Barcode ids (R,) and the barcodes (B,). Raises ValueError if a row has none."""
    ids, barcodes = _encode(pc.utf8_trim(_large(table["dna_barcode"]), "N"))
    empty = (ids == -1) | (ids == pc.index(barcodes, pa.scalar("", pa.large_string())).as_py())
    if empty.any():
        processids = table["processid"].filter(pa.array(empty))
        raise ValueError(
            f"{len(processids)} of {len(table)} rows have no barcode (dna_barcode is empty or all N): "
            f"processid {_examples(processids)}. Rows are assigned by barcode: drop these rows or repair them."
        )
    return ids, barcodes


def _check_arguments(seed: int, hold_out_species: float, unlabel: float) -> None:
    for name, share in (("hold_out_species", hold_out_species), ("unlabel", unlabel)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share}, but it is a share of a whole, in [0, 1). 0.15 means 15 %.")
    if seed < 0:
        raise ValueError(f"seed is {seed}, but has to be 0 or above. 0 gives the published draws.")


def _check_table(table: pa.Table) -> None:
    _require_columns(table, NEEDED_COLUMNS)
    if "original_species" in table.column_names:
        raise ValueError(
            "The table has a column 'original_species', so its labels were changed by an earlier partition, and a "
            "second one would differ from the first. Start from the table that the first one was given."
        )
    processids = _text(table["processid"])
    if processids.null_count:
        raise ValueError(f"{processids.null_count} rows have no processid. Give each row an id of its own.")
    counts = processids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise ValueError(
            f"{len(repeated)} processids occur more than once: {_examples(repeated)}. Each names one specimen: "
            f"drop the repeated rows."
        )


def _matches(pattern: re.Pattern[str], names: Any) -> np.ndarray:
    """Which names match, and a last False for the id -1."""
    return np.array([bool(pattern.search(name)) for name in names.to_pylist()] + [False], dtype=bool)


def is_placeholder(species: Any, genus: Any) -> np.ndarray:
    """Which rows have no scientific name: their species, or already their genus, is a placeholder.

    Placeholders hold a digit, a dot, a capital inside, "sp", "aff", "gen" and the like, some spelling of "Malaise", or
    begin with a small letter. The rule is the published one with its quirks: "Ethmia Janzeni" is one, for its capital.

    Args:
        species: Arrow column (R,); null and "" are no name, which is no placeholder.
        genus: Arrow column (R,).

    Returns:
        Booleans (R,).
    """
    species_ids, species_names = _encode(_text(species))
    genus_ids, genus_names = _encode(_text(genus))
    return (
        _matches(PLACEHOLDER_SPECIES, species_names)[species_ids] | _matches(PLACEHOLDER_GENUS, genus_names)[genus_ids]
    )


def _commonest(group: np.ndarray, label: np.ndarray, last: np.ndarray, n_groups: int) -> np.ndarray:
    """The commonest label of each group, -1 where it has none; of equally common ones the first in order.

    Labels that are marked in `last` (one mark per label) count only where a group has no others.
    """
    winner = np.full(n_groups, -1, dtype=np.int64)
    known = (group >= 0) & (label >= 0)
    if not known.any():
        return winner
    pairs, counts = np.unique(group[known] * len(last) + label[known], return_counts=True)
    of, candidate = np.divmod(pairs, len(last))
    order = np.lexsort((candidate, -counts, last[candidate], of))
    of, candidate = of[order], candidate[order]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    winner[of[first]] = candidate[first]
    return winner


def _sources(processids: Any, barcode: np.ndarray, species: np.ndarray, winner: np.ndarray) -> np.ndarray:
    """The row that each row's labels come from (R,): itself, or the first by processid with the right species."""
    source = np.arange(len(barcode))
    changed = species != winner[barcode]
    disputed = np.zeros(len(winner), dtype=bool)
    disputed[barcode[changed]] = True
    givers = np.flatnonzero(disputed[barcode] & ~changed)
    givers = givers[pc.sort_indices(processids.take(givers)).to_numpy()]
    _, first = np.unique(barcode[givers], return_index=True)
    giver_of = np.full(len(winner), -1, dtype=np.int64)
    giver_of[barcode[givers[first]]] = givers[first]
    source[changed] = giver_of[barcode[changed]]
    return source


def _relabel(table: pa.Table, source: np.ndarray, unlabelled: np.ndarray) -> pa.Table:
    """Gives every row the labels of its source, takes them away where `unlabelled`, and keeps the input's.

    Rows that change take the ranks down to family from their source where it has them, the finer ones and `taxon`
    always, so that no lineage is mixed of two.
    """
    changed = (source != np.arange(len(source))) & ~unlabelled
    if not (changed.any() or unlabelled.any()):
        return table
    for rank in FINE_RANKS:
        if rank in table.column_names:
            table = table.append_column(f"original_{rank}", table[rank])
    source = np.where(changed, source, np.arange(len(source)))
    rows, kept = pa.array(source), pa.array(source, mask=unlabelled)
    coarse = [rank for rank in COARSE_RANKS if rank in table.column_names]
    for rank in coarse:
        names = _text(table[rank])
        table = _put(table, rank, pc.coalesce(names.take(rows), names).cast(pa.string()))
    for name in (*FINE_RANKS, "taxon"):
        if name in table.column_names:
            names = _text(table[name]).take(kept)
            if name == "taxon" and coarse:
                remaining = pc.coalesce(*(_text(table[rank]) for rank in reversed(coarse)))
                names = pc.if_else(pa.array(unlabelled), remaining, names)
            table = _put(table, name, names.cast(pa.string()))
    return table


def _shuffled(ids: np.ndarray, names: Any, seed: int) -> np.ndarray:
    """`ids` in the order of a hash of the seed and their names; two ids keep their order whatever the others are."""
    chosen = names.take(pa.array(ids))
    hashes = [md5(f"{seed}:{name.as_py()}".encode(), usedforsecurity=False).digest()[:8] for name in chosen]
    return ids[np.argsort(np.array(hashes, dtype="S8").view(">u8"), kind="stable")] if hashes else ids


def _hold_out(share: float, seed: int, names: Any, genus_of: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Which species to treat as placeholders (S,): `share` of the eligible ones, of genera that keep one at least."""
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
    """Which barcodes lose their labels (B,): as many eligible ones as hold `share` of the eligible ones' rows."""
    chosen = np.zeros(len(eligible), dtype=bool)
    candidates = _shuffled(np.flatnonzero(eligible), sequences, seed)
    total = np.cumsum(rows[candidates])
    chosen[candidates[total <= share * rows[candidates].sum()]] = True
    return chosen


def _kinds(
    species: np.ndarray, genus: np.ndarray, rows_of_species: np.ndarray, novel: np.ndarray, n_genera: int
) -> np.ndarray:
    """What becomes of each species (S,): TRAIN if it has a scientific name, KEY_UNSEEN or OTHER_HELDOUT if not.

    A species with rows in a genus that is not seen is held out whole. The published script, which looks at each row's
    genus, can let such genera in among the unseen.
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


def make_splits(table: pa.Table, seed: int = 0, *, hold_out_species: float = 0.0, unlabel: float = 0.0) -> pa.Table:
    """Assigns every row to one of the eight splits of BIOSCAN-5M.

    The result passes `check_partition`, keeps the order of the rows and does not depend on it. A `split` that the
    table already has is replaced, and so is `chunk`; columns not named here pass through untouched.

    Rows with equal barcodes get equal labels first: the commonest scientific species among them, else the commonest
    placeholder. A row whose species changes by this takes over the lineage of the first row, by processid, that has
    it. If any species changes, the input's names are kept in `original_species`, `original_genus` and, where there
    are subfamilies, `original_subfamily`.

    `hold_out_species` and `unlabel` simulate what makes BIOSCAN-5M's open world, placeholder names and missing ones,
    for tables where every row has a scientific name. They are no part of the published partition: say so where you
    use them. Both choose by a hash of seed and name.

    Args:
        table: Needs processid (unique), genus, species and dna_barcode (never empty); null and "" are missing names.
        seed: 0 gives the draws of the published seeds.
        hold_out_species: Share, in [0, 1), of the scientific species to treat as placeholders, their names kept; fewer
            where more would leave a genus without another species.
        unlabel: Share, in [0, 1), of the rows of all other scientific species that lose species, genus and subfamily,
            and whose `taxon` becomes the finest name that remains. Drawn by barcode: single rows would get their
            labels back from equal barcodes.

    Returns:
        The table with `split` filled.

    Raises:
        ValueError: if a column is missing, a processid missing or repeated, a barcode empty, a share outside [0, 1) or
            the seed negative; or if the table has a column `original_species`, which an earlier partition added.
    """
    _check_arguments(seed, hold_out_species, unlabel)
    _check_table(table)
    barcode, sequences = _barcodes(table)  # (R,), (B,)
    given, names = _encode(_text(table["species"]), ordered=True)  # (R,), (S,)
    genus, genera = _encode(_text(table["genus"]), ordered=True)
    named = given >= 0

    # A species of whose rows some have the genus of a placeholder and some have not is what at least half of them are.
    doubtful = is_placeholder(table["species"], table["genus"]) & named
    novel = 2 * np.bincount(given[doubtful], minlength=len(names)) >= np.bincount(given[named], minlength=len(names))
    species = _commonest(barcode, given, novel, len(sequences))  # (B,)
    source = _sources(_large(table["processid"]), barcode, given, species)
    genus = genus[source]
    rows = np.bincount(barcode[named], minlength=len(sequences))  # (B,) with a species of their own

    if hold_out_species:
        genus_of = _commonest(species[barcode], genus, np.zeros(len(genera), dtype=bool), len(names))
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

    table = _relabel(table, source, hidden[barcode])
    table = _put(table, "split", pa.array(SPLITS).take(pa.array(split)))
    if "chunk" in table.column_names:
        chunks = [
            chunk(i, SPLITS[of]) or None for i, of in zip(table["processid"].to_pylist(), split.tolist(), strict=True)
        ]
        table = _put(table, "chunk", pa.array(chunks, pa.string()))
    return table


def _split_ids(table: pa.Table) -> np.ndarray:
    """Place in SPLITS of each row's split (R,). Raises ValueError if a row has none, or another."""
    _require_columns(table, (*NEEDED_COLUMNS, "split"))
    ids, values = _encode(_text(table["split"]))
    unknown = sorted(set(values.to_pylist()) - set(SPLITS))
    if unknown or (ids < 0).any():
        what = f"the split {unknown[0]!r}" if unknown else "no split"
        raise ValueError(f"Some rows have {what}. BIOSCAN-5M has {', '.join(SPLITS)}: run make_splits.")
    return np.array([SPLITS.index(name) for name in values.to_pylist()], dtype=np.int64)[ids]


def _members(split: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Which of `n` things occur in which split (8, n)."""
    members = np.zeros((len(SPLITS), n), dtype=bool)
    members[split[ids >= 0], ids[ids >= 0]] = True
    return members


def split_summary(table: pa.Table) -> list[dict[str, Any]]:
    """For each of the eight splits its name and how many samples, distinct barcodes and distinct species it holds."""
    split = _split_ids(table)
    barcode, sequences = _barcodes(table)
    species, names = _encode(_text(table["species"]))
    samples = np.bincount(split, minlength=len(SPLITS))
    barcodes = _members(split, barcode, len(sequences)).sum(1)
    kinds = _members(split, species, len(names)).sum(1)
    return [
        {"split": name, "samples": int(samples[i]), "barcodes": int(barcodes[i]), "species": int(kinds[i])}
        for i, name in enumerate(SPLITS)
    ]


def check_partition(table: pa.Table) -> None:
    """Raises ValueError, with an example, unless the table's `split` is a partition as BIOSCAN-5M's is.

    Every row has a split; no barcode lies in two; rows of pretrain have no species and all others have one; seen,
    unseen and held-out species are disjoint; species of val and test occur in train, those of val_unseen and
    test_unseen in key_unseen; and the genera of the unseen are genera of the seen.
    """
    split = _split_ids(table)
    barcode, sequences = _barcodes(table)
    species, names = _encode(_text(table["species"]), ordered=True)
    genus, genera = _encode(_text(table["genus"]), ordered=True)

    def fail_on(wrong: np.ndarray, values: Any, message: str) -> None:
        if wrong.any():
            example = values.take(pa.array(np.flatnonzero(wrong)[:1]))[0].as_py()
            raise ValueError(f"{message}, in {wrong.sum()} cases, such as {example!r}. Run make_splits on the table.")

    fail_on(_members(split, barcode, len(sequences)).sum(0) > 1, sequences, "A barcode lies in several splits")
    fail_on((split == PRETRAIN) & (species >= 0), table["processid"], "A row of pretrain has a species")
    fail_on((split != PRETRAIN) & (species < 0), table["processid"], "A row outside pretrain has no species")
    of_species, of_genus = _members(split, species, len(names)), _members(split, genus, len(genera))
    seen, unseen = ([SPLITS.index(name) for name in METASPLITS[part]] for part in ("seen", "unseen"))
    parts = of_species[seen].any(0).astype(int) + of_species[unseen].any(0) + of_species[OTHER_HELDOUT]
    fail_on(parts > 1, names, "A species is in two of seen, unseen and other_heldout")
    for part, home in ((VAL, TRAIN), (TEST, TRAIN), (VAL_UNSEEN, KEY_UNSEEN), (TEST_UNSEEN, KEY_UNSEEN)):
        fail_on(of_species[part] & ~of_species[home], names, f"A species of {SPLITS[part]} is not in {SPLITS[home]}")
    fail_on(
        of_genus[unseen].max(axis=0) > of_genus[seen].max(axis=0),
        genera,
        "A genus is among the unseen but not the seen",
    )
