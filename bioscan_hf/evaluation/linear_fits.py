"""Linear classifiers of embeddings: the two fits of `probing.linear_probe`. Arrays in, probabilities out.

Shape letters: N = train rows, M = test rows, D = embedding size, C = classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..search.vectors import Floats, Ids

#: Test rows classified at once.
ROWS_AT_ONCE = 8192

MOST_ITERATIONS = 1000

#: The fit stops where no element of the gradient exceeds this, a tenth of scikit-learn's tolerance.
TOLERANCE = 1e-5


def fit_logistic(x: Floats, y: Ids, test: Floats, device: torch.device) -> Floats:
    """Probabilities (M, C) of logistic regression on standardised features, for class codes `y` from 0 to C - 1.

    The objective is that of scikit-learn with C = 1: the mean cross-entropy plus |weights|^2 / (2 N), intercept not
    penalised. L-BFGS in float32 is faster than scikit-learn, which converts the features to float64 at every step. A
    warning tells if the gradient exceeds the tolerance of scikit-learn at the end.
    """
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    deviation[deviation <= np.abs(mean) * np.finfo(np.float32).eps] = 1  # constant, up to the rounding of its mean
    scaled, scaled_test = (_scaled(rows, mean, deviation, device) for rows in (x, test))
    targets = torch.from_numpy(y).to(device)
    weights = torch.zeros(int(y.max()) + 1, x.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(len(weights), device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias],
        max_iter=MOST_ITERATIONS,
        max_eval=2 * MOST_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(torch.addmm(bias, scaled, weights.T), targets)
        loss = loss + weights.square().sum() / (2 * len(targets))
        loss.backward()
        return loss

    optimizer.step(objective)
    objective()
    steepest = max(float(part.grad.abs().max()) for part in (weights, bias) if part.grad is not None)
    if not steepest <= 10 * TOLERANCE:  # in float32 the loss may stop changing earlier
        steps = optimizer.state[weights]["n_iter"]
        warnings.warn(
            f"The logistic regression has not converged: after {steps} iterations an element of the gradient is "
            f"{steepest:.1e}, above {10 * TOLERANCE:.0e}. The predictions are those of an unfinished fit.",
            RuntimeWarning,
            stacklevel=2,
        )
    with torch.inference_mode():
        return _probabilities(scaled_test, weights, bias)


def fit_sgd(x: Floats, y: Ids, test: Floats, epochs: int, seed: int, device: torch.device) -> Floats:
    """Probabilities (M, C) of the published linear probe of BarcodeBERT's baselines."""
    mean, deviation = x.mean(dtype=np.float64), x.std(dtype=np.float64)
    if deviation == 0:
        raise ValueError("All train embeddings are constant, so nothing can be learned from them.")
    scaled, scaled_test = (_scaled(rows, mean, deviation, device) for rows in (x, test))
    targets = torch.from_numpy(y).to(device)
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
    with torch.inference_mode():
        return _probabilities(scaled_test, layer.weight, layer.bias)


def _scaled(x: Floats, mean: Any, deviation: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(((x - mean) / deviation).astype(np.float32)).to(device)


def _probabilities(x: Tensor, weights: Tensor, bias: Tensor) -> Floats:
    parts = [torch.addmm(bias, part, weights.T).softmax(1).cpu() for part in x.split(ROWS_AT_ONCE)]
    return torch.cat(parts).numpy()
