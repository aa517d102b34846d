"""MobileNetV3 (Howard et al., 2019), the classifier included.

Parameter names are torchvision's, with ``blocks`` for its ``features``
(``blocks.1.block.0.0.weight``). The network is usable alone, as ``ResNet`` is.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn

from ..config.backbone import MOBILENETS
from ..layers import (
    Conv2d,
    Linear,
    conv_norm,
    hard_sigmoid,
    hard_swish,
    make_norm,
    run_layers,
)
from ..layers.norm import ConvNorm
from ..layers.recompute import stage
from ..messages import nearest


class _Row(NamedTuple):
    """A row of the paper's tables 1 and 2."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    swish: bool
    stride: int
    tail: bool = False  # halved by ``reduced_tail``: outputs in the first, both in the others


LARGE = (
    _Row(3, 16, 16, False, False, 1),
    _Row(3, 64, 24, False, False, 2),
    _Row(3, 72, 24, False, False, 1),
    _Row(5, 72, 40, True, False, 2),
    _Row(5, 120, 40, True, False, 1),
    _Row(5, 120, 40, True, False, 1),
    _Row(3, 240, 80, False, True, 2),
    _Row(3, 200, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 480, 112, True, True, 1),
    _Row(3, 672, 112, True, True, 1),
    _Row(5, 672, 160, True, True, 2, tail=True),
    _Row(5, 960, 160, True, True, 1, tail=True),
    _Row(5, 960, 160, True, True, 1, tail=True),
)
SMALL = (
    _Row(3, 16, 16, True, False, 2),
    _Row(3, 72, 24, False, False, 2),
    _Row(3, 88, 24, False, False, 1),
    _Row(5, 96, 40, True, True, 2),
    _Row(5, 240, 40, True, True, 1),
    _Row(5, 240, 40, True, True, 1),
    _Row(5, 120, 48, True, True, 1),
    _Row(5, 144, 48, True, True, 1),
    _Row(5, 288, 96, True, True, 2, tail=True),
    _Row(5, 576, 96, True, True, 1, tail=True),
    _Row(5, 576, 96, True, True, 1, tail=True),
)
STEM = 16
HIDDEN = {"large": 1280, "small": 1024}  # units of the classifier


def divisible(channels: float) -> int:
    """Channels as a multiple of 8, never less than 0.9 of what was asked for."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole map holds (MobileNetV3, section 5.3)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = Conv2d(channels, hidden, 1)
        self.fc2 = Conv2d(hidden, channels, 1)

    def __call__(self, x: mx.array) -> mx.array:
        """Scale each channel of (N, h, w, C)."""
        wide = x.astype(mx.float32)
        pooled = mx.mean(mx.mean(wide, axis=2, keepdims=True), axis=1, keepdims=True)
        pooled = pooled.astype(x.dtype)
        return x * hard_sigmoid(self.fc2(mx.maximum(self.fc1(pooled), 0)))


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter each channel by itself, squeeze and excite, project by a 1x1."""

    def __init__(self, inputs: int, expanded: int, out: int, row: _Row, net: MobileNetV3):
        super().__init__()
        self.swish = row.swish
        self.shortcut = row.stride == 1 and inputs == out

        def unit(a: int, b: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> ConvNorm:
            return [Conv2d(a, b, kernel, stride, kernel // 2, groups, bias=False), net.norm(b)]

        block: list[ConvNorm | SqueezeExcitation] = (
            [unit(inputs, expanded)] if expanded != inputs else []
        )
        block.append(unit(expanded, expanded, row.kernel, row.stride, expanded))
        if row.squeeze:
            block.append(SqueezeExcitation(expanded, divisible(expanded // 4)))
        self.block = [*block, unit(expanded, out)]

    def __call__(self, x: mx.array) -> mx.array:
        """(N, h, w, C) to the block's output."""
        y = x
        for part in self.block[:-1]:
            if isinstance(part, SqueezeExcitation):
                y = part(y)
            elif self.swish:
                y = _conv_swish(y, part)
            else:
                conv, norm = part
                y = conv_norm(y, conv, norm)
        conv, norm = self.block[-1]
        return conv_norm(y, conv, norm, relu=False, residual=x if self.shortcut else None)


def _conv_swish(x: mx.array, unit: ConvNorm) -> mx.array:
    """A convolution, its norm, and hard swish."""
    conv, norm = unit
    return hard_swish(conv_norm(x, conv, norm, relu=False))


class MobileNetV3(nn.Module):
    """A MobileNetV3 over channels-last images; its arguments are :class:`MobileNetFPNConfig`'s."""

    classifier_size = 224  # side in pixels of the images that classifiers were trained on

    def __init__(
        self,
        variant: str = "large",
        num_classes: int = 1000,
        norm: str = "batch",
        norm_eps: float = 1e-3,
        norm_groups: int = 8,
        width: float = 1.0,
        reduced_tail: bool = False,
        dropout: float = 0.2,
    ):
        super().__init__()
        if variant not in MOBILENETS:
            raise ValueError(
                f"variant={variant!r}: expected one of {MOBILENETS}{nearest(variant, MOBILENETS)}"
            )
        rows = LARGE if variant == "large" else SMALL
        self.norm = lambda dims: make_norm(norm, dims, norm_eps, norm_groups)
        divider = 2 if reduced_tail else 1
        inputs = divisible(STEM * width)
        channels, strided = [inputs], [0]
        self.blocks: list[Any] = [[Conv2d(3, inputs, 3, 2, 1, bias=False), self.norm(inputs)]]
        for i, row in enumerate(rows):
            halved = divider if row.tail else 1
            # The tail's first row still expands channels that are not halved.
            expanded = divisible(row.expanded // (halved if rows[i - 1].tail else 1) * width)
            out = divisible(row.out // halved * width)
            self.blocks.append(InvertedResidual(inputs, expanded, out, row, self))
            inputs = out
            channels.append(out)
            if row.stride > 1:
                strided.append(i + 1)
        last = 6 * inputs
        self.blocks.append([Conv2d(inputs, last, 1, bias=False), self.norm(last)])
        # the first block of each of the six stages: the stem, every block that strides, and the
        # last 1x1
        self.stage_starts = (*strided, len(rows) + 1)
        self.stage_channels = tuple([*channels, last][i] for i in self.stage_starts)
        self.unit_channels = last
        if num_classes:
            self.unit_channels = hidden = divisible(HIDDEN[variant] // divider * width)
            self.classifier = [
                Linear(last, hidden, std=0.01),
                nn.Hardswish(),
                nn.Dropout(dropout),  # before the last layer, in training mode
                Linear(hidden, num_classes, std=0.01),
            ]

    def features(self, x: mx.array) -> list[mx.array]:
        """C0..C5 of (N, H, W, 3), what the six stages' first blocks give, sizes rounded up."""
        first, last = self.blocks[0], self.blocks[-1]
        maps = [stage(first, lambda x: _conv_swish(x, first), x)]
        *starts, end = self.stage_starts
        for a, b in pairwise(starts):  # up to the next stage's first block
            blocks = self.blocks[a + 1 : b + 1]
            maps.append(stage(blocks, partial(run_layers, blocks), maps[-1]))
        rest = self.blocks[starts[-1] + 1 : end]
        x = stage(rest, partial(run_layers, rest), maps[-1])
        return [*maps, stage(last, lambda x: _conv_swish(x, last), x)]

    def pooled(self, x: mx.array) -> mx.array:
        """The last map (N, H/32, W/32, c), sizes rounded up, before it is averaged."""
        return self.features(x)[-1]

    def units(self, pooled: mx.array, key: mx.array | None = None) -> mx.array:
        """(N, unit_channels), what the classifier's last layer sees; without one the averages."""
        layers = self.classifier[:-1] if "classifier" in self else []
        # a key drops in any mode; without one MLX's state does, in training mode
        return run_layers(layers, mx.mean(pooled, axis=(1, 2)), key)

    def __call__(self, x: mx.array) -> mx.array:
        """Class logits (N, num_classes), or the pooled features (N, c) without a classifier."""
        x = self.units(self.pooled(x))
        return cast(mx.array, self.classifier[-1](x)) if "classifier" in self else x
