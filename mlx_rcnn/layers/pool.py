"""Pooling of maps, channels last."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


def max_pool(x: mx.array, kernel: int = 3, padding: int = 1) -> mx.array:
    """The maximum of windows with stride 2; by default the stem's pooling of a ResNet.

    Args:
        x (N, H, W, C): the input.
        kernel (int): side of the windows, 2 or more. Default: ``3``.
        padding (int): pixels around the map that are never the maximum. Default: ``1``.

    Returns:
        (N, h, w, C) of ``h = (H + 2 padding - kernel) // 2 + 1``, as torch's ``max_pool2d``.

    Raises:
        ValueError: a map smaller than the window.
    """
    if min(x.shape[1:3]) + 2 * padding < kernel:
        raise ValueError(
            f"the network input is too small: {kernel}x{kernel} windows of a map of "
            f"{x.shape[1]}x{x.shape[2]} pixels"
        )
    for axis in (1, 2):  # separable; strided slices are faster than MLX's windowed pooling
        first, *others = (_seen(x, axis, i, kernel, padding) for i in range(kernel))
        x = first
        for other in others:
            x = mx.maximum(x, other)
    return x


def _seen(x: mx.array, axis: int, place: int, kernel: int, padding: int) -> mx.array:
    """What the windows along an axis see at one of their places; in the padding, the border."""
    # The border is in such a window too: a map need not be padded, which would copy all of it.
    length = x.shape[axis]
    count = (length + 2 * padding - kernel) // 2 + 1
    first = place - padding
    before = max(0, -(first // 2))  # windows of which the place lies before the map
    behind = max(0, count - max(0, (length - 1 - first) // 2 + 1))

    def rows(start: int, stop: int, step: int = 1) -> mx.array:
        return x[:, start:stop:step] if axis == 1 else x[:, :, start:stop:step]

    last = first + 2 * (count - behind - 1)
    middle = rows(first + 2 * before, last + 1, 2)
    edges = [rows(0, 1)] * before, [rows(length - 1, length)] * behind
    return mx.concatenate([*edges[0], middle, *edges[1]], axis=axis) if any(edges) else middle


def adaptive_average_pool(x: mx.array, side: int) -> mx.array:
    """Means over a grid of ``side`` by ``side`` bins, as torch's ``adaptive_avg_pool2d``.

    Args:
        x (N, H, W, C): of any size above 0.
        side (int): bins down and across. Bin i covers the pixels from ``floor(i H / side)`` up to
            ``ceil((i + 1) H / side)``; of a map smaller than the grid some cover the same pixels.

    Returns:
        (N, side, side, C); the map itself where it is of that size.
    """
    n, height, width, channels = x.shape
    if (height, width) == (side, side):
        return x
    y = _bins(width, side) @ x.astype(mx.float32)
    y = _bins(height, side) @ y.reshape(n, height, side * channels)
    return y.reshape(n, side, side, channels).astype(x.dtype)


def _bins(length: int, side: int) -> mx.array:
    """(side, length): the weight of each pixel in each bin."""
    bins, pixels = np.arange(side)[:, None], np.arange(length)
    start, stop = bins * length // side, -(-(bins + 1) * length // side)
    inside = (pixels >= start) & (pixels < stop)
    return mx.array((inside / (stop - start)).astype(np.float32))
