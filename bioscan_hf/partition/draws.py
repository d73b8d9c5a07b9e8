"""Draws of barcodes for test and validation, stratified by species.

Whole barcodes are drawn, so the rows of a split only approximate the target of its rule. `assign` prepares the numbers
from a table.

Source: BIOSCAN-5M, https://arxiv.org/abs/2406.12723. The rules, constants and seeds are those of the published
partition script, with one difference: barcodes of a species with equally many rows are sorted by their letters here;
in the script, their order depends on the installed libraries. (The script also shuffles the rows before each draw,
without effect, because barcodes are sorted afterwards.)

Letters: B = distinct barcodes, S = distinct species, in lexicographic order. A species id of -1 means missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..schema import SPLITS

PRETRAIN, TRAIN, VAL, TEST, KEY_UNSEEN, VAL_UNSEEN, TEST_UNSEEN, OTHER_HELDOUT = range(len(SPLITS))

#: Fewest rows of a species in test or in the unseen splits.
MIN_ROWS = 8


def target_test_rows(n: int) -> int:
    """Target of a species' `n` rows in test.

    0 below 8 rows, else 4 and a quarter of the rest, at most 25.
    """
    return 0 if n < MIN_ROWS else min(math.floor(4 + (n - MIN_ROWS) / 4), 25)


def max_test_rows(n: int) -> int:
    """Maximum of a species' `n` rows in test."""
    return 0 if n < MIN_ROWS else math.floor(4 + (n - MIN_ROWS) / 3)


def max_test_barcodes(n: int) -> int:
    """Maximum of a species' `n` barcodes in test."""
    return 0 if n < 3 else math.floor(1 + (n - 2) / 3)


class SizeRule(NamedTuple):
    """Part of each species that a split gets.

    Attributes:
        target: Rows of the species -> target rows; nothing is drawn for 0.
        min_rows: A draw of fewer rows is discarded.
        max_rows: Rows of the species -> maximum rows.
        max_barcodes: Barcodes of the species -> maximum barcodes; the first one is always allowed.
        slack: Drawing ends when the smallest remaining barcode would exceed this multiple of the target.
    """

    target: Callable[[int], float]
    min_rows: int
    max_rows: Callable[[int], float]
    max_barcodes: Callable[[int], float]
    slack: float


def share_rule(share: float, smallest_species: int) -> SizeRule:
    """The rule of val and val_unseen: `share` of the rows of each species that has at least `smallest_species`."""
    return SizeRule(
        lambda n: share * n if n >= smallest_species else 0, 0, lambda n: 2 * share * n, lambda n: share * n, 1.1
    )


TEST_RULE = SizeRule(target_test_rows, 3, max_test_rows, max_test_barcodes, 1.0)
VAL_SHARE, VAL_SMALLEST = 0.05, 20
VAL_RULE = share_rule(VAL_SHARE, VAL_SMALLEST)
VAL_UNSEEN_RULE = share_rule(0.20, 0)


def _draw_barcodes(sizes: np.ndarray, rule: SizeRule, rng: np.random.Generator) -> list[int]:
    """Barcodes of one species to take, as indices of their `sizes` in rows, which ascend.

    Until the target is reached: candidates are barcodes no larger than the remaining target whose cumulative size
    reaches 1.1 x target; one of the larger half is drawn at random. Without candidates, or if only one more barcode is
    allowed, the one nearest to the target is taken. A species always keeps a barcode: a single one is not drawn, and a
    draw has at most `max_rows`, or less than half of the rows.
    """
    n = int(sizes.sum())
    target, most = rule.target(n), rule.max_rows(n)
    max_barcodes = rule.max_barcodes(len(sizes))
    places = np.arange(len(sizes))
    taken: list[int] = []
    rows = 0
    while target > rows and len(places) > 1 and (not taken or len(taken) < max_barcodes):
        left = sizes[places]
        enough = np.cumsum(left) >= 1.1 * target - rows
        options = np.flatnonzero((left <= target - rows) & enough)
        if len(options) == 0:
            if rows == 0 and left[0] > target:
                if not rule.min_rows <= left[0] < n / 2:
                    break
                i = 0
            elif left[0] > rule.slack * target - rows:
                break
            else:
                i = int(np.argmax(enough))
                if rows + left[i] > most:
                    break
                if i > 0 and abs(rows + left[i - 1] - target) < abs(rows + left[i] - target):
                    i -= 1
        elif len(taken) + 1 >= max_barcodes:
            i = int(np.flatnonzero(left <= target - rows)[-1])
            after = rows + left[min(i + 1, len(left) - 1)]
            if abs(after - target) < abs(rows + left[i] - target) and after <= most:
                i = min(i + 1, len(left) - 1)
        else:
            i = int(options[rng.integers(len(options) // 2, len(options), size=1)[0]])
        taken.append(int(places[i]))
        rows += int(left[i])
        places = np.delete(places, i)
    return taken if rows >= rule.min_rows else []


def _by_species(barcodes: np.ndarray, species: np.ndarray) -> list[np.ndarray]:
    """Barcodes, sorted by species, as one array per species."""
    if len(barcodes) == 0:
        return []
    return np.split(barcodes, np.flatnonzero(np.diff(species[barcodes])) + 1)


def _draw(groups: list[np.ndarray], rows: np.ndarray, rule: SizeRule, seed: int) -> np.ndarray:
    """Drawn barcodes of all species, from one generator, as published."""
    rng = np.random.default_rng(seed)
    return np.array([i for group in groups for i in group[_draw_barcodes(rows[group], rule, rng)]], dtype=np.int64)


def _draw_rare(groups: list[np.ndarray], rows: np.ndarray, tested: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Barcodes of one row for val, from species too rare for its rule, up to its share of their rows.

    Species are taken in lexicographic order, so they are from the beginning of the alphabet, as published.
    """
    sizes = [int(rows[group].sum()) for group in groups]
    budget = round(VAL_SHARE * sum(n for n in sizes if n < VAL_SMALLEST))
    taken: list[int] = []
    for group, n in zip(groups, sizes, strict=True):
        n_test = int(tested[species[group[0]]])
        if MIN_ROWS - 1 <= n < VAL_SMALLEST and n_test <= target_test_rows(n + n_test) and rows[group[0]] == 1:
            taken.append(int(group[0]))
            if len(taken) >= budget:
                break
    return np.array(taken, dtype=np.int64)


def assign_splits(species: np.ndarray, rows: np.ndarray, kind: np.ndarray, order: np.ndarray, seed: int) -> np.ndarray:
    """The split of each barcode (B,).

    Args:
        species: Species id of each barcode (B,).
        rows: Rows of each barcode (B,), without copied labels.
        kind: TRAIN, KEY_UNSEEN or OTHER_HELDOUT for each species (S,): split of the barcodes that are not drawn.
        order: Barcodes that have a species, sorted by species, rows and letters.
        seed: The four draws use the seeds 8 * seed + 1, + 3, + 5 and + 7; the published ones are those of 0.
    """
    split = np.full(len(species), PRETRAIN, dtype=np.int64)
    split[order] = kind[species[order]]

    def candidates(of: int) -> list[np.ndarray]:
        return _by_species(order[split[order] == of], species)

    split[_draw(candidates(TRAIN), rows, TEST_RULE, 8 * seed + 1)] = TEST
    tested = np.bincount(species[split == TEST], weights=rows[split == TEST], minlength=len(kind))
    groups = candidates(TRAIN)
    split[_draw(groups, rows, VAL_RULE, 8 * seed + 3)] = VAL
    split[_draw_rare(groups, rows, tested, species)] = VAL
    split[_draw(candidates(KEY_UNSEEN), rows, TEST_RULE, 8 * seed + 5)] = TEST_UNSEEN
    split[_draw(candidates(KEY_UNSEEN), rows, VAL_UNSEEN_RULE, 8 * seed + 7)] = VAL_UNSEEN
    return split
