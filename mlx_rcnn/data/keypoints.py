"""Keypoints in COCO's terms: what a category says of them, what an annotation holds, mirror images.

A keypoint is x, y in pixels of the image and a visibility: 0 not annotated, 1 hidden, 2 seen. The
numbers are kept as they stand in the file, as torchvision does (detectron2 adds half a pixel, to
take a whole number for the centre of a pixel).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .sample import Defect

_VISIBILITIES = (0, 1, 2)
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


class KeypointKind(NamedTuple):
    """The keypoints that every object of a data set has.

    Args:
        names (K,): one a keypoint.
        skeleton: pairs of keypoints to join when drawn, counted from 0; ``None`` if not said.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] | None


def category_keypoints(
    categories: Sequence[Mapping[str, Any]], path: Path, defects: list[Defect]
) -> KeypointKind | None:
    """What the categories of a COCO file say of keypoints.

    Args:
        categories: those without ``keypoints`` are objects that have none.
        path: of the file, for messages.
        defects: edges of a skeleton that name no keypoint are added here.

    Returns:
        The kind, ``None`` if no category has keypoints.

    Raises:
        ValueError: names that are no names, or categories that differ in their keypoints.
    """
    having = [category for category in categories if category.get("keypoints")]
    if not having:
        return None
    first, *others = having
    names = first["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: category {first.get('name')!r}: expected keypoints as names")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path}: two keypoints have the same name: {', '.join(twice)}")
    for other in others:
        if other["keypoints"] != names:
            raise ValueError(
                f"{path}: categories differ in their keypoints: {_said(first)}, {_said(other)}; "
                "expected the same names of all that have any"
            )
    edges = []
    for edge in first.get("skeleton") or ():
        if _is_edge(edge, len(names)):
            edges.append((edge[0] - 1, edge[1] - 1))
        else:
            problem = f"skeleton holds {edge}, expected pairs of 1 to {len(names)}"
            defects.append(Defect(str(path), problem, "edge dropped"))
    return KeypointKind(tuple(names), tuple(edges) or None)


def read_keypoints(values: Any, count: int) -> tuple[np.ndarray, str | None]:
    """The keypoints of one annotation.

    Args:
        values: x, y, visibility of each in one list of 3 * K numbers, or ``None``.
        count: K.

    Returns:
        (K, 3) float64, zero where the visibility is, and all zero if something is wrong.
        What is wrong, or ``None``.
    """
    none = np.zeros((count, 3))
    if values is None:
        return none, None
    try:
        points = np.asarray(values)
    except ValueError:  # lists in it, of several lengths
        points = np.zeros(0, object)
    if points.dtype.kind not in "iuf" or points.shape != (3 * count,):
        got = f"{len(values)}" if isinstance(values, list) else type(values).__name__
        return none, f"keypoints: expected {3 * count} numbers, got {got}"
    points = points.astype(np.float64).reshape(count, 3)
    if not np.isfinite(points).all():
        return none, "keypoints: a number is not finite"
    odd = points[~np.isin(points[:, 2], _VISIBILITIES), 2]
    if odd.size:
        return none, f"keypoints: visibility {odd[0]:g}, expected 0, 1 or 2"
    return np.where(points[:, 2:] > 0, points, 0.0), None


def mirror_partners(names: Sequence[str]) -> list[int]:
    """What each keypoint becomes in a mirror: ``left_eye`` the ``right_eye``.

    The words left and right, or the letters l and r, change places in a name (``left_eye``,
    ``Eye-Left``, ``leftEye``, ``L_Eye``); a keypoint whose counterpart there is not stays itself.

    Args:
        names (K,): of the keypoints.

    Returns:
        K indices; applied twice they give 0, 1, ..., K - 1.
    """
    # leftEye as left_Eye: then every word has an end.
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names]
    partners = [words.index(m) if (m := _mirrored(w)) in words else i for i, w in enumerate(words)]
    return [j if partners[j] == i else i for i, j in enumerate(partners)]


def _mirrored(name: str) -> str:
    # Not \b, which takes an underscore for a part of the word.
    return re.sub(r"(?<![a-z])(left|right|l|r)(?![a-z])", lambda found: _SIDES[found[0]], name)


def _is_edge(edge: Any, count: int) -> bool:
    return (
        isinstance(edge, list)
        and len(edge) == 2
        and all(isinstance(end, int) and 1 <= end <= count for end in edge)
    )


def _said(category: Mapping[str, Any]) -> str:
    names = category["keypoints"]
    shown = f"{names[0]}, ..." if isinstance(names, list) and names else names
    count = len(names) if isinstance(names, list) else "no list"
    return f"{category.get('name')!r} has {count} ({shown})"
