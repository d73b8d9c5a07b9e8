"""Linear classifiers of embeddings: the two fits of `probing.linear_probe`. Arrays in, probabilities out.

Scores are held for a block of rows at a time: all of 289,203 rows and 11,846 species would take 14 GB.
Shape letters: N = train rows, M = test rows, D = embedding size, C = classes, B = rows of a block.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..search.vectors import Floats, Ids, slices

#: Scores (rows times classes), or features, that are computed at once.
BLOCK = 2**23

MOST_ITERATIONS = 1000

#: The fit stops where no element of the gradient exceeds this, a tenth of scikit-learn's tolerance.
TOLERANCE = 1e-5

#: Class codes (M,), their probabilities (M,), and the probabilities of all classes (M, C) if asked for.
Answers = tuple[Ids, NDArray[np.float64], Floats | None]


def fit_logistic(x: Floats, y: Ids, test: Floats, device: torch.device, probabilities: bool = False) -> Answers:
    """Answers of logistic regression on standardised features, for class codes `y` from 0 to C - 1.

    The objective is that of scikit-learn with C = 1: the mean cross-entropy plus |weights|^2 / (2 N), intercept not
    penalised. L-BFGS in float32 is faster than scikit-learn, which converts the features to float64 at every step. A
    warning tells if the gradient exceeds the tolerance of scikit-learn at the end.
    """
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    deviation[deviation <= np.abs(mean) * np.finfo(np.float32).eps] = 1  # constant, up to the rounding of its mean
    scaled, targets = _scaled(x, mean, deviation, device), torch.from_numpy(y).to(device)
    weights = torch.zeros(int(y.max()) + 1, x.shape[1], device=device)
    bias = torch.zeros(len(weights), device=device)
    weights.grad, bias.grad = slope, bias_slope = torch.empty_like(weights), torch.empty_like(bias)
    optimizer = torch.optim.LBFGS(
        [weights, bias],
        max_iter=MOST_ITERATIONS,
        max_eval=2 * MOST_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def objective() -> Tensor:
        """The loss; its gradient is left in `slope` and `bias_slope`."""
        loss = weights.square().sum(dtype=torch.float64) / 2
        slope.copy_(weights)
        bias_slope.zero_()
        for rows, scores in _scores(scaled, weights, bias):
            right, total = targets[rows, None], scores.logsumexp(1, keepdim=True)
            loss += (total - scores.gather(1, right)).sum(dtype=torch.float64)
            scores.sub_(total).exp_().scatter_add_(1, right, torch.full_like(total, -1))
            slope.addmm_(scores.T, scaled[rows])
            bias_slope.add_(scores.sum(0))
        slope.div_(len(targets))
        bias_slope.div_(len(targets))
        return loss / len(targets)

    optimizer.step(objective)
    objective()
    steepest = max(slope.abs().max().item(), bias_slope.abs().max().item())
    if not steepest <= 10 * TOLERANCE:  # in float32 the loss may stop changing earlier
        steps = optimizer.state[weights]["n_iter"]
        warnings.warn(
            f"The logistic regression has not converged: after {steps} iterations an element of the gradient is "
            f"{steepest:.1e}, above {10 * TOLERANCE:.0e}. The predictions are those of an unfinished fit.",
            RuntimeWarning,
            stacklevel=2,
        )
    return _answers(_scaled(test, mean, deviation, device), weights, bias, probabilities)


def fit_sgd(
    x: Floats, y: Ids, test: Floats, epochs: int, seed: int, device: torch.device, probabilities: bool = False
) -> Answers:
    """Answers of the published linear probe of BarcodeBERT's baselines."""
    mean, deviation = x.mean(dtype=np.float64), x.std(dtype=np.float64)
    if deviation == 0:
        raise ValueError("All train embeddings are constant, so nothing can be learned from them.")
    scaled, targets = _scaled(x, mean, deviation, device), torch.from_numpy(y).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1).to(device)
        orders = [torch.randperm(len(y)) for _ in range(epochs)]
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.95, weight_decay=1e-9)
    for order in orders:
        for rows in order.to(device).split(1024):
            optimizer.zero_grad()
            cross_entropy(layer(scaled[rows]), targets[rows]).backward()
            optimizer.step()
    return _answers(_scaled(test, mean, deviation, device), layer.weight, layer.bias, probabilities)


def _scaled(x: Floats, mean: Any, deviation: Any, device: torch.device) -> Tensor:
    """(x - mean) / deviation, computed in float64."""
    scaled = torch.empty(x.shape, device=device)
    for rows in slices(len(x), max(1, BLOCK // x.shape[1])):
        scaled[rows] = torch.from_numpy((x[rows] - mean) / deviation)
    return scaled


def _scores(x: Tensor, weights: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their scores (B, C), block by block; the next block overwrites the scores."""
    size = max(1, BLOCK // len(weights))
    buffer = torch.empty(min(size, len(x)), len(weights), device=x.device)
    for rows in slices(len(x), size):
        yield rows, torch.addmm(bias, x[rows], weights.T, out=buffer[: rows.stop - rows.start])


@torch.inference_mode()
def _answers(x: Tensor, weights: Tensor, bias: Tensor, probabilities: bool) -> Answers:
    codes, best, shares = np.empty(len(x), np.int64), np.empty(len(x)), None
    if probabilities:
        shares = np.empty((len(x), len(weights)), np.float32)
    for rows, scores in _scores(x, weights, bias):
        found = scores.softmax(1)
        largest = found.max(1)
        codes[rows], best[rows] = largest.indices.cpu().numpy(), largest.values.cpu().numpy()
        if shares is not None:
            shares[rows] = found.cpu().numpy()
    return codes, best, shares
