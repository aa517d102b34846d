"""detectron2's score of a keypoint, against its definition."""

from __future__ import annotations

import numpy as np

from mlx_rcnn.ops import heatmaps_to_keypoints, keypoint_probabilities


def test_by_hand() -> None:
    """A map as large as its box: the resize changes nothing, and the score is a softmax."""
    maps = np.log(np.array([[1, 2], [3, 10]], np.float32)).reshape(1, 2, 2, 1)
    places, logits = heatmaps_to_keypoints(maps, np.array([[10.0, 20, 12, 22]], np.float32))
    np.testing.assert_allclose(places[0, 0], [11.5, 21.5, 1])
    np.testing.assert_allclose(logits, np.log([[10]]), rtol=1e-6)
    np.testing.assert_allclose(keypoint_probabilities(maps, logits), [[10 / 16]], rtol=1e-6)


def test_against_the_definition() -> None:
    """exp(resized maximum) over the sum of exp of the heatmap as it was."""
    random = np.random.default_rng(0)
    maps = random.standard_normal((3, 8, 8, 4)).astype(np.float32) * 3
    boxes = np.array([[0, 0, 31.5, 20], [5, 5, 6, 60], [-3, 2, 100, 9.2]], np.float32)
    _, logits = heatmaps_to_keypoints(maps, boxes)
    total = np.exp(maps.astype(np.float64)).sum(axis=(1, 2))
    got = keypoint_probabilities(maps, logits)
    assert got.dtype == np.float32 and got.shape == (3, 4)
    np.testing.assert_allclose(got, np.exp(logits.astype(np.float64)) / total, rtol=1e-5)


def test_large_logits_and_no_detections() -> None:
    maps = np.full((1, 2, 2, 1), 500, np.float32)
    got = keypoint_probabilities(maps, np.full((1, 1), 500, np.float32))
    np.testing.assert_allclose(got, [[0.25]])
    assert keypoint_probabilities(np.zeros((0, 1, 1, 5)), np.zeros((0, 5))).shape == (0, 5)
