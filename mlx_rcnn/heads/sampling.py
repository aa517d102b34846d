"""RoIs to train on: sampled, with what the box head should have said of them."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..config.boxes import BoxConfig, BoxStage, FastRCNNConfig
from ..ops import encode_boxes
from ..ops.losses import SMOOTH_L1_BETA, box_regression_error, cross_entropy, normaliser
from ..ops.matching import BELOW, match, sample
from ..structures import Proposals, Targets


class SampledRoIs(NamedTuple):
    """Proposals to learn from, S an image, positives first."""

    boxes: mx.array  # (N, S, 4)
    labels: mx.array  # (N, S), 0 for background
    matched: mx.array  # (N, S), the target's row
    regression_targets: mx.array  # (N, S, 4)
    positive: mx.array  # (N, S)
    valid: mx.array  # (N, S)
    appended: mx.array  # (N, S): it is a target's own box


def sample_rois(
    proposals: Proposals,
    targets: Targets,
    config: BoxConfig,
    key: mx.array,
    stage: BoxStage | None = None,
) -> SampledRoIs:
    """Match proposals and the targets' own boxes to targets, and draw a balanced sample."""
    # As ``RoIHeads.select_training_samples`` of torchvision.
    stage = stage or config.box_stages[0]
    # S, or as many as there are candidates
    count = config.sample_size(proposals.boxes.shape[0])
    rows = []
    for i, k in enumerate(mx.random.split(key, proposals.boxes.shape[0])):
        candidates = mx.concatenate([proposals.boxes[i], targets.boxes[i]])
        exists = mx.concatenate([proposals.valid[i], targets.valid[i]])
        matched = match(
            targets.boxes[i],
            targets.valid[i],
            candidates,
            stage.fg_iou,
            stage.bg_iou,
            allow_low_quality=False,
        )
        chosen = sample(
            exists & (matched >= 0),
            exists & (matched == BELOW),
            count,
            config.box_positive_fraction,
            k,
        )
        kept = _Kept(candidates[chosen.rows], matched[chosen.rows], chosen.positive, chosen.valid)
        appended = chosen.rows >= proposals.boxes.shape[1]
        rows.append((*_described(kept, targets, i, stage), appended))
    return SampledRoIs(*(mx.stack(list(column)) for column in zip(*rows, strict=True)))


def match_rois(proposals: Proposals, targets: Targets, stage: BoxStage) -> SampledRoIs:
    """Match boxes to the targets and keep all P, as detectron2's cascade does between stages."""
    rows = []
    for i in range(proposals.boxes.shape[0]):
        matched = match(
            targets.boxes[i],
            targets.valid[i],
            proposals.boxes[i],
            stage.fg_iou,
            stage.bg_iou,
            allow_low_quality=False,
        )
        positive = proposals.valid[i] & (matched >= 0)
        # The order among equals stays: a branch counts on positives that stand first.
        first = mx.argsort(mx.where(positive, 0, len(matched)) + mx.arange(len(matched)))
        valid = proposals.valid[i] & (positive | (matched == BELOW))
        kept = _Kept(proposals.boxes[i][first], matched[first], positive[first], valid[first])
        rows.append((*_described(kept, targets, i, stage), mx.zeros_like(kept.valid)))
    return SampledRoIs(*(mx.stack(list(column)) for column in zip(*rows, strict=True)))


class _Kept(NamedTuple):
    """Rows to learn from of one image, and what they were matched to (negative: nothing)."""

    boxes: mx.array
    matched: mx.array
    positive: mx.array
    valid: mx.array


def _described(kept: _Kept, targets: Targets, i: int, stage: BoxStage) -> tuple[mx.array, ...]:
    """The fields of :class:`SampledRoIs` of image ``i``, but the last."""
    boxes, row = kept.boxes, mx.maximum(kept.matched, 0)
    safe = mx.where(kept.valid[:, None], boxes, mx.array([0.0, 0.0, 1.0, 1.0]))
    target = mx.where(kept.positive[:, None], targets.boxes[i][row], safe)
    wanted = encode_boxes(target, safe, stage.reg_weights)
    labels = mx.where(kept.positive, targets.labels[i][row], 0)
    return boxes, labels, row, wanted, kept.positive, kept.valid


class BoxLoss(NamedTuple):
    """How the box regression is judged, see :func:`~mlx_rcnn.ops.losses.box_regression_error`."""

    kind: str = "smooth_l1"
    beta: float = SMOOTH_L1_BETA
    reg_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)


def box_loss(config: FastRCNNConfig, stage: BoxStage) -> BoxLoss:
    """The rule of a config as it is now, for one of its box heads."""
    return BoxLoss(config.box_reg_loss, config.box_smooth_l1_beta, stage.reg_weights)


def box_losses(
    cls_logits: mx.array,  # (N, S, C)
    bbox_deltas: mx.array,  # (N, S, 4 * C or 4)
    rois: SampledRoIs,
    group: mx.distributed.Group | None = None,
    rule: BoxLoss | None = None,
) -> tuple[mx.array, mx.array]:
    """Classification and box regression losses (Fast R-CNN, equation 1), as torchvision's."""
    rule = rule or BoxLoss()
    labels, valid = rois.labels.reshape(-1), rois.valid.reshape(-1)
    count = normaliser(mx.sum(valid), group)
    error = cross_entropy(cls_logits.reshape(labels.shape[0], -1), labels)
    classification = mx.sum(mx.where(valid, error, 0.0)) / count
    deltas = bbox_deltas.reshape(labels.shape[0], -1, 4)
    own = labels if deltas.shape[1] > 1 else mx.zeros_like(labels)
    deltas = mx.take_along_axis(deltas, own[:, None, None], axis=1)[:, 0]
    boxes = mx.where(valid[:, None], rois.boxes.reshape(-1, 4), mx.array([0.0, 0.0, 1.0, 1.0]))
    error = box_regression_error(deltas, rois.regression_targets.reshape(-1, 4), boxes, *rule)
    # sums over the sampled RoIs of the batch divided by their number
    return classification, mx.sum(mx.where(rois.positive.reshape(-1), error, 0.0)) / count
