"""What a branch over the RoIs, of masks or keypoints above all, needs around it."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ..structures import BUCKET, Detections
from .sampling import SampledRoIs


def in_pieces(rois: mx.array, at_once: int, run: Callable[[mx.array, slice], mx.array]) -> mx.array:
    """Run a branch on (R, 5) RoIs ``at_once`` at a time, in order, which bounds its memory."""
    done: list[mx.array] = []
    for start in range(0, rois.shape[0], at_once):
        rows = slice(start, start + at_once)
        piece = mx.depends(rois[rows], done[-1]) if done else rois[rows]
        done.append(run(piece, rows))
    return mx.concatenate(done) if len(done) > 1 else done[0]


def rows_with_positives(rois: SampledRoIs) -> int:
    """How many rows of each image can hold a positive: they stand first, and a branch is costly."""
    most = int(np.array(mx.max(mx.sum(rois.positive, axis=1))))
    return min(max(-(-most // BUCKET) * BUCKET, BUCKET), rois.labels.shape[1])


def positives(rois: SampledRoIs) -> tuple[int, mx.array, mx.array]:
    """What a branch trains on: rows an image, RoIs (R, 5) of these, and which are positive (R,)."""
    most = rows_with_positives(rois)
    return most, batch_rows(rois.boxes[:, :most]), rois.positive[:, :most].reshape(-1)


def rows_of_targets(rois: SampledRoIs, count: int, targets: int) -> mx.array:
    """(N * count,) rows of (N * M, ...): the targets of the first ``count`` RoIs of each image."""
    first = mx.arange(rois.matched.shape[0])[:, None] * targets
    return (first + rois.matched[:, :count]).reshape(-1)


def valid_rois(detections: Detections) -> tuple[mx.array, mx.array] | None:
    """RoIs (D, 5) and labels (D,) of the valid detections, evaluated before; ``None`` without."""
    valid = np.flatnonzero(np.array(detections.valid).reshape(-1)).astype(np.int32)
    if len(valid) == 0:
        return None
    chosen = mx.array(valid)
    return batch_rows(detections.boxes)[chosen], detections.labels.reshape(-1)[chosen]


def batch_rows(boxes: mx.array) -> mx.array:
    """Boxes (N, P, 4) as RoIs (N * P, 5), the batch index first."""
    n, count, _ = boxes.shape
    index = mx.broadcast_to(mx.arange(n, dtype=mx.float32)[:, None, None], (n, count, 1))
    return mx.concatenate([index, boxes], axis=-1).reshape(-1, 5)
