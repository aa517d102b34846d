"""RoIs to train on: sampled, with what the box head should have said of them."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..config.detector import FasterRCNNConfig
from ..ops import encode_boxes
from ..ops.losses import cross_entropy, normaliser, smooth_l1
from ..ops.matching import BELOW, match, sample
from ..structures import Proposals, Targets


class SampledRoIs(NamedTuple):
    """Proposals to learn from, S an image, positives first.

    ``boxes`` (N, S, 4); ``labels`` (N, S), 0 for background; ``matched`` (N, S), the target's row;
    ``goals`` (N, S, 4), regression targets; ``positive`` and ``valid`` (N, S).
    """

    boxes: mx.array
    labels: mx.array
    matched: mx.array
    goals: mx.array
    positive: mx.array
    valid: mx.array


def sample_rois(
    proposals: Proposals, targets: Targets, config: FasterRCNNConfig, key: mx.array
) -> SampledRoIs:
    """Match proposals, and the targets' own boxes, to the targets, and draw a balanced sample.

    As ``RoIHeads.select_training_samples`` of torchvision.

    Args:
        proposals: of the network, taken as given.
        targets: in pixels of the network input.
        config: the fields ``box_*_iou_thresh``, ``box_batch_size_per_image``,
            ``box_positive_fraction`` and ``bbox_reg_weights``.
        key: of the sampling.

    Returns:
        S = ``box_batch_size_per_image`` rows an image, or as many as there are candidates.
    """
    rows = []
    for i, k in enumerate(mx.random.split(key, proposals.boxes.shape[0])):
        candidates = mx.concatenate([proposals.boxes[i], targets.boxes[i]])
        exists = mx.concatenate([proposals.valid[i], targets.valid[i]])
        matched = match(
            targets.boxes[i],
            targets.valid[i],
            candidates,
            config.box_fg_iou_thresh,
            config.box_bg_iou_thresh,
            allow_low_quality=False,
        )
        chosen = sample(
            exists & (matched >= 0),
            exists & (matched == BELOW),
            config.box_batch_size_per_image,
            config.box_positive_fraction,
            k,
        )
        boxes, row = candidates[chosen.rows], mx.maximum(matched[chosen.rows], 0)
        safe = mx.where(chosen.valid[:, None], boxes, mx.array([0.0, 0.0, 1.0, 1.0]))
        target = mx.where(chosen.positive[:, None], targets.boxes[i][row], safe)
        goals = encode_boxes(target, safe, config.bbox_reg_weights)
        labels = mx.where(chosen.positive, targets.labels[i][row], 0)
        rows.append((boxes, labels, row, goals, chosen.positive, chosen.valid))
    return SampledRoIs(*(mx.stack(list(column)) for column in zip(*rows, strict=True)))


def box_losses(
    cls_logits: mx.array,
    bbox_deltas: mx.array,
    rois: SampledRoIs,
    group: mx.distributed.Group | None = None,
) -> tuple[mx.array, mx.array]:
    """Classification and box regression losses (Fast R-CNN, equation 1), as torchvision's.

    Args:
        cls_logits (N, S, C).
        bbox_deltas (N, S, 4 * C or 4).
        rois: the S sampled RoIs of each image.
        group: of the machines that share a batch. Default: none.

    Returns:
        Two scalars, sums over the sampled RoIs of the batch divided by their number: cross-entropy,
        and smooth L1 of the positives' own class.
    """
    labels, valid = rois.labels.reshape(-1), rois.valid.reshape(-1)
    count = normaliser(mx.sum(valid), group)
    error = cross_entropy(cls_logits.reshape(labels.shape[0], -1), labels)
    classification = mx.sum(mx.where(valid, error, 0.0)) / count
    deltas = bbox_deltas.reshape(labels.shape[0], -1, 4)
    own = labels if deltas.shape[1] > 1 else mx.zeros_like(labels)
    deltas = mx.take_along_axis(deltas, own[:, None, None], axis=1)[:, 0]
    error = smooth_l1(deltas, rois.goals.reshape(-1, 4))
    return classification, mx.sum(mx.where(rois.positive.reshape(-1, 1), error, 0.0)) / count
