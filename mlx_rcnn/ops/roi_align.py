"""RoIAlign and RoIPool on channels-last maps, in bounded memory.

Shapes: R RoIs, ph x pw bins, T taps (pixel, weight) a bin, C channels. RoIs are rows of (batch
index, x1, y1, x2, y2), the coordinates in pixels of the network input. The average of
bilinear samples is linear in the map and separable in y and x, so a bin is one (1, T) @ (T, C)
product over gathered pixels; all levels of a pyramid are gathered from one flat list of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

# Bytes gathered at once. A CPU wants its caches (and the C library's allocator reuses blocks under
# 32 MB without new page faults), a GPU wants large kernels.
CPU_CHUNK = 6 << 20
GPU_CHUNK = 64 << 20
# Above this many taps a bin the dense separable form is cheaper than gathering.
MAX_TAPS = 1024
# floor(4 + log2(size / 224) + 1e-6) of torchvision's LevelMapper as a factor on the borders.
LEVEL_SLACK = 2.0**-1e-6


def roi_align(
    features: mx.array,
    boxes: mx.array,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> mx.array:
    """RoIAlign (Mask R-CNN, section 3), as ``torchvision.ops.roi_align``.

    Args:
        features (N, H, W, C): one map a batch image.
        boxes (R, 5): (batch index, x1, y1, x2, y2), pixels of the network input.
        output_size: bins, one number or (ph, pw).
        spatial_scale: map pixels per input pixel. Default: ``1.0``.
        sampling_ratio: samples a bin and axis; 0 or less takes ``ceil(roi size / bins)``, which
            costs one host synchronisation. Default: ``-1``.
        aligned: shift by half a pixel, and let RoIs be smaller than one map pixel.

    Returns:
        (R, ph, pw, C): averages, in the features' dtype. Samples more than a pixel outside the map
        count as zero.

    Raises:
        ValueError: shapes or sizes that do not fit.
    """
    return multiscale_roi_align(
        [features], boxes, output_size, [spatial_scale], sampling_ratio, aligned
    )


def multiscale_roi_align(
    features: Sequence[mx.array],
    boxes: mx.array,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = 2,
    aligned: bool = False,
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

    Returns:
        (R, ph, pw, C).

    Raises:
        ValueError: shapes or sizes that do not fit.
    """
    bins, boxes = _check(features, boxes, output_size, spatial_scales)
    channels = features[0].shape[-1]
    if boxes.shape[0] == 0:
        return mx.zeros((0, *bins, channels), dtype=features[0].dtype)
    pixels, base, limit, scale = _flatten(features, boxes, spatial_scales)
    corners = boxes[:, 1:] * scale[:, None] - (0.5 if aligned else 0.0)
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]  # (R, 2), x then y
    if not aligned:
        extent = mx.maximum(extent, 1.0)
    if sampling_ratio > 0:
        grid = mx.full(extent.shape, float(sampling_ratio))
        return _average(pixels, base, limit, start, extent, grid, bins, [sampling_ratio] * 2)
    grid = mx.maximum(mx.ceil(extent / mx.array([bins[1], bins[0]])), 0.0)
    return _by_grid(
        np.array(grid),
        lambda rows, most: _average(
            pixels, base[rows], limit[rows], start[rows], extent[rows], grid[rows], bins, most
        ),
    )


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
    bins, boxes = _check([features], boxes, output_size, [spatial_scale])
    if boxes.shape[0] == 0:
        return mx.zeros((0, *bins, features.shape[-1]), dtype=features.dtype)
    pixels, base, limit, scale = _flatten([features], boxes, [spatial_scale])
    corners = boxes[:, 1:] * scale[:, None]
    corners = mx.sign(corners) * mx.floor(mx.abs(corners) + 0.5)  # C's round, half away from 0
    start, extent = corners[:, :2], mx.maximum(corners[:, 2:] - corners[:, :2] + 1, 1.0)
    size = extent / mx.array([bins[1], bins[0]], dtype=mx.float32)
    spans = []
    for axis, count in ((0, bins[1]), (1, bins[0])):
        steps = mx.arange(count)[None]
        low = mx.floor(steps * size[:, axis, None]) + start[:, axis, None]
        high = mx.ceil((steps + 1) * size[:, axis, None]) + start[:, axis, None]
        top = limit[:, axis, None].astype(mx.float32)
        spans.append(tuple(mx.clip(v, 0, top).astype(mx.int32) for v in (low, high)))
    longest = mx.stack([mx.max(high - low, axis=1) for low, high in spans], axis=1)
    return _by_grid(
        np.array(longest),
        lambda rows, most: _maximum(pixels, base[rows], limit[rows], spans, rows, bins, most),
    )


def crop_masks(masks: mx.array, index: mx.array, boxes: mx.array, size: int) -> mx.array:
    """The part of a mask inside each box, resampled; what a mask head should say.

    As ``torchvision.ops.roi_align(masks, boxes, size, 1.0)`` with one mask a box: two small
    matrices around a whole mask, a few boxes at a time.

    Args:
        masks (K, H, W): 0 or 1.
        index (R,): the mask of each box.
        boxes (R, 4): xyxy, pixels of the masks.
        size: side of the result.

    Returns:
        (R, size, size): in [0, 1], float32.
    """
    height, width = masks.shape[1:]
    extent = mx.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    grid = mx.ceil(extent / size)
    matrices = []
    for axis, length in ((1, height), (0, width)):
        limit = mx.full((boxes.shape[0],), length, dtype=mx.int32)
        most = -(-length // size) + 1
        place, weight = _taps(boxes[:, axis], extent[:, axis], size, grid[:, axis], most, limit)
        row = mx.arange(boxes.shape[0])[:, None, None]
        line = mx.arange(size)[None, :, None]
        matrices.append(mx.zeros((boxes.shape[0], size, length)).at[row, line, place].add(weight))
    down, across = matrices
    step = max(1, CPU_CHUNK // (4 * height * width))
    done: list[mx.array] = []
    for start in range(0, boxes.shape[0], step):
        rows = slice(start, start + step)
        piece = mx.depends(index[rows], done[-1]) if done else index[rows]
        mask = masks[piece].astype(mx.float32)
        done.append(down[rows] @ mask @ across[rows].swapaxes(1, 2))
    return mx.concatenate(done) if done else mx.zeros((0, size, size))


def _check(
    features: Sequence[mx.array],
    boxes: mx.array,
    output_size: int | tuple[int, int],
    scales: Sequence[float],
) -> tuple[tuple[int, int], mx.array]:
    bins = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(bins) != 2 or min(bins) < 1:
        raise ValueError(f"output_size={output_size!r}: expected one or two positive integers")
    for feature in features:
        if feature.ndim != 4 or feature.shape[-1] != features[0].shape[-1]:
            raise ValueError(f"features: expected (N, H, W, C), equal C, got {feature.shape}")
        if 0 in feature.shape[:3]:
            raise ValueError(f"features: expected at least one pixel, got {feature.shape}")
    if len(scales) != len(features):
        raise ValueError(f"spatial_scales: expected {len(features)} numbers, got {len(scales)}")
    # As in torchvision no gradient reaches the boxes; a gather would refuse to pass it.
    boxes = mx.stop_gradient(mx.array(boxes).astype(mx.float32))
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(
            f"boxes: expected (R, 5) rows of (batch index, x1, y1, x2, y2), got {boxes.shape}"
        )
    return (bins[0], bins[1]), boxes


def _flatten(
    features: Sequence[mx.array], boxes: mx.array, scales: Sequence[float]
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """All pixels (P, C) of all maps, and for each RoI its first pixel, map (w, h) and scale."""
    level = _levels(boxes[:, 1:], scales)
    image = mx.clip(boxes[:, 0].astype(mx.int32), 0, features[0].shape[0] - 1)
    sizes = [(f.shape[2], f.shape[1]) for f in features]
    counts = [f.shape[0] * f.shape[1] * f.shape[2] for f in features]
    first = mx.array(np.cumsum([0, *counts[:-1]]).astype(np.int32))[level]
    limit = mx.array(sizes, dtype=mx.int32)[level]  # (R, 2)
    flat = [f.reshape(-1, f.shape[-1]) for f in features]
    pixels = flat[0] if len(flat) == 1 else mx.concatenate(flat)
    base = first + image * limit[:, 0] * limit[:, 1]
    return pixels, base, limit, mx.array(list(scales), dtype=mx.float32)[level]


def _levels(boxes: mx.array, scales: Sequence[float]) -> mx.array:
    """Index into ``scales`` for each box (R, 4), by comparison: a logarithm rounds differently."""
    size = mx.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    level = mx.zeros(size.shape, dtype=mx.int32)
    for scale in scales[1:]:
        # Level k = -log2(scale) starts at 224 * 2^(k - 4) = 14 / scale pixels.
        level = level + (size >= 14.0 / scale * LEVEL_SLACK).astype(mx.int32)
    return level


def _taps(
    start: mx.array, extent: mx.array, bins: int, grid: mx.array, most: int, limit: mx.array
) -> tuple[mx.array, mx.array]:
    """Rows (or columns) a bin reads along one axis, and their weights.

    Args:
        start, extent (R,): the RoI in map pixels.
        grid (R,): samples a bin, at most ``most``.
        limit (R,): rows of the map.

    Returns:
        index (R, bins, 2 * most) int32 and weight, same shape.
    """
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
    pixels: mx.array, base: mx.array, limit: mx.array, start: mx.array, extent: mx.array,
    grid: mx.array, bins: tuple[int, int], most: Sequence[int],
) -> mx.array:  # fmt: skip
    """RoIAlign of RoIs with at most ``most`` = (x, y) samples a bin -> (R, ph, pw, C)."""
    column, column_weight = _taps(
        start[:, 0], extent[:, 0], bins[1], grid[:, 0], most[0], limit[:, 0]
    )
    row, row_weight = _taps(start[:, 1], extent[:, 1], bins[0], grid[:, 1], most[1], limit[:, 1])
    if 4 * most[0] * most[1] > MAX_TAPS:
        return _dense(pixels, base, limit, (row, row_weight), (column, column_weight))
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    taps = weight.shape[3] * weight.shape[4]
    weight = weight.reshape(weight.shape[0], -1, 1, taps).astype(pixels.dtype)  # (R, ph*pw, 1, T)
    index = _pixel_index(base, limit, row, column)
    out = _weighted(pixels, index, weight)
    return out.reshape(-1, *bins, pixels.shape[-1])


def _weighted(pixels: mx.array, index: mx.array, weight: mx.array) -> mx.array:
    """Weighted sums of gathered pixels, (R, B, 1, C), with a gradient in bounded memory.

    Left to automatic differentiation, every gathered chunk would be kept for the way back.
    """

    @mx.custom_function
    def forward(pixels: mx.array) -> mx.array:
        return _chunked(index, pixels, lambda part, rows: weight[rows] @ part)

    @forward.vjp
    def backward(pixels: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        total = mx.zeros_like(pixels)
        for rows in _chunks(index, pixels):
            # No edge orders these chunks: any other use of the sum would have it copied each time.
            share = weight[rows].swapaxes(2, 3) * cotangent[rows]  # (r, B, T, C)
            total = total.at[index[rows].reshape(-1)].add(share.reshape(-1, pixels.shape[-1]))
        return total

    return forward(pixels)


def _maximum(
    pixels: mx.array, base: mx.array, limit: mx.array, spans: list[tuple[mx.array, ...]],
    rows: mx.array, bins: tuple[int, int], most: Sequence[int],
) -> mx.array:  # fmt: skip
    """RoIPool of RoIs whose bins span at most ``most`` = (x, y) pixels -> (R, ph, pw, C)."""
    index, inside = [], []
    for axis in (0, 1):
        low, high = (v[rows][..., None] for v in spans[axis])
        place = low + mx.arange(most[axis])
        inside.append(place < high)
        index.append(mx.clip(place, 0, limit[:, axis, None, None] - 1))
    mask = inside[1][:, :, None, :, None] & inside[0][:, None, :, None, :]
    mask = mask.reshape(mask.shape[0], bins[0] * bins[1], -1, 1)  # (R, ph*pw, T, 1)

    def reduce(part: mx.array, piece: slice) -> mx.array:
        top = mx.max(mx.where(mask[piece], part, -mx.inf), axis=2)
        return mx.where(mx.any(mask[piece], axis=2), top, 0.0).astype(part.dtype)

    out = _chunked(_pixel_index(base, limit, index[1], index[0]), pixels, reduce)
    return out.reshape(-1, *bins, pixels.shape[-1])


def _pixel_index(base: mx.array, limit: mx.array, row: mx.array, column: mx.array) -> mx.array:
    """(R, ph, Ty) rows and (R, pw, Tx) columns -> (R, ph*pw, T) places in the flat list."""
    index = base[:, None, None, None, None] + column[:, None, :, None, :]
    index = index + (row * limit[:, 0, None, None])[:, :, None, :, None]
    return index.reshape(index.shape[0], index.shape[1] * index.shape[2], -1)


def _chunked(
    index: mx.array, pixels: mx.array, reduce: Callable[[mx.array, slice], mx.array]
) -> mx.array:
    """Gather ``index`` (R, B, T) and reduce the taps, a bounded number of RoIs at a time."""
    done: list[mx.array] = []
    for rows in _chunks(index, pixels):
        # The chunks are ordered by an edge: left free, the scheduler holds them all at once. The
        # edge alone would make the indices differentiable, which a gather refuses.
        piece = mx.stop_gradient(mx.depends(index[rows], done[-1])) if done else index[rows]
        done.append(reduce(pixels[piece], rows))
    return mx.concatenate(done) if len(done) > 1 else done[0]


def _chunks(index: mx.array, pixels: mx.array) -> list[slice]:
    """RoIs (R, B, T) to gather at once."""
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    count, bins, taps = index.shape
    size = bins * taps * pixels.shape[-1] * pixels.dtype.size
    step = max(1, (GPU_CHUNK if on_gpu else CPU_CHUNK) // size)
    return [slice(start, start + step) for start in range(0, count, step)]


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
            matrices.append(mx.zeros((index.shape[1], length)).at[line, index[i]].add(weight[i]))
        image = pixels[first : first + w * h].reshape(h, -1)
        down = (matrices[0].astype(pixels.dtype) @ image).reshape(-1, w, pixels.shape[-1])
        out = matrices[1].astype(pixels.dtype) @ down  # (ph, pw, C)
        done.append(mx.depends(out, done[-1]) if done else out)
    return mx.stack(done)


def _by_grid(grid: np.ndarray, work: Callable[[mx.array, list[int]], mx.array]) -> mx.array:
    """Run ``work(rows, most)`` on groups of RoIs of like grids (R, 2), padded to powers of two."""
    padded = 2 ** np.ceil(np.log2(np.maximum(np.nan_to_num(grid), 1))).astype(np.int64)
    kinds, kind = np.unique(padded, axis=0, return_inverse=True)
    order = np.argsort(kind.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(kind.reshape(-1)))
    parts = [
        work(mx.array(rows.astype(np.int32)), [int(v) for v in most])
        for rows, most in zip(np.split(order, ends[:-1]), kinds, strict=True)
    ]
    return mx.concatenate(parts)[mx.array(np.argsort(order).astype(np.int32))]
