"""What is learned from references that were named as if they were reads.

Where they are too few, `prior` fills up: what many small libraries of other species taught.
Shape letters: n = references asked about, R = ranks, F = features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibration import BIN, LEVELS, Calibration, Evidence
from .monotone import (
    CAUTION,
    FEWEST,
    FILLED_CAUTION,
    FILLED_KNOWN_CAUTION,
    KNOWN_CAUTION,
    Monotone,
    Numbers,
)

#: References of a side of a question below which those of the prior count as well, each the less the more there are.
ENOUGH = 200

Ids = NDArray[np.int64]


@dataclass
class Asked:
    """References that were named as if they were reads.

    Attributes:
        evidence: Of n references.
        level: The lowest level that is known for each (n,): 0 for its species, 1 for its genus, ...
        right: Rank -> 1 if the name is right, 0 if it is wrong, -1 if its taxon is not there or it has no name (n,).
        weight: Of each, for equal weights of what is left out (n,).
        identity: Best identity of each (n,).
        bin_known: 1 if the BIN is among the references, 0 if not, -1 if that is not to be learned from (n,); or None.
        families: Family of each (n,), for the caution; or None.
    """

    evidence: Evidence
    level: Ids
    right: Mapping[str, Ids]
    weight: Numbers
    identity: Numbers
    bin_known: Ids | None = None
    families: Ids | None = None


@dataclass
class _Question:
    """Yes or no of m references: features (m, F) to learn from, answers, weights and families (m,)."""

    x: Numbers
    y: NDArray[np.bool_]
    weight: Numbers
    families: Ids | None

    @classmethod
    def of(cls, asked: Asked, features: Numbers, answers: Ids) -> _Question:
        """About the references whose answer is 1 or 0."""
        some = answers >= 0
        families = None if asked.families is None else asked.families[some]
        return cls(features[some], answers[some] == 1, asked.weight[some], families)

    def filled(self, prior: _Question, sides: Sequence[bool | None]) -> _Question:
        """With answers of the prior, where there are fewer than `ENOUGH` of a side; of both sides for None."""
        own, parts = self.weight / max(self.weight.mean(), 1e-9) if len(self.weight) else self.weight, [self]
        weights = [own]
        for side in sides:
            here, there = (np.ones(len(one.y), np.bool_) if side is None else one.y == side for one in (self, prior))
            missing = 1 - int(here.sum()) / ENOUGH
            if missing > 0 and there.any():
                families = None if prior.families is None else -2 - prior.families[there]  # none of its own
                parts.append(_Question(prior.x[there], prior.y[there], prior.weight[there], families))
                weights.append(prior.weight[there] * missing)
        if len(parts) == 1:
            return self
        groups = [np.zeros(len(one.y), np.int64) if one.families is None else one.families for one in parts]
        return _Question(
            np.concatenate([one.x for one in parts]),
            np.concatenate([one.y for one in parts]),
            np.concatenate(weights),
            np.concatenate(groups),
        )

    def balanced(self, caution: float) -> Monotone | float:
        """A model that counts True and False as equally frequent."""
        balance = self.weight.copy()
        for side in (self.y, ~self.y):
            balance[side] /= max(balance[side].sum(), 1e-9)
        return Monotone.fit(self.x, self.y, balance, self.families, caution)


def learn(asked: Asked, prior: Asked | None = None) -> Calibration:
    """Learns from references that were named as reads.

    Args:
        prior: References of other libraries, with the same features.
    """
    filled = prior is not None and min(int((asked.level == place).sum()) for place in range(len(LEVELS) + 1)) < ENOUGH
    caution, of_known = (FILLED_CAUTION, FILLED_KNOWN_CAUTION) if filled else (CAUTION, KNOWN_CAUTION)
    known: list[Monotone | float] = []
    shares, rest = [], 1.0
    for place in range(min(len(LEVELS), asked.level.max()) if prior is None else len(LEVELS)):
        question = _known(asked, place)
        if prior is not None:
            question = question.filled(_known(prior, place), (True, False))
        unanswered = LEVELS[place] in asked.right and not question.y.any()  # each taxon has one reference
        known.append(0.5 if unanswered else question.balanced(of_known))
        shares.append(rest / 2)
        rest /= 2
    models: dict[str, Monotone | float] = {}
    for rank, answers in asked.right.items():
        question = _Question.of(asked, asked.evidence.ranks[rank], answers)
        if prior is not None and rank in prior.right:
            theirs = _Question.of(prior, prior.evidence.ranks[rank], prior.right[rank])
            question = question.filled(theirs, (None,))
        if len(question.y) >= 2 * FEWEST:
            models[rank] = Monotone.fit(question.x, question.y, question.weight, question.families, caution)
    names = ["species known", *(f"{rank} new" for rank in LEVELS)]
    counts = {name: int((asked.level == place).sum()) for place, name in enumerate(names)}
    bin_right, bins = models.pop(BIN, None), None
    if bin_right is not None and asked.bin_known is not None:
        bins = _Question.of(asked, asked.evidence.ranks[BIN], asked.bin_known).balanced(of_known), bin_right
    return Calibration(known, models, np.array([*shares, rest]), _least_identity(asked, prior), counts, bins, filled)


def _known(asked: Asked, place: int) -> _Question:
    """Whether the taxon of a level is there, of references for which none of a lower level is."""
    answers = np.where(asked.level >= place, (asked.level == place).astype(np.int64), -1)
    return _Question.of(asked, asked.evidence.known, answers)


def _least_identity(asked: Asked, prior: Asked | None) -> float:
    """The first percentile of the identities of references whose taxa are all gone, or of all if these are few."""
    far = asked.identity[asked.level == asked.level.max()]
    if prior is not None and len(far) < ENOUGH:
        far = np.concatenate([far, prior.identity[prior.level == len(LEVELS)]])
    return float(np.quantile(far if len(far) >= FEWEST else asked.identity, 0.01))


def pseudo_read(read: str, rng: np.random.Generator) -> str:
    """A reference as a read: whole or cut at random, with or without errors."""
    if rng.random() < 0.6 and len(read) > 120:
        length = int(np.exp(rng.uniform(np.log(100), np.log(len(read)))))
        start = int(rng.integers(0, len(read) - length + 1))
        read = read[start : start + length]
    if rng.random() < 0.3:
        rate = float(rng.choice([0.005, 0.01, 0.02, 0.05]))
        letters = np.frombuffer(read.encode("ascii"), "S1").copy()
        places = np.flatnonzero(rng.random(len(letters)) < rate)
        letters[places] = rng.choice(np.frombuffer(b"ACGT", "S1"), len(places))
        read = letters.tobytes().decode("ascii")
    if rng.random() < 0.15:
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(1, len(read)))
            read = read[:place] + read[place + 1 :] if rng.random() < 0.5 else f"{read[:place]}A{read[place:]}"
    return read


def by_species(species: NDArray[np.int64], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """References (number,) to ask about: species by turns, a random reference of each."""
    named = np.flatnonzero(species >= 0)
    named = named[rng.permutation(len(named))]
    order = np.argsort(species[named], kind="stable")
    groups = np.split(named[order], np.flatnonzero(np.diff(species[named][order])) + 1)
    turns: Sequence[Any] = [
        group[turn] for turn in range(max(map(len, groups))) for group in groups if turn < len(group)
    ]
    return np.array(turns[:number], np.int64)
