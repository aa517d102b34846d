"""A convolution that is quick on a CPU, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import mlx.core as mx

from ..kernels import plain
from . import shifted
from .gradient import own_gradient, unwatched
from .halves import HALVES, wide

LARGEST_COPY = 128 << 20
"""Bytes of a map unfolded for a convolution above which shifted products take its place."""
_LEAST_CHANNELS, _MOST_PIXELS = 16, 1.1  # of a map and of its output; computed for each put out


def conv2d(
    x: mx.array,
    weight: mx.array,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
) -> mx.array:
    """2-D convolution, (N, H, W, C) by (O, k, k, C / groups), equal to ``mlx.core.conv2d``."""
    # MLX's CPU backend takes the input's gradient of a strided convolution with a loop over single
    # numbers, 50 to 100 times slower than the convolution.
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    if on_cpu and x.dtype in HALVES:  # whose gradients are products
        y = conv2d(wide(x), wide(weight), stride, padding, groups, dilation)
        return y.astype(x.dtype)
    one = stride == groups == 1 and not plain()
    if one and _unfolds_much(x, weight, padding, dilation, on_cpu):
        return _by_products(x, weight, padding, dilation, on_cpu)
    if on_cpu and dilation == 1 and padding < weight.shape[1]:
        if 1 < groups == x.shape[-1] == weight.shape[0]:
            # a sum of shifted products, 1.3 to 8 times faster than the backend's own
            return _depthwise(x, weight, stride, padding)
        if stride > 1 and groups == 1:
            # the gradient is spread over a grid of zeros first and becomes an ordinary convolution
            return _strided(x, weight, stride, padding)
    return mx.conv2d(x, weight, stride, padding, dilation, groups)


def _unfolds_much(x: mx.array, weight: mx.array, padding: int, dilation: int, on_cpu: bool) -> bool:
    """Whether a convolution of stride 1 and one group goes by shifted products: the one rule."""
    # It does where the unfolded map would have LARGEST_COPY bytes and more, of float32 (a CPU
    # widens halves). Time on a CPU, of MLX's: value and input's gradient 0.94 to 1.02, kernel's
    # gradient 1.13 to 1.43, all three 1.02 to 1.09, with 0.2 to 0.3 of the memory. It does not
    # where that is slower: few channels (3 of an image: 1.5), and maps of a few pixels, whose
    # borders are computed too (14x14: 1.3, 7x7: 1.6). A dilated kernel always does on a CPU, where
    # MLX has a loop over single numbers, 50 times slower.
    (outputs, kernel), (n, height, width, channels) = weight.shape[:2], x.shape
    reach = dilation * (kernel - 1)
    rows, columns = height + 2 * padding - reach, width + 2 * padding - reach
    if not 0 < reach >= padding or min(rows, columns) < 1:
        return False
    if on_cpu and dilation > 1:
        return True
    if min(channels, outputs) < _LEAST_CHANNELS:
        return False
    if (rows + reach) * (columns + reach) > _MOST_PIXELS * rows * columns:
        return False
    return 4 * n * rows * columns * kernel * kernel * channels >= LARGEST_COPY


def _by_products(
    x: mx.array, weight: mx.array, padding: int, dilation: int, on_cpu: bool
) -> mx.array:
    in_place = on_cpu and (dilation > 1 or unwatched())

    def convolve(x: mx.array, weight: mx.array) -> mx.array:
        if in_place:
            return shifted.convolve(x, weight, padding, dilation)
        return mx.conv2d(x, weight, 1, padding, dilation)

    def gradients(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, weight = primals
        of_weight = shifted.weight_gradient(x, weight, padding, dilation, cotangent)
        if on_cpu:
            return shifted.input_gradient(weight, padding, dilation, cotangent), of_weight
        _, (of_x,) = mx.vjp(lambda x: mx.conv2d(x, weight, 1, padding, dilation), [x], [cotangent])
        return of_x, of_weight

    return own_gradient(convolve, gradients)(x, weight)


def _strided(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    def convolve(x: mx.array, weight: mx.array) -> mx.array:
        return mx.conv2d(x, weight, stride, padding)

    def gradients(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, weight = primals
        _, (of_weight,) = mx.vjp(
            lambda weight: mx.conv2d(x, weight, stride, padding), [weight], [cotangent]
        )
        return input_gradient(x.shape, weight, stride, padding, cotangent), of_weight

    return own_gradient(convolve, gradients)(x, weight)


def input_gradient(
    shape: tuple[int, ...], weight: mx.array, stride: int, padding: int, cotangent: mx.array
) -> mx.array:
    """The gradient (N, H, W, C) of a convolution for its input, as a convolution of stride 1."""
    kernel = weight.shape[1]
    spread = _spread(shape, kernel, stride, padding, cotangent)
    flipped = weight[:, ::-1, ::-1].transpose(3, 1, 2, 0)
    return mx.conv2d(spread, flipped, 1, kernel - 1 - padding)


def _spread(
    shape: tuple[int, ...], kernel: int, stride: int, padding: int, cotangent: mx.array
) -> mx.array:
    """The cotangent as that of a convolution of stride 1: zeros where the stride skipped."""
    if stride == 1:
        return cotangent
    rows, columns = (size + 2 * padding - kernel + 1 for size in shape[1:3])
    spread = mx.zeros((shape[0], rows, columns, cotangent.shape[-1]), dtype=cotangent.dtype)
    spread[:, ::stride, ::stride] = cotangent
    return spread


def _taps(
    x: mx.array, kernel: int, stride: int, padding: int
) -> Iterator[tuple[int, int, mx.array]]:
    """For each place of the kernel, what the windows see through it, (N, H', W', C)."""
    _, height, width, _ = x.shape
    x = mx.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    rows, columns = (size + 2 * padding - kernel + 1 for size in (height, width))
    for i in range(kernel):
        for j in range(kernel):
            yield i, j, x[:, i : i + rows : stride, j : j + columns : stride]


def _shifted(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    total = None
    for i, j, seen in _taps(x, weight.shape[1], stride, padding):
        product = seen * weight[:, i, j, 0]
        total = product if total is None else total + product
    return cast(mx.array, total)


def _depthwise(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    def convolve(x: mx.array, weight: mx.array) -> mx.array:
        return _shifted(x, weight, stride, padding)

    def gradients(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, weight = primals
        kernel = weight.shape[1]
        spread = _spread(x.shape, kernel, stride, padding, cotangent)
        of_x = _shifted(spread, weight[:, ::-1, ::-1], 1, kernel - 1 - padding)
        sums = []
        for _, _, seen in _taps(x, kernel, stride, padding):
            product = (seen * cotangent).astype(mx.float32)
            # An axis at a time: a single long sum loses digits.
            sums.append(mx.sum(mx.sum(mx.sum(product, axis=2), axis=1), axis=0))
        return of_x, mx.stack(sums, axis=-1).reshape(weight.shape).astype(weight.dtype)

    return own_gradient(convolve, gradients)(x, weight)
