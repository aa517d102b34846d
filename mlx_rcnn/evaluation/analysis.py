"""What is right and wrong with a model's detections, by class, by kind of error and by image."""

from __future__ import annotations

from typing import Any

import numpy as np

from .coco import precision_curves, scored_labels
from .collect import Collected
from .confusion import confusion_matrix
from .curves import Analysis, best_threshold, class_precisions, mean_curves
from .errors import error_costs
from .matches import BACKGROUND_IOU, IOU, KINDS, RIGHT, Matches, match


def error_analysis(
    collected: Collected, kind: str = "bbox", *, score_thresh: float | None = None
) -> dict[str, Any]:
    """Tell where the average precision of boxes or masks is lost.

    AP is COCO's, by faster-coco-eval. All else is at IoU 0.5, of the best 100 detections of an
    image; errors and what they cost are TIDE's (Bolya et al., 2020), the numbers those of tidecv.
    Detections in a crowd of their class are passed over.

    Args:
        collected: of :func:`~mlx_rcnn.evaluation.collect` or
            :func:`~mlx_rcnn.evaluation.read_results`.
        kind: ``"bbox"``, or ``"segm"`` where ``collected.masks``. Default: ``"bbox"``.
        score_thresh: at which the confusion matrix and the images are counted. Default: that of the
            best F1 over all classes.

    Returns:
        ``AP``, ``AP50``, ``AP75``; ``curves``: under these names precision at recall 0:0.01:1;
        ``best``: ``score_thresh``, ``precision``, ``recall`` and ``F1`` where F1 is highest, all
        classes together; ``errors``: by kind (``class``, ``location``, ``both``, ``duplicate``,
        ``background``, ``missed``) the ``dAP`` that it costs, ``count``, and how many more are
        ``passed_over``; ``false_positives`` and ``false_negatives``, their dAP; ``tide_AP50``, that
        dAP adds to; ``per_class``: by name ``objects``, ``detections``, AP, ``curves``, ``best``
        and ``errors``, how many of each kind; ``confusion``: its ``score_thresh``, ``iou`` and
        ``cells``, [name of the object, name it is found as, count], an empty name for background;
        ``images``: ``image_id``, ``right``, ``wrong``, ``missed`` and ``F1`` of each at that score;
        ``kind``, ``iou`` and ``background_iou``. From 0 to 1; NaN where there is nothing to tell.

    Raises:
        ImportError: faster-coco-eval is not installed.
        ValueError: another ``kind``, or masks where there are none.
    """
    if kind not in ("bbox", "segm"):
        raise ValueError(f"kind={kind!r}: expected 'bbox' or 'segm'")
    if kind == "segm" and not collected.masks:
        raise ValueError("kind='segm': the detections or the data have no masks")
    labels, precision = scored_labels(collected), precision_curves(collected, kind)
    matches = match(collected, kind)
    count = len(collected.class_names)
    values, curves = mean_curves(precision)
    best, costs = best_threshold(matches), error_costs(matches, count)
    least = score_thresh if score_thresh is not None else best["score_thresh"] or 0.0
    table = confusion_matrix(matches, count, least)
    return {
        "kind": kind,
        "iou": IOU,
        "background_iou": BACKGROUND_IOU,
        **values,
        "curves": curves,
        "best": best,
        "tide_AP50": costs.pop("AP50"),
        **costs,
        "per_class": _per_class(collected, matches, labels, precision),
        "confusion": {
            "score_thresh": least,
            "iou": IOU,
            "cells": _cells(table, ("", *collected.class_names[1:])),
        },
        "images": image_scores(collected, matches, least),
    }


def _per_class(
    collected: Collected, matches: Matches, labels: list[int], precision: np.ndarray
) -> dict[str, Analysis]:
    """A row a class, by name."""
    missed = matches.missed()
    rows: dict[str, Analysis] = {}
    for k, label in enumerate(labels):
        mine = matches.labels == label
        values, curves = class_precisions(precision, k)
        kinds = matches.kinds[mine & ~matches.passed_over]
        errors = {name: int((kinds == number).sum()) for number, name in enumerate(KINDS)}
        errors["missed"] = int(missed[matches.object_labels == label].sum())
        rows[collected.class_names[label]] = {
            "objects": int((matches.object_labels == label).sum()),
            "detections": int(mine.sum()),
            **values,
            "best": best_threshold(matches, label),
            "errors": errors,
            "curves": curves,
        }
    return rows


def _cells(table: np.ndarray, names: tuple[str, ...]) -> list[list[str | int]]:
    """What is not 0, as names and a count."""
    return [[names[i], names[j], int(table[i, j])] for i, j in np.argwhere(table).tolist()]


def image_scores(
    collected: Collected, matches: Matches, score_thresh: float
) -> list[dict[str, int | str | float]]:
    """Of each image its own id, detections right and wrong, objects missed, and F1."""
    shown = (matches.scores >= score_thresh) & ~matches.passed_over
    size = len(collected.images) + 1

    def by_image(images: np.ndarray) -> np.ndarray:
        return np.bincount(images, minlength=size)

    right = by_image(matches.images[shown & (matches.kinds == RIGHT)])
    wrong = by_image(matches.images[shown]) - right
    missed = by_image(matches.object_images) - right
    whole = 2 * right + wrong + missed
    # NaN where there is nothing and nothing was found
    f1 = np.where(whole > 0, 2 * right / np.maximum(whole, 1), np.nan)
    columns = zip(*(a[1:].tolist() for a in (right, wrong, missed, f1)), strict=True)
    return [
        {"image_id": own, "right": r, "wrong": w, "missed": m, "F1": f}
        for own, (r, w, m, f) in zip(collected.ids, columns, strict=True)
    ]
