"""Losses on the [CLS] token that learn from names of taxa during pretraining.

Source: BarcodeMAE+, https://github.com/bioscan-ml/BarcodeMAE-plus
Rows of all processes are compared. Shape letters: B = rows of this process, N = rows of all processes, D = hidden
size, C = taxa, P = pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize, softplus

from .rows import gather

#: Largest number of pairs of a batch.
MAX_PAIRS = 128


def class_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the cross-entropies (nats) of the rows of this process that have a label; 0 without one.

    Args:
        logits: (B, C).
        labels: Ids (B,), negative where missing.
    """
    return cross_entropy(logits.float(), labels.masked_fill(labels < 0, -100), ignore_index=-100, reduction="sum")


def pair_loss(embeddings: Tensor, labels: Tensor, score: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """Mean binary cross-entropy (nats) of pairs of rows, of one taxon or not; 0 with fewer than two labels.

    Every process gives the loss of all rows. Gradients averaged over processes equal those of one process.

    Args:
        embeddings: (B, D), the same B in each process.
        labels: Ids (B,), negative where missing.
        score: Two embeddings side by side (P, 2 D) -> logits (P, 1) of one taxon.
        seed: Of the pairs that are drawn, see `draw_pairs`; the same in each process.
    """
    rows, ids = gather(embeddings), gather(labels)  # (N, D), (N,)
    pairs, same = draw_pairs(ids.cpu(), seed)
    if not len(pairs):
        return score(torch.cat([rows[:1], rows[:1]], 1)).sum() * 0  # each process and each weight takes part
    first, second = pairs.to(rows.device).unbind(1)
    logits = score(torch.cat([rows[first], rows[second]], 1)).squeeze(1).float()
    return binary_cross_entropy_with_logits(logits, same.to(logits))


def draw_pairs(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Up to 128 pairs of labelled rows (P, 2), and whether they are of one taxon (P,), bool.

    Half of them are of one taxon where there are enough; otherwise the other kind fills up.

    Args:
        labels: Ids (N,) on the CPU, negative where missing.
    """
    known = (labels >= 0).nonzero().squeeze(1)
    equal = labels[known, None] == labels[known]
    upper = torch.ones_like(equal).triu(1)
    kinds = [(equal & upper).nonzero(), (~equal & upper).nonzero()]
    half = MAX_PAIRS // 2
    wanted = [max(half, MAX_PAIRS - len(kinds[1])), max(half, MAX_PAIRS - len(kinds[0]))]
    draw = torch.Generator().manual_seed(seed)
    chosen = [
        kind[torch.randperm(len(kind), generator=draw)[:count]] for kind, count in zip(kinds, wanted, strict=True)
    ]
    same = torch.arange(sum(map(len, chosen))) < len(chosen[0])
    return known[torch.cat(chosen)], same


def triplet_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean softplus of the farthest positive minus the nearest negative cosine distance; 0 without such rows.

    Anchors are the labelled rows with another row of their taxon and one of another taxon. Every process gives the
    loss of all rows. Gradients averaged over processes equal those of one process.

    Args:
        embeddings: (B, D), the same B in each process.
        labels: Ids (B,), negative where missing.
    """
    ids = gather(labels)  # (N,)
    rows = normalize(gather(embeddings).float(), dim=1)  # (N, D)
    distance = 1 - rows @ rows.T  # (N, N)
    known = ids >= 0
    both = known[:, None] & known
    equal = both & (ids[:, None] == ids)
    positive = equal & ~torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    negative = both & ~equal
    anchors = positive.any(1) & negative.any(1)
    farthest = distance.masked_fill(~positive, -1).amax(1)
    nearest = distance.masked_fill(~negative, 3).amin(1)
    losses = softplus(farthest - nearest).masked_fill(~anchors, 0)
    return losses.sum() / anchors.sum().clamp(min=1)
