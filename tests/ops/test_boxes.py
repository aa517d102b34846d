import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import (
    box_area,
    box_iou,
    clip_boxes,
    cxcywh_to_xyxy,
    decode_boxes,
    encode_boxes,
    generalized_box_iou,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)
from mlx_rcnn.ops.boxes import BBOX_XFORM_CLIP
from reference import numeric_gradient, slow_clip, slow_decode, slow_iou

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
UNIT, BOX = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)

boxes = st.tuples(*[st.integers(-9, 9)] * 4).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])]
)
lists = st.lists(boxes, max_size=5).map(lambda v: np.array(v, np.float32).reshape(-1, 4))


def random_boxes(seed, n, extent=30.0, side=20.0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, extent, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, side, (n, 2))], axis=1)


def call(function, *arrays, **options):
    result = function(*(mx.array(np.asarray(a, np.float32)) for a in arrays), **options)
    assert result.dtype == mx.float32
    return np.array(result)


def slow_giou(a, b):
    iou, out = slow_iou(a, b), np.zeros((len(a), len(b)))
    for i, j in np.ndindex(out.shape):
        x1, y1 = np.minimum(a[i, :2], b[j, :2]).astype(np.float64)
        x2, y2 = np.maximum(a[i, 2:], b[j, 2:]).astype(np.float64)
        hull = (x2 - x1) * (y2 - y1)
        areas = [float((v[2] - v[0]) * (v[3] - v[1])) for v in (a[i], b[j])]
        union = sum(areas) / (1 + iou[i, j])  # I = IoU * U and U = A + B - I
        out[i, j] = iou[i, j] - (hull - union) / hull if hull else 0
    return out


def slow_encode(box, anchor, weights=UNIT):
    (x1, y1, x2, y2), (ax1, ay1, ax2, ay2) = map(float, box), map(float, anchor)
    w, h = ax2 - ax1, ay2 - ay1
    dx, dy = ((x1 + x2) - (ax1 + ax2)) / 2 / w, ((y1 + y2) - (ay1 + ay2)) / 2 / h
    target = dx, dy, math.log((x2 - x1) / w), math.log((y2 - y1) / h)
    return np.array([t * f for t, f in zip(target, weights, strict=True)])


def test_area_by_hand():
    # 3 * 5; no width; inverted in x: -2 * 4; inverted in both: -2 * -3
    result = call(box_area, [[1, 2, 4, 7], [3, 3, 3, 9], [4, 0, 2, 4], [2, 3, 0, 0]])
    assert result.tolist() == [15, 0, -8, 6]
    assert call(box_area, [0, 0, 2, 3]).shape == ()
    assert call(box_area, np.zeros((2, 0, 4))).shape == (2, 0)


def test_iou_by_hand():
    a = [[0, 0, 2, 2]]
    # One cell of overlap: 1 / (4 + 4 - 1). Itself. Inside: 1 / 4. Touching in a side, in a corner.
    # Apart in x only and in both (two negative sides must not make a positive area). No area.
    b = [
        [1, 1, 3, 3],
        [0, 0, 2, 2],
        [0.5, 0.5, 1.5, 1.5],
        [2, 0, 4, 2],
        [2, 2, 4, 4],
        [5, 0, 6, 2],
        [5, 5, 8, 8],
        [1, 1, 1, 1],
    ]
    expected = [[1 / 7, 1, 0.25, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(call(box_iou, a, b), expected, rtol=1e-6)
    # Width x2 - x1 without + 1: two of the eight columns are shared, 2 / 8; with it 3 / 9
    assert call(box_iou, [[0, 0, 5, 1]], [[3, 0, 8, 1]]).item() == 0.25
    assert call(box_iou, [[3, 3, 3, 3]], [[3, 3, 3, 3]]).item() == 0  # torchvision: NaN


def test_giou_by_hand():
    a = [[0, 0, 2, 2]]
    # Hull 9, union 7: 1 / 7 - 2 / 9 = -5 / 63. Itself: 1. Side by side: hull = union = 8, so 0.
    # One pixel of room between: hull 5 * 2 = 10, union 8: 0 - 2 / 10. Inside: hull = union = 4.
    b = [[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [3, 0, 5, 2], [0.5, 0.5, 1.5, 1.5]]
    expected = [[-5 / 63, 1, 0, -0.2, 0.25]]
    np.testing.assert_allclose(call(generalized_box_iou, a, b), expected, rtol=1e-6, atol=1e-7)
    points = [[0, 0, 0, 0], [2, 3, 2, 3]]  # hulls 0 and 6, unions 0: 0 and 0 - 6 / 6
    assert call(generalized_box_iou, points, points).tolist() == [[0, -1], [-1, 0]]


@settings(max_examples=60, deadline=None)
@given(lists, lists)
def test_overlap_oracles(a, b):
    iou, giou = call(box_iou, a, b), call(generalized_box_iou, a, b)
    np.testing.assert_allclose(iou, slow_iou(a, b), rtol=1e-6)
    np.testing.assert_allclose(giou, slow_giou(a, b), rtol=1e-5, atol=1e-6)
    assert iou.shape == giou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1) & (giou >= -1) & (giou <= iou + 1e-6)).all()
    np.testing.assert_array_equal(iou, call(box_iou, b, a).T)
    np.testing.assert_array_equal(call(box_iou, 4 * a - 64, 4 * b - 64), iou)


def test_overlap_of_batches():
    a, b = random_boxes(0, 8).reshape(2, 1, 4, 4), random_boxes(1, 15).reshape(3, 5, 4)
    for function in (box_iou, generalized_box_iou):
        result = call(function, a, b)
        assert result.shape == (2, 3, 4, 5)
        for i, j in np.ndindex(2, 3):
            np.testing.assert_array_equal(result[i, j], call(function, a[i, 0], b[j]))


def test_clip_by_hand():
    # Height 10, width 20: x is cut at 20, y at 10; the border itself stays
    given_ = [[-3, -4, 25, 30], [0, 0, 20, 10], [1.5, 2.5, 3.5, 4.5], [30, 40, 50, 60]]
    expected = [[0, 0, 20, 10], [0, 0, 20, 10], [1.5, 2.5, 3.5, 4.5], [20, 10, 20, 10]]
    for size in ((10, 20), (10.0, 20.0), [10, 20], np.array([10, 20]), mx.array([10, 20])):
        assert np.array(clip_boxes(mx.array(given_), size)).tolist() == expected
    # one size for each list
    sizes = mx.array([[10, 20], [5, 7]])
    result = clip_boxes(mx.array([given_, given_]), sizes)
    assert np.array(result[0]).tolist() == expected
    assert np.array(result[1]).tolist() == [[0, 0, 7, 5], [0, 0, 7, 5], expected[2], [7, 5, 7, 5]]
    assert clip_boxes(mx.zeros((2, 0, 4)), sizes).shape == (2, 0, 4)


@settings(max_examples=30, deadline=None)
@given(lists, st.integers(1, 8), st.integers(1, 8))
def test_clip_oracle(a, height, width):
    expected = np.array([slow_clip(box, (height, width)) for box in a]).reshape(-1, 4)
    result = clip_boxes(mx.array(a), (height, width))
    np.testing.assert_array_equal(np.array(result), expected)
    np.testing.assert_array_equal(np.array(clip_boxes(result, (height, width))), expected)


def test_encode_by_hand():
    # Anchor 10 x 20 at (5, 10), target 20 x 10 at (8, 20): dx = 3 / 10, dy = 10 / 20,
    # dw = log(20 / 10), dh = log(10 / 20)
    anchor, target = [[0, 0, 10, 20]], [[-2, 15, 18, 25]]
    deltas = np.array([[0.3, 0.5, math.log(2), -math.log(2)]])
    for weights in (UNIT, BOX, (1.0, 2.0, 3.0, 4.0)):
        scaled = deltas * weights
        result = call(encode_boxes, target, anchor, weights=weights)
        np.testing.assert_allclose(result, scaled, rtol=1e-6)
        result = call(decode_boxes, scaled, anchor, weights=weights)
        np.testing.assert_allclose(result, target, rtol=1e-6)
    np.testing.assert_allclose(call(encode_boxes, target, anchor), deltas, rtol=1e-6)
    np.testing.assert_allclose(call(decode_boxes, deltas, anchor), target, rtol=1e-6)
    assert call(decode_boxes, [[0, 0, 0, 0]], anchor).tolist() == anchor


def test_decode_limits_growth():
    # An anchor 2 x 4 at (5, 6) grows at most 62.5 fold, to 125 x 250; without bound it shrinks to
    # a point. With clip = log 3 it grows to 6 x 12.
    anchor = [[4, 4, 6, 8]]
    expected = [[5 - 62.5, 6 - 125, 5 + 62.5, 6 + 125]]
    np.testing.assert_allclose(call(decode_boxes, [[0, 0, 99, 1e30]], anchor), expected, rtol=1e-6)
    assert call(decode_boxes, [[0, 0, -1e30, -200]], anchor).tolist() == [[5, 6, 5, 6]]
    result = call(decode_boxes, [[0, 0, 99, 99]], anchor, clip=math.log(3))
    np.testing.assert_allclose(result, [[2, 0, 8, 12]], rtol=1e-6)
    # The bound holds behind the weights: 5 * 4 / 5 = 4 < log 62.5 = 4.135
    result = call(decode_boxes, [[0, 0, 20, 25]], anchor, weights=BOX)
    width = 2 * math.exp(4)
    np.testing.assert_allclose(result[0, 2] - result[0, 0], width, rtol=1e-5)
    np.testing.assert_allclose(result[0, 3] - result[0, 1], 4 * 62.5, rtol=1e-5)
    assert math.exp(BBOX_XFORM_CLIP) == pytest.approx(62.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([UNIT, BOX, (1.0, 2.0, 3.0, 4.0)]))
def test_encode_and_decode_oracles(seed, weights):
    anchors, targets = random_boxes(seed, 4), random_boxes(seed + 1, 4)
    deltas = np.random.default_rng(seed).normal(0, 3, (4, 4)) * weights
    expected = [slow_encode(t, a, weights) for t, a in zip(targets, anchors, strict=True)]
    encoded = call(encode_boxes, targets, anchors, weights=weights)
    np.testing.assert_allclose(encoded, expected, rtol=1e-4, atol=1e-5)
    back = call(decode_boxes, encoded, anchors, weights=weights)
    np.testing.assert_allclose(back, targets, atol=2e-4)
    expected = [slow_decode(d, a, weights) for d, a in zip(deltas, anchors, strict=True)]
    result = call(decode_boxes, deltas, anchors, weights=weights)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-2)


def test_decode_shapes_and_dtypes():
    anchors, deltas = random_boxes(3, 6), np.random.default_rng(4).normal(size=(6, 3, 4))
    result = call(decode_boxes, deltas, anchors[:, None])  # 3 classes a proposal
    for c in range(3):
        np.testing.assert_array_equal(result[:, c], call(decode_boxes, deltas[:, c], anchors))
    for dtype in (mx.float16, mx.bfloat16):
        half = mx.array(deltas.astype(np.float32)).astype(dtype)
        result = decode_boxes(half[:, 0], mx.array(anchors.astype(np.float32)))
        assert result.dtype == mx.float32
        expected = call(decode_boxes, np.array(half[:, 0].astype(mx.float32)), anchors)
        np.testing.assert_array_equal(np.array(result), expected)
    empty = mx.zeros((2, 0, 4))
    assert decode_boxes(empty, empty).shape == encode_boxes(empty, empty).shape == (2, 0, 4)


def test_integer_boxes():
    a, b = mx.array([[0, 0, 2, 2]]), mx.array([[1, 1, 3, 3]])
    assert box_iou(a, b).item() == pytest.approx(1 / 7)
    assert encode_boxes(b, a).tolist() == [[0.5, 0.5, 0, 0]]
    assert decode_boxes(mx.zeros((1, 4)), a).tolist() == [[0, 0, 2, 2]]


def test_conversions_by_hand():
    corners = [[1, 2, 4, 8], [0, 0, 0, 0]]  # 3 x 6 at (1, 2), centre (2.5, 5)
    assert call(xyxy_to_xywh, corners).tolist() == [[1, 2, 3, 6], [0, 0, 0, 0]]
    assert call(xyxy_to_cxcywh, corners).tolist() == [[2.5, 5, 3, 6], [0, 0, 0, 0]]
    more = np.random.default_rng(12).integers(-9, 9, (2, 5, 4))  # halves of them are exact
    for there, back in ((xyxy_to_xywh, xywh_to_xyxy), (xyxy_to_cxcywh, cxcywh_to_xyxy)):
        assert call(back, call(there, corners)).tolist() == corners
        assert call(back, call(there, more)).tolist() == more.tolist()
        assert call(there, np.zeros((2, 0, 4))).shape == (2, 0, 4)
        assert call(back, np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    ("function", "oracle"), [(box_iou, slow_iou), (generalized_box_iou, slow_giou)]
)
def test_gradients_of_overlaps(function, oracle):
    a, b = random_boxes(5, 3), random_boxes(6, 4)
    weight = np.random.default_rng(7).normal(size=(3, 4))

    def total(x, y):
        return mx.sum(function(x, y) * mx.array(weight.astype(np.float32)))

    arrays = [mx.array(v.astype(np.float32)) for v in (a, b)]
    da, db = mx.grad(total, argnums=(0, 1))(*arrays)
    expected = numeric_gradient(lambda x: (oracle(x, b) * weight).sum(), a)
    np.testing.assert_allclose(np.array(da), expected, rtol=1e-3, atol=1e-4)
    expected = numeric_gradient(lambda x: (oracle(a, x) * weight).sum(), b)
    np.testing.assert_allclose(np.array(db), expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected).max() > 1e-3
    # Empty boxes give finite gradients, not 0 * inf
    points = mx.array([[3.0, 3, 3, 3]])
    gradient = mx.grad(lambda x: mx.sum(function(x, x)))(points)
    assert mx.all(mx.isfinite(gradient)).item()


def test_gradients_of_the_coder():
    anchors, targets = random_boxes(8, 3), random_boxes(9, 3)
    deltas = np.random.default_rng(10).normal(0, 0.5, (3, 4))
    deltas[0, 2] = 9  # beyond the clip: no gradient
    weight = np.random.default_rng(11).normal(size=(3, 4))

    def check(function, oracle, x):
        def total(v):
            return mx.sum(function(v, mx.array(anchors), BOX) * mx.array(weight))

        def slow(rows):
            pairs = zip(rows, anchors, weight, strict=True)
            return sum((oracle(row, anchor, BOX) * w).sum() for row, anchor, w in pairs)

        gradient = mx.grad(total)(mx.array(x.astype(np.float32)))
        expected = numeric_gradient(slow, x)
        np.testing.assert_allclose(np.array(gradient), expected, rtol=2e-3, atol=1e-4)
        return gradient

    check(encode_boxes, slow_encode, targets)
    gradient = check(decode_boxes, slow_decode, deltas * BOX)
    assert gradient[0, 2].item() == 0


def test_torchvision():
    a, b = GOLDEN["boxes_a"], GOLDEN["boxes_b"]
    np.testing.assert_array_equal(call(box_area, a), GOLDEN["box_area"])
    np.testing.assert_allclose(call(box_iou, a, b), GOLDEN["box_iou"], rtol=1e-6, atol=1e-7)
    result = call(generalized_box_iou, a, b)
    np.testing.assert_allclose(result, GOLDEN["giou"], rtol=1e-5, atol=1e-6)
    result = clip_boxes(mx.array(a * 2 - 9), (30, 41))
    np.testing.assert_array_equal(np.array(result), GOLDEN["clip"])
    np.testing.assert_array_equal(call(xyxy_to_xywh, a), GOLDEN["xywh"])
    np.testing.assert_array_equal(call(xyxy_to_cxcywh, a), GOLDEN["cxcywh"])
    anchors, targets = GOLDEN["coder_anchors"], GOLDEN["coder_targets"]
    for name, weights in (("unit", UNIT), ("box", BOX)):
        result = call(encode_boxes, targets, anchors, weights=weights)
        np.testing.assert_allclose(result, GOLDEN[f"encode_{name}"], rtol=1e-5, atol=1e-6)
        result = call(decode_boxes, GOLDEN["coder_deltas"], anchors, weights=weights)
        np.testing.assert_allclose(result, GOLDEN[f"decode_{name}"], rtol=1e-5, atol=1e-4)


def test_shapes_are_checked_by_name():
    good, bad = mx.zeros((3, 4)), mx.zeros((3, 5))
    for function in (box_area, xyxy_to_xywh, xywh_to_xyxy, xyxy_to_cxcywh, cxcywh_to_xyxy):
        for value in (bad, mx.array(1.0), mx.zeros((4, 0))):
            with pytest.raises(ValueError, match=r"boxes: expected shape \(\.\.\., 4\), got"):
                function(value)
    for function, names in (
        (box_iou, ("boxes1", "boxes2")),
        (generalized_box_iou, ("boxes1", "boxes2")),
        (encode_boxes, ("boxes", "anchors")),
        (decode_boxes, ("deltas", "anchors")),
    ):
        with pytest.raises(ValueError, match=rf"^{names[0]}: .*\(3, 5\)"):
            function(bad, good)
        with pytest.raises(ValueError, match=rf"^{names[1]}: .*\(3, 5\)"):
            function(good, bad)
    with pytest.raises(ValueError, match="boxes: expected"):
        clip_boxes(bad, (3, 3))
