"""Box head (Fast R-CNN): what class a proposal is, and how its box should move."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from .. import moved
from ..config.detector import CascadeRCNNConfig, FastRCNNConfig
from ..layers import Conv2d, EvaluatedModule, Linear, conv_norm, dropped, make_norm
from .res5 import Res5Head


class TwoMLPHead(nn.Module):
    """Two linear layers with ReLU over the flattened RoI features."""

    def __init__(self, in_features: int, hidden_dim: int):
        super().__init__()
        self.fc6 = Linear(in_features, hidden_dim)
        self.fc7 = Linear(hidden_dim, hidden_dim)

    def __call__(
        self,
        x: mx.array,
        dropout: float = 0.0,
        key: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:
        """(R, ph, pw, C) -> (R, hidden_dim)."""
        x = x.flatten(1)  # in the order (ph, pw, C)
        keys = mx.random.split(key, 2) if dropout and key is not None else (None, None)
        for layer, k in zip((self.fc6, self.fc7), keys, strict=True):
            x = mx.maximum(layer(x), 0)
            if k is not None:
                x = dropped(x, dropout, k)  # a share of units after each layer
        return x


def run_convs(head: nn.Module, x: mx.array, valid: mx.array | None) -> mx.array:
    """The ``convs`` of a head one after the other, each with its norm, if it has ``norms``."""
    norms = head.norms if "norms" in head else [None] * len(head.convs)
    for conv, norm in zip(head.convs, norms, strict=True):
        x = conv_norm(x, conv, norm, valid=valid)
    return x


class FastRCNNConvFCHead(nn.Module):
    """3x3 convolutions, then one linear layer over what they leave, with ReLU throughout."""

    def __init__(
        self,
        in_channels: int,
        pool_size: tuple[int, int],
        num_convs: int,
        hidden_dim: int,
        norm: str | None = None,
    ):
        super().__init__()
        self.convs = [
            Conv2d(in_channels, in_channels, 3, padding=1, bias=norm is None)
            for _ in range(num_convs)
        ]
        if norm is not None:
            self.norms = [make_norm(norm, in_channels) for _ in range(num_convs)]
        self.fc = Linear(pool_size[0] * pool_size[1] * in_channels, hidden_dim)

    def __call__(
        self,
        x: mx.array,
        dropout: float = 0.0,
        key: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:
        """(R, ph, pw, C) -> (R, hidden_dim)."""
        # a batch norm takes its statistics over the ``valid`` RoIs
        x = mx.maximum(self.fc(run_convs(self, x, valid).flatten(1)), 0)
        if dropout and key is not None:
            x = dropped(x, dropout, key)
        return x


class FastRCNNPredictor(nn.Module):
    """Class logits and box deltas of each RoI; replace it to train for other classes.

    Args:
        in_channels (int): features of the box head.
        num_classes (int): with the background.
        class_agnostic (bool): one regression for all classes. Default: ``False``.
    """

    def __init__(self, in_channels: int, num_classes: int, class_agnostic: bool = False):
        super().__init__()
        self.cls_score = Linear(in_channels, num_classes, std=0.01)
        self.bbox_pred = Linear(in_channels, 4 * (1 if class_agnostic else num_classes), std=0.001)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(R, in_channels) -> logits (R, C) and deltas (R, 4 * C or 4), float32."""
        return self.cls_score(x).astype(mx.float32), self.bbox_pred(x).astype(mx.float32)


def make_box_head(config: FastRCNNConfig) -> tuple[nn.Module, FastRCNNPredictor]:
    """A box head and its predictor, untrained."""
    height, width = config.pool_size
    hidden = config.hidden_dim
    head: nn.Module
    if config.res5_head:
        head = Res5Head(config.backbone)
        hidden = head.out_channels
    elif config.box_head_convs:
        head = FastRCNNConvFCHead(
            config.feat_channels,
            config.pool_size,
            config.box_head_convs,
            hidden,
            config.box_head_norm,
        )
    else:
        head = TwoMLPHead(height * width * config.feat_channels, hidden)
    return head, FastRCNNPredictor(hidden, config.num_classes, config.class_agnostic_bbox)


class RoIHeads(EvaluatedModule):
    """The heads over RoI features, under torchvision's attribute names."""

    box_head: nn.Module | list[nn.Module]  # of several box stages lists, a module a stage
    box_predictor: nn.Module | list[nn.Module]

    def __init__(self, config: FastRCNNConfig):
        super().__init__()
        made = [make_box_head(config) for _ in config.box_stages]
        heads, predictors = (list(parts) for parts in zip(*made, strict=True))
        several = isinstance(config, CascadeRCNNConfig)
        self.box_head = heads if several else heads[0]
        self.box_predictor = predictors if several else predictors[0]


def predictors_of(heads: nn.Module) -> list[nn.Module]:
    """The box predictors of a model's ``roi_heads``, one a box stage."""
    found = heads.box_predictor
    return list(found) if isinstance(found, list) else [found]


__getattr__ = moved.names(__name__)
