"""How often a name wins if positions of the read are drawn again.

A bootstrap of alignments (Felsenstein 1985), as SINTAX makes one of words: a name that rests on a few positions loses
in many samples. Positions are drawn in blocks of 8, the bytes of bit planes.
Shape letters: n = reads, C = candidates, B = blocks of positions, S = samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from .letters import Codes
from .names import Names
from .packed import Packed, compared_bits

#: Samples, and candidates that compete.
SAMPLES, COMPETE = 32, 20

#: Candidates that overlap by a smaller share of the longest overlap of a sample do not win it.
LEAST_OVERLAP = 0.5

#: Reads at once: bounds the memory to 20 MB.
_AT_ONCE = 512


def supports(
    aligned: Codes,
    keys: Packed,
    rows: NDArray[np.int64],
    codes: Mapping[str, NDArray[np.int64]],
    names: Names,
) -> dict[str, NDArray[np.float64]]:
    """Rank -> share of the samples in which the name of each read wins (n,), in [0, 1].

    Candidates that are equally near share a sample. Without a named candidate the share is 1.

    Args:
        aligned: Codes of the reads in the region (n, P).
        keys: Aligned references.
        rows: Candidates (n, C), -1 after the last.
        codes: Rank -> code of the taxon of each reference, -1 where it has no name.
    """
    rows = rows[:, :COMPETE]
    found = {rank: np.ones(len(rows)) for rank in names.codes}
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        winners = _winners(aligned[part], keys, rows[part])
        masks = []
        for rank, chosen in names.codes.items():
            own = np.where(rows[part] >= 0, codes[rank][rows[part].clip(0)], -1)
            masks += [own >= 0, (own == chosen[part, None]) & (own >= 0)]
        shares = torch.from_numpy(np.stack(masks, 1).astype(np.float32)) @ winners  # (n, 2 * ranks, S)
        for place, rank in enumerate(found):
            every, mine = shares[:, 2 * place].numpy(), shares[:, 2 * place + 1].numpy()
            found[rank][part] = np.where(every > 0, mine / np.maximum(every, 1), 1.0).mean(1)
    return found


def _winners(aligned: Codes, keys: Packed, rows: NDArray[np.int64]) -> torch.Tensor:
    """Whether each candidate is the nearest in each sample (n, C, S), as 0 and 1."""
    both, equal = compared_bits(aligned, keys, rows)
    counts = [np.bitwise_count(np.ascontiguousarray(bits).view(np.uint8)).astype(np.float32) for bits in (both, equal)]
    blocks = counts[0].shape[-1]
    times = torch.from_numpy(np.random.default_rng(0).poisson(1.0, (blocks, SAMPLES)).astype(np.float32))
    overlap, same = (torch.from_numpy(count) @ times for count in counts)
    share = same / overlap.clamp(min=1)
    share[overlap < LEAST_OVERLAP * overlap.amax(1, keepdim=True).clamp(min=1e-9)] = -1
    share[torch.from_numpy(rows < 0)] = -2
    return (share >= share.amax(1, keepdim=True) - 1e-6).float()
