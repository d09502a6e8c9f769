"""Logistic regression on sparse rows, to the optimum: what a linear model makes of words and spelling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack
from scipy.special import expit

Floats = NDArray[np.float64]


class Linear(NamedTuple):
    """A weight (D,) of each feature, and the constant."""

    weights: Floats
    constant: float

    def log_odds(self, rows: csr_array) -> Floats:
        """Of rows (N, D): (N,)."""
        found: Floats = rows @ self.weights + self.constant
        return found


def fit_logistic(
    rows: csr_array, positive: Floats, *, strength: float, counts: Floats | None = None, steps: int = 50
) -> Linear:
    """L2-regularised logistic regression; the constant is not regularised.

    Args:
        rows: (N, D).
        positive: (N,), 1 where a row is what the log-odds are of, 0 elsewhere.
        strength: Inverse of the regularisation, as scikit-learn's C.
        counts: (N,), what each row counts; None: one each.
        steps: Of L-BFGS at most.

    >>> made = fit_logistic(csr_array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 1.0]), strength=10)
    >>> made.log_odds(csr_array([[0.0, 2.0]])) > 2
    array([ True])
    """
    rows = hstack([rows, np.ones((rows.shape[0], 1))], format="csr")
    transposed = rows.T.tocsr()
    penalised = np.append(np.ones(rows.shape[1] - 1), 0.0)
    scale = np.ones(rows.shape[0]) if counts is None else counts
    scale = scale / scale.sum()
    penalty = penalised / (strength * (rows.shape[0] if counts is None else counts.sum()))

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = rows @ weights
        losses = scale * (np.logaddexp(0, logits) - positive * logits)
        gradient = transposed @ (scale * (expit(logits) - positive)) + penalty * weights
        return losses.sum() + (penalty * weights**2).sum() / 2, gradient

    start = np.zeros(rows.shape[1])
    found: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": steps}).x
    return Linear(found[:-1], float(found[-1]))
