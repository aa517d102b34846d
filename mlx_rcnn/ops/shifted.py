"""Convolutions of stride 1 as matrix products over one flat list of pixels.

Unfolding copies a map once for each of the ``k^2`` places of the kernel. In the padded map, read as
rows (N H W, C), what all windows see through the place (i, j) is the block of rows that begins at
``i W + j``: a view. Windows that would wrap around a border are computed too, and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import mlx.core as mx


def convolve(x: mx.array, weight: mx.array, padding: int, dilation: int = 1) -> mx.array:
    """(N, H, W, C), (O, k, k, C) to (N, H', W', O), stride 1."""
    (outputs, kernel), reach = weight.shape[:2], dilation * (weight.shape[1] - 1)
    padded = _pad(x, padding, padding)
    n, height, width, _ = padded.shape
    total = None
    for i, j, seen in _views(padded, kernel, dilation):
        tap = weight[:, i, j].T
        # The sum is written over itself: MLX gives addmm its first argument's buffer.
        total = seen @ tap if total is None else mx.addmm(total, seen, tap)
    strides = (height * width * outputs, width * outputs, outputs, 1)
    inside = mx.as_strided(
        cast(mx.array, total), (n, height - reach, width - reach, outputs), strides
    )
    return mx.contiguous(inside).astype(x.dtype)


def input_gradient(weight: mx.array, padding: int, dilation: int, cotangent: mx.array) -> mx.array:
    """The gradient of :func:`convolve` with respect to its input: a convolution as well."""
    # ``padding`` is at most ``dilation * (k - 1)``.
    flipped = weight[:, ::-1, ::-1].transpose(3, 1, 2, 0)
    return convolve(cotangent, flipped, dilation * (weight.shape[1] - 1) - padding, dilation)


def weight_gradient(
    x: mx.array, weight: mx.array, padding: int, dilation: int, cotangent: mx.array
) -> mx.array:
    """The gradient of :func:`convolve` with respect to its kernel: ``k^2`` products, in float32."""
    kernel = weight.shape[1]
    reach = dilation * (kernel - 1)
    # Zeros where windows wrap around.
    flat = _pad(cotangent, 0, reach).reshape(-1, cotangent.shape[-1])
    padded = _pad(x, padding, padding)
    products = [flat[: len(seen)].T @ seen for _, _, seen in _views(padded, kernel, dilation)]
    return mx.stack(products, axis=1).reshape(weight.shape).astype(weight.dtype)


def _views(padded: mx.array, kernel: int, dilation: int) -> Iterator[tuple[int, int, mx.array]]:
    """For each place of the kernel, what all windows see through it, (R, C)."""
    n, height, width, channels = padded.shape
    flat = padded.reshape(-1, channels)
    count = n * height * width - dilation * (kernel - 1) * (width + 1)
    for i in range(kernel):
        for j in range(kernel):
            start = dilation * (i * width + j)
            yield i, j, flat[start : start + count]


def _pad(x: mx.array, before: int, after: int) -> mx.array:
    """Rows and columns of zeros."""
    around = (before, after)
    return mx.pad(x, [(0, 0), around, around, (0, 0)]) if before or after else x
