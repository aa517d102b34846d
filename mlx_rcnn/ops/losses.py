"""Elementwise losses, float32, unreduced, and what their sums are divided by."""

from __future__ import annotations

import mlx.core as mx

SMOOTH_L1_BETA = 1.0 / 9  # torchvision's, for RPN and box head


def smooth_l1(prediction: mx.array, target: mx.array, beta: float = SMOOTH_L1_BETA) -> mx.array:
    """``0.5 d^2 / beta`` where ``|d| < beta``, else ``|d| - 0.5 beta`` (Fast R-CNN, equation 3).

    Args:
        prediction, target: same shape.
        beta: where the parabola ends. Default: ``1 / 9``.

    Returns:
        Same shape.
    """
    distance = mx.abs(prediction - target)
    return mx.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def binary_cross_entropy(logits: mx.array, target: mx.array) -> mx.array:
    """``-t log s(x) - (1 - t) log(1 - s(x))`` from logits, without overflow.

    Args:
        logits, target: same shape; targets in [0, 1].

    Returns:
        Same shape.
    """
    return mx.logaddexp(logits, 0.0) - logits * target


def cross_entropy(logits: mx.array, labels: mx.array) -> mx.array:
    """``-log softmax(logits)[label]``.

    Args:
        logits (R, C).
        labels (R,): integers.

    Returns:
        (R,).
    """
    chosen = mx.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return mx.logsumexp(logits, axis=1) - chosen


def normaliser(count: mx.array, group: mx.distributed.Group | None = None) -> mx.array:
    """What the sum of a loss is divided by: how many there are, at least 1.

    With several machines it is the mean of that over them, so that the average of their gradients
    is the gradient of one machine with all images.

    Args:
        count (): samples of this machine's batch.
        group: of the machines; each of them must come here. Default: none but this one.

    Returns:
        A scalar.
    """
    if group is None or group.size() == 1:
        return mx.maximum(count, 1)
    total = mx.distributed.all_sum(count.astype(mx.float32), group=group)
    mx.eval(total)  # here, so that the machines' messages go out in the same order
    return mx.maximum(total, 1) / group.size()
