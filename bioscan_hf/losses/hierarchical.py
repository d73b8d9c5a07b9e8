"""Hierarchical regularisation (HiR): contrastive loss over the chain species, genus, family, order.

Source: CLiBD-HiR, https://arxiv.org/abs/2603.25573, which takes it from HMLC, https://arxiv.org/abs/2204.13207
("hmce"). The public code fails where one row is left at a rank, and takes the label 0 for unknown; this does neither.
Shape letters: B = rows of this process, N = rows of all processes, V = views of a row, E = embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .rows import gather, named_rows

#: The chain of ranks, finest first.
CHAIN = ("species", "genus", "family", "order")


def hierarchical_loss(
    embeddings: Tensor,
    labels: Mapping[str, Tensor],
    *,
    present: Tensor | None = None,
    temperature: float = 0.07,
) -> Tensor:
    """Sum over ranks d = 1, 2, ... of 2^(1/d) times the loss of a rank, divided by the number of ranks, in nats.

    The loss of a rank is a supervised contrastive loss: views of rows of one taxon are positives, and so are the views
    of one row. It is at least the largest loss of the finer ranks. After each rank, one row of each known taxon stays,
    the first, and all rows of unknown taxon. A rank without positives has the loss 0. Every process gives the loss of
    all rows; gradients averaged over processes equal those of one process.

    Args:
        embeddings: (B, E), or (B, V, E) for V views, the same B in each process.
        labels: Rank -> ids (B,), negative where unknown; finest rank first.
        present: Rows that count, bool (B,); None is all.
        temperature: Divides the cosines.

    Returns:
        The loss, at least in float32; 0 without positives.

    Raises:
        ValueError: for a temperature that is not positive, no rank, labels that do not match the rows, and embeddings
            that are not finite (the rows are named).
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; give a positive number, such as 0.07.")
    if not labels:
        raise ValueError("There are no labels. Give the ids of one rank or more.")
    views = embeddings[:, None] if embeddings.ndim == 2 else embeddings  # (B, V, E)
    if views.ndim != 3 or any(ids.shape != views.shape[:1] for ids in labels.values()):
        shapes = {rank: tuple(ids.shape) for rank, ids in labels.items()}
        raise ValueError(f"The embeddings {tuple(embeddings.shape)} do not fit the labels {shapes}.")
    here = torch.ones(len(views), dtype=torch.bool, device=views.device) if present is None else present.bool()
    broken = torch.nonzero(~torch.isfinite(views.detach()).flatten(1).all(1) & here).flatten().tolist()
    if broken:
        raise ValueError(f"The embeddings of {named_rows(broken)} are NaN or infinite.")
    with torch.autocast(views.device.type, enabled=False):
        precise = views.to(torch.promote_types(views.dtype, torch.float32)).masked_fill(~here[:, None, None], 0)
        rows = normalize(gather(precise), dim=-1)  # (N, V, E)
        left = gather(here.to(torch.uint8)) > 0
        total = worst = (rows * 0).sum()
        for depth, ids in enumerate(map(gather, labels.values()), start=1):
            worst = torch.maximum(worst, _rank_loss(rows[left], ids[left], temperature))
            total = total + 2 ** (1 / depth) * worst
            left = left & _first_of_each(ids, left)
        return total / len(labels)


def _rank_loss(rows: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Mean over views with positives of the mean negative log-probability of their positives; 0 without any.

    Args:
        rows: (n, V, E).
        ids: (n,), negative where unknown.
    """
    number = torch.arange(len(ids), device=ids.device)
    same = (number[:, None] == number) | ((ids[:, None] == ids) & (ids >= 0)[:, None])
    count = rows.shape[1]
    views = rows.reshape(-1, rows.shape[2])
    itself = torch.eye(len(views), dtype=torch.bool, device=ids.device)
    positive = same.repeat_interleave(count, 0).repeat_interleave(count, 1) & ~itself
    anchors = positive.any(1)
    if not anchors.any():
        return (rows * 0).sum()
    similarity = (views @ views.T / temperature).masked_fill(itself, -torch.inf)
    log_probability = torch.log_softmax(similarity, 1).masked_fill(itself, 0)
    losses = -(log_probability * positive).sum(1) / positive.sum(1).clamp(min=1)
    return losses.sum() / anchors.sum()


def _first_of_each(ids: Tensor, left: Tensor) -> Tensor:
    """Mask (N,) of the rows of unknown taxon, and of the first row of each taxon among the rows that are `left`."""
    unknown = ids < 0
    known = left & ~unknown
    groups = torch.unique(ids, return_inverse=True)[1]
    number = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(number, len(ids)).scatter_reduce(0, groups[known], number[known], "amin")
    return unknown | (known & (first[groups] == number))
