"""Plain classifiers: convolutions in a row, and three linear layers over a grid of means.

What VGG and AlexNet share. Parameter names are torchvision's: ``features`` and ``classifier``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

import mlx.core as mx
import mlx.nn as nn

from ..config.backbone import AlexNetConfig, VGGConfig
from ..layers import (
    BatchNorm,
    Conv2d,
    GroupNorm,
    Linear,
    adaptive_average_pool,
    conv_norm,
    max_pool,
    run_layers,
)
from ..layers.dropout import Layer
from ..layers.recompute import stage


class MaxPool(nn.Module):
    """The maximum of windows with stride 2, without padding: sizes are rounded down."""

    def __init__(self, kernel: int):
        super().__init__()
        self.kernel = kernel

    def __call__(self, x: mx.array) -> mx.array:
        """(N, h, w, C) to half the size."""
        return max_pool(x, self.kernel, padding=0)


class PlainNet(nn.Module):
    """A classifier over channels-last images, of layers in torchvision's order."""

    classifier_size = 224  # side in pixels of the images that classifiers were trained on

    def __init__(
        self,
        # convolutions, each with its norm, if it has one, and a ReLU behind it, and max pools, one
        # of them at the end
        features: Sequence[Layer],
        stage_starts: Sequence[int],  # index into ``features`` of each stage's first layer
        side: int,  # of the grid of means that the linear layers see
        # all layers from that grid's values, in the order (row, column, channel), to the logits;
        # the last one is linear, and none leave it out
        classifier: Sequence[Layer],
    ):
        super().__init__()
        self.features, self.stage_starts, self.side = list(features), tuple(stage_starts), side
        self.channels = next(m for m in reversed(features) if isinstance(m, Conv2d)).out_channels
        self.unit_channels = side * side * self.channels
        if classifier:
            self.classifier = list(classifier)
            last = self.classifier[-1]
            assert isinstance(last, Linear)
            self.unit_channels = last.in_features

    def last_map(self, x: mx.array) -> mx.array:
        """What the last convolution gives, before the last max pool: (N, h, w, C) of stride 16."""
        ends = (*self.stage_starts[1:], len(self.features) - 1)
        for start, end in zip(self.stage_starts, ends, strict=True):
            layers = self.features[start:end]
            x = stage(layers, partial(_run, layers), x)
        return x

    def pooled(self, x: mx.array) -> mx.array:
        """(N, side, side, channels): the last map after its max pool, averaged over a grid."""
        # of an image of ``classifier_size`` nothing is averaged
        return adaptive_average_pool(self.features[-1](self.last_map(x)), self.side)

    def units(self, pooled: mx.array, key: mx.array | None = None) -> mx.array:
        """(N, unit_channels), what the classifier's last layer sees; without one the map itself."""
        # at least 0, as behind a ReLU
        layers = self.classifier[:-1] if "classifier" in self else []
        # a key drops in any mode; without one MLX's state does, in training mode
        return run_layers(layers, pooled.flatten(1), key)

    def __call__(self, x: mx.array) -> mx.array:
        """Class logits (N, num_classes), or the units without a classifier."""
        x = self.units(self.pooled(x))
        return self.classifier[-1](x) if "classifier" in self else x


def _run(layers: Sequence[Layer], x: mx.array) -> mx.array:
    """Convolutions, each with its norm and the ReLU behind it, and max pools."""
    for layer, after in zip_longest(layers, layers[1:]):
        if isinstance(layer, Conv2d):
            x = conv_norm(x, layer, after if isinstance(after, BatchNorm | GroupNorm) else None)
        elif isinstance(layer, MaxPool):
            x = layer(x)
    return x


class PlainMap(nn.Module):
    """A plain classifier (``net``) whose last convolution is the one map of a detector."""

    def __init__(self, config: VGGConfig | AlexNetConfig, net: PlainNet):
        super().__init__()
        self.config, self.net = config, net

    def __call__(self, x: mx.array) -> mx.array:
        """(N, H, W, 3) network input -> one map (N, h, w, c) of stride 16."""
        return self.net.last_map(x)
