"""Errors of regressed boxes: GIoU, L1 and smooth L1."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import decode_boxes, encode_boxes
from mlx_rcnn.ops.losses import box_regression_error, giou_loss, smooth_l1
from reference import noise, numeric_gradient

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "giou.npz")
UNIT = (1.0, 1.0, 1.0, 1.0)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def slow_giou_loss(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rezatofighi et al., algorithm 1, a pair at a time."""
    out = np.zeros(len(prediction))
    for i, pair in enumerate(zip(prediction, target, strict=True)):
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (map(float, box) for box in pair)
        width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
        shared = width * height if width > 0 and height > 0 else 0.0
        union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
        hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
        out[i] = 1 - (shared / (union + 1e-7) - (hull - union) / (hull + 1e-7))
    return out


def slow_error(deltas, targets, kind, beta):
    """Deltas, a row at a time; L1 is the paper's smooth L1 where the parabola has no room."""
    out = np.zeros(len(deltas))
    for i, k in np.ndindex(deltas.shape):
        d = abs(float(deltas[i, k]) - float(targets[i, k]))
        curved = kind == "smooth_l1" and d < beta
        out[i] += d * d / (2 * beta) if curved else d - (beta / 2 if kind == "smooth_l1" else 0)
    return out


def random_pairs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 30, (2, count, 2)), rng.uniform(0.5, 30, (2, count, 2))
    a, b = np.concatenate([corner, corner + side], axis=2).astype(np.float32)
    return a, b


def call(function, *arrays, **options):
    found = function(*(mx.array(np.asarray(v, np.float32)) for v in arrays), **options)
    assert found.dtype == mx.float32
    return np.array(found)


def test_giou_by_hand():
    box = [0, 0, 10, 10]
    cases = [
        (box, 0.0),  # itself
        ([0, 0, 5, 10], 1 - 0.5),  # IoU 50 / 100, and the hull is the union
        ([10, 0, 20, 10], 1.0),  # touching: 0 shared, the hull is the union
        ([30, 0, 40, 10], 1 + 200 / 400),  # of the hull of 400 half is in neither
        ([5, 5, 15, 15], 1 - (25 / 175 - 50 / 225)),
        ([1000, 1000, 1001, 1001], 1 + (1001**2 - 101) / 1001**2),  # nearly 2
    ]
    others, expected = zip(*cases, strict=True)
    found = call(giou_loss, [box] * len(cases), others)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(call(giou_loss, others, [box] * len(cases)), expected, atol=1e-6)


def test_torchvision():
    prediction, target = (mx.array(GOLDEN[name]) for name in ("prediction", "target"))
    np.testing.assert_allclose(np.array(giou_loss(prediction, target)), GOLDEN["loss"], atol=1e-6)
    slope = np.array(mx.grad(lambda p: mx.sum(giou_loss(p, target)))(prediction))
    assert np.isfinite(slope).all()
    # Where two corners agree, either side of the kink is a slope.
    kinks = (GOLDEN["prediction"] == GOLDEN["target"]).any(axis=1)
    kinks |= (GOLDEN["prediction"][:, 2:] <= GOLDEN["prediction"][:, :2]).any(axis=1)
    kinks[11] = True
    assert kinks.sum() <= 6
    np.testing.assert_allclose(slope[~kinks], GOLDEN["gradient"][~kinks], rtol=1e-3, atol=1e-6)
    for beta in (1 / 9, 1.0):
        found = np.array(smooth_l1(prediction, target, beta))
        np.testing.assert_allclose(found, GOLDEN[f"smooth_l1_{beta:.2f}"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.array(smooth_l1(prediction, target, 0.0)), GOLDEN["l1"])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9999),
    st.integers(0, 9),
    st.sampled_from(["smooth_l1", "l1", "giou"]),
    st.sampled_from([0.0, 1 / 9, 1.0, 3.0]),
    st.sampled_from([UNIT, WEIGHTS]),
)
def test_oracle(seed, count, kind, beta, weights):
    boxes, wanted = random_pairs(seed, count)
    deltas = noise(f"box losses {seed}", count, 4)
    targets = call(encode_boxes, wanted, boxes, weights=weights)
    found = call(
        box_regression_error, deltas, targets, boxes, kind=kind, beta=beta, weights=weights
    )
    if kind == "giou":
        expected = slow_giou_loss(call(decode_boxes, deltas, boxes, weights=weights), wanted)
        assert (found >= -1e-6).all() and (found <= 2 + 1e-6).all()
    else:
        expected = slow_error(deltas, targets, kind, beta)
    assert found.shape == (count,)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_smooth_l1_without_a_parabola_is_l1():
    a, b = noise("beta a", 20, 4), noise("beta b", 20, 4)
    a[0] = b[0]
    l1 = call(box_regression_error, a, b, a, kind="l1", beta=5.0)  # beta is not its own
    np.testing.assert_array_equal(call(box_regression_error, a, b, a, beta=0.0), l1)
    np.testing.assert_allclose(call(box_regression_error, a, b, a, beta=1e-12), l1, rtol=1e-6)
    for beta in (0.0, 1e-12):  # no kink where prediction and target agree
        slope = mx.grad(lambda x, beta=beta: mx.sum(smooth_l1(x, mx.array(b), beta)))(mx.array(a))
        assert slope[0].tolist() == [0] * 4
        np.testing.assert_array_equal(np.array(slope[1:]), np.sign(a[1:] - b[1:]))


def test_gradients_of_giou():
    boxes, wanted = random_pairs(5, 6)
    deltas = 0.3 * noise("giou gradient", 6, 4)
    targets = call(encode_boxes, wanted, boxes)

    def ours(x):
        return mx.sum(box_regression_error(x, mx.array(targets), mx.array(boxes), "giou"))

    def slow(x):
        moved = np.array(decode_boxes(mx.array(x.astype(np.float32)), mx.array(boxes)))
        return slow_giou_loss(moved, wanted).sum()

    found = np.array(mx.grad(ours)(mx.array(deltas)))
    expected = numeric_gradient(slow, deltas, step=1e-2)
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert np.abs(found).max() > 0.1


DEGENERATE = [
    ([0, 0, 10, 10], [0, 0, 10, 10]),  # the same
    ([3, 3, 3, 3], [3, 3, 3, 3]),  # points
    ([3, 3, 3, 3], [8, 9, 8, 9]),
    ([0, 0, 0, 10], [0, 0, 0, 10]),  # lines
    ([0, 0, 10, 0], [0, 0, 0, 10]),
    ([0, 0, 0, 10], [0, 0, 10, 10]),
    ([0, 0, 1e-20, 1e-20], [0, 0, 1e-20, 1e-20]),
    ([0, 0, 1e6, 1e6], [0, 0, 1e-3, 1e-3]),
    ([9, 9, 1, 1], [0, 0, 10, 10]),  # inverted
]


def test_degenerate_boxes_have_finite_losses_and_gradients():
    a, b = (mx.array(np.array(v, np.float32)) for v in zip(*DEGENERATE, strict=True))
    loss, slope = mx.value_and_grad(lambda x: mx.sum(giou_loss(x, b)))(a)
    assert np.isfinite(loss.item()) and np.isfinite(np.array(slope)).all()
    # What the network may say of a box of any size
    for size in (1e-3, 1.0, 1e4):
        boxes = mx.array([[0.0, 0, size, size]] * 5)
        deltas = mx.array([[0.0] * 4, [50, -50, 90, 90], [0, 0, -90, -90], [1e4] * 4, [-1e4] * 4])
        for kind in ("giou", "l1", "smooth_l1"):

            def total(x, boxes=boxes, kind=kind):
                return mx.sum(box_regression_error(x, mx.zeros((5, 4)), boxes, kind))

            loss, slope = mx.value_and_grad(total)(deltas)
            assert np.isfinite(loss.item()) and np.isfinite(np.array(slope)).all(), (size, kind)


def test_wrong_kind():
    with pytest.raises(ValueError, match="kind='iou': expected 'smooth_l1', 'l1' or 'giou'"):
        box_regression_error(mx.zeros((1, 4)), mx.zeros((1, 4)), mx.zeros((1, 4)), "iou")
