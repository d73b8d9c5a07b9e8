"""Contrastive losses between modalities, over the rows of all processes.

Sources: CLIBD, https://arxiv.org/abs/2405.17537; several ranks, https://arxiv.org/abs/2204.13207; SigLIP,
https://arxiv.org/abs/2303.15343.
Every process compares its own rows with all rows: similarities are (B, N), never (N, N).
Shape letters: B = rows of this process, N = rows of all processes, C = rows of a chunk, E = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from .pairs import Pair, Rows, choose_pairs

#: Similarity of rows that are not compared. Minus infinity would give NaN for rows without any comparison.
IGNORED = -1e9


def contrastive_loss(
    embeddings: Mapping[str, Tensor],
    logit_scale: Tensor | float,
    labels: Tensor | Mapping[str, Tensor] | None = None,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    bind_to: str | None = None,
    target_normalization: Literal["none", "mean"] = "none",
    rank_weights: Mapping[str, float] | None = None,
    present: Mapping[str, Tensor] | None = None,
    duplicates: Mapping[str, Tensor] | None = None,
    across_processes: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    """Mean cross-entropy of matching rows between modalities, over pairs, directions and rows, in nats.

    The positives of a row are the same specimen in the other modality and, with `labels`, all specimens of its label.
    Without labels this is the loss of CLIP. Every process returns the loss of the whole batch; gradients averaged over
    processes, as DistributedDataParallel does, equal those of one process.

    Args:
        embeddings: Modality -> (B, E), two or more, with the same number of rows in each process. They are normalized.
        logit_scale: Inverse temperature; multiplies the cosines.
        labels: Ids (B,), negative where unknown. For several ranks, rank -> ids: their losses are averaged. This needs
            `target_normalization="mean"`, so that the rank with the largest groups does not dominate.
        pairs: Pairs of modalities to compare, in any order; None compares all.
        bind_to: Compares this modality with each other one, and no others.
        target_normalization: "none", as published, sums over the n positives of a row; "mean" divides by n.
        rank_weights: Rank -> weight of its loss in the mean; None is the same weight for all.
        present: Modality -> (B,) bool, False for rows without it. A pair uses the rows that have both modalities, and
            is left out with fewer than two such rows.
        duplicates: Modality -> ids (B,) of equal inputs, negative for none, such as ids of taxonomy texts. In the
            pairs of this modality, rows with equal inputs are not negatives; rows of one label stay positives.
        across_processes: If False, rows are compared within a process, and each process has a loss of its own.
        chunk_size: Rows whose similarities are in memory at a time; they are recomputed for the gradient. None keeps
            all, which is faster and takes 4 B N bytes for each pair.

    Returns:
        The loss; 0 if every pair is left out.

    Raises:
        ValueError: for arguments that do not match, fewer than two rows, processes with unequal batches, embeddings
            that are not finite (rows are named), and embeddings without a gradient while `logit_scale` has one.
    """
    if target_normalization not in ("none", "mean"):
        raise ValueError(f"target_normalization is {target_normalization!r}; choose 'none' (as published) or 'mean'.")
    if isinstance(labels, Mapping) and target_normalization != "mean":
        raise ValueError(f"Labels of ranks ({', '.join(labels)}) need target_normalization='mean'.")
    chosen = choose_pairs(list(embeddings), pairs, bind_to)
    rows = Rows.of(embeddings, logit_scale, labels, rank_weights, present, duplicates, across_processes, chunk_size)
    with torch.autocast(rows.index.device.type, enabled=False):
        scale, losses = rows.shared(logit_scale), []
        for pair in rows.pairs(embeddings, chosen):
            by_row, by_column = _log_sum_exps(rows, pair, scale)  # (B,), (B,)
            loss = torch.zeros_like(by_row)
            for share, group in rows.groups:
                count, similarity = _partners(rows, pair, scale, group)
                terms = count * (by_row + by_column) / 2 - similarity
                loss = loss + share * (terms / count.clamp(min=1) if target_normalization == "mean" else terms)
            losses.append((loss.masked_fill(~pair.complete[rows.own], 0).sum(), pair.complete.sum()))
        return rows.mean(losses, embeddings, logit_scale)


def siglip_loss(
    embeddings: Mapping[str, Tensor],
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    labels: Tensor | None = None,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    bind_to: str | None = None,
    present: Mapping[str, Tensor] | None = None,
    duplicates: Mapping[str, Tensor] | None = None,
    across_processes: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    """SigLIP: binary cross-entropy of every two rows, summed over rows and averaged over pairs and rows, in nats.

    Args:
        embeddings, logit_scale, pairs, bind_to, present, duplicates, across_processes, chunk_size: as in
            `contrastive_loss`.
        logit_bias: Added to the scaled cosines; SigLIP starts at -10 with a scale of 10.
        labels: Ids (B,), negative where unknown; rows of one label are positives. None: each row has its own label.

    Returns:
        The loss; 0 if every pair is left out.

    Raises:
        ValueError: as `contrastive_loss`.
    """
    if isinstance(labels, Mapping):
        raise ValueError(f"siglip_loss takes labels of one rank, but got {', '.join(labels)}. Give one tensor of ids.")
    chosen = choose_pairs(list(embeddings), pairs, bind_to)
    rows = Rows.of(embeddings, logit_scale, labels, None, present, duplicates, across_processes, chunk_size)
    with torch.autocast(rows.index.device.type, enabled=False):
        scale, bias, losses = rows.shared(logit_scale), rows.shared(logit_bias), []
        for pair in rows.pairs(embeddings, chosen):
            # -log sigmoid(x) = softplus(x) - x for positives, and -log sigmoid(-x) = softplus(x) for negatives.
            negatives = torch.cat(list(_in_chunks(rows, pair, scale, lambda x: softplus(x + bias).sum(1))))
            count, similarity = _partners(rows, pair, scale, rows.groups[0][1])
            loss = negatives - similarity - count * bias
            losses.append((loss.masked_fill(~pair.complete[rows.own], 0).sum(), pair.complete.sum()))
        return rows.mean(losses, embeddings, logit_scale)


def _partners(rows: Rows, pair: Pair, scale: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Number of positives of each row of this process (B,), and the sum of the similarities to them (B,).

    The rows of a group are summed first, which takes N E operations instead of N N.
    """
    complete = pair.complete.to(pair.second.dtype)
    own = group[rows.own]
    count = torch.zeros_like(complete).index_add(0, group, complete)[own]
    present = pair.second if pair.whole else pair.second * complete[:, None]
    sums = torch.zeros_like(pair.second).index_add(0, group, present)[own]
    return count, scale * (pair.first * sums).sum(1)


def _log_sum_exps(rows: Rows, pair: Pair, scale: Tensor) -> tuple[Tensor, Tensor]:
    """log(sum(exp(similarity))) of each row of this process over all rows, (B,), in both directions."""
    parts = list(_in_chunks(rows, pair, scale, _LogSumExps.apply))
    by_row = torch.cat([part for part, _ in parts])
    by_column = torch.stack([part for _, part in parts]).logsumexp(0)  # (N,) over own rows
    by_column = rows.everywhere(by_column[None]).logsumexp(0)  # (N,) over all rows
    return by_row, by_column[rows.own]


def _in_chunks(rows: Rows, pair: Pair, scale: Tensor, reduce: Callable[[Tensor], Any]) -> Iterator[Any]:
    """`reduce` of the similarities (C, N) of each chunk of rows of this process with all rows."""

    def compute(first: Tensor, second: Tensor, scale: Tensor, numbers: Tensor) -> Any:
        logits = (first * scale) @ second.T  # (C, N)
        if not pair.whole or pair.equal:
            logits = logits.masked_fill(_ignored(rows, pair, numbers), IGNORED)
        return reduce(logits)

    numbers = rows.index[rows.own]
    size = rows.chunk_size or len(numbers)
    for start in range(0, len(numbers), size):
        given = pair.first[start : start + size], pair.second, scale, numbers[start : start + size]
        if rows.chunk_size is None:
            yield compute(*given)
        else:
            yield checkpoint(compute, *given, use_reentrant=False, preserve_rng_state=False)


def _ignored(rows: Rows, pair: Pair, numbers: Tensor) -> Tensor:
    """Mask (C, N) of the rows that are not compared with the rows `numbers` (C,): absent rows and duplicates."""
    ignored = torch.zeros(len(numbers), len(rows.index), dtype=torch.bool, device=rows.index.device)
    for ids in pair.equal:
        ignored |= (ids[numbers, None] == ids) & (ids[numbers, None] >= 0)
    for _, group in rows.groups:
        ignored &= group[numbers, None] != group
    return ignored | ~(pair.complete[numbers, None] & pair.complete)


class _LogSumExps(torch.autograd.Function):
    """logsumexp of rows (C,) and columns (N,); its gradient takes half the memory of two torch calls."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
        by_row, by_column = logits.logsumexp(1), logits.logsumexp(0)
        ctx.save_for_backward(logits, by_row, by_column)
        return by_row, by_column

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        logits, by_row, by_column = ctx.saved_tensors
        gradient = (logits - by_row[:, None]).exp_().mul_(of_rows[:, None])
        return gradient.addcmul_((logits - by_column).exp_(), of_columns)
