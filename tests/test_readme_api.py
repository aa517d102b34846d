"""The library's first promise: this code runs as it is written."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_rcnn import FasterRCNN, FasterRCNNConfig, MaskRCNN, faster_rcnn_resnet_50_fpn

CODE = """
class SimpleBackbone(nn.Module):                       # any MLX module, channels last
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1); self.conv2 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
    def __call__(self, x): return nn.relu(self.conv2(nn.relu(self.conv1(x))))

model = FasterRCNN(SimpleBackbone(), feat_channels=128, num_classes=5)
first = model.predict(mx.random.uniform(shape=(1, 512, 512, 3)))[0]      # first["boxes"], ["scores"], ["labels"]
model = FasterRCNN(FasterRCNNConfig(backbone=SimpleBackbone(), feat_channels=128, num_classes=5, anchor_sizes=(64, 128, 256),
                   aspect_ratios=(0.5, 1.0), pool_size=(5, 5), hidden_dim=2048, dropout=0.4))
configured = model
model = faster_rcnn_resnet_50_fpn(num_classes=21)
cls_logits, bbox_deltas = model(mx.random.normal((1, 224, 224, 3)))      # (1, R, 21), (1, R, 84)
masks = MaskRCNN(SimpleBackbone(), feat_channels=128, num_classes=5)
x = mx.random.normal((1, 16, 16, 3))
mask_cls_logits, mask_bbox_deltas, mask_logits = masks(x)
backbone_net = model.backbone.net                                         # pretrain, save, load back
"""  # noqa: E501


def test_the_code_runs() -> None:
    got: dict = {
        "mx": mx,
        "nn": nn,
        "FasterRCNN": FasterRCNN,
        "FasterRCNNConfig": FasterRCNNConfig,
        "MaskRCNN": MaskRCNN,
        "faster_rcnn_resnet_50_fpn": faster_rcnn_resnet_50_fpn,
    }
    exec(CODE, got)
    first = got["first"]
    count = len(first["scores"])
    assert (first["boxes"].shape, first["labels"].shape) == ((count, 4), (count,))
    assert all(isinstance(value, np.ndarray) for value in first.values())
    proposals = got["cls_logits"].shape[1]
    assert 0 < proposals <= 1000
    assert got["cls_logits"].shape == (1, proposals, 21)
    assert got["bbox_deltas"].shape == (1, proposals, 84)
    assert got["cls_logits"].dtype == got["bbox_deltas"].dtype == mx.float32
    rows = got["mask_logits"].shape[1]
    assert got["mask_cls_logits"].shape == (1, rows, 5)
    assert got["mask_bbox_deltas"].shape == (1, rows, 20)
    assert got["mask_logits"].shape == (1, rows, 28, 28, 5)
    assert all(mx.isfinite(got[name]).all() for name in ("cls_logits", "mask_logits"))
    assert got["backbone_net"](mx.random.normal((1, 64, 64, 3))).shape == (1, 1000)
    config = got["configured"].config
    assert (config.anchor_sizes, config.pool_size, config.dropout) == ((64, 128, 256), (5, 5), 0.4)
    assert got["configured"].roi_heads.box_head.fc6.in_features == 5 * 5 * 128
    assert got["configured"].rpn.head.num_anchors == 6
