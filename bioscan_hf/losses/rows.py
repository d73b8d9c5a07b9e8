"""Contrastive losses over the rows of all processes: tensors in, a loss out.

Source: supervised contrastive learning, https://arxiv.org/abs/2004.11362 (its L_out), at several ranks of a taxonomy.
Shape letters: B = rows of this process, N = rows of all processes, E = embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def supervised_contrastive_loss(
    embeddings: Tensor,
    labels: Mapping[str, Tensor],
    *,
    temperature: float = 0.1,
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """Mean over ranks and anchors of -log of the probability of the rows that carry an anchor's label, in nats.

    For one rank, an anchor is a row that has a label which another row has as well; its loss is the mean over these
    others of their log-probability among all rows but itself, so that a common taxon does not weigh more than a rare
    one for an anchor. Unknown labels match nothing, but their rows are contrasted with. A rank without any anchor
    counts nothing. Several processes contrast with each other's rows; the mean of their losses, and of the gradients,
    is that of one process with all rows.

    Args:
        embeddings: Unit vectors (B, E); as many in each process.
        labels: Rank -> ids (B,), negative where unknown.
        temperature: Divides the cosines.
        weights: Rank -> weight of its loss in the mean; None weighs all alike.

    Returns:
        The loss, in float32 at least; 0 if no row has another one of its label.

    Raises:
        ValueError: for a temperature that is not positive, no rank, other ranks in `weights`, labels that do not fit
            the rows, and embeddings that are not finite (the rows are named).
    """
    check_contrast(embeddings, labels, temperature, weights)
    everything = gather(embeddings)  # (N, E)
    first = dist.get_rank() * len(embeddings) if _several() else 0
    rows = torch.arange(len(embeddings), device=embeddings.device)
    self_match = torch.zeros(len(embeddings), len(everything), dtype=torch.bool, device=embeddings.device)
    self_match[rows, first + rows] = True
    precise = torch.promote_types(embeddings.dtype, torch.float32)
    similarity = embeddings.to(precise) @ everything.to(precise).T / temperature
    similarity = similarity.masked_fill(self_match, -torch.inf)
    log_probability = torch.log_softmax(similarity, dim=1).masked_fill(self_match, 0)  # (B, N)

    chosen = weights or dict.fromkeys(labels, 1.0)
    total, shares = embeddings.new_zeros((), dtype=precise), 0.0
    for rank, weight in chosen.items():
        ids = labels[rank]
        positive = (ids[:, None] == gather(ids)[None]) & (ids >= 0)[:, None] & ~self_match
        others = positive.sum(1)
        anchors = others > 0
        loss = -((log_probability * positive).sum(1) / others.clamp(min=1)).sum()
        count = _sum_over_processes(anchors.sum())
        if count > 0:
            # Gradients are averaged over processes, and the count is that of all of them.
            total = total + weight * loss * (dist.get_world_size() if _several() else 1) / count
            shares += weight
    return total / shares if shares else (embeddings * 0).sum()


def check_contrast(
    embeddings: Tensor, labels: Mapping[str, Tensor], temperature: float, weights: Mapping[str, float] | None
) -> None:
    """Raises ValueError unless the arguments of `supervised_contrastive_loss` make sense."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but divides cosines: give a positive number, such as 0.1.")
    if not labels:
        raise ValueError("There are no labels. Give the ids of one rank or more.")
    if weights is not None and (set(weights) != set(labels) or not all(weight > 0 for weight in weights.values())):
        raise ValueError(
            f"weights ({dict(weights)}) must name each rank of the labels ({', '.join(labels)}), above 0."
        )
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have the shape {tuple(embeddings.shape)}, but must be (rows, numbers).")
    for rank, ids in labels.items():
        if ids.shape != embeddings.shape[:1]:
            raise ValueError(
                f"The labels of {rank} have the shape {tuple(ids.shape)}, but there are {len(embeddings)} embeddings: "
                f"each needs one id."
            )
    broken = torch.nonzero(~torch.isfinite(embeddings.detach()).all(1)).flatten().tolist()
    if broken:
        raise ValueError(f"The embeddings of the rows {', '.join(map(str, broken[:5]))} are NaN or infinite.")


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, (N, ...), in the order of the processes; gradients flow back to each.

    Every process must have as many rows.
    """
    return _Gather.apply(rows) if _several() else rows


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards, the sum of what all of them ask of the rows of this one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.mine = slice(dist.get_rank() * len(rows), (dist.get_rank() + 1) * len(rows))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        summed = grad.contiguous().clone()
        dist.all_reduce(summed)
        return summed[ctx.mine]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _sum_over_processes(count: Tensor) -> Tensor:
    if _several():
        dist.all_reduce(count)
    return count
