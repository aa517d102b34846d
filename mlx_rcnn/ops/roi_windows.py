"""The greatest pixel of each bin as that of four windows: RoIPool without a gather of whole bins.

The bins of a RoI span s pixels and s + 1 along an axis, or less where the map ends. With the power
of two w from half of s + 1 up to s, two windows of w pixels cover such a bin, from its first pixel
on and up to its last; all windows of a map are log2(w) maxima of it. Shapes as in
:mod:`~mlx_rcnn.ops.roi_gather`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..kernels import adding_in_order
from .gradient import own_gradient
from .roi_gather import (
    add_chunked,
    channels_first,
    flatten_levels,
    gather_chunked,
    group_by_grid,
    pixel_index,
)

Shape = tuple[int, ...]
Span = tuple[mx.array, mx.array]  # (R, bins) int32: the first pixel of bins, and the one behind

_LAST = 0x7FFFFFFF  # the largest place in a key


class _Window(NamedTuple):
    """Pixels across and down, powers of two."""

    width: int
    height: int


def greatest(
    features: Sequence[mx.array],
    boxes: mx.array,
    scales: Sequence[float],
    spans: Sequence[Span],
    longest: np.ndarray,
) -> mx.array:
    """(R, ph, pw, C): the greatest pixels of bins; 0 for those that span none."""
    # ``features`` are float32 maps, ``spans`` (x, y) within them, and ``longest`` (R, 2) the pixels
    # of a RoI's longest.
    pixels, _, _, _ = flatten_levels(features, boxes, scales)
    shapes = [f.shape for f in features]
    across, down = (high > low for low, high in spans)
    some = (down[:, :, None] & across[:, None]).reshape(len(boxes), -1, 1)  # (R, B, 1)

    def best(pixels: mx.array, told: Callable[[mx.array], mx.array]) -> mx.array:
        """What is told of the greatest of (P, C), (R, B, C)."""
        done: list[mx.array] = []

        def of_group(rows: mx.array, most: list[int]) -> mx.array:
            window = _Window(*(v // 2 for v in most))
            # The tables of one window after those of another: each is as large as all maps.
            tables = _slide(mx.depends(pixels, done[-1]) if done else pixels, shapes, window)
            flat, base, count, _ = flatten_levels(tables, boxes[rows], scales)
            places = [
                _two((low[rows], high[rows]), window[i], count[:, i])
                for i, (low, high) in enumerate(spans)
            ]
            index = pixel_index(base, count, places[1], places[0])  # (R, B, 4)
            done.append(gather_chunked(index, flat, lambda part, _: told(mx.max(part, axis=2))))
            return done[-1]

        return group_by_grid(np.maximum(longest, 2), of_group)

    def forward(pixels: mx.array) -> mx.array:
        return mx.where(some, best(pixels, lambda v: v), 0.0)

    def backward(pixels: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        count = pixels.shape[0]
        with adding_in_order():
            place = mx.clip(best(_keys(pixels), _pixel), 0, count - 1)
            given = channels_first(mx.where(some, cotangent, 0.0))
            return add_chunked(channels_first(place), given, count, lambda piece: piece)

    pooled = own_gradient(forward, backward)(pixels)
    return pooled.reshape(-1, down.shape[1], across.shape[1], pixels.shape[-1])


def _two(span: Span, window: int, most: mx.array) -> mx.array:
    """(R, bins, 2): the windows that cover bins along an axis, counted by their last pixel."""
    low, high = span
    from_first, to_last = low + window - 1, high - 1
    short = high - low < window  # such a bin ends where the map does: on the left, or on the right
    begins = short & (low == 0)
    first = mx.where(begins, to_last, from_first)
    last = mx.where(short & ~begins, from_first, to_last)
    return mx.clip(mx.stack([first, last], axis=-1), 0, most[:, None, None] - 1)


def _around(window: _Window) -> list[tuple[int, int]]:
    height, width = window.height - 1, window.width - 1
    return [(0, 0), (height, height), (width, width), (0, 0)]


def _steps(window: _Window) -> list[tuple[int, int]]:
    """(axis, pixels) by which maxima are shifted, until they are those of whole windows."""
    steps = []
    for axis, side in ((2, window.width), (1, window.height)):
        step = 1
        while step < side:
            steps.append((axis, step))
            step *= 2
    return steps


def _pair(x: mx.array, axis: int, step: int) -> tuple[mx.array, mx.array]:
    """A map without its last ``step`` rows or columns, and without its first."""
    return (x[:, :-step], x[:, step:]) if axis == 1 else (x[:, :, :-step], x[:, :, step:])


def _slide(pixels: mx.array, shapes: Sequence[Shape], window: _Window) -> list[mx.array]:
    """The greatest of each window of the maps of these shapes, which the pixels (P, C) are."""
    done, first = [], 0
    for n, height, width, _ in shapes:
        count = n * height * width
        x = pixels[first : first + count].reshape(n, height, width, -1)
        first += count
        if max(window) > 1:
            least = -mx.inf if x.dtype == mx.float32 else mx.iinfo(x.dtype).min
            x = mx.pad(x, _around(window), constant_values=mx.array(least, dtype=x.dtype))
        for axis, step in _steps(window):
            x = mx.maximum(*_pair(x, axis, step))
        done.append(x)
    return done


def _keys(pixels: mx.array) -> mx.array:
    """(P, C) int64 in the order of the pixels (P, C) float32, of equal ones the first greatest."""
    bits = mx.view(pixels + 0.0, mx.int32)  # + 0.0 turns -0.0 into 0.0
    rising = mx.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integer order = float order
    place = mx.arange(pixels.shape[0], dtype=mx.int64)[:, None]
    return (rising.astype(mx.int64) << 32) | (_LAST - place)


def _pixel(key: mx.array) -> mx.array:
    """Which pixel a key is of, int32."""
    return (_LAST - (key & _LAST)).astype(mx.int32)
