"""How an array's axes and rows differ between a library and us: named pairs of functions.

Each pair moves numbers and computes none, so that backward(forward(x)) is x bit for bit.
K: classes without the background, which is the first row here, the last one or absent there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

Pool = tuple[int, int]
Move = Callable[[mx.array, Pool], mx.array]


class Layout(NamedTuple):
    """Moves of an array, given the RoI pooling's (ph, pw); ValueError for an impossible shape."""

    forward: Move  # the source's array -> ours
    backward: Move  # ours -> the source's


def _same(value: mx.array, _: Pool) -> mx.array:
    return value


def _axes(*order: int) -> Move:
    """Moves the axes of a kernel; biases and norms, of other than 4 axes, stay as they are."""

    def move(value: mx.array, _: Pool) -> mx.array:
        return mx.contiguous(value.transpose(*order)) if value.ndim == 4 else value

    return move


def _one_pixel(value: mx.array, _: Pool) -> mx.array:
    """Removes the axes of a 1x1 kernel; a bias stays as it is."""
    if value.ndim == 4 and value.shape[2:] != (1, 1):
        raise ValueError(f"has shape {value.shape}: expected (units, C, 1, 1)")
    return value.reshape(value.shape[:2]) if value.ndim == 4 else value


def _one_pixel_back(value: mx.array, _: Pool) -> mx.array:
    return value[..., None, None] if value.ndim == 2 else value


def _columns(value: mx.array, pool: Pool) -> mx.array:
    height, width = pool
    if value.ndim != 2 or value.shape[1] % (height * width):
        raise ValueError(f"has shape {value.shape}: expected (units, C * {height} * {width})")
    return value


def _flat(value: mx.array, pool: Pool) -> mx.array:
    split = _columns(value, pool).reshape(value.shape[0], -1, *pool)  # (units, C, ph, pw)
    return split.transpose(0, 2, 3, 1).reshape(value.shape)


def _flat_back(value: mx.array, pool: Pool) -> mx.array:
    split = _columns(value, pool).reshape(value.shape[0], *pool, -1)  # (units, ph, pw, C)
    return split.transpose(0, 3, 1, 2).reshape(value.shape)


def _flat_kernel(value: mx.array, pool: Pool) -> mx.array:
    """A bias stays as it is."""
    if value.ndim == 4 and value.shape[2:] != pool:
        raise ValueError(f"has shape {value.shape}: expected (units, C, {pool[0]}, {pool[1]})")
    return value.transpose(0, 2, 3, 1).flatten(1) if value.ndim == 4 else value


def _flat_kernel_back(value: mx.array, pool: Pool) -> mx.array:
    if value.ndim != 2:
        return value
    split = _columns(value, pool).reshape(value.shape[0], *pool, -1)  # (units, ph, pw, C)
    return mx.contiguous(split.transpose(0, 3, 1, 2))


def _rows(value: mx.array, least: int, multiple: int = 1) -> mx.array:
    rows = value.shape[0] if value.ndim else 0
    if rows < least or rows % multiple:
        several = f" and a multiple of {multiple}" if multiple > 1 else ""
        raise ValueError(f"has shape {value.shape}: expected at least {least} rows{several}")
    return value


def _last_row_first(value: mx.array, _: Pool) -> mx.array:
    _rows(value, 2)
    return mx.concatenate([value[-1:], value[:-1]])


def _first_row_last(value: mx.array, _: Pool) -> mx.array:
    _rows(value, 2)
    return mx.concatenate([value[1:], value[:1]])


def _add_rows(value: mx.array, count: int) -> mx.array:
    return mx.concatenate([mx.zeros((count, *value.shape[1:]), value.dtype), value])


def _add_background_box(value: mx.array, _: Pool) -> mx.array:
    _rows(value, 4, 4)
    return value if value.shape[0] == 4 else _add_rows(value, 4)


def _drop_background_box(value: mx.array, _: Pool) -> mx.array:
    _rows(value, 4, 4)
    return value if value.shape[0] == 4 else mx.contiguous(value[4:])


def _add_background_mask(value: mx.array, pool: Pool) -> mx.array:
    return _add_rows(LAYOUTS["conv"].forward(_rows(value, 1), pool), 1)


def _drop_background_mask(value: mx.array, pool: Pool) -> mx.array:
    return LAYOUTS["conv"].backward(mx.contiguous(_rows(value, 2)[1:]), pool)


def _ratios_first(numbers: int) -> Move:
    """Rows by size, ratio and number of an anchor -> by ratio, size and number; then a kernel."""

    def move(value: mx.array, pool: Pool) -> mx.array:
        _rows(value, 3 * numbers, 3 * numbers)
        split = value.reshape(-1, 3, numbers, *value.shape[1:]).swapaxes(0, 1)
        return LAYOUTS["conv"].forward(split.reshape(value.shape), pool)

    return move


def _sizes_first(numbers: int) -> Move:
    def move(value: mx.array, pool: Pool) -> mx.array:
        _rows(value, 3 * numbers, 3 * numbers)
        split = value.reshape(3, -1, numbers, *value.shape[1:]).swapaxes(0, 1)
        return LAYOUTS["conv"].backward(split.reshape(value.shape), pool)

    return move


LAYOUTS: dict[str, Layout] = {
    "same": Layout(_same, _same),
    # (O, I, kh, kw) -> (O, kh, kw, I)
    "conv": Layout(_axes(0, 2, 3, 1), _axes(0, 3, 1, 2)),
    # (I, O, kh, kw) -> (O, kh, kw, I)
    "deconv": Layout(_axes(1, 2, 3, 0), _axes(3, 0, 1, 2)),
    # (units, C * ph * pw) -> (units, ph * pw * C), the first linear after RoI pooling
    "flat": Layout(_flat, _flat_back),
    # (units, C, ph, pw) -> (units, ph * pw * C), the same as a convolution of one place
    "flat_kernel": Layout(_flat_kernel, _flat_kernel_back),
    # (O, I, 1, 1) -> (O, I), a 1x1 convolution of one pixel
    "linear": Layout(_one_pixel, _one_pixel_back),
    # a classifier, weight or bias: (K + 1, ...) with the background last -> first
    "cls_background_last": Layout(_last_row_first, _first_row_last),
    # box regression: (K * 4, ...) -> ((K + 1) * 4, ...), the background's rows zero as nothing
    # reads them; a class-agnostic (4, ...) stays, which one class without background is too
    "reg_background_last": Layout(_add_background_box, _drop_background_box),
    # a mask per class: (K, I, kh, kw) -> (K + 1, kh, kw, I), the background's row zero
    "mask_without_background": Layout(_add_background_mask, _drop_background_mask),
    # an RPN's objectness and box regression for anchors of some sizes and three ratios: there a
    # cell's anchors go by size and then ratio, here by ratio and then size; and as "conv"
    "anchors_sizes_first": Layout(_ratios_first(1), _sizes_first(1)),
    "anchor_boxes_sizes_first": Layout(_ratios_first(4), _sizes_first(4)),
}
"""By name."""
