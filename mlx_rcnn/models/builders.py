"""Models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from ..config.backbone import BackboneConfig, MobileNetFPNConfig, ResNetFPNConfig
from ..config.categories import COCO_KEYPOINTS, COCO_SKELETON
from ..config.presets import MOBILENET, MOBILENET_320, V1, V2
from .cascade_rcnn import CascadeMaskRCNN, CascadeRCNN
from .detector import Detector
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .keypoint_rcnn import KeypointRCNN
from .mask_rcnn import MaskRCNN

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..config.keywords import BuildSettings

M = TypeVar("M", bound=Detector)
B = TypeVar("B", bound=BackboneConfig)
F = TypeVar("F", bound=ResNetFPNConfig | MobileNetFPNConfig)


def divided(
    model: type[Detector], body: type[B], fixed: Mapping[str, object], config: Mapping[str, object]
) -> tuple[B, dict[str, object]]:
    """Split a builder's keywords into its backbone's config and what is left for the detector."""
    # a field that both have is the detector's
    own = {f.name for f in fields(body)} - {f.name for f in fields(model.config_class)}
    own -= {"depth", "variant"}
    make: Callable[..., B] = body  # the fields' rules check what is given
    net = make(**fixed, **{k: v for k, v in config.items() if k in own})
    return net, {k: v for k, v in config.items() if k not in own}


def _fpn(
    model: type[M],
    body: type[F],
    fixed: Mapping[str, object],
    num_classes: int,
    config: Mapping[str, object],
) -> M:
    """Split ``config`` between the backbone and the detector, and build both."""
    net, detector = divided(model, body, fixed, config)
    # RoIs are pooled from what the pyramid is fed with, not from its last level.
    options = {"use_fpn": True, "hidden_dim": 1024, "roi_levels": len(net.returned_layers)}
    make: Callable[..., M] = model
    return make(net, net.out_channels, num_classes, **{**options, **detector})


def _resnet_fpn(
    model: type[M],
    depth: int,
    num_classes: int,
    backbone_num_classes: int,
    config: Mapping[str, object],
) -> M:
    fixed = {"depth": depth, "num_classes": backbone_num_classes}
    return _fpn(model, ResNetFPNConfig, fixed, num_classes, config)


def faster_rcnn_resnet_50_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
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
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> FasterRCNN:
    """As :func:`faster_rcnn_resnet_50_fpn` with ResNet-101."""
    return _resnet_fpn(FasterRCNN, 101, num_classes, backbone_num_classes, config)


def mask_rcnn_resnet_50_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> MaskRCNN:
    """Mask R-CNN, ResNet-50 and FPN, untrained; arguments as :func:`faster_rcnn_resnet_50_fpn`."""
    return _resnet_fpn(MaskRCNN, 50, num_classes, backbone_num_classes, config)


def mask_rcnn_resnet_101_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> MaskRCNN:
    """As :func:`mask_rcnn_resnet_50_fpn` with ResNet-101."""
    return _resnet_fpn(MaskRCNN, 101, num_classes, backbone_num_classes, config)


def fast_rcnn_resnet_50_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> FastRCNN:
    """Fast R-CNN on a ResNet-50 and FPN; arguments as :func:`faster_rcnn_resnet_50_fpn`."""
    return _resnet_fpn(FastRCNN, 50, num_classes, backbone_num_classes, config)


def cascade_rcnn_resnet_50_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> CascadeRCNN:
    """Cascade R-CNN, ResNet-50 and FPN; arguments as :func:`faster_rcnn_resnet_50_fpn`."""
    return _resnet_fpn(CascadeRCNN, 50, num_classes, backbone_num_classes, config)


def cascade_rcnn_resnet_101_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> CascadeRCNN:
    """As :func:`cascade_rcnn_resnet_50_fpn` with ResNet-101."""
    return _resnet_fpn(CascadeRCNN, 101, num_classes, backbone_num_classes, config)


def cascade_mask_rcnn_resnet_50_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> CascadeMaskRCNN:
    """Cascade Mask R-CNN; arguments as :func:`faster_rcnn_resnet_50_fpn`."""
    return _resnet_fpn(CascadeMaskRCNN, 50, num_classes, backbone_num_classes, config)


def cascade_mask_rcnn_resnet_101_fpn(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> CascadeMaskRCNN:
    """As :func:`cascade_mask_rcnn_resnet_50_fpn` with ResNet-101."""
    return _resnet_fpn(CascadeMaskRCNN, 101, num_classes, backbone_num_classes, config)


def fasterrcnn_resnet50_fpn(
    num_classes: int = 91, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> FasterRCNN:
    """Torchvision's ``fasterrcnn_resnet50_fpn`` as published, without weights.

    Args:
        num_classes (int): with the background. Default: ``91``, COCO's slots.
        backbone_num_classes (int): of the classifier ``backbone.net``. Default: ``0``, none.
        **config: fields of ``ResNetFPNConfig`` and ``FasterRCNNConfig``. The published weights go
            with ``norm="frozen", norm_eps=0.0``, which is the default here.

    Returns:
        The model.
    """
    return _resnet_fpn(FasterRCNN, 50, num_classes, backbone_num_classes, {**V1, **config})


def maskrcnn_resnet50_fpn(
    num_classes: int = 91, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> MaskRCNN:
    """Torchvision's ``maskrcnn_resnet50_fpn`` as published; see :func:`fasterrcnn_resnet50_fpn`."""
    return _resnet_fpn(MaskRCNN, 50, num_classes, backbone_num_classes, {**V1, **config})


def fasterrcnn_resnet50_fpn_v2(
    num_classes: int = 91, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> FasterRCNN:
    """Torchvision's ``fasterrcnn_resnet50_fpn_v2``, without weights (Li et al., 2021).

    Batch norms in backbone, pyramid and box head, two convolutions in the RPN head, four and one
    linear layer in the box head.

    Args:
        num_classes (int): with the background. Default: ``91``, COCO's slots.
        backbone_num_classes (int): of the classifier ``backbone.net``. Default: ``0``, none.
        **config: fields of ``ResNetFPNConfig`` and ``FasterRCNNConfig``.

    Returns:
        The model.
    """
    return _resnet_fpn(FasterRCNN, 50, num_classes, backbone_num_classes, {**V2, **config})


def maskrcnn_resnet50_fpn_v2(
    num_classes: int = 91, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> MaskRCNN:
    """Torchvision's ``maskrcnn_resnet50_fpn_v2``: :func:`fasterrcnn_resnet50_fpn_v2` and masks."""
    options = {**V2, "mask_head_norm": "batch", **config}
    return _resnet_fpn(MaskRCNN, 50, num_classes, backbone_num_classes, options)


def _mobilenet_fpn(
    num_classes: int, backbone_num_classes: int, options: Mapping[str, object]
) -> FasterRCNN:
    fixed = {"variant": "large", "num_classes": backbone_num_classes}
    return _fpn(FasterRCNN, MobileNetFPNConfig, fixed, num_classes, {"norm": "frozen", **options})


def fasterrcnn_mobilenet_v3_large_fpn(
    num_classes: int = 91, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> FasterRCNN:
    """Torchvision's ``fasterrcnn_mobilenet_v3_large_fpn`` as published, without weights.

    Two maps of stride 32 and one of 64, all anchor sizes on each.

    Args:
        num_classes (int): with the background. Default: ``91``, COCO's slots.
        backbone_num_classes (int): of the classifier ``backbone.net``. Default: ``0``, none.
        **config: fields of ``MobileNetFPNConfig`` and ``FasterRCNNConfig``. The published weights
            go with ``norm="frozen", norm_eps=1e-5``, which is the default here.

    Returns:
        The model.
    """
    return _mobilenet_fpn(num_classes, backbone_num_classes, {**MOBILENET, **config})


def fasterrcnn_mobilenet_v3_large_320_fpn(
    num_classes: int = 91, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> FasterRCNN:
    """As :func:`fasterrcnn_mobilenet_v3_large_fpn` for images of 320 to 640 pixels, 150 proposals.

    The structure is the same; only the transform's and the RPN's numbers differ.
    """
    return _mobilenet_fpn(num_classes, backbone_num_classes, {**MOBILENET_320, **config})


def keypointrcnn_resnet50_fpn(
    num_classes: int = 2,
    num_keypoints: int = 17,
    backbone_num_classes: int = 0,
    **config: Unpack[BuildSettings],
) -> KeypointRCNN:
    """Torchvision's ``keypointrcnn_resnet50_fpn`` as published, without weights.

    Args:
        num_classes (int): with the background. Default: ``2``, a person.
        num_keypoints (int): of an object. Default: ``17``, named and joined as COCO's.
        backbone_num_classes (int): of the classifier ``backbone.net``. Default: ``0``, none.
        **config: fields of ``ResNetFPNConfig`` and ``KeypointRCNNConfig``. The weights COCO_V1 go
            with ``norm_eps=0.0``, the default here, COCO_LEGACY with ``norm_eps=1e-5``.

    Returns:
        The model.
    """
    options: dict[str, object] = {**V1, "num_keypoints": num_keypoints}
    if num_keypoints == len(COCO_KEYPOINTS):
        options |= {"keypoint_names": COCO_KEYPOINTS, "keypoint_skeleton": COCO_SKELETON}
    return _resnet_fpn(KeypointRCNN, 50, num_classes, backbone_num_classes, {**options, **config})
