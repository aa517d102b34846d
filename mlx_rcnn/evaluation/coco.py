"""COCO's metrics, computed by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ..config.categories import COCO_KEYPOINTS
from ..data.protocols import Dataset
from ..structures import Entry
from .batches import Predicts
from .collect import Collected, collect, count_objects, summary
from .entries import entries_of, keypoint_entry
from .table import Scores

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
# Of keypoints: areas all/medium/large, at most 20 detections an image.
_KEYPOINT_PRECISIONS: dict[str, tuple[slice | int, int]] = {
    "AP": (slice(None), 0),
    "AP50": (0, 0),
    "AP75": (5, 0),
    "APm": (slice(None), 1),
    "APl": (slice(None), 2),
}
_KEYPOINT_RECALLS = {key.replace("AP", "AR"): at for key, at in _KEYPOINT_PRECISIONS.items()}
OTHER_SIGMA = 0.05
"""Of each keypoint of an object that is no person: between a person's eye and hip."""


def evaluate_coco(
    model: Predicts,
    dataset: Dataset,
    *,
    batch_size: int = 1,
    score_thresh: float = 0.05,
    progress: bool = True,
    keypoint_sigmas: Sequence[float] | None = None,
    max_unreadable: float = 0.1,
) -> Scores:
    """COCO's box metrics of a model on a dataset, and those of masks or keypoints where both have.

    Args:
        model: with ``predict(images, score_thresh=...)``.
        dataset: samples with ``boxes``, ``labels`` and ``iscrowd``; its labels are the model's.
        batch_size: images predicted at once. Default: ``1``.
        score_thresh: detections that score less are left out. Default: ``0.05``.
        progress: show a bar on standard error. Default: ``True``.
        keypoint_sigmas: see :func:`coco_metrics`.
        max_unreadable: share of the images that may be left out, see :func:`collect`. Default:
            ``0.1``.

    Returns:
        See :func:`coco_metrics`.

    Raises:
        ImportError: faster-coco-eval is not installed.
        ValueError: no images, a ``batch_size`` below 1, or keypoints of unequal numbers.
    """
    load_evaluator()  # before the work, not after
    collected = collect(
        model,
        dataset,
        batch_size=batch_size,
        score_thresh=score_thresh,
        progress=progress,
        max_unreadable=max_unreadable,
    )
    return coco_metrics(collected, keypoint_sigmas)


def coco_metrics(collected: Collected, keypoint_sigmas: Sequence[float] | None = None) -> Scores:
    """Score what :func:`~mlx_rcnn.evaluation.collect` gives.

    For masks, small, medium and large are told by the area of the mask, as detectron2 and
    torchvision do; pycocotools takes the box's where results hold both. Likewise the area of
    detected keypoints is that of the rectangle around them, as torchvision's and that of COCO's
    keypoint results, which hold no box.

    Keypoints are scored by object keypoint similarity, in place of IoU: the mean over an object's
    visible keypoints of exp(-d^2 / (2 a (2 s)^2)), d the distance in pixels, a the annotated area
    and s the keypoint's sigma. Objects without a visible one are passed over.

    Args:
        collected: detections and ground truth.
        keypoint_sigmas (K,): how far people place each keypoint apart, a share of the object's
            size. Default: COCO's of a person if K is 17, and 0.05 for each of any other number.

    Returns:
        ``AP`` (IoU 0.50:0.05:0.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``AR1``,
        ``AR10``, ``AR100``, ``ARs``, ``ARm``, ``ARl``, with masks the same under ``segm_...``, with
        keypoints ``keypoints_AP``, ``..._AP50``, ``..._AP75``, ``..._APm``, ``..._APl`` and
        ``keypoints_AR``, ``..._AR50`` and so on, of at most 20 detections an image; ``per_class``:
        by name, ``AP``, ``AP50``, with masks ``segm_AP`` and ``segm_AP50``, with keypoints
        ``keypoints_AP`` and ``keypoints_AP50``, and ``objects``; ``class_names``, ``images``,
        ``objects``, ``detections`` and ``images_per_second``. From 0 to 1; NaN where there is
        nothing to find.

    Raises:
        ImportError: faster-coco-eval is not installed.
        ValueError: ``keypoint_sigmas`` of another number, or not above 0.
    """
    result, classes = _score(collected, *entries_of(collected, "bbox"), "bbox")
    if collected.masks:
        segm, segm_classes = _score(collected, *entries_of(collected, "segm"), "segm")
        _add(result, classes, "segm", segm, segm_classes)
    if collected.keypoints is not None:
        sigmas = _sigmas(keypoint_sigmas, collected.keypoints)
        points = [keypoint_entry(e) for e in collected.truth if "keypoints" in e]
        marked = [
            {k: v for k, v in e.items() if k not in ("bbox", "segmentation")}
            for e in collected.found
        ]
        _add(result, classes, "keypoints", *_score(collected, points, marked, "keypoints", sigmas))
    counts = count_objects(collected)
    names = collected.class_names
    per_class = {
        names[label]: {**row, "objects": counts.get(label, 0)} for label, row in classes.items()
    }
    return {**result, "per_class": per_class, **summary(collected)}


def precision_curves(collected: Collected, kind: str) -> np.ndarray:
    """(10, 101, K) precision over recall of K classes, any area, 100 detections an image."""
    _, precision, _ = _arrays(collected, *entries_of(collected, kind), kind)
    # At IoU 0.50:0.05:0.95 and recall 0:0.01:1, the best precision at this recall or more; -1 of a
    # class without objects. AP is its mean.
    return precision[..., 0, -1]


def scored_labels(collected: Collected) -> list[int]:
    """The labels that are scored: all but the background and COCO's own unused ``N/A``."""
    used = {entry["category_id"] for entry in collected.truth}
    names = collected.class_names
    return [label for label in range(1, len(names)) if names[label] != "N/A" or label in used]


def load_evaluator() -> ModuleType:
    """The module faster-coco-eval; an ImportError says how to install it."""
    try:
        import faster_coco_eval  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            'COCO metrics need faster-coco-eval: pip install "mlx-rcnn[eval]"'
        ) from error
    module: ModuleType = faster_coco_eval
    return module


def _add(
    result: dict[str, float],
    classes: dict[int, dict[str, float]],
    prefix: str,
    more: dict[str, float],
    more_classes: dict[int, dict[str, float]],
) -> None:
    """Add metrics of another kind to those of boxes."""
    result |= {f"{prefix}_{key}": value for key, value in more.items()}
    for label, row in more_classes.items():
        classes[label] |= {f"{prefix}_{key}": value for key, value in row.items()}


def _sigmas(given: Sequence[float] | None, count: int) -> list[float] | None:
    """Those to score with; ``None`` for the evaluator's own, COCO's."""
    if given is None:
        return None if count == len(COCO_KEYPOINTS) else [OTHER_SIGMA] * count
    if len(given) != count or min(given) <= 0:
        raise ValueError(f"keypoint_sigmas={given}: expected {count} numbers above 0")
    return [float(sigma) for sigma in given]


def _score(
    collected: Collected,
    truth: list[Entry],
    found: list[Entry],
    kind: str,
    sigmas: list[float] | None = None,
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Metrics of all classes together, and AP and AP50 by label."""
    labels, precision, recall = _arrays(collected, truth, found, kind, sigmas)
    of_points = kind == "keypoints"
    wanted = _KEYPOINT_PRECISIONS if of_points else _PRECISIONS
    result = {key: mean(precision[at, ..., a, -1]) for key, (at, a) in wanted.items()}
    if of_points:
        result |= {k: mean(recall[at, ..., a, -1]) for k, (at, a) in _KEYPOINT_RECALLS.items()}
    else:
        result |= {key: mean(recall[..., area, m]) for key, (area, m) in _RECALLS.items()}
    every = precision[..., 0, -1]
    classes = {
        label: {"AP": mean(every[..., k]), "AP50": mean(every[0, :, k])}
        for k, label in enumerate(labels)
    }
    return result, classes


def _arrays(
    collected: Collected,
    truth: list[Entry],
    found: list[Entry],
    kind: str,
    sigmas: list[float] | None = None,
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Labels, precision (10 thresholds, 101 recalls, classes, areas, limits), recall likewise."""
    module = load_evaluator()
    names, labels = collected.class_names, scored_labels(collected)
    annotations = {
        "images": collected.images,
        "annotations": truth,
        "categories": [{"id": label, "name": names[label]} for label in labels],
    }
    expected = module.COCO(annotations, print_function=_silent)
    known = set(labels)
    detected = expected.loadRes([entry for entry in found if entry["category_id"] in known])
    evaluator = module.COCOeval_faster(
        expected, detected, kind, print_function=_silent, kpt_oks_sigmas=sigmas
    )
    evaluator.params.catIds = labels  # of keypoints it takes only those that are annotated
    evaluator.evaluate()
    evaluator.accumulate()
    sizes = len(labels), len(evaluator.params.areaRng), len(evaluator.params.maxDets)
    precision = np.asarray(evaluator.eval["precision"]).reshape(10, 101, *sizes)
    recall = np.asarray(evaluator.eval["recall"]).reshape(10, *sizes)
    return labels, precision, recall


def mean(values: np.ndarray) -> float:
    """The mean as in pycocotools of precisions or recalls, without those of -1; NaN if none."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _silent(*_: object, **__: object) -> None:
    """In place of the evaluator's own messages."""
