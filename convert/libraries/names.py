"""Names of a checkpoint's classes and keypoints: what its file says, no guess by number."""

from __future__ import annotations

from mlx_rcnn.config.categories import (
    BACKGROUND,
    COCO,
    COCO_KEYPOINTS,
    COCO_SKELETON,
    coco_names,
)

from .architecture import Hints, Recognised


def with_names(found: Recognised, hints: Hints) -> Recognised:
    """What was recognised, with the names of classes and keypoints that its file tells."""
    count = found.detector.get("num_classes")
    if not isinstance(count, int):  # a proposal network finds objects of any class
        return found
    coco, listed = coco_names(count), hints.class_names
    points = found.detector.get("num_keypoints")
    persons = points in (None, len(COCO_KEYPOINTS))
    fields: dict[str, object] = {}
    note = found.note
    if listed and len(listed) == count - 1:
        fields["class_names"] = (BACKGROUND, *listed)
    elif hints.coco and coco is not None and persons:
        fields["class_names"] = coco
        if points is not None:
            fields |= {"keypoint_names": COCO_KEYPOINTS, "keypoint_skeleton": COCO_SKELETON}
    elif listed:
        note += f"; the {len(listed)} class names in the file are not of these classes"
    # their number might be COCO's and nothing says so
    elif may_be_coco(found) and "class_names" not in hints.settings:
        note += (
            f"; class names are unknown: give class_names={COCO!r} if they are COCO's "
            f"(--set class_names={COCO})"
        )
    return found._replace(detector={**found.detector, **fields}, note=note)


def may_be_coco(found: Recognised) -> bool:
    """Whether the numbers of classes and keypoints are those of models trained on COCO."""
    points, classes = (found.detector.get(k) for k in ("num_keypoints", "num_classes"))
    if not isinstance(classes, int) or coco_names(classes) is None:
        return False
    return classes > 2 if points is None else points == len(COCO_KEYPOINTS)
