"""ResNet (He et al., 2015) and ResNeXt, the classifier included.

Parameter names are torchvision's (``layer1.0.conv1.weight``). The network is usable alone:
``ResNet(50)(images)`` gives class logits, so that it can be pretrained, saved and loaded back.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backbone_config import RESNET_DEPTHS
from ..layers import Conv2d, Linear, conv_norm, make_norm, max_pool

BLOCKS = dict(
    zip(
        RESNET_DEPTHS,
        ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)),
        strict=True,
    )
)


class _Block(nn.Module):
    """What the two kinds of block share: a projection where the shape changes."""

    expansion: int

    def _project(self, inputs: int, outputs: int, stride: int, net: ResNet) -> None:
        if stride != 1 or inputs != outputs:
            conv = Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample: list[Any] = [conv, net.norm(outputs)]

    def _shortcut(self, x: mx.array) -> mx.array:
        if "downsample" not in self:
            return x
        conv, norm = self.downsample
        return conv_norm(x, conv, norm, relu=False)


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, net: ResNet):
        super().__init__()
        self.conv1 = Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = net.norm(planes)
        self.conv2 = Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = net.norm(planes)
        self._project(inputs, planes, stride, net)

    def __call__(self, x: mx.array) -> mx.array:
        shortcut = self._shortcut(x)
        y = conv_norm(x, self.conv1, self.bn1)
        return conv_norm(y, self.conv2, self.bn2, residual=shortcut)


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet-50 and deeper, ResNeXt)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, net: ResNet):
        super().__init__()
        width = planes * net.width_per_group // 64 * net.groups
        outputs = planes * self.expansion
        first, second = (stride, 1) if net.stride_in_1x1 else (1, stride)
        self.conv1 = Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = net.norm(width)
        self.conv2 = Conv2d(width, width, 3, second, 1, net.groups, bias=False)
        self.bn2 = net.norm(width)
        self.conv3 = Conv2d(width, outputs, 1, bias=False)
        self.bn3 = net.norm(outputs)
        self._project(inputs, outputs, stride, net)

    def __call__(self, x: mx.array) -> mx.array:
        shortcut = self._shortcut(x)
        y = conv_norm(x, self.conv1, self.bn1)
        y = conv_norm(y, self.conv2, self.bn2)
        return conv_norm(y, self.conv3, self.bn3, residual=shortcut)


class ResNet(nn.Module):
    """A residual network over channels-last images.

    Args:
        depth (int): 18, 34, 50, 101 or 152. Default: ``50``.
        num_classes (int): outputs of the classifier; 0 leaves ``fc`` out. Default: ``1000``.
        norm (str): ``"batch"``, ``"frozen"`` or ``"group"``. Default: ``"batch"``.
        norm_eps (float): epsilon of the norms. Default: ``1e-5``.
        norm_groups (int): groups of ``norm="group"``. Default: ``32``.
        stride_in_1x1 (bool): where a bottleneck strides. Default: ``False``, its 3x3.
        groups (int): groups of the 3x3 convolutions. Default: ``1``.
        width_per_group (int): Default: ``64``.
        width (int): channels of the stem and, doubling, of the stages. Default: ``64``.

    Raises:
        ValueError: a depth that does not exist.
    """

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
    ):
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth!r}: expected one of {RESNET_DEPTHS}")
        self.norm = lambda dims: make_norm(norm, dims, norm_eps, norm_groups)
        self.stride_in_1x1, self.groups, self.width_per_group = (
            stride_in_1x1,
            groups,
            width_per_group,
        )
        block = Bottleneck if depth >= 50 else BasicBlock
        self.conv1 = Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = self.norm(width)
        inputs = width
        for stage, count in enumerate(BLOCKS[depth]):
            planes = width * 2**stage
            blocks = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                blocks.append(block(inputs, planes, stride, self))
                inputs = planes * block.expansion
            self[f"layer{stage + 1}"] = blocks
        self.stage_channels = tuple(width * 2**s * block.expansion for s in range(4))
        if num_classes:
            self.fc = Linear(inputs, num_classes)

    def features(self, x: mx.array) -> list[mx.array]:
        """The four stages' outputs.

        Args:
            x (N, H, W, 3): network input.

        Returns:
            C2..C5: (N, H/4, W/4, c), ..., (N, H/32, W/32, 8c), sizes rounded up.
        """
        x = max_pool(conv_norm(x, self.conv1, self.bn1))
        maps = []
        for stage in range(1, 5):
            for block in self[f"layer{stage}"]:
                x = block(x)
            maps.append(x)
        return maps

    def __call__(self, x: mx.array) -> mx.array:
        """Class logits (N, num_classes), or the pooled features (N, c) without a classifier.

        Args:
            x (N, H, W, 3): network input.
        """
        pooled = mx.mean(self.features(x)[-1], axis=(1, 2))
        return self.fc(pooled) if "fc" in self else pooled
