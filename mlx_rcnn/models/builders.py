"""Models by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from ..backbone_config import ResNetFPNConfig
from ..categories import COCO_KEYPOINTS, COCO_SKELETON
from .faster_rcnn import FasterRCNN
from .keypoint_rcnn import KeypointRCNN
from .mask_rcnn import MaskRCNN

M = TypeVar("M", bound=FasterRCNN)

_BACKBONE_FIELDS = {f.name for f in fields(ResNetFPNConfig)} - {"depth", "num_classes"}


def _resnet_fpn(
    model: type[M], depth: int, num_classes: int, backbone_num_classes: int, config: dict[str, Any]
) -> M:
    """Split ``config`` between the backbone and the detector, and build both."""
    backbone = {k: v for k, v in config.items() if k in _BACKBONE_FIELDS}
    detector = {k: v for k, v in config.items() if k not in _BACKBONE_FIELDS}
    net = ResNetFPNConfig(depth=depth, num_classes=backbone_num_classes, **backbone)
    options = {"use_fpn": True, "hidden_dim": 1024, **detector}
    return model(net, net.out_channels, num_classes, **options)


def faster_rcnn_resnet_50_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Any
) -> FasterRCNN:
    """Faster R-CNN, ResNet-50 and FPN, untrained; 21 classes are VOC's 20 and the background.

    Args:
        num_classes (int): with the background. Default: ``21``.
        backbone_num_classes (int): of the classifier ``backbone.net``; 0 drops it.
        **config: fields of ``ResNetFPNConfig`` and ``FasterRCNNConfig``.

    Returns:
        The model.
    """
    return _resnet_fpn(FasterRCNN, 50, num_classes, backbone_num_classes, config)


def faster_rcnn_resnet_101_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Any
) -> FasterRCNN:
    """As :func:`faster_rcnn_resnet_50_fpn` with ResNet-101."""
    return _resnet_fpn(FasterRCNN, 101, num_classes, backbone_num_classes, config)


def mask_rcnn_resnet_50_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Any
) -> MaskRCNN:
    """Mask R-CNN, ResNet-50 and FPN, untrained; arguments as :func:`faster_rcnn_resnet_50_fpn`."""
    return _resnet_fpn(MaskRCNN, 50, num_classes, backbone_num_classes, config)


def mask_rcnn_resnet_101_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Any
) -> MaskRCNN:
    """As :func:`mask_rcnn_resnet_50_fpn` with ResNet-101."""
    return _resnet_fpn(MaskRCNN, 101, num_classes, backbone_num_classes, config)


def _torchvision(model: type[M], num_classes: int, config: dict[str, Any]) -> M:
    """The published v1 files: frozen norms without an epsilon, no dropout, no classifier."""
    options = {"norm": "frozen", "norm_eps": 0.0, "dropout": 0.0, **config}
    return _resnet_fpn(model, 50, num_classes, 0, options)


def fasterrcnn_resnet50_fpn(num_classes: int = 91, **config: Any) -> FasterRCNN:
    """torchvision's ``fasterrcnn_resnet50_fpn`` as published, without weights.

    Args:
        num_classes (int): with the background. Default: ``91``, COCO's slots.
        **config: fields of ``ResNetFPNConfig`` and ``FasterRCNNConfig``. The published weights go
            with ``norm="frozen", norm_eps=0.0``, which is the default here.

    Returns:
        The model.
    """
    return _torchvision(FasterRCNN, num_classes, config)


def maskrcnn_resnet50_fpn(num_classes: int = 91, **config: Any) -> MaskRCNN:
    """torchvision's ``maskrcnn_resnet50_fpn`` as published; see :func:`fasterrcnn_resnet50_fpn`."""
    return _torchvision(MaskRCNN, num_classes, config)


def keypointrcnn_resnet50_fpn(
    num_classes: int = 2, num_keypoints: int = 17, **config: Any
) -> KeypointRCNN:
    """torchvision's ``keypointrcnn_resnet50_fpn`` as published, without weights.

    Args:
        num_classes (int): with the background. Default: ``2``, a person.
        num_keypoints (int): of an object. Default: ``17``, named and joined as COCO's.
        **config: fields of ``ResNetFPNConfig`` and ``KeypointRCNNConfig``. The weights COCO_V1 go
            with ``norm_eps=0.0``, the default here, COCO_LEGACY with ``norm_eps=1e-5``.

    Returns:
        The model.
    """
    options: dict[str, Any] = {"num_keypoints": num_keypoints}
    if num_keypoints == len(COCO_KEYPOINTS):
        options |= {"keypoint_names": COCO_KEYPOINTS, "keypoint_skeleton": COCO_SKELETON}
    return _torchvision(KeypointRCNN, num_classes, {**options, **config})
