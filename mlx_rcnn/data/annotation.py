"""One COCO annotation: read field by field to an object, or to what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..structures import Entry
from .fields import Fields, Notes, mark, number, shown, whole
from .items import Masks, RawObject
from .keypoints import read_keypoints


def read_annotation(
    annotation: Fields,
    label_of: Mapping[int, int],
    notes: Notes,
    masks: Masks,
    num_keypoints: int | None,
) -> RawObject | str:
    """An object of a COCO file, not yet checked against its image; or what is wrong with it."""
    where = place(annotation)
    category = whole(annotation.get("category_id"))
    label = None if category is None else label_of.get(category)
    crowd, difficult = mark(annotation.get("iscrowd")), mark(annotation.get("difficult"))
    box = _box(annotation.get("bbox"))
    if label is None:
        return f"category id {shown(annotation.get('category_id'))} is not in categories"
    if isinstance(box, str):
        return box
    if crowd is None:
        return f"iscrowd {shown(annotation.get('iscrowd'))}: expected 0 or 1"
    _note_types(annotation, notes, where)
    area = number(annotation.get("area"))
    if area is not None and area < 0:
        area = None
    if area is None and "area" in annotation:
        notes.add("area is no number from 0", "area of the mask or box taken", where)
    x, y, width, height = box
    found = RawObject(where, (x, y, x + width, y + height), label, crowd, bool(difficult))
    found.truth = {
        "category_id": label,
        "bbox": box,
        "area": width * height if area is None else area,
        "iscrowd": int(crowd),
        "difficult": int(bool(difficult)),
    }
    found.area_known = area is not None
    if masks:
        found.segmentation = compact(annotation.get("segmentation"))
    if num_keypoints is not None:
        _add_keypoints(found, found.truth, annotation, num_keypoints)
    return found


def _note_types(annotation: Fields, notes: Notes, where: str) -> None:
    if not isinstance(annotation.get("category_id"), int):
        notes.add("category_id is not a whole number of JSON", "read as one", where)
    if isinstance(annotation.get("iscrowd"), str):
        notes.add("iscrowd is text", "read as 0 or 1", where)
    if any(isinstance(v, str) for v in annotation["bbox"]):
        notes.add("bbox holds text", "read as numbers", where)


def _add_keypoints(found: RawObject, truth: Entry, annotation: Fields, count: int) -> None:
    points, problem = read_keypoints(annotation.get("keypoints"), count)
    found.keypoints, found.keypoint_problem = points, problem
    visible = int(np.count_nonzero(points[:, 2]))
    given = whole(annotation.get("num_keypoints"))
    truth["keypoints"] = points.reshape(-1)
    # An evaluator passes over objects with a count of 0.
    truth["num_keypoints"] = given if given is not None and problem is None else visible


def place(annotation: Fields) -> str:
    """What to call an annotation in a defect: ``annotation``, with its id if it has one."""
    return f"annotation {annotation.get('id', '')}".strip()


def _box(value: object) -> list[float] | str:
    """x, y, width, height, or what is wrong."""
    if not isinstance(value, list) or len(value) != 4:
        return f"bbox {shown(value)}: expected four numbers"
    numbers = [number(v) for v in value]
    for given, read in zip(value, numbers, strict=True):
        if read is None:
            return f"bbox {shown(value)}: expected four numbers, got {shown(given)}"
    return [float(v) for v in numbers if v is not None]


def compact(segmentation: object) -> object:
    """Polygons as float64 arrays, an eighth of the memory of lists; anything else as it is."""
    if not isinstance(segmentation, list):
        return segmentation or None  # ``None`` for nothing
    try:
        polygons = [np.asarray(polygon, np.float64) for polygon in segmentation]
    except (TypeError, ValueError, OverflowError):
        return segmentation
    if not all(polygon.ndim == 1 for polygon in polygons):
        return segmentation
    return polygons or None
