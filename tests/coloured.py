"""A classifier that sees the mean colours of a crop, and pictures that it can tell apart."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_rcnn import RCNN

COLOURS = np.array([[255, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)


class MeanColours(nn.Module):
    """Its map (N, 2, 2, 3) holds means of a crop's quarters, its units are the map's values."""

    unit_channels = 12

    def pooled(self, x: mx.array) -> mx.array:
        n, side, _, _ = x.shape
        return x.reshape(n, 2, side // 2, 2, side // 2, 3).mean(axis=(2, 4))

    def units(self, pooled: mx.array, key: mx.array | None = None) -> mx.array:
        return pooled.flatten(1)


def model(classes: int = 4, **options: Any) -> RCNN:
    given = {"crop_size": 16, "crop_context": 2, "image_mean": (0.5, 0.5, 0.5)}
    return RCNN(MeanColours(), 3, classes, **{**given, **options})


def sample(seed: int, classes: int = 3) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One square a class on grey, with proposals: the squares, moved, and boxes anywhere."""
    rng = np.random.default_rng(seed)
    image = (120 + rng.normal(0, 6, (60, 20 + 40 * classes, 3))).clip(0, 255).astype(np.uint8)
    boxes = []
    for i in range(classes):
        x, y = 20 + 40 * i + rng.integers(-4, 5), 20 + rng.integers(-6, 7)
        side = rng.integers(14, 22)
        image[y : y + side, x : x + side] = COLOURS[i]
        boxes.append([x, y, x + side, y + side])
    own = np.array(boxes, np.float32)
    moved = np.concatenate([own + rng.uniform(-3, 3, own.shape) for _ in range(4)])
    corners = rng.uniform(0, 1, (30, 2)) * [image.shape[1] - 12, image.shape[0] - 12]
    anywhere = np.concatenate([corners, corners + rng.uniform(8, 12, (30, 2))], axis=1)
    proposals = np.concatenate([own, moved, anywhere]).astype(np.float32)
    return image, {"boxes": own, "labels": np.arange(1, classes + 1), "proposals": proposals}
