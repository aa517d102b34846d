"""The detector written out in one file gives the package's detections and losses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import ResNetFPNConfig
from reference import match_detections
from small import photo, recipe_state

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/faster_rcnn_by_hand.py"
SIZES = {"min_size": 128, "max_size": 192}
ALL = {
    "rpn_batch_size_per_image": 100_000,
    "box_batch_size_per_image": 5_000,
    "dropout": 0.0,
    "box_positive_fraction": 0.5,
}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("faster_rcnn_by_hand", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Faster R-CNN R50-FPN a quarter as wide as torchvision's, from a file with its keys."""
    backbone = ResNetFPNConfig(depth=50, width=16, out_channels=32, norm="frozen", num_classes=0)
    built = mlx_rcnn.FasterRCNN(backbone, 32, 7, use_fpn=True, hidden_dim=64)
    file = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    mx.save_safetensors(str(file), recipe_state(built))
    return mlx_rcnn.load(file, **SIZES, **ALL)


def test_detections(example, model):
    [theirs] = model.predict(photo())
    ours = example.by_hand(model).predict(photo(), *SIZES.values())
    found = match_detections(ours, theirs, 0.05, 100)
    assert len(theirs["scores"]) > 10
    assert found["share"] >= 0.97 and found["box_error"] < 0.1 and found["score_error"] < 2e-3


def test_losses_where_nothing_is_random(example, model, monkeypatch):
    boxes = np.array([[20, 30, 140, 150], [200, 40, 320, 210], [100, 100, 120, 118]], np.float32)
    labels, key = np.array([1, 3, 6]), mx.random.key(0)
    theirs = model.get_loss([photo()], [{"boxes": boxes, "labels": labels}], key=key)
    monkeypatch.setattr(example, "ANCHORS", 100_000)
    monkeypatch.setattr(example, "ROIS", 10_000)
    ours = example.by_hand(model).losses(photo(), boxes, labels, key, *SIZES.values())
    assert set(theirs) == {*ours, "total_loss"}
    for name, value in ours.items():
        assert value.item() == pytest.approx(theirs[name].item(), rel=1e-4), name


def test_a_step_of_it_learns(example, model):
    """Every weight that torchvision trains has a gradient."""
    net = example.by_hand(model)
    boxes, labels = np.array([[20, 30, 140, 150]], np.float32), np.array([2])

    def total(parameters):
        net.update(parameters)
        losses = net.losses(photo(), boxes, labels, mx.random.key(1), *SIZES.values())
        return sum(losses.values())

    weights = net.trainable_parameters()
    before, gradients = mx.value_and_grad(total)(weights)
    mx.eval(before, gradients)
    flat = dict(tree_flatten(gradients))
    lacking = [name for name, g in flat.items() if not mx.any(g != 0).item()]
    assert not lacking
