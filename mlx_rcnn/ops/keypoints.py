"""Keypoints out of heatmaps, as torchvision's ``heatmaps_to_keypoints`` finds them.

Runs on the host, one RoI at a time: each has a size of its own, and float32 products of a GPU may
round more than the difference between two pixels of a smooth map.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# Resized values looked at at once; they stay in the second-level cache. A RoI of 2000 x 2000 pixels
# with 17 maps has 272 MB of them.
_BLOCK = 1 << 17


def heatmaps_to_keypoints(heatmaps: Array, boxes: Array) -> tuple[Array, Array]:
    """Where each heatmap is greatest, once it is resized to the pixels of its box.

    The resize is torch's bicubic (Keys, 1981, with a = -0.75; no antialiasing, half-pixel centres)
    to the box's size rounded up. Of equal values the first in reading order counts.

    Args:
        heatmaps (R, h, w, K): float32 logits.
        boxes (R, 4): xyxy, pixels. Sides below 1 count as 1.

    Returns:
        keypoints (R, K, 3) float32: x, y in the frame of ``boxes``, at the centre of a pixel, and a
        visibility that is always 1.
        scores (R, K) float32: the resized logit there.

    Raises:
        ValueError: shapes that do not belong together.
    """
    heatmaps, boxes = np.asarray(heatmaps, np.float32), np.asarray(boxes, np.float32)
    if heatmaps.ndim != 4 or boxes.shape != (len(heatmaps), 4):
        raise ValueError(
            f"heatmaps {heatmaps.shape} and boxes {boxes.shape}: expected (R, h, w, K) and (R, 4)"
        )
    count, _, _, keypoints = heatmaps.shape
    found = np.ones((count, keypoints, 3), np.float32)
    scores = np.empty((count, keypoints), np.float32)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], np.float32(1))  # (R, 2): width, height
    pixels = np.ceil(sides).astype(np.int64)
    for i, (width, height) in enumerate(pixels.tolist()):
        scores[i], y, x = _greatest(heatmaps[i], height, width)
        scale = sides[i] / pixels[i].astype(np.float32)
        place = np.stack([x, y], axis=-1).astype(np.float32) + np.float32(0.5)
        found[i, :, :2] = place * scale + boxes[i, :2]
    return found, scores


def keypoint_probabilities(heatmaps: Array, logits: Array) -> Array:
    """detectron2's score of a keypoint: the softmax of the resized heatmap at its maximum.

    It is normalised over the cells of the heatmap as it was, so that objects of unequal sizes
    compare; above 1 is possible, as a cubic resize overshoots.

    Args:
        heatmaps (R, h, w, K): float32 logits.
        logits (R, K): of :func:`heatmaps_to_keypoints`.

    Returns:
        (R, K) float32.
    """
    share = np.exp(np.asarray(heatmaps, np.float32) - logits[:, None, None])
    return np.asarray(1 / share.sum(axis=(1, 2)), np.float32)


def _greatest(maps: Array, height: int, width: int) -> tuple[Array, Array, Array]:
    """Values, rows and columns (K,) of the maxima of maps (h, w, K) resized to (height, width)."""
    length, _, count = maps.shape
    across = _dense(*_cubic(maps.shape[1], width), maps.shape[1])
    stripes = (maps.transpose(0, 2, 1).reshape(length * count, -1) @ across.T).reshape(length, -1)
    first, weights = _cubic(length, height)
    best = np.full(count, -np.inf, np.float32)
    rows, columns = np.zeros(count, np.int64), np.zeros(count, np.int64)
    every = np.arange(count)
    step = max(1, _BLOCK // (count * width))
    for start in range(0, height, step):
        at = slice(start, start + step)
        # Source rows are used in order: a few rows of the result need a few of them.
        low, high = max(first[at][0], 0), min(first[at][-1] + 4, length)
        blend = _dense(first[at], weights[at], length)[:, low:high]
        part = (blend @ stripes[low:high]).reshape(-1, count, width)  # (rows, K, width)
        row = part.max(axis=2).argmax(axis=0)
        column = part[row, every].argmax(axis=1)
        value = part[row, every, column]
        better = value > best  # an equal one further down is not
        best = np.where(better, value, best)
        rows = np.where(better, start + row, rows)
        columns = np.where(better, column, columns)
    return best, rows, columns


def _cubic(length: int, size: int) -> tuple[Array, Array]:
    """First source pixel (may be outside) and four weights of every pixel of a resized axis."""
    scale, a = np.float32(length) / np.float32(size), np.float32(-0.75)
    source = scale * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    low = np.floor(source)
    t = source - low
    weights = [_outer(t + 1, a), _inner(t, a), _inner(1 - t, a), _outer(2 - t, a)]
    return low.astype(np.int64) - 1, np.stack(weights, axis=1)


def _inner(x: Array, a: np.float32) -> Array:
    """The cubic kernel up to a distance of 1."""
    near: Array = ((a + 2) * x - (a + 3)) * x * x + 1
    return near


def _outer(x: Array, a: np.float32) -> Array:
    """The cubic kernel from 1 to 2."""
    far: Array = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return far


def _dense(first: Array, weights: Array, length: int) -> Array:
    """The weights as a matrix (size, length); pixels beyond a border are the border's."""
    matrix = np.zeros((len(first), length), np.float32)
    at = np.arange(len(first))
    for tap in range(4):
        np.add.at(matrix, (at, np.clip(first + tap, 0, length - 1)), weights[:, tap])
    return matrix
