"""Slow oracles and matchers shared by tests and benchmarks; NumPy only."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from recipe import fill


def match_boxes(expected: np.ndarray, got: np.ndarray, tolerance: float) -> float:
    """Share of expected boxes (n, 4) with a box of their own in ``got`` (m, 4) within tolerance."""
    free = np.ones(len(got), bool)
    hits = 0
    for box in expected:
        distance = np.abs(got - box).max(axis=1, initial=0) if len(got) else np.zeros(0)
        distance[~free] = np.inf
        if len(distance) and distance.min() <= tolerance:
            free[distance.argmin()] = False
            hits += 1
    return hits / len(expected) if len(expected) else float(len(got) == 0)


def match_detections(
    expected: dict[str, np.ndarray],
    got: dict[str, np.ndarray],
    score_thresh: float,
    top_k: int,
    margin: float = 1e-3,
) -> dict[str, float]:
    """Match detections by class and box, never by index.

    Those within ``margin`` of the threshold, or of the last score where the list is full, may be
    missing on either side.

    Returns:
        ``share`` of the decisive ones on both sides that match within 0.5 px, and over the matched:
        ``score_error``, ``box_error`` (px), ``area_error`` (in units of max(1 %, 20 px)); with
        keypoints ``point_share`` of them within 0.5 px, and ``point_error`` of their scores.
    """
    cut = score_thresh
    for side in (expected, got):
        if len(side["scores"]) >= top_k:
            cut = max(cut, float(side["scores"].min()))
    free = np.ones(len(got["scores"]), bool)
    decisive = matched = 0
    errors = {"score_error": 0.0, "box_error": 0.0, "area_error": 0.0}
    points: list[tuple[np.ndarray, np.ndarray]] = []
    for i, (box, score, label) in enumerate(
        zip(expected["boxes"], expected["scores"], expected["labels"], strict=True)
    ):
        distance = np.abs(got["boxes"] - box).max(axis=1, initial=0)
        distance = np.where(free & (got["labels"] == label), distance, np.inf)
        near = bool(len(distance)) and float(distance.min()) <= 0.5
        counts = score > cut + margin
        decisive += counts
        if not near:
            continue
        j = int(distance.argmin())
        free[j] = False
        matched += counts
        errors["score_error"] = max(errors["score_error"], abs(float(score - got["scores"][j])))
        errors["box_error"] = max(errors["box_error"], float(distance[j]))
        if "masks" in expected:
            want, have = int(expected["masks"][i].sum()), int(got["masks"][j].sum())
            bound = max(0.01 * want, 20)
            errors["area_error"] = max(errors["area_error"], abs(want - have) / bound)
        if "keypoints" in expected:
            moved = np.abs(expected["keypoints"][i, :, :2] - got["keypoints"][j, :, :2]).max(axis=1)
            error = expected["keypoints_scores"][i] - got["keypoints_scores"][j]
            points.append((moved <= 0.5, np.abs(error)))
    if points:  # of a flat heatmap two places may tie
        near, error = (np.concatenate(part) for part in zip(*points, strict=True))
        errors |= {"point_share": float(near.mean()), "point_error": float(error[near].max())}
    extra = int((free & (got["scores"] > cut + margin)).sum())
    total = decisive + extra
    return {"share": matched / total if total else 1.0, **errors}


def noise(key: str, *shape: int) -> np.ndarray:
    """Standard normal float32 values that depend on the key only."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    return random.standard_normal(shape).astype(np.float32)


def last_noise(key: str, *shape: int) -> np.ndarray:
    """``noise`` of torch's shape (N, C, H, W), channels last."""
    return np.ascontiguousarray(noise(key, *shape).transpose(0, 2, 3, 1))


def fill_ours(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe's tensor of a parameter of our ``shape``, filled in torch's layout."""
    if len(shape) != 4:
        return fill(key, shape)
    transposed = "conv5_mask" in key or "kps_score_lowres" in key
    order = (3, 0, 1, 2) if transposed else (0, 3, 1, 2)
    theirs = fill(key, tuple(shape[axis] for axis in order))
    return np.ascontiguousarray(theirs.transpose(np.argsort(order)))


def slow_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (n, m) of boxes (n, 4) and (m, 4) in float64; 0 where both are empty."""
    out = np.zeros((len(a), len(b)))
    for i, j in np.ndindex(out.shape):
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = map(float, a[i]), map(float, b[j])
        both = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
        union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both
        out[i, j] = both / union if union else 0
    return out


def slow_nms(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, groups: np.ndarray | None = None
) -> list[int]:
    """Indices of the kept boxes, best first, a box at a time; NaN scores are never kept."""
    order = sorted(np.flatnonzero(~np.isnan(scores)).tolist(), key=lambda i: (-scores[i], i))
    overlap = slow_iou(boxes, boxes)
    kept: list[int] = []
    for i in order:
        rivals = kept if groups is None else [j for j in kept if groups[i] == groups[j]]
        if all(overlap[i, j] <= threshold for j in rivals):
            kept.append(i)
    return kept


def slow_decode(delta: np.ndarray, anchor: np.ndarray, weights: tuple = (1, 1, 1, 1)) -> np.ndarray:
    """One delta (dx, dy, dw, dh) applied to one anchor, float64."""
    dx, dy, dw, dh = (float(d) / w for d, w in zip(delta, weights, strict=True))
    x1, y1, x2, y2 = map(float, anchor)
    x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    limit = math.log(1000 / 16)
    w, h = (x2 - x1) * math.exp(min(dw, limit)), (y2 - y1) * math.exp(min(dh, limit))
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def slow_clip(box: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """One box cut to an image of (height, width)."""
    return np.clip(box, 0, [size[1], size[0], size[1], size[0]])


def slow_conv(
    x: np.ndarray, weight: np.ndarray, stride: int = 1, padding: int = 0, groups: int = 1
) -> np.ndarray:
    """Correlation of x (N, H, W, C) with weight (O, k, k, C / groups), pixel by pixel."""
    x = np.pad(np.asarray(x, np.float64), [(0, 0), (padding,) * 2, (padding,) * 2, (0, 0)])
    kernel, inputs, outputs = weight.shape[1], weight.shape[3], weight.shape[0] // groups
    height, width = ((n - kernel) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, weight.shape[0]))
    for i, j, g in np.ndindex(height, width, groups):
        top, left = i * stride, j * stride
        patch = x[:, top : top + kernel, left : left + kernel, g * inputs : (g + 1) * inputs]
        own = slice(g * outputs, (g + 1) * outputs)
        out[:, i, j, own] = np.einsum("nyxc,oyxc->no", patch, weight[own].astype(np.float64))
    return out


def numeric_gradient(
    function: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """Central differences of a scalar function of a float64 array, an entry at a time."""
    x = np.array(x, np.float64)
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        value, sides = x[i], []
        for x[i] in (value + step, value - step):
            sides.append(float(function(x)))
        x[i] = value
        out[i] = (sides[0] - sides[1]) / (2 * step)
    return out


def slow_roi_taps(
    rois: Any,
    bins: tuple[int, int],
    size: tuple[int, int],
    scale: float = 1.0,
    ratio: int = -1,
    aligned: bool = False,
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int], float]]:
    """RoIAlign as a list: (RoI, bin row, bin column), (image, row, column), weight.

    Rows of ``rois`` are (image, x1, y1, x2, y2), ``size`` is (H, W) of the maps. A sample more
    than a pixel outside counts as zero, so it has no entry.
    """
    height, width = size
    for r, (image, *corners) in enumerate(np.asarray(rois, np.float64).tolist()):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        low = -math.inf if aligned else 1
        h, w = max(y2 - y1, low) / bins[0], max(x2 - x1, low) / bins[1]
        rows, columns = (ratio if ratio > 0 else max(math.ceil(n), 0) for n in (h, w))
        for i, j, v, u in np.ndindex(*bins, rows, columns):
            y, x = y1 + (i + (v + 0.5) / rows) * h, x1 + (j + (u + 0.5) / columns) * w
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            top, left = int(y), int(x)
            for row, share in ((top, 1 - y + top), (min(top + 1, height - 1), y - top)):
                for column, part in ((left, 1 - x + left), (min(left + 1, width - 1), x - left)):
                    weight = share * part / (rows * columns)
                    yield (r, i, j), (int(image), row, column), weight
