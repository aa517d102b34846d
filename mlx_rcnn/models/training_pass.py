"""The pass from images and targets to losses, shared by the models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config import FasterRCNNConfig
from ..heads import SampledRoIs, box_losses, sample_rois
from ..ops.nms import settle
from ..processes import about_to_compute
from ..rpn import RPNOutputs, rpn_losses
from ..structures import Proposals, Targets
from ..targets import prepare_targets
from ..transforms import load_images, preprocess


class TrainingPass(NamedTuple):
    """The box losses of a batch, and what a further head needs to add its own."""

    losses: dict[str, mx.array]
    features: list[mx.array]
    scales: list[float]
    targets: Targets
    rois: SampledRoIs


def training_pass(
    model: nn.Module, images: Any, targets: Sequence[Mapping[str, Any]], key: mx.array | None,
    group: mx.distributed.Group | None = None, size_divisible: int | None = None,
) -> TrainingPass:  # fmt: skip
    """Losses of RPN and box head; arguments as :meth:`FasterRCNN.get_loss`."""
    about_to_compute()
    config, heads = model.config, model.roi_heads
    if key is None:
        key = mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)
    size_key, rpn_key, roi_key, dropout_key = mx.random.split(key, 4)
    input_config = draw_size(config, size_key)
    if size_divisible is not None:
        input_config = replace(input_config, size_divisible=size_divisible)
    batch = preprocess(load_images(images), input_config)
    classes = heads.box_predictor.cls_score.weight.shape[0]
    points = heads.keypoint_predictor.num_keypoints if model.needs_keypoints else None
    goals = prepare_targets(targets, batch, classes, model.needs_masks, points)
    features = model._features(batch.pixels)
    outputs = model.rpn.outputs(features, (batch.pixels.shape[1], batch.pixels.shape[2]))
    rpn_cls, rpn_reg = rpn_losses(outputs, goals, config, rpn_key, group)
    proposals = training_proposals(model, outputs, mx.array(batch.sizes).astype(mx.float32))
    rois = sample_rois(proposals, goals, config, roi_key)
    scales = roi_scales(features, int(batch.sizes[:, 0].max()), config)
    pooled = model._pool(features, batch_rows(rois.boxes), scales, config.pool_size)
    hidden = heads.box_head(pooled, config.dropout, dropout_key, rois.valid.reshape(-1))
    logits, deltas = heads.box_predictor(hidden)
    n, count = rois.labels.shape
    logits, deltas = logits.reshape(n, count, -1), deltas.reshape(n, count, -1)
    roi_cls, roi_reg = box_losses(logits, deltas, rois, group)
    losses = {
        "rpn_cls_loss": rpn_cls,
        "rpn_reg_loss": rpn_reg,
        "roi_cls_loss": roi_cls,
        "roi_reg_loss": roi_reg,
    }
    return TrainingPass(with_total(losses), features, scales, goals, rois)


def training_proposals(model: nn.Module, outputs: RPNOutputs, sizes: mx.array) -> Proposals:
    """Proposals of a batch as constants, exact; ``sizes`` (N, 2) are unpadded."""
    config = model.config
    logits, deltas, anchors = ([mx.stop_gradient(v) for v in part] for part in outputs)
    fixed = RPNOutputs(logits, deltas, anchors)
    most = config.rpn_pre_nms_top_n_train, config.rpn_post_nms_top_n_train
    found: Proposals = settle(lambda rounds: model.rpn.select(fixed, sizes, *most, rounds))
    return found


def with_total(losses: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Losses with their plain sum as ``total_loss``."""
    parts = {name: loss for name, loss in losses.items() if name != "total_loss"}
    return {**parts, "total_loss": mx.sum(mx.stack(list(parts.values())))}


def draw_size(config: FasterRCNNConfig, key: mx.array) -> FasterRCNNConfig:
    """The config with one ``min_size``, drawn where there are several."""
    if isinstance(config.min_size, int):
        return config
    choice = mx.argmax(mx.random.uniform(shape=(len(config.min_size),), key=key)).tolist()
    return replace(config, min_size=config.min_size[choice])  # type: ignore[index]


def roi_scales(features: list[mx.array], height: int, config: FasterRCNNConfig) -> list[float]:
    """Map pixels per input pixel of the levels RoIs are pooled from.

    With ``anchor_stride`` set it is the inverse. Otherwise torchvision's rule: the power of two
    nearest to map height over ``height``. For images a few pixels high that is not the true scale,
    but the one with which torchvision's checkpoints give their detections.

    Args:
        features: maps (N, h, w, C), finest first.
        height: the greatest *unpadded* height of the batch.
        config: its ``anchor_stride`` and ``roi_levels``.

    Returns:
        One scale a level.
    """
    levels = features[: config.roi_levels]
    if config.anchor_stride is not None:
        stride = config.anchor_stride
        strides = (stride,) * len(levels) if isinstance(stride, int) else stride
        return [1.0 / s for s, _ in zip(strides, levels, strict=False)]
    return [2.0 ** round(math.log2(f.shape[1] / height)) for f in levels]


def batch_rows(boxes: mx.array) -> mx.array:
    """Boxes (N, P, 4) as RoIs (N * P, 5), the batch index first."""
    n, count, _ = boxes.shape
    index = mx.broadcast_to(mx.arange(n, dtype=mx.float32)[:, None, None], (n, count, 1))
    return mx.concatenate([index, boxes], axis=-1).reshape(-1, 5)
