"""RoIs at every kind of place, and slow oracles of what is read there; NumPy in, NumPy out."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from reference import noise

EDGES = [  # on maps of 9 x 13
    [0, 1, 2, 8, 7],
    [1, 2.3, 0.7, 11.9, 8.2],  # inside
    [0, -3.5, -2.25, 2.1, 3.4],
    [1, 9.2, 6.4, 14.7, 11.6],  # over corners
    [0, -15, -20, -6, -5],
    [1, 20, 2, 30, 6],
    [0, 5, -40, 9, -2],
    [1, 2, 11, 7, 30],  # outside
    [0, 9, 8, 3, 2],
    [1, 8, 2, 3, 7],  # inverted
    [0, 4.1, 3.3, 4.4, 3.5],
    [1, 4, 3, 4, 3],
    [1, 12, 8, 13, 9],  # tiny, none, one pixel
    [0, 0, 0, 13, 9],
    [1, -1, -1, 14, 10],
    [0, -25, -31, 38, 44],  # the whole map and beyond
]


def maps(n=2, height=9, width=13, channels=3, key="features"):
    return noise(key, n, height, width, channels)


def run(function, features, rois, *args):
    result = function(mx.array(features), mx.array(np.asarray(rois, np.float32)), *args)
    assert result.dtype == mx.float32
    return np.array(result)


def sample(image, y, x):
    """Bilinear, pixel centres at whole numbers; the border reaches a pixel out, then come zeros."""
    height, width = image.shape[:2]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(image.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, w = y - top, x - left
    upper = (1 - w) * image[top, left] + w * image[top, right]
    return (1 - v) * upper + v * ((1 - w) * image[bottom, left] + w * image[bottom, right])


def slow_roi_align(features, rois, bins, scale=1.0, ratio=-1, aligned=False):
    out = np.zeros((len(rois), *bins, features.shape[-1]))
    features = features.astype(np.float64)
    for r, (image, *corners) in enumerate(np.asarray(rois, np.float64)):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        low = -math.inf if aligned else 1
        height, width = max(y2 - y1, low) / bins[0], max(x2 - x1, low) / bins[1]
        rows, columns = (ratio if ratio > 0 else max(math.ceil(n), 0) for n in (height, width))
        for i, j in np.ndindex(*bins):
            for v, w in np.ndindex(rows, columns):
                y = y1 + (i + (v + 0.5) / rows) * height
                x = x1 + (j + (w + 0.5) / columns) * width
                out[r, i, j] += sample(features[int(image)], y, x) / (rows * columns)
    return out


def pooled_pixels(features, rois, bins, scale=1.0):
    """For each bin (r, i, j), in order, the pixels (image, y, x) of the map inside it."""
    height, width = features.shape[1:3]
    for r, (image, *corners) in enumerate(np.asarray(rois, np.float64)):
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(c) * scale + 0.5), c)) for c in corners)
        h = np.float32(max(y2 - y1 + 1, 1)) / np.float32(bins[0])  # float32 rounds 3 * (h / 3)
        w = np.float32(max(x2 - x1 + 1, 1)) / np.float32(bins[1])
        for i, j in np.ndindex(*bins):
            rows = range(y1 + math.floor(i * h), y1 + math.ceil((i + 1) * h))
            columns = range(x1 + math.floor(j * w), x1 + math.ceil((j + 1) * w))
            yield (
                (r, i, j),
                [
                    (int(image), y, x)
                    for y in rows
                    for x in columns
                    if 0 <= y < height and 0 <= x < width
                ],
            )


def slow_roi_pool(features, rois, bins, scale=1.0):
    out = np.zeros((len(rois), *bins, features.shape[-1]))
    for place, pixels in pooled_pixels(features, rois, bins, scale):
        if pixels:
            out[place] = np.max([features[pixel] for pixel in pixels], axis=0)
    return out


def slow_roi_pool_gradient(features, rois, bins, scale, cotangent):
    """All that comes back to a bin goes to the first of its greatest pixels, row after row."""
    total = np.zeros(features.shape)
    for place, pixels in pooled_pixels(features, rois, bins, scale):
        for c in range(features.shape[-1]) if pixels else ():
            best = max(pixels, key=lambda pixel: features[pixel][c])
            total[best][c] += cotangent[place][c]
    return total
