"""Piecewise linear activations (MobileNetV3, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ..ops.fuse import fused
from ..ops.gradient import own_gradient


@fused
def hard_sigmoid(x: mx.array) -> mx.array:
    """``min(max(x + 3, 0), 6) / 6``, as ``torch.nn.Hardsigmoid``."""
    return mx.minimum(mx.maximum(x + 3, 0), 6) / 6


@fused
def hard_swish(x: mx.array) -> mx.array:
    """``x * hard_sigmoid(x)``, as ``torch.nn.Hardswish``."""
    return x * mx.minimum(mx.maximum(x + 3, 0), 6) / 6


@fused
def shift(x: mx.array, added: mx.array) -> mx.array:
    """``x + added``."""
    return x + added


@fused
def _rectified(x: mx.array) -> mx.array:
    return mx.maximum(x, 0)


@fused
def _shift_relu(x: mx.array, added: mx.array) -> mx.array:
    return mx.maximum(x + added, 0)


@fused
def _shift_add_relu(x: mx.array, added: mx.array, residual: mx.array) -> mx.array:
    return mx.maximum(x + added + residual, 0)


def relu(x: mx.array) -> mx.array:
    """``max(x, 0)``; as the next two it keeps its output for the gradient, and not its input."""
    return _kept_output(_rectified, lambda x: x, x)


def shift_relu(x: mx.array, added: mx.array) -> mx.array:
    """``max(x + added, 0)`` in one pass over ``x``; ``added`` (C,) goes to every pixel."""
    return _kept_output(_shift_relu, mx.add, x, added)


def shift_add_relu(x: mx.array, added: mx.array, residual: mx.array) -> mx.array:
    """``max(x + added + residual, 0)`` in one pass; ``added`` (C,), ``residual`` as ``x``."""
    return _kept_output(_shift_add_relu, lambda x, a, r: x + a + r, x, added, residual)


def _kept_output(
    function: Callable[..., mx.array], inner: Callable[..., mx.array], *given: mx.array
) -> mx.array:
    """``function``, which is ``max(inner, 0)``, with the gradient MLX derives, bit for bit."""

    def backward(
        primals: mx.array | tuple[mx.array, ...], cotangent: mx.array, output: mx.array
    ) -> mx.array | tuple[mx.array, ...]:
        arrays = list(primals) if isinstance(primals, tuple) else [primals]
        # The mask, as large as the output, must not be made before its time.
        (kept,) = mx.depends([output], [cotangent])
        _, gradients = mx.vjp(inner, arrays, [cotangent * (kept > 0)])
        return tuple(gradients) if len(arrays) > 1 else gradients[0]

    return own_gradient(function, backward)(*given)
