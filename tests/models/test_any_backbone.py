"""Faster R-CNN on backbones of the user's own: one map or several, any stride."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_rcnn import FasterRCNN
from mlx_rcnn.structures import Batch
from small import OPTIONS, check, photo, same


class Maps(nn.Module):
    """Strided convolutions: ``levels`` maps, finest first, or one map for 0."""

    def __init__(self, levels: int, channels: int = 8):
        super().__init__()
        self.levels = levels
        self.stem = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.down = [nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(max(levels - 1, 0))]

    def __call__(self, x: mx.array) -> Any:
        maps = [nn.relu(self.stem(x))]
        for conv in self.down:
            maps.append(nn.relu(conv(maps[-1])))
        return maps if self.levels else maps[0]


@pytest.mark.parametrize("levels", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("pyramid", [False, True])
def test_any_backbone(levels: int, pyramid: bool) -> None:
    options = {**OPTIONS, "use_fpn": pyramid, "box_score_thresh": 0.0}
    model = FasterRCNN(Maps(levels), 8, 3, **options)
    if levels == 0 and pyramid:
        with pytest.raises(ValueError, match="use_fpn=True: expected a list of maps"):
            model.predict(photo())
        return
    assert model.rpn.head.num_anchors == (3 if pyramid else 9)
    found = model.predict([photo(), photo("stop.jpg")])
    check(found[0], 220, 330, classes=3)
    assert len(found[0]["scores"]) > 0
    logits, deltas = model(mx.random.normal((2, 64, 96, 3)))
    assert logits.shape[0] == 2 and logits.shape[2] == 3
    assert deltas.shape == (*logits.shape[:2], 12)
    pixels, size = mx.zeros((1, 64, 96, 3)), np.array([[64, 96]])
    (scales,) = model.strides(model.features(pixels), Batch(pixels, size, size)).scales
    assert scales == tuple(2.0 ** -(2 + i) for i in range(min(max(levels, 1), 4)))  # the finest


def test_class_agnostic_regression() -> None:
    options = {**OPTIONS, "class_agnostic_bbox": True, "box_score_thresh": 0.0}
    model = FasterRCNN(Maps(2), 8, 3, **options)
    logits, deltas = model(mx.random.normal((1, 64, 64, 3)))
    assert deltas.shape == (1, logits.shape[1], 4)
    check(model.predict(photo())[0], 220, 330, classes=3)


def test_explicit_stride() -> None:
    """Where it equals the inferred one nothing changes; it also sets the scale of pooling."""
    for levels, stride in ((0, 4), (2, (4, 8))):
        options = {**OPTIONS, "use_fpn": levels > 0, "box_score_thresh": 0.0}
        mx.random.seed(1)
        inferred = FasterRCNN(Maps(levels), 8, 3, **options)
        mx.random.seed(1)
        explicit = FasterRCNN(Maps(levels), 8, 3, anchor_stride=stride, **options)
        same(explicit.predict(photo())[0], inferred.predict(photo())[0])
    wrong = FasterRCNN(Maps(2), 8, 3, anchor_stride=(4, 8, 16), **OPTIONS)
    with pytest.raises(ValueError, match=r"anchor_stride=\(4, 8, 16\): .* each of the 2 maps"):
        wrong.predict(photo())
    wrong = FasterRCNN(Maps(2), 8, 3, anchor_sizes=((32,), (64,), (128,)), **OPTIONS)
    with pytest.raises(ValueError, match="anchor_sizes=.* each of the 2 maps"):
        wrong.predict(photo())


def test_wrong_backbones_are_named() -> None:
    model = FasterRCNN(Maps(2), 16, 3, **OPTIONS)
    with pytest.raises(ValueError, match=r"feat_channels=16: .* shape \(1, 24, 40, 8\), expected"):
        model.predict(photo())
    with pytest.raises(ValueError, match=r"expected \(N, H, W, 3\) network input, got \(2, 3\)"):
        model(mx.zeros((2, 3)))


def test_a_backbone_that_returns_a_dict_is_named():
    class Mapped(nn.Module):
        def __call__(self, x):
            return {"0": x}

    model = FasterRCNN(Mapped(), 3, 4, hidden_dim=8)
    with pytest.raises(TypeError, match="returned a dict of str: expected one map"):
        model.predict(photo())
