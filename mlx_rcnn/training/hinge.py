"""A linear SVM by dual coordinate descent, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BIAS = 10.0  # the constant feature beside the others, whose weight is the bias: hardly regularised


class Hyperplane(NamedTuple):
    """``weight`` (D,) and ``bias`` of margins ``x @ weight + bias``; ``duals`` (n,) of the rows."""

    weight: np.ndarray
    bias: float
    duals: np.ndarray

    def margins(self, rows: np.ndarray) -> np.ndarray:
        """Margins (n,) of rows (n, D)."""
        found: np.ndarray = rows @ self.weight + self.bias
        return found


def fit_hinge(
    rows: np.ndarray,  # (n, D) float32
    positive: np.ndarray,  # (n,): y is 1 of these, else -1
    c: float,  # weight of the loss
    *,
    positive_weight: float = 1.0,  # factor of c of the positives
    duals: np.ndarray | None = None,  # (n,) to start from, else zeros
    tolerance: float = 1e-3,  # of the dual's projected gradient
    max_rounds: int = 1000,
    seed: int = 0,  # of the order in each round
) -> Hyperplane:
    """Minimise ``|v|^2 / 2 + sum of c_i max(0, 1 - y_i v . (x_i, 10))`` over v = (w, b / 10)."""
    # As liblinear's solver of the L1 loss (Hsieh et al., 2008): it ends where no dual variable
    # could move by more than the tolerance allows, or after ``max_rounds`` over all rows.
    if len(rows) == 0:
        raise ValueError("an SVM of no rows: expected at least one")
    sign = np.where(positive, 1.0, -1.0)
    limit = np.where(positive, c * positive_weight, c)
    alpha = np.zeros(len(rows)) if duals is None else np.clip(duals, 0.0, limit)
    square = np.einsum("nd,nd->n", rows, rows, dtype=np.float64) + BIAS**2
    random = np.random.default_rng(seed)
    weight, bias = _primal(rows, sign * alpha)
    for _ in range(max_rounds):
        worst = 0.0
        for i in random.permutation(len(rows)):
            gradient = sign[i] * (float(rows[i] @ weight) + BIAS * bias) - 1
            old = alpha[i]
            new = min(max(old - gradient / square[i], 0.0), limit[i])
            if new != old:
                worst = max(worst, abs(gradient))
                alpha[i] = new
                step = sign[i] * (new - old)
                weight += np.float32(step) * rows[i]
                bias += step * BIAS
        weight, bias = _primal(rows, sign * alpha)  # without what the steps have rounded
        if worst < tolerance:
            break
    return Hyperplane(weight, BIAS * bias, alpha)


def _primal(rows: np.ndarray, signed: np.ndarray) -> tuple[np.ndarray, float]:
    """The weight (D,) and the constant feature's of dual variables with their signs."""
    return signed.astype(np.float32) @ rows, float(signed.sum() * BIAS)
