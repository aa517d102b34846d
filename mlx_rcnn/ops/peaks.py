"""Keypoints out of heatmaps on the device, in fixed shapes: what an exported function does.

:mod:`~mlx_rcnn.ops.keypoints` does the same on the host, where each RoI has a size of its own.
"""

from __future__ import annotations

import mlx.core as mx

CUBIC = -0.75  # Keys' parameter, torch's choice


def heatmap_peaks(
    heatmaps: mx.array, boxes: mx.array, size: tuple[int, int]
) -> tuple[mx.array, mx.array]:
    """Peaks (R, K, 3) of heatmaps (R, h, w, K) resized to their boxes, and scores (R, K)."""
    # As ``heatmaps_to_keypoints``. Each is resized onto a grid of the whole image, of which the
    # box's own pixels count: at 800 x 1088, 1.6 GFLOP a RoI of 17 keypoints.
    count, height, width, points = heatmaps.shape
    # of boxes (R, 4) xyxy, pixels, inside the image; those below 1 count as 1
    sides = mx.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    pixels = mx.ceil(sides)  # (R, 2): across, down
    across = _cubic(width, pixels[:, 0], size[1])
    down = _cubic(height, pixels[:, 1], size[0])
    places: list[mx.array] = []
    scores: list[mx.array] = []
    for i in range(count):
        # One after the other: a resized heatmap of 17 points at 800 x 1088 takes 59 MB.
        own = mx.depends(heatmaps[i], scores[-1]) if scores else heatmaps[i]
        stripes = own.transpose(0, 2, 1) @ across[i].T  # (h, K, W)
        whole = (down[i] @ stripes.reshape(height, -1)).reshape(size[0], points, size[1])
        ours = mx.arange(size[1]) < pixels[i, 0]
        ours = ours & (mx.arange(size[0]) < pixels[i, 1])[:, None]
        whole = mx.where(ours[:, None], whole, -mx.inf)
        row = mx.argmax(mx.max(whole, axis=2), axis=0)  # (K,)
        line = mx.take_along_axis(whole, row[None, :, None], axis=0)[0]  # (K, W)
        places.append(mx.stack([mx.argmax(line, axis=1), row], axis=1))
        scores.append(mx.max(line, axis=1))
    place = mx.stack(places).astype(mx.float32) + 0.5  # (R, K, 2)
    place = place * (sides / pixels)[:, None] + boxes[:, None, :2]
    seen = mx.ones((count, points, 1))
    return mx.concatenate([place, seen], axis=-1), mx.stack(scores)


def _cubic(length: int, pixels: mx.array, most: int) -> mx.array:
    """Weights (R, most, length) that resize an axis to ``pixels`` (R,), the rows beyond unused."""
    scale = (length / pixels)[:, None]
    source = scale * (mx.arange(most).astype(mx.float32) + 0.5) - 0.5
    low = mx.floor(source)
    t = source - low
    weights = (_outer(t + 1), _inner(t), _inner(1 - t), _outer(2 - t))
    total: mx.array = mx.array(0.0)
    for tap, weight in enumerate(weights):
        place = mx.clip(low - 1 + tap, 0, length - 1)
        total = total + mx.where(place[..., None] == mx.arange(length), weight[..., None], 0.0)
    return total


def _inner(x: mx.array) -> mx.array:
    """The cubic kernel up to a distance of 1."""
    return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1


def _outer(x: mx.array) -> mx.array:
    """The cubic kernel from 1 to 2."""
    return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
