"""Detections from the box head's outputs: decoded, suppressed, the best kept."""

from __future__ import annotations

import mlx.core as mx

from ..ops import clip_boxes, decode_boxes, nms_mask
from ..ops.nms import sort_scores, top_scores
from ..structures import Detections, Proposals


def select_detections(
    cls_logits: mx.array,
    bbox_deltas: mx.array,
    proposals: Proposals,
    sizes: mx.array,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    bbox_reg_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0),
    min_size: float = 1e-2,
    candidates: int = 1024,
    rounds: int | None = None,
    clamp_both: bool = False,
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
        score_thresh: scores must be greater.
        nms_thresh: IoU above which the worse detection of a class goes.
        top_k: detections kept of each image, D.
        bbox_reg_weights: factors of the deltas.
        min_size: least width and height. Default: ``1e-2``.
        candidates: pairs considered. Default: ``1024``.
        rounds: of :func:`~mlx_rcnn.ops.nms_mask`.
        clamp_both: clamp regressed log sizes from below too. Default: ``False``.

    Returns:
        The detections, boxes in pixels of the network input.
    """
    images, count, classes = cls_logits.shape
    scores = mx.softmax(cls_logits.astype(mx.float32), axis=-1)[..., 1:]
    passing = proposals.valid[..., None] & (scores > score_thresh)
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
        bbox_reg_weights,
        clip_below=clamp_both,
    )
    boxes = clip_boxes(boxes, sizes)
    valid = mx.all(boxes[..., 2:] - boxes[..., :2] >= min_size, axis=-1) & (score > score_thresh)
    keep, settled = nms_mask(boxes, valid, nms_thresh, label, rounds)
    enough = (mx.sum(keep, axis=1) >= top_k) | (mx.sum(passing, axis=(1, 2)) <= candidates)
    best = sort_scores(mx.where(keep, score, -1.0))[:, :top_k]
    return Detections(
        mx.take_along_axis(boxes, best[..., None], axis=1),
        mx.take_along_axis(score, best, axis=1),
        mx.take_along_axis(label, best, axis=1),
        mx.take_along_axis(keep, best, axis=1),
        settled & mx.all(enough),
    )
