"""Elementwise losses, float32, unreduced, and what their sums are divided by."""

from __future__ import annotations

import mlx.core as mx

from .boxes import box_area, decode_boxes

SMOOTH_L1_BETA = 1.0 / 9  # torchvision's, for RPN and box head


def smooth_l1(prediction: mx.array, target: mx.array, beta: float = SMOOTH_L1_BETA) -> mx.array:
    """``0.5 d^2 / beta`` where ``|d| < beta``, else ``|d| - 0.5 beta`` (Fast R-CNN, equation 3)."""
    distance = mx.abs(prediction - target)
    if beta == 0:
        return distance
    return mx.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def giou_loss(prediction: mx.array, target: mx.array, eps: float = 1e-7) -> mx.array:
    """``1 - GIoU`` of xyxy boxes (R, 4), row by row, in [0, 2] (Rezatofighi et al., 2019)."""
    # as ``torchvision.ops.generalized_box_iou_loss``
    low = mx.maximum(prediction[:, :2], target[:, :2])
    high = mx.minimum(prediction[:, 2:], target[:, 2:])
    shared = mx.prod(mx.maximum(high - low, 0), axis=1)
    union = box_area(prediction) + box_area(target) - shared
    around = mx.maximum(prediction[:, 2:], target[:, 2:])
    around = mx.prod(around - mx.minimum(prediction[:, :2], target[:, :2]), axis=1)
    return 1 - (shared / (union + eps) - (around - union) / (around + eps))


def box_regression_error(
    # (R, 4) as predicted, and targets as wanted, see :func:`~mlx_rcnn.ops.encode_boxes`
    deltas: mx.array,
    targets: mx.array,
    boxes: mx.array,  # (R, 4) that they move, xyxy; for ``"giou"`` alone
    # ``"smooth_l1"`` or ``"l1"``, of the deltas and summed over the four, or ``"giou"``, of the
    # boxes
    kind: str = "smooth_l1",
    beta: float = SMOOTH_L1_BETA,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
) -> mx.array:
    """(R,): how far regressed boxes are from where they should be."""
    if kind not in ("smooth_l1", "l1", "giou"):
        raise ValueError(f"kind={kind!r}: expected 'smooth_l1', 'l1' or 'giou'")
    if kind == "giou":
        return giou_loss(
            decode_boxes(deltas, boxes, weights), decode_boxes(targets, boxes, weights)
        )
    return mx.sum(smooth_l1(deltas, targets, 0.0 if kind == "l1" else beta), axis=1)


def binary_cross_entropy(logits: mx.array, target: mx.array) -> mx.array:
    """``-t log s(x) - (1 - t) log(1 - s(x))`` from logits, without overflow; t in [0, 1]."""
    return mx.logaddexp(logits, 0.0) - logits * target


def cross_entropy(logits: mx.array, labels: mx.array) -> mx.array:
    """``-log softmax(logits)[label]``, (R, C) and integers (R,) to (R,)."""
    chosen = mx.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return mx.logsumexp(logits, axis=1) - chosen


def normaliser(count: mx.array, group: mx.distributed.Group | None = None) -> mx.array:
    """What the sum of a loss is divided by: how many there are, at least 1."""
    if group is None or group.size() == 1:
        return mx.maximum(count, 1)
    # With several machines it is the mean of that over them, so that the average of their gradients
    # is the gradient of one machine with all images. Each of them must come here.
    total = mx.distributed.all_sum(count.astype(mx.float32), group=group)
    mx.eval(total)  # here, so that the machines' messages go out in the same order
    return mx.maximum(total, 1) / group.size()
