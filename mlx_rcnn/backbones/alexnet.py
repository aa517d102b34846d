"""AlexNet of one tower (Krizhevsky, 2014), the classifier included.

Parameter names are torchvision's (``features.0.weight``, ``classifier.6.bias``); the columns of
``classifier.1.weight`` go by row, column and channel here, by channel, row and column there.
"""

from __future__ import annotations

from dataclasses import asdict

import mlx.nn as nn

from ..config.backbone import AlexNetConfig
from ..layers import Conv2d, Linear
from ..layers.dropout import Layer
from .plain import MaxPool, PlainMap, PlainNet

SIDE = 6  # of the grid that the linear layers see
CONV_PLACES = (0, 3, 6, 8, 10)  # of the convolutions in ``features``


class AlexNet(PlainNet):
    """An AlexNet over channels-last images, as torchvision's for images of any size."""

    def __init__(
        self,
        num_classes: int = 1000,
        width: int = 64,  # of the first convolution; the others have 3, 6, 4 and 4 times as many
        hidden_dim: int = 4096,  # units of the hidden linear layers
        dropout: float = 0.5,  # before each of those, in training mode
    ):
        features: list[Layer] = [
            Conv2d(3, width, 11, 4, 2),
            nn.ReLU(),
            MaxPool(3),
            Conv2d(width, 3 * width, 5, padding=2),
            nn.ReLU(),
            MaxPool(3),
            Conv2d(3 * width, 6 * width, 3, padding=1),
            nn.ReLU(),
            Conv2d(6 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            MaxPool(3),
        ]
        classifier = [
            nn.Dropout(dropout),
            Linear(SIDE * SIDE * 4 * width, hidden_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            Linear(hidden_dim, num_classes),
        ]
        super().__init__(features, CONV_PLACES, SIDE, classifier if num_classes else [])


class AlexNetMap(PlainMap):
    """An AlexNet (``net``) whose last convolution is the one map of a detector."""

    def __init__(self, config: AlexNetConfig):
        super().__init__(config, AlexNet(**asdict(config)))
