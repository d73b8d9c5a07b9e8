"""Roles of species, and rows drawn by the rules of the splits of BIOSCAN-5M (https://arxiv.org/abs/2406.12723).

val and test species occur in train, val_unseen and test_unseen species in key_unseen; seen, unseen and held-out
species are disjoint; unseen species are in genera of train; seen species with fewer than 8 rows are in train only,
unseen species have 8 or more. All rules hold in every block, and therefore in the whole.

Shapes: S = species, n = rows of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..schema import SPLITS
from .taxa import Ints, Taxa

#: Fewest rows that can fill all splits.
FEWEST_ROWS = 50

#: Role of a species in the splits. A dark species occurs in pretrain only.
SEEN, UNSEEN, HELDOUT, DARK = range(4)

#: Rows that a species needs before some are used for testing.
DIVISIBLE = 8

RELEASE_ROWS = 5_150_850
LARGE = 20_000  # rows from which on most are unlabelled, as in the release
#: Split -> its index in SPLITS.
PLACE = {split: i for i, split in enumerate(SPLITS)}


class Shares(NamedTuple):
    """Shares of the rows by role (the rest is pretrain), and which row of a species each split takes.

    `test=5` puts the 2nd, 7th, 12th, ... row of a species into test; `val=10` the 3rd, 13th, ... into val.
    """

    seen: float
    unseen: float
    heldout: float
    test: int = 5
    val: int = 10
    test_unseen: int = 3
    val_unseen: int = 6


PUBLISHED = Shares(343_333 / RELEASE_ROWS, 53_171 / RELEASE_ROWS, 76_590 / RELEASE_ROWS, 8, 22, 6, 6)


class Roles(NamedTuple):
    """Role of each species in the splits.

    Attributes:
        kinds: (S,) SEEN, UNSEEN, HELDOUT or DARK.
        anchor: A seen species, of a genus with unseen ones, that is in every block.
    """

    kinds: Ints
    anchor: int
    shares: Shares


def assign_roles(rng: np.random.Generator, taxa: Taxa, specimens: int | None) -> Roles:
    """Roles for a release of `specimens` rows; None for the size of BIOSCAN-5M.

    A fifth of the genera is dark, a seventh held out.
    """
    genus = taxa.lineage["genus"]
    genera = int(genus.max()) + 1
    largest = int(np.bincount(genus).argmax())
    fate = rng.permutation(genera)
    fate = np.concatenate([[largest], fate[fate != largest]])  # the first ones stay seen
    dark, heldout = genera // 5, genera // 7
    kinds = np.full(len(genus), SEEN)
    kinds[np.isin(genus, fate[genera - dark :])] = DARK
    kinds[np.isin(genus, fate[genera - dark - heldout : genera - dark])] = HELDOUT

    first = np.zeros(len(genus), dtype=bool)
    first[np.unique(genus, return_index=True)[1]] = True
    draw = np.where((kinds == SEEN) & ~first, rng.random(len(genus)), 1.0)
    kinds[draw < 0.4] = DARK
    kinds[draw < 0.25] = UNSEEN
    members = np.flatnonzero(genus == largest)
    kinds[members[1]] = UNSEEN
    seen = members[kinds[members] == SEEN]
    anchor = int(seen[taxa.abundance[seen].argmax()])
    if specimens is None:
        return Roles(kinds, anchor, PUBLISHED)
    labelled = 0.25 if specimens >= LARGE else 0.4
    return Roles(kinds, anchor, Shares(0.69 * labelled, 0.21 * labelled, 0.1 * labelled))


def _nth(values: Ints) -> tuple[Ints, Ints]:
    """(n,) how many equal values stand before each value, and (n,) how many there are in all."""
    order = values.argsort(kind="stable")
    _, start, inverse, count = np.unique(values[order], return_index=True, return_inverse=True, return_counts=True)
    nth, total = np.empty_like(values), np.empty_like(values)
    nth[order] = np.arange(len(values)) - start[inverse]
    total[order] = count[inverse]
    return nth, total


def draw_species(rng: np.random.Generator, taxa: Taxa, roles: Roles, n: int) -> tuple[Ints, Ints]:
    """(n,) species and (n,) index of the split in SPLITS, in random order."""

    def draw(candidates: Ints, count: int, power: float = 0.9) -> Ints:
        weights = taxa.abundance[candidates] ** power
        return rng.choice(candidates, count, p=weights / weights.sum())

    everyone = np.arange(len(roles.kinds))
    if n < FEWEST_ROWS:  # the end of a large release
        return draw(everyone, n), np.zeros(n, dtype=np.int64)
    seen_rows, unseen_rows = (
        max(DIVISIBLE + 1, round(n * share)) for share in (roles.shares.seen, roles.shares.unseen)
    )
    heldout_rows = max(2, round(n * roles.shares.heldout))

    # A part of the species, because those with few rows would all be in train.
    candidates = rng.permutation(np.flatnonzero(roles.kinds == SEEN))[: seen_rows // 5]
    seen = draw(candidates, seen_rows - DIVISIBLE)
    seen = np.concatenate([np.full(DIVISIBLE, roles.anchor), seen])
    nth, total = _nth(seen)
    seen_split = np.full(seen_rows, PLACE["train"])
    seen_split[(total >= DIVISIBLE) & (nth % roles.shares.val == 2)] = PLACE["val"]
    seen_split[(total >= DIVISIBLE) & (nth % roles.shares.test == 1)] = PLACE["test"]

    genus = taxa.lineage["genus"]
    candidates = np.flatnonzero((roles.kinds == UNSEEN) & np.isin(genus, genus[seen]))
    candidates = rng.permutation(candidates)[: unseen_rows // (DIVISIBLE + 1)]
    rest = unseen_rows - DIVISIBLE * len(candidates)
    unseen = np.concatenate([np.repeat(candidates, DIVISIBLE), draw(candidates, rest)])
    nth, _ = _nth(unseen)
    unseen_split = np.full(unseen_rows, PLACE["key_unseen"])
    unseen_split[nth % roles.shares.val_unseen == 2] = PLACE["val_unseen"]
    unseen_split[nth % roles.shares.test_unseen == 1] = PLACE["test_unseen"]

    heldout = draw(np.flatnonzero(roles.kinds == HELDOUT), heldout_rows)
    others = draw(everyone, n - seen_rows - unseen_rows - heldout_rows, 1.0)
    species = np.concatenate([seen, unseen, heldout, others])
    heldout_split = np.full(heldout_rows, PLACE["other_heldout"])
    split = np.concatenate([seen_split, unseen_split, heldout_split, np.full(len(others), PLACE["pretrain"])])
    order = rng.permutation(n)
    return species[order], split[order]
