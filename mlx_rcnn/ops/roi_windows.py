"""The greatest pixel of each bin as that of four windows: RoIPool without a gather of whole bins.

The bins of a RoI span s pixels and s + 1 along an axis, or less where the map ends. With the power
of two w from half of s + 1 up to s, two windows of w pixels cover such a bin, from its first pixel
on and up to its last; all windows of a map are log2(w) maxima of it. Shapes as in
:mod:`~mlx_rcnn.ops.roi_gather`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from ..kernels import adding_in_order
from .gradient import own_gradient
from .roi_gather import add_chunked, channels_first, flatten_levels, gather_chunked, pixel_index

Span = tuple[mx.array, mx.array]  # (R, bins) int32: the first pixel of bins, and the one behind


class _Window(NamedTuple):
    """Pixels across and down, powers of two."""

    width: int
    height: int


def greatest(
    features: Sequence[mx.array],
    boxes: mx.array,
    scales: Sequence[float],
    spans: Sequence[Span],
    most: Sequence[int],
) -> mx.array:
    """(R, ph, pw, C): the greatest pixels of bins; 0 for those that span none."""
    # ``features`` are float32 maps, ``spans`` (x, y) within them, and ``most`` (x, y) the longest
    # span of every RoI, rounded up to a power of two, 2 at least.
    window = _Window(*(v // 2 for v in most))
    pixels, _, _, _ = flatten_levels(features, boxes, scales)
    shapes = [f.shape for f in features]
    tables = [mx.zeros((n, *_windows(size, window), 1)) for n, *size, _ in shapes]
    _, base, wide, _ = flatten_levels(tables, boxes, scales)
    columns, rows = (_two(spans[i], window[i], wide[:, i]) for i in (0, 1))
    index = pixel_index(base, wide, rows, columns)  # (R, B, 4)
    across, down = (high > low for low, high in spans)
    some = (down[:, :, None] & across[:, None]).reshape(*index.shape[:2], 1)

    def forward(pixels: mx.array) -> mx.array:
        def reduce(part: mx.array, rows: slice) -> mx.array:
            return mx.where(some[rows], mx.max(part, axis=2), 0.0)

        return gather_chunked(index, _flat(_slide(_maps(pixels, shapes), window)), reduce)

    def backward(pixels: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        count = pixels.shape[0]
        values, places = _slide_with_places(_maps(pixels, shapes), window)
        every = _flat(places)

        def reduce(part: mx.array, rows: slice) -> mx.array:
            chosen = part == output[rows][:, :, None]
            return mx.min(mx.where(chosen, every[index[rows]], count - 1), axis=2)

        with adding_in_order():
            place = channels_first(gather_chunked(index, _flat(values), reduce))
            given = channels_first(mx.where(some, cotangent, 0.0))
            return add_chunked(place, given, count, lambda piece, _: piece)

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


def _windows(size: Sequence[int], window: _Window) -> tuple[int, int]:
    """How many windows a map (h, w) has, those included that hang over its borders."""
    return size[0] + window.height - 1, size[1] + window.width - 1


def _maps(pixels: mx.array, shapes: Sequence[tuple[int, ...]]) -> list[mx.array]:
    maps, first = [], 0
    for n, height, width, channels in shapes:
        count = n * height * width
        maps.append(pixels[first : first + count].reshape(n, height, width, channels))
        first += count
    return maps


def _flat(tables: list[mx.array]) -> mx.array:
    flat = [table.reshape(-1, table.shape[-1]) for table in tables]
    return flat[0] if len(flat) == 1 else mx.concatenate(flat)


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


def _slide(maps: list[mx.array], window: _Window) -> list[mx.array]:
    """The greatest pixel of each window."""
    done = []
    for x in maps:
        x = mx.pad(x, _around(window), constant_values=-mx.inf) if max(window) > 1 else x
        for axis, step in _steps(window):
            x = mx.maximum(*_pair(x, axis, step))
        done.append(x)
    return done


def _slide_with_places(
    maps: list[mx.array], window: _Window
) -> tuple[list[mx.array], list[mx.array]]:
    """As :func:`_slide`, and where these pixels lie in the flat list, the first of equal ones."""
    values, places, first = [], [], 0
    for x in maps:
        n, height, width, _ = x.shape
        count = n * height * width
        place = mx.arange(first, first + count).astype(mx.int32).reshape(n, height, width, 1)
        place = mx.broadcast_to(place, x.shape)
        first += count
        if max(window) > 1:
            x = mx.pad(x, _around(window), constant_values=-mx.inf)
            place = mx.pad(place, _around(window))
        for axis, step in _steps(window):
            (one, other), (at_one, at_other) = _pair(x, axis, step), _pair(place, axis, step)
            place = mx.where(one >= other, at_one, at_other)
            x = mx.maximum(one, other)
        values.append(x)
        places.append(place)
    return values, places
