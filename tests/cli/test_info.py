"""``mlx_rcnn info``: every number counted once, every line there."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn.checkpoints.load
import small
from mlx_rcnn import MaskRCNN
from mlx_rcnn.cli.info import count_parameters, describe, runs_on
from mlx_rcnn.cli.main import main

NAMES = ("__background__", "person", "bicycle", "N/A", "traffic light")


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.BatchNorm(8)

    def __call__(self, x):
        return nn.relu(self.norm(self.conv(x)))


@pytest.fixture
def tiny_model():
    return MaskRCNN(
        Backbone(),
        feat_channels=8,
        num_classes=5,
        hidden_dim=16,
        mask_hidden_channels=8,
        anchor_sizes=(32,),
        min_size=64,
        max_size=96,
        class_names=NAMES,
    )


def test_info_counts_every_number_once(tiny_model):
    parts = count_parameters(tiny_model)
    # conv 8 * 3 * 3 * 3 + 8 = 224; norm: weight 8, bias 8, running mean 8, running variance 8.
    assert parts["backbone.conv"] == (224, 0)
    assert parts["backbone.norm"] == (16, 16)
    assert {"rpn.head", "roi_heads.box_head", "roi_heads.mask_head"} <= set(parts)
    total = sum(array.size for _, array in tree_flatten(tiny_model.parameters()))
    assert sum(map(sum, parts.values())) == total


def test_info_names_the_keypoint_head():
    lines = "\n".join(describe(small.untrained("keypoint_rcnn", 2)))
    assert "box 2 linear layers of 64, 5 keypoints by 2 convolutions" in lines


def test_info_prints_it_all(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: tiny_model)
    assert main(["info", "--model", "x"]) == 0
    out = capsys.readouterr().out
    assert "MaskRCNN, Backbone" in out
    assert "5 with the background (3 in use): person, bicycle, traffic light" in out
    assert "built, not loaded" in out and "float32" in out
    tiny_model.set_dtype(mx.float16)
    assert any("float16" in line for line in describe(tiny_model))


@pytest.mark.parametrize(
    ("chip", "off", "said"),
    [
        ("applegpu_g13s", False, "in float32"),
        ("applegpu_g17g", False, "in TF32: MLX_ENABLE_TF32=0"),
        ("applegpu_g17g", True, "in float32 (MLX_ENABLE_TF32=0)"),
        ("sm_90", False, "in TF32"),
    ],
)
def test_info_says_where_products_are_rounded(chip, off, said, monkeypatch):
    """GPUs that multiply in TF32, emulated: Apple's from the M5 on, and NVIDIA's."""
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": chip, "device_name": "X"})
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    if off:
        monkeypatch.setenv("MLX_ENABLE_TF32", "0")
    assert f"GPU, X, products {said}" in runs_on()


def test_info_says_that_a_cpu_rounds_nothing(tiny_model):
    assert "runs on       CPU, products in float32" in describe(tiny_model)
