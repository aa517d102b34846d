"""How well the shapes of anchors fit the objects of a data set, and which would fit better.

Shapes alone: IoU is that of boxes with the same centre, as k-means on box sizes takes it (Redmon
and Farhadi, YOLO9000, 2017, section 2). Where the grid of anchors lies is another matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config.network import DetectorConfig
from ..inputs.transform import resized_size
from .protocols import Annotated

RECALLED = 0.5
_MOST, _ROUNDS = 20_000, 60
_LOST = 0.01  # of the objects recalled: more is not given for a better mean


@dataclass(frozen=True)
class AnchorShapes:
    """Anchors of every size with every ratio."""

    sizes: tuple[float, ...]  # square roots of areas, in pixels of the network input
    ratios: tuple[float, ...]  # height / width

    def boxes(self) -> np.ndarray:
        """(S * R, 2) float64: width and height; the size varies faster."""
        return _boxes(np.array(self.sizes, float), np.array(self.ratios, float))


@dataclass(frozen=True)
class AnchorFit:
    """How anchors fit objects."""

    shapes: AnchorShapes
    recall: float  # share of objects whose best IoU is at least 0.5
    mean: float  # of the best IoUs


def object_sizes(dataset: Annotated, config: DetectorConfig) -> np.ndarray:
    """(n, 2) float64 widths and heights of boxes in pixels of the network input, no crowds."""
    found = [np.zeros((0, 2))]
    for i, (height, width) in enumerate(np.asarray(dataset.sizes).tolist()):
        target = dataset.target(i)
        boxes = target["boxes"][target["iscrowd"] == 0].astype(np.float64)
        high, wide = resized_size(height, width, config)  # of several short sides the last
        found.append((boxes[:, 2:] - boxes[:, :2]) * (wide / width, high / height))
    return np.concatenate(found)


def shape_iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """The (n, k) IoU of (n, 2) and (k, 2) widths and heights that have the same centre."""
    shared: np.ndarray = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)
    union = sizes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared
    found: np.ndarray = shared / union
    return found


def measure(sizes: np.ndarray, shapes: AnchorShapes) -> AnchorFit:
    """Recall at IoU 0.5 and mean IoU of anchors, of at least one of :func:`object_sizes`."""
    best = shape_iou(sizes, shapes.boxes()).max(axis=1)  # (n, 2), n of at least 1
    return AnchorFit(shapes, float((best >= RECALLED).mean()), float(best.mean()))


def fit_anchors(sizes: np.ndarray, now: AnchorShapes) -> AnchorFit:
    """Sizes and ratios, as many as now, that fit (n, 2) object sizes better; ``now`` if none do."""
    # k-means with 1 - IoU for a distance, where every size has every ratio: an object belongs to
    # the anchor of the highest IoU, a size becomes the median of its objects' and so does a ratio.
    # Nothing is random: the same objects give the same anchors.
    order = np.lexsort((sizes[:, 0], sizes.prod(axis=1)))
    step = -(-len(sizes) // _MOST)
    some = sizes[order][::step]
    best = measure(some, now)
    least = best.recall * (1 - _LOST)
    side, ratio = np.sqrt(some.prod(axis=1)), some[:, 1] / some[:, 0]
    starts = (
        (np.array(now.sizes, float), np.array(now.ratios, float)),
        (_spread(side, len(now.sizes)), np.array(now.ratios, float)),
        (_spread(side, len(now.sizes)), _spread(ratio, len(now.ratios))),
    )
    for edges, shapes in starts:
        for _ in range(_ROUNDS):
            found = measure(some, AnchorShapes(_rounded(edges, 0), _rounded(shapes, 2)))
            if found.mean > best.mean and found.recall >= least:  # at most a hundredth less recall
                best = found
            nearest = shape_iou(some, _boxes(edges, shapes)).argmax(axis=1)
            moved = _medians(side, nearest % len(edges), edges)
            bent = _medians(ratio, nearest // len(edges), shapes)
            if np.allclose(moved, edges) and np.allclose(bent, shapes):
                break
            edges, shapes = moved, bent
    return measure(sizes, best.shapes)


def _boxes(sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    high = np.sqrt(ratios)[:, None]
    return np.stack([sizes / high, sizes * high], axis=2).reshape(-1, 2)


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """Quantiles in the middle of ``count`` equal shares."""
    found: np.ndarray = np.quantile(values, (np.arange(count) + 0.5) / count)
    return found


def _medians(values: np.ndarray, groups: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The median of each group; of one without members, what it was."""
    found = before.copy()
    for group in np.unique(groups):
        found[group] = np.median(values[groups == group])
    return np.sort(found)


def _rounded(values: Sequence[float] | np.ndarray, digits: int) -> tuple[float, ...]:
    least = 1.0 if digits == 0 else 0.01
    rounded = [max(round(float(v), digits if v >= 8 or digits else 1), least) for v in values]
    return tuple(int(v) if v == int(v) and digits == 0 else v for v in rounded)
