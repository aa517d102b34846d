"""Which parameters learn."""

from __future__ import annotations

import mlx.nn as nn

from ..backbones import MobileNetV3, PlainNet, ResNet
from ..models import RCNN, Detector


def set_trainable(model: Detector, trainable_backbone_layers: int = 3) -> None:
    """Choose how much of the backbone learns, as torchvision's ``trainable_backbone_layers``.

    Everything outside ``backbone.net`` learns, a ``layer4`` over RoIs (C4 models) too. The
    classifier's last layers do not, as detection does not use them, but for the hidden ones of an
    R-CNN; nor do frozen norms and running statistics, whatever is asked.

    Args:
        model: with a ResNet, MobileNetV3, VGG or AlexNet backbone.
        trainable_backbone_layers (int): stages that learn, from the last: 0 none; of a ResNet 3
            ``layer4`` to ``layer2``, 5 all with the stem; of a MobileNetV3 3 all from the third
            block that strides, 6 all with the stem; of a VGG 3 the blocks from ``conv3_1``, as
            Fast R-CNN's paper has it, 5 all; of an AlexNet its last convolutions. Default: ``3``.

    Raises:
        ValueError: a number outside 0..5, or 0..6.
        TypeError: the backbone is none of this package; freeze parts of your own with its
            ``freeze()``.
    """
    parts = stages(model)
    count = trainable_backbone_layers
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= len(parts):
        raise ValueError(
            f"trainable_backbone_layers={count!r}: expected an integer in 0..{len(parts)}"
        )
    model.unfreeze()
    model.backbone.net.freeze()
    if isinstance(model, RCNN):
        for layer in model.backbone.net.get("classifier", [])[:-1]:
            layer.unfreeze()
    for stage in parts[len(parts) - count :]:
        for module in stage:
            module.unfreeze()


def stages(model: Detector) -> list[list[nn.Module]]:
    """The modules of each stage of the backbone, the stem first; TypeError if it is not ours."""
    net = getattr(model.backbone, "net", None)
    # 5 stages of a ResNet, a VGG (its blocks) and an AlexNet (its convolutions), 6 of a MobileNetV3
    if isinstance(net, ResNet):
        names = (f"layer{i}" for i in range(1, 5))  # C4's last one stands over RoIs
        return [[net.conv1, net.bn1], *(net.get(name, []) for name in names)]
    if isinstance(net, MobileNetV3):
        ends = (*net.stage_starts[1:], len(net.blocks))
        blocks = [net.blocks[start:end] for start, end in zip(net.stage_starts, ends, strict=True)]
        # The stem and the last part are a convolution and a norm in a list.
        return [
            [m for part in stage for m in (part if isinstance(part, list) else [part])]
            for stage in blocks
        ]
    if isinstance(net, PlainNet):
        ends = (*net.stage_starts[1:], len(net.features))
        return [
            [m for m in net.features[a:b] if isinstance(m, nn.Module)]
            for a, b in zip(net.stage_starts, ends, strict=True)
        ]
    raise TypeError(
        f"backbone {type(model.backbone).__name__}: expected one with a ResNet, MobileNetV3, VGG "
        "or AlexNet"
    )
