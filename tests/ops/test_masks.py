import math
import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops.masks import paste_masks

GOLDENS = Path(__file__).parents[1] / "goldens"
RULES = ("torchvision", "detectron2")


def sample(mask, y, x):
    """Bilinear value of ``mask`` at (y, x), pixel centres at whole numbers, zeros outside."""
    total = 0.0
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]:
                total += float(mask[i, j]) * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def slow_torchvision(mask, box, image_size):
    side, box = len(mask), np.asarray(box, np.float32)
    centre, extent = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * np.float32(1 + 2 / side)
    x0, y0, x1, y1 = (int(corner) for corner in [*(centre - extent), *(centre + extent)])
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    out = np.zeros(image_size)
    for y in range(max(y0, 0), min(y1 + 1, image_size[0])):
        for x in range(max(x0, 0), min(x1 + 1, image_size[1])):
            # In pixels of the mask with its border of one; half a pixel outside it is zero as well.
            v = (y - y0 + 0.5) * (side + 2) / height - 0.5
            u = (x - x0 + 0.5) * (side + 2) / width - 0.5
            out[y, x] = sample(mask, v - 1, u - 1)
    return out


def slow_detectron2(mask, box, image_size):
    x0, y0, x1, y1 = (float(corner) for corner in box)
    out = np.zeros(image_size)
    # detectron2 looks no further than a pixel around the box; 0.5 is never passed beyond it.
    for y in range(max(math.floor(y0) - 1, 0), min(math.ceil(y1) + 1, image_size[0])):
        for x in range(max(math.floor(x0) - 1, 0), min(math.ceil(x1) + 1, image_size[1])):
            v = (y + 0.5 - y0) / (y1 - y0) * len(mask) - 0.5
            u = (x + 0.5 - x0) / (x1 - x0) * len(mask) - 0.5
            out[y, x] = sample(mask, v, u)
    return out


def assert_pasted(result, values, threshold=0.5):
    """Every pixel is right but where rounding decides, within 1e-5 of the threshold."""
    clear = np.abs(values - threshold) > 1e-5
    np.testing.assert_array_equal(result[clear], (values > threshold)[clear])


@pytest.mark.parametrize(
    ("file", "rule", "slow"),
    [
        ("masks.npz", "torchvision", slow_torchvision),
        ("masks_detectron2.npz", "detectron2", slow_detectron2),
    ],
)
def test_golden(file, rule, slow):
    golden = np.load(GOLDENS / file)
    height, width = (int(side) for side in golden["image_size"])
    expected = np.unpackbits(golden["pasted_packed"], axis=-1, count=width).astype(bool)
    result = paste_masks(golden["masks"], golden["boxes"], (height, width), rule=rule)
    assert result.dtype == bool and result.shape == (len(expected), height, width)
    for mask, box, got, wanted in zip(
        golden["masks"], golden["boxes"], result, expected, strict=True
    ):
        rows, columns = np.nonzero(got != wanted)
        if rows.size:  # another BLAS may round otherwise, and only that may make a difference
            values = slow(mask, box, (height, width))[rows, columns]
            np.testing.assert_allclose(values, 0.5, atol=1e-6)


def test_torchvision_by_hand():
    # M = 1: scale 3, so the box (2, 2, 4, 4) grows to (0, 0, 6, 6), 7 pixels wide. Pixel i lies at
    # (i + 0.5) * 3 / 7 - 0.5 of [0, p, 0]: weights of p 0, 1/7, 4/7, 1, 4/7, 1/7, 0.
    # Above 0.5: the centre (1) and its neighbours (4/7), but not the diagonal ones (16/49).
    mask, box = np.ones((1, 1, 1), np.float32), np.array([[2, 2, 4, 4]], np.float32)
    result = paste_masks(mask, box, (8, 8))[0]
    assert np.argwhere(result).tolist() == [[2, 3], [3, 2], [3, 3], [3, 4], [4, 3]]
    # A probability of 0.5 reaches 0.5 at the centre, which is not above it.
    assert not paste_masks(mask / 2, box, (8, 8)).any()
    # Truncation is towards zero: (-0.5, 1.4) grows to (-2.4, 3.3) and becomes (-2, 3), 6 pixels.
    # Pixel i - 2 lies at (i + 0.5) / 2 - 0.5: weights of p 0, 0.25, 0.75, 0.75, 0.25, 0; only
    # 0.75 * 0.75 = 0.5625 is above 0.5.
    box = np.array([[-0.5, -0.5, 1.4, 1.4]], np.float32)
    result = paste_masks(mask, box, (8, 8))[0]
    assert np.argwhere(result).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_detectron2_by_hand():
    # M = 1, box (1, 1, 3, 3): the centre x + 0.5 lies at (x + 0.5 - 1) / 2 - 0.5 of [p]:
    # -0.75, -0.25, 0.25, 0.75 for x = 0..3, weights 0.25, 0.75, 0.75, 0.25.
    mask, box = np.ones((1, 1, 1), np.float32), np.array([[1, 1, 3, 3]], np.float32)
    result = paste_masks(mask, box, (5, 5), rule="detectron2")[0]
    assert np.argwhere(result).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    # 0.75 * 0.75 = 0.5625 is at its threshold, and set; 0.25 * 0.75 = 0.1875 likewise.
    assert paste_masks(mask, box, (5, 5), 0.5625, rule="detectron2").sum() == 4
    assert paste_masks(mask, box, (5, 5), 0.1875, rule="detectron2").sum() == 12


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from([1, 2, 7, 14]),
    st.lists(st.floats(-30, 60, width=32), min_size=2, max_size=2),
    st.lists(st.floats(0.125, 70, width=32), min_size=2, max_size=2),
    st.floats(0.0625, 0.9375),
    st.sampled_from(RULES),
)
def test_oracle(seed, side, corner, extent, threshold, rule):
    mask = np.random.default_rng(seed).random((side, side)).astype(np.float32)
    box = np.array([*corner, *np.add(corner, extent)], np.float32)
    result = paste_masks(mask[None], box[None], (23, 41), threshold, rule=rule)[0]
    slow = slow_torchvision if rule == "torchvision" else slow_detectron2
    assert_pasted(result, slow(mask, box, (23, 41)), threshold)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("box", [[-9.3, 4.1, 150.2, 12.9], [3.5, -80.0, 9.25, 160.0]])
def test_oracle_on_boxes_of_the_large_kernel(rule, box):
    mask = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    slow = slow_torchvision if rule == "torchvision" else slow_detectron2
    result = paste_masks(mask[None], np.array([box], np.float32), (30, 40), rule=rule)[0]
    assert_pasted(result, slow(mask, box, (30, 40)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "box",
    [
        [-50, 2, -20, 10],  # left of the image, right of it, above, below
        [90, 2, 120, 10],
        [2, -50, 10, -20],
        [2, 90, 10, 120],
        [30, 4, 5, 20],  # ends before it starts
        [5, 30, 20, 4],
        [1e30, 2, 2e30, 10],
        [math.nan, 2, 10, 10],
        [2, 2, math.inf, 10],
        [-math.inf, 2, 10, math.nan],
    ],
)
def test_nothing_to_set(rule, box):
    masks, boxes = np.ones((2, 28, 28), np.float32), np.array([box, [5, 5, 20, 20]], np.float32)
    result = paste_masks(masks, boxes, (40, 60), rule=rule)
    assert not result[0].any()
    assert result[1, 6:19, 6:19].all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("edge", [1e4, 1e9, 1e20, 1e38])
def test_huge_box_covers_the_image(rule, edge):
    masks, boxes = np.ones((1, 28, 28), np.float32), np.array([[-edge, -edge, edge, edge]])
    assert paste_masks(masks, boxes, (20, 30), rule=rule).all()


def test_boxes_without_area():
    # torchvision widens them to a whole pixel: (3.1, 3.4) grows to (3.06, 3.44), one column, which
    # looks up the middle of the mask. For detectron2 no pixel centre lies inside.
    masks = np.ones((1, 7, 7), np.float32)
    boxes = np.array([[3.1, 5, 3.4, 15], [3.2, 5, 3.2, 15]], np.float32)
    for box in boxes[:, None]:
        result = paste_masks(masks, box, (20, 20))[0]
        assert result.any(axis=0).nonzero()[0].tolist() == [3]
        assert not paste_masks(masks, box, (20, 20), rule="detectron2").any()


@pytest.mark.parametrize("rule", RULES)
def test_empty(rule):
    none = paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (4, 5), rule=rule)
    assert none.shape == (0, 4, 5) and none.dtype == bool
    array = paste_masks(mx.zeros((0, 28, 28)), mx.zeros((0, 4)), (4, 5), rule=rule)
    assert isinstance(array, mx.array) and array.shape == (0, 4, 5) and array.dtype == mx.bool_
    for size in ((0, 5), (4, 0)):
        masks, boxes = np.ones((1, 28, 28)), np.array([[0, 0, 5, 5]])
        assert paste_masks(masks, boxes, size, rule=rule).shape == (1, *size)


@pytest.mark.parametrize("rule", RULES)
def test_kinds_of_array(rule):
    rng = np.random.default_rng(1)
    masks = rng.random((3, 14, 14)).astype(np.float32)
    boxes = np.array([[1, 2, 30, 20], [5, 5, 9, 30], [0, 0, 40, 30]], np.float32)
    expected = paste_masks(masks, boxes, (30, 40), rule=rule)
    assert isinstance(expected, np.ndarray)
    result = paste_masks(mx.array(masks), mx.array(boxes), (30, 40), rule=rule)
    assert isinstance(result, mx.array) and result.dtype == mx.bool_
    np.testing.assert_array_equal(np.array(result), expected)
    result = paste_masks(mx.array(masks), boxes.astype(np.float64), (30, 40), rule=rule)
    np.testing.assert_array_equal(np.array(result), expected)
    half = mx.array(masks).astype(mx.bfloat16)
    rounded = np.array(half.astype(mx.float32))
    np.testing.assert_array_equal(
        np.array(paste_masks(half, boxes, (30, 40), rule=rule)),
        paste_masks(rounded, boxes, (30, 40), rule=rule),
    )


@pytest.mark.parametrize("rule", RULES)
def test_masks_are_independent_and_move_with_the_box(rule):
    rng = np.random.default_rng(2)
    masks = rng.random((4, 28, 28)).astype(np.float32)
    boxes = np.array([[20, 10, 40, 30], [8, 8, 90, 70], [30, 5, 31, 60], [10, 10, 11, 12]])
    together = paste_masks(masks, boxes, (80, 100), rule=rule)
    for mask, box, expected in zip(masks, boxes, together, strict=True):
        alone = paste_masks(mask[None], box[None], (80, 100), rule=rule)[0]
        np.testing.assert_array_equal(alone, expected)
    moved = paste_masks(masks, boxes + 16, (96, 116), rule=rule)
    assert (moved[:, 16:, 16:] != together).mean() < 1e-3  # as far as float32 boxes allow


@pytest.mark.parametrize("rule", RULES)
def test_no_float_image_is_made(rule):
    masks, boxes = np.ones((2, 28, 28), np.float32), np.array([[0, 0, 2000, 1000]] * 2)
    tracemalloc.start()
    paste_masks(masks, boxes, (1000, 2000), rule=rule)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2e6 + 3e6  # the answer; one mask in float32 would be 8 MB more


def test_bad_arguments():
    masks, boxes = np.zeros((2, 28, 28)), np.zeros((2, 4))
    for shape in ((2, 28), (2, 28, 14), (2, 1, 28, 28), (2, 0, 0)):
        with pytest.raises(ValueError, match=r"masks: expected shape \(D, M, M\)"):
            paste_masks(np.zeros(shape), boxes, (4, 4))
    for shape in ((3, 4), (2, 5), (4,)):
        with pytest.raises(ValueError, match=r"boxes: expected shape \(2, 4\)"):
            paste_masks(masks, np.zeros(shape), (4, 4))
    with pytest.raises(ValueError, match="image_size"):
        paste_masks(masks, boxes, (-1, 4))
    for threshold in (-0.1, 2, math.nan):
        with pytest.raises(ValueError, match="threshold"):
            paste_masks(masks, boxes, (4, 4), threshold)
    with pytest.raises(ValueError, match="rule: .* got 'mmdet'"):
        paste_masks(masks, boxes, (4, 4), rule="mmdet")
