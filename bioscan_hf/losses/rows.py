"""Gathering of rows from all processes, with gradients, and the weights of ranks.

Shape letters: N = rows of all processes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def check_weights(weights: Mapping[str, float] | None, ranks: Collection[str]) -> Mapping[str, float]:
    """Rank -> weight, 1 for each rank without `weights`; raises ValueError unless each rank has a positive weight."""
    weights = dict.fromkeys(ranks, 1.0) if weights is None else weights
    if set(weights) != set(ranks) or not all(weight > 0 for weight in weights.values()):
        raise ValueError(
            f"The weights of ranks ({dict(weights)}) must name each rank of the labels ({', '.join(ranks)}), above 0."
        )
    return weights


def named_rows(numbers: Sequence[int]) -> str:
    """The first 5 rows as text: "row 3", "the rows 3, 4, 5, 6, 7 and 2 more"."""
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"the rows {', '.join(map(str, numbers[:5]))}{more}"


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes (N, ...), in the order of the processes, with gradients to each.

    Every process must have the same number of rows.
    """
    return _Gather.apply(rows) if process_count() > 1 else rows


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is summed over processes."""

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


def process_count() -> int:
    """Number of processes; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class MeanGradient(torch.autograd.Function):
    """Identity whose gradient is averaged over processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient / dist.get_world_size()
