"""Pairs of modalities and the rows of all processes that contrastive losses compare.

Shape letters: B = rows of this process, N = rows of all processes, E = embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from .rows import MeanGradient, check_weights, gather, named_rows, process_count


def choose_pairs(
    modalities: Sequence[str], pairs: Sequence[tuple[str, str]] | None = None, bind_to: str | None = None
) -> list[tuple[str, str]]:
    """Unordered pairs of modalities by name: those given, those with `bind_to`, or all.

    Raises:
        ValueError: for fewer than two modalities, names that are not among them, a pair of a modality with itself or
            given twice, no pair, and both `pairs` and `bind_to`.
    """
    there = f"The modalities are {', '.join(modalities) or 'none'}"
    if len(modalities) < 2:
        raise ValueError(f"{there}. Give two or more to compare.")
    if pairs is not None and bind_to is not None:
        raise ValueError(f"pairs ({pairs}) and bind_to ({bind_to}) were both given. Give one of them.")
    if bind_to is not None and bind_to not in modalities:
        raise ValueError(f"{there}: bind_to ({bind_to}) is not one of them.")
    if bind_to is not None:  # second in each pair, so that it alone is gathered from other processes
        return [(other, bind_to) for other in modalities if other != bind_to]
    if pairs is None:
        return list(combinations(modalities, 2))
    for pair in pairs:
        if len(set(pair)) != 2 or not set(pair) <= set(modalities):
            raise ValueError(f"{there}: {tuple(pair)} is not a pair of two of them.")
    if not pairs or len({frozenset(pair) for pair in pairs}) < len(pairs):
        raise ValueError(f"pairs ({list(pairs)}) must name one pair or more, each once in any order.")
    return [(first, second) for first, second in pairs]


@dataclass(frozen=True)
class Pair:
    """Two modalities to compare: the rows of this process of the first, and all rows of the second."""

    first: Tensor  # (B, E) of unit length
    second: Tensor  # (N, E)
    complete: Tensor  # (N,) True for rows with both modalities
    equal: list[Tensor]  # ids (N,) of equal inputs, of one or both modalities
    whole: bool  # whether all rows have both modalities


@dataclass(frozen=True)
class Rows:
    """Rows of all processes: which are present, equal or of one label, and how losses are summed over them."""

    index: Tensor  # (N,) 0, 1, ...
    own: slice  # of this process, among the N rows
    groups: list[tuple[float, Tensor]]  # of each rank: its weight in the mean, and group numbers (N,) of partners
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
    ) -> Rows:
        """Checks the arguments of a loss and gathers labels, but not embeddings."""
        ranks = {} if labels is None else labels if isinstance(labels, Mapping) else {"labels": labels}
        present, duplicates = present or {}, duplicates or {}
        _check(embeddings, logit_scale, chunk_size, {"labels": ranks, "present": present, "duplicates": duplicates})
        weights = check_weights(rank_weights, ranks)
        processes = process_count() if across_processes else 1
        some = next(iter(embeddings.values()))
        everywhere = gather if processes > 1 else Tensor.contiguous
        sizes = [len(some)]  # one process does not wait for its device here
        if processes > 1:
            sizes = gather(torch.tensor(sizes, device=some.device)).tolist()
        if len(set(sizes)) > 1 or sum(sizes) < 2:
            raise ValueError(
                f"The rows of each process are {', '.join(map(str, sizes))}. A contrastive loss needs two rows or "
                f"more, and the same number in each process: drop the last batch (dataloader_drop_last=True, "
                f"--dataloader_drop_last True)."
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
        """A number shared by all processes; its gradient is averaged over them."""
        value = torch.as_tensor(value, device=self.index.device)
        return MeanGradient.apply(value) if self.processes > 1 and value.requires_grad else value

    def pairs(self, embeddings: Mapping[str, Tensor], chosen: Sequence[tuple[str, str]]) -> Iterator[Pair]:
        """The chosen pairs; each modality is normalized and gathered at most once."""
        vectors, gathered = {}, {}
        for name in dict.fromkeys(name for pair in chosen for name in pair):
            dtype = torch.promote_types(embeddings[name].dtype, torch.float32)
            rows = embeddings[name].to(dtype)
            if name in self.present:  # absent rows may hold any values, even NaN
                rows = rows.masked_fill(~self.present[name][self.own, None], 0)
            vectors[name] = normalize(rows, dim=-1)
        for first, second in chosen:
            if second not in gathered:
                gathered[second] = self.everywhere(vectors[second])
            here = [self.present[name] for name in (first, second) if name in self.present]
            yield Pair(
                first=vectors[first],
                second=gathered[second],
                complete=torch.stack([torch.ones_like(self.index, dtype=torch.bool), *here]).all(0),
                equal=[self.duplicates[name] for name in (first, second) if name in self.duplicates],
                whole=not here,
            )

    def mean(
        self, losses: Sequence[tuple[Tensor, Tensor]], embeddings: Mapping[str, Tensor], logit_scale: Tensor | float
    ) -> Tensor:
        """Mean over pairs, given as (sum over rows of this process, number of complete rows of all processes).

        Raises ValueError if the mean is not finite (the rows are named).
        """
        sums, counts = (torch.stack(values) for values in zip(*losses, strict=True))  # (pairs,)
        total = (sums / counts.clamp(min=1)).masked_fill(counts < 2, 0).sum()
        # Gradients are averaged over processes, so each process multiplies its share by the number of processes.
        total = total * self.processes / (counts >= 2).sum().clamp(min=1)
        value = total.detach().clone()
        if self.processes > 1:
            dist.all_reduce(value)
            value = value / self.processes
        if not torch.isfinite(value):
            raise ValueError(self._not_finite(embeddings, logit_scale))
        return total + (value - total.detach())

    def _not_finite(self, embeddings: Mapping[str, Tensor], logit_scale: Tensor | float) -> str:
        """Error text that names the rows that make the loss NaN or infinite."""
        found = []
        for name, rows in embeddings.items():
            bad = ~torch.isfinite(rows.detach()).all(1)
            if name in self.present:
                bad = bad & self.present[name][self.own]
            numbers = torch.nonzero(bad).flatten().tolist()
            if numbers:
                found.append(f"{name} in {named_rows(numbers)}")
        where = "; ".join(found) or "none of this process"
        return (
            f"The contrastive loss is not finite. Embeddings that are NaN or infinite: {where}. The logit_scale is "
            f"{float(logit_scale):.4g}. A lower learning rate, gradient clipping or a clamped logit_scale may help."
        )


def _groups(ids: Tensor, index: Tensor) -> Tensor:
    """Group numbers in [0, N) of the rows, (N,): equal for equal ids, and unique for rows with an unknown id."""
    unknown = ids < 0
    own = torch.where(unknown, ids.clamp(min=0).max() + 1 + index, ids)
    return torch.unique(own, return_inverse=True)[1]


def _check(
    embeddings: Mapping[str, Tensor],
    logit_scale: Tensor | float,
    chunk_size: int | None,
    of_rows: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Raises ValueError for shapes and names that do not match, and if only the temperature would be trained."""
    shapes = {name: tuple(rows.shape) for name, rows in embeddings.items()}
    shape = next(iter(shapes.values()))
    if len(shape) != 2 or len(set(shapes.values())) > 1:
        raise ValueError(f"The embeddings have the shapes {shapes}; give the same shape, (rows, size), for all.")
    for argument, values in of_rows.items():
        unknown = set(values) - set(embeddings) if argument != "labels" else set()
        if unknown:
            raise ValueError(f"{argument} names {sorted(unknown)}; the modalities are {', '.join(embeddings)}.")
        for name, one in values.items():
            if tuple(one.shape) != shape[:1]:
                raise ValueError(f"{argument} of {name} has the shape {tuple(one.shape)}; there are {shape[0]} rows.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; give 1 row or more, or None for all rows.")
    trained = any(rows.requires_grad for rows in embeddings.values())
    if torch.is_grad_enabled() and isinstance(logit_scale, Tensor) and logit_scale.requires_grad and not trained:
        raise ValueError(
            "logit_scale has a gradient but no embedding has one, so only the temperature would be trained. Give the "
            "embeddings as the model returns them, not gathered; to evaluate, use torch.no_grad()."
        )
