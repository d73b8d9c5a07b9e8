"""Supervised contrastive loss at several ranks of a taxonomy, over the rows of all processes.

Source: supervised contrastive learning, https://arxiv.org/abs/2004.11362 (its L_out), averaged over ranks.
Shape letters: B = rows of this process, N = rows of all processes, E = embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from .rows import check_weights, gather, named_rows, process_count


def supervised_contrastive_loss(
    embeddings: Tensor,
    labels: Mapping[str, Tensor],
    *,
    temperature: float = 0.1,
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """Supervised contrastive loss, averaged over ranks and anchors, in nats.

    At one rank, an anchor is a row whose label another row shares. Its loss is the mean of the negative
    log-probabilities of those other rows among all rows but itself. Rows with unknown labels are negatives. A rank
    without anchors is left out. Rows are compared across processes: the mean of the processes' losses and gradients
    is that of one process with all rows.

    Args:
        embeddings: Unit vectors (B, E), the same number in each process.
        labels: Rank -> ids (B,), negative where unknown.
        temperature: Divides the cosines.
        weights: Rank -> weight of its loss in the mean; None is the same weight for all.

    Returns:
        The loss, at least in float32; 0 if no label occurs twice.

    Raises:
        ValueError: for a temperature that is not positive, no rank, other ranks in `weights`, labels that do not match
            the rows, and embeddings that are not finite (the rows are named).
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; give a positive number, such as 0.1.")
    if not labels:
        raise ValueError("There are no labels. Give the ids of one rank or more.")
    weights = check_weights(weights, labels)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have the shape {tuple(embeddings.shape)}, but must be (rows, numbers).")
    for rank, ids in labels.items():
        if ids.shape != embeddings.shape[:1]:
            raise ValueError(
                f"The labels of {rank} have the shape {tuple(ids.shape)}, and the embeddings "
                f"{tuple(embeddings.shape)}; give one id for each embedding."
            )
    broken = torch.nonzero(~torch.isfinite(embeddings.detach()).all(1)).flatten().tolist()
    if broken:
        raise ValueError(f"The embeddings of {named_rows(broken)} are NaN or infinite.")
    everything, processes = gather(embeddings), process_count()  # (N, E)
    first = dist.get_rank() * len(embeddings) if processes > 1 else 0
    numbers = torch.arange(len(everything), device=embeddings.device)
    self_match = numbers[first : first + len(embeddings), None] == numbers  # (B, N)
    precise = torch.promote_types(embeddings.dtype, torch.float32)
    similarity = embeddings.to(precise) @ everything.to(precise).T / temperature
    similarity = similarity.masked_fill(self_match, -torch.inf)
    log_probability = torch.log_softmax(similarity, dim=1).masked_fill(self_match, 0)  # (B, N)

    total, shares = embeddings.new_zeros((), dtype=precise), 0.0
    for rank, weight in weights.items():
        ids = labels[rank]
        positive = (ids[:, None] == gather(ids)[None]) & (ids >= 0)[:, None] & ~self_match
        others = positive.sum(1)
        loss = -((log_probability * positive).sum(1) / others.clamp(min=1)).sum()
        count = (others > 0).sum()
        if processes > 1:
            dist.all_reduce(count)
        if count > 0:
            # Gradients are averaged over processes, but the count is the sum over processes.
            total = total + weight * loss * processes / count
            shares += weight
    return total / shares if shares else (embeddings * 0).sum()
