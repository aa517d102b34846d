"""Precision and recall: at the threshold that balances them best, and over all recalls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .coco import mean
from .matches import RIGHT, Matches

_AT = {"AP50": 0, "AP75": 5}
Best = dict[str, float | None]
Analysis = Mapping[str, Any]
"""What :func:`~mlx_rcnn.evaluation.error_analysis` gives, or a row of it."""
Curves = dict[str, list[float] | None]


def best_threshold(matches: Matches, label: int | None = None) -> Best:
    """Where F1 = 2 right / (detections + objects) is highest, at IoU 0.5, of a class or of all."""
    mine = ~matches.passed_over
    objects = matches.object_labels
    if label is not None:
        mine &= matches.labels == label
        objects = objects[objects == label]
    order = np.argsort(-matches.scores[mine], kind="stable")
    scores = matches.scores[mine][order]
    right = np.cumsum(matches.kinds[mine][order] == RIGHT)
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # those of one score stay together
    total = len(objects)
    if not len(ends):
        none = 0.0 if total else float("nan")
        return {"score_thresh": None, "precision": float("nan"), "recall": none, "F1": none}
    f1 = 2 * right[ends] / (ends + 1 + total)
    # of two that are as good the higher one, and the least of all if nothing is right
    at = int(ends[f1.argmax() if right[-1] else -1])
    return {
        "score_thresh": float(scores[at]),
        "precision": float(right[at] / (at + 1)),
        # without objects recall and F1 are NaN
        "recall": float(right[at] / total) if total else float("nan"),
        "F1": float(f1.max()) if total else float("nan"),
    }


def class_precisions(precision: np.ndarray, k: int) -> tuple[dict[str, float], Curves]:
    """AP, AP50, AP75 of class k of (10, 101, K) precisions, and by name the curves they average."""
    curves: dict[str, np.ndarray] = {"AP": precision[..., k].mean(axis=0)}
    curves |= {name: precision[at, :, k] for name, at in _AT.items()}
    values = {"AP": mean(precision[..., k])}
    values |= {name: mean(precision[at, :, k]) for name, at in _AT.items()}
    there = bool((precision[..., k] > -1).all())
    # 101 numbers each, ``None`` without objects
    return values, {n: c.tolist() if there else None for n, c in curves.items()}


def mean_curves(precision: np.ndarray) -> tuple[dict[str, float], Curves]:
    """AP and curves, as of one class, of all classes that have objects; (10, 101, K) precisions."""
    there = (precision > -1).all(axis=(0, 1))
    if not there.any():
        return dict.fromkeys(("AP", *_AT), float("nan")), dict.fromkeys(("AP", *_AT))
    known = precision[..., there].mean(axis=2, keepdims=True)
    return class_precisions(known, 0)
