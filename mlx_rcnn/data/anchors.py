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
    """Anchors of every size with every ratio.

    Args:
        sizes: square roots of areas, in pixels of the network input.
        ratios: height / width.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]

    def boxes(self) -> np.ndarray:
        """(S * R, 2) float64: width and height; the size varies faster."""
        return _boxes(np.array(self.sizes, float), np.array(self.ratios, float))


@dataclass(frozen=True)
class AnchorFit:
    """How anchors fit objects.

    Args:
        shapes: the anchors.
        recall: share of objects whose best IoU is at least 0.5.
        mean: of the best IoUs.
    """

    shapes: AnchorShapes
    recall: float
    mean: float


def object_sizes(dataset: Annotated, config: DetectorConfig) -> np.ndarray:
    """The boxes of a data set as a network sees them; crowds are left out.

    Args:
        dataset: with ``len``, ``sizes`` and ``target``.
        config: its ``min_size`` and ``max_size`` say how images are resized; of several short
            sides the last.

    Returns:
        (n, 2) float64: width and height in pixels of the network input.
    """
    found = [np.zeros((0, 2))]
    for i, (height, width) in enumerate(np.asarray(dataset.sizes).tolist()):
        target = dataset.target(i)
        boxes = target["boxes"][target["iscrowd"] == 0].astype(np.float64)
        high, wide = resized_size(height, width, config)
        found.append((boxes[:, 2:] - boxes[:, :2]) * (wide / width, high / height))
    return np.concatenate(found)


def shape_iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of boxes that have the same centre.

    Args:
        sizes (n, 2): widths and heights.
        anchors (k, 2): likewise.

    Returns:
        (n, k) float64.
    """
    shared: np.ndarray = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)
    union = sizes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared
    found: np.ndarray = shared / union
    return found


def measure(sizes: np.ndarray, shapes: AnchorShapes) -> AnchorFit:
    """How anchors fit objects.

    Args:
        sizes (n, 2): of :func:`object_sizes`, n of at least 1.
        shapes: the anchors.

    Returns:
        Recall at IoU 0.5 and mean IoU.
    """
    best = shape_iou(sizes, shapes.boxes()).max(axis=1)
    return AnchorFit(shapes, float((best >= RECALLED).mean()), float(best.mean()))


def fit_anchors(sizes: np.ndarray, now: AnchorShapes) -> AnchorFit:
    """Sizes and ratios, as many as now, that fit better.

    k-means with 1 - IoU for a distance, where every size has every ratio: an object belongs to the
    anchor of the highest IoU, a size becomes the median of its objects' and so does a ratio.
    Nothing is random: the same objects give the same anchors.

    Args:
        sizes (n, 2): of :func:`object_sizes`, n of at least 1.
        now: the anchors to do better than.

    Returns:
        Those of the best mean IoU that were met, with at most a hundredth less recall; ``now`` if
        none are better.
    """
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
            if found.mean > best.mean and found.recall >= least:
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
