"""Soft-NMS: overlapping boxes lose score instead of being dropped (Bodla et al., 2017)."""

from __future__ import annotations

import mlx.core as mx

from .boxes import box_area


def soft_nms(
    boxes: mx.array,
    scores: mx.array,
    top_k: int,
    kind: str = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    labels: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Pick the best box, lower the scores of those that overlap it, and so on.

    A score never rises, so the picks come by falling final score: ``top_k`` of them are all that
    can be among the best ``top_k``. Fixed shapes, no host synchronisation.

    Args:
        boxes (B, n, 4): B independent lists, xyxy.
        scores (B, n): 0 or less for rows that take no part.
        top_k: picks, k; at most n.
        kind: ``"linear"``, times 1 - IoU where that exceeds ``iou_threshold``; or ``"gaussian"``,
            times ``exp(-IoU^2 / sigma)``. Default: ``"linear"``.
        iou_threshold: of ``"linear"``. Default: ``0.5``.
        sigma: of ``"gaussian"``. Default: ``0.5``.
        labels (B, n): only boxes of equal label lower each other. Default: all do.

    Returns:
        Rows (B, k) int32 and their final scores (B, k), falling.

    Raises:
        ValueError: another ``kind``.
    """
    if kind not in ("linear", "gaussian"):
        raise ValueError(f"kind={kind!r}: expected 'linear' or 'gaussian'")
    boxes = boxes.astype(mx.float32)
    areas, left = mx.maximum(box_area(boxes), 0), scores.astype(mx.float32)
    place = mx.arange(boxes.shape[1])[None]
    picks, finals = [], []
    for _ in range(min(top_k, boxes.shape[1])):
        best = mx.argmax(left, axis=1, keepdims=True)  # (B, 1)
        picks.append(best)
        finals.append(mx.take_along_axis(left, best, axis=1))
        box = mx.take_along_axis(boxes, best[..., None], axis=1)
        low, high = (
            mx.maximum(box[..., :2], boxes[..., :2]),
            mx.minimum(box[..., 2:], boxes[..., 2:]),
        )
        shared = mx.prod(mx.maximum(high - low, 0), axis=-1)
        union = mx.take_along_axis(areas, best, axis=1) + areas - shared
        iou = mx.where(union > 0, shared / mx.where(union > 0, union, 1.0), 0.0)
        if kind == "linear":
            factor = mx.where(iou > iou_threshold, 1 - iou, 1.0)
        else:
            factor = mx.exp(-(iou**2) / sigma)
        if labels is not None:
            factor = mx.where(labels == mx.take_along_axis(labels, best, axis=1), factor, 1.0)
        left = mx.where(place == best, -1.0, left * mx.where(left > 0, factor, 1.0))
    return mx.concatenate(picks, axis=1).astype(mx.int32), mx.concatenate(finals, axis=1)
