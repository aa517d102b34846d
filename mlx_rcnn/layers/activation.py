"""Piecewise linear activations (MobileNetV3, section 5.2)."""

from __future__ import annotations

import mlx.core as mx

from ..ops.fuse import fused


@fused
def hard_sigmoid(x: mx.array) -> mx.array:
    """``min(max(x + 3, 0), 6) / 6``, as ``torch.nn.Hardsigmoid``."""
    return mx.minimum(mx.maximum(x + 3, 0), 6) / 6


@fused
def hard_swish(x: mx.array) -> mx.array:
    """``x * hard_sigmoid(x)``, as ``torch.nn.Hardswish``."""
    return x * mx.minimum(mx.maximum(x + 3, 0), 6) / 6
