"""Elementwise losses, from their formulas."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops.losses import SMOOTH_L1_BETA, binary_cross_entropy, cross_entropy, smooth_l1
from reference import noise, numeric_gradient


def slow_smooth_l1(prediction: np.ndarray, target: np.ndarray, beta: float) -> np.ndarray:
    out = np.zeros(prediction.shape)
    for i in np.ndindex(out.shape):
        d = abs(float(prediction[i]) - float(target[i]))
        out[i] = d * d / (2 * beta) if d < beta else d - beta / 2
    return out


def slow_binary_cross_entropy(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -target * np.log(p) - (1 - target) * np.log(1 - p)


def slow_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64))
    return -np.log(e[np.arange(len(labels)), labels] / e.sum(axis=1))


def test_smooth_l1_by_hand() -> None:
    # beta 1/9. 0.1 < 1/9: 0.5 * 0.01 * 9 = 0.045. At 1/9 both branches: 1/18. 1: 1 - 1/18.
    distance = mx.array([0.0, 0.1, -0.1, 1 / 9, 1.0, -2.0])
    expected = [0, 0.045, 0.045, 1 / 18, 17 / 18, 35 / 18]
    np.testing.assert_allclose(np.array(smooth_l1(distance, mx.zeros(6))), expected, rtol=1e-6)
    np.testing.assert_allclose(
        np.array(smooth_l1(3 + distance, mx.full(6, 3.0))), expected, atol=1e-6
    )
    # beta 1: 0.5 * 0.25 below it, 3 - 0.5 above
    assert smooth_l1(mx.array([0.5, 3.0]), mx.zeros(2), 1.0).tolist() == [0.125, 2.5]
    assert SMOOTH_L1_BETA == 1 / 9


def test_binary_cross_entropy_by_hand() -> None:
    # Logit 0: log 2 whatever the target. Logit log 3: s = 3/4, so log(4/3) and log 4.
    logits, target = mx.array([0.0, 0, math.log(3), math.log(3)]), mx.array([0.0, 0.3, 1, 0])
    expected = [math.log(2), math.log(2), math.log(4 / 3), math.log(4)]
    found = binary_cross_entropy(logits, target)
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-6)


def test_cross_entropy_by_hand() -> None:
    # Equal logits: log C. Logits log 1, log 2, log 5 are shares 1/8, 2/8, 5/8.
    logits = mx.array([[7.0, 7, 7], [0, math.log(2), math.log(5)], [0, math.log(2), math.log(5)]])
    expected = [math.log(3), math.log(4), math.log(8 / 5)]
    found = cross_entropy(logits, mx.array([2, 1, 2]))
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 6), st.floats(0.05, 2))
def test_oracles(seed: int, rows: int, columns: int, beta: float) -> None:
    a, b = (noise(f"losses {name} {seed}", rows, columns) * 3 for name in "ab")
    labels = np.random.default_rng(seed).integers(0, columns, rows)
    target = 1 / (1 + np.exp(-b))
    pairs = [
        (smooth_l1(mx.array(a), mx.array(b), beta), slow_smooth_l1(a, b, beta)),
        (
            binary_cross_entropy(mx.array(a), mx.array(target)),
            slow_binary_cross_entropy(a, target),
        ),
        (cross_entropy(mx.array(a), mx.array(labels)), slow_cross_entropy(a, labels)),
    ]
    for found, expected in pairs:
        assert found.dtype == mx.float32 and found.shape == expected.shape
        np.testing.assert_allclose(np.array(found), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
def test_extreme_logits(size: float) -> None:
    """The loss is the distance by which the wrong side wins; nothing overflows, nor its slope."""
    logits, target = mx.array([size, size, -size, -size]), mx.array([1.0, 0, 1, 0])
    np.testing.assert_allclose(
        np.array(binary_cross_entropy(logits, target)), [0, size, size, 0], atol=1e-30
    )
    slope = mx.grad(lambda x: mx.sum(binary_cross_entropy(x, target)))(logits)
    np.testing.assert_allclose(np.array(slope), [0, 1, -1, 0], atol=1e-30)

    rows, labels = mx.array([[size, -size, 0.0]] * 3), mx.array([0, 1, 2])
    found = np.array(cross_entropy(rows, labels))
    np.testing.assert_allclose(found, [0, 2 * size, size], rtol=1e-6)
    slope = mx.grad(lambda x: mx.sum(cross_entropy(x, labels)))(rows)
    np.testing.assert_allclose(np.array(slope), [[0, 0, 0], [1, -1, 0], [1, 0, -1]], atol=1e-30)

    slope = mx.grad(lambda x: mx.sum(smooth_l1(x, mx.zeros(4))))(logits)
    assert slope.tolist() == [1, 1, -1, -1]


def test_gradients() -> None:
    a, b = noise("losses gradient", 4, 3) * 2, noise("losses gradient target", 4, 3)
    target, labels = np.clip(b, 0, 1), np.array([0, 2, 1, 2])
    cases = [
        (lambda x: smooth_l1(x, mx.array(b)), lambda x: slow_smooth_l1(x, b, 1 / 9)),
        (
            lambda x: binary_cross_entropy(x, mx.array(target)),
            lambda x: slow_binary_cross_entropy(x, target),
        ),
        (lambda x: cross_entropy(x, mx.array(labels)), lambda x: slow_cross_entropy(x, labels)),
    ]
    for ours, slow in cases:
        gradient = mx.grad(lambda x, ours=ours: mx.sum(ours(x)))(mx.array(a))
        expected = numeric_gradient(lambda x, slow=slow: slow(x).sum(), a)
        np.testing.assert_allclose(np.array(gradient), expected, atol=1e-5)
    # No kink where prediction and target agree
    assert mx.grad(lambda x: mx.sum(smooth_l1(x, mx.ones(2))))(mx.ones(2)).tolist() == [0, 0]


def test_nothing() -> None:
    assert smooth_l1(mx.zeros((0, 4)), mx.zeros((0, 4))).shape == (0, 4)
    assert binary_cross_entropy(mx.zeros((0,)), mx.zeros((0,))).shape == (0,)
