"""A convolution whose gradient is quick on a CPU."""

from __future__ import annotations

from typing import cast

import mlx.core as mx


def conv2d(
    x: mx.array, weight: mx.array, stride: int = 1, padding: int = 0, groups: int = 1
) -> mx.array:
    """2-D convolution, as ``mlx.core.conv2d`` and equal to it.

    MLX's CPU backend takes the input's gradient of a strided convolution with a loop over single
    numbers, 50 to 100 times slower than the convolution. There, the gradient is spread
    over a grid of zeros first and becomes an ordinary convolution.

    Args:
        x (N, H, W, C).
        weight (O, k, k, C / groups).
        stride: Default: ``1``.
        padding: zeros on each side. Default: ``0``.
        groups: Default: ``1``.

    Returns:
        (N, H', W', O), ``H' = floor((H + 2 padding - k) / stride) + 1``.
    """
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    if on_cpu and stride > 1 and groups == 1 and padding < weight.shape[1]:
        return _strided(x, weight, stride, padding)
    return mx.conv2d(x, weight, stride, padding, groups=groups)


def _strided(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    @mx.custom_function
    def convolve(x: mx.array, weight: mx.array) -> mx.array:
        return mx.conv2d(x, weight, stride, padding)

    @convolve.vjp
    def gradients(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, weight = primals
        _, (of_weight,) = mx.vjp(
            lambda weight: mx.conv2d(x, weight, stride, padding), [weight], [cotangent]
        )
        return input_gradient(x.shape, weight, stride, padding, cotangent), of_weight

    return cast(mx.array, convolve(x, weight))


def input_gradient(
    shape: tuple[int, ...], weight: mx.array, stride: int, padding: int, cotangent: mx.array
) -> mx.array:
    """The gradient of a convolution with respect to its input, as a convolution of stride 1.

    Args:
        shape: of the input, (N, H, W, C).
        weight (O, k, k, C).
        stride: of the convolution.
        padding: of the convolution, less than ``k``.
        cotangent (N, H', W', O): of its output.

    Returns:
        (N, H, W, C).
    """
    n, height, width, _ = shape
    kernel = weight.shape[1]
    rows, columns = (size + 2 * padding - kernel + 1 for size in (height, width))
    spread = mx.zeros((n, rows, columns, weight.shape[0]), dtype=cotangent.dtype)
    spread[:, ::stride, ::stride] = cotangent
    flipped = weight[:, ::-1, ::-1].transpose(3, 1, 2, 0)
    return mx.conv2d(spread, flipped, 1, kernel - 1 - padding)
