"""Backbones: networks that turn an image into feature maps."""

from __future__ import annotations

from collections.abc import Callable

import mlx.nn as nn

from ..config.backbone import (
    AlexNetConfig,
    BackboneConfig,
    MobileNetFPNConfig,
    ResNetConfig,
    ResNetFPNConfig,
    VGGConfig,
)
from .alexnet import AlexNet, AlexNetMap
from .fpn import FeaturePyramidNetwork, MobileNetFPN, ResNetFPN
from .mobilenet import MobileNetV3
from .plain import PlainNet
from .resnet import ResNet, ResNetMap, block_options, residual_stage
from .vgg import VGG, VGGMap

BACKBONES: dict[str, tuple[type[BackboneConfig], Callable[..., nn.Module]]] = {
    "resnet_fpn": (ResNetFPNConfig, ResNetFPN),
    "mobilenet_fpn": (MobileNetFPNConfig, MobileNetFPN),
    "resnet": (ResNetConfig, ResNetMap),
    "vgg": (VGGConfig, VGGMap),
    "alexnet": (AlexNetConfig, AlexNetMap),
}
"""By the ``type`` that config.json gives: the config, and the module built from it, which keeps it
as ``config``."""


def make_backbone(config: object) -> nn.Module:
    """The untrained backbone that a config of one of ``BACKBONES`` describes, or TypeError."""
    for kind, module in BACKBONES.values():
        if type(config) is kind:
            return module(config)
    names = " or ".join(kind.__name__ for kind, _ in BACKBONES.values())
    raise TypeError(f"backbone={config!r}: expected an mlx.nn.Module or {names}")


def backbone_type(module: nn.Module) -> str | None:
    """The key of ``BACKBONES`` that built a module; ``None`` for one of the user's own."""
    return next((name for name, (_, cls) in BACKBONES.items() if type(module) is cls), None)


__all__ = [
    "BACKBONES",
    "VGG",
    "AlexNet",
    "AlexNetMap",
    "FeaturePyramidNetwork",
    "MobileNetFPN",
    "MobileNetV3",
    "PlainNet",
    "ResNet",
    "ResNetFPN",
    "ResNetMap",
    "VGGMap",
    "backbone_type",
    "block_options",
    "make_backbone",
    "residual_stage",
]
