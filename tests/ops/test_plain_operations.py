"""What an exported function may hold: the same numbers without kernels, gradients or host reads."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings

from mlx_rcnn.kernels import plain, plain_operations
from mlx_rcnn.layers import Conv2d
from mlx_rcnn.ops import (
    heatmaps_to_keypoints,
    multiscale_roi_align,
    multiscale_roi_pool,
    nms,
    nms_mask,
    soft_nms,
)
from mlx_rcnn.ops.peaks import heatmap_peaks
from mlx_rcnn.ops.roi_bounded import largest_window
from reference import noise
from rois import slow_roi_align, slow_roi_pool
from suppression import random_boxes, rows, thresholds

IMAGE = (192, 608)
STRIDES = (4, 8, 16, 32)


def all_kinds_of_boxes(count: int = 60) -> np.ndarray:
    """Anywhere in the image, and along the borders of the levels with every ratio of sides."""
    draw, (height, width) = np.random.RandomState(3), IMAGE
    corners = draw.rand(2, count, 2) * [width, height]
    boxes = [np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)]
    for area in ((112 * 2**k) ** 2 * share for k in range(3) for share in (0.999, 1.0, 1.001)):
        for w in np.geomspace(max(area / height, 1), width, 7):
            h = min(area / w, height)
            x, y = draw.rand(2) * [width - w, height - h]
            boxes.append(np.array([[x, y, x + w, y + h]]))
    whole = [[0, 0, width, height], [0, 0, width, 2], [0, 0, 1, height], [9, 9, 9, 9]]
    far = [[width, height, width, height], [0, height - 3, width, height], [7, 0.2, 9, 190]]
    boxes = np.clip(np.concatenate([*boxes, whole, far]), 0, [width, height] * 2)
    return np.insert(boxes, 0, 0, axis=1).astype(np.float32)


def pyramid() -> list[mx.array]:
    height, width = IMAGE
    return [mx.array(noise(f"p{s}", 1, height // s, width // s, 2)) for s in STRIDES]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("ratio", "levels"), [(0, 4), (0, 1), (17, 4)])
def test_adaptive_roi_align_in_fixed_shapes(ratio: int, levels: int, aligned: bool) -> None:
    maps, scales = pyramid()[:levels], [1 / s for s in STRIDES[:levels]]
    boxes = mx.array(all_kinds_of_boxes())
    want = multiscale_roi_align(maps, boxes, (7, 5), scales, ratio, aligned)
    with plain_operations():
        got = multiscale_roi_align(maps, boxes, (7, 5), scales, ratio, aligned)
    np.testing.assert_allclose(np.array(got), np.array(want), atol=2e-6)


def test_adaptive_roi_align_against_the_definition() -> None:
    features, boxes = noise("one", 1, 24, 76, 2), all_kinds_of_boxes(20)[::3]
    with plain_operations():
        got = multiscale_roi_align([mx.array(features)], mx.array(boxes), (3, 4), [1 / 8], 0, True)
    want = slow_roi_align(features, boxes, (3, 4), 1 / 8, -1, True)
    np.testing.assert_allclose(np.array(got), want, atol=1e-5)


def test_roi_pool_in_fixed_shapes() -> None:
    features, boxes = noise("one", 1, 24, 76, 2), all_kinds_of_boxes()
    with plain_operations():
        got = multiscale_roi_pool([mx.array(features)], mx.array(boxes), (3, 4), [1 / 8])
    np.testing.assert_array_equal(np.array(got), slow_roi_pool(features, boxes, (3, 4), 1 / 8))


def test_the_largest_window() -> None:
    """As large as a RoI's can be, and no whole fine map."""
    assert largest_window([(38, 24)]) == 38 * 24
    sizes = [(304, 200), (152, 100), (76, 50), (38, 25)]
    assert 28 * 28 + 3 * 304 < largest_window(sizes) < 1.1 * (28 * 28 + 3 * 304)
    for (w, h), scale in zip(sizes[:3], (4, 8, 16), strict=True):
        for across in np.linspace(1, w, 500):
            down = min(784 / across, h)
            assert min(across + 3, w) * min(down + 3, h) <= largest_window(sizes), scale


@settings(max_examples=60, deadline=None)
@given(rows, thresholds)
def test_hard_picks_are_nms(rows, threshold: float) -> None:
    boxes = mx.array([box for box, _, _ in rows], dtype=mx.float32)
    scores = mx.array(np.nan_to_num([s for _, s, _ in rows], posinf=2, neginf=-2), dtype=mx.float32)
    scores = mx.where(scores > 0, scores, -1.0)
    picks, final = soft_nms(boxes[None], scores[None], len(rows), "hard", threshold)
    want = [i for i in nms(boxes, scores, threshold).tolist() if scores[i].item() > 0]
    assert picks[0, : len(want)].tolist() == want
    assert final[0].tolist() == [scores[i].item() for i in want] + [-1.0] * (len(rows) - len(want))


def test_hard_picks_of_many_and_every_round() -> None:
    boxes = mx.array(random_boxes(5, 700))
    scores = mx.array(np.sort(noise("scores", 700).astype(np.float32) ** 2)[::-1].copy())
    want = nms(boxes, scores, 0.3)
    picks, _ = soft_nms(boxes[None], scores[None], len(want), "hard", 0.3)
    np.testing.assert_array_equal(np.array(picks[0]), np.array(want))
    keep, exact = nms_mask(boxes[None], mx.ones((1, 700)) > 0, 0.3, rounds=1 << 30)
    assert exact.item() and np.flatnonzero(np.array(keep[0])).tolist() == want.tolist()


def test_peaks_are_the_hosts() -> None:
    heatmaps = noise("heat", 6, 14, 14, 3)
    heatmaps[3], heatmaps[4, :, :, 1] = 0.25, 1.0  # all alike: the first pixel counts
    boxes = np.array(
        [
            [3, 4, 40, 33],
            [0, 0, 64, 48],
            [5.5, 6.25, 5.75, 6.5],
            [1.1, 2.2, 31.7, 47.9],
            [7, 7, 27, 27],
            [0, 30, 64, 30.5],
        ],
        np.float32,
    )
    want = heatmaps_to_keypoints(heatmaps, boxes)
    got = heatmap_peaks(mx.array(heatmaps), mx.array(boxes), (48, 64))
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(np.array(ours), theirs, atol=1e-5)


def test_only_inside_the_block() -> None:
    conv, x = Conv2d(3, 4, 3, stride=2, padding=1), mx.array(noise("x", 1, 9, 9, 3))
    assert not plain()
    with plain_operations():
        assert plain()
        inside, names = conv(x), []
        mx.export_function(lambda d: names.append(d.get("name")), conv, x)
    assert "CustomTransforms" not in names and "Convolution" in names
    assert not plain() and mx.array_equal(conv(x), inside)
    with pytest.raises(RuntimeError), plain_operations():
        raise RuntimeError
    assert not plain()
    with pytest.raises(ValueError, match="CustomTransforms"):
        mx.export_function(lambda _: None, conv, x)
