"""What ``mlx_rcnn doctor`` computes: each operation, and NumPy's answer to the same question."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from ...checkpoints.weights import flat_parameters
from ...config.backbone import ResNetFPNConfig
from ...layers import Conv2d
from ...models import MaskRCNN
from ...ops import box_iou, decode_boxes, encode_boxes, nms, paste_masks, roi_align, roi_pool
from .oracles import aligned, overlaps, pasted, pooled, roi_taps

Arrays = list[np.ndarray]


class Check(NamedTuple):
    """One thing to prove."""

    name: str
    compute: Callable[[], Arrays]  # on the default device
    # The same from NumPy, ``None`` where that is a whole network: there the CPU is the oracle of a
    # GPU, and a second run that of a CPU.
    oracle: Callable[[], Arrays] | None
    bound: float  # of the greatest difference, as a share of the greatest value
    gpu_bound: float  # on a GPU, whose products may be rounded to TF32


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _boxes(count: int, side: float, seed: int = 1) -> np.ndarray:
    corners = np.random.default_rng(seed).uniform(0, side, (count, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)
    return boxes.astype(np.float32)


def _products() -> Arrays:
    return [np.array(mx.array(_random(96, 200)) @ mx.array(_random(200, 64, seed=1)))]


def _products_oracle() -> Arrays:
    return [_random(96, 200).astype(np.float64) @ _random(200, 64, seed=1)]


def _convolution() -> Arrays:
    """Forward, and the gradients of input and kernel."""
    layer = Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
    weight, x = mx.array(_random(12, 3, 3, 8)), mx.array(_random(2, 15, 18, 8, seed=1))

    def run(weight: mx.array, x: mx.array) -> mx.array:
        layer.weight = weight
        y: mx.array = layer(x)
        return mx.sum(y * mx.cos(mx.arange(y.size).reshape(y.shape)))

    gradients = mx.grad(run, argnums=(0, 1))(weight, x)
    layer.weight = weight
    return [np.array(v) for v in (layer(x), *gradients)]


def _convolution_oracle() -> Arrays:
    weight = _random(12, 3, 3, 8).astype(np.float64)
    x = np.pad(_random(2, 15, 18, 8, seed=1).astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    y = np.zeros((2, 8, 9, 12))
    for i in range(3):
        for j in range(3):
            y += x[:, i : i + 16 : 2, j : j + 18 : 2][:, :8, :9] @ weight[:, i, j].T
    pull = np.cos(np.arange(y.size)).reshape(y.shape)
    of_weight, of_x = np.zeros_like(weight), np.zeros_like(x)
    for i in range(3):
        for j in range(3):
            part = x[:, i : i + 16 : 2, j : j + 18 : 2][:, :8, :9]
            of_weight[:, i, j] = np.einsum("nhwo,nhwi->oi", pull, part)
            of_x[:, i : i + 16 : 2, j : j + 18 : 2][:, :8, :9] += pull @ weight[:, i, j]
    return [y, of_weight, of_x[:, 1:-1, 1:-1]]


def _box_arithmetic() -> Arrays:
    a, b = (mx.array(_boxes(40, 100, seed)) for seed in (1, 2))
    deltas = encode_boxes(b, a, (10.0, 10.0, 5.0, 5.0))
    return [np.array(v) for v in (box_iou(a, b), decode_boxes(deltas, a, (10.0, 10.0, 5.0, 5.0)))]


def _box_oracle() -> Arrays:
    a, b = (_boxes(40, 100, seed).astype(np.float64) for seed in (1, 2))
    return [overlaps(a, b), b]


def _suppression() -> Arrays:
    boxes, scores = _boxes(800, 100), np.random.default_rng(3).uniform(size=800)
    return [np.array(nms(mx.array(boxes), mx.array(scores.astype(np.float32)), 0.5))]


def _suppression_oracle() -> Arrays:
    boxes = _boxes(800, 100).astype(np.float64)
    scores = np.random.default_rng(3).uniform(size=800).astype(np.float32)
    order, kept = np.argsort(-scores, kind="stable"), []
    overlap = overlaps(boxes, boxes) > 0.5
    gone = np.zeros(len(boxes), bool)
    for i in order:
        if not gone[i]:
            kept.append(i)
            gone |= overlap[i]
    return [np.array(kept)]


def _rois() -> np.ndarray:
    rows = np.concatenate([np.array([[0.0]] * 12), _boxes(12, 60)], axis=1)
    return rows.astype(np.float32)


def _roi_features() -> Arrays:
    """RoIAlign, fixed and adaptive, and its gradient; RoIPool."""
    feature, rois = mx.array(_random(1, 16, 16, 8)), mx.array(_rois())

    def run(feature: mx.array) -> mx.array:
        seen = roi_align(feature, rois, 4, 0.25, 2, True)
        return mx.sum(seen * mx.sin(mx.arange(seen.size).reshape(seen.shape)))

    fixed = roi_align(feature, rois, 4, 0.25, 2, True)
    adaptive = roi_align(feature, rois, 4, 0.25, 0, True)
    pooled = roi_pool(feature, rois, 4, 0.25)
    return [np.array(v) for v in (fixed, adaptive, mx.grad(run)(feature), pooled)]


def _roi_oracle() -> Arrays:
    feature, rois = _random(1, 16, 16, 8)[0].astype(np.float64), _rois().astype(np.float64)
    fixed = np.stack([aligned(feature, roi[1:], 2) for roi in rois])
    adaptive = np.stack([aligned(feature, roi[1:], 0) for roi in rois])
    pull = np.sin(np.arange(fixed.size)).reshape(fixed.shape)
    gradient = np.zeros_like(feature)
    for roi, own in zip(rois, pull, strict=True):
        for (row, column), weights in roi_taps(feature.shape[:2], roi[1:], 2).items():
            for (y, x), weight in weights:
                gradient[y, x] += weight * own[row, column]
    most = np.stack([pooled(feature, roi[1:]) for roi in rois])
    return [fixed, adaptive, gradient[None], most]


def _pasting() -> Arrays:
    masks = np.random.default_rng(5).uniform(size=(6, 28, 28)).astype(np.float32)
    return [np.asarray(paste_masks(masks, _boxes(6, 90), (100, 120), rule="detectron2"))]


def _pasting_oracle() -> Arrays:
    masks = np.random.default_rng(5).uniform(size=(6, 28, 28)).astype(np.float32)
    return [pasted(masks, _boxes(6, 90), 100, 120)]


def network() -> MaskRCNN:
    """A small Mask R-CNN with the same weights each time."""
    body = ResNetFPNConfig(depth=18, width=16, out_channels=32, norm="group", norm_groups=8)
    model = MaskRCNN(
        body,
        32,
        4,
        use_fpn=True,
        hidden_dim=64,
        min_size=96,
        max_size=128,
        dropout=0.0,
        mask_hidden_channels=16,
        mask_num_convs=2,
        rpn_post_nms_top_n_test=100,
        rpn_post_nms_top_n_train=100,
        box_batch_size_per_image=64,
    )
    filled = []
    for i, (name, value) in enumerate(flat_parameters(model).items()):
        if value.ndim == 1:  # scales are 1, shifts 0: biases are drawn when a layer is made
            filled.append((name, mx.full(value.shape, float(name.endswith(("weight", "var"))))))
            continue
        drawn = _random(*value.shape, seed=i) / np.sqrt(value.size / value.shape[0])
        filled.append((name, mx.array(drawn)))
    model.load_weights(filled)
    model.eval()
    return model


def _picture() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (96, 120, 3), dtype=np.uint8)


def _prediction() -> Arrays:
    """Raw outputs of the network: what follows them is chosen by thresholds."""
    x = mx.array(_random(1, 96, 128, 3, seed=9))
    features = network().features(x)
    return [np.array(v) for v in features]


def _detections() -> Arrays:
    [found] = network().predict(_picture(), score_thresh=0.0, top_k=20, masks="raw")
    return [np.array([len(found)]), np.isfinite(found["masks"]).all()[None]]


def _training() -> Arrays:
    """Losses of two steps of gradient descent."""
    model = network()
    model.train()
    masks = np.zeros((2, 96, 120), np.uint8)
    masks[0, 10:60, 10:70], masks[1, 30:90, 50:110] = 1, 1
    boxes = np.array([[10, 10, 70, 60], [50, 30, 110, 90]], np.float32)
    target = {"boxes": boxes, "labels": np.array([1, 3]), "masks": masks}

    def loss(net: MaskRCNN) -> mx.array:
        total: mx.array = net.get_loss([_picture()], [target], key=mx.random.key(0))["total_loss"]
        return total

    losses = []
    step = nn.value_and_grad(model, loss)
    for _ in range(2):
        value, gradients = step(model)
        losses.append(float(value))
        weights = model.trainable_parameters()
        model.update(tree_map(lambda w, g: w - 1e-3 * g, weights, gradients))
    return [np.array(losses)]


CHECKS = (
    Check("matrix products", _products, _products_oracle, 1e-5, 2e-3),
    Check("convolution and its gradients", _convolution, _convolution_oracle, 1e-5, 2e-3),
    Check("box arithmetic", _box_arithmetic, _box_oracle, 1e-5, 1e-5),
    Check("suppression, exact", _suppression, _suppression_oracle, 0.0, 0.0),
    Check("RoIAlign, its gradient, RoIPool", _roi_features, _roi_oracle, 1e-5, 1e-4),
    Check("pasted masks, share of pixels", _pasting, _pasting_oracle, 0.0, 0.0),
    Check("a network's maps", _prediction, None, 1e-4, 2e-2),
    Check("a prediction, number found", _detections, None, 0.0, 0.0),
    Check("two training steps, losses", _training, None, 1e-4, 5e-2),
)
"""In the order in which they are run."""
