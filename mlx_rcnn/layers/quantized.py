"""Linear layers whose weights are stored in a few bits."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config.quantization import Quantization
from .conv import Linear


class QuantizedLinear(nn.QuantizedLinear):
    """``mlx.nn.QuantizedLinear``, which on a CPU restores its weights for each product.

    MLX's product of quantised weights has a kernel on a GPU; on a CPU it is a loop, some forty
    times slower than BLAS over restored weights (1000 x 12544 by 12544 x 1024).

    Args:
        layer: whose weights it takes; ``scales`` and ``biases`` are of their type.
        how: bits and groups.
    """

    def __init__(self, layer: Linear, how: Quantization):
        nn.Module.__init__(self)
        self.group_size, self.bits, self.mode = how.group_size, how.bits, how.mode
        packed = mx.quantize(layer.weight, how.group_size, how.bits, how.mode)
        self.weight, self.scales, self.biases = packed
        self.bias = layer.bias
        self.freeze()

    def restored(self) -> mx.array:
        """The weights (out, in) that the product is of, in the scales' type."""
        how = (self.group_size, self.bits, self.mode)
        return mx.dequantize(self.weight, self.scales, self.biases, *how)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) to (..., out)."""
        if mx.default_device().type == mx.cpu:
            return mx.addmm(self.bias, x, self.restored().T)
        found: mx.array = super().__call__(x)
        return found

    @property
    def in_features(self) -> int:
        """Size of the last axis of the input."""
        return int(self.scales.shape[1]) * int(self.group_size)

    @property
    def out_features(self) -> int:
        """Size of the last axis of the output."""
        return int(self.weight.shape[0])
