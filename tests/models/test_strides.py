"""Training anchors and pools as prediction does on each image alone, for every size and padding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_rcnn
from mlx_rcnn import FasterRCNN, ResNetFPNConfig
from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.evaluation import evaluate_coco
from mlx_rcnn.models.strides import Strides, image_strides
from mlx_rcnn.structures import Batch
from mlx_rcnn.training import TrainConfig, fit
from small import photo, torch_state, untrained

RULES = ("exact", "torchvision")
ONE = (np.array([[64, 64]]),)
BODY = ResNetFPNConfig(depth=18, width=8, num_classes=0, out_channels=8)


def build(**options) -> FasterRCNN:
    return FasterRCNN(BODY, 8, 3, use_fpn=True, hidden_dim=8, **options)


def in_prediction(model: FasterRCNN, height: int, width: int):
    """Strides and scales of one image of this size after the resize."""
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    pixels, sizes = mx.zeros((1, *padded, 3)), np.array([[height, width]])
    features = [mx.zeros((1, *size, 8)) for size in model.map_sizes(padded)]
    (anchors,), (scales,) = model.strides(features, Batch(pixels, sizes, sizes))
    return anchors, scales


def of_one(values: list, image: int):
    return values[0] if len(values) == 1 else values[image]


@pytest.mark.parametrize("rule", RULES)
def test_every_height(rule: str) -> None:
    """Beside another image, so that the padding of the batch is never this one's own."""
    model = build(stride_rule=rule)
    for height in range(16, 1401):
        sizes = np.array([[height, 333], [700, 1333]])
        found = image_strides(model.config, model.map_sizes, sizes, 5)
        for image, size in enumerate(sizes.tolist()):
            anchors, scales = in_prediction(model, *size)
            assert of_one(found.anchors, image) == anchors
            assert of_one(found.scales, image) == scales
        if rule == "exact":
            assert found.anchors == [tuple((s, s) for s in (4, 8, 16, 32, 64))]
            assert found.scales == [(1 / 4, 1 / 8, 1 / 16, 1 / 32)]


def test_torchvision_rule_by_hand() -> None:
    model = build(stride_rule="torchvision")
    anchors, scales = in_prediction(model, 800, 1333)  # padded to 800 x 1344: P6 is 13 x 21
    assert anchors == ((4, 4), (8, 8), (16, 16), (32, 32), (61, 64))
    assert scales == (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    anchors, scales = in_prediction(model, 70, 70)  # padded to 96: maps 24, 12, 6, 3, 2
    assert anchors == ((4, 4), (8, 8), (16, 16), (32, 32), (48, 48))
    assert scales == (2.0**-2, 2.0**-3, 2.0**-4, 2.0**-5)
    anchors, scales = in_prediction(model, 20, 20)  # padded to 32: maps 8, 4, 2, 1, 1
    assert anchors[4] == (32, 32) and scales == (1 / 2, 1 / 4, 1 / 8, 1 / 16)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_uses_what_prediction_uses(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The anchors and scales that arrive where they are used, in a step and in predictions."""
    model = build(stride_rule=rule, min_size=1, max_size=1, dropout=0.0)
    shapes = [(20, 31), (70, 90), (131, 140), (300, 80)]
    seen: list[tuple] = []
    anchors_of, stage = FasterRCNN.anchors, FasterRCNN.stage

    def anchors_seen(self, features, strides):
        seen.append(("anchors", strides.anchors))
        return anchors_of(self, features, strides)

    def stage_seen(self, features, strides):
        seen.append(("scales", strides.scales))
        return stage(self, features, strides)

    def as_given(height, width, config):
        return height, width

    monkeypatch.setattr(FasterRCNN, "anchors", anchors_seen)
    monkeypatch.setattr(FasterRCNN, "stage", stage_seen)
    monkeypatch.setattr("mlx_rcnn.inputs.transform.resized_size", as_given)
    images = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    targets = [{"boxes": [[2.0, 2, 15, 18]], "labels": [1]}] * len(images)
    losses = model.get_loss(images, targets, size_divisible=64)
    assert np.isfinite(losses["total_loss"].item())
    (_, anchors), (_, scales) = seen
    for i, image in enumerate(images):
        seen.clear()
        model.predict(image)
        assert of_one(anchors, i) == seen[0][1][0]
        assert of_one(scales, i) == seen[1][1][0]


def test_pooling_by_each_images_own_scale() -> None:
    model = build(stride_rule="torchvision")
    maps = [mx.random.normal((2, 64 // 2**i, 64 // 2**i, 8)) for i in range(4)]
    boxes = mx.array([[3.0, 5, 40, 60], [8, 8, 200, 180], [1, 2, 9, 250]])
    first, second = (1 / 4, 1 / 8, 1 / 16, 1 / 32), (1 / 2, 1 / 4, 1 / 8, 1 / 16)
    rois = mx.concatenate(
        [mx.concatenate([mx.full((3, 1), float(i)), boxes], axis=1) for i in (0, 1)]
    )
    both = model.stage(maps, Strides([], [first, second])).pool(rois, (7, 7))
    for i, scales in enumerate((first, second)):
        alone = model.stage(maps, Strides([], [scales])).pool(rois[3 * i : 3 * i + 3], (7, 7))
        assert mx.array_equal(both[3 * i : 3 * i + 3], alone)


def test_untrained_models_are_exact_and_stay_so(folder: Path) -> None:
    model = untrained("faster_rcnn")
    assert model.config.stride_rule == "exact"
    mlx_rcnn.save(model, folder / "m")
    assert mlx_rcnn.load(folder / "m").config.stride_rule == "exact"


def test_checkpoints_of_torchvision_keep_its_rule(folder: Path) -> None:
    mx.save_safetensors(str(folder / "t.safetensors"), torch_state(untrained("faster_rcnn")))
    model = mlx_rcnn.load(folder / "t.safetensors")
    assert model.config.stride_rule == "torchvision"
    mlx_rcnn.save(model, folder / "m")
    assert mlx_rcnn.load(folder / "m").config.stride_rule == "torchvision"
    assert mlx_rcnn.load(folder / "m", stride_rule="exact").config.stride_rule == "exact"


def test_directories_of_older_versions_had_torchvisions_rule(folder: Path) -> None:
    mlx_rcnn.save(untrained("faster_rcnn"), folder / "m")
    file = folder / "m/config.json"
    config = json.loads(file.read_text())
    del config["stride_rule"]
    file.write_text(json.dumps(config))
    assert mlx_rcnn.load(folder / "m").config.stride_rule == "torchvision"


def test_a_new_backbone_has_its_own_strides() -> None:
    model = build(min_size=64, max_size=64)
    assert len(model.predict(photo())) == 1
    assert model.map_sizes.strides()[0] == (4, 4)

    class Coarse(nn.Module):
        def __call__(self, x: mx.array) -> list[mx.array]:
            return [mx.zeros((x.shape[0], x.shape[1] // 12, x.shape[2] // 6, 8))]

    model.backbone = Coarse()
    assert model.map_sizes.strides()[0] == pytest.approx((12, 6), rel=0.05)


@pytest.mark.parametrize("picky", [False, True])
def test_maps_of_one_size_have_no_stride(picky: bool) -> None:
    """Nor have backbones that take one size only: theirs come from the input at hand."""

    class Pooled(nn.Module):
        def __call__(self, x: mx.array) -> list[mx.array]:
            if picky and x.shape[1:3] != (64, 64):
                raise RuntimeError("64 x 64 pixels, please")
            return [mx.zeros((x.shape[0], 8, 8, 8))]

    model = FasterRCNN(Pooled(), 8, 3, use_fpn=True, hidden_dim=8, min_size=64, max_size=64)
    square = np.zeros((64, 64, 3), np.uint8)
    assert model.map_sizes.strides() is None
    assert len(model.predict(square)) == 1
    strides = model.strides([mx.zeros((1, 8, 8, 8))], Batch(mx.zeros((1, 64, 64, 3)), *ONE, *ONE))
    assert strides.anchors == [((8, 8),)] and strides.scales == [(1 / 8,)]
    losses = model.get_loss([square], [{"boxes": [[3, 3, 40, 40]], "labels": [1]}])
    assert np.isfinite(losses["total_loss"].item())


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="stride_rule='torch': expected"):
        replace(build().config, stride_rule="torch")


@pytest.mark.slow
def test_small_images_are_no_special_case(tmp_path: Path) -> None:
    """Pictures of 80 pixels, which a batch pads to 128 and prediction to 96; some minutes."""
    mx.random.seed(0)
    train, val = ShapesDataset(400, (80, 80), seed=1), ShapesDataset(100, (80, 80), seed=2)
    model = FasterRCNN(
        ResNetFPNConfig(
            depth=18, width=16, out_channels=32, norm="group", norm_groups=8, num_classes=0
        ),
        32,
        len(train.class_names),
        use_fpn=True,
        hidden_dim=128,
        dropout=0.0,
        min_size=80,
        max_size=80,
        class_names=train.class_names,
    )
    config = TrainConfig(epochs=6, batch_size=4, lr=0.02, warmup=20, clip=10.0)
    fit(model, train, None, config, tmp_path / "run")
    assert evaluate_coco(mlx_rcnn.load(tmp_path / "run/last"), val)["AP50"] > 0.33
