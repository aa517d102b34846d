"""Polygons to masks, pixel for pixel as pycocotools does it.

pycocotools draws the outline at five times the resolution with integer steps, keeps where it
crosses the centre of a pixel column, and fills between crossings down each column. Published mask
AP depends on these choices, so they are followed to the rounding (``rleFrPoly`` in its maskApi.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import TypeAlias

import numpy as np

from ..ops.rle import decode_rle

Segmentation: TypeAlias = Mapping[str, object] | Sequence[Sequence[float] | np.ndarray]
"""COCO's, once it is checked: RLE, or polygons."""
_SCALE = 5.0
_FAR = 10  # image sides; an outline takes memory by its length


def polygon_mask(polygon: Sequence[float] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Rasterise one polygon (2 * K,) to (H, W) bool, equal to ``pycocotools.mask.frPyObjects``."""
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


def segmentation_mask(segmentation: object, height: int, width: int) -> np.ndarray:
    """Rasterise a COCO ``segmentation`` to (H, W) bool, equal to pycocotools' ``annToMask``."""
    # RLE, ``{"size": [H, W], "counts": str or list}``
    if isinstance(segmentation, Mapping):
        mask = decode_rle(segmentation)
        if mask.shape != (height, width):
            raise ValueError(f"RLE of size {list(mask.shape)}, expected {[height, width]}")
        return mask.astype(bool)
    usable = usable_polygons(segmentation)
    if not usable:
        raise ValueError("no polygon of at least three points")
    # the union of the polygons; those of fewer than three points are passed over
    mask = polygon_mask(usable[0], height, width)
    for polygon in usable[1:]:
        mask |= polygon_mask(polygon, height, width)
    return mask


def segmentation_problem(segmentation: object, height: int, width: int) -> str | None:
    """What is wrong with a COCO ``segmentation``, before it is drawn; ``None`` if nothing is."""
    if segmentation is None or (isinstance(segmentation, list) and not segmentation):
        return "no segmentation"
    if isinstance(segmentation, Mapping):
        return _rle_problem(segmentation, height, width)
    if not isinstance(segmentation, list | tuple):
        kind = type(segmentation).__name__
        return f"segmentation: expected polygons or RLE, got {kind} {str(segmentation)[:40]!r}"
    first = segmentation[0]
    if isinstance(first, Mapping):
        kind = "a list of RLE" if "counts" in first else "a list of dicts"
        return f"segmentation: expected polygons or RLE, got {kind}"
    if isinstance(first, int | float):
        return "segmentation: expected a list of polygons, got a flat list of numbers"
    # those of fewer than three points are passed over as long as another one is left
    return _polygons_problem(segmentation, height, width)


def _rle_problem(rle: Mapping[str, object], height: int, width: int) -> str | None:
    lacking = [key for key in ("size", "counts") if key not in rle]
    if lacking:
        return f"segmentation: RLE without {' and '.join(lacking)}"
    size = rle["size"]
    if size != [height, width]:  # before it is decoded: a size may be of any length
        return f"segmentation: RLE of size {str(size)[:40]}, expected {[height, width]}"
    try:
        mask = decode_rle(rle)
    except (TypeError, ValueError, OverflowError) as error:
        return f"segmentation: damaged RLE: {error}"
    return None if mask.any() else "segmentation: RLE of an empty mask"


def _polygons_problem(polygons: Sequence[Sized], height: int, width: int) -> str | None:
    far, usable = _FAR * max(height, width), []
    for polygon in polygons:
        flat = None if isinstance(polygon, str | Mapping) else _or_none(polygon)
        if flat is None or flat.ndim != 1:
            return "segmentation: expected each polygon as a flat list of numbers"
        if not np.isfinite(flat).all():
            return "segmentation: a coordinate is not a finite number"
        if flat.size % 2:
            return f"segmentation: expected pairs x, y, got an odd count of {flat.size} numbers"
        if flat.size and np.abs(flat).max() > far:
            return f"segmentation: coordinate {flat[np.abs(flat).argmax()]:g} is far outside"
        if flat.size >= 6:
            usable.append(flat)
    if not usable:
        sizes = [len(polygon) for polygon in polygons]
        got = f", got {max(sizes)} numbers" if max(sizes) else ""
        return f"no polygon of at least three points{got}"
    points = np.concatenate(usable).reshape(-1, 2)
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return f"segmentation: lies outside the image of {width}x{height}"
    return None


def _or_none(polygon: object) -> np.ndarray | None:
    """As float64, null as NaN; ``None`` for what holds anything else."""
    try:
        return np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def usable_polygons(segmentation: object) -> list[np.ndarray]:
    """A ``segmentation``'s polygons that enclose something, float64 (2 * K,), K of at least 3."""
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
