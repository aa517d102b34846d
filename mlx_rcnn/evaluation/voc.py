"""PASCAL VOC's average precision at IoU 0.5, as the devkit defines it."""

from __future__ import annotations

import numpy as np

from ..data.protocols import Dataset
from ..messages import nearest
from ..structures import Entry
from .batches import Predicts
from .collect import Collected, collect, summary
from .table import Scores

METRICS = ("voc07", "voc")
IOU = 0.5


def evaluate_voc(
    model: Predicts,
    dataset: Dataset,
    *,
    metric: str = "voc",
    batch_size: int = 1,
    score_thresh: float = 0.05,
    progress: bool = True,
) -> Scores:
    """VOC's AP of a model on a dataset.

    Args:
        model: with ``predict(images, score_thresh=...)``.
        dataset: samples with ``boxes``, ``labels`` and optionally ``difficult``.
        metric: ``"voc07"`` (11 points) or ``"voc"`` (area, since 2010). Default: ``"voc"``.
        batch_size: images predicted at once. Default: ``1``.
        score_thresh: detections that score less are left out. Default: ``0.05``.
        progress: show a bar on standard error. Default: ``True``.

    Returns:
        See :func:`voc_metrics`.

    Raises:
        ValueError: another ``metric``, no images, or a ``batch_size`` below 1.
    """
    _check(metric)
    collected = collect(
        model, dataset, batch_size=batch_size, score_thresh=score_thresh, progress=progress
    )
    return voc_metrics(collected, metric)


def voc_metrics(collected: Collected, metric: str = "voc") -> Scores:
    """Score what :func:`~mlx_rcnn.evaluation.collect` gives.

    The devkit's rules: pixels are counted inclusively (a box is xmax - xmin + 1 wide); detections
    of a class, best first, take the object they overlap most; at IoU 0.5 or more the first one is
    right, later ones are wrong, and those on difficult objects (here also COCO's crowds) are not
    counted, nor are these objects.

    Args:
        collected: detections and ground truth.
        metric: ``"voc07"`` or ``"voc"``. Default: ``"voc"``.

    Returns:
        ``mAP``, the mean over classes that have objects; ``per_class``: by name, ``AP`` (NaN
        without objects) and ``objects``; ``class_names``, ``images``, ``objects``, ``detections``
        and ``images_per_second``. From 0 to 1.

    Raises:
        ValueError: another ``metric``.
    """
    _check(metric)
    per_class = {}
    used = {entry["category_id"] for entry in collected.truth}  # COCO's own N/A never is
    for label, name in enumerate(collected.class_names):
        if label == 0 or (name == "N/A" and label not in used):
            continue
        truth = [entry for entry in collected.truth if entry["category_id"] == label]
        found = [entry for entry in collected.found if entry["category_id"] == label]
        hits, objects = match(truth, found)
        per_class[name] = {
            "AP": average_precision(hits, objects, metric),
            "objects": objects,
        }
    values = [row["AP"] for row in per_class.values() if row["objects"]]
    mean = float(np.mean(values)) if values else float("nan")
    return {"mAP": mean, "per_class": per_class, **summary(collected)}


def match(truth: list[Entry], found: list[Entry]) -> tuple[np.ndarray, int]:
    """(K,) bool of one class, best score first: whether right; and how many objects there are."""
    by_image: dict[int, list[Entry]] = {}
    for entry in truth:
        by_image.setdefault(entry["image_id"], []).append(entry)
    boxes = {i: _corners([e["bbox"] for e in entries]) for i, entries in by_image.items()}
    ignored = {
        i: [bool(e.get("difficult", 0) or e["iscrowd"]) for e in entries]
        for i, entries in by_image.items()
    }
    taken = {i: [False] * len(entries) for i, entries in by_image.items()}
    hits = []
    for entry in sorted(found, key=lambda e: -e["score"]):  # stable: ties keep their order
        i = entry["image_id"]
        if i not in boxes:
            hits.append(False)
            continue
        overlap = _overlaps(_corners([entry["bbox"]])[0], boxes[i])
        best = int(overlap.argmax())
        if overlap[best] < IOU:
            hits.append(False)
        elif not ignored[i][best]:  # those that do not count are left out
            hits.append(not taken[i][best])
            taken[i][best] = True
    # difficult ones left out
    objects = sum(not skip for flags in ignored.values() for skip in flags)
    return np.array(hits, bool), objects


def average_precision(hits: np.ndarray, objects: int, metric: str = "voc") -> float:
    """Average precision, 0 to 1, of (K,) hits, best score first; NaN without objects."""
    _check(metric)
    if objects == 0:
        return float("nan")
    right = np.cumsum(hits, dtype=np.int64)
    precision = right / np.arange(1, len(right) + 1)
    # The best precision from here on: what the curve is at this recall.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "voc":  # the area under the curve made monotone
        return float((envelope * hits).sum() / objects)
    # In integers: 0.1 * 3 is more than 3 / 10 in floating point.
    # the mean of the best precision at recalls of at least 0, 0.1, ... 1
    reached = [envelope[10 * right >= tenths * objects] for tenths in range(11)]
    return float(sum(points[0] for points in reached if points.size) / 11)


def _check(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r}: expected one of {METRICS}{nearest(metric, METRICS)}")


def _corners(boxes: list[list[float]]) -> np.ndarray:
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU (G,) of a box with ``boxes`` (G, 4), pixels counted inclusively."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    both = np.prod(np.clip(high - low + 1, 0, None), axis=1)
    area, areas = np.prod(box[2:] - box[:2] + 1), np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    return np.asarray(both / (area + areas - both))
