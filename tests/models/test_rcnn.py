"""R-CNN: predictions, losses, what learns, and the way to disk and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from coloured import MeanColours, model, sample
from crops import warp
from mlx_rcnn import (
    RCNN,
    AlexNetConfig,
    MobileNetFPNConfig,
    RCNNConfig,
    ResNetConfig,
    ResNetFPNConfig,
    VGGConfig,
    set_trainable,
)
from mlx_rcnn.checkpoints.export import export_state
from mlx_rcnn.models import crop_units
from mlx_rcnn.training.new_heads import set_classes

ALEXNET = AlexNetConfig(5, width=4, hidden_dim=16)
BACKBONES = {
    "alexnet": (ALEXNET, 16),
    "alexnet without classifier": (AlexNetConfig(width=4), 16),
    "vgg": (VGGConfig(11, 5, width=4, hidden_dim=16), 32),
    "resnet": (ResNetConfig(18, width=8, norm="group", norm_groups=4), 64),
    "resnet_fpn": (ResNetFPNConfig(18, width=8, out_channels=8, norm="frozen"), 64),
    "mobilenet": (MobileNetFPNConfig(width=0.25, norm="frozen"), 240),
}


def small(**options: Any) -> RCNN:
    mx.random.seed(1)
    return RCNN(ALEXNET, 16, 4, **{"crop_size": 64, "crop_context": 5, **options})


def flat(tree: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))


def gradients(rcnn: RCNN, *given: Any) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    losses = rcnn.get_loss(*given, key=mx.random.key(3))
    found = nn.value_and_grad(
        rcnn, lambda: rcnn.get_loss(*given, key=mx.random.key(3))["total_loss"]
    )()[1]
    return losses, flat(found)


def test_outputs_are_the_classifiers_of_the_oracles_crops() -> None:
    rcnn = model(crop_size=20, crop_context=3)
    rcnn.roi_heads.box_predictor.bbox_pred.weight = mx.random.normal((16, 12))
    pixels = np.random.default_rng(0).normal(0, 1, (2, 30, 40, 3)).astype(np.float32)
    boxes = [np.array([[3, 4, 20, 25], [30, 0, 40, 9.5]]), np.array([[5, 5, 6, 6.0]])]
    logits, deltas = rcnn(mx.array(pixels), boxes)
    assert (logits.shape, deltas.shape) == ((2, 64, 4), (2, 64, 16))
    for i, rows in enumerate(boxes):
        for j, box in enumerate(rows):
            crop = mx.array(warp(pixels[i], box, 20, 3).astype(np.float32))[None]
            pooled = rcnn.backbone.pooled(crop)
            expected = rcnn.roi_heads.box_predictor(pooled.flatten(1), pooled)
            for got, want in zip((logits[i, j], deltas[i, j]), expected, strict=True):
                np.testing.assert_allclose(np.array(got), np.array(want[0]), atol=2e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_any_classifier(name: str) -> None:
    config, channels = BACKBONES[name]
    rcnn = RCNN(config, channels, 4, crop_size=64, crop_context=4)
    image, target = sample(0)
    [found] = rcnn.predict(image, [target["proposals"]], score_thresh=0.0, top_k=7)
    assert len(found["scores"]) == 7 and np.isfinite(found["boxes"]).all()
    losses, grads = gradients(rcnn, [image], [target])
    assert set(losses) == {"roi_cls_loss", "roi_reg_loss", "total_loss"}
    assert all(np.isfinite(np.array(v)).all() for v in [*losses.values(), *grads.values()])
    moved = [k for k, v in grads.items() if k.startswith("backbone.net") and np.array(v).any()]
    assert moved


def test_a_batch_is_its_images() -> None:
    """Of unequal sizes, with other numbers of proposals and none, however many crops at once."""
    images = [sample(i, 1 + i)[0] for i in range(3)]
    proposals = [sample(0, 1)[1]["proposals"], np.zeros((0, 4)), sample(2, 3)[1]["proposals"]]
    rcnn = model(crops_at_once=7)
    rcnn.roi_heads.box_predictor.cls_score.weight *= 30
    together = rcnn.predict(images, proposals, score_thresh=0.1)
    assert len(together[1]["scores"]) == 0 < min(len(together[i]["scores"]) for i in (0, 2))
    rcnn.config = RCNNConfig(**{**vars(rcnn.config), "crops_at_once": 1000})
    for image, boxes, found in zip(images, proposals, together, strict=True):
        [alone] = rcnn.predict(image, [boxes], score_thresh=0.1)
        for name, value in found.items():
            np.testing.assert_allclose(alone[name], value, rtol=1e-4, atol=1e-4)


def test_images_are_not_resized() -> None:
    image, target = sample(0)
    wide = {"score_thresh": 0.0, "top_k": 5}
    one, two = (model(min_size=size, max_size=size) for size in (32, 999))
    two.update(one.parameters())
    for got, want in zip(
        one.predict(image, [target["proposals"]], **wide),
        two.predict(image, [target["proposals"]], **wide),
        strict=True,
    ):
        np.testing.assert_array_equal(got["boxes"], want["boxes"])


def test_the_images_mean_and_channels() -> None:
    """What surrounds an image is its mean; the order of the channels is the classifier's."""
    image = np.full((20, 20, 3), (255, 0, 51), np.uint8)
    box = np.array([[0.0, 0, 20, 20]])
    rcnn = model(image_mean=(0.0, 0.0, 0.0), image_std=(0.5, 0.5, 0.5), crop_context=0)
    [units] = crop_units(rcnn, [image], [box])
    np.testing.assert_allclose(units[0, :3], [2, 0, 0.4], atol=1e-6)
    rcnn = model(image_mean=(1.0, 0.0, 0.2), channel_order="bgr")
    [units] = crop_units(rcnn, [image], [box])
    np.testing.assert_allclose(units, 0, atol=1e-6)  # the image is its mean


def test_crop_units(capsys: pytest.CaptureFixture[str]) -> None:
    rcnn, (image, target) = small(crops_at_once=4), sample(0)
    boxes = [target["proposals"], np.zeros((0, 4)), target["boxes"]]
    found = crop_units(rcnn, [image] * 3, boxes)
    assert [v.shape for v in found] == [(45, 16), (0, 16), (3, 16)]
    np.testing.assert_allclose(found[2], found[0][:3], atol=1e-5)
    assert capsys.readouterr().err == ""
    crop_units(rcnn, image, [target["boxes"]], progress=True)
    assert "3/3" in capsys.readouterr().err


def test_edge_rows_of_losses() -> None:
    image, target = sample(0)
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "proposals": np.zeros((0, 4))}
    thin = {"boxes": [[0, 0, 1, 1], [139, 59, 140, 60]], "labels": [1, 2]}
    thin["proposals"] = np.array([[0, 0, 1, 1], [139, 0, 140, 60], [0, 59, 140, 60]])
    background = {**empty, "proposals": target["proposals"]}
    other = sample(1, 2)[0]
    for images, targets in (
        ([image], [empty]),
        ([image], [thin]),
        ([image, other], [target, empty]),
        ([image, other], [background, {**empty, "proposals": [[5, 5, 30, 30]]}]),
    ):
        losses, grads = gradients(small(), images, targets)
        assert all(np.isfinite(np.array(v)).all() for v in [*losses.values(), *grads.values()])
    assert small().get_loss([image], [empty])["total_loss"].item() == 0


def test_no_gradient_from_the_regression_into_the_classifier() -> None:
    rcnn, (image, target) = small(), sample(0)
    rcnn.roi_heads.box_predictor.bbox_pred.weight += 0.01

    def regression() -> mx.array:
        return rcnn.get_loss([image], [target], key=mx.random.key(0))["roi_reg_loss"]

    found = flat(nn.value_and_grad(rcnn, regression)()[1])
    moved = {name for name, value in found.items() if np.array(value).any()}
    start = "roi_heads.box_predictor.bbox_pred"
    assert moved == {f"{start}.weight", f"{start}.bias"}


def test_a_batch_is_divided_over_its_images() -> None:
    rcnn, given = model(crops_per_batch=40), [sample(i) for i in range(2)]
    images, targets = [image for image, _ in given], [target for _, target in given]
    seen: list[int] = []
    pooled = rcnn.backbone.pooled
    object.__setattr__(rcnn.backbone, "pooled", lambda x: seen.append(len(x)) or pooled(x))
    rcnn.get_loss(images, targets)
    rcnn.get_loss(images[:1], targets[:1])
    assert seen == [40, 40]


def test_dropout_is_the_keys() -> None:
    """In any mode, and whatever MLX's state is."""
    rcnn, (image, target) = small(), sample(0)

    def loss(seed: int, key: int) -> float:
        mx.random.seed(seed)
        return rcnn.get_loss([image], [target], key=mx.random.key(key))["roi_cls_loss"].item()

    assert loss(0, 1) == loss(5, 1) != loss(0, 2)
    first = loss(0, 1)
    rcnn.eval()
    assert loss(0, 1) == first


def test_what_learns() -> None:
    rcnn = small()
    set_trainable(rcnn, 1)
    names = set(flat(rcnn.trainable_parameters()))
    assert {"backbone.net.classifier.1.weight", "backbone.net.classifier.4.bias"} < names
    assert not any(name.startswith("backbone.net.classifier.6") for name in names)
    assert [n for n in names if "features" in n and "weight" in n] == [
        "backbone.net.features.10.weight"
    ]


def test_new_classes() -> None:
    rcnn = small(rcnn_scores="svm", class_names=("-", "a", "b", "c"))
    assert set_classes(rcnn, ("-", "x", "y"))
    assert rcnn.num_classes == 3 and "svms" not in rcnn.roi_heads
    assert (rcnn.config.num_classes, rcnn.config.rcnn_scores) == (3, "softmax")
    image, target = sample(0, 2)
    assert np.isfinite(rcnn.get_loss([image], [target])["total_loss"].item())
    rcnn.predict(image, [target["proposals"]])


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("scores", ["softmax", "svm"])
def test_to_disk_and_back(scores: str, dtype: str | None, folder: Path) -> None:
    rcnn, (image, target) = small(rcnn_scores=scores), sample(0)
    rcnn.roi_heads.box_predictor.cls_score.weight *= 50
    mlx_rcnn.save(rcnn, folder / "model")
    again = mlx_rcnn.load(folder / "model", dtype=dtype, box_nms_thresh=0.4)
    assert isinstance(again, RCNN) and again.config.box_nms_thresh == 0.4
    given = {"score_thresh": 0.05, "nms_thresh": 0.5, "top_k": 5}
    [want] = rcnn.predict(image, [target["proposals"]], **given)
    [got] = again.predict(image, [target["proposals"]], **given)
    if dtype is None:
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value)
    else:
        assert np.isfinite(got["scores"]).all() and len(got["scores"]) == 5
    other = "svm" if scores == "softmax" else "softmax"
    with pytest.raises(ValueError, match=f"fit the model with rcnn_scores='{other}': .*svms"):
        mlx_rcnn.load(folder / "model", rcnn_scores=other)


def test_scores_of_svms() -> None:
    rcnn, (image, target) = model(rcnn_scores="svm"), sample(0)
    svms = rcnn.roi_heads.svms
    svms.weight, svms.bias = (
        mx.random.normal((3, 12), key=mx.random.key(0)),
        mx.array([0.5, -1.0, -4.0]),
    )
    boxes = target["boxes"]
    [units] = crop_units(rcnn, image, [boxes])
    expected = 1 / (1 + np.exp(-np.array(svms(mx.array(units)))))
    [found] = rcnn.predict(image, [boxes], score_thresh=0.0, nms_thresh=1.0)
    np.testing.assert_allclose(found["scores"], np.sort(expected, axis=None)[::-1], rtol=1e-4)
    each = (0.2, 0.9, 0.6)
    [found] = rcnn.predict(image, [boxes], score_thresh=each, nms_thresh=1.0)
    assert len(found["scores"]) == (expected > np.array(each)).sum()


def test_what_is_refused() -> None:
    image, target = sample(0)
    with pytest.raises(ValueError, match="feat_channels=8: the classifier's last map has 16 chan"):
        RCNN(ALEXNET, 8, 4)
    with pytest.raises(TypeError, match="backbone Conv2d: expected a classifier"):
        RCNN(nn.Conv2d(3, 8, 3), 8, 4)
    for call in (
        lambda: model().predict(image),
        lambda: model().get_loss([image], [{k: target[k] for k in ("boxes", "labels")}]),
    ):
        with pytest.raises(ValueError, match="an RCNN needs proposals"):
            call()
    with pytest.raises(ValueError, match="crop_context=8: expected less than half of crop_size=16"):
        model(crop_context=8)
    with pytest.raises(ValueError, match="rcnn_scores='margin'"):
        model(rcnn_scores="margin")
    with pytest.raises(TypeError, match="RCNNConfig has no field 'pool_size'"):
        model(pool_size=(7, 7))
    with pytest.raises(ValueError, match=r"expected \(N, H, W, 3\) network input"):
        model()(mx.zeros((1, 8, 8, 4)), [np.zeros((0, 4))])
    with pytest.raises(ValueError, match="torchvision cannot express this model"):
        export_state(small(), "torchvision")


def test_memory_of_many_crops() -> None:
    """Peak memory is that of the crops at once, not of all."""
    image = np.zeros((64, 64, 3), np.uint8)
    boxes = np.tile(np.array([[4.0, 4, 40, 40]]), (256, 1))
    rcnn, peaks = RCNN(MeanColours(), 3, 3, crop_size=96, crops_at_once=16), []
    for count in (16, 256):
        rcnn.predict(image, [boxes[:count]])
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        rcnn.predict(image, [boxes[:count]])
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 2 * peaks[0]
