"""RoIPool on channels-last maps; shapes as in :mod:`~mlx_rcnn.ops.roi_gather`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..kernels import plain
from .roi_bounded import ROOM
from .roi_gather import check_rois, flatten_levels, gather_chunked, pixel_index
from .roi_windows import Span, greatest


def roi_pool(
    features: mx.array,
    boxes: mx.array,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> mx.array:
    """Maximum over the whole pixels of each bin (Fast R-CNN), as ``torchvision.ops.roi_pool``.

    Args:
        features (N, H, W, C): one map a batch image.
        boxes (R, 5): (batch index, x1, y1, x2, y2), pixels of the network input.
        output_size: bins, one number or (ph, pw).
        spatial_scale: map pixels per input pixel. Default: ``1.0``.

    Returns:
        (R, ph, pw, C): bins outside the map are 0. Costs one host synchronisation.

    Raises:
        ValueError: shapes or sizes that do not fit.
    """
    return multiscale_roi_pool([features], boxes, output_size, [spatial_scale])


def multiscale_roi_pool(
    features: Sequence[mx.array],
    boxes: mx.array,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
) -> mx.array:
    """RoIPool from the pyramid level that fits each RoI, chosen as RoIAlign's is.

    Args:
        features: maps (N, h, w, C), finest first.
        boxes (R, 5): as in :func:`roi_pool`.
        output_size: as in :func:`roi_pool`.
        spatial_scales: map pixels per input pixel, one a level, powers of two.

    Returns:
        (R, ph, pw, C): as :func:`roi_pool`.

    Raises:
        ValueError: shapes or sizes that do not fit.
    """
    bins, boxes = check_rois(features, boxes, output_size, spatial_scales)
    dtype = features[0].dtype
    if boxes.shape[0] == 0:
        return mx.zeros((0, *bins, features[0].shape[-1]), dtype=dtype)
    # In float32, so that the gradient of a pixel under many RoIs is summed so.
    wide = [feature.astype(mx.float32) for feature in features]
    pixels, base, limit, scale = flatten_levels(wide, boxes, spatial_scales)
    corners = boxes[:, 1:] * scale[:, None]
    corners = mx.sign(corners) * mx.floor(mx.abs(corners) + 0.5)  # C's round, half away from 0
    start, extent = corners[:, :2], mx.maximum(corners[:, 2:] - corners[:, :2] + 1, 1.0)
    size = extent / mx.array([bins[1], bins[0]], dtype=mx.float32)
    spans: list[Span] = []
    for axis, count in ((0, bins[1]), (1, bins[0])):
        steps = mx.arange(count)[None]
        low = mx.floor(steps * size[:, axis, None]) + start[:, axis, None]
        high = mx.ceil((steps + 1) * size[:, axis, None]) + start[:, axis, None]
        top = limit[:, axis, None].astype(mx.float32)
        first, end = (mx.clip(v, 0, top).astype(mx.int32) for v in (low, high))
        spans.append((first, end))
    if plain():  # no bin spans more than its share of the largest map, a pixel more on each side
        sides = (max(f.shape[2] for f in wide), max(f.shape[1] for f in wide))
        most = [
            min(math.ceil(ROOM * side / count) + 2, side)
            for side, count in zip(sides, bins[::-1], strict=True)
        ]
        return _maximum(pixels, base, limit, spans, bins, most).astype(dtype)
    longest = mx.stack([mx.max(high - low, axis=1) for low, high in spans], axis=1)
    return greatest(wide, boxes, spatial_scales, spans, np.array(longest)).astype(dtype)


def _maximum(
    pixels: mx.array,
    base: mx.array,
    limit: mx.array,
    spans: Sequence[Span],
    bins: tuple[int, int],
    most: Sequence[int],
) -> mx.array:
    """RoIPool of RoIs whose bins span at most ``most`` = (x, y) pixels -> (R, ph, pw, C)."""
    index, inside = [], []
    for axis, (low, high) in enumerate(spans):
        place = low[..., None] + mx.arange(most[axis])
        inside.append(place < high[..., None])
        index.append(mx.clip(place, 0, limit[:, axis, None, None] - 1))
    mask = inside[1][:, :, None, :, None] & inside[0][:, None, :, None, :]
    mask = mask.reshape(mask.shape[0], bins[0] * bins[1], -1, 1)  # (R, ph*pw, T, 1)

    def reduce(part: mx.array, piece: slice) -> mx.array:
        top = mx.max(mx.where(mask[piece], part, -mx.inf), axis=2)
        return mx.where(mx.any(mask[piece], axis=2), top, 0.0).astype(part.dtype)

    out = gather_chunked(pixel_index(base, limit, index[1], index[0]), pixels, reduce)
    return out.reshape(-1, *bins, pixels.shape[-1])
