"""`Monotone`: a small model of a probability that grows with each feature, with its lower bound.

Shape letters: n = samples, F = features, K = knots, P = parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

#: Fewest references asked about, right and wrong, for a model.
FEWEST = 10

KNOTS = 6
PENALTY = 1.0

#: Standard errors over families by which log odds are lowered: that a name is right, and that a taxon is known. Chosen
#: on partitions other than those of the benchmark.
CAUTION, KNOWN_CAUTION = 0.8, 2.25

#: The same where families of other libraries are among them, which make the errors larger.
FILLED_CAUTION, FILLED_KNOWN_CAUTION = 0.6, 2.0

Numbers = NDArray[np.float64]


@dataclass
class Monotone:
    """Logistic regression on piecewise linear functions of features, none of which ever falls.

    Attributes:
        knots: Of each feature (F, K), ascending.
        weights: Of the pieces (F, K - 1), at least 0.
        bias: The constant.
        spread: Root (1 + F * (K - 1), r) of the covariance of bias and weights; None if it is not known.
        caution: Standard errors by which log odds are lowered.
    """

    knots: Numbers
    weights: Numbers
    bias: float
    spread: Numbers | None = None
    caution: float = CAUTION

    @classmethod
    def fit(
        cls,
        x: Numbers,
        y: NDArray[np.bool_],
        weight: Numbers,
        groups: NDArray[np.int64] | None = None,
        caution: float = CAUTION,
    ) -> Monotone | float:
        """Fits to features (n, F), each of which makes True likelier; a constant if there is little to learn from.

        Args:
            groups: Samples of one group (n,) are not independent; gives the spread.
        """
        share = float((np.average(y, weights=weight) * len(y) + 0.5) / (len(y) + 1)) if len(y) else 0.0
        if min(y.sum(), (~y).sum()) < FEWEST:
            return share
        from scipy.optimize import minimize

        knots = np.quantile(x, np.linspace(0, 1, KNOTS), axis=0).T
        pieces = _pieces(x, knots)
        weight = weight / weight.mean()
        target = y.astype(np.float64)

        def loss(parameters: Numbers) -> tuple[float, Numbers]:
            score = pieces @ parameters[1:] + parameters[0]
            value = (weight * (np.logaddexp(0, score) - target * score)).sum() + PENALTY * (
                parameters[1:] ** 2
            ).sum() / 2
            slope = weight * (1 / (1 + np.exp(-score)) - target)
            return value, np.concatenate([[slope.sum()], slope @ pieces + PENALTY * parameters[1:]])

        bounds = [(None, None), *[(0, None)] * pieces.shape[1]]
        found = minimize(loss, np.zeros(pieces.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds)
        spread = None if groups is None else _spread(pieces, found.x, weight, target, groups)
        return cls(knots, found.x[1:].reshape(len(knots), -1), float(found.x[0]), spread, caution)

    def __call__(self, x: Numbers) -> tuple[Numbers, Numbers]:
        """Probabilities (n,), and their lower bounds, which are the same if the spread is not known.

        Features that were added later than the model was fitted are the last, and are not used.
        """
        pieces = _pieces(x[:, : len(self.knots)], self.knots)
        # By torch, whose threads the workers share; those of numpy wait for each other.
        score = (torch.from_numpy(pieces) @ torch.from_numpy(self.weights.ravel())).numpy() + self.bias
        if self.spread is None:
            return (_probability(score),) * 2
        root = torch.from_numpy(self.spread.astype(np.float32))
        deviations = torch.addmm(root[0], torch.from_numpy(pieces.astype(np.float32)), root[1:])
        spread = torch.linalg.vector_norm(deviations, dim=1).double().numpy()
        return _probability(score), _probability(score - self.caution * spread)


def _spread(
    pieces: Numbers, parameters: Numbers, weight: Numbers, target: Numbers, groups: NDArray[np.int64]
) -> Numbers:
    """Root (P, r) of the covariance of parameters (P,) if samples vary by groups (Liang and Zeger 1986).

    Weights that are 0 are taken as fixed.
    """
    free = np.append(True, parameters[1:] > 1e-6)
    x = np.column_stack([np.ones(len(pieces)), pieces])[:, free]
    probability = 1 / (1 + np.exp(-(x @ parameters[free])))
    curvature = (x * (weight * probability * (1 - probability))[:, None]).T @ x
    curvature += np.diag([1e-9] + [PENALTY] * (free.sum() - 1))
    _, place = np.unique(groups, return_inverse=True)
    slopes = np.zeros((place.max() + 1, x.shape[1]))
    np.add.at(slopes, place, x * (weight * (probability - target))[:, None])
    found = np.linalg.solve(curvature, slopes.T)
    values, vectors = np.linalg.eigh(found @ found.T * len(slopes) / max(len(slopes) - 1, 1))
    kept = values > 1e-6 * values.max(initial=0.0)
    spread = np.zeros((len(parameters), int(kept.sum())))
    spread[free] = vectors[:, kept] * np.sqrt(values[kept])
    return spread.round(6)  # as it is saved


def _probability(score: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-score.clip(-30, 30))))


def _pieces(x: Numbers, knots: Numbers) -> Numbers:
    """Share of each piece that lies below the value, (n, F * (K - 1))."""
    low, high = knots[:, :-1], knots[:, 1:]
    width = np.where(high > low, high - low, 1)
    return (((x[:, :, None] - low) / width).clip(0, 1) * (high > low)).reshape(
        len(x), knots.shape[0] * (knots.shape[1] - 1)
    )
