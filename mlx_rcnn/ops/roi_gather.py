"""Gather the pixels of RoIs in bounded memory: what RoIAlign and RoIPool share.

Shapes: R RoIs, ph x pw bins (B together), T taps (pixels) a bin, C channels. RoIs are rows of
(batch index, x1, y1, x2, y2), the coordinates in pixels of the network input. All levels of a
pyramid are gathered from one flat list of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

# Bytes gathered at once. A CPU wants its caches (and the C library's allocator reuses blocks under
# 32 MB without new page faults), a GPU wants large kernels.
CPU_CHUNK = 6 << 20
GPU_CHUNK = 64 << 20
# floor(4 + log2(size / 224) + 1e-6) of torchvision's LevelMapper as a factor on the borders.
LEVEL_SLACK = 2.0**-1e-6


def check_rois(
    features: Sequence[mx.array],
    boxes: mx.array,
    output_size: int | tuple[int, int],
    scales: Sequence[float],
) -> tuple[tuple[int, int], mx.array]:
    """Bins (ph, pw) and float32 RoIs (R, 5), or a ValueError that names what does not fit."""
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


def flatten_levels(
    features: Sequence[mx.array], boxes: mx.array, scales: Sequence[float]
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """All pixels (P, C) of all maps, and for each RoI its first pixel, map (w, h) and scale."""
    level = assign_levels(boxes[:, 1:], scales)
    image = mx.clip(boxes[:, 0].astype(mx.int32), 0, features[0].shape[0] - 1)
    sizes = [(f.shape[2], f.shape[1]) for f in features]
    counts = [f.shape[0] * f.shape[1] * f.shape[2] for f in features]
    first = mx.array(np.cumsum([0, *counts[:-1]]).astype(np.int32))[level]
    limit = mx.array(sizes, dtype=mx.int32)[level]  # (R, 2)
    flat = [f.reshape(-1, f.shape[-1]) for f in features]
    pixels = flat[0] if len(flat) == 1 else mx.concatenate(flat)
    base = first + image * limit[:, 0] * limit[:, 1]
    return pixels, base, limit, mx.array(list(scales), dtype=mx.float32)[level]


def level_borders(scales: Sequence[float]) -> list[float]:
    """Least side of a box, pixels of the input, of each level after the first; NaN: none is."""
    # Level k = -log2(scale) starts at 224 * 2^(k - 4) = 14 / scale pixels. Of two maps of one
    # scale (MobileNetV3's last two) torchvision takes the first.
    return [
        math.nan if scale == finer else 14.0 / scale * LEVEL_SLACK
        for finer, scale in pairwise(scales)
    ]


def assign_levels(boxes: mx.array, scales: Sequence[float]) -> mx.array:
    """Index into ``scales`` for each box (R, 4), by comparison: a logarithm rounds differently."""
    size = mx.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    level = mx.zeros(size.shape, dtype=mx.int32)
    for border in level_borders(scales):
        level = level + (size >= border).astype(mx.int32)
    return level


def pixel_index(base: mx.array, limit: mx.array, row: mx.array, column: mx.array) -> mx.array:
    """(R, ph, Ty) rows and (R, pw, Tx) columns -> (R, ph*pw, T) places in the flat list."""
    index = base[:, None, None, None, None] + column[:, None, :, None, :]
    index = index + (row * limit[:, 0, None, None])[:, :, None, :, None]
    return index.reshape(index.shape[0], index.shape[1] * index.shape[2], -1)


def _at_once() -> int:
    return GPU_CHUNK if mx.default_device().type == mx.DeviceType.gpu else CPU_CHUNK


def chunks(index: mx.array, pixels: mx.array) -> list[slice]:
    """RoIs (R, B, T) to gather at once."""
    count, bins, taps = index.shape
    step = max(1, _at_once() // (bins * taps * pixels.shape[-1] * pixels.dtype.size))
    return [slice(start, start + step) for start in range(0, count, step)]


def gather_chunked(
    index: mx.array, pixels: mx.array, reduce: Callable[[mx.array, slice], mx.array]
) -> mx.array:
    """Gather ``index`` (R, B, T) and reduce the taps, a bounded number of RoIs at a time."""
    done: list[mx.array] = []
    for rows in chunks(index, pixels):
        # The chunks are ordered by an edge: left free, the scheduler holds them all at once. The
        # edge alone would make the indices differentiable, which a gather refuses.
        piece = mx.stop_gradient(mx.depends(index[rows], done[-1])) if done else index[rows]
        done.append(reduce(pixels[piece], rows))
    return mx.concatenate(done) if len(done) > 1 else done[0]


def add_chunked(
    index: mx.array,
    cotangent: mx.array,
    count: int,
    share: Callable[[mx.array], mx.array],
) -> mx.array:
    """The way back of a gather: (P, C) sums over what reaches each of ``count`` = P pixels."""
    # ``share`` makes of the cotangent (c, n) of some channels what goes to the pixels ``index``
    # (1 or C, K): (c, K) float32. A pixel adds up in the order of K.
    # By channels: on a CPU MLX's sum along an axis is a loop over one row, three times as fast as
    # its sum of rows, which works out each number's place anew.
    channels, alike = cotangent.shape[0], index.shape[0] == 1
    step = max(1, _at_once() // (4 * index.shape[1]))
    done: list[mx.array] = []
    for start in range(0, channels, step):
        block = slice(start, min(start + step, channels))
        piece = mx.depends(cotangent[block], done[-1]) if done else cotangent[block]
        given = share(piece)
        place = mx.broadcast_to(index if alike else index[block], given.shape)
        total = mx.zeros((given.shape[0], count))
        done.append(_add_along(total, place, given))
    return mx.concatenate(done).T


def channels_first(x: mx.array) -> mx.array:
    """(R, B, C) to (C, R * B), as :func:`add_chunked` takes cotangents and places."""
    # RoI by RoI first, whose numbers stay in a core's cache: three times as fast as at once.
    each = mx.contiguous(x.swapaxes(1, 2))
    return mx.contiguous(each.swapaxes(0, 1)).reshape(x.shape[2], -1)


def _add_along(total: mx.array, place: mx.array, values: mx.array) -> mx.array:
    """(c, P), with ``values`` (c, K) added to zeros at ``place`` (c, K) of their row."""
    # MLX has this sum only as the gradient of a gather.
    _, (added,) = mx.vjp(lambda row: mx.take_along_axis(row, place, axis=1), [total], [values])
    return added


def group_by_grid(grid: np.ndarray, work: Callable[[mx.array, list[int]], mx.array]) -> mx.array:
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
