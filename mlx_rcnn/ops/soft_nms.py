"""Soft-NMS: overlapping boxes lose score instead of being dropped (Bodla et al., 2017).

With ``"hard"`` they are dropped, as :mod:`~mlx_rcnn.ops.nms` does, but by so many picks: exact
without asking the host, however many boxes there are.
"""

from __future__ import annotations

import mlx.core as mx

from .boxes import box_area
from .overlaps import float32_threshold

KINDS = ("hard", "linear", "gaussian")


def soft_nms(
    boxes: mx.array,
    scores: mx.array,
    top_k: int,
    kind: str = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    labels: mx.array | None = None,
    least: float | mx.array = 0.0,
) -> tuple[mx.array, mx.array]:
    """Pick the best box, lower the scores of those that overlap it, and so on.

    A score never rises, so the picks come by falling final score: ``top_k`` of them are all that
    can be among the best ``top_k``. Fixed shapes, no host synchronisation.

    Args:
        boxes (B, n, 4): B independent lists, xyxy, any frame.
        scores (B, n): of equal scores the lower index is picked first. Rows that are not above
            ``least``, or NaN, take no part.
        top_k: picks, k; no more than n are made.
        kind: ``"linear"``, times 1 - IoU where that is at least ``iou_threshold``;
            ``"gaussian"``, times ``exp(-IoU^2 / sigma)``; or ``"hard"``, out where the IoU is
            above ``iou_threshold``, as :func:`~mlx_rcnn.ops.nms` has it. Default: ``"linear"``.
        iou_threshold: of ``"linear"`` and ``"hard"``, in [0, 1]. Default: ``0.5``.
        sigma: of ``"gaussian"``, above 0. Default: ``0.5``.
        labels (B, n): only boxes of equal label lower each other. Default: all do.
        least: one number or (B, n), not below 0: a row whose score falls to it is out, and lowers
            no other. Default: ``0``.

    Returns:
        Rows (B, k) int32 and their final scores (B, k), falling; -1 where none was left to pick,
        and the row there means nothing.

    Raises:
        ValueError: shapes that do not fit, another ``kind``, or a number outside its range.
    """
    _check(boxes, scores, kind, iou_threshold, sigma)
    count, n = scores.shape
    if min(top_k, n) < 1:
        return mx.zeros((count, 0), dtype=mx.int32), mx.zeros((count, 0))
    boxes, scores = boxes.astype(mx.float32), scores.astype(mx.float32)
    areas, left = mx.maximum(box_area(boxes), 0), mx.where(scores > least, scores, -1.0)
    place, limit = mx.arange(n)[None], float32_threshold(iou_threshold)
    picks, finals = [], []
    for _ in range(min(top_k, n)):
        best = mx.argmax(left, axis=1, keepdims=True)  # (B, 1)
        picks.append(best)
        finals.append(mx.take_along_axis(left, best, axis=1))
        overlap = _overlap(boxes, areas, best)
        if kind == "hard":
            factor = mx.where(overlap > limit, 0.0, 1.0)
        elif kind == "linear":
            factor = mx.where(overlap >= iou_threshold, 1 - overlap, 1.0)
        else:
            factor = mx.exp(-(overlap**2) / sigma)
        if labels is not None:
            factor = mx.where(labels == mx.take_along_axis(labels, best, axis=1), factor, 1.0)
        lowered = left * factor
        left = mx.where((place != best) & (lowered > least), lowered, -1.0)
    return mx.concatenate(picks, axis=1).astype(mx.int32), mx.concatenate(finals, axis=1)


def _overlap(boxes: mx.array, areas: mx.array, best: mx.array) -> mx.array:
    """IoU (B, n) of all boxes with that of row ``best`` (B, 1); 0 where either has no area."""
    box = mx.take_along_axis(boxes, best[..., None], axis=1)
    low = mx.maximum(box[..., :2], boxes[..., :2])
    side = mx.maximum(mx.minimum(box[..., 2:], boxes[..., 2:]) - low, 0)
    shared = side[..., 0] * side[..., 1]
    union = mx.take_along_axis(areas, best, axis=1) + areas - shared
    return mx.where(shared > 0, shared / mx.where(shared > 0, union, 1.0), 0.0)


def _check(
    boxes: mx.array, scores: mx.array, kind: str, iou_threshold: float, sigma: float
) -> None:
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes: expected shape (B, n, 4), got {boxes.shape}")
    if scores.shape != boxes.shape[:2]:
        raise ValueError(f"scores: expected shape {boxes.shape[:2]}, got {scores.shape}")
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected 'hard', 'linear' or 'gaussian'")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold={iou_threshold!r}: expected a number in [0, 1]")
    if not sigma > 0:
        raise ValueError(f"sigma={sigma!r}: expected a number above 0")
