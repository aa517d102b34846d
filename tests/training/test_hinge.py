"""The SVM solver: known answers, and the gap to its dual, which no other answer closes."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_rcnn.training.hinge import BIAS, Hyperplane, fit_hinge


def objective(plane: Hyperplane, rows, positive, c, positive_weight=1.0) -> float:
    sign = np.where(positive, 1.0, -1.0)
    each = np.where(positive, c * positive_weight, c)
    loss = (each * np.maximum(0, 1 - sign * plane.margins(rows))).sum()
    return 0.5 * (plane.weight @ plane.weight + (plane.bias / BIAS) ** 2) + loss


def gap(plane: Hyperplane, rows, positive, c, positive_weight=1.0) -> float:
    """Primal minus dual, over the primal."""
    signed = np.where(positive, 1.0, -1.0) * plane.duals
    v = np.append(signed @ rows, signed.sum() * BIAS)
    primal = objective(plane, rows, positive, c, positive_weight)
    return (primal - (plane.duals.sum() - 0.5 * v @ v)) / primal


def test_two_points() -> None:
    """Points at 1 and 3 on a line: the margin's middle is 2, and 1 is reached at each of them."""
    rows = np.array([[3.0], [1.0]], np.float32)
    plane = fit_hinge(rows, np.array([True, False]), 1e3)
    np.testing.assert_allclose(plane.margins(rows), [1, -1], atol=2e-3)
    np.testing.assert_allclose([plane.weight[0], plane.bias], [1, -2], atol=5e-3)


def test_only_the_nearest_points_count() -> None:
    near = np.array([[2.0, 0.5], [2.0, -0.5], [0.0, 0.0]], np.float32)
    far = np.array([[9.0, 1.0], [-7.0, 3.0]], np.float32)
    rows, positive = np.concatenate([near, far]), np.array([True, True, False, True, False])
    both, alone = fit_hinge(rows, positive, 1e3), fit_hinge(near, positive[:3], 1e3)
    np.testing.assert_allclose(both.weight, alone.weight, atol=1e-2)
    np.testing.assert_allclose(both.weight, [1, 0], atol=1e-2)
    assert not both.duals[3:].any()


@pytest.mark.parametrize("positive_weight", [1.0, 2.0])
@pytest.mark.parametrize("c", [1e-3, 0.1])
def test_the_gap_to_the_dual_closes(c: float, positive_weight: float) -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(120) < 0.2
    rows = (rng.normal(0, 1, (120, 30)) + 0.5 * positive[:, None]).astype(np.float32)
    plane = fit_hinge(rows, positive, c, positive_weight=positive_weight, tolerance=1e-4)
    assert -1e-4 < gap(plane, rows, positive, c, positive_weight) < 1e-3
    limit = np.where(positive, c * positive_weight, c)
    assert (plane.duals >= 0).all() and (plane.duals <= limit).all()


def test_it_goes_on_from_where_it_was() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(80) < 0.4
    rows = (rng.normal(0, 1, (80, 12)) + positive[:, None]).astype(np.float32)
    whole = fit_hinge(rows, positive, 0.05)
    part = fit_hinge(rows[:50], positive[:50], 0.05)
    again = fit_hinge(rows, positive, 0.05, duals=np.append(part.duals, np.zeros(30)), seed=9)
    np.testing.assert_allclose(again.margins(rows), whole.margins(rows), atol=1e-2)
    same = fit_hinge(rows, positive, 0.05)
    np.testing.assert_array_equal(same.weight, whole.weight)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="no rows"):
        fit_hinge(np.zeros((0, 3), np.float32), np.zeros(0, bool), 1.0)
