"""Pyramids and boxes of every kind for RoIAlign's kernels, and a fast oracle; NumPy."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from mlx_rcnn.kernels import Plan
from mlx_rcnn.ops.roi_gather import assign_levels, level_borders
from reference import noise

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
SHAPES = ((2, 17, 23, 5), (2, 9, 12, 5), (2, 5, 6, 5), (2, 5, 7, 5))
NAN, INF = float("nan"), float("inf")
NOT_FINITE = [
    [0, NAN, 0, 30, 30],
    [1, 0, 0, INF, 30],
    [0, -INF, 0, 30, INF],
    [NAN, 1, 1, 20, 20],
    [0, NAN, NAN, NAN, NAN],
]


def plan(bins=(3, 2), scales=SCALES, ratio=2, aligned=False) -> Plan:
    return Plan(bins, tuple(scales), tuple(level_borders(scales)), ratio, aligned)


def pyramid(shapes=SHAPES) -> list[np.ndarray]:
    return [noise(f"kernel map {k}", *shape) for k, shape in enumerate(shapes)]


def boxes(count: int = 40) -> np.ndarray:
    """(R, 5): of all levels, over borders, outside, inverted, empty; grids of every size."""
    rng = np.random.default_rng(7)
    sides = 2.0 ** (np.linspace(1, 9.6, count)[:, None] + rng.uniform(-0.5, 0.5, (count, 2)))
    first = rng.uniform(-10, 90, (count, 2)) - sides * rng.uniform(0, 1, (count, 2))
    usual = np.concatenate([rng.integers(0, 2, (count, 1)), first, first + sides], axis=1)
    odd = [
        [0, 50.3, 60.2, 20.9, 10.7],
        [1, 50.3, 10.1, 20.9, 40.3],
        [0, 7.3, 7.1, 7.3, 7.1],
        [1, 8.2, 8.9, 8.7, 9.3],
        [0, -90.3, -80.1, -30.7, -20.3],
        [1, 300.3, 10.1, 400.2, 70.7],
        [1.7, 3.1, 4.3, 30.2, 40.7],
        [-3, 3.1, 4.3, 30.2, 40.7],
        [2, 3.1, 4.3, 30.2, 40.7],
        [1e6, 3.1, 4.3, 30.2, 40.7],
    ]
    return np.concatenate([usual, odd]).astype(np.float32)


def axis_matrix(first, last, scale, bins, length, ratio, aligned) -> np.ndarray:
    """(bins, length) float64: what each pixel of a line weighs in each bin, by the definition."""
    out = np.zeros((bins, length))
    shift = 0.5 if aligned else 0.0
    start, end = first * scale - shift, last * scale - shift
    extent = end - start if aligned else max(end - start, 1.0)
    if not math.isfinite(start) or not math.isfinite(extent):
        return out
    count = ratio if ratio > 0 else max(math.ceil(extent / bins), 0)
    for bin_ in range(bins):
        place = start + (bin_ + (np.arange(count) + 0.5) / max(count, 1)) * extent / bins
        place = np.clip(place[(place >= -1) & (place <= length)], 0, length - 1)
        low = np.minimum(np.floor(place), max(length - 2, 0)).astype(int)
        high = np.minimum(low + 1, length - 1)
        np.add.at(out, (bin_, low), (1 - (place - low)) / count)
        np.add.at(out, (bin_, high), (place - low) / count)
    return out


def matrices(rois: np.ndarray, shapes, the: Plan):
    """Of each box: its level, its image, and the matrices down and across."""
    levels = np.array(assign_levels(mx.array(rois[:, 1:]), the.scales))
    for level, (image, x1, y1, x2, y2) in zip(levels, rois.astype(np.float64), strict=True):
        count, height, width, _ = shapes[level]
        scale, rest = the.scales[level], (the.ratio, the.aligned)
        down = axis_matrix(y1, y2, scale, the.bins[0], height, *rest)
        across = axis_matrix(x1, x2, scale, the.bins[1], width, *rest)
        if not (down.any() and across.any()):
            down, across = down * 0, across * 0
        yield level, int(np.clip(np.nan_to_num(image), 0, count - 1)), down, across


def oracle(maps: list[np.ndarray], rois: np.ndarray, the: Plan) -> np.ndarray:
    """(R, ph, pw, C) float64."""
    shapes = [m.shape for m in maps]
    return np.stack(
        [
            np.einsum("iy,jx,yxc->ijc", down, across, maps[level][image].astype(np.float64))
            for level, image, down, across in matrices(rois, shapes, the)
        ]
    )


def oracle_gradient(cotangent: np.ndarray, shapes, rois: np.ndarray, the: Plan):
    """L gradients (N, h, w, C) float64."""
    out = [np.zeros(shape) for shape in shapes]
    for row, (level, image, down, across) in enumerate(matrices(rois, shapes, the)):
        out[level][image] += np.einsum("iy,jx,ijc->yxc", down, across, cotangent[row])
    return out
