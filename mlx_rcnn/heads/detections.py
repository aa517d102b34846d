"""Detections from the box head's outputs: decoded, suppressed, the best kept."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..config.detector import FasterRCNNConfig
from ..ops import clip_boxes, decode_boxes, nms_mask
from ..ops.nms import sort_scores, top_scores
from ..structures import Detections, Proposals

CANDIDATES = 1024  # (proposal, class) pairs the suppression looks at, at first


class DetectionRule(NamedTuple):
    """Which (proposal, class) pairs become detections.

    Args:
        score_thresh: scores must be greater.
        nms_thresh: IoU above which the worse detection of a class goes.
        top_k: detections kept of each image, D.
        reg_weights: factors of the deltas. Default: ``(10, 10, 5, 5)``.
        min_size: least width and height. Default: ``1e-2``.
        clamp_both: clamp regressed log sizes from below too. Default: ``False``.
    """

    score_thresh: float
    nms_thresh: float
    top_k: int
    reg_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    min_size: float = 1e-2
    clamp_both: bool = False


def detection_rule(
    config: FasterRCNNConfig,
    score_thresh: float | None = None,
    nms_thresh: float | None = None,
    top_k: int | None = None,
) -> DetectionRule:
    """The rule of a config as it is now.

    Args:
        config: of the model.
        score_thresh, nms_thresh, top_k: in place of the config's. Default: the config's.

    Returns:
        The rule.

    Raises:
        ValueError: a threshold outside [0, 1], or a ``top_k`` that is no positive integer.
    """
    score = config.box_score_thresh if score_thresh is None else score_thresh
    overlap = config.box_nms_thresh if nms_thresh is None else nms_thresh
    most = config.box_detections_per_img if top_k is None else top_k
    for name, value in (("score_thresh", score), ("nms_thresh", overlap)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f"top_k={most!r}: expected a positive integer")
    return DetectionRule(
        float(score),
        float(overlap),
        most,
        config.bbox_reg_weights,
        config.box_min_size,
        config.bbox_clamp_both,
    )


def select_detections(
    cls_logits: mx.array,
    bbox_deltas: mx.array,
    proposals: Proposals,
    sizes: mx.array,
    rule: DetectionRule,
    candidates: int = CANDIDATES,
    rounds: int | None = None,
) -> Detections:
    """Decode, threshold, suppress within each class, and keep the best.

    As ``RoIHeads.postprocess_detections`` of torchvision, on the ``candidates`` best (proposal,
    class) pairs: suppression never looks at a worse pair, so if those yield ``top_k`` detections or
    are all that pass the threshold, the others cannot matter.

    Args:
        cls_logits (N, P, C): class 0 is the background.
        bbox_deltas (N, P, 4 * C or 4): class specific or not.
        proposals: P an image.
        sizes (N, 2): (height, width) of the unpadded images.
        rule: which pairs count.
        candidates: pairs considered. Default: ``1024``.
        rounds: of :func:`~mlx_rcnn.ops.nms_mask`.

    Returns:
        The detections, boxes in pixels of the network input.
    """
    images, count, classes = cls_logits.shape
    scores = mx.softmax(cls_logits.astype(mx.float32), axis=-1)[..., 1:]
    passing = proposals.valid[..., None] & (scores > rule.score_thresh)
    scores = mx.where(passing, scores, -1.0).reshape(images, -1)  # (N, P * (C - 1))
    candidates = min(candidates, scores.shape[1])
    pair = top_scores(scores, candidates)  # (N, K)
    row, label = pair // (classes - 1), pair % (classes - 1) + 1
    score = mx.take_along_axis(scores, pair, axis=1)
    deltas = bbox_deltas.reshape(images, -1, 4)
    which = row if deltas.shape[1] == count else row * classes + label
    boxes = decode_boxes(
        mx.take_along_axis(deltas, which[..., None], axis=1),
        mx.take_along_axis(proposals.boxes, row[..., None], axis=1),
        rule.reg_weights,
        clip_below=rule.clamp_both,
    )
    boxes = clip_boxes(boxes, sizes)
    valid = mx.all(boxes[..., 2:] - boxes[..., :2] >= rule.min_size, axis=-1)
    valid &= score > rule.score_thresh
    keep, settled = nms_mask(boxes, valid, rule.nms_thresh, label, rounds)
    enough = (mx.sum(keep, axis=1) >= rule.top_k) | (mx.sum(passing, axis=(1, 2)) <= candidates)
    best = sort_scores(mx.where(keep, score, -1.0))[:, : rule.top_k]
    return Detections(
        mx.take_along_axis(boxes, best[..., None], axis=1),
        mx.take_along_axis(score, best, axis=1),
        mx.take_along_axis(label, best, axis=1),
        mx.take_along_axis(keep, best, axis=1),
        settled & mx.all(enough),
    )
