"""Which target an anchor or proposal answers for, and which of them are learned from.

The only matcher and the only sampler of the package, for RPN and box head alike. Both work on one
image; arrays have fixed shapes and a ``valid`` mask.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from . import box_iou
from .nms import top_scores

BELOW, BETWEEN = -1, -2  # background; neither, so ignored
TARGETS_AT_ONCE = 32  # rows of the overlap matrix held in memory


def match(
    targets: mx.array,  # (M, 4) xyxy
    valid: mx.array,  # (M,) targets that exist
    boxes: mx.array,  # (n, 4) anchors or proposals, same frame
    fg_iou_thresh: float,  # an IoU of at least this is a match
    bg_iou_thresh: float,  # an IoU below this is background
    # boxes whose IoU with a target is the best that target has are matched too, each to the target
    # it overlaps most itself (Faster R-CNN, section 3.1.2)
    allow_low_quality: bool,
) -> mx.array:
    """(n,) int32: the row of the target each box overlaps most, as torchvision's ``Matcher``."""
    n = boxes.shape[0]
    best, index = mx.full((n,), -1.0), mx.zeros((n,), dtype=mx.int32)
    rescued = mx.zeros((n,), dtype=mx.bool_)
    for start in range(0, targets.shape[0], TARGETS_AT_ONCE):
        rows = slice(start, start + TARGETS_AT_ONCE)
        iou = mx.where(valid[rows, None], box_iou(targets[rows], boxes), -1.0)  # (m, n)
        here = mx.max(iou, axis=0)
        index = mx.where(here > best, mx.argmax(iou, axis=0).astype(mx.int32) + start, index)
        best = mx.maximum(here, best)
        if allow_low_quality and n:
            top = mx.max(iou, axis=1, keepdims=True)
            rescued = rescued | mx.any((iou == top) & valid[rows, None], axis=0)
    matched = mx.where(best < bg_iou_thresh, BELOW, mx.where(best < fg_iou_thresh, BETWEEN, index))
    return mx.where(rescued, index, matched)


class Sample(NamedTuple):
    """``rows`` (K,) int32 of the candidates, positives first; ``positive`` and ``valid`` (K,)."""

    rows: mx.array
    positive: mx.array
    valid: mx.array


def sample(
    positive: mx.array, negative: mx.array, count: int, positive_fraction: float, key: mx.array
) -> Sample:
    """A random, balanced selection, as torchvision's ``BalancedPositiveNegativeSampler``."""
    n = positive.shape[0]
    order = mx.random.uniform(shape=(n,), key=key)
    # at most this share of ``count`` is positive; negatives fill up
    most = min(int(count * positive_fraction), n)
    chosen = top_scores(mx.where(positive, order, -1.0), most)
    is_positive = positive[chosen]
    room = count - mx.sum(is_positive)
    rest = top_scores(mx.where(negative, order, -1.0), min(count, n))
    is_negative = negative[rest] & (mx.arange(rest.shape[0]) < room)
    index = mx.concatenate([chosen, rest])
    valid = mx.concatenate([is_positive, is_negative])
    # Positives, then negatives, then what is not valid, each in its order.
    front = top_scores(valid.astype(mx.float32), min(count, n))
    positive = mx.concatenate([is_positive, mx.zeros_like(is_negative)])
    # K = min(count, n) rows; those with ``valid=False`` were not to be had
    return Sample(index[front], positive[front], valid[front])
