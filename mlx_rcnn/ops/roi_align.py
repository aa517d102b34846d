"""RoIAlign on channels-last maps, in bounded memory.

A GPU has a kernel for it (:mod:`~mlx_rcnn.ops.roi_fused`); this is its twin, which a CPU runs. The
average of bilinear samples is linear in the map and separable in y and x, so a bin is one
(1, T) @ (T, C) product over gathered pixels. Shapes as in :mod:`~mlx_rcnn.ops.roi_gather`.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..kernels import Plan, adding_in_order, adds_by_atomics, backend, fits, plain
from . import roi_gather
from .gradient import add_at, own_gradient
from .roi_bounded import bounded_average
from .roi_fused import fused_roi_align
from .roi_gather import (
    add_chunked,
    channels_first,
    check_rois,
    chunks,
    flatten_levels,
    gather_chunked,
    group_by_grid,
    level_borders,
    pixel_index,
)

# Above this many taps a bin the dense separable form is cheaper than gathering.
MAX_TAPS = 1024
# Bytes of indices and weights held at once.
INDEX_BYTES = 16 << 20


def roi_align(
    features: mx.array,
    boxes: mx.array,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    deterministic: bool = False,
) -> mx.array:
    """RoIAlign (Mask R-CNN, section 3), as ``torchvision.ops.roi_align``.

    Args:
        features (N, H, W, C): one map a batch image.
        boxes (R, 5): (batch index, x1, y1, x2, y2), pixels of the network input.
        output_size: bins, one number or (ph, pw).
        spatial_scale: map pixels per input pixel. Default: ``1.0``.
        sampling_ratio: samples a bin and axis; 0 or less takes ``ceil(roi size / bins)``, which on
            a CPU costs one host synchronisation. Default: ``-1``.
        aligned: shift by half a pixel, and let RoIs be smaller than one map pixel. Default:
            ``False``.
        deterministic: on a GPU, sum the gradient in a fixed order, slower; on a CPU it always is.
            Default: ``False``, and whatever ``MLX_RCNN_KERNELS`` says.

    Returns:
        (R, ph, pw, C): averages, in the features' dtype. Samples more than a pixel outside the map
        count as zero.

    Raises:
        ValueError: shapes or sizes that do not fit.
    """
    return multiscale_roi_align(
        [features], boxes, output_size, [spatial_scale], sampling_ratio, aligned, deterministic
    )


def multiscale_roi_align(
    features: Sequence[mx.array],
    boxes: mx.array,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = 2,
    aligned: bool = False,
    deterministic: bool = False,
) -> mx.array:
    """RoIAlign from the pyramid level that fits each RoI (FPN, equation 1).

    The level is ``floor(4 + log2(sqrt(area) / 224) + 1e-6)``, clamped to the levels there are, as
    in ``torchvision.ops.MultiScaleRoIAlign``.

    Args:
        features: maps (N, h, w, C), finest first.
        boxes (R, 5): as in :func:`roi_align`.
        output_size: as in :func:`roi_align`.
        spatial_scales: map pixels per input pixel, one a level, powers of two.
        sampling_ratio: as in :func:`roi_align`. Default: ``2``.
        aligned: as in :func:`roi_align`.
        deterministic: as in :func:`roi_align`.

    Returns:
        (R, ph, pw, C).

    Raises:
        ValueError: shapes or sizes that do not fit.
    """
    bins, boxes = check_rois(features, boxes, output_size, spatial_scales)
    channels = features[0].shape[-1]
    if boxes.shape[0] == 0:
        return mx.zeros((0, *bins, channels), dtype=features[0].dtype)
    scales = tuple(spatial_scales)
    plan = Plan(bins, scales, tuple(level_borders(scales)), sampling_ratio, aligned)
    dialect = backend()
    if dialect and fits([f.shape for f in features], features[0].dtype, boxes.shape[0], plan):
        return fused_roi_align(features, boxes, plan, dialect, _plain, deterministic)
    return _plain(features, boxes, plan)


def crop_masks(
    masks: mx.array, index: mx.array, boxes: mx.array, size: int, aligned: bool = False
) -> mx.array:
    """The part of a mask inside each box, resampled; what a mask head should say.

    As ``torchvision.ops.roi_align(masks, boxes, size, 1.0)`` with one mask a box: two small
    matrices around a whole mask, a few boxes at a time.

    Args:
        masks (K, H, W): 0 or 1.
        index (R,): the mask of each box.
        boxes (R, 4): xyxy, pixels of the masks.
        size: side of the result.
        aligned: shift by half a pixel, and let boxes be smaller than a pixel. Default: ``False``.

    Returns:
        (R, size, size): in [0, 1], float32.
    """
    if boxes.shape[0] == 0:
        return mx.zeros((0, size, size))
    height, width = masks.shape[1:]
    extent = boxes[:, 2:] - boxes[:, :2]
    extent = extent if aligned else mx.maximum(extent, 1.0)
    boxes = boxes - 0.5 if aligned else boxes
    grid = mx.ceil(extent / size)
    matrices = []
    for axis, length in ((1, height), (0, width)):
        limit = mx.full((boxes.shape[0],), length, dtype=mx.int32)
        # Enough for a box of the mask's length; one far beyond takes fewer samples a bin.
        most = -(-length // size) + 1
        count = mx.minimum(grid[:, axis], most)
        place, weight = _taps(boxes[:, axis], extent[:, axis], size, count, most, limit)
        row = mx.arange(boxes.shape[0])[:, None, None]
        line = mx.arange(size)[None, :, None]
        empty = mx.zeros((boxes.shape[0], size, length))
        matrices.append(add_at(empty, (row, line, place), weight))
    down, across = matrices
    step = max(1, roi_gather.CPU_CHUNK // (4 * height * width))
    done: list[mx.array] = []
    for start in range(0, boxes.shape[0], step):
        rows = slice(start, start + step)
        piece = mx.depends(index[rows], done[-1]) if done else index[rows]
        mask = masks[piece].astype(mx.float32)
        done.append(down[rows] @ mask @ across[rows].swapaxes(1, 2))
    return mx.concatenate(done)


def _plain(features: Sequence[mx.array], boxes: mx.array, plan: Plan) -> mx.array:
    """The twin of the kernel: L maps (N, h, w, C) and float32 RoIs (R, 5) -> (R, ph, pw, C)."""
    bins, ratio = plan.bins, plan.ratio
    pixels, base, limit, scale = flatten_levels(features, boxes, plan.scales)
    corners = boxes[:, 1:] * scale[:, None] - (0.5 if plan.aligned else 0.0)
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]  # (R, 2), x then y
    if not plan.aligned:
        extent = mx.maximum(extent, 1.0)
    window = pixels, base, limit, start, extent
    maps = [(f.shape[2], f.shape[1]) for f in features]
    if ratio > 0:
        grid = mx.full(extent.shape, float(ratio))
        if plain() and 4 * ratio * ratio > MAX_TAPS:
            return bounded_average(*window, grid, bins, maps, _taps, ratio)
        return _average(pixels, base, limit, start, extent, grid, bins, [ratio] * 2)
    grid = mx.maximum(mx.ceil(extent / mx.array([bins[1], bins[0]])), 0.0)
    grid = mx.where(mx.isinf(grid) | mx.isnan(grid), 0.0, grid)  # such a box has no samples
    if plain():
        return bounded_average(*window, grid, bins, maps, _taps)
    return group_by_grid(
        np.array(grid),
        lambda rows, most: _average(
            pixels, base[rows], limit[rows], start[rows], extent[rows], grid[rows], bins, most
        ),
    )


def _taps(
    start: mx.array, extent: mx.array, bins: int, grid: mx.array, most: int, limit: mx.array
) -> tuple[mx.array, mx.array]:
    """Rows (or columns) a bin reads along one axis, (R, bins, 2 * most), and their weights."""
    size = (extent / bins)[:, None, None]
    count = grid[:, None, None]
    step = mx.arange(most)[None, None].astype(mx.float32)
    place = start[:, None, None] + mx.arange(bins)[None, :, None] * size
    place = place + (step + 0.5) * size / mx.maximum(count, 1)  # (R, bins, most)
    top = limit[:, None, None].astype(mx.float32)
    inside = (place >= -1.0) & (place <= top) & (step < count)
    place = mx.maximum(place, 0.0)
    low = mx.floor(place)
    last = low >= top - 1
    low = mx.where(last, top - 1, low)
    fraction = mx.where(last, 0.0, place - low)
    weight = mx.stack([1 - fraction, fraction], axis=-1)
    weight = mx.where(inside[..., None], weight, 0.0) / mx.maximum(count, 1)[..., None]
    index = mx.stack([low, mx.minimum(low + 1, top - 1)], axis=-1).astype(mx.int32)
    index = mx.clip(index, 0, limit[:, None, None, None] - 1)  # a NaN box must not read astray
    return index.reshape(*index.shape[:2], -1), weight.reshape(*weight.shape[:2], -1)


def _average(
    pixels: mx.array,
    base: mx.array,
    limit: mx.array,
    start: mx.array,
    extent: mx.array,
    grid: mx.array,
    bins: tuple[int, int],
    most: Sequence[int],
) -> mx.array:
    """RoIAlign of RoIs with at most ``most`` = (x, y) samples a bin -> (R, ph, pw, C)."""
    step = max(1, INDEX_BYTES // (8 * bins[0] * bins[1] * 4 * most[0] * most[1]))
    if base.shape[0] > step:  # indices and weights are bounded too, one slice after the other
        done: list[mx.array] = []
        for first in range(0, base.shape[0], step):
            rows = slice(first, first + step)
            begin = mx.stop_gradient(mx.depends(start[rows], done[-1])) if done else start[rows]
            part = base[rows], limit[rows], begin, extent[rows], grid[rows]
            done.append(_average(pixels, *part, bins, most))
        return mx.concatenate(done)
    column, column_weight = _taps(
        start[:, 0], extent[:, 0], bins[1], grid[:, 0], most[0], limit[:, 0]
    )
    row, row_weight = _taps(start[:, 1], extent[:, 1], bins[0], grid[:, 1], most[1], limit[:, 1])
    if 4 * most[0] * most[1] > MAX_TAPS:
        return _dense(pixels, base, limit, (row, row_weight), (column, column_weight))
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    taps = weight.shape[3] * weight.shape[4]
    weight = weight.reshape(weight.shape[0], -1, 1, taps)  # (R, ph*pw, 1, T)
    index = pixel_index(base, limit, row, column)
    out = _weighted(pixels, index, weight)
    return out.reshape(-1, *bins, pixels.shape[-1])


def _weighted(pixels: mx.array, index: mx.array, weight: mx.array) -> mx.array:
    """Weighted sums of gathered pixels, (R, B, 1, C), with a gradient in bounded memory."""
    # Left to automatic differentiation, every gathered chunk would be kept for the way back. Both
    # sums are float32: a pixel under hundreds of RoIs loses a quarter of its gradient in bfloat16.

    def forward(pixels: mx.array) -> mx.array:
        return gather_chunked(
            index,
            pixels,
            lambda part, rows: (weight[rows] @ part.astype(mx.float32)).astype(part.dtype),
        )

    def backward(pixels: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        channels = pixels.shape[-1]
        if adds_by_atomics():
            total = mx.zeros(pixels.shape, dtype=mx.float32)
            for rows in chunks(index, pixels):
                # No edge orders these chunks: any other use of the sum would have it copied.
                wide = cotangent[rows].astype(mx.float32)
                piece = (weight[rows].swapaxes(2, 3) * wide).reshape(-1, channels)
                total = total.at[index[rows].reshape(-1)].add(piece)
            return total.astype(pixels.dtype)
        taps = weight.reshape(1, -1, index.shape[-1])  # (1, R * B, T)

        def share(piece: mx.array) -> mx.array:
            return (piece[..., None] * taps).reshape(piece.shape[0], -1)

        with adding_in_order():
            across = channels_first(cotangent[:, :, 0].astype(mx.float32))
            total = add_chunked(index.reshape(1, -1), across, pixels.shape[0], share)
            return total.astype(pixels.dtype)

    return own_gradient(forward, backward)(pixels)


def _dense(
    pixels: mx.array,
    base: mx.array,
    limit: mx.array,
    rows: tuple[mx.array, mx.array],
    columns: tuple[mx.array, mx.array],
) -> mx.array:
    """RoIs that cover most of a map: two small matrices around the whole map, one RoI at a time."""
    done: list[mx.array] = []
    for i, (first, (w, h)) in enumerate(
        zip(np.array(base).tolist(), np.array(limit).tolist(), strict=True)
    ):
        matrices = []
        for (index, weight), length in ((rows, h), (columns, w)):
            line = mx.arange(index.shape[1])[:, None]
            empty = mx.zeros((index.shape[1], length))
            matrices.append(add_at(empty, (line, index[i]), weight[i]))
        image = pixels[first : first + w * h].reshape(h, -1).astype(mx.float32)
        down = (matrices[0] @ image).reshape(-1, w, pixels.shape[-1])
        out = (matrices[1] @ down).astype(pixels.dtype)  # (ph, pw, C)
        done.append(mx.depends(out, done[-1]) if done else out)
    return mx.stack(done)
