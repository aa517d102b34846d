"""Keypoints drawn: dots, and the limbs between them, with smooth edges and a dark rim."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from PIL import Image

Color = tuple[int, int, int]
Array = np.ndarray
Skeleton = Sequence[tuple[int, int]]

LOGIT_THRESH = 2.0
"""Least logit of a keypoint that is drawn, torchvision's example's."""
PROBABILITY_THRESH = 0.05
"""Least probability, detectron2's."""

_RIM = (20, 20, 20)
_FAR = 1e6  # pixels, further than which float32 has no halves
_ROWS = 256  # painted at once, which bounds the memory of a limb across a large picture


class SkeletonStyle(TypedDict, total=False):
    """Keywords of :func:`~mlx_rcnn.draw_detections` that a model knows."""

    skeleton: Skeleton | None
    keypoint_thresh: float


class DrawOptions(SkeletonStyle, total=False):
    """All keywords of :func:`~mlx_rcnn.draw_detections`."""

    score_thresh: float
    alpha: float
    scale: int


class Joints(NamedTuple):
    """``points`` (D, K, 2): x, y in pixels; ``scores`` (D, K), or which of them are drawn."""

    points: Array
    scores: Array


def skeleton_style(model: Any) -> SkeletonStyle:
    """How to draw what a model finds, for ``draw_detections``; nothing but for a Keypoint R-CNN."""
    if not getattr(model, "needs_keypoints", False):
        return {}
    probability = model.config.keypoint_score == "probability"
    thresh = PROBABILITY_THRESH if probability else LOGIT_THRESH
    return {"skeleton": model.keypoint_skeleton, "keypoint_thresh": thresh}


def keypoint_arrays(prediction: Mapping[str, np.ndarray], count: int) -> Joints | None:
    """The keypoints of a prediction's ``count`` detections, checked; ``None`` without keypoints."""
    if "keypoints" not in prediction:
        return None
    points = np.asarray(prediction["keypoints"], np.float64)
    if points.ndim != 3 or len(points) != count or points.shape[2] != 3:
        raise ValueError(f"keypoints have shape {points.shape}: expected ({count}, K, 3)")
    known = points[..., 2] > 0
    scores = np.where(known, np.inf, -np.inf)  # infinite where the prediction has none
    if "keypoints_scores" in prediction:
        scores = np.asarray(prediction["keypoints_scores"], np.float64)
        if scores.shape != known.shape:
            raise ValueError(f"keypoints_scores have shape {scores.shape}: expected {known.shape}")
        scores = np.where(known, scores, -np.inf)
    return Joints(points[..., :2], scores)


def draw_skeletons(
    picture: Image.Image,
    joints: Joints,
    boxes: Array,
    order: Sequence[int],
    skeleton: Skeleton | None,
    line: int,
) -> None:
    """Draw the keypoints of detections in ``order``, topmost first; a limb needs both its ends."""
    # pairs of keypoints, counted from 0
    edges, count = list(skeleton or ()), joints.points.shape[1]
    for edge in edges:
        if len(edge) != 2 or not all(0 <= end < count for end in edge):
            raise ValueError(f"skeleton holds {edge}: expected pairs of 0..{count - 1}")
    for i in reversed(order):
        # limbs are as wide as the box is large
        points, shown, width = joints.points[i], joints.scores[i], _limb_width(boxes[i], line)
        for at, (a, b) in enumerate(edges):
            if shown[a] and shown[b]:
                _stroke(picture, points[a], points[b], width / 2, limb_color(at, len(edges)))
        for k in np.flatnonzero(shown).tolist():
            _stroke(picture, points[k], points[k], 0.75 * width, limb_color(k, count))


def _limb_width(box: Array, line: int) -> float:
    """Pixels: a share of the object's size, so that small ones stay readable."""
    side = math.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))
    return min(max(0.02 * side, 1.5), 2.0 * line + 1)


def limb_color(index: int, count: int) -> Color:
    """The colour of a keypoint or limb, one of ``count``."""
    # red to violet: neighbours in a skeleton get colours that are neighbours, too
    red, green, blue = colorsys.hsv_to_rgb(0.83 * index / max(count - 1, 1), 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _stroke(picture: Image.Image, start: Array, end: Array, radius: float, color: Color) -> None:
    """A line with round ends, or a dot: a rim of a third of its radius, and the colour on it."""
    rim = radius + max(0.75, radius / 3)
    low = np.floor(np.minimum(start, end) - rim - 1)
    high = np.ceil(np.maximum(start, end) + rim + 1)
    if not (np.abs([low, high]) < _FAR).all():  # nor NaN
        return
    left, top = np.clip(low, 0, picture.size).astype(int).tolist()
    right, bottom = np.clip(high, 0, picture.size).astype(int).tolist()
    if right <= left:
        return
    x = np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(start[0])
    dx, dy = (end - start).astype(np.float32).tolist()
    length = max(dx * dx + dy * dy, 1e-12)
    for first in range(top, bottom, _ROWS):
        y = np.arange(first, min(first + _ROWS, bottom), dtype=np.float32)[:, None]
        y += np.float32(0.5 - start[1])
        # The nearest point of the line, as a share of it.
        t = np.clip((x * dx + y * dy) / length, 0, 1)
        distance = np.hypot(x - t * dx, y - t * dy)
        for outer, paint in ((rim, _RIM), (radius, color)):
            covered = np.clip(outer + 0.5 - distance, 0, 1) * 255 + 0.5
            picture.paste(paint, (left, first), Image.fromarray(covered.astype(np.uint8)))
