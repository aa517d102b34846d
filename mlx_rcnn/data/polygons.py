"""Polygons to masks, pixel for pixel as pycocotools does it.

pycocotools draws the outline at five times the resolution with integer steps, keeps where it
crosses the centre of a pixel column, and fills between crossings down each column. Published mask
AP depends on these choices, so they are followed to the rounding (``rleFrPoly`` in its maskApi.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ops.rle import decode_rle

_SCALE = 5.0


def polygon_mask(polygon: Sequence[float] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Rasterise one polygon, equal to ``pycocotools.mask.frPyObjects``.

    Args:
        polygon (2 * K,): x1, y1, x2, y2, ... in pixels of the image, K of at least 3.
        height, width: of the image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: fewer than three points, an odd count, or a coordinate that is not finite.
    """
    flat = np.asarray(polygon, np.float64).reshape(-1)
    if flat.size < 6 or flat.size % 2:
        raise ValueError(f"polygon: expected at least three pairs x, y, got {flat.size} numbers")
    if not np.isfinite(flat).all():
        raise ValueError("polygon: a coordinate is not finite")
    u, v = _outline(np.trunc(_SCALE * flat.reshape(-1, 2) + 0.5).astype(np.int64))
    # Where the outline steps from one fine column to the next, at the centre of a pixel column.
    moved = np.flatnonzero(u[1:] != u[:-1]) + 1
    backward = u[moved] < u[moved - 1]
    column = (np.where(backward, u[moved], u[moved] - 1) + 0.5) / _SCALE - 0.5
    row = (np.where(v[moved] < v[moved - 1], v[moved], v[moved - 1]) + 0.5) / _SCALE - 0.5
    hit = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    row = np.ceil(np.clip(row[hit], 0, height))
    # A mask down its columns: each crossing toggles all pixels from there on.
    place = (column[hit] * height + row).astype(np.int64)
    toggles = np.bincount(place, minlength=height * width + 1)[: height * width]
    filled = np.cumsum(toggles) % 2 == 1
    return np.ascontiguousarray(filled.reshape(width, height).T)


def segmentation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Rasterise a COCO ``segmentation``, equal to ``COCO.annToMask`` of pycocotools.

    Args:
        segmentation: a list of polygons, whose union is taken (those of fewer than three points are
            passed over), or RLE, ``{"size": [H, W], "counts": str or list}``.
        height, width: of the image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: no usable polygon, or RLE that is damaged or of another size.
        TypeError: neither polygons nor RLE.
    """
    if isinstance(segmentation, Mapping):
        mask = decode_rle(segmentation)
        if mask.shape != (height, width):
            raise ValueError(f"RLE of size {list(mask.shape)}, expected {[height, width]}")
        return mask.astype(bool)
    usable = usable_polygons(segmentation)
    if not usable:
        raise ValueError("no polygon of at least three points")
    mask = polygon_mask(usable[0], height, width)
    for polygon in usable[1:]:
        mask |= polygon_mask(polygon, height, width)
    return mask


def usable_polygons(segmentation: Any) -> list[np.ndarray]:
    """The polygons of a COCO ``segmentation`` that enclose something.

    Args:
        segmentation: a list of polygons, each a list of numbers.

    Returns:
        float64 arrays (2 * K,), K of at least 3.

    Raises:
        TypeError: not a list of lists of numbers.
    """
    if not isinstance(segmentation, list | tuple):
        kind = type(segmentation).__name__
        raise TypeError(f"segmentation: expected polygons or RLE, got {kind}")
    try:
        polygons = [np.asarray(polygon, np.float64).reshape(-1) for polygon in segmentation]
    except (TypeError, ValueError) as error:
        raise TypeError("segmentation: expected lists of numbers") from error
    return [p for p in polygons if p.size >= 6 and p.size % 2 == 0 and np.isfinite(p).all()]


def _outline(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer points along every edge of the closed polygon ``points`` (K, 2), in order."""
    start, end = points, np.roll(points, -1, axis=0)
    dx, dy = np.abs(end - start).T
    wide = dx >= dy
    flip = np.where(wide, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low = np.where(flip[:, None], end, start)
    high = np.where(flip[:, None], start, end)
    steps = np.maximum(dx, dy)
    rise = np.where(wide, high[:, 1] - low[:, 1], high[:, 0] - low[:, 0])
    slope = rise / np.maximum(steps, 1)  # a point that is repeated takes no step
    edge = np.repeat(np.arange(len(points)), steps + 1)
    first = np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    t = np.arange(edge.size) - first
    t = np.where(flip[edge], steps[edge] - t, t)
    along = t + np.where(wide, low[:, 0], low[:, 1])[edge]
    across = np.where(wide, low[:, 1], low[:, 0])[edge] + slope[edge] * t + 0.5
    across = np.trunc(across).astype(np.int64)
    on_x = wide[edge]
    return np.where(on_x, along, across), np.where(on_x, across, along)
