"""Convolutions and linears with torchvision's attribute names, and the resampling between them."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..ops.conv2d import conv2d
from ..ops.gradient import kernel_first, own_gradient
from ..ops.halves import HALVES, add_product, product
from .activation import shift_relu


def wide_gradient(bias: mx.array, shape: tuple[int, ...]) -> mx.array:
    """A bias (C,) of 16 bits spread to (..., C), so that its gradient is summed in float32."""
    # A sum over all pixels of a map loses its last digits in 16 bits.
    if bias.dtype not in HALVES:
        return bias

    def forward(bias: mx.array) -> mx.array:
        return mx.broadcast_to(bias, shape)

    def backward(bias: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        axes = tuple(range(len(shape) - 1))
        return mx.sum(cotangent.astype(mx.float32), axis=axes).astype(bias.dtype)

    return own_gradient(forward, backward)(bias)


class Conv2d(nn.Module):
    """A 2-D convolution, channels last; 1x1 kernels run as a matrix product.

    MLX's convolution unfolds its input first, which a 1x1 kernel does not need.

    Args:
        in_channels (int): channels of the input.
        out_channels (int): channels of the output.
        kernel_size (int): side of the square kernel.
        stride (int): Default: ``1``.
        padding (int): zeros on each side. Default: ``0``.
        groups (int): Default: ``1``.
        bias (bool): Default: ``True``.
        std (float): standard deviation of the initial weights; by default He initialisation over
            the outputs, as torchvision initialises a ResNet. The bias starts at 0.
        dilation (int): Default: ``1``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        std: float | None = None,
        dilation: int = 1,
    ):
        super().__init__()
        if std is None:
            std = math.sqrt(2.0 / (out_channels * kernel_size * kernel_size))
        shape = (out_channels, kernel_size, kernel_size, in_channels // groups)
        self.weight = std * mx.random.normal(shape)
        if bias:
            self.bias = mx.zeros((out_channels,))
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.groups, self.dilation = groups, dilation

    @property
    def in_channels(self) -> int:
        """Channels of the input, read from the weights."""
        return int(self.weight.shape[-1]) * self.groups

    @property
    def out_channels(self) -> int:
        """Channels of the output, read from the weights."""
        return int(self.weight.shape[0])

    def _extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}, "
            f"bias={'bias' in self}"
        )

    def convolve(self, x: mx.array, weight: mx.array) -> mx.array:
        """The convolution with ``weight`` in place of its own, and no bias."""
        learns = self.training and "weight" not in self._no_grad
        return (kernel_first(self._convolve) if learns else self._convolve)(x, weight)

    def _convolve(self, x: mx.array, weight: mx.array) -> mx.array:
        if self.kernel_size == 1 and self.groups == 1 and self.padding == 0:
            x = x[:, :: self.stride, :: self.stride] if self.stride > 1 else x
            return product(x, weight.reshape(weight.shape[0], -1).T)
        return conv2d(x, weight, self.stride, self.padding, self.groups, self.dilation)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, h, w, in) to (N, h', w', out)."""
        y = self.convolve(x, self.weight)
        return y + wide_gradient(self.bias, y.shape) if "bias" in self else y


def conv_relu(x: mx.array, conv: Conv2d) -> mx.array:
    """Convolution with a bias, and ReLU.

    Args:
        x (N, H, W, C): the input.
        conv: with a bias.

    Returns:
        (N, H', W', O).
    """
    y = conv.convolve(x, conv.weight)
    return shift_relu(y, wide_gradient(conv.bias, y.shape))


class ConvTranspose2d(nn.Module):
    """A transposed convolution whose kernel is a multiple of its stride, as a matrix product.

    Every input pixel owns a ``k x k`` block of the output. With a kernel of the stride no two
    blocks meet; otherwise they are added in ``(k / stride)^2`` shifted copies. On a CPU, 512 to 17
    channels with kernel 4 and stride 2, this is 48 times faster than MLX's transposed convolution,
    which spreads its input out with zeros, and 13 times faster than four small convolutions.

    Args:
        in_channels (int): channels of the input.
        out_channels (int): channels of the output.
        kernel_size (int): side of the kernel. Default: ``2``.
        stride (int): Default: the kernel size.
        padding (int): rows and columns cut off each side of the output. Default: ``0``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 2,
        stride: int | None = None,
        padding: int = 0,
    ):
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride
        if kernel_size % self.stride:
            raise ValueError(f"kernel_size={kernel_size}: expected a multiple of stride={stride}")
        # torch's He initialisation takes a transposed kernel's inputs for its outputs.
        std = math.sqrt(2.0 / (in_channels * kernel_size * kernel_size))
        shape = (out_channels, kernel_size, kernel_size, in_channels)
        self.weight = std * mx.random.normal(shape)
        self.bias = mx.zeros((out_channels,))

    @property
    def in_channels(self) -> int:
        """Channels of the input, read from the weights."""
        return int(self.weight.shape[-1])

    @property
    def out_channels(self) -> int:
        """Channels of the output, read from the weights."""
        return int(self.weight.shape[0])

    def _extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
        )

    def __call__(self, x: mx.array) -> mx.array:
        """(N, h, w, in) to (N, h', w', out)."""
        n, h, w, channels = x.shape
        out, k, _, _ = self.weight.shape
        s, copies, cut = self.stride, k // self.stride, self.padding
        matrix = self.weight.transpose(3, 1, 2, 0).reshape(channels, k * k * out)
        y = product(x, matrix).reshape(n, h, w, copies, s, copies, s, out)
        total: mx.array | None = None  # (n, h + copies - 1, w + copies - 1, s, s, out)
        for a in range(copies):
            for b in range(copies):
                around = [(a, copies - 1 - a), (b, copies - 1 - b)]
                part = y[:, :, :, a, :, b]
                part = mx.pad(part, [(0, 0), *around, *[(0, 0)] * 3]) if copies > 1 else part
                total = part if total is None else total + part
        assert total is not None
        height, width = (h + copies - 1) * s, (w + copies - 1) * s
        y = total.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, out)
        y = y[:, cut : height - cut, cut : width - cut]
        return y + wide_gradient(self.bias, y.shape)


class Linear(nn.Linear):
    """``mlx.nn.Linear`` that knows its sizes, so that torchvision's head swap reads them.

    Args:
        in_features (int): size of the last axis of the input.
        out_features (int): size of the last axis of the output.
        std (float): standard deviation of normal initial weights, with a zero bias; by default
            MLX's uniform initialisation.
    """

    def __init__(self, in_features: int, out_features: int, std: float | None = None):
        super().__init__(in_features, out_features)
        if std is not None:
            self.weight = std * mx.random.normal((out_features, in_features))
            self.bias = mx.zeros((out_features,))

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) to (..., out)."""
        shape = (*x.shape[:-1], self.weight.shape[0])
        return add_product(wide_gradient(self.bias, shape), x, self.weight.T)

    @property
    def in_features(self) -> int:
        """Size of the last axis of the input."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Size of the last axis of the output."""
        return int(self.weight.shape[0])


def upsample_nearest(x: mx.array, size: tuple[int, int]) -> mx.array:
    """Nearest-neighbour resize, as ``torch.nn.functional.interpolate(mode="nearest")``.

    Args:
        x (N, h, w, C): the input.
        size: (height, width) wanted.

    Returns:
        (N, *size, C): output pixel i shows input pixel ``floor(i * (h / height))``, in float32.
    """
    n, h, w, channels = x.shape
    height, width = size
    if (height, width) == (2 * h, 2 * w):
        x = mx.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, channels))
        return x.reshape(n, height, width, channels)
    return x[:, _nearest(h, height)][:, :, _nearest(w, width)]


def upsample_bilinear(x: mx.array) -> mx.array:
    """Double both sides, as ``torch.nn.functional.interpolate(scale_factor=2, mode="bilinear")``.

    Args:
        x (N, h, w, C): the input.

    Returns:
        (N, 2 h, 2 w, C): each input pixel gives two, a quarter of the way to its two neighbours.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        before = mx.take(x, mx.maximum(mx.arange(-1, n - 1), 0), axis=axis)
        after = mx.take(x, mx.minimum(mx.arange(1, n + 1), n - 1), axis=axis)
        x = mx.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = x.flatten(axis, axis + 1)
    return x


def _nearest(length: int, size: int) -> mx.array:
    scale = np.float32(length) / np.float32(size)  # torch's, which rounds
    index = np.floor(np.arange(size, dtype=np.float32) * scale)
    return mx.array(np.minimum(index, length - 1).astype(np.int32))
