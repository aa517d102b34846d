"""Backbones: networks that turn an image into feature maps."""

from .fpn import FeaturePyramidNetwork, ResNetFPN
from .resnet import ResNet

__all__ = ["FeaturePyramidNetwork", "ResNet", "ResNetFPN"]
