"""Contrastive losses between modalities, over the rows of all processes: tensors in, a loss out.

Source: CLIBD, https://arxiv.org/abs/2405.17537, whose loss is the symmetric one of CLIP averaged over pairs of
modalities; several ranks of a taxonomy as in https://arxiv.org/abs/2204.13207; SigLIP, https://arxiv.org/abs/2303.15343.

Each unordered pair takes one product of matrices, in which every process compares its own rows with all: their
similarities are (B, N), never (N, N). Sums over columns are completed by the other processes.

Shape letters: B = rows of this process, N = rows of all processes, C = rows of a chunk, E = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize, softplus
from torch.utils.checkpoint import checkpoint

from bioscan_hf.losses.rows import gather

#: Similarity of rows that are not compared. Unlike minus infinity, it leaves no NaN where a whole row is left out.
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
    """Mean cross-entropy of finding each row's partners, over pairs of modalities, both directions and rows, in nats.

    A row's partner is the same specimen in the other modality, and with `labels` every specimen of its label; rows of
    an unknown label have themselves alone. Without labels this is the loss of CLIP. Every process returns the loss of
    the whole batch; gradients averaged over processes, as DistributedDataParallel does, are those of one process.

    Args:
        embeddings: Modality -> (B, E), two or more; as many rows in each process. They are brought to unit length.
        logit_scale: Inverse temperature, which multiplies the cosines.
        labels: Ids (B,), negative where unknown. Several ranks are given by name, and their losses are averaged; they
            need `target_normalization="mean"`, as otherwise the rank of the largest groups would make up the loss.
        pairs: Names of the modalities to compare; None compares all. The order within a pair does not matter.
        bind_to: Compares this modality with each of the others, and these not with each other.
        target_normalization: "none", as published, counts a row once for each of its n partners, so that its loss
            grows with n; "mean" divides by n.
        rank_weights: Rank -> its weight in the mean; None weighs all alike.
        present: Modality -> (B,) bool, False for rows that lack it. A pair is as if only the rows that have both
            were there; a pair with fewer than two such rows is left out of the mean. None: all are there.
        duplicates: Modality -> ids (B,) of equal inputs, negative for none, such as that of a row's taxonomy text.
            Another row whose input equals a row's is no negative of it in the pairs of this modality; with labels of
            several ranks, unless the two share a taxon at one of them, where they are partners.
        across_processes: Whether the rows of other processes are compared with; if not, the loss is this process' own.
        chunk_size: Rows whose similarities are in memory at a time; they are computed again for the gradient. None
            keeps all, which takes less time and 4 B N bytes for each pair.

    Returns:
        The loss; 0 if every pair is left out.

    Raises:
        ValueError: for arguments that do not fit each other, fewer than two rows, processes of unequal batches,
            embeddings that are not finite (rows are named), and embeddings without gradient while `logit_scale` has
            one: that would train nothing but the temperature.
    """
    if target_normalization not in ("none", "mean"):
        raise ValueError(f"target_normalization is {target_normalization!r}: choose none (as published) or mean.")
    if isinstance(labels, Mapping) and target_normalization != "mean":
        raise ValueError(f"Labels of ranks ({', '.join(labels)}) need target_normalization='mean'.")
    chosen = choose_pairs(list(embeddings), pairs, bind_to)
    rows = _Rows.of(embeddings, logit_scale, labels, rank_weights, present, duplicates, across_processes, chunk_size)
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
    """Mean over pairs of modalities and rows of the summed binary cross-entropies of every two rows, in nats.

    Whether two rows belong together is asked of each two of them alone, so that no sum over the batch is needed.

    Args:
        embeddings, logit_scale, pairs, bind_to, present, duplicates, across_processes, chunk_size: as in
            `contrastive_loss`.
        logit_bias: Added to the scaled cosines; SigLIP starts at -10 with a scale of 10.
        labels: Ids (B,), negative where unknown: rows of one label belong together. None: each row its own.

    Returns:
        The loss; 0 if every pair is left out.

    Raises:
        ValueError: as `contrastive_loss`.
    """
    if isinstance(labels, Mapping):
        raise ValueError(f"siglip_loss takes the labels of one rank, not of {', '.join(labels)}.")
    chosen = choose_pairs(list(embeddings), pairs, bind_to)
    rows = _Rows.of(embeddings, logit_scale, labels, None, present, duplicates, across_processes, chunk_size)
    with torch.autocast(rows.index.device.type, enabled=False):
        scale, bias, losses = rows.shared(logit_scale), rows.shared(logit_bias), []

        def of_all(logits: Tensor) -> tuple[Tensor, ...]:
            return (softplus(logits + bias).sum(1),)

        for pair in rows.pairs(embeddings, chosen):
            # -log sigmoid(x) = softplus(x) - x for partners, and -log sigmoid(-x) = softplus(x) for all others.
            parts = _in_chunks(rows, pair, scale, of_all)
            count, similarity = _partners(rows, pair, scale, rows.groups[0][1])
            loss = torch.cat([part for (part,) in parts]) - similarity - count * bias
            losses.append((loss.masked_fill(~pair.complete[rows.own], 0).sum(), pair.complete.sum()))
        return rows.mean(losses, embeddings, logit_scale)


def choose_pairs(
    modalities: Sequence[str], pairs: Sequence[tuple[str, str]] | None = None, bind_to: str | None = None
) -> list[tuple[str, str]]:
    """Unordered pairs of modalities, by name: those given, those with `bind_to`, or all.

    Raises:
        ValueError: for fewer than two modalities, names that are not among them, a pair of a modality with itself or
            given twice, no pair, and both `pairs` and `bind_to`.
    """
    there = f"The modalities are {', '.join(modalities) or 'none'}"
    if len(modalities) < 2:
        raise ValueError(f"{there}, but a contrastive loss compares two or more.")
    if pairs is not None and bind_to is not None:
        raise ValueError(f"pairs ({pairs}) and bind_to ({bind_to}) both choose what is compared: give one.")
    if bind_to is not None and bind_to not in modalities:
        raise ValueError(f"{there}: bind_to ({bind_to}) is not one of them.")
    if bind_to is not None:  # second in each pair, so that it alone is gathered from other processes
        return [(other, bind_to) for other in modalities if other != bind_to]
    if pairs is None:
        return list(combinations(modalities, 2))
    for pair in pairs:
        if len(set(pair)) != 2 or not set(pair) <= set(modalities):
            raise ValueError(f"{there}: {tuple(pair)} is no pair of two of them.")
    if not pairs or len({frozenset(pair) for pair in pairs}) < len(pairs):
        raise ValueError(f"pairs ({list(pairs)}) must name one pair or more, each once: both directions are compared.")
    return [(first, second) for first, second in pairs]


@dataclass(frozen=True)
class _Pair:
    """Two modalities: the own rows of the first, and all rows of the second."""

    first: Tensor  # (B, E) of unit length
    second: Tensor  # (N, E)
    complete: Tensor  # (N,) rows that have both
    equal: list[Tensor]  # ids (N,) of equal inputs
    whole: bool  # whether no row may lack one of the two


@dataclass(frozen=True)
class _Rows:
    """What is known of the rows of all processes, and how they are compared."""

    index: Tensor  # (N,) 0, 1, ...
    own: slice  # of the N rows
    groups: list[tuple[float, Tensor]]  # share in the mean; a number (N,) that partners have in common
    present: dict[str, Tensor]  # (N,)
    duplicates: dict[str, Tensor]  # (N,)
    processes: int
    chunk_size: int | None

    @classmethod
    def of(
        cls,
        embeddings: Mapping[str, Tensor],
        logit_scale: Tensor | float,
        labels: Tensor | Mapping[str, Tensor] | None,
        rank_weights: Mapping[str, float] | None,
        present: Mapping[str, Tensor] | None,
        duplicates: Mapping[str, Tensor] | None,
        across_processes: bool,
        chunk_size: int | None,
    ) -> _Rows:
        """Checks the arguments of a loss and gathers labels, but no embeddings."""
        ranks = {} if labels is None else dict(labels) if isinstance(labels, Mapping) else {"labels": labels}
        present, duplicates = present or {}, duplicates or {}
        weights = dict.fromkeys(ranks, 1.0) if rank_weights is None else rank_weights
        _check(embeddings, logit_scale, chunk_size, {"labels": ranks, "present": present, "duplicates": duplicates})
        if set(weights) != set(ranks) or min(weights.values(), default=1) <= 0:
            raise ValueError(f"rank_weights ({dict(weights)}) must name each rank of the labels, above 0.")
        several = across_processes and dist.is_available() and dist.is_initialized()
        processes = dist.get_world_size() if several else 1
        some = next(iter(embeddings.values()))
        everywhere = gather if processes > 1 else torch.Tensor.contiguous
        sizes = gather(torch.tensor([len(some)], device=some.device)).tolist() if processes > 1 else [len(some)]
        if len(set(sizes)) > 1 or sum(sizes) < 2:
            raise ValueError(
                f"The processes have {', '.join(map(str, sizes))} rows. A contrastive loss needs two or more, and as "
                f"many in each process: drop the last batch (dataloader_drop_last=True)."
            )
        first = dist.get_rank() * len(some) if processes > 1 else 0
        index = torch.arange(sum(sizes), device=some.device)
        return cls(
            index=index,
            own=slice(first, first + len(some)),
            groups=[
                (weight / sum(weights.values()), _groups(everywhere(ranks[rank]), index))
                for rank, weight in weights.items()
            ]
            or [(1.0, index)],
            present={name: everywhere(here.to(torch.uint8)) > 0 for name, here in present.items()},
            duplicates={name: everywhere(ids) for name, ids in duplicates.items()},
            processes=processes,
            chunk_size=chunk_size,
        )

    def everywhere(self, rows: Tensor) -> Tensor:
        """The rows of all processes."""
        return gather(rows) if self.processes > 1 else rows

    def shared(self, value: Tensor | float) -> Tensor:
        """A number that all processes hold in common, so that its gradient is their mean."""
        value = torch.as_tensor(value, device=self.index.device)
        return _MeanGradient.apply(value) if self.processes > 1 and value.requires_grad else value

    def pairs(self, embeddings: Mapping[str, Tensor], chosen: Sequence[tuple[str, str]]) -> Iterator[_Pair]:
        """The chosen pairs, each modality brought to unit length and gathered once at most."""
        vectors, gathered = {}, {}
        for name in dict.fromkeys(name for pair in chosen for name in pair):
            dtype = torch.promote_types(embeddings[name].dtype, torch.float32)
            rows = embeddings[name].to(dtype)
            if name in self.present:  # absent rows may hold anything, NaN as well
                rows = rows.masked_fill(~self.present[name][self.own, None], 0)
            vectors[name] = normalize(rows, dim=-1)
        for first, second in chosen:
            if second not in gathered:
                gathered[second] = self.everywhere(vectors[second])
            here = [self.present[name] for name in (first, second) if name in self.present]
            yield _Pair(
                first=vectors[first],
                second=gathered[second],
                complete=torch.stack([torch.ones_like(self.index, dtype=torch.bool), *here]).all(0),
                equal=[self.duplicates[name] for name in (first, second) if name in self.duplicates],
                whole=not here,
            )

    def mean(
        self, losses: Sequence[tuple[Tensor, Tensor]], embeddings: Mapping[str, Tensor], logit_scale: Tensor | float
    ) -> Tensor:
        """Mean over pairs of (sum over own rows, number of complete rows everywhere); checked to be finite."""
        total, pairs = torch.zeros_like(losses[0][0]), torch.zeros_like(losses[0][1])
        for loss, count in losses:
            total = total + (loss / count.clamp(min=1)).masked_fill(count < 2, 0)
            pairs = pairs + (count >= 2)
        # Gradients will be averaged over processes, so that each counts its share as often as there are processes.
        total = total * self.processes / pairs.clamp(min=1)
        value = total.detach().clone()
        if self.processes > 1:
            dist.all_reduce(value)
            value = value / self.processes
        if not torch.isfinite(value):
            raise ValueError(self.broken(embeddings, logit_scale))
        return total + (value - total.detach())

    def broken(self, embeddings: Mapping[str, Tensor], logit_scale: Tensor | float) -> str:
        """Which rows make the loss NaN or infinite."""
        found = []
        for name, rows in embeddings.items():
            bad = ~torch.isfinite(rows.detach()).all(1)
            if name in self.present:
                bad = bad & self.present[name][self.own]
            numbers = torch.nonzero(bad).flatten().tolist()
            if numbers:
                found.append(f"{name} in {len(numbers)} rows ({', '.join(map(str, numbers[:5]))})")
        where = "; ".join(found) or "none of this process"
        return (
            f"The contrastive loss is not finite. Embeddings that are NaN or infinite: {where}. The logit_scale is "
            f"{float(logit_scale):.4g}. A lower learning rate, gradient clipping or a clamped logit_scale may help."
        )


def _groups(ids: Tensor, index: Tensor) -> Tensor:
    """A number in [0, N) for each row, (N,): equal for equal ids; unknown rows have one of their own."""
    unknown = ids < 0
    own = torch.where(unknown, ids.clamp(min=0).max() + 1 + index, ids)
    return torch.unique(own, return_inverse=True)[1]


def _partners(rows: _Rows, pair: _Pair, scale: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Number of partners of each own row (B,), and the sum of its similarities to them (B,).

    The rows of a group are added up first: N E operations rather than N N.
    """
    complete = pair.complete.to(pair.second.dtype)
    own = group[rows.own]
    count = torch.zeros_like(complete).index_add(0, group, complete)[own]
    present = pair.second if pair.whole else pair.second * complete[:, None]
    sums = torch.zeros_like(pair.second).index_add(0, group, present)[own]
    return count, scale * (pair.first * sums).sum(1)


def _log_sum_exps(rows: _Rows, pair: _Pair, scale: Tensor) -> tuple[Tensor, Tensor]:
    """log(sum(exp(similarity))) of each own row of one modality over all of the other, (B,), in both directions."""
    parts = list(_in_chunks(rows, pair, scale, _LogSumExps.apply))
    by_row = torch.cat([part for part, _ in parts])
    by_column = torch.stack([part for _, part in parts]).logsumexp(0)  # (N,) over own rows
    by_column = rows.everywhere(by_column[None]).logsumexp(0)  # (N,) over all rows
    return by_row, by_column[rows.own]


def _in_chunks(
    rows: _Rows, pair: _Pair, scale: Tensor, reduce: Callable[[Tensor], tuple[Tensor, ...]]
) -> Iterator[tuple[Tensor, ...]]:
    """What `reduce` makes of the similarities (C, N) of each chunk of own rows with all rows."""

    def compute(first: Tensor, second: Tensor, scale: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
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


def _ignored(rows: _Rows, pair: _Pair, numbers: Tensor) -> Tensor:
    """Which rows are not compared with the rows `numbers` (C,), (C, N): absent ones, and duplicates not of a group."""
    ignored = torch.zeros(len(numbers), len(rows.index), dtype=torch.bool, device=rows.index.device)
    for ids in pair.equal:
        ignored |= (ids[numbers, None] == ids) & (ids[numbers, None] >= 0)
    for _, group in rows.groups:
        ignored &= group[numbers, None] != group
    return ignored | ~(pair.complete[numbers, None] & pair.complete)


def _check(
    embeddings: Mapping[str, Tensor],
    logit_scale: Tensor | float,
    chunk_size: int | None,
    of_rows: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Raises ValueError unless shapes and names fit each other."""
    shapes = {name: tuple(rows.shape) for name, rows in embeddings.items()}
    shape = next(iter(shapes.values()))
    if len(shape) != 2 or len(set(shapes.values())) > 1:
        raise ValueError(f"The embeddings have the shapes {shapes}, but need the same two: rows and size.")
    for argument, values in of_rows.items():
        unknown = set(values) - set(embeddings) if argument != "labels" else set()
        if unknown:
            raise ValueError(f"{argument} names {sorted(unknown)}; the modalities are {', '.join(embeddings)}.")
        for name, one in values.items():
            if tuple(one.shape) != shape[:1]:
                raise ValueError(f"{argument} of {name} has the shape {tuple(one.shape)}; there are {shape[0]} rows.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: give a number of rows from 1 on, or None to keep all.")
    trained = any(rows.requires_grad for rows in embeddings.values())
    if torch.is_grad_enabled() and isinstance(logit_scale, Tensor) and logit_scale.requires_grad and not trained:
        raise ValueError(
            "No embedding has a gradient, but logit_scale has one: nothing but the temperature would be trained. "
            "Give the embeddings as the model returns them, ungathered; to evaluate, use torch.no_grad()."
        )


class _LogSumExps(torch.autograd.Function):
    """log(sum(exp)) of each row (C,) and of each column (N,); its gradient takes half the memory of two of torch's."""

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


class _MeanGradient(torch.autograd.Function):
    """The number itself; its gradient is the mean over processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient / dist.get_world_size()
