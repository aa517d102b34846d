"""Layers of the networks: convolutions, linears and norms, channels last."""

from .activation import hard_sigmoid, hard_swish
from .conv import (
    Conv2d,
    ConvTranspose2d,
    Linear,
    conv_relu,
    upsample_bilinear,
    upsample_nearest,
)
from .dropout import dropped, run_layers
from .evaluated import EvaluatedModule, inference, weights_to_come
from .norm import (
    BatchNorm,
    FrozenBatchNorm,
    GroupNorm,
    Norm,
    conv_norm,
    conv_norm_pool,
    fold,
    make_norm,
)
from .pool import adaptive_average_pool, max_pool
from .quantized import QuantizedLinear

__all__ = [
    "BatchNorm",
    "Conv2d",
    "ConvTranspose2d",
    "EvaluatedModule",
    "FrozenBatchNorm",
    "GroupNorm",
    "Linear",
    "Norm",
    "QuantizedLinear",
    "adaptive_average_pool",
    "conv_norm",
    "conv_norm_pool",
    "conv_relu",
    "dropped",
    "fold",
    "hard_sigmoid",
    "hard_swish",
    "inference",
    "make_norm",
    "max_pool",
    "run_layers",
    "upsample_bilinear",
    "upsample_nearest",
    "weights_to_come",
]
