"""What a mask head should say: the mask inside a box, as RoIAlign with its adaptive grid."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import crop_masks, roi_align, roi_gather
from reference import slow_roi_taps


def slow_crop(masks: np.ndarray, index: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((len(boxes), size, size))
    rois = np.concatenate([np.reshape(index, (-1, 1)), boxes], axis=1)
    for place, source, weight in slow_roi_taps(rois, (size, size), masks.shape[1:]):
        out[place] += weight * masks[source]
    return out


def run(masks, index, boxes, size) -> np.ndarray:
    boxes = mx.array(np.asarray(boxes, np.float32))
    found = crop_masks(mx.array(masks), mx.array(np.asarray(index, np.int32)), boxes, size)
    assert found.dtype == mx.float32 and found.shape == (len(boxes), size, size)
    return np.array(found)


def random_masks(count: int = 3, height: int = 21, width: int = 34) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 2, (count, height, width)).astype(np.uint8)


def test_by_hand() -> None:
    # Columns 0..3 are set. Pixel centres are whole numbers here, so the edge falls from 1 at 3 to 0
    # at 4. Box (1, 0, 5, 4) in two bins of 2: samples at 1.5 and 2.5 are 1; at 3.5 half, at 4.5 0.
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[:, :, :4] = 1
    found = run(mask, [0], [[1, 0, 5, 4]], 2)[0]
    np.testing.assert_allclose(found, [[1, 0.25], [1, 0.25]])
    # In four bins of one sample each
    found = run(mask, [0], [[1, 0, 5, 4]], 4)[0]
    np.testing.assert_allclose(found, [[1, 1, 0.5, 0]] * 4)
    # A box without a size is a pixel wide: samples 2.25 and 2.75
    np.testing.assert_allclose(run(mask, [0], [[2, 2, 2, 2]], 2)[0], np.ones((2, 2)))


@pytest.mark.parametrize("size", [5, 14, 28])
def test_oracle(size: int) -> None:
    boxes = np.array(
        [
            [0, 0, 34, 21],
            [3.3, 2.7, 19.9, 20.2],
            [10, 5, 11, 6],
            [4.1, 4.2, 4.3, 4.4],  # inside
            [-3, -2, 36, 23],
            [30, 18, 60, 25],
            [33.5, 20.5, 34, 21],  # over the border
            [-30, -20, -5, -3],
            [50, 2, 60, 9],  # outside
        ]
    )
    index = np.arange(len(boxes)) % 3
    expected = slow_crop(random_masks(), index, boxes, size)
    np.testing.assert_allclose(run(random_masks(), index, boxes, size), expected, atol=2e-5)


sixteenths = st.integers(-100, 500).map(lambda v: v / 16 + 0.003)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.lists(
        st.tuples(sixteenths, sixteenths, st.integers(0, 160), st.integers(0, 160)), max_size=4
    ),
    st.integers(1, 9),
)
def test_oracle_of_anything(shape, places, size) -> None:
    """Boxes no longer than the mask, wherever they are; never of a whole number of pixels."""
    masks = random_masks(2, *shape)
    boxes = (
        np.array(
            [
                [
                    x,
                    y,
                    x + min(w / 8 + 0.017, shape[1] - 0.01),
                    y + min(h / 8 + 0.017, shape[0] - 0.01),
                ]
                for x, y, w, h in places
            ]
        )
        .reshape(-1, 4)
        .astype(np.float32)
    )
    index = np.arange(len(boxes)) % 2
    expected = slow_crop(masks, index, boxes, size)
    np.testing.assert_allclose(run(masks, index, boxes, size), expected, atol=1e-4)


def test_box_far_larger_than_the_mask() -> None:
    """Fewer samples than RoIAlign's, but spread over the bin: shares stay about right."""
    masks = np.ones((1, 10, 10), np.uint8)
    boxes = np.array([[-40, -40, 50, 50]])
    found, expected = run(masks, [0], boxes, 3)[0], slow_crop(masks, [0], boxes, 3)[0]
    assert expected[1, 1] > 0.1  # (about 11 of 30 samples)^2
    assert abs(found[1, 1] - expected[1, 1]) < 0.1 and found.sum() == found[1, 1]


def test_as_roi_align() -> None:
    """The other implementation, on the masks as maps of one channel."""
    masks, rng = random_masks(4, 60, 90), np.random.default_rng(1)
    first = rng.uniform(-2, 50, (40, 2))
    boxes = np.concatenate([first, first + rng.uniform(0, 40, (40, 2))], axis=1)
    index = rng.integers(0, 4, 40)
    rois = mx.array(np.concatenate([index[:, None], boxes], axis=1).astype(np.float32))
    maps = mx.array(masks[..., None].astype(np.float32))
    expected = np.array(roi_align(maps, rois, 28))[..., 0]
    np.testing.assert_allclose(run(masks, index, boxes, 28), expected, atol=2e-5)


def test_nothing_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(random_masks(), [], np.zeros((0, 4)), 7).shape == (0, 7, 7)
    boxes, index = [[1, 1, 9, 9], [2, 3, 30, 20], [0, 0, 5, 20]], [2, 0, 1]
    whole = run(random_masks(), index, boxes, 7)
    monkeypatch.setattr(roi_gather, "CPU_CHUNK", 1)
    np.testing.assert_allclose(run(random_masks(), index, boxes, 7), whole, atol=1e-6)


def test_box_that_is_not_a_number() -> None:
    """A network that has diverged gives any box: the others' targets are what they were."""
    boxes = [[1, 1, 9, 9], [np.nan, np.inf, 30, 20]]
    found = run(random_masks(), [0, 1], boxes, 7)
    np.testing.assert_array_equal(found[0], run(random_masks(), [0], boxes[:1], 7)[0])
