"""R-CNN's head: its losses by hand, what learns from them, and scores of SVMs."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn import RCNNConfig
from mlx_rcnn.heads.rcnn import RIDGE_PAIRS, SPEED, RCNNPredictor, rcnn_losses, svm_logits
from mlx_rcnn.heads.sampling import SampledRoIs
from mlx_rcnn.structures import Targets

CONFIG = RCNNConfig(None, 2, 3, ridge=500.0)
TARGETS = Targets(
    mx.array([[[0.0, 0, 10, 10], [20, 20, 40, 40]]]),
    mx.array([[2, 1]]),
    mx.array([[True, True]]),
    None,
)


def rois() -> SampledRoIs:
    """IoU 1 with the first, 0.8 and 0.55 with the second, background, and a row that is none."""
    boxes = [[0, 0, 10, 10], [20, 20, 40, 36], [20, 20, 40, 31], [50, 50, 60, 60], [0, 0, 0, 0]]
    positive = [[True, True, True, False, False]]
    return SampledRoIs(
        mx.array([boxes], mx.float32),
        mx.array([[2, 1, 1, 0, 0]]),
        mx.array([[0, 1, 1, 0, 0]]),
        mx.array(np.random.default_rng(0).normal(0, 1, (1, 5, 4)).astype(np.float32)),
        mx.array(positive),
        mx.array([[True, True, True, True, False]]),
        mx.zeros((1, 5), dtype=mx.bool_),
    )


def test_losses_by_hand() -> None:
    rng = np.random.default_rng(1)
    logits, deltas = rng.normal(0, 1, (5, 3)), rng.normal(0, 1, (5, 12))
    weight, sampled = rng.normal(0, 1, (12, 7)), rois()
    given = (mx.array(v.astype(np.float32)) for v in (logits, deltas))
    classification, regression = rcnn_losses(
        *given, sampled, TARGETS, CONFIG, mx.array(weight.astype(np.float32))
    )
    each = np.log(np.exp(logits).sum(axis=1)) - logits[range(5), [2, 1, 1, 0, 0]]
    assert classification.item() == pytest.approx(each[:4].mean(), rel=1e-5)
    wanted = np.array(sampled.regression_targets)[0]
    # Pairs are the first two, of IoU 1 and 0.8, each judged by its own class's deltas.
    error = ((deltas[0, 8:12] - wanted[0]) ** 2).sum() + ((deltas[1, 4:8] - wanted[1]) ** 2).sum()
    penalty = 500 / RIDGE_PAIRS * (weight[4:] ** 2).sum() / 2
    assert regression.item() == pytest.approx(error / 2 + penalty, rel=1e-5)


def test_no_pairs_and_no_rows() -> None:
    sampled = rois()
    nothing = mx.zeros((1, 5), dtype=mx.bool_)
    sampled = sampled._replace(positive=nothing, valid=nothing)
    losses = rcnn_losses(
        mx.zeros((5, 3)), mx.ones((5, 12)), sampled, TARGETS, CONFIG, mx.zeros((12, 7))
    )
    assert [v.item() for v in losses] == [0, 0]


def test_the_regression_learns_and_the_map_does_not() -> None:
    predictor = RCNNPredictor(5, 12, 3)
    predictor.bbox_pred.weight = mx.random.normal((12, 12), key=mx.random.key(0))
    pooled = 7 * mx.random.normal((6, 2, 2, 3), key=mx.random.key(1))

    def total(pooled: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        predictor.bbox_pred.weight, predictor.bbox_pred.bias = weight, bias
        return (predictor.regress(pooled)[0] ** 2).sum()

    weight, bias = predictor.bbox_pred.weight, predictor.bbox_pred.bias
    through, slowed, free = mx.grad(total, argnums=(0, 1, 2))(pooled, weight, bias)
    assert not np.array(through).any()
    flat = np.array(pooled).reshape(6, -1)
    error = 2 * flat @ np.array(weight).T  # the bias is 0
    np.testing.assert_allclose(np.array(free), error.sum(axis=0), rtol=1e-4)
    scale = (flat**2).sum(axis=1).max() / SPEED
    np.testing.assert_allclose(np.array(slowed), error.T @ flat / scale, rtol=1e-3, atol=1e-4)
    predictor.bbox_pred.weight, predictor.bbox_pred.bias = weight, bias
    _, deltas = predictor(mx.zeros((6, 5)), pooled)
    np.testing.assert_allclose(np.array(predictor.regress(pooled)[0]), np.array(deltas), rtol=1e-5)


def test_softmax_of_svm_logits_is_their_sigmoids() -> None:
    margins = np.array([[0.0, 2.0, -3.0], [40.0, -90.0, 1.0], [-200.0, -300.0, -250.0]])
    shares = np.array(mx.softmax(svm_logits(mx.array(margins.astype(np.float32))), axis=-1))
    np.testing.assert_allclose(3 * shares[:, 1:], 1 / (1 + np.exp(-margins)), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
