"""One line of a YOLO label file: a class, and a box, an outline or keypoints in fractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..fields import number, shown, whole
from ..items import RawObject
from .shapes import bounds, raw_object

_SLACK = 0.01  # that a coordinate may pass 0 or 1 by, as Ultralytics allows
_PIXELS = 2.0  # what is larger is no fraction that was rounded
_DECIMALS = 6  # of a pixel: what a fraction of twelve digits gives back


class PoseKind(NamedTuple):
    """The keypoints of every object, as ``kpt_shape`` gives them."""

    names: tuple[str, ...]  # (K,): one a keypoint
    dims: int  # numbers of each in a line: 2, or 3 with a visibility


class Row(NamedTuple):
    """One object in fractions of its image."""

    where: str  # what to call it in a defect
    label: int  # 1..C-1
    # x, y, width, height of a box and perhaps keypoints; or an outline, x, y, ...
    values: np.ndarray
    outline: bool  # whether ``values`` are one


def read_row(line: str, where: str, classes: int, pose: PoseKind | None) -> Row | str:
    """The object of a line that is not empty; or what is wrong with it."""
    head, *words = line.split()
    label = whole(head)
    if label is None:
        return f"class {shown(head)}: expected a whole number"
    if not 0 <= label < classes:
        return f"class {label} is not among the {classes} classes, 0 to {classes - 1}"
    read = [number(word) for word in words]
    if None in read:
        return f"{shown(words[read.index(None)])}: expected numbers with blanks between them"
    values = np.array(read, np.float64)
    outline = pose is None and len(values) >= 6
    problem = _count_problem(len(values), pose) or _range_problem(values, pose)
    return problem or Row(where, label + 1, values, outline)


def _count_problem(count: int, pose: PoseKind | None) -> str | None:
    if pose is not None:
        expected = 4 + len(pose.names) * pose.dims
        if count not in (4, expected):
            return f"{count} numbers behind the class: expected {expected}, a box and its keypoints"
        return None
    if count == 4 or (count >= 6 and count % 2 == 0):
        return None
    told = " (a sixth column, a score, is of predictions)" if count == 5 else ""
    return (
        f"{count} numbers behind the class: expected x, y, width, height, or at least three pairs "
        f"x, y{told}"
    )


def _range_problem(values: np.ndarray, pose: PoseKind | None) -> str | None:
    inside = values
    if pose is not None and len(values) > 4:
        inside = np.concatenate([values[:4], values[4:].reshape(-1, pose.dims)[:, :2].reshape(-1)])
    worst = float(inside[np.abs(inside - 0.5).argmax()])
    if -_SLACK <= worst <= 1 + _SLACK:
        return None
    text = f"{worst:g} lies outside 0 to 1, which are fractions of the image"
    if abs(worst) > _PIXELS:
        return f"{text}: these look like pixels, divide them by its width and height"
    return text


def row_object(row: Row, size: tuple[int, int], pose: PoseKind | None, wanted: bool) -> RawObject:
    """An unchecked object in pixels of an image of ``size`` (height, width)."""
    scale = np.array([size[1], size[0]], np.float64)
    if row.outline:
        polygon = np.round(row.values.reshape(-1, 2) * scale, _DECIMALS).reshape(-1)
        return raw_object(row.where, bounds([polygon]), row.label, [polygon])
    centre, sides = row.values[:2], row.values[2:4]
    corners = np.stack([centre - sides / 2, centre + sides / 2]) * scale
    box = np.round(corners, _DECIMALS).reshape(-1).tolist()
    if pose is None or not wanted:
        return raw_object(row.where, box, row.label)
    return raw_object(row.where, box, row.label, None, *_keypoints(row.values[4:], scale, pose))


def _keypoints(
    values: Sequence[float] | np.ndarray, scale: np.ndarray, pose: PoseKind
) -> tuple[np.ndarray]:
    points = np.zeros((len(pose.names), 3))
    if len(values):
        rows = np.asarray(values).reshape(-1, pose.dims)
        points[:, :2] = np.round(rows[:, :2] * scale, _DECIMALS)
        # Two numbers alone: Ultralytics takes a place of zero for none.
        points[:, 2] = rows[:, 2] if pose.dims == 3 else 2 * (rows[:, :2] != 0).any(axis=1)
        points[~np.isin(points[:, 2], (1, 2))] = 0
    return (points,)
