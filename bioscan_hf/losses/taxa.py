"""Cross-entropy of several ranks with class weights and hierarchical label smoothing.

Sources: MycoAI, https://doi.org/10.1111/1755-0998.14006, whose formulas BarcodeMamba+ uses too
(https://arxiv.org/abs/2512.15931).
Shape letters: B = rows of a batch, N = training rows, R = ranks, C = classes of a rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

CLASS_WEIGHTS = ("none", "inverse_sqrt")

#: Constants that the published code adds to probabilities, without and with class weights.
_PUBLISHED_ZERO = {False: 1e-10, True: 1e-7}


class TaxaLoss(nn.Module):
    """Loss of a classifier of one rank or several, from the class counts of the training rows.

    The loss of a rank is the mean over its labelled rows of the cross-entropy with a smoothed target, weighted by the
    class of the row; the loss is the mean over the ranks with labels.

    Smoothed target of a row at a rank: each known label at a higher rank gives its share of `smoothing` to its
    descendants, in proportion to their training rows. The plain share goes to all other classes in equal parts. The
    own class gets the rest. Shares of labels that are unknown or have no descendants with rows are left out, and the
    target is divided by its sum.

    Args:
        labels: Ids of the training rows (N, R), the highest rank first; negative where unknown.
        sizes: Number of classes of each rank.
        parents: For each rank but the first, the id of each class's parent at the rank above; -1 if unknown.
        class_weights: "inverse_sqrt" weighs a class by n ** -0.5 for n training rows, and by 0 for none. Weights of a
            rank sum to 1.
        smoothing: R shares: one for each rank but the lowest, then the plain share. Published for six ranks:
            0.02 0.02 0.02 0.02 0.02 0. None smooths nothing.
        upstream: Compute the published formulas, including their flaws: targets of unknown higher ranks are uniform,
            targets are not divided by their sum, and 1e-10 or 1e-7 is added to probabilities.

    Raises:
        ValueError: for shapes that do not match, an unknown choice, or shares below 0 or that sum to 1 or more.
    """

    def __init__(
        self,
        labels: ArrayLike,
        sizes: Sequence[int],
        parents: Sequence[Sequence[int]] = (),
        *,
        class_weights: str = "none",
        smoothing: Sequence[float] | None = None,
        upstream: bool = False,
    ):
        super().__init__()
        rows = np.asarray(labels)
        self.sizes, self.weighted, self.upstream = tuple(sizes), class_weights != "none", upstream
        self.smoothing = check_smoothing(smoothing, len(self.sizes))
        if class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights is {class_weights!r}; choose one of {', '.join(CLASS_WEIGHTS)}.")
        if rows.ndim != 2 or rows.shape[1] != len(self.sizes):
            raise ValueError(f"labels have the shape {rows.shape}, but there are {len(self.sizes)} ranks.")
        if [len(above) for above in parents] != list(self.sizes[1:]):
            raise ValueError(f"parents are given for {list(map(len, parents))} classes, not {list(self.sizes[1:])}.")
        for rank, weights in enumerate(self._class_weights(rows)):
            self.register_buffer(f"weights_{rank}", torch.from_numpy(weights).float(), persistent=False)
        edges = _shares_of_parents(rows, parents)
        for rank in range(len(self.sizes)):
            for above in range(rank):
                ancestors, shares = _descend(edges, parents, above, rank, self.sizes[above], normalise=not upstream)
                self.register_buffer(f"ancestors_{above}_{rank}", torch.from_numpy(ancestors), persistent=False)
                self.register_buffer(f"shares_{above}_{rank}", torch.from_numpy(shares).float(), persistent=False)

    def label_weights(self, labels: Tensor) -> Tensor:
        """Weight of each label (B, R) in the mean of its rank; 0 where it is unknown."""
        columns = labels.reshape(len(labels), -1).unbind(1)
        weights = [getattr(self, f"weights_{rank}").to(labels.device) for rank in range(len(self.sizes))]
        return torch.stack(
            [table[ids.clamp(min=0)].masked_fill(ids < 0, 0) for table, ids in zip(weights, columns, strict=True)], 1
        )

    def forward(self, logits: Tensor, labels: Tensor, total_weights: Tensor | None = None) -> Tensor:
        """The loss in nats; 0 without labels.

        Args:
            logits: (B, C), the ranks side by side.
            labels: Ids (B, R), or (B,) for one rank; negative where unknown.
            total_weights: Sum (R,) of `label_weights` over all processes and accumulated batches of a step; None sums
                those of this batch.
        """
        totals = self.rank_losses(logits, labels, total_weights)
        there = self._totals(labels, total_weights) > 0
        return totals.sum() / there.sum().clamp(min=1)

    def rank_losses(self, logits: Tensor, labels: Tensor, total_weights: Tensor | None = None) -> Tensor:
        """The loss of each rank (R,), 0 for a rank without labels; arguments are those of `forward`."""
        labels = labels.reshape(len(labels), -1)
        if labels.shape[1] != len(self.sizes):
            raise ValueError(f"labels have the shape {tuple(labels.shape)}, but there are {len(self.sizes)} ranks.")
        weights, totals = self.label_weights(labels), self._totals(labels, total_weights)
        sums = [
            (weights[:, rank] * self._cross_entropy(part.float(), labels, rank)).sum()
            for rank, part in enumerate(logits.split(list(self.sizes), 1))
        ]
        zero = 1e-7 if self.upstream and self.weighted else 0.0
        return torch.stack(sums) / torch.where(totals > 0, totals + zero, 1)

    def targets(self, labels: Tensor, rank: int) -> Tensor:
        """Smoothed targets (B, C) of the rows at a rank; each row sums to 1 unless the label is unknown."""
        units = torch.eye(self.sizes[rank], device=labels.device)
        per_class = [self._expected(unit.expand(len(labels), -1), labels, rank) for unit in units]
        return torch.stack(per_class, 1)

    def _totals(self, labels: Tensor, total_weights: Tensor | None) -> Tensor:
        if total_weights is None:
            return self.label_weights(labels).sum(0)
        totals = torch.as_tensor(total_weights, device=labels.device, dtype=torch.float32).reshape(-1)
        if len(totals) != len(self.sizes):
            raise ValueError(f"total_weights has {len(totals)} numbers, but there are {len(self.sizes)} ranks.")
        return totals

    def _cross_entropy(self, logits: Tensor, labels: Tensor, rank: int) -> Tensor:
        """Cross-entropy (B,) with the smoothed targets; of no meaning where the label is unknown."""
        log_probabilities = logits.log_softmax(1)
        if self.upstream:
            log_probabilities = (logits.softmax(1) + _PUBLISHED_ZERO[self.weighted]).log()
        return -self._expected(log_probabilities, labels, rank)

    def _expected(self, values: Tensor, labels: Tensor, rank: int) -> Tensor:
        """Sum over the classes (B,) of values (B, C) times the smoothed target of each row."""
        own, plain = labels[:, rank].clamp(min=0), self.smoothing[-1]
        of_own = values.gather(1, own[:, None]).squeeze(1)
        others = (values.sum(1) - of_own) / max(self.sizes[rank] - 1, 1)
        shares = self.smoothing[:rank]
        expected = (1 - plain - sum(shares)) * of_own + plain * others
        mass = torch.full_like(of_own, 1 - sum(shares))
        for above, share in enumerate(shares):
            if share:
                given, there = self._given(values, labels[:, above], above, rank)
                expected, mass = expected + share * given, mass + share * there
        return expected if self.upstream else expected / mass

    def _given(self, values: Tensor, ids: Tensor, above: int, rank: int) -> tuple[Tensor, Tensor]:
        """Mean value (B,) of the descendants of labels at a higher rank, and whether they have descendants (B,)."""
        means, mass = self._means(values, above, rank)
        place = ids.clamp(min=0)
        there = (ids >= 0) & (mass[place] > 0)
        given = means.gather(1, place[:, None]).squeeze(1).masked_fill(~there, 0)
        if self.upstream:  # published: a label that is unknown or without child rows is uniform over the next rank
            uniform = (values if above + 1 == rank else self._means(values, above + 1, rank)[0]).mean(1)
            _, children = self._means(values.new_zeros(1, self.sizes[above + 1]), above, above + 1)
            given = torch.where((ids >= 0) & (children[place] > 0), given, uniform)
        return given, there.float()

    def _means(self, values: Tensor, above: int, rank: int) -> tuple[Tensor, Tensor]:
        """Mean value (B, C above) of the descendants of each class, and the sum of their shares (C above,)."""
        ancestors: Tensor = getattr(self, f"ancestors_{above}_{rank}")
        shares: Tensor = getattr(self, f"shares_{above}_{rank}")
        width = self.sizes[above] + 1  # the last: no ancestor
        means = values.new_zeros(len(values), width).index_add(1, ancestors, values * shares)
        return means[:, :-1], shares.new_zeros(width).index_add(0, ancestors, shares)[:-1]

    def _class_weights(self, rows: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        found = []
        for column, size in zip(rows.T, self.sizes, strict=True):
            counts = np.bincount(column[column >= 0], minlength=size)
            if len(counts) > size:
                raise ValueError(f"labels hold the class {len(counts) - 1}, but its rank has {size} classes.")
            weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0)
            found.append(weights / max(weights.sum(), 1e-12) if self.weighted else np.ones(size))
        return found


def check_smoothing(smoothing: Sequence[float] | None, ranks: int) -> tuple[float, ...]:
    """The shares of `TaxaLoss`, zeros for None; raises ValueError for a wrong number of them or impossible ones."""
    shares = tuple(smoothing or [0.0] * ranks)
    if len(shares) != ranks:
        raise ValueError(
            f"Shares of label smoothing: {len(shares)}, ranks: {ranks}. Give as many shares: one for each rank "
            f"but the lowest, then the plain share."
        )
    if min(shares) < 0 or sum(shares) >= 1:
        raise ValueError(f"The shares of label smoothing are {list(shares)}; give 0 or more, less than 1 together.")
    return shares


def _shares_of_parents(rows: NDArray[np.int64], parents: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
    """For each rank but the first, the share (C,) of each class in the rows of its parent."""
    found = []
    for (upper, lower), links in zip(pairwise(rows.T), parents, strict=True):
        parent = np.asarray(links)
        known = (lower >= 0) & (upper >= 0)
        agree = lower[known][parent[lower[known]] == upper[known]]
        counts = np.where(parent >= 0, np.bincount(agree, minlength=len(parent)), 0).astype(np.float64)
        siblings = np.bincount(np.maximum(parent, 0), counts, minlength=1)[np.maximum(parent, 0)]
        found.append(np.divide(counts, siblings, out=np.zeros(len(parent)), where=siblings > 0))
    return found


def _descend(
    edges: Sequence[NDArray[np.float64]],
    parents: Sequence[Sequence[int]],
    above: int,
    rank: int,
    size: int,
    *,
    normalise: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ancestor (C,) of each class of a rank at the rank `above`, and the class's share (C,) of its ancestor.

    A class without an ancestor has `size`, the number of classes above, and the share 0.
    """
    ancestors, shares = np.arange(size), np.ones(size)
    for step in range(above, rank):
        parent = np.asarray(parents[step])
        known = (parent >= 0) & (ancestors[np.maximum(parent, 0)] < size)
        shares = np.where(known, shares[np.maximum(parent, 0)] * edges[step], 0)
        ancestors = np.where(known, ancestors[np.maximum(parent, 0)], size)
    if normalise:
        mass = np.bincount(ancestors, shares, minlength=size + 1)[ancestors]
        shares = np.divide(shares, mass, out=np.zeros(len(shares)), where=mass > 0)
    return ancestors.astype(np.int64), shares
