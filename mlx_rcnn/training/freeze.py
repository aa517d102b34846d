"""Which parameters learn."""

from __future__ import annotations

from ..backbones import ResNet
from ..models import FasterRCNN

STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")


def set_trainable(model: FasterRCNN, trainable_backbone_layers: int = 3) -> None:
    """Choose how much of the backbone learns, as torchvision's ``trainable_backbone_layers``.

    Everything outside ``backbone.net`` learns, a ``layer4`` over RoIs (C4 models) too. The
    classifier's ``fc`` does not, as detection does not use it; nor do frozen norms and running
    statistics, whatever is asked.

    Args:
        model: with a ResNet backbone.
        trainable_backbone_layers (int): stages that learn, from the last: 0 none, 3 ``layer4`` to
            ``layer2``, 5 all with the stem. Default: ``3``.

    Raises:
        ValueError: a number outside 0..5.
        TypeError: the backbone is no ResNet of this package; freeze parts of your own with its
            ``freeze()``.
    """
    count = trainable_backbone_layers
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 5:
        raise ValueError(f"trainable_backbone_layers={count!r}: expected an integer in 0..5")
    net = getattr(model.backbone, "net", None)
    if not isinstance(net, ResNet):
        raise TypeError(f"backbone {type(model.backbone).__name__}: expected one with a ResNet")
    model.unfreeze()
    net.freeze()
    for name in (stage for stage in STAGES[:count] if stage in net):
        part = net[name]
        for module in part if isinstance(part, list) else [part]:
            module.unfreeze()
    if count == 5:
        net.bn1.unfreeze()
