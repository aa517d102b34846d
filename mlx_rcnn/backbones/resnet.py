"""ResNet (He et al., 2015) and ResNeXt, the classifier included.

Parameter names are torchvision's (``layer1.0.conv1.weight``). The network is usable alone:
``ResNet(50)(images)`` gives class logits, so that it can be pretrained, saved and loaded back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config.backbone import RESNET_DEPTHS, ResNetConfig
from ..layers import Conv2d, Linear, Norm, conv_norm, conv_norm_pool, make_norm, run_layers
from ..layers.norm import ConvNorm
from ..layers.recompute import stage

BLOCKS = dict(
    zip(
        RESNET_DEPTHS,
        ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)),
        strict=True,
    )
)


class BlockOptions(NamedTuple):
    """What all blocks share; fields as in :class:`ResNet`, and what makes a norm of channels."""

    norm: Callable[[int], Norm]
    stride_in_1x1: bool = False
    groups: int = 1
    width_per_group: int = 64


class _Block(nn.Module):
    """What the two kinds of block share: a projection where the shape changes."""

    expansion: int

    def _project(self, inputs: int, outputs: int, stride: int, net: BlockOptions) -> None:
        if stride != 1 or inputs != outputs:
            conv = Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample: ConvNorm = [conv, net.norm(outputs)]

    def _shortcut(self, x: mx.array) -> mx.array:
        if "downsample" not in self:
            return x
        conv, norm = self.downsample
        return conv_norm(x, conv, norm, relu=False)


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, net: BlockOptions, dilation: int = 1):
        super().__init__()
        self.conv1 = Conv2d(inputs, planes, 3, stride, dilation, bias=False, dilation=dilation)
        self.bn1 = net.norm(planes)
        self.conv2 = Conv2d(planes, planes, 3, 1, dilation, bias=False, dilation=dilation)
        self.bn2 = net.norm(planes)
        self._project(inputs, planes, stride, net)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, h, w, C) to the block's output."""
        shortcut = self._shortcut(x)
        y = conv_norm(x, self.conv1, self.bn1)
        return conv_norm(y, self.conv2, self.bn2, residual=shortcut)


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet-50 and deeper, ResNeXt)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, net: BlockOptions, dilation: int = 1):
        super().__init__()
        width = planes * net.width_per_group // 64 * net.groups
        outputs = planes * self.expansion
        first, second = (stride, 1) if net.stride_in_1x1 else (1, stride)
        self.conv1 = Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = net.norm(width)
        self.conv2 = Conv2d(
            width, width, 3, second, dilation, net.groups, bias=False, dilation=dilation
        )
        self.bn2 = net.norm(width)
        self.conv3 = Conv2d(width, outputs, 1, bias=False)
        self.bn3 = net.norm(outputs)
        self._project(inputs, outputs, stride, net)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, h, w, C) to the block's output."""
        shortcut = self._shortcut(x)
        y = conv_norm(x, self.conv1, self.bn1)
        y = conv_norm(y, self.conv2, self.bn2)
        return conv_norm(y, self.conv3, self.bn3, residual=shortcut)


def residual_stage(
    depth: int, stage: int, width: int, options: BlockOptions, dilation: int = 1
) -> list[nn.Module]:
    """The blocks of one stage, 1 to 4, of a ResNet, in order; ``width`` is the stem's."""
    block = Bottleneck if depth >= 50 else BasicBlock
    planes = width * 2 ** (stage - 1)
    outputs = planes * block.expansion
    inputs = width if stage == 1 else outputs // 2
    # with a dilation above 1, that of the 3x3 convolutions, the stage does not stride
    stride = 1 if stage == 1 or dilation > 1 else 2
    first = block(inputs, planes, stride, options, dilation)
    rest = range(1, BLOCKS[depth][stage - 1])
    return [first, *(block(outputs, planes, 1, options, dilation) for _ in rest)]


def block_options(
    norm: str,
    norm_eps: float,
    norm_groups: int,
    stride_in_1x1: bool,
    groups: int,
    width_per_group: int,
) -> BlockOptions:
    """The options of blocks out of a config's fields, see :class:`ResNet`."""
    return BlockOptions(
        lambda dims: make_norm(norm, dims, norm_eps, norm_groups),
        stride_in_1x1,
        groups,
        width_per_group,
    )


class ResNet(nn.Module):
    """A residual network over channels-last images; its arguments are :class:`ResNetConfig`'s."""

    classifier_size = 224  # side in pixels of the images that classifiers were trained on

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 1000,
        norm: str = "batch",
        norm_eps: float = 1e-5,
        norm_groups: int = 32,
        stride_in_1x1: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        width: int = 64,
        last_stage: int = 4,
        dilated: bool = False,
    ):
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth!r}: expected one of {RESNET_DEPTHS}")
        options = block_options(norm, norm_eps, norm_groups, stride_in_1x1, groups, width_per_group)
        self.conv1 = Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = options.norm(width)
        for number in range(1, last_stage + 1):
            dilation = 2 if dilated and number == 4 else 1  # the fourth stage does not stride
            self[f"layer{number}"] = residual_stage(depth, number, width, options, dilation)
        expansion = 4 if depth >= 50 else 1
        self.stage_channels = tuple(width * 2**s * expansion for s in range(last_stage))
        self.unit_channels = self.stage_channels[-1]
        if num_classes:
            self.fc = Linear(self.stage_channels[-1], num_classes)

    def features(self, x: mx.array) -> list[mx.array]:
        """C2..C5 of (N, H, W, 3): (N, H/4, W/4, c), ..., (N, H/32, W/32, 8c), sizes rounded up."""
        x = stage([self.conv1, self.bn1], self._stem, x)
        maps = []
        for number in range(1, len(self.stage_channels) + 1):
            blocks = self[f"layer{number}"]
            x = stage(blocks, partial(run_layers, blocks), x)
            maps.append(x)
        return maps

    def _stem(self, x: mx.array) -> mx.array:
        return conv_norm_pool(x, self.conv1, self.bn1)

    def pooled(self, x: mx.array) -> mx.array:
        """The last stage's map before it is averaged, of four stages (N, H/32, W/32, c)."""
        return self.features(x)[-1]

    def units(self, pooled: mx.array, key: mx.array | None = None) -> mx.array:
        """(N, unit_channels), what the classifier's last layer sees; there is no dropout."""
        return mx.mean(pooled, axis=(1, 2))

    def __call__(self, x: mx.array) -> mx.array:
        """Class logits (N, num_classes), or the pooled features (N, c) without a classifier."""
        units = self.units(self.pooled(x))
        return self.fc(units) if "fc" in self else units


class ResNetMap(nn.Module):
    """A ResNet (``net``) whose last stage is the one map of a detector, as before pyramids."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.config = config
        self.net = ResNet(**asdict(config))

    def __call__(self, x: mx.array) -> mx.array:
        """(N, H, W, 3) network input -> one map (N, h, w, c)."""
        return self.net.features(x)[-1]
