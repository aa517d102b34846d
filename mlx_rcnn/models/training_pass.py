"""The pass from images and targets to losses, shared by the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config.detector import FasterRCNNConfig
from ..heads import SampledRoIs, box_losses, sample_rois
from ..heads.rois import batch_rows
from ..inputs.targets import prepare_targets
from ..inputs.transform import load_images, preprocess, resized_size
from ..ops.nms import settle
from ..processes import about_to_compute
from ..rpn.network import RPNOutputs, rpn_losses
from ..structures import Proposals, Targets
from .strides import Scales, image_strides


class TrainingPass(NamedTuple):
    """The box losses of a batch, and what a further head needs to add its own."""

    losses: dict[str, mx.array]
    features: list[mx.array]
    scales: Scales
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
    padding = config if size_divisible is None else replace(config, size_divisible=size_divisible)
    given = load_images(images)
    batch = preprocess(given, padding, draw_sizes(given, config, size_key))
    classes = heads.box_predictor.cls_score.weight.shape[0]
    points = heads.keypoint_predictor.num_keypoints if model.needs_keypoints else None
    goals = prepare_targets(targets, batch, classes, model.needs_masks, points)
    features = model.features(batch.pixels)
    strides = image_strides(config, model.map_sizes, batch.sizes, len(features))
    outputs = model.rpn.outputs(features, strides.anchors)
    rpn_cls, rpn_reg = rpn_losses(outputs, goals, config, rpn_key, group)
    proposals = training_proposals(model, outputs, mx.array(batch.sizes).astype(mx.float32))
    rois = sample_rois(proposals, goals, config, roi_key)
    scales = strides.scales
    pooled = model.pool(features, batch_rows(rois.boxes), scales, config.pool_size)
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


def draw_sizes(
    images: Sequence[np.ndarray], config: FasterRCNNConfig, key: mx.array
) -> list[tuple[int, int]] | None:
    """(height, width) of each image at a ``min_size`` drawn for it; ``None`` if there is but one.

    As torchvision's transform, which draws for each image too.
    """
    if isinstance(config.min_size, int):
        return None
    drawn = np.array(mx.random.randint(0, len(config.min_size), (len(images),), key=key))
    sides = np.array(config.min_size)[drawn].tolist()
    return [
        resized_size(image.shape[0], image.shape[1], replace(config, min_size=side))
        for image, side in zip(images, sides, strict=True)
    ]
