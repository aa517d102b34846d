"""NumPy's answers for ``mlx_rcnn doctor``: slow, and written from the definitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (A, B) of boxes (A, 4) and (B, 4), xyxy."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(v[:, 2:] - v[:, :2], axis=1) for v in (a, b)]
    iou: np.ndarray = shared / (areas[0][:, None] + areas[1] - shared)
    return iou


Taps = dict[tuple[int, int], list[tuple[tuple[int, int], float]]]


def roi_taps(shape: tuple[int, ...], box: np.ndarray, ratio: int) -> Taps:
    """By bin, the pixels that a box at a quarter reads, and their weights (Mask R-CNN, 3)."""
    x1, y1, x2, y2 = box * 0.25 - 0.5
    found: Taps = {}
    grid = [ratio or max(int(np.ceil(extent / 4)), 1) for extent in (y2 - y1, x2 - x1)]
    for row in range(4):
        for column in range(4):
            taps = found.setdefault((row, column), [])
            for i in range(grid[0]):
                for j in range(grid[1]):
                    y = y1 + (row + (i + 0.5) / grid[0]) * (y2 - y1) / 4
                    x = x1 + (column + (j + 0.5) / grid[1]) * (x2 - x1) / 4
                    taps += [
                        (place, weight / (grid[0] * grid[1]))
                        for place, weight in _corners(shape, y, x)
                    ]
    return found


def _corners(shape: tuple[int, ...], y: float, x: float) -> list[tuple[tuple[int, int], float]]:
    height, width = shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return []
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    places = ((top, left), (top, right), (down, left), (down, right))
    weights = ((1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u)
    return list(zip(places, weights, strict=True))


def aligned(feature: np.ndarray, box: np.ndarray, ratio: int) -> np.ndarray:
    """RoIAlign (4, 4, C) of a box over a map (h, w, C) of stride 4; ``ratio`` 0 is adaptive."""
    out = np.zeros((4, 4, feature.shape[2]))
    for place, taps in roi_taps(feature.shape[:2], box, ratio).items():
        for (y, x), weight in taps:
            out[place] += weight * feature[y, x]
    return out


def pooled(feature: np.ndarray, box: np.ndarray) -> np.ndarray:
    """RoIPool (4, 4, C) of a box over a map (h, w, C) of stride 4."""
    x1, y1, x2, y2 = (int(np.floor(v * 0.25 + 0.5)) for v in box)
    height, width = max(y2 - y1 + 1, 1) / 4, max(x2 - x1 + 1, 1) / 4
    out = np.zeros((4, 4, feature.shape[2]))
    for i in range(4):
        for j in range(4):
            rows = slice(*(np.clip(f(v * height) + y1, 0, 16) for f, v in _edges(i)))
            columns = slice(*(np.clip(f(v * width) + x1, 0, 16) for f, v in _edges(j)))
            part = feature[rows, columns].reshape(-1, feature.shape[2])
            out[i, j] = part.max(axis=0) if len(part) else 0
    return out


def _edges(index: int) -> tuple[tuple[Callable[[float], int], int], ...]:
    return (lambda v: int(np.floor(v)), index), (lambda v: int(np.ceil(v)), index + 1)


def pasted(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Masks (D, 28, 28) pasted as detectron2 does, pixel by pixel: (D, height, width) bool."""
    out = np.zeros((len(masks), height, width), bool)
    # xyxy pixels of the image
    for mask, (x1, y1, x2, y2), target in zip(masks, boxes, out, strict=True):
        padded = np.pad(mask.astype(np.float64), 1)
        for row in range(height):
            v = (row + 0.5 - y1) / (y2 - y1) * 28 + 0.5
            for column in range(width):
                u = (column + 0.5 - x1) / (x2 - x1) * 28 + 0.5
                if 0 < v < 29 and 0 < u < 29:
                    top, left = int(v), int(u)
                    a, b = v - top, u - left
                    two = padded[top : top + 2, left : left + 2]
                    upper = (1 - b) * two[0, 0] + b * two[0, 1]
                    lower = (1 - b) * two[1, 0] + b * two[1, 1]
                    target[row, column] = (1 - a) * upper + a * lower >= 0.5
    return out
