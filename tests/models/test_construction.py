"""Models from a config object, from keywords, and from both."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn import (
    FasterRCNN,
    MaskRCNN,
    ResNetFPNConfig,
    faster_rcnn_resnet_50_fpn,
    fasterrcnn_resnet50_fpn,
    mask_rcnn_resnet_101_fpn,
)

SMALL = {"use_fpn": True, "hidden_dim": 8, "roi_levels": 2, "anchor_sizes": ((16,), (32,))}


class Tiny(nn.Module):
    """Two maps of 4 channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)

    def __call__(self, x):
        x = self.stem(x)
        return [x, x[:, ::2, ::2]]


def parameters(model):
    return {k: np.array(v) for k, v in tree_flatten(model.parameters())}


@pytest.mark.parametrize("cls", [FasterRCNN, MaskRCNN])
def test_config_and_keywords_give_equal_models(cls):
    extra = {"mask_hidden_channels": 6, "mask_num_convs": 1} if cls is MaskRCNN else {}
    options = {**SMALL, "box_score_thresh": 0.125, **extra}
    backbone = Tiny()
    config = cls.config_class(backbone, 4, 3, **options)
    builders = [
        lambda: cls(backbone, 4, 3, **options),
        lambda: cls(backbone, feat_channels=4, num_classes=3, **options),
        lambda: cls(backbone=backbone, num_classes=3, feat_channels=4, **options),
        lambda: cls(config),
        lambda: cls(replace(config, box_score_thresh=0.5), box_score_thresh=0.125),
        lambda: cls(replace(config, num_classes=9), num_classes=3),
    ]
    models = []
    for build in builders:
        mx.random.seed(5)
        models.append(build())
    image, first = mx.random.uniform(shape=(1, 32, 48, 3)), models[0]
    wanted, outputs = parameters(first), first(image)
    for model in models[1:]:
        assert type(model) is cls and model.config == first.config == config
        got = parameters(model)
        assert got.keys() == wanted.keys()
        for key, value in got.items():
            np.testing.assert_array_equal(value, wanted[key])
        for value, expected in zip(model(image), outputs, strict=True):
            np.testing.assert_array_equal(np.array(value), np.array(expected))


def test_builders_split_keywords_between_backbone_and_detector():
    model = faster_rcnn_resnet_50_fpn(
        5, 7, norm="group", norm_groups=16, out_channels=32, box_nms_thresh=0.25, hidden_dim=64
    )
    assert model.config.backbone == ResNetFPNConfig(
        50, 7, norm="group", norm_groups=16, out_channels=32
    )
    assert model.config.feat_channels == 32 and model.config.num_classes == 5
    assert model.config.box_nms_thresh == 0.25 and model.config.hidden_dim == 64
    assert model.config.use_fpn and faster_rcnn_resnet_50_fpn().config.hidden_dim == 1024
    model = mask_rcnn_resnet_101_fpn(mask_num_convs=2)
    assert model.config.backbone.depth == 101 and model.config.mask_num_convs == 2
    zoo = fasterrcnn_resnet50_fpn().config
    assert (
        zoo.num_classes == 91
        and zoo.dropout == 0
        and zoo.backbone == ResNetFPNConfig(50, 0, norm="frozen", norm_eps=0.0)
    )


@pytest.mark.parametrize(("returned", "levels"), [((3, 4), 2), ((2, 3, 4), 3), ((1, 2, 3, 4), 4)])
def test_a_short_pyramid_pools_from_what_it_is_fed_with(returned, levels) -> None:
    """Torchvision's RoI pooling takes maps "0" to "3", never "pool", whatever builds the model."""
    body = ResNetFPNConfig(18, 0, width=8, out_channels=8, returned_layers=returned)
    options = {"use_fpn": True, "hidden_dim": 8}
    for backbone in (body, FasterRCNN(body, 8, 3, **options).backbone):
        assert FasterRCNN(backbone, 8, 3, **options).config.roi_levels == levels
    assert FasterRCNN(body, 8, 3, roi_levels=1, **options).config.roi_levels == 1
