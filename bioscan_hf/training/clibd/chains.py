"""Order of training rows in chains: a row, then one of its species, of its genus, of its family and of its order.

Source: CLiBD-HiR, https://arxiv.org/abs/2603.25573
Shape letters: n = rows of a dataset, R = ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

#: Rows of a taxon that are looked at for one of another finer taxon.
TRIES = 4


def chain_order(labels: NDArray[np.int64], batch_size: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """A permutation (n,) of the rows in chains; a batch cuts the last of its chains short.

    A link of a rank is a row of the same taxon that is not yet in the epoch, of another taxon at the finer ranks where
    a few tries find one. Links that no row is left for are left out. `labels` are the taxa of each row (n, R), finest
    rank first, negative where missing.
    """
    drawn = np.random.default_rng(list(seed)).permutation(len(labels)).tolist()
    ids = labels.tolist()
    members: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(labels.shape[1])]
    for row in drawn:
        for rank, taxon in enumerate(ids[row]):
            if taxon >= 0:
                members[rank][taxon].append(row)
    used = bytearray(len(labels))
    order: list[int] = []
    for row in drawn:
        for link in _chain(row, ids, members, used):
            order.append(link)
            if len(order) % batch_size == 0:
                break
    return np.array(order, np.int64)


def _chain(row: int, ids: list[list[int]], members: list[dict[int, list[int]]], used: bytearray) -> Iterator[int]:
    """The row and its links, none of which is used before; marks them."""
    if used[row]:
        return
    used[row] = 1
    yield row
    for rank, taxon in enumerate(ids[row]):
        if taxon < 0:
            continue
        link = _take(members[rank][taxon], ids, used, rank, ids[row][rank - 1] if rank else None)
        if link is not None:
            used[link] = 1
            yield link


def _take(rows: list[int], ids: list[list[int]], used: bytearray, rank: int, finer: int | None) -> int | None:
    """The last row that is not used, of another taxon than `finer` if one of the last few is; None without any."""
    tries: list[int] = []
    while rows and len(tries) < TRIES:
        candidate = rows.pop()
        if used[candidate]:
            continue
        tries.append(candidate)
        if finer is None or ids[candidate][rank - 1] != finer:
            break
    if not tries:
        return None
    chosen = tries[-1]
    rows.extend(reversed(tries[:-1]))
    return chosen
