"""Builders: structure, sizes and defaults; wrong configurations are named."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import FasterRCNN, FasterRCNNConfig, MaskRCNN, MaskRCNNConfig, ResNetFPNConfig
from mlx_rcnn.layers import BatchNorm, FrozenBatchNorm, GroupNorm

BUILDERS = {
    "faster_rcnn_resnet_50_fpn": (FasterRCNN, 50),
    "faster_rcnn_resnet_101_fpn": (FasterRCNN, 101),
    "mask_rcnn_resnet_50_fpn": (MaskRCNN, 50),
    "mask_rcnn_resnet_101_fpn": (MaskRCNN, 101),
}
ZOO = {"fasterrcnn_resnet50_fpn": FasterRCNN, "maskrcnn_resnet50_fpn": MaskRCNN}


def count(model: nn.Module) -> int:
    """Learnable numbers: running statistics are none."""
    return sum(v.size for k, v in tree_flatten(model.parameters()) if "running_" not in k)


def test_published_parameter_count() -> None:
    model = mlx_rcnn.faster_rcnn_resnet_50_fpn(num_classes=21, anchor_sizes=(128, 256, 512))
    assert count(model) == 43_506_366
    # torchvision's ResNet-50 classifier; its fc has 2048 * 1000 + 1000 of them.
    assert count(model.backbone.net) == 25_557_032
    bare = mlx_rcnn.faster_rcnn_resnet_50_fpn(
        num_classes=21, backbone_num_classes=0, anchor_sizes=(128, 256, 512)
    )
    assert "fc" not in bare.backbone.net
    assert count(bare) == 43_506_366 - 2_049_000


@pytest.mark.parametrize("name", BUILDERS)
def test_builders(name: str) -> None:
    cls, depth = BUILDERS[name]
    model = getattr(mlx_rcnn, name)()
    config = model.config
    assert type(model) is cls
    assert (config.num_classes, config.use_fpn, config.hidden_dim) == (21, True, 1024)
    assert model.backbone.config == ResNetFPNConfig(depth=depth, num_classes=1000)
    assert model.rpn.head.num_anchors == 3
    assert model.class_names is None and model.source is None


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name: str) -> None:
    """Torchvision's defaults: 91 classes, frozen norms, epsilon 0, no classifier."""
    model = getattr(mlx_rcnn, name)()
    assert type(model) is ZOO[name]
    expected = ResNetFPNConfig(depth=50, num_classes=0, norm="frozen", norm_eps=0.0)
    assert model.backbone.config == expected
    assert (model.config.num_classes, model.config.dropout) == (91, 0.0)
    # The counts torchvision publishes, without the 53,120 scales and shifts of frozen norms.
    published = {"fasterrcnn_resnet50_fpn": 41_755_286, "maskrcnn_resnet50_fpn": 44_401_393}
    assert count(model) == published[name] + 53_120


def test_config_goes_to_backbone_and_detector() -> None:
    model = mlx_rcnn.mask_rcnn_resnet_50_fpn(
        3,
        7,
        norm="group",
        norm_groups=16,
        out_channels=64,
        hidden_dim=32,
        min_size=256,
        mask_hidden_channels=48,
        box_score_thresh=0.5,
    )
    assert isinstance(model.backbone.net.bn1, GroupNorm)
    assert model.backbone.net.fc.weight.shape == (7, 2048)
    assert model.config.feat_channels == 64
    assert model.roi_heads.box_predictor.cls_score.weight.shape == (3, 32)
    assert model.roi_heads.mask_head.convs[0].weight.shape == (48, 3, 3, 64)
    assert (model.config.min_size, model.config.box_score_thresh) == (256, 0.5)
    assert isinstance(mlx_rcnn.faster_rcnn_resnet_50_fpn().backbone.net.bn1, BatchNorm)
    assert isinstance(mlx_rcnn.fasterrcnn_resnet50_fpn(2).backbone.net.bn1, FrozenBatchNorm)


def test_keywords_and_config_mean_the_same() -> None:
    net = ResNetFPNConfig(depth=18, width=16, num_classes=0, out_channels=16)
    options: dict[str, Any] = {"use_fpn": True, "hidden_dim": 8, "mask_hidden_channels": 8}
    mx.random.seed(0)
    a = MaskRCNN(net, 16, 4, **options)
    mx.random.seed(0)
    b = MaskRCNN(MaskRCNNConfig(net, 16, 4, **options))
    mx.random.seed(0)
    c = MaskRCNN(backbone=net, feat_channels=16, num_classes=4, **options)
    assert a.config == b.config == c.config
    for (x, u), (y, v), (z, w) in zip(
        *(tree_flatten(m.parameters()) for m in (a, b, c)), strict=True
    ):
        assert x == y == z and mx.array_equal(u, v) and mx.array_equal(v, w)
    changed = MaskRCNN(b.config, min_size=64)
    assert (changed.config.min_size, changed.config.hidden_dim) == (64, 8)
    assert MaskRCNN(b.config, num_classes=9).config.num_classes == 9


class Backbone(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        return x


def faster(**options: Any) -> FasterRCNN:
    return FasterRCNN(**{"backbone": Backbone(), "feat_channels": 8, "num_classes": 3, **options})


def mask(**options: Any) -> MaskRCNN:
    return MaskRCNN(**{"backbone": Backbone(), "feat_channels": 8, "num_classes": 3, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"feat_channels": -8}, ValueError, "feat_channels=-8: expected an integer of at least 1"),
        ({"feat_channels": 8.0}, TypeError, "feat_channels=8.0: expected an integer, got float"),
        ({"num_classes": 1}, ValueError, "num_classes=1: expected an integer of at least 2"),
        ({"anchor_sizes": ()}, ValueError, r"anchor_sizes=\(\)"),
        ({"anchor_sizes": ((32,), ())}, ValueError, "anchor_sizes="),
        ({"aspect_ratios": ()}, ValueError, r"aspect_ratios=\(\)"),
        ({"aspect_ratios": (0.5, -1.0)}, ValueError, r"aspect_ratios=\(0.5, -1.0\)"),
        ({"dropout": 1.0}, ValueError, r"dropout=1.0: expected a number in \[0, 1\)"),
        ({"dropout": -0.1}, ValueError, "dropout=-0.1"),
        ({"pool_size": (7,)}, ValueError, r"pool_size=\(7,\)"),
        ({"pool_size": (7, 0)}, ValueError, r"pool_size=\(7, 0\)"),
        ({"hidden_dim": 0}, ValueError, "hidden_dim=0"),
        ({"min_size": ()}, ValueError, r"min_size=\(\)"),
        ({"box_nms_thresh": 1.5}, ValueError, r"box_nms_thresh=1.5: expected .* \[0, 1\]"),
        ({"image_mean": (0.5, 0.5)}, ValueError, "image_mean=.*expected 3 numbers"),
        ({"resize_rule": "nearest"}, ValueError, "resize_rule='nearest'"),
        ({"class_names": ("a", "b")}, ValueError, "class_names has 2 entries: .*num_classes=3"),
        ({"anchor_stride": 0}, ValueError, "anchor_stride=0"),
        ({"hiden_dim": 8}, TypeError, "no field 'hiden_dim'; did you mean 'hidden_dim'"),
        ({"xyz": 8}, TypeError, "FasterRCNNConfig has no field 'xyz'$"),
        ({"mask_pool_size": (14, 14)}, TypeError, "FasterRCNNConfig has no field"),
        ({"backbone": "resnet50"}, TypeError, "backbone='resnet50': expected"),
        ({"backbone": MaskRCNNConfig}, TypeError, "expected an mlx.nn.Module"),
    ],
)
def test_wrong_fields(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        faster(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_pool_size": (14, 7)}, r"mask_pool_size=\(14, 7\): expected a square"),
        ({"mask_out_size": 14}, "mask_out_size=14: expected twice mask_pool_size, 28"),
        ({"mask_hidden_channels": -1}, "mask_hidden_channels=-1"),
        ({"mask_num_convs": -1}, "mask_num_convs=-1"),
    ],
)
def test_wrong_mask_fields(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask(**options)


def test_missing_and_mistaken_arguments() -> None:
    with pytest.raises(TypeError, match="missing feat_channels and num_classes"):
        FasterRCNN(Backbone())
    with pytest.raises(TypeError, match="missing num_classes"):
        FasterRCNN(Backbone(), 8)
    plain = FasterRCNNConfig(backbone=Backbone(), feat_channels=8, num_classes=3)
    with pytest.raises(TypeError, match="got a FasterRCNNConfig, expected a MaskRCNNConfig"):
        MaskRCNN(plain)
    with pytest.raises(TypeError, match="no field 'minsize'; did you mean 'min_size'"):
        mlx_rcnn.faster_rcnn_resnet_50_fpn(minsize=18)
    with pytest.raises(ValueError, match="norm='layer': expected one of"):
        mlx_rcnn.faster_rcnn_resnet_50_fpn(norm="layer")
