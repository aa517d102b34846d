"""Annotations and detections as faster-coco-eval is given them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..structures import Entry
from .collect import Collected


def entries_of(collected: Collected, kind: str) -> tuple[list[Entry], list[Entry]]:
    """Ground truth and detections as the evaluator is given them, for ``"bbox"`` or ``"segm"``."""
    if kind == "bbox":
        return _boxes_only(collected.truth), _boxes_only(collected.found)
    masks = [_json_segmentation(e) for e in collected.truth if "segmentation" in e]
    # without their box, so that areas are those of the mask
    return masks, [{k: v for k, v in e.items() if k != "bbox"} for e in collected.found]


def _boxes_only(entries: list[Entry]) -> list[Entry]:
    others = {"segmentation", "keypoints", "keypoints_scores"}
    return [{k: v for k, v in entry.items() if k not in others} for entry in entries]


def keypoint_entry(entry: Entry) -> Entry:
    """An annotation with its keypoints, in any form, as a list, and without a mask."""
    points = np.asarray(entry["keypoints"], np.float64).tolist()
    return {**{k: v for k, v in entry.items() if k != "segmentation"}, "keypoints": points}


def _json_segmentation(entry: Entry) -> Entry:
    """With polygons as lists, and those of fewer than three points left out."""
    segmentation = entry["segmentation"]
    if not isinstance(segmentation, Mapping):
        polygons = [np.asarray(p, np.float64).reshape(-1).tolist() for p in segmentation]
        segmentation = [p for p in polygons if len(p) >= 6]
    return {**entry, "segmentation": segmentation}
