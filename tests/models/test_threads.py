"""`predict` from any number of threads, on models made and changed in other ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import tiny
from mlx_rcnn import FasterRCNN, FastRCNNPredictor
from mlx_rcnn.heads import MaskRCNNPredictor
from small import near, same

IMAGES = [
    np.random.default_rng(i).integers(0, 256, (70, 60 + 20 * i, 3), np.uint8) for i in range(4)
]


def elsewhere(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "keypoint_rcnn"])
def test_a_new_model(kind: str) -> None:
    model = tiny.build(kind)
    found = elsewhere(lambda: model.predict(IMAGES[0]))
    same(found[0], model.predict(IMAGES[0])[0])
    elsewhere(lambda: mx.eval(model(mx.zeros((1, 64, 64, 3)))))


def test_new_heads() -> None:
    model = tiny.build("mask_rcnn")
    heads = model.roi_heads
    inputs = heads.box_predictor.cls_score.in_features
    heads.box_predictor = FastRCNNPredictor(inputs, 3)
    heads.mask_predictor = MaskRCNNPredictor(8, 8, 3)
    assert elsewhere(lambda: model.predict(IMAGES[0]))[0]["boxes"].shape[1] == 4


def test_a_backbone_and_weights_of_the_user_s(tmp_path) -> None:
    model = tiny.build()
    path = str(tmp_path / "w.safetensors")
    mx.save_safetensors(path, {k: v + 0 for k, v in tree_flatten(model.parameters())})
    model.load_weights(path)
    elsewhere(lambda: model.predict(IMAGES[0]))

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 8, 1)
            self.norm, self.drop = nn.BatchNorm(8), nn.Dropout(0.5)

        def __call__(self, x: mx.array) -> mx.array:
            return self.drop(self.norm(self.conv(x)))

    body = FasterRCNN(Body(), 8, 3, hidden_dim=8, min_size=64, max_size=96)
    before = np.array(body.backbone.norm.running_mean)
    found = elsewhere(lambda: body.predict(IMAGES[0]))
    same(found[0], body.predict(IMAGES[0])[0])  # no dropout, no batch statistics
    np.testing.assert_array_equal(np.array(body.backbone.norm.running_mean), before)
    body.backbone = Body()
    elsewhere(lambda: body.predict(IMAGES[0]))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_many_threads_on_a_model_in_training_mode(norm: str) -> None:
    """Its mode and its running statistics stay, and every result is that of a thread alone."""
    model = tiny.build(norm=norm).train()
    before = {k: np.array(v) for k, v in tree_flatten(model.parameters())}
    expected = [model.predict(image)[0] for image in IMAGES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: model.predict(IMAGES[i % 4])[0], range(24)))
    for i, result in enumerate(found):
        near(result, expected[i % 4])
    assert all(module.training for module in model.modules())
    for key, value in tree_flatten(model.parameters()):
        np.testing.assert_array_equal(np.array(value), before[key])
