"""Barcodes of the evaluation splits that are a part of a reference, such as trimmed copies, or that contain one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ..schema import SPLITS
from .draws import KEY_UNSEEN, TEST, TEST_UNSEEN, TRAIN, VAL, VAL_UNSEEN
from .specimens import Specimens

#: Evaluation split -> the reference split that its barcodes are moved to.
HOMES = {VAL: TRAIN, TEST: TRAIN, VAL_UNSEEN: KEY_UNSEEN, TEST_UNSEEN: KEY_UNSEEN}

#: Nucleotides by which a sequence is looked for. Shorter ones are not compared.
ANCHOR = 24

_CODES = np.full(256, 4, np.uint8)  # 4: any other letter
_CODES[list(b"ACGT")] = range(4)
_BLOCK = 2_000  # sequences that are scanned at a time


def move_overlaps(split: npt.NDArray[Any], specimens: Specimens, *, move: bool) -> dict[str, tuple[int, int]]:
    """Evaluation split -> number of overlapping barcodes, and of all its barcodes.

    Args:
        split: Split of each barcode (B,). With `move`, overlapping barcodes are moved to the references.
    """
    sizes = {one: int((split == one).sum()) for one in HOMES}
    counts = dict.fromkeys(HOMES, 0)
    again = True
    while again:
        references = np.flatnonzero(np.isin(split, [TRAIN, KEY_UNSEEN]))
        queries = np.flatnonzero(np.isin(split, list(HOMES)))
        found = queries[overlapping(specimens.sequences(queries), specimens.sequences(references))]
        for one in HOMES:
            counts[one] += int((split[found] == one).sum())
        again = move and len(found) > 0  # what was moved is a reference too
        if again:
            split[found] = np.array([HOMES.get(one, one) for one in range(len(SPLITS))], split.dtype)[split[found]]
    return {SPLITS[one]: (counts[one], size) for one, size in sizes.items() if size}


def overlapping(queries: list[str], references: list[str]) -> npt.NDArray[np.bool_]:
    """Which queries (n,) are a part of a reference, or contain one."""
    found = np.zeros(len(queries), dtype=bool)
    for query, _ in contained(queries, references):
        found[query] = True
    for _, query in contained(references, queries):
        found[query] = True
    return found


def contained(parts: list[str], wholes: list[str]) -> list[tuple[int, int]]:
    """Pairs (part, whole): sequences that occur in others. Letters are compared as they are."""
    by_anchor: dict[int, list[int]] = defaultdict(list)
    offsets = []
    for i, part in enumerate(parts):
        codes, valid = _windows(part)
        place = int(valid.argmax()) if len(valid) else 0
        offsets.append(place)
        if len(valid) and valid[place]:
            by_anchor[int(codes[place])].append(i)
    if not by_anchor:
        return []
    anchors = np.sort(np.fromiter(by_anchor, np.int64, len(by_anchor)))
    pairs = []
    for start in range(0, len(wholes), _BLOCK):
        block = wholes[start : start + _BLOCK]
        codes, valid = _windows("-".join(block))
        near = np.minimum(np.searchsorted(anchors, codes), len(anchors) - 1)
        hits = np.flatnonzero(valid & (anchors[near] == codes))
        ends = np.cumsum([len(whole) + 1 for whole in block])
        for hit, code in zip(hits.tolist(), codes[hits].tolist(), strict=True):
            whole = int(np.searchsorted(ends, hit, side="right"))
            place = hit - int(ends[whole]) + len(block[whole]) + 1
            for i in by_anchor[code]:
                begin = place - offsets[i]
                if begin >= 0 and block[whole].startswith(parts[i], begin):
                    pairs.append((i, start + whole))
    return pairs


def _windows(text: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Each window of ANCHOR letters as a number, and whether all of its letters are A, C, G or T."""
    letters = _CODES[np.frombuffer(text.encode(), np.uint8)]
    count = max(len(letters) - ANCHOR + 1, 0)
    codes = np.zeros(count, np.int64)
    if count:
        for place in range(ANCHOR):
            codes *= 4
            codes += letters[place : place + count] & 3
    wrong = np.zeros(len(letters) + 1, np.int32)
    wrong[1:] = np.cumsum(letters > 3)
    return codes, wrong[ANCHOR:] == wrong[:count] if count else np.zeros(0, dtype=bool)
