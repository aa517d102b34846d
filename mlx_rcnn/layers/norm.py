"""Normalisation: batch statistics, frozen statistics, or groups."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .activation import relu as rectified
from .activation import shift, shift_add_relu, shift_relu
from .conv import Conv2d, wide_gradient
from .pool import max_pool

AFFINE = ("weight", "bias")
STATISTICS = ("running_mean", "running_var")


class BatchNorm(nn.Module):
    """Batch normalisation whose running statistics no optimizer can reach.

    MLX's own loses that on ``unfreeze()``. In training mode the running variance takes the unbiased
    estimate, as in torch.

    Args:
        dims (int): channels.
        eps (float): added to the variance. Default: ``1e-5``.
        momentum (float): weight of a new batch in the running statistics. Default: ``0.1``.
    """

    always_frozen: tuple[str, ...] = STATISTICS

    def __init__(self, dims: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.weight = mx.ones((dims,))
        self.bias = mx.zeros((dims,))
        self.running_mean = mx.zeros((dims,))
        self.running_var = mx.ones((dims,))
        self.eps, self.momentum = eps, momentum

    @property
    def _no_grad(self) -> set[str]:
        """What MLX leaves out of trainable_parameters(); never less than ``always_frozen``."""
        frozen: set[str] = self.__dict__["_frozen"]
        frozen.update(self.always_frozen)
        return frozen

    @_no_grad.setter
    def _no_grad(self, names: set[str]) -> None:
        self.__dict__["_frozen"] = set(names)

    def _extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"

    def affine(self) -> tuple[mx.array, mx.array] | None:
        """(scale, shift), float32, of the fixed statistics; ``None`` where the batch decides."""
        return None if self.uses_batch else self._fixed()

    @property
    def uses_batch(self) -> bool:
        """Whether the statistics are now those of the batch.

        In training mode they are, also where scale and shift are frozen, as in torch: a stage that
        ``set_trainable`` leaves out still normalises by the batch and follows it.
        """
        return bool(self.training)

    def _fixed(self) -> tuple[mx.array, mx.array]:
        weight, bias, mean, var = (self[k].astype(mx.float32) for k in AFFINE + STATISTICS)
        scale = weight * mx.rsqrt(var + self.eps)
        return scale, bias - mean * scale

    def __call__(self, x: mx.array, valid: mx.array | None = None) -> mx.array:
        """Normalise.

        Args:
            x (N, ..., C): maps, or rows.
            valid (N,): rows that the statistics of the batch are taken over. Default: all.
        """
        if (fixed := self.affine()) is not None:
            return (x * fixed[0] + fixed[1]).astype(x.dtype)
        wide = x.astype(mx.float32)
        rows, values = mx.array(float(x.shape[0])), x.size // x.shape[-1] // x.shape[0]
        share = None
        if valid is not None:
            rows = mx.sum(valid.astype(mx.float32))
            share = valid.reshape(-1, *[1] * (x.ndim - 1)) / mx.maximum(rows, 1) * x.shape[0]
        mean = mean_in_steps(wide if share is None else wide * share)
        centred = wide - spread(mean, x.shape)
        square = mx.square(centred)
        var = mean_in_steps(square if share is None else square * share)
        self._follow(mx.stop_gradient(mean), mx.stop_gradient(var), rows * values)
        scale = self.weight * mx.rsqrt(var + self.eps)
        y = centred * spread(scale, x.shape) + spread(self.bias, x.shape)
        return y.astype(x.dtype)

    def _follow(self, mean: mx.array, var: mx.array, count: mx.array) -> None:
        """Move the running statistics towards those of a batch of ``count`` values, if any."""
        mu = mx.where(count > 0, self.momentum, 0.0)
        unbiased = var * (count / mx.maximum(count - 1, 1))
        self.running_mean = (1 - mu) * self.running_mean + mu * mean
        self.running_var = (1 - mu) * self.running_var + mu * unbiased


def mean_in_steps(x: mx.array) -> mx.array:
    """The mean (C,) over all axes but the last, one axis after the other."""
    # A float32 sum over all pixels of a map at once is ten times less exact (7e-6 of 20,000
    # pixels), which a deep network of batch norms amplifies to per cents of a gradient.
    while x.ndim > 1:
        x = mx.mean(x, axis=-2)
    return x


def spread(v: mx.array, shape: tuple[int, ...]) -> mx.array:
    """``v`` (C,) as (..., 1, C), to broadcast to ``shape``: its gradient is summed in steps too."""
    for count in range(1, len(shape) - 1):
        v = mx.broadcast_to(v[..., None, :], (*shape[:count], shape[-1]))
    return v[..., None, :]


class FrozenBatchNorm(BatchNorm):
    """Batch normalisation with everything fixed, as ``torchvision.ops.FrozenBatchNorm2d``.

    It has no training branch, and neither ``unfreeze()`` nor ``train()`` changes what it does.

    Args:
        dims (int): channels.
        eps (float): added to the variance. Default: ``1e-5``.
    """

    always_frozen = AFFINE + STATISTICS

    @property
    def uses_batch(self) -> bool:
        """``False``."""
        return False


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He, 2018), the choice for training from scratch.

    MLX's own copies the map to put each group in one row; here the statistics are those of the
    channels, averaged over a group: 5 to 8 times faster on a CPU, gradient included.

    Args:
        num_groups (int): groups.
        dims (int): channels, a multiple of ``num_groups``.
        eps (float): added to the variance. Default: ``1e-5``.
    """

    def __init__(self, num_groups: int, dims: int, eps: float = 1e-5):
        if dims % num_groups:
            raise ValueError(f"norm_groups={num_groups}: does not divide {dims} channels")
        super().__init__(num_groups, dims, eps=eps, pytorch_compatible=True)

    uses_batch = False  # each image by itself

    def affine(self) -> None:
        """``None``: the image decides."""
        return

    def __call__(self, x: mx.array) -> mx.array:
        """(N, H, W, C) -> the same shape and dtype; statistics in float32."""
        n, height, _, channels = x.shape
        wide = x.astype(mx.float32)
        along = (n, height, 1, channels)  # a gradient is summed over W, then H: see mean_in_steps
        centred = wide - mx.broadcast_to(self._group_mean(wide), along)
        scale = mx.rsqrt(self._group_mean(mx.square(centred)) + self.eps) * self.weight
        y = centred * mx.broadcast_to(scale, along) + spread(self.bias, x.shape)
        return y.astype(x.dtype)

    def _group_mean(self, x: mx.array) -> mx.array:
        """Mean over the pixels and channels of each group, (N, 1, 1, C)."""
        n, channels = x.shape[0], x.shape[-1]
        mean = mx.mean(mx.mean(x, axis=2), axis=1).reshape(n, self.num_groups, -1)
        mean = mx.broadcast_to(mx.mean(mean, axis=-1, keepdims=True), mean.shape)
        return mean.reshape(n, 1, 1, channels)


Norm = BatchNorm | GroupNorm
ConvNorm = list[Any]  # [Conv2d] or [Conv2d, Norm]: a list has one type of item, or any


def make_norm(kind: str, dims: int, eps: float = 1e-5, groups: int = 32) -> Norm:
    """A norm by its config name.

    Args:
        kind: ``"batch"``, ``"frozen"`` or ``"group"``.
        dims: channels.
        eps: added to the variance. Default: ``1e-5``.
        groups: of ``"group"``. Default: ``32``.

    Returns:
        The layer.

    Raises:
        ValueError: another kind.
    """
    if kind == "group":
        return GroupNorm(groups, dims, eps)
    if kind == "frozen":
        return FrozenBatchNorm(dims, eps)
    if kind == "batch":
        return BatchNorm(dims, eps)
    raise ValueError(f"norm={kind!r}: expected 'batch', 'frozen' or 'group'")


def fold(conv: Conv2d, norm: Norm | None) -> tuple[mx.array, mx.array] | None:
    """The kernel and shift of a convolution with its norm's fixed statistics folded in.

    The parameters stay as they are in the checkpoint.

    Args:
        conv: without a norm it has a bias.
        norm: of ``conv.out_channels``, or ``None``.

    Returns:
        ``weight`` (O, k, k, C) and ``shift`` (O,), float32 where a norm was folded in; ``None``
        where batch or image decide.
    """
    if norm is None:
        return conv.weight, conv.bias
    fixed = norm.affine()
    if fixed is None:
        return None
    scale, shift = fixed
    if "bias" in conv:
        shift = shift + scale * conv.bias
    return conv.weight * scale[:, None, None, None], shift


def conv_norm(
    x: mx.array,
    conv: Conv2d,
    norm: Norm | None,
    relu: bool = True,
    residual: mx.array | None = None,
    valid: mx.array | None = None,
) -> mx.array:
    """Convolution, norm, optional residual, optional ReLU.

    Fixed statistics are folded into the kernel on the way, and one pass over the activations
    remains.

    Args:
        x (N, H, W, C): the input.
        conv: with a bias where ``norm`` is ``None``; otherwise it may have one, as VGG's do.
        norm: of ``conv.out_channels``, or ``None``.
        relu: Default: ``True``.
        residual: added before the ReLU.
        valid (N,): rows that a batch's statistics are taken over. Default: all.

    Returns:
        (N, H', W', O).
    """
    folded = fold(conv, norm)
    if folded is None:
        assert norm is not None
        y = conv(x)
        y = norm(y, valid) if isinstance(norm, BatchNorm) else norm(y)
        y = y if residual is None else y + residual
        return rectified(y) if relu else y
    weight, added = folded
    y = conv.convolve(x, weight.astype(x.dtype))
    added = wide_gradient(added.astype(x.dtype), y.shape)
    if not relu:
        y = shift(y, added)
        return y if residual is None else y + residual
    return shift_relu(y, added) if residual is None else shift_add_relu(y, added, residual)


def conv_norm_pool(x: mx.array, conv: Conv2d, norm: Norm | None) -> mx.array:
    """Convolution, norm, ReLU and a 3x3 max pool of stride 2: the stem of a ResNet.

    What neither a fixed shift nor a ReLU puts in another order is pooled first, and a quarter of
    the map is left for both; the result is the same, to the bit.

    Args:
        x (N, H, W, C): the input.
        conv, norm: as :func:`conv_norm`.

    Returns:
        (N, h, w, O).
    """
    folded = fold(conv, norm)
    if folded is None:
        return rectified(max_pool(conv_norm(x, conv, norm, relu=False)))
    weight, added = folded
    y = max_pool(conv.convolve(x, weight.astype(x.dtype)))
    return shift_relu(y, wide_gradient(added.astype(x.dtype), y.shape))
