"""Feature pyramid network (Lin et al., 2017) and the backbone that carries one."""

from __future__ import annotations

import math
from dataclasses import asdict

import mlx.core as mx
import mlx.nn as nn

from ..backbone_config import ResNetFPNConfig
from ..layers import Conv2d, upsample_nearest
from .resnet import ResNet


class FeaturePyramidNetwork(nn.Module):
    """Lateral 1x1 convolutions, a top-down path, 3x3 outputs, and a last level by subsampling.

    As ``torchvision.ops.FeaturePyramidNetwork`` with ``LastLevelMaxPool``.

    Args:
        in_channels (tuple of int): channels of the maps, finest first.
        out_channels (int): channels of every output.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int):
        super().__init__()

        def conv(inputs: int, kernel: int) -> list[Conv2d]:
            # kaiming_uniform_(a=1): a uniform of this standard deviation
            std = math.sqrt(1.0 / (inputs * kernel * kernel))
            return [Conv2d(inputs, out_channels, kernel, padding=kernel // 2, std=std)]

        self.inner_blocks = [conv(c, 1) for c in in_channels]
        self.layer_blocks = [conv(out_channels, 3) for _ in in_channels]

    def __call__(self, maps: list[mx.array]) -> list[mx.array]:
        """Pyramid levels (N, h, w, out_channels), finest first: one a map, and one coarser."""
        top = self.inner_blocks[-1][0](maps[-1])
        levels = [self.layer_blocks[-1][0](top)]
        for i in range(len(maps) - 2, -1, -1):
            n, h, w, channels = maps[i].shape
            lateral = self.inner_blocks[i][0]
            # The bias joins the coarse map, and the product is added to it: two passes fewer.
            coarse = upsample_nearest(top + lateral.bias, (h, w))
            kernel = lateral.weight.reshape(-1, channels).T
            flat = mx.addmm(
                coarse.reshape(-1, coarse.shape[-1]), maps[i].reshape(-1, channels), kernel
            )
            top = flat.reshape(n, h, w, -1)
            levels.insert(0, self.layer_blocks[i][0](top))
        return [*levels, levels[-1][:, ::2, ::2]]  # max_pool2d(kernel 1, stride 2)


class ResNetFPN(nn.Module):
    """A ResNet (``net``, a classifier of its own) under a feature pyramid (``fpn``).

    Args:
        config (ResNetFPNConfig): its structure.
    """

    def __init__(self, config: ResNetFPNConfig):
        super().__init__()
        options = asdict(config)
        out_channels, returned = options.pop("out_channels"), options.pop("returned_layers")
        self.config = config
        self.net = ResNet(**options)
        self.fpn = FeaturePyramidNetwork(
            tuple(self.net.stage_channels[i - 1] for i in returned), out_channels
        )

    def __call__(self, x: mx.array) -> list[mx.array]:
        """(N, H, W, 3) network input -> pyramid levels, finest first."""
        maps = self.net.features(x)
        return self.fpn([maps[i - 1] for i in self.config.returned_layers])
