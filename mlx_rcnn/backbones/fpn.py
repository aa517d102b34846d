"""Feature pyramid network (Lin et al., 2017) and the backbones that carry one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

import mlx.core as mx
import mlx.nn as nn

from ..config.backbone import MobileNetFPNConfig, ResNetFPNConfig
from ..layers import Conv2d, Norm, conv_norm, fold, make_norm, upsample_nearest
from ..layers.norm import ConvNorm
from ..ops.halves import add_product
from .mobilenet import MobileNetV3
from .resnet import ResNet


class FeaturePyramidNetwork(nn.Module):
    """As torchvision's, with ``LastLevelMaxPool``: lateral 1x1, a top-down path, 3x3 outputs."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int,
        # makes a norm of so many channels, which follows each convolution in place of its bias
        norm: Callable[[int], Norm] | None = None,
    ):
        super().__init__()

        def block(inputs: int, kernel: int) -> ConvNorm:
            # kaiming_uniform_(a=1): a uniform of this standard deviation
            std = math.sqrt(1.0 / (inputs * kernel * kernel))
            padding, bias = kernel // 2, norm is None
            conv = Conv2d(inputs, out_channels, kernel, padding=padding, bias=bias, std=std)
            return [conv] if norm is None else [conv, norm(out_channels)]

        self.inner_blocks = [block(c, 1) for c in in_channels]
        self.layer_blocks = [block(out_channels, 3) for _ in in_channels]

    def __call__(self, maps: list[mx.array]) -> list[mx.array]:
        """Pyramid levels (N, h, w, out_channels), finest first: one a map, and one coarser."""
        top = _run(self.inner_blocks[-1], maps[-1])
        levels = [_run(self.layer_blocks[-1], top)]
        for i in range(len(maps) - 2, -1, -1):
            top = _merge(self.inner_blocks[i], maps[i], top)
            levels.insert(0, _run(self.layer_blocks[i], top))
        return [*levels, levels[-1][:, ::2, ::2]]  # max_pool2d(kernel 1, stride 2)


def _run(block: ConvNorm, x: mx.array) -> mx.array:
    return conv_norm(x, block[0], block[1] if len(block) > 1 else None, relu=False)


def _merge(block: ConvNorm, x: mx.array, coarse: mx.array) -> mx.array:
    """The lateral convolution of ``x`` plus the coarser map, enlarged."""
    n, h, w, channels = x.shape
    folded = fold(block[0], block[1] if len(block) > 1 else None)
    if folded is None:
        return _run(block, x) + upsample_nearest(coarse, (h, w))
    weight, shift = (v.astype(x.dtype) for v in folded)
    # The shift joins the coarse map, and the product is added to it: two passes fewer.
    coarse = upsample_nearest(coarse + shift, (h, w))
    flat = add_product(
        coarse.reshape(-1, coarse.shape[-1]),
        x.reshape(-1, channels),
        weight.reshape(-1, channels).T,
    )
    return flat.reshape(n, h, w, -1)


class _WithFPN(nn.Module):
    """A classifier (``net``) under a feature pyramid (``fpn``)."""

    def __init__(
        self,
        config: ResNetFPNConfig | MobileNetFPNConfig,
        classifier: type[ResNet | MobileNetV3],
        first: int,
    ):
        super().__init__()
        options = asdict(config)
        out_channels, returned = options.pop("out_channels"), options.pop("returned_layers")
        kind = options.pop("fpn_norm")
        self.config, self._first = config, first
        self.net = classifier(**options)
        self.fpn = FeaturePyramidNetwork(
            tuple(self.net.stage_channels[i - first] for i in returned),
            out_channels,
            None
            if kind is None
            else lambda c: make_norm(kind, c, config.norm_eps, config.norm_groups),
        )

    def __call__(self, x: mx.array) -> list[mx.array]:
        """(N, H, W, 3) network input -> pyramid levels, finest first."""
        maps = self.net.features(x)
        return self.fpn([maps[i - self._first] for i in self.config.returned_layers])


class ResNetFPN(_WithFPN):
    """A ResNet (``net``, a classifier of its own) under a feature pyramid (``fpn``)."""

    def __init__(self, config: ResNetFPNConfig):
        super().__init__(config, ResNet, first=1)


class MobileNetFPN(_WithFPN):
    """A MobileNetV3 (``net``, a classifier of its own) under a feature pyramid (``fpn``)."""

    def __init__(self, config: MobileNetFPNConfig):
        super().__init__(config, MobileNetV3, first=0)
