"""COCO's metrics, computed by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .collect import Collected, Entry, collect, images_per_second

# Name, value, and where it lies: IoU thresholds 0.50:0.05:0.95, areas all/small/medium/large,
# at most 1/10/100 detections an image.
_PRECISIONS: dict[str, tuple[slice | int, int]] = {
    "AP": (slice(None), 0),
    "AP50": (0, 0),
    "AP75": (5, 0),
    "APs": (slice(None), 1),
    "APm": (slice(None), 2),
    "APl": (slice(None), 3),
}
_RECALLS = {
    "AR1": (0, 0),
    "AR10": (0, 1),
    "AR100": (0, 2),
    "ARs": (1, 2),
    "ARm": (2, 2),
    "ARl": (3, 2),
}


def evaluate_coco(
    model: Any,
    dataset: Any,
    *,
    batch_size: int = 1,
    score_thresh: float = 0.05,
    progress: bool = True,
) -> dict[str, Any]:
    """COCO's box metrics of a model on a dataset, and mask metrics where both have masks.

    Args:
        model: with ``predict(images, score_thresh=...)``.
        dataset: samples with ``boxes``, ``labels`` and ``iscrowd``; its labels are the model's.
        batch_size: images predicted at once. Default: ``1``.
        score_thresh: detections that score less are left out. Default: ``0.05``.
        progress: show a bar on standard error. Default: ``True``.

    Returns:
        See :func:`coco_metrics`.

    Raises:
        ImportError: faster-coco-eval is not installed.
        ValueError: no images, or a ``batch_size`` below 1.
    """
    load_evaluator()  # before the work, not after
    return coco_metrics(
        collect(model, dataset, batch_size=batch_size, score_thresh=score_thresh, progress=progress)
    )


def coco_metrics(collected: Collected) -> dict[str, Any]:
    """Score what :func:`~mlx_rcnn.evaluation.collect` gives.

    For masks, small, medium and large are told by the area of the mask, as detectron2 and
    torchvision do; pycocotools takes the box's where results hold both.

    Args:
        collected: detections and ground truth.

    Returns:
        ``AP`` (IoU 0.50:0.05:0.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``AR1``,
        ``AR10``, ``AR100``, ``ARs``, ``ARm``, ``ARl``, with masks the same under ``segm_...``;
        ``per_class``: by name, ``AP``, ``AP50``, with masks ``segm_AP`` and ``segm_AP50``, and
        ``objects``; ``class_names``, ``images``, ``objects``, ``detections`` and
        ``images_per_second``. From 0 to 1; NaN where there is nothing to find.

    Raises:
        ImportError: faster-coco-eval is not installed.
    """
    truth, found = _boxes_only(collected.truth), _boxes_only(collected.found)
    result, classes = _score(collected, truth, found, "bbox")
    if collected.masks:
        masks = [_json_segmentation(e) for e in collected.truth if "segmentation" in e]
        # Without the box, so that areas are those of the mask.
        drawn = [{k: v for k, v in entry.items() if k != "bbox"} for entry in collected.found]
        segm, segm_classes = _score(collected, masks, drawn, "segm")
        result |= {f"segm_{key}": value for key, value in segm.items()}
        for label, row in segm_classes.items():
            classes[label] |= {f"segm_{key}": value for key, value in row.items()}
    counts = count_objects(collected)
    names = collected.class_names
    per_class = {
        names[label]: {**row, "objects": counts.get(label, 0)} for label, row in classes.items()
    }
    return {**result, "per_class": per_class, **summary(collected)}


def summary(collected: Collected) -> dict[str, Any]:
    """What every metric's result carries beside the metric.

    Args:
        collected: detections and ground truth.

    Returns:
        ``class_names``, ``images``, ``objects``, ``detections`` and ``images_per_second``.
    """
    return {
        "class_names": list(collected.class_names),
        "images": len(collected.images),
        "objects": sum(count_objects(collected).values()),
        "detections": len(collected.found),
        "images_per_second": images_per_second(collected),
    }


def count_objects(collected: Collected) -> dict[int, int]:
    """Objects of each label in the ground truth, crowds left out.

    Args:
        collected: detections and ground truth.

    Returns:
        By label; labels without objects are not listed.
    """
    counts: dict[int, int] = {}
    for entry in collected.truth:
        if not entry["iscrowd"]:
            counts[entry["category_id"]] = counts.get(entry["category_id"], 0) + 1
    return counts


def load_evaluator() -> Any:
    """Import faster-coco-eval.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    try:
        import faster_coco_eval  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            'COCO metrics need faster-coco-eval: pip install "mlx-rcnn[eval]"'
        ) from error
    return faster_coco_eval


def _score(
    collected: Collected, truth: list[Entry], found: list[Entry], kind: str
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Metrics of all classes together, and AP and AP50 by label."""
    module = load_evaluator()
    names = collected.class_names
    labels = [label for label in range(1, len(names)) if names[label] != "N/A"]  # never annotated
    annotations = {
        "images": collected.images,
        "annotations": truth,
        "categories": [{"id": label, "name": names[label]} for label in labels],
    }
    expected = module.COCO(annotations, print_function=_silent)
    detected = expected.loadRes([entry for entry in found if entry["category_id"] in labels])
    evaluator = module.COCOeval_faster(expected, detected, kind, print_function=_silent)
    evaluator.evaluate()
    evaluator.accumulate()
    # (10 thresholds, 101 recalls, classes, areas, limits) and (10, classes, areas, limits).
    precision = np.asarray(evaluator.eval["precision"])
    precision = precision.reshape(10, 101, len(labels), 4, 3)
    recall = np.asarray(evaluator.eval["recall"]).reshape(10, len(labels), 4, 3)
    result = {key: _mean(precision[at, ..., a, -1]) for key, (at, a) in _PRECISIONS.items()}
    result |= {key: _mean(recall[..., area, m]) for key, (area, m) in _RECALLS.items()}
    classes = {
        label: {
            "AP": _mean(precision[:, :, k, 0, -1]),
            "AP50": _mean(precision[0, :, k, 0, -1]),
        }
        for k, label in enumerate(labels)
    }
    return result, classes


def _mean(values: np.ndarray) -> float:
    """pycocotools's mean: -1 stands for nothing to find."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _boxes_only(entries: list[Entry]) -> list[Entry]:
    return [{k: v for k, v in entry.items() if k != "segmentation"} for entry in entries]


def _json_segmentation(entry: Mapping[str, Any]) -> Entry:
    """With polygons as lists, and those of fewer than three points left out."""
    segmentation = entry["segmentation"]
    if not isinstance(segmentation, Mapping):
        polygons = [np.asarray(p, np.float64).reshape(-1).tolist() for p in segmentation]
        segmentation = [p for p in polygons if len(p) >= 6]
    return {**entry, "segmentation": segmentation}


def _silent(*_: Any, **__: Any) -> None:
    """In place of the evaluator's own messages."""
