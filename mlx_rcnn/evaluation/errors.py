"""What each kind of error costs: the AP that would be gained if there were none of it (TIDE)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .matches import CLASS, KINDS, LOCATION, MISSED, RIGHT, Matches

_RECALLS = np.array([x / 100 for x in range(101)])


class _Ranked(NamedTuple):
    """Detections in an order that decides ties, and how many objects each label has."""

    labels: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    positives: np.ndarray


def error_costs(matches: Matches, classes: int) -> dict[str, float | dict[str, dict[str, float]]]:
    """TIDE's main and special errors, each the AP50 without them less AP50; NaN if nothing is."""
    positives = np.bincount(matches.object_labels, minlength=classes)
    counted = ~matches.passed_over
    # as tidecv has it, of the best 100 detections an image, and 0 for a class that is found though
    # it has no objects
    base = _mean_ap(
        _Ranked(
            matches.labels[counted],
            matches.scores[counted],
            matches.kinds[counted] == RIGHT,
            positives,
        )
    )
    missed = matches.missed()
    errors = {}
    for kind, name in enumerate(KINDS):
        fixed = _mean_ap(_without(matches, kind, positives))
        of_kind = matches.kinds == kind
        count, passed = int((of_kind & counted).sum()), int((of_kind & ~counted).sum())
        if kind == MISSED:
            count = int(missed.sum())
        # dAP at least 0; ``passed_over``, how many more lie in crowds
        errors[name] = {"dAP": max(fixed - base, 0.0), "count": count, "passed_over": passed}
    plain = _without(matches, None, positives)
    lost = np.bincount(matches.object_labels[~matches.found()], minlength=classes)
    sure = plain._replace(scores=plain.right.astype(np.float64))
    return {
        "AP50": base,
        "errors": errors,
        "false_positives": _mean_ap(sure) - base,
        "false_negatives": _mean_ap(plain._replace(positives=positives - lost)) - base,
    }


def _without(matches: Matches, kind: int | None, positives: np.ndarray) -> _Ranked:
    """The detections with the errors of a kind put right, as tidecv does, wrong ones first."""
    # Of class and location the best detection about an object becomes right, unless that is found
    # already, and the others go; duplicates, background and both go; missed objects go.
    wrong = matches.kinds != RIGHT
    keep = wrong & ~matches.passed_over
    labels, right = matches.labels.copy(), ~wrong
    if kind == MISSED:
        lost = matches.object_labels[matches.missed()]
        positives = positives - np.bincount(lost, minlength=len(positives))
    elif kind is not None:
        keep &= matches.kinds != kind
    if kind in (CLASS, LOCATION):
        best = _best_about(matches)
        best = best[matches.kinds[best] == kind]
        keep[best] = right[best] = True
        labels[best] = matches.object_labels[matches.objects[best]]
    order = np.concatenate([np.flatnonzero(keep), np.flatnonzero(~wrong)])
    return _Ranked(labels[order], matches.scores[order], right[order], positives)


def _best_about(matches: Matches) -> np.ndarray:
    """The best error of class or location about each object that is not found."""
    found = matches.found()
    about = np.flatnonzero(np.isin(matches.kinds, (CLASS, LOCATION)))
    about = about[~found[matches.objects[about]]]
    about = about[np.argsort(-matches.scores[about], kind="stable")]
    _, first = np.unique(matches.objects[about], return_index=True)
    return np.asarray(about[first])


def _mean_ap(ranked: _Ranked) -> float:
    """The mean over classes that have an object or a detection."""
    order = np.lexsort((-ranked.scores, ranked.labels))  # stable
    ends = np.searchsorted(ranked.labels[order], np.arange(len(ranked.positives) + 1))
    values = []
    for label, objects in enumerate(ranked.positives.tolist()):
        right = ranked.right[order[ends[label] : ends[label + 1]]]
        if objects or len(right):
            values.append(_average_precision(right, objects))
    return float(np.mean(values)) if values else float("nan")


def _average_precision(right: np.ndarray, objects: int) -> float:
    """COCO's mean of 101 points: the best precision at each recall or more."""
    if not (objects and len(right)):
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / objects, _RECALLS)
    return float(envelope[at[at < len(envelope)]].sum() / len(_RECALLS))
