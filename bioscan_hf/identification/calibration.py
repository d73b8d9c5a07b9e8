"""Calibration of confidences, learned by naming references as if they were reads.

Each reference that is asked about is cut and given errors at random, and then named by the others: without itself,
and without its species, genus, family and order. From the matches, small monotone models learn two things: whether a
taxon of the read is among the references at all, rank by rank, and whether the name is right if it is. Each taxon
that is left out counts once, and both are lower bounds over families: families differ in how well their neighbours
tell them apart, and a new one can be like any of them. The share of reads whose taxa are missing is estimated from the
reads themselves (Saerens et al. 2002, https://doi.org/10.1162/089976602753284446).
Shape letters: n = reads, R = ranks, F = features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .monotone import CAUTION, Monotone, Numbers

#: Ranks that can be missing, the lowest first.
LEVELS = ("species", "genus", "family", "order")

#: The barcode cluster, which has a confidence of its own.
BIN = "dna_bin"

#: Expected shares of reads: species known, species new, genus new, family new, order new. Reads change the first.
PRIOR = np.array([0.5, 0.25, 0.15, 0.07, 0.03])

#: Reads whose probabilities differ by less than 1 over this count as equal in the interval of the shares.
_BINS = 4096

#: Reads that the expected shares count as.
PRIOR_READS = 20.0


@dataclass
class Evidence:
    """Features of the matches of reads; larger values make a name more likely.

    Attributes:
        known: (n, F): identity, few differences, length, how far the best taxon is ahead at each level, and backing.
        ranks: Rank -> (n, F): the same, with the lead and the votes at that rank. Backing is the share of the
            references of the taxon, at most of the candidates that vote, that are among these: the nearest reference
            may have a wrong name if all others of its taxon are elsewhere.
    """

    known: Numbers
    ranks: dict[str, Numbers]


@dataclass
class Judged:
    """Probabilities that a calibration gives n reads.

    Attributes:
        levels: Probability of each level (n, levels) under the shares that were learned from: species known, species
            new, genus new, ...
        cautious: The same with lower bounds for what is known, for the confidences.
        right: Rank -> the probability that the name is right if its taxon is among the references (n,).
        bin_known: The probability that the BIN is among the references (n,); None without BINs.
    """

    levels: Numbers
    cautious: Numbers
    right: dict[str, Numbers]
    bin_known: Numbers | None


@dataclass
class Shares:
    """Shares of known and new taxa.

    Attributes:
        learned: Of the levels, in what the calibration was learned from.
        levels: Of the levels, among the reads.
        interval: 95 % interval of the share of reads whose species is new; None if the share was given.
        bins: Shares of known and new BINs among the reads; None without BINs.
    """

    learned: Numbers
    levels: Numbers
    interval: tuple[float, float] | None
    bins: Numbers | None


@dataclass
class Calibration:
    """Models, fitted to references, that turn evidence into probabilities.

    Attributes:
        known: For each level, the probability that the taxon is among the references if it is not at a lower level.
        right: Rank -> the probability that the name is right if its taxon is among the references.
        shares: Shares of the levels in what `known` was learned from.
        least_identity: Smallest identity for which anything was learned.
        asked: Level -> number of references asked about.
        bins: The probability that the BIN is among the references, and that it is right if it is; None without BINs.
        filled: Whether barcodes of other libraries count as well, because these references are too few.
    """

    known: list[Monotone | float]
    right: dict[str, Monotone | float]
    shares: Numbers
    least_identity: float
    asked: dict[str, int]
    bins: tuple[Monotone | float, Monotone | float] | None = None
    filled: bool = False

    def judged(self, evidence: Evidence) -> Judged:
        """Probabilities of reads by the models."""
        n = len(evidence.known)
        known = [_applied(model, evidence.known) for model in self.known]
        levels, cautious = (_chained([both[place] for both in known], n) for place in range(2))
        right = {rank: _applied(model, evidence.ranks[rank])[1] for rank, model in self.right.items()}
        if self.bins is None:
            return Judged(levels, cautious, right, None)
        there, right[BIN] = (_applied(model, evidence.ranks[BIN])[1] for model in self.bins)
        return Judged(levels, cautious, right, there)

    def shares_of(self, levels: Numbers, bin_known: Numbers | None, novel_share: float | None = None) -> Shares:
        """Shares of known and new taxa among reads.

        Args:
            levels, bin_known: As of `judged`, of the reads that can be compared with what was learned.
            novel_share: Share of reads whose species is new, if it is known.
        """
        found = estimated_shares(levels, self.shares, novel_share)
        bins = None
        if bin_known is not None:
            bins = estimated_shares(np.stack([bin_known, 1 - bin_known], axis=1), np.full(2, 0.5), novel_share)
        interval = share_interval(levels, self.shares, found) if novel_share is None else None
        return Shares(self.shares, found, interval, bins)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "known": [_packed(model) for model in self.known],
            "right": {rank: _packed(model) for rank, model in self.right.items()},
            "shares": self.shares.tolist(),
            "least_identity": self.least_identity,
            "asked": self.asked,
            "bins": None if self.bins is None else [_packed(model) for model in self.bins],
            "filled": self.filled,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """From `to_dict`."""
        return cls(
            [_unpacked(model) for model in content["known"]],
            {rank: _unpacked(model) for rank, model in content["right"].items()},
            np.array(content["shares"]),
            float(content["least_identity"]),
            dict(content["asked"]),
            None if (bins := content.get("bins")) is None else (_unpacked(bins[0]), _unpacked(bins[1])),
            bool(content.get("filled", False)),
        )


def place_of(rank: str) -> int:
    """The level at which a rank is known: its own, a subfamily if the genus is, and higher ranks always."""
    if rank in LEVELS:
        return LEVELS.index(rank)
    return {"subfamily": LEVELS.index("genus") + 1}.get(rank, len(LEVELS))


def _applied(model: Monotone | float, x: Numbers) -> tuple[Numbers, Numbers]:
    """Probabilities (n,) and their lower bounds."""
    return (np.full(len(x), model),) * 2 if isinstance(model, float) else model(x)


def _chained(known: Sequence[Numbers], n: int) -> Numbers:
    """Turns conditional probabilities, each given that no lower level holds, into those of the levels (n, levels)."""
    found, rest = [], np.ones(n)
    for here in known:
        found.append(rest * here)
        rest = rest * (1 - here)
    return np.stack([*found, rest], axis=1)


def _packed(model: Monotone | float) -> Any:
    if isinstance(model, float):
        return model
    content = {"knots": model.knots.tolist(), "weights": model.weights.tolist(), "bias": model.bias}
    if model.spread is None:
        return content
    return {**content, "spread": model.spread.tolist(), "caution": model.caution}


def _unpacked(content: Any) -> Monotone | float:
    if isinstance(content, int | float):
        return float(content)
    spread = content.get("spread")
    return Monotone(
        np.array(content["knots"]),
        np.array(content["weights"]),
        float(content["bias"]),
        None if spread is None else np.array(spread),
        float(content.get("caution", CAUTION)),
    )


def estimated_shares(levels: Numbers, learned: Numbers, novel_share: float | None = None) -> Numbers:
    """Shares of the levels among reads: that of new species by expectation maximization from `PRIOR`.

    Among new species, `PRIOR` holds: matches tell too weakly whether a genus or family is new to estimate its share.

    Args:
        levels: Probability of each level (n, levels) under the shares `learned`.
        novel_share: Share of reads whose species is new, if it is known.
    """
    prior = PRIOR[: len(learned)] / PRIOR[: len(learned)].sum()
    if len(prior) < 2:
        return prior
    split = prior[1:] / prior[1:].sum()
    new = prior[1:].sum() if novel_share is None else novel_share
    for _ in range(200 if novel_share is None else 0):
        posterior = adjusted(levels, learned, np.append(1 - new, new * split))[:, 1:].sum()
        updated = (posterior + PRIOR_READS * (1 - prior[0])) / (len(levels) + PRIOR_READS)
        change, new = abs(updated - new), updated
        if change < 1e-6:
            break
    return np.append(1 - new, new * split)


def adjusted(levels: Numbers, learned: Numbers, shares: Numbers) -> Numbers:
    """Probabilities of the levels (n, levels) under other shares."""
    odds = levels * (shares / learned)
    return np.asarray(odds / odds.sum(1, keepdims=True).clip(1e-300))


def share_interval(levels: Numbers, learned: Numbers, shares: Numbers) -> tuple[float, float]:
    """Shares of new species that the reads and `PRIOR` allow: a likelihood interval of 95 %."""
    if len(shares) < 2 or not len(levels):
        return 0.0, 1.0
    odds = levels / learned
    old, new = odds[:, 0], odds[:, 1:] @ (shares[1:] / max(shares[1:].sum(), 1e-9))
    counts, edges = np.histogram(old / (old + new).clip(1e-300), _BINS, (0, 1))
    known, counts = ((edges[1:] + edges[:-1]) / 2)[counts > 0], counts[counts > 0]  # most are empty
    grid = np.linspace(0.001, 0.999, 999)
    likelihood = np.log(np.outer(1 - grid, known) + np.outer(grid, 1 - known)) @ counts
    likelihood += PRIOR_READS * (PRIOR[0] * np.log(1 - grid) + (1 - PRIOR[0]) * np.log(grid))
    allowed = np.append(grid[likelihood >= likelihood.max() - 1.92], 1 - shares[0])  # which may lie beyond the grid
    return float(allowed.min()), float(allowed.max())
