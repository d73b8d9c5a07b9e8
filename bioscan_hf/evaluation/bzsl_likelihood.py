"""Student-t classes of Bayesian zero-shot learning: their statistics and the log-likelihoods of specimens.

Every class is a multivariate Student t distribution, the posterior predictive distribution of a Gaussian under a
hierarchical normal-inverse-Wishart prior (supplement of Badirli et al. 2021, https://arxiv.org/abs/2109.14133).
Shape letters: N = train specimens, M = test specimens, D = features, S = seen species, J = species that a class
is made of, R = rank of its scatter, G = settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lgamma, log, pi

import numpy as np
from numpy.typing import NDArray

from ..search.vectors import Ids

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """Hyperparameters.

    Attributes:
        k0: Precision of the group means around the common mean; smaller allows larger distances.
        k1: Precision of the species means around their group mean.
        m: Degrees of freedom of the prior of the covariances, in multiples of the number of features D; more
            than 1 + 1 / D. The published programs give the product.
        s: The prior covariance is the mean covariance of the seen species, divided by `s`.
        neighbours: Seen species that represent an unseen one; not used with genera.
    """

    k0: float = 0.1
    k1: float = 10.0
    m: float = 5.0
    s: float = 10.0
    neighbours: int = 3


@dataclass(frozen=True)
class Member:
    """Rows of `Statistics` that a class is made of: one for a seen species, several for a surrogate or a genus."""

    rows: Ids
    seen: bool


@dataclass(frozen=True)
class Statistics:
    """Statistics of the seen species, in coordinates where their mean is 0 and their mean covariance the identity.

    Attributes:
        species: Ids (S,), ascending.
        counts: Specimens (S,).
        means: (S, D).
        distances: Squared distances of the means from `mean` (S,), in the given features.
        deviations: Rows of each species around its mean, one array (count, D) each.
        mean: Mean of the species means (D,), in the given features.
        whitening: (D, D): (features - mean) times this gives the coordinates.
        log_determinant: Log-determinant of the mean covariance.
    """

    species: Ids
    counts: Ids
    means: Floats
    distances: Floats
    deviations: list[Floats]
    mean: Floats
    whitening: Floats
    log_determinant: float


def class_statistics(features: Floats, labels: Ids) -> Statistics:
    """Statistics of the seen species from features (N, D) and species ids (N,).

    The mean covariance is over species with at least 2 specimens; ValueError if it is singular.
    """
    species, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes)
    order = np.argsort(codes, kind="stable")
    parts = np.split(features[order], np.cumsum(counts)[:-1])
    means = np.stack([part.mean(axis=0) for part in parts])
    deviations = [part - mean for part, mean in zip(parts, means, strict=True)]
    several = np.flatnonzero(counts > 1)
    dimensions = features.shape[1]
    freedom = int((counts - 1).sum())
    if freedom < dimensions:
        raise ValueError(
            f"{len(features)} specimens of {len(species)} species are too few for {dimensions} features: the "
            f"covariance within species needs {dimensions} more specimens than species. Keep at most "
            f"{freedom} components, or add specimens."
        )
    scatter = sum((deviations[i].T @ deviations[i] / (counts[i] - 1) for i in several), np.zeros((dimensions,) * 2))
    scale = np.sqrt(np.diag(scatter) / len(several))  # removed first, so that features of any unit can be inverted
    unit = np.where(scale > 0, scale, 1)
    values, vectors = np.linalg.eigh(scatter / len(several) / np.outer(unit, unit))
    rank = int((values > values[-1] * dimensions * np.finfo(np.float64).eps).sum())
    if rank < dimensions:
        raise ValueError(
            f"The covariance within species is singular: of {dimensions} features, {dimensions - rank} do not vary "
            f"or depend on the others. Keep at most {rank} components."
        )
    whitening = vectors / np.sqrt(values) / unit[:, None]
    mean = means.mean(axis=0)
    return Statistics(
        species=species,
        counts=counts,
        means=(means - mean) @ whitening,
        distances=np.square(means - mean).sum(axis=1),
        deviations=[part @ whitening for part in deviations],
        mean=mean,
        whitening=whitening,
        log_determinant=float(np.log(values).sum() + 2 * np.log(unit).sum()),
    )


def log_likelihoods(
    statistics: Statistics, features: Floats, members: Sequence[Member], settings: Sequence[Setting]
) -> Iterator[Floats]:
    """Log-likelihoods (G, M) of specimens (M, D) under all settings, class by class.

    With the scatter's eigenvectors E and eigenvalues l, (p I + E l E')^-1 = (I - E l/(p + l) E') / p: a class of n
    specimens costs O(M n D) operations for all settings, and no matrix of the size (D, D).

    As in the published programs, the prior's pull on the mean of a seen class is one number added to every element of
    its scatter matrix, so the scores depend on the axes of the features: `principal_axes` fixes their signs.
    """
    dimensions = features.shape[1]
    for setting in settings:
        _check(setting, dimensions)
    z = (features - statistics.mean) @ statistics.whitening
    ones = statistics.whitening.sum(axis=0)  # a vector of ones in these coordinates: (D,)
    square, on_means, on_ones = np.square(z).sum(axis=1), z @ statistics.means.T, z @ ones
    prior = np.array([(setting.m * dimensions - dimensions - 1) / setting.s for setting in settings])  # (G,)
    for member in members:
        means = statistics.means[member.rows]  # (J, D)
        weights, freedom, divisor, pull = _posterior(statistics, member, settings, dimensions)
        vectors, values = _scatter(statistics, member)
        shrink = values / (prior[:, None] + values)  # (G, R)
        y = z @ vectors  # (M, R)
        centre = weights @ (means @ vectors)  # (G, R)
        mean_square = np.einsum("gi,ij,gj->g", weights, means @ means.T, weights)
        distance = square - 2 * weights @ on_means[:, member.rows].T + mean_square[:, None]
        distance -= shrink @ np.square(y).T - 2 * (shrink * centre) @ y.T
        distance -= (shrink * np.square(centre)).sum(axis=1)[:, None]
        distance /= prior[:, None]
        determinant = dimensions * np.log(prior) + np.log1p(values / prior[:, None]).sum(axis=1)
        if member.seen:  # pull x (a matrix of ones) joins the scatter: a change of rank one
            ones_vectors = ones @ vectors
            across = on_ones - (weights @ (means @ ones))[:, None] - (shrink * ones_vectors) @ y.T
            across = (across + (shrink * ones_vectors * centre).sum(axis=1)[:, None]) / prior[:, None]
            length = (ones @ ones - (shrink * np.square(ones_vectors)).sum(axis=1)) / prior
            distance -= (pull / (1 + pull * length))[:, None] * np.square(across)
            determinant += np.log1p(pull * length)
        determinant += statistics.log_determinant - dimensions * np.log(divisor)
        yield _student(np.maximum(distance, 0) * divisor[:, None], determinant, freedom, dimensions)


def _posterior(
    statistics: Statistics, member: Member, settings: Sequence[Setting], dimensions: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights of the members' means (G, J), degrees of freedom, divisor of the scatter, pull of a seen class (G,)."""
    n = statistics.counts[member.rows].astype(np.float64)  # (J,)
    k0, k1, m = (np.array([getattr(setting, name) for setting in settings]) for name in ("k0", "k1", "m"))
    if member.seen:
        q = k0 * k1 / (k0 + k1)
        freedom = n + m * dimensions - dimensions + 1
        divisor = (n + q) * freedom / (n + q + 1)
        return (n / (n + q))[:, None], freedom, divisor, n * q / (n + q) * statistics.distances[member.rows]
    kappa = n * k1[:, None] / (n + k1[:, None])  # (G, J)
    total = kappa.sum(axis=1)
    kappa_class = (total + k0) * k1 / (total + k0 + k1)
    freedom = (n - 1).sum() + m * dimensions - dimensions + 1
    return kappa / (total + k0)[:, None], freedom, kappa_class * freedom / (kappa_class + 1), np.zeros(len(settings))


def _scatter(statistics: Statistics, member: Member) -> tuple[Floats, Floats]:
    """Eigenvectors (D, R) and non-zero eigenvalues (R,) of the sum of the members' scatter matrices."""
    rows = np.concatenate([statistics.deviations[i] for i in member.rows])
    if len(rows) > rows.shape[1]:
        values, vectors = np.linalg.eigh(rows.T @ rows)
    else:
        _, singular, transposed = np.linalg.svd(rows, full_matrices=False)
        values, vectors = np.square(singular), transposed.T
    kept = values > values.max() * max(rows.shape) * np.finfo(np.float64).eps
    return vectors[:, kept], values[kept]


def _student(distance: Floats, determinant: Floats, freedom: Floats, dimensions: int) -> Floats:
    """Log-density (G, M) of the multivariate Student t, from squared distances (G, M) and log-determinants (G,)."""
    constant = [lgamma((v + dimensions) / 2) - lgamma(v / 2) - dimensions / 2 * log(v * pi) for v in freedom.tolist()]
    power = (freedom + dimensions)[:, None] / 2
    return (np.array(constant) - determinant / 2)[:, None] - power * np.log1p(distance / freedom[:, None])


def _check(setting: Setting, dimensions: int) -> None:
    for name in ("k0", "k1", "s"):
        value = getattr(setting, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a number above 0, got {value}.")
    if not (dimensions + 1) / dimensions < setting.m < float("inf"):
        raise ValueError(
            f"m must be more than 1 + 1 / {dimensions} times the number of features for the prior to have a mean; got "
            f"{setting.m}. The published value of 5 x 500 with 500 features is m=5."
        )
