"""Shapes of annotation tools put together to objects: parts by their group, keypoints by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ops.rle import decode_rle, encode_rle
from ..geometry import mask_boxes
from ..items import RawObject
from ..polygons import Segmentation, segmentation_mask

_ROUND = 0.1  # pixels that a polygon may lie inside the ellipse it stands for
Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Shape:
    """One shape as a tool has it, in pixels of the image."""

    where: str  # what to call it in a defect, after the image
    label: str  # the name of its class; of a point, of its keypoint
    box: Box | None = None  # xyxy, of a rectangle; ``None`` for others
    polygons: list[np.ndarray] = field(default_factory=list)  # each (2 * K,) x, y, ...
    # COCO's, of a mask
    rle: Mapping[str, object] | None = None
    # places and visibilities by the names of keypoints
    points: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    # shapes of one group belong together; ``None`` for one that stands alone
    group: str | None = None
    crowd: bool = False
    difficult: bool = False

    @property
    def is_area(self) -> bool:
        """Whether it covers pixels, and is not points alone."""
        return self.box is not None or bool(self.polygons) or self.rle is not None


def raw_object(
    where: str,  # what to call it in a defect, after the image
    box: Sequence[float],
    label: int,  # 1..C-1
    # COCO's polygons or RLE
    segmentation: object = None,
    keypoints: np.ndarray | None = None,  # (K, 3): x, y, visibility
    *,
    crowd: bool = False,
    difficult: bool = False,
    problem: str | None = None,  # what is wrong with the keypoints
) -> RawObject:
    """An object with what an evaluator needs of it, unchecked; ``box`` is xyxy in pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    found = RawObject(where, (x1, y1, x2, y2), label, crowd, difficult, segmentation)
    area = (x2 - x1) * (y2 - y1)
    if isinstance(segmentation, list):
        area = sum(polygon_area(polygon) for polygon in segmentation)
    found.area_known = not isinstance(segmentation, Mapping)
    found.truth = {
        "category_id": label,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": area,
        "iscrowd": int(crowd),
        "difficult": int(difficult),
    }
    if keypoints is not None:
        found.keypoints, found.keypoint_problem = keypoints, problem
        found.truth["keypoints"] = keypoints.reshape(-1)
        found.truth["num_keypoints"] = int(np.count_nonzero(keypoints[:, 2]))
    return found


def merged_shapes(shapes: Sequence[Shape]) -> tuple[list[Shape], list[tuple[str, str, str]]]:
    """One image's shapes, one an object; and (where, problem, rule) of each that became none."""
    # Polygons and masks of one label in one group are the parts of one object; a rectangle of that
    # label and group is its box. Points of the group are its keypoints, if it is the only object.
    parts: dict[tuple[int | str | None, ...], list[Shape]] = {}
    points: dict[int | str | None, list[Shape]] = {}
    for number, shape in enumerate(shapes):
        alone = shape.group is None
        if shape.is_area:
            key = (number,) if alone else (shape.group, shape.label)
            parts.setdefault(key, []).append(shape)
        else:
            points.setdefault(number if alone else shape.group, []).append(shape)
    objects = [found for members in parts.values() for found in _merged(members)]
    lost: list[tuple[str, str, str]] = []
    for group, members in points.items():
        _attach(objects, group, members, lost)
    return objects, lost


def raw_objects(
    shapes: Sequence[Shape], labels: Mapping[str, int], keypoint_names: Sequence[str] | None
) -> list[RawObject]:
    """The unchecked objects of :func:`merged_shapes`; without names no keypoints are wanted."""
    return [_object(shape, labels, keypoint_names) for shape in shapes]


def _merged(members: Sequence[Shape]) -> list[Shape]:
    """One shape of the parts of an object; rectangles that are several stay several."""
    boxes = [shape for shape in members if shape.box is not None]
    outlines = [shape for shape in members if shape.box is None]
    if not outlines or len(members) == 1:
        return list(members)
    first = outlines[0]
    whole = Shape(first.where, first.label, group=first.group)
    whole.polygons = [polygon for shape in outlines for polygon in shape.polygons]
    whole.crowd = any(shape.crowd for shape in members)
    whole.difficult = any(shape.difficult for shape in members)
    masks = [shape.rle for shape in outlines if shape.rle is not None]
    whole.rle = masks[0] if masks else None
    if len(masks) + bool(whole.polygons) > 1:
        whole.rle, whole.polygons = _united(masks, whole.polygons), []
    for shape in members:
        whole.points.update(shape.points)
    if len(boxes) == 1:
        whole.box, boxes = boxes[0].box, []
    return [*boxes, whole]


def _united(
    masks: Sequence[Mapping[str, object]], polygons: Sequence[np.ndarray]
) -> Mapping[str, object]:
    mask = decode_rle(masks[0])
    for other in masks[1:]:
        mask |= decode_rle(other)
    if polygons:
        height, width = mask.shape
        mask |= segmentation_mask(list(polygons), height, width)
    return encode_rle(mask)


def _attach(
    objects: list[Shape],
    group: int | str | None,
    members: Sequence[Shape],
    lost: list[tuple[str, str, str]],
) -> None:
    """Give the points of a group to its object, or say why they have none."""
    owners = [shape for shape in objects if group is not None and shape.group == group]
    if len(owners) == 1:
        for shape in members:
            owners[0].points.update(shape.points)
        return
    if not owners and any(len(shape.points) > 1 for shape in members):  # a skeleton
        for shape in members:
            shape.box = _around(shape.points.values())
            objects.append(shape)
        return
    for shape in members:
        problem = "a point without an object: expected a box or polygon of the same group"
        if len(owners) > 1:
            problem = f"a point of a group of {len(owners)} objects: expected one"
        lost.append((shape.where, problem, "keypoint dropped"))


def _around(points: Iterable[tuple[float, float, int]]) -> Box:
    places = [(x, y) for x, y, seen in points if seen] or [(0.0, 0.0)]
    (x1, y1), (x2, y2) = np.min(places, axis=0), np.max(places, axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def _object(
    shape: Shape, labels: Mapping[str, int], keypoint_names: Sequence[str] | None
) -> RawObject:
    segmentation: Segmentation | None = (
        shape.rle if shape.rle is not None else (shape.polygons or None)
    )
    box = shape.box or bounds(segmentation)
    keypoints = None
    if keypoint_names is not None:
        places = [shape.points.get(name, (0.0, 0.0, 0)) for name in keypoint_names]
        keypoints = np.array(places, np.float64).reshape(-1, 3)
        keypoints[keypoints[:, 2] == 0] = 0
    return raw_object(
        shape.where,
        box,
        labels[shape.label],
        segmentation,
        keypoints,
        crowd=shape.crowd,
        difficult=shape.difficult,
    )


def bounds(segmentation: Segmentation | None) -> Box:
    """The box around polygons or a mask, xyxy in pixels; without area where there is nothing."""
    if isinstance(segmentation, Mapping):
        x1, y1, x2, y2 = mask_boxes(decode_rle(segmentation)[None])[0]
    else:
        # polygons (2 * K,)
        points = np.concatenate([np.asarray(p).reshape(-1, 2) for p in segmentation or [[0, 0]]])
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def polygon_area(polygon: Sequence[float] | np.ndarray) -> float:
    """The area of a polygon (2 * K,) by the shoelace formula, in pixels squared, from 0."""
    x, y = np.asarray(polygon, np.float64).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def ellipse_polygon(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> np.ndarray:
    """A polygon (2 * K,) in pixels, nowhere further from the ellipse than a tenth of a pixel."""
    longest = max(*radii, 1.0)
    count = max(12, math.ceil(math.pi / math.acos(1 - min(_ROUND / longest, 1))))
    turn = np.linspace(0, 2 * math.pi, 4 * math.ceil(count / 4), endpoint=False)
    points = np.stack([radii[0] * np.cos(turn), radii[1] * np.sin(turn)], axis=1)
    # clockwise, as seen with y down
    polygon: np.ndarray = turned(points, degrees) + np.array(centre)
    return polygon.reshape(-1)


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """(K, 2) points x, y turned about the origin, clockwise as seen with y down."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = points.T
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)
