"""Which class is taken for which: the confusion matrix, background included."""

from __future__ import annotations

import numpy as np

from .matches import IOU, RIGHT, Matches


def confusion_matrix(matches: Matches, classes: int, score_thresh: float) -> np.ndarray:
    """(C, C) int: objects of the row's label found as the column's, at a score; 0 is background."""
    # Detections of at least this score, best first, take an object of their class at IoU 0.5 or
    # more, as for AP, so that the diagonal is what precision and recall count.
    shown = matches.scores >= score_thresh
    right = shown & (matches.kinds == RIGHT)
    found_as = np.zeros(len(matches.object_labels), int)
    found_as[matches.objects[right]] = matches.labels[right]
    table = np.zeros((classes, classes), np.int64)
    # detections within a crowd of their class are left out
    left = shown & ~right & ~matches.passed_over
    for number, rows, objects in _images(matches):
        iou = matches.overlaps.get(number)
        free = found_as[objects] == 0
        # Those that are left, best first, take the object of another class that they overlap most
        # and that is left, at the same IoU. What is left then is background: found where nothing
        # is, or not found.
        for place in np.flatnonzero(left[rows]).tolist():
            label = int(matches.labels[rows.start + place])
            best = int((iou[place] * free).argmax()) if iou is not None else -1
            if iou is None or not free[best] or iou[place, best] < IOU:
                table[0, label] += 1
                continue
            free[best] = False
            found_as[objects.start + best] = label
    np.add.at(table, (matches.object_labels, found_as), 1)
    return table


def _images(matches: Matches) -> list[tuple[int, slice, slice]]:
    """Each image that has detections: its number, and where these and its objects stand."""
    numbers = np.unique(matches.images)
    found = np.searchsorted(matches.images, [numbers, numbers + 1])
    there = np.searchsorted(matches.object_images, [numbers, numbers + 1])
    return [
        (n, slice(a, b), slice(c, d))
        for n, a, b, c, d in zip(numbers.tolist(), *found.tolist(), *there.tolist(), strict=True)
    ]
