"""R-CNN, Fast and Faster R-CNN as published on VGG and AlexNet, and where they start from."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import RCNN, FastRCNN, VGGConfig, load_backbone


def flat(tree) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))


def test_builders() -> None:
    rcnn = mlx_rcnn.rcnn_vgg_16(5, 7, width=4, hidden_dim=32, crop_size=64, ridge=10.0)
    assert rcnn.backbone.config == VGGConfig(16, 7, width=4, hidden_dim=32)
    assert (rcnn.config.crops_at_once, rcnn.config.ridge, rcnn.num_classes) == (4, 10.0, 5)
    alexnet = mlx_rcnn.rcnn_alexnet()
    assert alexnet.roi_heads.box_predictor.cls_score.weight.shape == (21, 4096)
    assert alexnet.roi_heads.box_predictor.bbox_pred.weight.shape == (84, 6 * 6 * 256)
    fast = mlx_rcnn.fast_rcnn_vgg_16()
    config = fast.config
    assert isinstance(fast, FastRCNN) and fast.backbone.config == VGGConfig(16)
    assert (config.roi_pooling, config.pool_size, config.hidden_dim) == ("pool", (7, 7), 4096)
    assert (config.min_size, config.max_size, config.dropout) == (600, 1000, 0.5)
    assert (config.use_fpn, config.roi_levels, config.class_agnostic_bbox) == (False, 1, False)
    # The paper's: VGG-16's 138,357,544 less its last layer, and 21 classes and their boxes.
    count = sum(v.size for v in flat(fast.parameters()).values())
    assert count == 138_357_544 - 4097 * 1000 + 4097 * 21 * 5
    faster = mlx_rcnn.faster_rcnn_vgg_16(width=4, hidden_dim=8)
    assert faster.rpn.head.num_anchors == 9 and faster.backbone.config.hidden_dim == 4096
    assert faster.map_sizes.strides() == ((16, 16),)


def test_box_heads_start_from_the_classifier(folder: Path) -> None:
    source = VGGConfig(11, 20, width=8, hidden_dim=24)
    net = RCNN(source, 64, 3).backbone.net
    state = flat(net.parameters())
    for name, value in state.items():
        if name.startswith("features") and value.ndim == 4:
            state[name] = value.transpose(0, 3, 1, 2)
    first = state["classifier.0.weight"].reshape(24, 7, 7, 64)
    state["classifier.0.weight"] = first.transpose(0, 3, 1, 2).reshape(24, -1)
    mx.save_safetensors(str(folder / "x.safetensors"), state, metadata={"format": "pt"})
    plain = VGGConfig(11, width=8)
    fast = FastRCNN(plain, 64, 3, hidden_dim=24)
    note = load_backbone(fast, folder / "x.safetensors")
    assert note.endswith("20 classes, its hidden layers in the box head")
    for ours, theirs in (("fc6", 0), ("fc7", 3)):
        for kind in ("weight", "bias"):
            got = getattr(fast.roi_heads.box_head[ours], kind)
            assert mx.array_equal(got, getattr(net.classifier[theirs], kind))
    narrow = FastRCNN(plain, 64, 3, hidden_dim=16)
    assert load_backbone(narrow, folder / "x.safetensors").endswith("20 classes")
    # An R-CNN takes them into its backbone, whatever classes its own classifier has.
    rcnn = RCNN(VGGConfig(11, 7, width=8, hidden_dim=24), 64, 3)
    last = rcnn.backbone.net.classifier[6].weight
    load_backbone(rcnn, folder / "x.safetensors", classifier=False)
    assert mx.array_equal(rcnn.backbone.net.classifier[0].weight, net.classifier[0].weight)
    assert mx.array_equal(rcnn.backbone.net.classifier[6].weight, last)
