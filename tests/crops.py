"""Crops by the definition, pixel by pixel, in float64."""

from __future__ import annotations

import math

import numpy as np


def warp(image: np.ndarray, box: np.ndarray, size: int, context: int) -> np.ndarray:
    """The crop (size, size, C) of one box, xyxy, out of one image (H, W, C) on a plane of zeros."""
    height, width, channels = image.shape
    x1, y1, x2, y2 = (float(v) for v in box)
    grown = size / (size - 2 * context)
    left, wide = (x1 + x2) / 2 - (x2 - x1) / 2 * grown, (x2 - x1) * grown
    top, tall = (y1 + y2) / 2 - (y2 - y1) / 2 * grown, (y2 - y1) * grown

    def pixel(row: int, column: int) -> np.ndarray:
        inside = 0 <= row < height and 0 <= column < width
        return image[row, column].astype(np.float64) if inside else np.zeros(channels)

    crop = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            # Where the middle of the crop's pixel lies, in units whose whole numbers are middles.
            y = top + (i + 0.5) * tall / size - 0.5
            x = left + (j + 0.5) * wide / size - 0.5
            row, column = math.floor(y), math.floor(x)
            below, right = y - row, x - column
            crop[i, j] = (1 - below) * (1 - right) * pixel(row, column)
            crop[i, j] += (1 - below) * right * pixel(row, column + 1)
            crop[i, j] += below * (1 - right) * pixel(row + 1, column)
            crop[i, j] += below * right * pixel(row + 1, column + 1)
    return crop
