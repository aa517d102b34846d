"""What is checked of every image and object before training, and the rule for what fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..config.categories import BACKGROUND
from ..inputs.image_files import Size, file_sizes
from ..inputs.pixels import DepthError
from ..structures import Entry
from .polygons import segmentation_mask, segmentation_problem
from .sample import Defect, Target, select

# Boxes that pass the border by no more are rounding, and are clipped without a word.
_OUTSIDE = 1.0
Masks = bool | Literal["kept"]
"""Whether objects need an outline; ``"kept"``: those that have one keep it, and none is needed."""


@dataclass(slots=True)
class RawObject:
    """One annotated object before any check."""

    where: str  # what to call it in a defect, after the image
    box: Sequence[float]  # x1, y1, x2, y2 in pixels
    label: int  # 1..C-1
    # COCO's mark
    crowd: bool = False
    # VOC's mark
    difficult: bool = False
    # COCO polygons or RLE
    segmentation: object = None
    keypoints: np.ndarray | None = None  # (K, 3): x, y, visibility, zero where that is
    keypoint_problem: str | None = None  # what is wrong with some or all of them
    # the object in COCO's terms, for an evaluator; ``None`` if ``target`` is that
    truth: Entry | None = None
    area_known: bool = True  # whether its area is the file's


@dataclass(slots=True)
class Item:
    """One image that can be loaded, with the objects that passed."""

    path: Path
    image_id: int | str
    name: str
    size: tuple[int, int]  # (height, width) as it will be loaded
    target: Target  # boxes, labels, iscrowd, difficult, and perhaps keypoints
    upright: bool = True  # whether to follow the EXIF orientation
    # one an object (``None`` for one without, where they are ``"kept"``), or ``None`` without masks
    segmentations: list[object] | None = None
    # the same objects in COCO's terms, or ``None`` where ``target`` is that
    truth: list[Entry] | None = None
    proposals: np.ndarray | None = None  # (P, 4): float32 xyxy (see :func:`with_proposals`)
    needs_levels: Defect | None = (
        None  # what is wrong with its values as long as no levels are given
    )


def make_item(
    path: Path,
    image_id: int | str,
    name: str,
    annotated: tuple[int, int] | None,  # (height, width) that the annotation gives
    # as annotated, or what makes them of the (height, width) of the image, where annotations are in
    # fractions of it
    objects: Sequence[RawObject] | Callable[[tuple[int, int]], Sequence[RawObject]],
    defects: list[Defect],
    # whether each needs a segmentation; ``"kept"``: sound ones are kept, none needed
    masks: Masks = False,
    # those of an object that cannot be used are dropped; it stays as a box
    num_keypoints: int | None = None,
) -> Item | None:
    """Check one image and its objects; what fails goes to ``defects``, ``None`` for the image."""
    needs_levels = None
    try:
        try:
            sizes = file_sizes(path)
        except DepthError as error:
            sizes = file_sizes(path, levels="auto")
            needs_levels = Defect(name, str(error), "image dropped")
        size, follow = _annotated_size(sizes, annotated)
    except (OSError, ValueError) as error:
        defects.append(Defect(name, str(error), "image dropped"))
        return None
    found = objects(size) if callable(objects) else objects
    kept, boxes = _passing(found, size, name, defects, masks)
    target: Target = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array([o.label for o in kept], np.int32),
        "iscrowd": np.array([o.crowd for o in kept], np.uint8),
        "difficult": np.array([o.difficult for o in kept], np.uint8),
    }
    if num_keypoints is not None:
        target["keypoints"] = _keypoints(kept, num_keypoints, name, defects)
    segmentations = [o.segmentation for o in kept] if masks else None
    truth = [o.truth for o in kept if o.truth is not None]
    known = truth if len(truth) == len(kept) and truth else None
    item = Item(path, image_id, name, size, target, follow, segmentations, known)
    item.needs_levels = needs_levels
    return item


def _annotated_size(sizes: tuple[Size, Size], annotated: Size | None) -> tuple[Size, bool]:
    """(height, width) of an image as it is annotated, and whether that follows the EXIF turn."""
    stored, upright = sizes
    if annotated is None or annotated == upright:
        return upright, True
    if annotated != stored:
        raise ValueError(
            f"the image is {upright[1]}x{upright[0]}, its annotation says "
            f"{annotated[1]}x{annotated[0]}"
        )
    return stored, False


def drop_below_a_pixel(items: Sequence[Item | None], where: Path, defects: list[Defect]) -> None:
    """Drop, in place, a dataset's objects if all are smaller than a pixel: those are no pixels."""
    found = [item for item in items if item is not None and len(item.target["boxes"])]
    if not found:
        return
    boxes = np.concatenate([item.target["boxes"] for item in found])
    if ((boxes[:, 2:] - boxes[:, :2]) >= 1).any():
        return
    kind = "fractions of the image" if boxes.max() <= 1 else "another unit"
    problem = (
        f"all {len(boxes)} boxes are smaller than a pixel, such as {_shown(tuple(boxes[0]))}: "
        f"expected pixels, got {kind}"
    )
    defects.append(Defect(str(where), problem, "objects dropped"))
    for item in found:
        item.target = select(item.target, np.zeros(len(item.target["boxes"]), bool))
        item.truth = None if item.truth is None else []
        item.segmentations = None if item.segmentations is None else []


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of labels 1..C-1 with the background in front; ValueError if one comes up twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"two classes have the same name: {', '.join(twice)}")
    return (BACKGROUND, *names)


def _passing(
    objects: Sequence[RawObject],
    size: tuple[int, int],
    name: str,
    defects: list[Defect],
    masks: Masks,
) -> tuple[list[RawObject], list[tuple[float, ...]]]:
    """The objects that can be used, and their boxes cut to the image."""
    height, width = size
    kept: list[RawObject] = []
    boxes: list[tuple[float, ...]] = []
    seen: set[tuple[tuple[float, ...], int, bool]] = set()
    for found in objects:
        box = tuple(float(v) for v in found.box)
        where = f"{name}, {found.where}"
        problem = _problem(box, width, height)
        if problem is None and masks == "kept":
            _keep_sound(found, size, where, defects)
        elif problem is None and masks:
            problem = _mask_problem(found, size)
        if problem is None and (box, found.label, found.crowd) in seen:
            problem = f"box {_shown(box)} comes up twice"
        if problem is not None:
            defects.append(Defect(where, problem, "object dropped"))
            continue
        seen.add((box, found.label, found.crowd))
        x1, y1, x2, y2 = box
        cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if x1 < -_OUTSIDE or y1 < -_OUTSIDE or x2 > width + _OUTSIDE or y2 > height + _OUTSIDE:
            problem = f"box {_shown(box)} passes the border of the image of {width}x{height}"
            defects.append(Defect(where, problem, "box clipped"))
            _clip_truth(found, cut)
        boxes.append(cut)
        kept.append(found)
    return kept, boxes


def _clip_truth(found: RawObject, cut: tuple[float, ...]) -> None:
    """Measure against the box that is trained on."""
    if found.truth is not None:
        width, height = cut[2] - cut[0], cut[3] - cut[1]
        found.truth["bbox"] = [cut[0], cut[1], width, height]
        if found.segmentation is None:
            found.truth["area"] = min(found.truth["area"], width * height)


def _problem(box: tuple[float, ...], width: int, height: int) -> str | None:
    x1, y1, x2, y2 = box
    if not np.isfinite(box).all():
        return f"box {_shown(box)} is not finite"
    if x2 <= x1 or y2 <= y1:
        return f"box {_shown(box)} has no area"
    # In float32, as training sees it: a sliver may vanish there.
    clipped = np.clip(np.array(box, np.float32), 0, np.array([width, height] * 2, np.float32))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return f"box {_shown(box)} lies outside the image of {width}x{height}"
    return None


def _mask_problem(found: RawObject, size: tuple[int, int]) -> str | None:
    """What is wrong with a segmentation; what is sound goes to the ground truth too."""
    problem = segmentation_problem(found.segmentation, *size)
    if problem is None and found.truth is not None:
        found.truth["segmentation"] = found.segmentation
        if not found.area_known:
            mask = segmentation_mask(found.segmentation, *size)
            found.truth["area"] = float(np.count_nonzero(mask))
    return problem


def _keep_sound(found: RawObject, size: tuple[int, int], where: str, defects: list[Defect]) -> None:
    """Drop an outline that cannot be used; no outline is fine."""
    if found.segmentation is None:
        return
    problem = _mask_problem(found, size)
    if problem is not None:
        defects.append(Defect(where, problem, "outline dropped"))
        found.segmentation = None


def _keypoints(
    objects: Sequence[RawObject], count: int, name: str, defects: list[Defect]
) -> np.ndarray:
    """(G, K, 3) float32."""
    found = np.zeros((len(objects), count, 3), np.float32)
    for row, item in zip(found, objects, strict=True):
        if item.keypoints is not None:
            row[:] = item.keypoints
        if item.keypoint_problem is not None:
            where = f"{name}, {item.where}"
            defects.append(Defect(where, item.keypoint_problem, "keypoints dropped"))
    return found


def _shown(box: tuple[float, ...]) -> str:
    return f"({', '.join(f'{v:g}' for v in box)})"
