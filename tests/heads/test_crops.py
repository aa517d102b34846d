"""Warped crops against their definition."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from crops import warp
from mlx_rcnn.heads.crops import warp_crops

BOXES = {
    "inside": (5.0, 6.0, 25.5, 17.25),
    "all of it": (0.0, 0.0, 40.0, 30.0),
    "on the border": (30.0, 0.0, 40.0, 12.0),
    "one pixel": (7.0, 9.0, 8.0, 10.0),
    "a hair": (12.3, 0.0, 12.31, 30.0),
    "the corner": (39.0, 29.0, 40.0, 30.0),
    "whole pixels": (8.0, 8.0, 20.0, 20.0),
    "far outside": (1e9, 1e9, 2e9, 2e9),
}


def image(height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)


def crops(images: list[np.ndarray], rois: np.ndarray, size: int, context: int) -> np.ndarray:
    height, width = (max(v.shape[i] for v in images) for i in (0, 1))
    pixels = np.zeros((len(images), height, width, 3), np.float32)
    for place, one in zip(pixels, images, strict=True):
        place[: one.shape[0], : one.shape[1]] = one
    return np.array(warp_crops(mx.array(pixels), mx.array(rois, mx.float32), size, context))


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize(("size", "context"), [(24, 0), (24, 5), (13, 2), (1, 0)])
def test_one_crop_by_its_definition(name: str, size: int, context: int) -> None:
    picture, box = image(), np.array(BOXES[name], np.float32)
    [found] = crops([picture], np.array([[0, *box]]), size, context)
    np.testing.assert_allclose(found, warp(picture, box, size, context), atol=2e-5)


def test_random_boxes_of_unequal_images() -> None:
    """The padding of a batch changes nothing, to the bit."""
    rng = np.random.default_rng(1)
    pictures = [image(), image(19, 44, 1), image(33, 8, 2)]
    rois = []
    for i, picture in enumerate(pictures):
        height, width, _ = picture.shape
        corners = np.sort(rng.uniform(-5, 5, (6, 2, 2)) + rng.uniform(0, 1, (6, 2, 2)) * 30, axis=1)
        corners[:2, 1] = (width, height)  # on the right and lower border
        rois += [[i, *corner.reshape(4)] for corner in np.sort(corners, axis=1)]
    rows = np.array(rois, np.float32)
    together = crops(pictures, rows, 16, 3)
    for i, picture in enumerate(pictures):
        alone = crops([picture], rows[rows[:, 0] == i] * [0, 1, 1, 1, 1], 16, 3)
        np.testing.assert_array_equal(together[rows[:, 0] == i], alone)
    for row, found in zip(rows, together, strict=True):
        expected = warp(pictures[int(row[0])], row[1:], 16, 3)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_box_of_the_crops_size_is_copied() -> None:
    """With its context: 16 pixels of a crop of 224 are what the box is enlarged by."""
    picture = image(300, 310)
    [found] = crops([picture], np.array([[0, 40, 50, 40 + 192, 50 + 192]]), 224, 16)
    np.testing.assert_allclose(found, picture[34 : 34 + 224, 24 : 24 + 224], atol=1e-4)


def test_outside_is_the_mean() -> None:
    [found] = crops([image(20, 20) + 10], np.array([[0, 0, 0, 20, 20]]), 28, 4)
    assert not found[:3].any() and not found[-3:].any() and not found[:, :3].any()
    assert np.abs(found[5:-5, 5:-5]).min() > 1


def test_no_rois() -> None:
    assert crops([image()], np.zeros((0, 5)), 8, 1).shape == (0, 8, 8, 3)


def test_dtype_and_gradient() -> None:
    picture, rois = mx.array(image())[None], mx.array([[0.0, 3, 4, 21, 20]])
    assert warp_crops(picture.astype(mx.float16), rois, 8, 1).dtype == mx.float16
    gradient = mx.grad(lambda r: warp_crops(picture, r, 8, 1).sum())(rois)
    assert not np.array(gradient).any()
