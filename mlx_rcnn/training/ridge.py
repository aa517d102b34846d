"""R-CNN's box regression in closed form (Girshick et al., 2014, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..heads.rcnn import RIDGE_PAIRS
from ..models import RCNN, crop_maps
from ..ops import box_iou, encode_boxes
from ..structures import ArrayLike
from .crop_samples import CropSample, Examples, crop_samples

Pairs = list[tuple[int, np.ndarray, np.ndarray]]
"""Of one class: number of the sample, boxes (P, 4) and the targets (P, 4) they overlap."""


def fit_boxes(
    model: RCNN,
    samples: Examples,
    proposals: Sequence[ArrayLike] | None = None,
    *,
    max_pairs: int = 10_000,
    seed: int = 0,
    progress: bool = False,
) -> list[int]:
    """Solve the box regression of a fine-tuned R-CNN, where ``get_loss`` goes step by step.

    A class learns from its pairs: proposals, and the targets themselves, with the target that they
    overlap most, by more than ``config.box_reg_iou_thresh``; crowds are none. Its weights minimise
    the sum of the deltas' squared errors plus ``config.ridge / 10,000`` a pair times the sum of the
    squared weights; its bias is free. The model gets the weights of ``box_predictor.bbox_pred``; a
    class without a pair keeps its own.

    Args:
        model: changed in place, at the end.
        samples, proposals: as :func:`~mlx_rcnn.training.fit_svms`. An image is asked for once, and
            once more for each class that has pairs in it.
        max_pairs: of a class; of more, so many are drawn. Their maps are in memory, a class at a
            time: 10,000 of AlexNet's, 9,216 values each, take about 2.5 GB to solve. Default:
            ``10_000``.
        seed: of the draw. Default: ``0``.
        progress: show a bar over the images. Default: ``False``.

    Returns:
        How many pairs each class 1..C-1 has learned from.

    Raises:
        TypeError: a model that is no R-CNN.
        ValueError: no samples, no proposals, a label out of range, boxes that cannot be used, or
            not one pair.
    """
    if not isinstance(model, RCNN):
        raise TypeError(f"fit_boxes of a {type(model).__name__}: expected an RCNN")
    if len(samples) == 0 or max_pairs < 1:
        raise ValueError(f"{len(samples)} samples, max_pairs={max_pairs}: expected at least 1")
    found: list[Pairs] = [[] for _ in range(model.num_classes - 1)]
    for sample in crop_samples(model, samples, proposals, progress):
        boxes, targets, labels = _pairs(sample, model.config.box_reg_iou_thresh)
        for label in np.unique(labels).tolist():
            own = labels == label
            found[label - 1].append((sample.number, boxes[own], targets[own]))
    if not any(found):
        raise ValueError(
            "nothing to regress: no proposal overlaps a target by more than box_reg_iou_thresh="
            f"{model.config.box_reg_iou_thresh}, nor is there a target"
        )
    random = np.random.default_rng(seed)
    layer = model.roi_heads.box_predictor.bbox_pred
    weight, bias = (np.array(v.astype(mx.float32)) for v in (layer.weight, layer.bias))
    counts = []
    for label, pairs in enumerate(found, 1):
        pairs = _drawn(pairs, max_pairs, random)
        counts.append(sum(len(boxes) for _, boxes, _ in pairs))
        if counts[-1]:
            maps, deltas = _rows(model, samples, pairs, progress)
            rows = slice(4 * label, 4 * label + 4)
            strength = model.config.ridge * counts[-1] / RIDGE_PAIRS
            weight[rows], bias[rows] = solve_ridge(maps, deltas, strength)
    dtype = layer.weight.dtype
    layer.weight, layer.bias = mx.array(weight).astype(dtype), mx.array(bias).astype(dtype)
    return counts


def solve_ridge(
    rows: np.ndarray, wanted: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 (K, D) and (K,) that minimise |rows w + b - wanted|^2 + strength |w|^2, b free."""
    mean, level = rows.mean(axis=0, dtype=np.float64), wanted.mean(axis=0, dtype=np.float64)
    x, y = rows - mean, wanted - level  # (N, D) and (N, K), N at least 1
    if strength == 0:
        weight = np.linalg.lstsq(x, y, rcond=None)[0]  # the smallest weights of all that are best
    elif len(x) < x.shape[1]:  # the smaller system of the two, whose solutions are the same
        gram = x @ x.T
        gram[np.diag_indices_from(gram)] += strength
        weight = x.T @ np.linalg.solve(gram, y)
    else:
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += strength
        weight = np.linalg.solve(gram, x.T @ y)
    return weight.T, level - mean @ weight


def _pairs(sample: CropSample, thresh: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (P, 4), the targets (P, 4) that they learn to become, and their labels (P,)."""
    targets, labels = sample.boxes[sample.examples], sample.labels[sample.examples]
    if not len(targets):
        return targets, targets, labels
    boxes = np.concatenate([sample.proposals, targets])
    iou = np.array(box_iou(mx.array(boxes), mx.array(targets)))
    best = iou.argmax(axis=1)
    near = iou.max(axis=1) > thresh
    return boxes[near], targets[best[near]], labels[best[near]]


def _drawn(pairs: Pairs, most: int, random: np.random.Generator) -> Pairs:
    """At most so many of the pairs, each as likely, in their order."""
    count = sum(len(boxes) for _, boxes, _ in pairs)
    if count <= most:
        return pairs
    kept = np.zeros(count, bool)
    kept[random.choice(count, most, replace=False)] = True
    pieces = np.split(kept, np.cumsum([len(boxes) for _, boxes, _ in pairs])[:-1])
    return [
        (number, boxes[stay], targets[stay])
        for (number, boxes, targets), stay in zip(pairs, pieces, strict=True)
        if stay.any()
    ]


def _rows(
    model: RCNN, samples: Examples, pairs: Pairs, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, D) of the pairs' crops and the deltas (N, 4) that they should give."""
    boxes = {number: rows for number, rows, _ in pairs}
    maps = []
    for sample in crop_samples(model, samples, boxes, progress, list(boxes)):
        maps += crop_maps(model, [sample.picture], [boxes[sample.number]])
    crops, targets = (np.concatenate([pair[i] for pair in pairs]) for i in (1, 2))
    deltas = encode_boxes(mx.array(targets), mx.array(crops), model.config.bbox_reg_weights)
    return np.concatenate(maps), np.array(deltas)
