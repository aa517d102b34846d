"""VGG (Simonyan and Zisserman, 2014) with and without norms, the classifier included.

Parameter names are torchvision's (``features.0.weight``, ``classifier.6.bias``); the columns of
``classifier.0.weight`` go by row, column and channel here, by channel, row and column there.
"""

from __future__ import annotations

from dataclasses import asdict

import mlx.nn as nn

from ..config.backbone import VGG_DEPTHS, VGGConfig
from ..layers import Conv2d, Linear, make_norm
from ..layers.dropout import Layer
from .plain import MaxPool, PlainMap, PlainNet

# Convolutions of each block: columns A, B, D and E of the paper's table 1.
BLOCKS = dict(
    zip(
        VGG_DEPTHS,
        ((1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)),
        strict=True,
    )
)
SIDE = 7  # of the grid that the linear layers see


def conv_places(depth: int, norm: bool) -> tuple[int, ...]:
    """Where the convolutions stand in ``features``: rising indices."""
    places, place = [], 0
    for count in BLOCKS[depth]:
        for _ in range(count):
            places.append(place)
            place += 3 if norm else 2
        place += 1  # the max pool
    return tuple(places)


class VGG(PlainNet):
    """A VGG over channels-last images, as torchvision's; its arguments are :class:`VGGConfig`'s."""

    def __init__(
        self,
        depth: int = 16,
        num_classes: int = 1000,
        norm: str | None = None,
        norm_eps: float = 1e-5,
        norm_groups: int = 32,
        width: int = 64,
        hidden_dim: int = 4096,
        dropout: float = 0.5,
    ):
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth!r}: expected one of {VGG_DEPTHS}")
        features: list[Layer] = []
        starts = []
        channels = 3
        for block, count in enumerate(BLOCKS[depth]):
            starts.append(len(features))
            out = width * 2 ** min(block, 3)
            for _ in range(count):
                features.append(Conv2d(channels, out, 3, padding=1))
                if norm is not None:
                    features.append(make_norm(norm, out, norm_eps, norm_groups))
                features.append(nn.ReLU())
                channels = out
            features.append(MaxPool(2))
        classifier = [
            Linear(SIDE * SIDE * channels, hidden_dim, std=0.01),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(hidden_dim, hidden_dim, std=0.01),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(hidden_dim, num_classes, std=0.01),
        ]
        super().__init__(features, starts, SIDE, classifier if num_classes else [])
        self.depth = depth


class VGGMap(PlainMap):
    """A VGG (``net``) whose last convolution is the one map of a detector."""

    def __init__(self, config: VGGConfig):
        super().__init__(config, VGG(**asdict(config)))
