"""Checks and counts of a partition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ..schema import METASPLITS, SPLITS
from .columns import NEEDED_COLUMNS, barcode_ids, encode, require_columns, text
from .counts import count_splits
from .draws import KEY_UNSEEN, OTHER_HELDOUT, PRETRAIN, TEST, TEST_UNSEEN, TRAIN, VAL, VAL_UNSEEN


def _split_ids(table: pa.Table) -> np.ndarray:
    """Index in SPLITS of each row's split (R,). Raises ValueError for a missing or unknown split."""
    require_columns(table, (*NEEDED_COLUMNS, "split"))
    ids, values = encode(text(table["split"]))
    unknown = sorted(set(values.to_pylist()) - set(SPLITS))
    if unknown or (ids < 0).any():
        what = f"the split {unknown[0]!r}" if unknown else "no split"
        raise ValueError(f"Some rows have {what}. BIOSCAN-5M has {', '.join(SPLITS)}: run make_splits.")
    return np.array([SPLITS.index(name) for name in values.to_pylist()], dtype=np.int64)[ids]


def _members(split: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Which of `n` ids occur in which split (8, n)."""
    members = np.zeros((len(SPLITS), n), dtype=bool)
    members[split[ids >= 0], ids[ids >= 0]] = True
    return members


def split_summary(table: pa.Table) -> list[dict[str, Any]]:
    """Samples, distinct barcodes and distinct species of each of the eight splits.

    Raises:
        ValueError: if a row has no barcode or no known split.
    """
    _split_ids(table)
    barcode_ids(table)
    columns = pa.table({name: text(table[name]) for name in ("split", "dna_barcode", "species")})
    counted = {row["split"]: row for row in count_splits(columns.to_batches(50_000))}
    nothing = {"samples": 0, "barcodes": 0, "species": 0}
    return [counted.get(name, {"split": name, **nothing}) for name in SPLITS]


def check_partition(table: pa.Table) -> None:
    """Raises ValueError unless `split` is a partition by the rules of BIOSCAN-5M.

    Every row has a split; a barcode is in one split; rows of pretrain have no species and all others have one; seen,
    unseen and held-out species are disjoint; species of val and test occur in train, those of val_unseen and
    test_unseen in key_unseen; and the genera of unseen species are genera of seen species.
    """
    split = _split_ids(table)
    barcode, sequences = barcode_ids(table)
    species, names = encode(text(table["species"]), ordered=True)
    genus, genera = encode(text(table["genus"]), ordered=True)

    def fail_on(wrong: np.ndarray, values: Any, message: str) -> None:
        if wrong.any():
            example = values.take(pa.array(np.flatnonzero(wrong)[:1]))[0].as_py()
            raise ValueError(f"{message}, in {wrong.sum()} cases, such as {example!r}. Run make_splits on the table.")

    fail_on(_members(split, barcode, len(sequences)).sum(0) > 1, sequences, "A barcode is in several splits")
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
        "A genus of unseen species has no seen species",
    )
