"""Models by name, on the plain classifiers that R-CNNs began with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ..config.backbone import AlexNetConfig, VGGConfig
from ..config.presets import PLAIN
from .builders import divided
from .detector import Detector
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .rcnn import RCNN

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..config.keywords import BuildSettings

M = TypeVar("M", bound=Detector)
P = TypeVar("P", bound=VGGConfig | AlexNetConfig)


def _plain(
    model: type[M],
    body: type[P],
    fixed: Mapping[str, object],
    num_classes: int,
    config: Mapping[str, object],
) -> M:
    net, detector = divided(model, body, fixed, config)
    make: Callable[..., M] = model
    return make(net, net.channels, num_classes, **detector)


def rcnn_alexnet(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> RCNN:
    """R-CNN on an AlexNet of one tower, untrained; 21 classes are VOC's 20 and the background.

    Args:
        num_classes (int): with the background. Default: ``21``.
        backbone_num_classes (int): of the classifier ``backbone.net``, whose two hidden layers an
            R-CNN fine-tunes; 0 drops them all.
        **config: fields of ``AlexNetConfig`` and ``RCNNConfig``.

    Returns:
        The model.
    """
    return _plain(RCNN, AlexNetConfig, {"num_classes": backbone_num_classes}, num_classes, config)


def rcnn_vgg_16(
    num_classes: int = 21, backbone_num_classes: int = 1000, **config: Unpack[BuildSettings]
) -> RCNN:
    """R-CNN on a VGG-16; arguments as :func:`rcnn_alexnet`, and by default 4 ``crops_at_once``.

    A crop takes 0.4 GB on a CPU, where convolutions are unfolded.
    """
    fixed = {"depth": 16, "num_classes": backbone_num_classes}
    return _plain(RCNN, VGGConfig, fixed, num_classes, {"crops_at_once": 4, **config})


def fast_rcnn_vgg_16(
    num_classes: int = 21, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> FastRCNN:
    """Fast R-CNN as published (Girshick, 2015): RoIPool of a VGG-16's last map, two layers of 4096.

    Args:
        num_classes (int): with the background. Default: ``21``.
        backbone_num_classes (int): of the classifier ``backbone.net``. Default: ``0``, none: its
            hidden layers are the box head's, see :func:`~mlx_rcnn.load_backbone`.
        **config: fields of ``VGGConfig`` and ``FastRCNNConfig``.

    Returns:
        The model.
    """
    fixed = {"depth": 16, "num_classes": backbone_num_classes}
    return _plain(FastRCNN, VGGConfig, fixed, num_classes, {**PLAIN, **config})


def faster_rcnn_vgg_16(
    num_classes: int = 21, backbone_num_classes: int = 0, **config: Unpack[BuildSettings]
) -> FasterRCNN:
    """Faster R-CNN as published (Ren et al., 2015): :func:`fast_rcnn_vgg_16` and 9 anchors."""
    fixed = {"depth": 16, "num_classes": backbone_num_classes}
    return _plain(FasterRCNN, VGGConfig, fixed, num_classes, {**PLAIN, **config})
